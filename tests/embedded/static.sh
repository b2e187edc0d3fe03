#!/bin/sh
# Builds one static, stripped file of each program for a target, or for several, and the unit tests
# as well with -t:
#
#     tests/embedded/static.sh [-t] [TARGET...]
#
# They come to target/static/TARGET/, and a table of their sizes is printed. The processors without
# a ready-made standard library (MIPS) are the reason for the tools: Debian's rustc comes with the
# library's source, and zig links with musl for each of them.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/embedded/common.sh"

tests=
if [ "${1:-}" = -t ]; then
    tests=yes
    shift
fi
# shellcheck disable=SC2086 # one word for each target
[ $# -gt 0 ] || set -- $targets

# Compiler and library source must be of one version, whatever else is installed.
export RUSTC=/usr/bin/rustc CARGO=/usr/bin/cargo
PATH=$(zig_tools)/bin:/usr/bin:/bin
export PATH
# A compiler cache takes the environment for a part of the input: it names no directory of ours.
unset CARGO_TARGET_DIR
# Building the standard library along is not stable yet; our own code needs nothing that isn't.
export RUSTC_BOOTSTRAP=1
# link-self-contained: rustc looks for a musl of its own; zig has one.
flags="-C target-feature=+crt-static -C relocation-model=static -C link-self-contained=no"
# Those of .cargo/config.toml, which these replace.
flags="$flags --cfg chacha20_backend=\"soft\" --cfg poly1305_backend=\"soft\""
flags="$flags --cfg curve25519_dalek_backend=\"serial\""
# A panic is a bug and ends the program in any case; its message costs 60 KB, and what unwinding
# would read 25 KB (the rest of that is left out by common/link).
lean="-Zunstable-options -Cpanic=immediate-abort -Cforce-unwind-tables=no"

# build DIRECTORY OPTION...: for the target.
build() {
    directory=$1
    shift
    cargo-zigbuild zigbuild --locked --manifest-path "$root/Cargo.toml" --target-dir "$directory" \
        --target "$target" "$@"
}

for target; do
    RUSTFLAGS="$flags $lean" build "$static/build" --release -p jtunneld -p jtunnel-client \
        -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size
    mkdir -p "$static/$target"
    for program in jtunneld jtunnel-client; do
        # .pdr: a table for debuggers of MIPS, 70 KB that rustc leaves in.
        "$(strip_of "$target")" -s -R .pdr -R .comment \
            -o "$static/$target/$program" "$static/build/$target/release/$program"
    done

    [ -n "$tests" ] || continue
    made=$static/build-tests/$target/measure/deps
    rm -rf "$made"/common-* "$made"/jtunnel*
    RUSTFLAGS=$flags build "$static/build-tests" --profile measure --tests \
        -p jtunnel-common -p jtunneld -p jtunnel-client -Zbuild-std=std,panic_unwind,test
    rm -rf "$static/$target/unit-tests"
    mkdir "$static/$target/unit-tests"
    for file in "$made"/common-* "$made"/jtunnel*; do
        case $file in
        *.*) ;;
        *) cp "$file" "$static/$target/unit-tests" ;;
        esac
    done
done

echo '| bytes | jtunneld | jtunnel-client |'
echo '| --- | ---: | ---: |'
for target; do
    sizes=$(cd "$static/$target" && stat -c %s jtunneld jtunnel-client)
    # shellcheck disable=SC2086 # two words
    printf '| %s | %s | %s |\n' "$target" $sizes
done
