#!/bin/sh
# Packs what one carries to a router, for targets that static.sh has built, or for all:
#
#     tests/embedded/archive.sh [TARGET...]
#
# The archives come to target/static/, each with both programs, the manuals as text, the examples
# and a page on how to go on, and beside them SHA256SUMS.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/embedded/common.sh"

# shellcheck disable=SC2086 # one word for each target
[ $# -gt 0 ] || set -- $targets
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
staged=$(mktemp -d)
trap 'rm -rf "$staged"' EXIT

cd "$static"
rm -f jtunnel-*.tar.gz SHA256SUMS
for target; do
    name=jtunnel-$version-$target
    mkdir "$staged/$name"
    install -m 755 "$target/jtunneld" "$target/jtunnel-client" "$staged/$name"
    for page in jtunnel.7 jtunneld.8 jtunnel-client.8; do
        # Letters are struck twice for bold, which a pager of busybox shows as it is.
        mandoc -T ascii "$root/man/$page" | sed "s/.$(printf '\b')//g" >"$staged/$name/$page.txt"
    done
    cp -R "$root/man/examples" "$root/LICENSE" "$staged/$name"
    cat >"$staged/$name/INSTALL" <<END
jtunnel $version for $target: static files that need no library.

1. Copy jtunneld or jtunnel-client, or both, to /usr/sbin, mode 755. The router needs /dev/net/tun
   (on OpenWrt the package kmod-tun) and ip(8); that of busybox will do.
2. Go on with step 2 of "Setting up two hosts" in jtunnel.7.txt. What the steps take from
   /usr/local/share/examples/jtunnel is in examples/ here.
3. "Small routers" there says what an upgrade of OpenWrt has to keep.
END
    # The same files make the same archive.
    tar -C "$staged" --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --mtime="@${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}" -cf - "$name" |
        gzip -9n >"$name.tar.gz"
done
sha256sum jtunnel-*.tar.gz >SHA256SUMS
cat SHA256SUMS
