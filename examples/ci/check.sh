#!/bin/sh
# check.sh BASE HOST...: checks the documents of this repository, and shows what they would do to hosts that are as BASE says.
set -eu
base=$1
shift
holdfast validate .
for host in "$@"; do
    echo "## $host"
    status=0
    holdfast plan --git . --from "$base" --to HEAD --host "$host" || status=$?
    # 2 says that there is something to do.
    [ "$status" -eq 0 ] || [ "$status" -eq 2 ] || exit "$status"
done
