#!/bin/sh
# Builds the tiny test guest: guests/tiny/build.sh OUTPUT.qcow2 (needs the packages of ./packages; not root).
set -eu
exec python3 "$(dirname "$0")/build.py" "$@"
