# What the scripts for embedded machines share; they read it.

# shellcheck shell=sh disable=SC2034,SC2154 # used by those who read it, who say where the root is
targets='mips-unknown-linux-musl mipsel-unknown-linux-musl armv7-unknown-linux-musleabihf
    aarch64-unknown-linux-musl x86_64-unknown-linux-musl'

# Where the programs for small machines come to.
static=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}")/static

# Compilers and kernels: outside the source, since `make clean` is not to lose them.
cache=${JTUNNEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/jtunnel}
mkdir -p "$cache"

# zig, from the Python package index, in an environment of its own. Prints where.
zig_tools() (
    tools=$cache/zig-0.17.1
    exec 9>"$cache/lock"
    flock 9
    if [ ! -e "$tools/complete" ]; then
        python3 -m venv "$tools"
        "$tools/bin/pip" -q install ziglang==0.17.1 cargo-zigbuild==0.24.0 >&2
        : >"$tools/complete"
    fi
    echo "$tools"
)

# Debian's strip for a target.
strip_of() {
    case $1 in
    armv7-*) echo arm-linux-gnueabihf-strip ;;
    x86_64-*) echo strip ;;
    *) echo "${1%%-*}-linux-gnu-strip" ;;
    esac
}

# The word by which qemu calls a target's processor.
processor_of() {
    case $1 in
    armv7-*) echo arm ;;
    *) echo "${1%%-*}" ;;
    esac
}

# Has apt look at Debian's packages for a processor, in the cache: this machine has no part in it.
foreign_apt() {
    state=$cache/apt-$1
    mkdir -p "$state/lists/partial" "$state/archives/partial"
    : >"$state/status"
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    for line in 'debian bookworm' 'debian-security bookworm-security'; do
        # shellcheck disable=SC2086 # two words
        set -- "$1" $line
        for kind in deb deb-src; do
            echo "$kind [signed-by=$keys] http://deb.debian.org/$2 $3 main"
        done
    done >"$state/sources.list"
    cat >"$state/apt.conf" <<E
APT::Architecture "$1";
APT::Architectures { "$1"; };
APT::Sandbox::User "root";
Dir::State "$state";
Dir::State::status "$state/status";
Dir::Cache "$state";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "-";
E
    export APT_CONFIG="$state/apt.conf"
}
