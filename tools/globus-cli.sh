#!/usr/bin/env bash
# Installs the official globus command, for the slow tests of our stand-in, into an environment of its own: .cache/globus-cli.
# Apart from ours, because it pins what it needs.
set -eu
cd "$(dirname "$0")/.."
[ -e .cache/globus-cli/.ready ] && exit 0
"${PYTHON:-python3}" -m venv .cache/globus-cli
.cache/globus-cli/bin/pip install --quiet 'globus-cli>=3.43'
touch .cache/globus-cli/.ready
