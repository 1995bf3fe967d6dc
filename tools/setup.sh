#!/usr/bin/env bash
# Makes the virtual environment and installs the project into it, editable, with everything its tests need.
set -eu
python=$1 venv=$2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Lading needs Python 3.11 or newer; $python is $("$python" -V 2>&1). Try: make PYTHON=/path/to/python3.11 setup" >&2
    exit 1
}
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    "$(dirname "$0")/debian-packages.sh" python3-venv
fi
echo "setup: making $venv (once; about a minute)"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
"$venv/bin/python" -m pip install --quiet --editable '.[dev]'
touch "$venv/.ready"
echo "setup: done"
