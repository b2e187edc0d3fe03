#!/bin/sh
# Runs the whole test suite on the static files of targets, each with an emulated processor on this
# machine's kernel:
#
#     tests/embedded/emulate.sh TARGET...
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/embedded/common.sh"

# qemu hands no SO_MARK on to the kernel: ENOPROTOOPT.
skipped='a_default_route_by_a_mark a_mark_keeps_the_tunnel_out_of_the_tunnel
    other_packets_for_the_peers_address_pass outer_packets_carry_the_mark
    the_ends_of_the_ranges_are_good'

cd "$root"
for target; do
    runner=qemu-$(processor_of "$target")-static
    for tests in "$static/$target/unit-tests/"*; do
        "$runner" "$tests" --quiet
    done
    paths=' -O'
    case $target in
    # qemu does not swap the bytes of the control messages UDP_SEGMENT and UDP_GRO, without a word.
    # The other path is tested in a whole machine, by boot.rs.
    mips-*) paths='-O' ;;
    esac
    printf '%s\n' "$paths" | tr ' ' '\n' | while read -r flags; do
        echo "== $target $flags"
        # shellcheck disable=SC2046 # one word for each test
        JTUNNEL_BIN=$static/$target JTUNNEL_RUNNER=$runner JTUNNEL_FLAGS=$flags \
            cargo test --quiet --locked -p jtunnel-tests -- --include-ignored --test-threads=4 \
            $(printf -- '--skip %s ' $skipped)
    done
done
