#!/usr/bin/env bash
# Builds the wheel of zeroc-ice 3.6.5, which omero-py needs: PyPI has its sources only, and they do not compile on Python 3.11
# and newer. The sources stay as they are; the two headers beside this script stand in for what Python no longer has.
#
# Usage: build.sh PYTHON FOLDER. Prints the path of the wheel in FOLDER; with one there for this Python it is done at once.
set -eu
python=$1
mkdir -p "$2"
wheels=$(cd "$2" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
version=3.6.5
setuptools='setuptools>=70,<81'  # for setup.py of 2019; newer ones may drop what it uses

tag=$("$python" -c 'import sys; print(f"cp{sys.version_info[0]}{sys.version_info[1]}")')
built() { find "$wheels" -maxdepth 1 -name "zeroc_ice-$version-$tag-*.whl" | head -n 1; }
if [ -n "$(built)" ]; then
    built
    exit 0
fi

needed=(g++ libssl-dev libbz2-dev)
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$headers/Python.h" ] || needed+=(python3-dev)
"$here/../debian-packages.sh" "${needed[@]}" >&2
jobs=$("$python" -c 'import os; print(len(os.sched_getaffinity(0)))')
echo "omero: compiling zeroc-ice $version for $tag, once; 220 files, $jobs at a time, about $((4 / jobs + 1)) minutes" >&2
began=$SECONDS
place=$(mktemp -d -p "$wheels" .building.XXXXXX)  # on the same disk, so that the last step is one rename
trap 'rm -rf "$place"' EXIT

# An environment of its own: this build must neither see nor change the project's. It compiles several files at a time, which
# distutils alone would not.
"$python" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet "$setuptools" wheel pybind11
cat >"$("$place/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sitecustomize.py" <<PYTHON
from pybind11.setup_helpers import ParallelCompile
ParallelCompile(default=$jobs).install()
PYTHON

# -O1 without debug information: half the time, a tenth of the size. setuptools reads one or the other variable, by its age.
CXXFLAGS="-O1 -g0 -I$here/include -include $here/include/newer_python.h"
CFLAGS=$CXXFLAGS
export CXXFLAGS CFLAGS
if ! "$place/venv/bin/python" -m pip wheel --no-build-isolation --no-deps --no-binary zeroc-ice \
    --wheel-dir "$place/wheels" "zeroc-ice==$version" >"$place/log" 2>&1; then
    tail -n 40 "$place/log" >&2
    echo "omero: zeroc-ice did not compile. A prebuilt wheel does as well: put one for $tag into $wheels (see docs/how-to/omero-install.md)" >&2
    exit 1
fi
mv "$place"/wheels/zeroc_ice-*.whl "$wheels/"  # whole or not at all: another run may be looking
echo "omero: compiled in $((SECONDS - began)) s, kept as $(built)" >&2
built
