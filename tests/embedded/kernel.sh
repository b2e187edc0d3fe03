#!/bin/sh
# Builds a small Linux kernel and a busybox for big-endian MIPS, for which Debian has neither, from
# Debian's sources with Debian's compiler:
#
#     tests/embedded/kernel.sh
#
# It takes some minutes, once; `mips/kernel` and `mips/busybox` in the cache are the result.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/embedded/common.sh"

out=$cache/mips
mkdir -p "$out"
exec 9>"$out/lock"
flock 9
[ ! -e "$out/complete" ] || exit 0

work=$out/build
rm -rf "$work"
mkdir "$work"
cd "$work"
foreign_apt amd64
apt-get -qq update
apt-get -qq download linux-source-6.1
apt-get -qq source --download-only busybox
dpkg-deb -x linux-source-6.1_*.deb .
tar -xf usr/src/linux-source-6.1.tar.xz
tar -xf busybox_*.orig.tar.*

export ARCH=mips CROSS_COMPILE=mips-linux-gnu-
jobs=-j$(nproc)

cd "$work"/linux-source-6.1
make -s tinyconfig
# The floating point is for busybox, which Debian's C library makes hard-float; our programs are soft.
# The 32-bit time is for musl's sleep.
for option in MIPS_MALTA CPU_MIPS32_R2 CPU_BIG_ENDIAN CC_OPTIMIZE_FOR_SIZE MIPS_FP_SUPPORT \
    COMPAT_32BIT_TIME PCI NET INET IPV6 UNIX PACKET NETDEVICES NET_CORE TUN ETHERNET NET_VENDOR_AMD \
    PCNET32 TTY SERIAL_8250 SERIAL_8250_CONSOLE SERIAL_8250_PCI BLK_DEV_INITRD RD_GZIP DEVTMPFS \
    PROC_FS PROC_SYSCTL PROC_PAGE_MONITOR SYSFS TMPFS SHMEM BINFMT_ELF BINFMT_SCRIPT FUTEX EPOLL \
    SIGNALFD TIMERFD EVENTFD PRINTK MULTIUSER POSIX_TIMERS HIGH_RES_TIMERS NO_HZ_IDLE FILE_LOCKING \
    BUG KALLSYMS RTC_CLASS RTC_HCTOSYS RTC_DRV_CMOS; do
    echo "CONFIG_$option=y"
done >>.config
make -s olddefconfig
make -s "$jobs" vmlinux
mips-linux-gnu-strip -s -o "$out/kernel" vmlinux

cd "$work"/busybox-*/
make -s allnoconfig
for option in STATIC INSTALLER FEATURE_INSTALLER FEATURE_SH_STANDALONE LFS LONG_OPTS SHOW_USAGE \
    ASH ASH_ECHO ASH_TEST ASH_PRINTF ASH_CMDCMD ASH_GETOPTS SH_IS_ASH SH_MATH_SUPPORT \
    CAT CP ECHO FREE GREP HEAD INSMOD IP FEATURE_IP_ADDRESS FEATURE_IP_LINK FEATURE_IP_ROUTE \
    FEATURE_IPV6 KILL LN LS MKDIR MKNOD MOUNT FEATURE_MOUNT_FLAGS MV NC NC_SERVER PIDOF PING \
    FEATURE_FANCY_PING PS REBOOT HALT RM SED SETSID SHA256SUM SLEEP FANCY_SLEEP FEATURE_FANCY_SLEEP \
    STTY SYSLOGD TEST TEST1 TEST2 TOUCH TR TRUE FALSE UNAME UMOUNT WC; do
    sed -i "/^# CONFIG_$option is not set/d" .config
    echo "CONFIG_$option=y"
done >>.config
yes '' | make -s oldconfig >/dev/null
make -s "$jobs" busybox
cp busybox "$out/busybox"

: >"$out/complete"
rm -rf "$work"
