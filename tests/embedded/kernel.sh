#!/bin/sh
# Builds a small Linux kernel and a busybox for big-endian MIPS, for which Debian has neither, from
# Debian's sources with Debian's compiler:
#
#     tests/embedded/kernel.sh
#
# It takes ten minutes, once for each version of this script. Prints the directory in the cache that
# has `kernel` and `busybox` then.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/embedded/common.sh"

out=$cache/mips-$(cksum <"$0" | cut -d " " -f 1)
export ARCH=mips CROSS_COMPILE=mips-linux-gnu-
jobs=-j$(nproc)

kernel() {
    apt-get -qq download linux-source-6.1
    dpkg-deb -x linux-source-6.1_*.deb .
    tar -xf usr/src/linux-source-6.1.tar.xz
    cd linux-source-6.1
    make -s tinyconfig
    # The floating point is for busybox, since Debian's C library is hard-float; our programs are soft.
    # The 32-bit time is for musl's sleep.
    for option in MIPS_MALTA CPU_MIPS32_R2 CPU_BIG_ENDIAN CC_OPTIMIZE_FOR_SIZE MIPS_FP_SUPPORT \
        COMPAT_32BIT_TIME PCI NET INET IPV6 UNIX PACKET NETDEVICES NET_CORE TUN ETHERNET \
        NET_VENDOR_INTEL E1000 TTY SERIAL_8250 SERIAL_8250_CONSOLE SERIAL_8250_PCI BLK_DEV_INITRD \
        RD_GZIP DEVTMPFS PROC_FS PROC_SYSCTL PROC_PAGE_MONITOR SYSFS TMPFS SHMEM BINFMT_ELF \
        BINFMT_SCRIPT FUTEX EPOLL SIGNALFD TIMERFD EVENTFD PRINTK MULTIUSER POSIX_TIMERS \
        HIGH_RES_TIMERS NO_HZ_IDLE FILE_LOCKING BUG RTC_CLASS RTC_HCTOSYS RTC_DRV_CMOS; do
        echo "CONFIG_$option=y"
    done >>.config
    make -s olddefconfig
    make -s "$jobs" vmlinux
    mips-linux-gnu-strip -s -o stripped vmlinux
    mv stripped "$out/kernel"
}

busybox() {
    apt-get -qq source --download-only busybox
    tar -xf busybox_*.orig.tar.*
    cd busybox-*/
    make -s allnoconfig
    # It takes the first word on an option.
    mv .config none
    for option in STATIC BUSYBOX FEATURE_INSTALLER LFS LONG_OPTS \
        ASH ASH_ECHO ASH_TEST ASH_PRINTF ASH_CMDCMD ASH_GETOPTS SH_IS_ASH SH_MATH_SUPPORT \
        CAT CP ECHO FREE GREP HEAD INSMOD IP FEATURE_IP_ADDRESS FEATURE_IP_LINK FEATURE_IP_ROUTE \
        FEATURE_IPV6 KILL LN LS MKDIR MKNOD MOUNT FEATURE_MOUNT_FLAGS MV NC NC_SERVER PIDOF PING \
        FEATURE_FANCY_PING PS REBOOT HALT RM SED SETSID SHA256SUM SLEEP FANCY_SLEEP \
        STTY SYSLOGD TEST TEST1 TEST2 TOUCH TR TRUE FALSE UNAME UMOUNT WC; do
        echo "CONFIG_$option=y"
    done >.config
    cat none >>.config
    yes '' | make -s oldconfig >/dev/null
    make -s "$jobs" busybox
    mv busybox "$out/"
}

# Each in an empty directory; what is complete is not built again.
mkdir -p "$out"
exec 9>"$out/lock"
flock 9
for part in kernel busybox; do
    [ ! -e "$out/$part" ] || continue
    rm -rf "$out/build"
    mkdir "$out/build"
    (
        cd "$out/build"
        foreign_apt amd64
        apt-get -qq update
        "$part"
    ) >&2
    rm -rf "$out/build"
done
echo "$out"
