#!/usr/bin/env bash
# `make omero`: puts omero-py, ezomero and Bio-Formats into the project's environment.
set -eu
venv=$1
here=$(dirname "$0")
began=$SECONDS
echo "omero: installing the OMERO half. omero-py needs zeroc-ice, which has no wheel on PyPI: ours is kept in ${LADING_WHEELS:=.cache/wheels}"
wheel=$("$here/zeroc-ice/build.sh" "$venv/bin/python" "$LADING_WHEELS")
"$venv/bin/python" -m pip install --quiet "$wheel" --editable '.[dev,dev-omero]'
"$venv/bin/python" -c 'import omero.clients'
touch "$venv/.omero"
echo "omero: ready after $((SECONDS - began)) s; try: $venv/bin/omero transport -h"
