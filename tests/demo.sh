#!/bin/sh
# Shows a tunnel at work, in three network namespaces of its own:
#
#     server host             router              client host
#     198.51.100.1 ---------- 198.51.100.2
#                             NAT, 192.168.77.1 ---------- 192.168.77.10
#
# Ends with 0 only if all that it shows worked. JTUNNEL_BIN names a directory with the two programs, if
# they are not to be built.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin
server_prog=$root/man/examples/server-up
client_prog=$root/man/examples/client-up
# One that server_prog knows.
client_id=1f3a5c7e9b2d4f60
outer=198.51.100.1

if [ -z "${JTUNNEL_BIN:-}" ]; then
    "$root/tests/require.sh" build demo
    make -C "$root" --no-print-directory
    JTUNNEL_BIN=$(cd "$root" && cd "${CARGO_TARGET_DIR:-target}/${CARGO_BUILD_TARGET:-.}/release" && pwd)
else
    "$root/tests/require.sh" demo
fi
PATH=$(cd "$JTUNNEL_BIN" && pwd):$PATH

# What is shown

step=0
step() {
    step=$((step + 1))
    printf '\n%s. %s\n' "$step" "$*"
}

indent() {
    sed 's/^/   /'
}

fail() {
    printf '\nFAILED: %s\n' "$*"
    for host in server client; do
        if [ -e "$tmp/$host/messages" ]; then
            printf "%s's log:\n" "$host"
            tail -n 20 "$tmp/$host/messages" | indent
        fi
    done
    exit 1
} >&2

# Commands on a host

# on HOST COMMAND: in the host's directory, and not for more than $limit seconds.
limit=30
on() (
    cd "$tmp/$1" || exit
    namespace=$prefix-$1
    shift
    exec timeout --foreground "$limit" ip netns exec "$namespace" "$@"
)

# beside HOST COMMAND: goes on while the demonstration does.
beside() {
    (limit=600 && on "$@") >/dev/null 2>&1 &
}

show() {
    host=$1
    shift
    echo "   $host# $*"
    status=0
    on "$host" "$@" >"$tmp/output" 2>&1 || status=$?
    indent <"$tmp/output"
    [ "$status" = 0 ] || fail "$1 on the $host: status $status"
}

# Gives a command a /dev of the host's own, for /dev/log to lead to the host's own syslogd.
# shellcheck disable=SC2016 # for the shell on the host
dev='
for node in null zero random urandom net/tun; do
    mount --bind "/dev/$node" "dev/$node" || exit
done
mount --rbind dev /dev && exec "$@"'

show_daemon() {
    host=$1
    shift
    echo "   $host# $*"
    on "$host" sh -c "$dev" sh "$@" || fail "$1 on the $host: status $?"
}

signal() {
    echo "   $2# kill -$1 \$(cat $3.pid)"
    kill -s "$1" "$(cat "$tmp/$2/$3.pid")" || fail "no $3 is running"
}

# Questions, and waiting for their answers

# wait_for SECONDS WHAT QUESTION
wait_for() {
    tries=$(($1 * 10))
    what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "waited in vain for $what"
        sleep 0.1
    done
}

logged() {
    grep -q -e "$2" "$tmp/$1/messages"
}

listening() {
    on "$1" ss -Hltn "sport = :$2" | grep -q .
}

answers() {
    on client ping -c 1 -W 1 "$1"
}

# The pings that have come back so far.
pinged() {
    [ "$(grep -c 'bytes from' "$tmp/ping")" -ge "$1" ]
}

device() {
    ip -n "$prefix-$1" -o link show type tun | sed 's/^[0-9]*: \([^:@]*\).*/\1/' | grep .
}

tunnel_address() {
    ip -n "$prefix-$1" "${2:--4}" -o address show dev "$(device "$1")" scope global |
        sed -n 's/.* inet6* \([0-9a-f.:]*\).*/\1/p' | grep .
}

# The datagrams of a capture, each as a line of hex digits.
datagrams() {
    tcpdump -n -x -r "$tmp/router/$1" 2>/dev/null |
        awk '/^[0-9]/ { if (line) print line; line = ""; next }
            { for (n = 2; n <= NF; n++) line = line $n }
            END { if (line) print line }'
}

