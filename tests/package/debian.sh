#!/bin/sh
# Prints where a small Debian with systemd is, in the cache, and makes it first if it is not there.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/embedded/common.sh"

made=$cache/debian-1
exec 9>"$cache/lock"
flock 9
if [ ! -e "$made/complete" ]; then
    rm -rf "$made"
    mkdir "$made"
    debootstrap --variant=minbase \
        --include=dbus,iproute2,iputils-ping,man-db,nftables,systemd-sysv \
        bookworm "$made/root" http://deb.debian.org/debian >"$made/log" 2>&1 ||
        { tail "$made/log" >&2; exit 1; }
    : >"$made/complete"
fi
echo "$made/root"
