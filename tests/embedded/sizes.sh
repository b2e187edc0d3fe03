#!/bin/sh
# Prints the sizes of the static files as a table, in bytes.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/embedded/common.sh"

echo '| target | jtunneld | jtunnel-client |'
echo '| --- | ---: | ---: |'
for target in $targets; do
    sizes=$(cd "$static/$target" && stat -c %s jtunneld jtunnel-client)
    # shellcheck disable=SC2086 # two words
    printf '| %s | %s | %s |\n' "$target" $sizes
done
