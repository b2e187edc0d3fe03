#!/bin/sh
# Makes a Debian package of what `make` has built:
#
#     tests/package/deb.sh
#
# It comes to target/debian/. What is in it is what `make install` puts under /usr, and the units;
# its table is in jtunneld/Cargo.toml.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/embedded/common.sh"

# cargo-deb, in the cache. Prints where.
cargo_deb() (
    tools=$cache/cargo-deb-3.8.0
    exec 9>"$cache/lock"
    flock 9
    [ -x "$tools/bin/cargo-deb" ] || cargo install --quiet --locked --root "$tools" cargo-deb@3.8.0 >&2
    echo "$tools/bin/cargo-deb"
)

cd "$root"
tool=$(cargo_deb)
made=target/debian
rm -rf "$made"
make -s install DESTDIR="$made/root" PREFIX=/usr
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
day=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
cat >"$made/changelog" <<E
jtunnel ($version-1) unstable; urgency=medium

  * See the log of the source.

 -- The jtunnel authors <jtunnel@example.org>  $(date -R -u -d "@$day")
E
# It says of each file that it is not one that it has built.
"$tool" deb --quiet -p jtunneld --no-build --no-strip --output "$made/"
lintian --tag-display-limit 0 --fail-on error "$made"/*.deb
