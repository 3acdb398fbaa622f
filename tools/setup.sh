#!/bin/sh
# setup.sh: what a machine needs before holdfast runs, is tested or is measured on it.
#
#   tools/setup.sh packages FILE…   Debian packages named in the files, through sudo where not root
#   tools/setup.sh python LOCK      .venv with exactly the Python packages of LOCK, and holdfast itself
#
# Both do nothing, quickly, when nothing has changed since the last time.
set -eu
cd "$(dirname "$0")/.."

packages() {
    wanted=$(sed 's/#.*//' "$@" | tr -s ' \n' '\n' | sort -u | sed '/^$/d')
    missing=
    if command -v dpkg-query >/dev/null; then
        for package in $wanted; do
            case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true) in
                *' installed') ;;
                *) missing="$missing $package" ;;
            esac
        done
    else
        echo "setup: this is no Debian; install the equivalents of these by hand, then run" >&2
        echo "setup: make again with SKIP_PACKAGES=1: $(echo $wanted)" >&2
        exit 1
    fi
    [ -n "$missing" ] || return 0
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "setup: as root, run: apt-get install --no-install-recommends$missing" >&2
            exit 1
        }
        as_root=sudo
    fi
    echo "setup: installing$missing"
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # both are lists of words
    if ! { $as_root apt-get update -q && $as_root apt-get install -y -q --no-install-recommends $missing; } >"$log" 2>&1
    then
        tail -n 20 "$log" >&2
        echo "setup: the packages could not be installed; what apt said stands above" >&2
        exit 1
    fi
    rm -f "$log"
}

python() {
    lock=$1
    stamp=.venv/.stamp
    now=$(cat "$lock" pyproject.toml tools/uv.lock "$0" | sha256sum)
    [ "$(cat $stamp 2>/dev/null || true)" != "$now" ] || return 0
    echo "setup: Python packages of $lock"
    if ! [ -x .tools/bin/uv ] || ! [ .tools/uv.lock -nt tools/uv.lock ]; then
        python3 -m venv --clear .tools
        .tools/bin/pip install --quiet --disable-pip-version-check --require-hashes -r tools/uv.lock
        cp tools/uv.lock .tools/uv.lock
    fi
    index=$(.tools/bin/pip config get global.index-url 2>/dev/null || true)
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}" UV_NO_PROGRESS=1
    [ -x .venv/bin/python ] || .tools/bin/uv venv --quiet --python "$(command -v python3)" .venv
    .tools/bin/uv pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes "$lock"
    .tools/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
    # Every command would compile it anew where Python is told to write no bytecode.
    .venv/bin/python -m compileall -q agent state tests
    echo "$now" >$stamp
}

what=$1
shift
"$what" "$@"
