#!/bin/sh
# Makes the Python environment of peer.py, once, with its one package from the Python package index.
# Prints the interpreter.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
target=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}")
tools=$target/independent-48.0.0

mkdir -p "$target"
exec 9>"$tools.lock"
flock 9
if [ ! -e "$tools/complete" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" -q install cryptography==48.0.0 >&2
    : >"$tools/complete"
fi
echo "$tools/bin/python"
