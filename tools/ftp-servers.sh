#!/usr/bin/env bash
# Unpacks proftpd and vsftpd, for the tests of the FTPS transport, into .cache/ftp-servers. As installed packages the two conflict.
set -eu
cd "$(dirname "$0")/.."
[ -e .cache/ftp-servers/.ready ] && exit 0
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    echo "tools/ftp-servers.sh: needs apt-get and dpkg; the tests of FTPS are skipped" >&2
    exit 0
fi
mkdir -p .cache/ftp-servers
unpacking=$(mktemp -d .cache/ftp-servers.XXXXXX)
trap 'rm -rf "$unpacking"' EXIT
if ! (cd "$unpacking" && apt-get -o APT::Sandbox::User="$(id -un)" download -qq proftpd-core proftpd-mod-crypto vsftpd); then
    echo "tools/ftp-servers.sh: the packages cannot be had; the tests of FTPS are skipped" >&2
    exit 0
fi
for package in "$unpacking"/*.deb; do
    dpkg -x "$package" .cache/ftp-servers
done
touch .cache/ftp-servers/.ready
