#!/bin/sh
# Builds the Debian test guest: build.sh OUTPUT.qcow2 [PACKAGE…]. Needs the Debian packages of the file `packages`, and root.
set -eu
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$(cd "$(dirname "$0")/../.." && pwd) exec python3 -m guests.debian.build "$@"
