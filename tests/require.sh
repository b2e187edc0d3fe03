#!/bin/sh
# Sees to it that this machine has what a job needs: installs what is missing from Debian's packages
# if it may, and names what is still missing.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")

usage() {
    echo "usage: tests/require.sh build|check|demo|bench|lint|static|emulate|boot|boot-be|size|archive|deb|deb-test|cache ..." >&2
    exit 100
}

# What a job needs, the machine's own abilities first.
needs() {
    case $1 in
    build) echo cargo cc make ;;
    check) echo root tun bird busybox conntrack ethtool faketime ip mandoc nft ping smcrouted strace tcpdump venv ;;
    demo) echo root tun bash busybox ip iperf3 nft ping sha256sum tcpdump timeout ;;
    bench) echo root tun ip ping chrt taskset ;;
    lint) echo cargo cargo-clippy cargo-fmt cc mandoc ;;
    static) echo cc std-source venv arm-linux-gnueabihf-strip \
        aarch64-linux-gnu-strip mips-linux-gnu-strip mipsel-linux-gnu-strip ;;
    emulate) echo qemu-aarch64-static qemu-arm-static qemu-mips-static qemu-mipsel-static qemu-x86_64-static ;;
    boot) echo root tun cpio depmod ip qemu-system-aarch64 qemu-system-mipsel qemu-system-x86_64 xz ;;
    boot-be) echo bc bison bzip2 cpio flex mips-linux-gnu-gcc qemu-system-mips ;;
    size) echo qemu-mipsel qemu-x86_64 ;;
    archive) echo git mandoc sha256sum ;;
    deb) echo dpkg-shlibdeps lintian ;;
    cache) echo sccache chrt ;;
    deb-test) echo root tun debootstrap ip nsenter ping systemd-nspawn ;;
    *) usage ;;
    esac
}

# The package of a command: mostly one of its name.
package() {
    case $1 in
    root | tun | cargo*) ;;
    bird) echo bird2 ;;
    *-gnueabihf-strip | *-gnu-strip) echo "binutils-${1%-strip}" ;;
    busybox) echo busybox-static ;;
    cc) echo gcc libc6-dev ;;
    depmod) echo kmod ;;
    dpkg-shlibdeps) echo dpkg-dev ;;
    ip) echo iproute2 ;;
    mips-linux-gnu-gcc) echo gcc-mips-linux-gnu libc6-dev-mips-cross ;;
    nft) echo nftables ;;
    nsenter | chrt | taskset) echo util-linux ;;
    ping) echo iputils-ping ;;
    qemu-*-static) echo qemu-user-static ;;
    qemu-system-aarch64) echo qemu-system-arm ;;
    qemu-system-mips*) echo qemu-system-mips ;;
    qemu-system-x86_64) echo qemu-system-x86 ;;
    qemu-*) echo qemu-user ;;
    sha256sum | timeout) echo coreutils ;;
    smcrouted) echo smcroute ;;
    systemd-nspawn) echo systemd-container ;;
    std-source) echo rustc-web cargo-web rust-web-src libstd-rust-web-dev ;;
    venv) echo python3-venv ;;
    xz) echo xz-utils ;;
    *) echo "$1" ;;
    esac
}

have() {
    case $1 in
    root) [ "$(id -u)" = 0 ] ;;
    # In a network namespace of its own, so that the device touches nothing.
    tun) [ -c /dev/net/tun ] && ( : <>/dev/net/tun ) 2>/dev/null &&
        { ! have root || ! have ip || unshare -mn ip tuntap add dev tun0 mode tun 2>/dev/null; } ;;
    cargo) oldest=$(printf '%s\n' "$rust" "$(rustc --version 2>/dev/null | cut -d ' ' -f 2)" | sort -V | head -n 1)
        command -v cargo >/dev/null && [ "$oldest" = "$rust" ] ;;
    busybox) command -v busybox >/dev/null &&
        [ "$(busybox --list | grep -cx -e httpd -e printf -e syslogd -e wget)" = 4 ] ;;
    std-source) [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] &&
        [ -e "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ] ;;
    venv) python3 -c 'import venv, ensurepip' 2>/dev/null ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

missing() {
    for need in $needed; do
        have "$need" || echo "$need"
    done | awk '!seen[$0]++'
}

# Of two that run at once, one waits for the other.
install_packages() (
    export DEBIAN_FRONTEND=noninteractive
    echo "Installing from Debian's packages: $*"
    flock 9
    apt-get -qq update </dev/null || :
    apt-get -qq -o DPkg::Lock::Timeout=60 install -y --no-install-recommends "$@" </dev/null >/dev/null || :
) 9<"$0"

name() {
    case $1 in
    root) echo "root's rights: the network namespaces need them" ;;
    tun) echo "/dev/net/tun: modprobe tun; mkdir -p /dev/net; mknod /dev/net/tun c 10 200" \
        "(a container needs it handed in, and CAP_NET_ADMIN and CAP_SYS_ADMIN)" ;;
    cargo) echo "a Rust toolchain, $rust or later (https://rustup.rs, or Debian's cargo and rustc if they are new enough)"
        if [ -n "${SUDO_USER:-}" ]; then
            # The words are for the reader's own shell.
            # shellcheck disable=SC2016
            echo '  if only root lacks it: sudo env "PATH=$PATH" "HOME=$HOME" make ...'
        fi ;;
    cargo-clippy | cargo-fmt) echo "$1 (rustup component add clippy rustfmt)" ;;
    *) echo "$1 (Debian package $(package "$1"))" ;;
    esac
}

[ $# -gt 0 ] || usage
needed=$(for job; do needs "$job"; done) || exit

PATH=$PATH:/usr/sbin:/sbin
lacking=$(missing)
case $lacking in *tun*) modprobe tun 2>/dev/null || : ;; esac
packages=$(for need in $lacking; do package "$need"; done)
if [ -n "$packages" ] && have root && have apt-get; then
    # shellcheck disable=SC2086 # one word for each package
    install_packages $packages
fi

lacking=$(missing)
[ -n "$lacking" ] || exit 0
for need in $lacking; do
    echo "missing: $(name "$need")" >&2
done
exit 1