ended() {
    ! device "$1" && [ ! -e "$tmp/$1/$2.pid" ]
}

# The end, however it comes

in_namespaces() {
    for host in server router client; do
        ip netns pids "$prefix-$host"
    done
}

clean_up() {
    status=$?
    trap - EXIT
    trap '' HUP INT PIPE TERM
    set +e
    # The shell would tell of each job that is ended here.
    exec 2>/dev/null
    for signal in TERM KILL; do
        pids=$(in_namespaces)
        # shellcheck disable=SC2086 # one word for each process
        [ -z "$pids" ] || kill -s "$signal" $pids
        tries=30
        while [ -n "$(in_namespaces)" ] && [ "$tries" -gt 0 ]; do
            tries=$((tries - 1))
            sleep 0.1
        done
    done
    for host in server router client; do
        ip netns delete "$prefix-$host"
    done
    rm -rf "$tmp"
    exit "$status"
}

prefix=jtunnel-$$
tmp=$(mktemp -d)
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM
umask 077

step "A server host, a NAT router and a client host behind it, as network namespaces"

for host in server router client; do
    mkdir -p "$tmp/$host/dev/net"
    ip netns add "$prefix-$host"
    ip -n "$prefix-$host" link set lo up
done

# cable HOST ADDRESS INTERFACE_OF_ROUTER ADDRESS
cable() {
    ip -n "$prefix-$1" link add eth0 type veth peer name "$3" netns "$prefix-router"
    ip -n "$prefix-$1" address add "$2/24" dev eth0
    ip -n "$prefix-$1" link set eth0 up
    ip -n "$prefix-router" address add "$4/24" dev "$3"
    ip -n "$prefix-router" link set "$3" up
}

cable server "$outer" wan 198.51.100.2
cable client 192.168.77.10 lan 192.168.77.1
ip -n "$prefix-client" route add default via 192.168.77.1
on router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
on router nft -f - <<E
table ip home {
    chain forward {
        type filter hook forward priority 0; policy drop
        iifname lan accept
        ct state established,related accept
    }
    chain nat {
        type nat hook postrouting priority 100
        oifname wan masquerade
    }
}
E
wait_for 10 "the router" answers "$outer"
for host in server router client; do
    ip -n "$prefix-$host" -4 -o address show scope global |
        sed "s/^[0-9]*: \([^ ]*\) *inet \([^ ]*\).*/   $host: \1 \2/"
done

for host in server client; do
    for node in null zero random urandom net/tun; do
        : >"$tmp/$host/dev/$node"
    done
    ln -s "$tmp/$host/log" "$tmp/$host/dev/log"
    beside "$host" sh -c "$dev" sh busybox syslogd -n -S -O messages
    wait_for 5 "the $host's syslogd" test -S "$tmp/$host/log"
done

step "Identifiers: each host has one, and knows the other's by a file of that name"

mkdir "$tmp/client/jtunnel"
show server jtunneld -I -d jtunnel
server_id=$(on server jtunneld -I -d jtunnel)
echo "   client# echo $client_id >jtunnel/id"
echo "$client_id" >"$tmp/client/jtunnel/id"
show client jtunnel-client -I -d jtunnel
show server touch "jtunnel/clients/$client_id"
show client touch "jtunnel/servers/$server_id"

step "The tunnel: one daemon on each host, whose PROG gives the tun device its addresses"

show_daemon server jtunneld -d jtunnel -P jtunneld.pid "$server_prog"
show_daemon client jtunnel-client -d jtunnel -P jtunnel-client.pid "$outer" 5886 "$client_prog"
wait_for 10 "the client's tunnel address" tunnel_address client
wait_for 10 "the server's tunnel address" tunnel_address server
inner=$(tunnel_address server)
wait_for 10 "a ping through the tunnel" answers "$inner"
for host in server client; do
    grep jtunnel "$tmp/$host/messages" | indent
done

step "Ping through the NAT, in both directions, and with IPv6"

show client ping -n -c 3 -i 0.2 -W 2 "$inner"
show server ping -n -c 3 -i 0.2 -W 2 "$(tunnel_address client)"
if on server grep -qs 0 /proc/sys/net/ipv6/conf/default/disable_ipv6; then
    wait_for 10 "the client's IPv6 address" tunnel_address client -6
    wait_for 10 "the server's IPv6 address" tunnel_address server -6
    show client ping -n -c 3 -i 0.2 -W 2 "$(tunnel_address server -6)"
