#!/bin/sh
# Makes a router to be booted, from Debian's kernel and busybox for its processor:
#
#     tests/embedded/guest.sh ARCHITECTURE DIRECTORY ETC
#
# DIRECTORY gets `kernel` and `initramfs`. ETC is copied over the router's /etc, so it brings
# rc.local and what that needs. The programs are the static ones of `make static`.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/embedded/common.sh"
architecture=$1 directory=$2 etc=$3

# The kernel's package, the modules of its network device, and the target of the programs.
network=virtio_net
case $architecture in
mips) target=mips-unknown-linux-musl kernel='' ;;
mipsel) target=mipsel-unknown-linux-musl kernel=linux-image-4kc-malta network=e1000 ;;
arm64) target=aarch64-unknown-linux-musl kernel=linux-image-cloud-arm64 network="virtio_mmio $network" ;;
amd64) target=x86_64-unknown-linux-musl kernel=linux-image-cloud-amd64 network="virtio_pci $network" ;;
*)
    echo "$0: no kernel for $architecture" >&2
    exit 100
    ;;
esac

# Debian's packages for another processor are unpacked in the cache.
fetch() (
    foreign_apt "$architecture"
    apt-get -qq update
    # The package of this name depends on the one of the newest version, which is the kernel.
    image=$(apt-cache depends "$kernel" | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -n 1)
    rm -rf "$unpacked"
    mkdir "$unpacked"
    cd "$unpacked"
    apt-get -qq download "$image" busybox-static
    for package in *.deb; do
        dpkg-deb -x "$package" .
    done
    rm -- *.deb
    depmod -b . "$(ls lib/modules)"
    # Where its own package would have put it.
    ln -s boot/vmlinu[xz]-* kernel
    ln -s bin/busybox busybox
    : >"$unpacked/complete"
)

if [ -n "$kernel" ]; then
    unpacked=$cache/$architecture
    exec 9>"$cache/lock"
    flock 9
    [ -e "$unpacked/complete" ] || fetch
    flock -u 9
else
    unpacked=$("$root/tests/embedded/kernel.sh")
fi

initramfs=$directory/root
rm -rf "$initramfs"
mkdir -p "$initramfs"
for name in bin dev etc lib/modules proc root run sbin sys tmp usr/bin usr/sbin var/log; do
    mkdir -p "$initramfs/$name"
done
ln -s ../run "$initramfs/var/run"
cp "$unpacked/kernel" "$directory/kernel"
cp "$unpacked/busybox" "$initramfs/bin/"
ln -s busybox "$initramfs/bin/sh"
cp "$static/$target/jtunneld" "$static/$target/jtunnel-client" "$initramfs/usr/sbin/"
cp -R "$etc/." "$initramfs/etc/"
cp "$root/tests/embedded/init" "$initramfs/init"
chmod 755 "$initramfs/init"

# Modules, in the order in which they are to be loaded.
: >"$initramfs/lib/modules/order"
if [ -n "$kernel" ]; then
    release=$(ls "$unpacked/lib/modules")
    modules=
    for module in $network tun; do
        modules="$modules
$(modprobe -d "$unpacked" -S "$release" --show-depends "$module")"
    done
    echo "$modules" | sed -n 's/^insmod //p' | awk '!seen[$1]++ { print $1 }' | while read -r file; do
        name=$(basename "${file%.xz}")
        case $file in
        *.xz) xz -dc "$file" >"$initramfs/lib/modules/$name" ;;
        *) cp "$file" "$initramfs/lib/modules/$name" ;;
        esac
        echo "$name" >>"$initramfs/lib/modules/order"
    done
fi

(cd "$initramfs" && find . | cpio --quiet -o -H newc) >"$directory/cpio"
gzip -9 <"$directory/cpio" >"$directory/initramfs"
rm "$directory/cpio"
