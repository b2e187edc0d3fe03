#!/bin/sh
# Compiles perf.c for the arm64 guest:
#
#     tests/embedded/perf.sh FILE
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/embedded/common.sh"

tools=$(zig_tools)
"$tools/bin/python-zig" cc -target aarch64-linux-musl -static -s -O2 -Wall -Wextra -Werror \
    -o "$1" "$root/tests/embedded/perf.c"