fi

step "A file in each direction"

# carry FROM TO
carry() {
    from_address=$(tunnel_address "$1")
    mkdir -p "$tmp/$1/files"
    head -c 16777216 /dev/urandom >"$tmp/$1/files/from-$1"
    beside "$1" busybox httpd -f -p "$from_address:8080" -h files
    wait_for 5 "the web server" listening "$1" 8080
    show "$2" busybox wget -q "http://$from_address:8080/from-$1"
    (cd "$tmp/$1/files" && sha256sum "from-$1") >"$tmp/sum"
    sed "s/^/   $1: /" "$tmp/sum"
    (cd "$tmp/$2" && sha256sum "from-$1") | sed "s/^/   $2: /"
    (cd "$tmp/$2" && sha256sum --status -c "$tmp/sum") || fail "the file arrived with another checksum"
}

carry server client
carry client server

step "Throughput of one TCP connection"

# throughput ARGS: the figure is in $rate.
throughput() {
    beside server iperf3 -s -1
    wait_for 5 "iperf3's server" listening server 5201
    echo "   client# iperf3 -c $inner -t 3${*:+ $*}"
    on client iperf3 -c "$inner" -t 3 -f m --connect-timeout 5000 "$@" >"$tmp/iperf3" 2>&1 &
    wait $! || fail "iperf3: $(tail -n 1 "$tmp/iperf3")"
    rate=$(sed -n 's/.* \([0-9.]*\) Mbits\/sec.*receiver.*/\1/p' "$tmp/iperf3")
    [ -n "$rate" ] || fail "iperf3 has no figure: $(cat "$tmp/iperf3")"
}

throughput
echo "   client to server: $rate Mbit/s"
up=$rate
throughput -R
echo "   server to client: $rate Mbit/s"
down=$rate

step "On the wire the link is plain so far: the router's uplink sees what is in it"

# An IPv4 address as it is in a packet.
hex() {
    # shellcheck disable=SC2046 # one word for each byte
    printf '%02x%02x%02x%02x' $(echo "$1" | tr . ' ')
}

# capture FILE: three pings through the tunnel, as the router's uplink sees them. How many datagrams
# of how many show an inner address is in $shown and $seen.
capture() {
    beside router tcpdump -n -i wan -U -Z root -w "$1" udp port 5886
    wait_for 10 "tcpdump" test -s "$tmp/router/$1"
    sleep 0.5
    on client ping -n -c 3 -i 0.2 -W 2 "$inner" >/dev/null || fail "no answer through the tunnel"
    wait_for 10 "the capture" captured "$1" 6
    echo "   router# tcpdump -n -x -i wan udp port 5886"
    tcpdump -n -x -c 1 -r "$tmp/router/$1" udp dst port 5886 and greater 100 2>/dev/null | indent
    seen=$(datagrams "$1" | wc -l)
    shown=$(datagrams "$1" | grep -c "$(hex "$inner")") || :
    echo "   $shown of $seen datagrams show $inner, the address inside ($(hex "$inner"))."
}

captured() {
    [ "$(datagrams "$1" | wc -l)" -ge "$2" ]
}

capture plain
[ "$shown" -ge 6 ] || fail "the capture should have shown inner addresses"

step "Sealed: a key is made on the server and carried to the client, then both read their files again"

echo "   server# jtunneld -G seal >jtunnel/clients/.new && mv jtunnel/clients/.new jtunnel/clients/$client_id"
on server sh -c "jtunneld -G seal >jtunnel/clients/.new && mv jtunnel/clients/.new jtunnel/clients/$client_id" ||
    fail "no key was made"
