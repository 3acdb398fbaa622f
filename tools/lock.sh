#!/bin/sh
# lock.sh: the exact Python packages, with their hashes, that the project is run and tested with.
set -eu
cd "$(dirname "$0")/.."
[ -x .tools/bin/uv ] || { python3 -m venv .tools && .tools/bin/pip install --quiet uv; }
compile() {
    .tools/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header "$@"
}
compile pyproject.toml -o requirements/runtime.lock
compile pyproject.toml --group dev -o requirements/dev.lock
echo "$(sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml)" | compile - -c requirements/dev.lock -o requirements/build.lock
echo "uv==$(.tools/bin/uv --version | cut -d' ' -f2)" | compile - -o tools/uv.lock
