#!/usr/bin/env bash
# Installs OpenStack Swift, for the slow tests of the S3 transport, into an environment of its own: .cache/swift.
# Apart from ours, because it pins what it needs.
set -eu
cd "$(dirname "$0")/.."
[ -e .cache/swift/.ready ] && exit 0
"${PYTHON:-python3}" -m venv .cache/swift
.cache/swift/bin/pip install --quiet 'swift==2.38.*'
touch .cache/swift/.ready