echo "   client# scp -p server:jtunnel/clients/$client_id jtunnel/servers/.new && mv jtunnel/servers/.new jtunnel/servers/$server_id"
echo "   (here it is cp that carries it)"
cp -p "$tmp/server/jtunnel/clients/$client_id" "$tmp/client/jtunnel/servers/.new"
mv "$tmp/client/jtunnel/servers/.new" "$tmp/client/jtunnel/servers/$server_id"
signal HUP server jtunneld
signal HUP client jtunnel-client
wait_for 10 "the sealed link" logged client 'seal session up'
wait_for 10 "the server's sealed link" logged server 'admitted.*seal, check value'
wait_for 10 "a ping through the sealed link" answers "$inner"
grep -h -e 'check value' -e 'seal session up' "$tmp/server/messages" "$tmp/client/messages" | indent
checks=$(cat "$tmp/server/messages" "$tmp/client/messages" | sed -n 's/.*check value \([0-9a-f]*\).*/\1/p' | sort -u | wc -l)
[ "$checks" = 1 ] || fail "the check values are not the same"
capture sealed
[ "$shown" = 0 ] || fail "a sealed link shows inner addresses"
throughput
echo "   client to server, sealed: $rate Mbit/s"
sealed=$rate

step "A datagram that somebody has recorded and sends again is dropped and counted"

# Of the sealed ones to the server the one of a ping: behind the headers of IP and UDP.
tcpdump -n -x -c 1 -r "$tmp/router/sealed" udp dst port 5886 and 'udp[16] = 0x13' 2>/dev/null |
    sed -n 's/^[[:space:]]*0x[0-9a-f]*: *//p' | tr -d ' \n' | cut -c 57- >"$tmp/router/replay.hex"
sed 's/../\\x&/g' "$tmp/router/replay.hex" >"$tmp/router/replay.printf"
busybox printf "$(cat "$tmp/router/replay.printf")" >"$tmp/router/replay"
[ -s "$tmp/router/replay" ] || fail "there was nothing to replay"
show router bash -c "cat replay >/dev/udp/$outer/5886"
wait_for 10 "the server's line" logged server 'dropped a datagram from .*: replayed'
signal USR1 server jtunneld
wait_for 5 "the server's count" logged server 'seal session .* replayed 1,'
grep -e ': replayed' -e 'replayed 1,' "$tmp/server/messages" | indent
! logged server 'moved from' || fail "the server took the replay for the client's"
show client ping -n -c 1 -W 2 "$inner"

step "New addresses under a running ping; nothing is restarted"

new_lease() {
    show client ip address flush dev eth0
    show client ip address add 192.168.77.20/24 dev eth0
    show client ip route add default via 192.168.77.1
}

new_public_address() {
    show router ip address flush dev wan
    show router ip address add 198.51.100.3/24 dev wan
}

# under_ping COMMAND: the number of lost pings is in $lost.
under_ping() {
    pings=40
    echo "   client# ping -i 0.1 -c $pings $inner"
    on client ping -n -i 0.1 -c "$pings" -W 1 "$inner" >"$tmp/ping" 2>&1 &
    ping=$!
    wait_for 5 "the first answers" pinged 10
    "$@"
    wait "$ping" || :
    grep received "$tmp/ping" | indent
    came=$(sed -n 's/.* \([0-9]*\) received.*/\1/p' "$tmp/ping")
    lost=$((pings - came))
    [ "$lost" -le 10 ] || fail "$lost of $pings pings lost: the tunnel took too long to recover"
}

under_ping new_lease
lost_lease=$lost
under_ping new_public_address
lost_public=$lost

step "What the programs say of themselves"

signal USR1 server jtunneld
signal USR1 client jtunnel-client
wait_for 5 "the server's status" logged server '198\.51\.100\.3:.* heard'
wait_for 5 "the client's status" logged client 'status: sent'
grep -h -e 'status:' -e 'heard' "$tmp/server/messages" "$tmp/client/messages" | indent
logged server '198\.51\.100\.3:' || fail "the server did not follow the client to its new address"

step "The end: the programs take their devices and pid files along"

signal TERM client jtunnel-client
signal TERM server jtunneld
wait_for 10 "the client to end" ended client jtunnel-client
wait_for 10 "the server to end" ended server jtunneld
echo "   Both are gone."

printf '\nAll of it worked: 16 MiB each way with matching checksums, %s Mbit/s up, %s Mbit/s down,\n' "$up" "$down"
printf '%s Mbit/s up when sealed, no inner address on the wire, a replay dropped,\n' "$sealed"
printf '%s of %s pings lost when the client got a new address, %s when the router did.\n' \
    "$lost_lease" "$pings" "$lost_public"
