//! Input from people who mean no good, and networks that fail in every way there is.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::config::{SERVER_ID, client_id};
use support::flood::Flood;
use support::heartbeat::Heartbeat;
use support::host::Host;
use support::lab::{Lab, SERVER4, SERVER6, TO, addresses};
use support::peer::{
    Forger, Peer, answer, checksum, datagram, icmp6_packet, ipv4_packet, keepalive, send_icmp6,
    udp_packet,
};
use support::proc;
use support::programs::offload_by_default;
use support::sniffer::{self, Sniffer};
use support::traffic::{Noise, Stream, assert_pings, wait_ping};
use support::tunnel::{Client, Inner, Server, Tunnel};
use support::wait::{PATIENCE, report_recovery, wait_until};

fn v4(text: &str, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(text.parse().unwrap(), port)
}

#[test]
#[ignore = "needs root"]
fn junk_of_every_size_changes_nothing() {
    let tunnel = Tunnel::plain(Lab::behind_nat(1));
    let server_log = tunnel.server.lines.all().len();
    // From where the client itself could be: its host, and a neighbour of the server.
    let (inside, outside) = (
        Peer::new(tunnel.lab.client()),
        Peer::new(tunnel.lab.router()),
    );
    let mut noise = Noise::new(11);
    for len in (0..64).chain([1472, 1473, 9000, 65507]) {
        for peer in [&inside, &outside] {
            peer.send_raw(&noise.bytes(len), TO);
            peer.send(&client_id(7), &noise.bytes(len.min(65499)), TO);
        }
    }
    wait_ping(tunnel.lab.client(), tunnel.client.inner.server4());
    assert_eq!(tunnel.lab.server.tuns().len(), 1);
    assert!(
        outside.receive_within(Duration::from_millis(50)).is_none(),
        "an answer to junk"
    );
    assert!(
        tunnel.server.lines.all().len() <= server_log + 8,
        "the log stays bounded"
    );
}

#[test]
#[ignore = "needs root"]
fn wrong_checksums_hold_nothing_up() {
    let lab = Lab::direct();
    let server = Peer::bound(&lab.server, "0.0.0.0:5886");
    let stays = lab.client().script("stays", "trap '' TERM; sleep 1000");
    let mut client = Client::new(lab.client(), 1)
        .options(&["-k", "1"])
        .start_with(&[stays]);
    let (_, from) = server.receive();
    let SocketAddr::V4(to) = from else {
        panic!("{from}");
    };
    let mut packet = udp_packet(v4(SERVER4, 5886), to, &[7; 200]);
    packet[27] ^= 1;
    let (forger, ending) = (Forger::new(&lab.server), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..150 {
                if ending.load(Ordering::Relaxed) {
                    break;
                }
                forger.packet(&packet, to);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        // Keepalives go on, and so does what is done on time at the end.
        let since = Instant::now();
        let keepalives = std::iter::from_fn(|| server.receive_within(Duration::from_secs(3)));
        let count = keepalives
            .take_while(|_| since.elapsed() < Duration::from_secs(5))
            .count();
        client.signal(Signal::SIGTERM);
        let status = client.process().wait_at_most(Duration::from_secs(5));
        ending.store(true, Ordering::Relaxed);
        assert!(count >= 3, "{count} keepalives");
        assert_eq!(status.code(), Some(0));
    });
}

#[test]
#[ignore = "needs root"]
fn an_authorised_client_may_send_nonsense() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1, 2]).start();
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    client.wait_up();
    let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
    let (peer, mut noise) = (Peer::new(lab.client()), Noise::new(5));
    peer.knock(&client_id(2), TO, SERVER_ID);
    for number in 0..5000 {
        let len = usize::try_from(noise.number() % 1500).unwrap();
        let mut payload = noise.bytes(len);
        // Half of them look like packets at first.
        if let Some(first) = payload.first_mut().filter(|_| number % 2 == 0) {
            *first = if number % 4 == 0 { 0x45 } else { 0x60 };
        }
        peer.send(&client_id(2), &payload, TO);
        if number % 64 == 0 {
            peer.knock(&client_id(2), TO, SERVER_ID);
        }
    }
    // The largest payloads there are, in fragments.
    for first in [0x45, 0x60, 1, 2, 3] {
        let mut payload = noise.bytes(65499);
        payload[0] = first;
        peer.send(&client_id(2), &payload, TO);
    }
    peer.knock(&client_id(2), TO, SERVER_ID);
    beat.wait_beats(20);
    assert!(beat.tally().lost < 20, "{:?}", beat.tally());
    assert!(server.lines.all().len() < 20, "{:?}", server.lines.all());
}

#[test]
#[ignore = "needs root"]
fn a_server_may_send_nonsense() {
    let lab = Lab::direct();
    let peer = Peer::bound(&lab.server, "0.0.0.0:5886");
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    let (_, from) = peer.receive();
    let to = (&*from.ip().to_string(), from.port());
    let mut noise = Noise::new(6);
    for number in 0..2000 {
        let len = usize::try_from(noise.number() % 1500).unwrap();
        let mut payload = noise.bytes(len);
        if let Some(first) = payload.first_mut().filter(|_| number % 2 == 0) {
            *first = if number % 4 == 0 { 0x45 } else { 0x60 };
        }
        match number % 3 {
            0 => peer.send_raw(&payload[..payload.len().min(8)], to),
            _ => peer.send(SERVER_ID, &payload, to),
        }
        if number % 64 == 0 {
            peer.send(SERVER_ID, &keepalive(number), to);
            peer.expect(&datagram(&client_id(1), &answer(number)));
        }
    }
    for first in [0x45, 0x60, 1, 2, 3] {
        let mut payload = noise.bytes(65499);
        payload[0] = first;
        peer.send(SERVER_ID, &payload, to);
    }
    peer.send(SERVER_ID, &keepalive(99), to);
    peer.expect(&datagram(&client_id(1), &answer(99)));
    assert!(client.runs());
    assert_eq!(proc::twins(client.pid()).len(), 1);
    assert!(client.lines.all().len() < 10, "{:?}", client.lines.all());
}

#[test]
#[ignore = "needs root"]
fn source_port_0_gets_no_answer() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    let forger = Forger::new(lab.client());
    forger.udp(
        v4("198.51.100.2", 0),
        v4(SERVER4, 5886),
        &datagram(&client_id(1), &keepalive(1)),
    );
    let peer = Peer::new(lab.client());
    // The client comes later, so the forged datagram did not admit it.
    wait_until(PATIENCE, "the datagram to be counted", || {
        let line = server.report("status: ");
        line.contains("0 clients") && line.contains("1 from port 0")
    });
    peer.knock(&client_id(1), TO, SERVER_ID);
    let sniffer = Sniffer::new(&lab.server, "eth0");
    forger.udp(
        v4("198.51.100.2", 0),
        v4(SERVER4, 5886),
        &datagram(&client_id(1), &keepalive(1)),
    );
    peer.send(&client_id(1), &keepalive(2), TO);
    peer.expect(&datagram(SERVER_ID, &answer(2)));
    let sent = std::iter::from_fn(|| sniffer.packet());
    assert!(
        !sent
            .into_iter()
            .any(|p| sniffer::udp(&p).is_some_and(|(_, to, _)| to == 0))
    );
    server.lines.exactly("moved from", 0);
}

#[test]
#[ignore = "needs root"]
fn no_answer_is_larger_than_its_question() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    let sniffer = Sniffer::new(&lab.server, "eth0");
    let (forger, victim) = (Forger::new(lab.client()), "198.51.100.66");
    addresses(lab.client(), "eth0", &["198.51.100.66/24"]);
    // In the name of a victim: unknown, junk, and the one thing that is answered.
    for number in 0..300 {
        let payload = match number % 3 {
            0 => datagram(&client_id(9), &keepalive(number)),
            1 => Noise::new(number.into()).bytes(100),
            _ => datagram(&client_id(1), &keepalive(number)),
        };
        forger.udp(v4(victim, 1234), v4(SERVER4, 5886), &payload);
    }
    let peer = Peer::new(lab.client());
    peer.knock(&client_id(1), TO, SERVER_ID);
    let mut number = 0;
    while let Some(packet) = sniffer.packet() {
        if let Some((5886, 1234, payload)) = sniffer::udp(&packet) {
            assert_eq!(payload.len(), datagram(SERVER_ID, &keepalive(0)).len());
            number += 1;
        }
    }
    assert_eq!(number, 100, "one answer to each keepalive of a client");
    assert!(server.lines.all().len() < 20);
}

/// A router advertisement to all: a default route of high preference, an MTU, and a prefix to take an
/// address from (RFC 4861, 4.2, 4.6; RFC 4191, 2.2).
fn advertisement() -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0x08, 0x07, 0x08];
    message.extend([0; 8]);
    message.extend([5, 1, 0, 0, 0, 0, 5, 0]);
    message.extend([3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend("2001:db8:bad::".parse::<Ipv6Addr>().unwrap().octets());
    let from = "fe80::bad".parse().unwrap();
    icmp6_packet(from, "ff02::1".parse().unwrap(), &message)
}

/// Lets a peer advertise itself as the router of a host at the other end of the tunnel, `inner`
/// there, and then lets the host obey.
fn advertise(peer: &Peer, id: &str, to: (&str, u16), host: &Host, inner: IpAddr) {
    let tun = &host.tuns()[0];
    let IpAddr::V6(inner) = inner else {
        unreachable!()
    };
    let neighbour = Ipv6Addr::from(inner.to_bits() ^ 3);
    let route = || host.ip("-6 route show default");
    let echo = icmp6_packet(neighbour, inner, &[128, 0, 0, 0, 0, 7, 0, 1]);
    peer.send(id, &advertisement(), to);
    // What comes behind was answered, so it has been looked at.
    peer.send(id, &echo, to);
    while peer.receive().0.get(48..50) != Some(&[129, 0]) {}
    assert_eq!(route(), "", "a default route");
    let addresses = host.ip(&format!("-6 address show dev {tun}"));
    assert!(!addresses.contains("2001:db8:bad:"), "{addresses}");
    assert!(addresses.contains(" mtu 1420 "), "{addresses}");
    // PROG may set it back.
    host.sysctl(&format!("net/ipv6/conf/{tun}/accept_ra"), "1");
    wait_until(PATIENCE, "the default route", || {
        peer.send(id, &advertisement(), to);
        route().contains(&format!("via fe80::bad dev {tun} "))
    });
}

#[test]
#[ignore = "needs root"]
fn a_router_at_the_other_end_is_not_obeyed() {
    let lab = Lab::direct();
    for host in [&lab.server, lab.client()] {
        host.sysctl("net/ipv6/conf/default/accept_ra", "1");
    }
    {
        let peer = Peer::bound(&lab.server, "[::]:5886");
        let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
        let (_, from) = peer.receive();
        let inner = client.inner;
        wait_until(PATIENCE, "the client's addresses", || {
            lab.client()
                .ip("-6 address show")
                .contains(&inner.client6().to_string())
        });
        let to = (&*from.ip().to_string(), from.port());
        advertise(&peer, SERVER_ID, to, lab.client(), inner.client6());
    }
    let server = Server::new(&lab.server, [1]).start();
    let peer = Peer::new(lab.client());
    peer.knock(&client_id(1), TO, SERVER_ID);
    server.wait_progs(1);
    let inner = Inner(1).server6();
    advertise(&peer, &client_id(1), TO, &lab.server, inner);
}

#[test]
#[ignore = "needs root"]
fn a_setting_that_can_not_be_made_has_a_line() {
    let lab = Lab::direct();
    // As in many containers.
    lab.client().sh("mount -o bind,ro /proc/sys /proc/sys");
    let client = Client::new(lab.client(), 1).start_with(&["/bin/true"]);
    client
        .lines
        .wait("unable to set accept_ra of tun0 to 0: Read-only file system");
}

/// How many packets the kernel has given to a tun device.
fn packets_into(host: &Host, tun: &str) -> u64 {
    let count = host.sh(&format!("cat /sys/class/net/{tun}/statistics/tx_packets"));
    count.trim().parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn the_tunnel_routed_into_itself_by_the_client() {
    for (server, route) in [(SERVER4, "198.51.100.1/32"), (SERVER6, "2001:db8::1/128")] {
        let lab = Lab::routed(1);
        let _server = Server::new(&lab.server, [1]).start();
        let client = Client::new(lab.client(), 1)
            .to(server)
            .options(&["-k", "1"])
            .start();
        client.wait_up();
        let tun = &lab.client().tuns()[0];
        let before = packets_into(lab.client(), tun);
        lab.client().ip(&format!("route add {route} dev {tun}"));
        let line = client.lines.wait("routed into itself");
        assert!(line.contains("peer's own address and port"), "{line}");
        // Three keepalives later it is at rest. Each new sender may say so once.
        client.lines.wait("no answer from");
        let senders = 1 + client.lines.count("no answer from");
        assert!(client.lines.count("routed into itself") <= senders);
        let packets = packets_into(lab.client(), tun) - before;
        assert!(packets < 100, "it loops: {packets}");
        lab.client().ip(&format!("route del {route} dev {tun}"));
        client.wait_up();
    }
}

#[test]
#[ignore = "needs root"]
fn the_tunnel_routed_into_itself_by_the_server() {
    let tunnel = Tunnel::plain(Lab::routed(1));
    let server = &tunnel.lab.server;
    let tun = &server.tuns()[0];
    let before = packets_into(server, tun);
    server.ip(&format!("route add 192.168.1.2/32 dev {tun}"));
    let line = tunnel.server.lines.wait("routed into itself");
    assert!(
        line.contains("client 0001...: dropped a packet for the peer's own address and port"),
        "{line}"
    );
    tunnel.client.lines.wait("no answer from");
    tunnel.server.lines.exactly("routed into itself", 1);
    let packets = packets_into(server, tun) - before;
    assert!(packets < 100, "it loops: {packets}");
    server.ip(&format!("route del 192.168.1.2/32 dev {tun}"));
    tunnel.client.wait_up();
}

/// TCP between two hosts beside a loop.
struct Bystander {
    stream: Stream,
    /// Mbit/s in the best of some turns without a loop.
    before: u128,
}

impl Bystander {
    fn start(from: &Host, to: &Host, address: IpAddr) -> Self {
        let stream = Stream::start(from, to, address);
        let before = (0..5).map(|_| megabits(&stream)).max().unwrap();
        Self { stream, before }
    }

    /// Prints what it gets now, which is 0.9 of that at least.
    #[track_caller]
    fn assert_undisturbed(&self, loops: &str) {
        let (mut best, before) = (0, self.before);
        wait_until(PATIENCE, "the bystander's share", || {
            best = megabits(&self.stream).max(best);
            best * 10 >= before * 9
        });
        println!("{loops}: a bystander's TCP gets {best} Mbit/s, without it {before}");
    }
}

/// What a stream gets in one turn, in Mbit/s.
fn megabits(stream: &Stream) -> u128 {
    let (bytes, since) = (stream.bytes(), Instant::now());
    std::thread::sleep(Duration::from_millis(300));
    u128::from(stream.bytes() - bytes) * 8 / since.elapsed().as_micros()
}

/// Sees that so few packets come into these devices that nothing goes round.
#[track_caller]
fn assert_rest(host: &Host, tuns: [&str; 2]) {
    let count = || tuns.iter().map(|tun| packets_into(host, tun)).sum::<u64>();
    let before = count();
    std::thread::sleep(Duration::from_secs(2));
    let packets = count() - before;
    assert!(packets < 200, "it loops: {packets}");
}

#[test]
#[ignore = "needs root"]
fn one_datagram_for_two_tunnels_through_each_other() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, 1..=3).start();
    let client = Client::new(lab.client(), 3).options(&["-k", "1"]).start();
    client.wait_up();
    let peer = Peer::new(lab.client());
    for number in [1, 2] {
        peer.knock(&client_id(number), TO, SERVER_ID);
    }
    server.wait_progs(3);
    let bystander = Bystander::start(lab.client(), &lab.server, client.inner.server4());
    // From each device for the server itself, in the name of what is routed to it.
    let nested = |number: u16, payload: &[u8]| {
        let ends = [Inner(number).client4(), Inner(number).server4()];
        let [from, to] = ends.map(|end| v4(&end.to_string(), 5886));
        udp_packet(from, to, payload)
    };
    let inner = datagram(&client_id(1), &keepalive(1));
    let second = datagram(&client_id(2), &nested(2, &inner));
    peer.send(&client_id(1), &nested(1, &second), TO);
    server.lines.wait("moved from");
    assert_rest(&lab.server, ["tun1", "tun2"]);
    let line = server.lines.wait("tunnels lead through each other");
    assert!(line.contains("client 000"), "{line}");
    bystander.assert_undisturbed("one datagram");
}

#[test]
#[ignore = "needs root"]
fn each_server_routed_through_the_tunnel_to_the_other() {
    // By one identifier for both, and by two.
    for second in [1, 2] {
        let lab = Lab::routed(1);
        let (near, far) = (lab.router(), &lab.server);
        let servers = [(far, 1), (near, second)]
            .map(|(host, number)| Server::new(host, [number]).start_with(&["/bin/true"]));
        let host = lab.client();
        let up = host.script("up", "ip link set $TUN_DEV_NAME up");
        let addresses = [SERVER4, "198.51.100.2"];
        let clients = [(1, addresses[0]), (second, addresses[1])].map(|(number, address)| {
            let client = Client::new(host, number).to(address).options(&["-k", "1"]);
            let client = client.start_with(&[&up]);
            client.lines.wait("answers from");
            client
        });
        wait_until(PATIENCE, "both devices", || {
            host.ip("-br link show type tun")
                .matches("LOWER_UP")
                .count()
                == 2
        });
        let bystander = Bystander::start(near, far, SERVER4.parse().unwrap());
        for (tun, address) in ["tun1", "tun0"].iter().zip(addresses) {
            host.ip(&format!("route add {address}/32 dev {tun}"));
        }
        let said = || {
            clients
                .iter()
                .any(|c| c.lines.count("through each other") > 0)
        };
        wait_until(PATIENCE, "a line", said);
        assert_rest(host, ["tun0", "tun1"]);
        bystander.assert_undisturbed(&format!("two servers, identifiers 1 and {second}"));
        drop(servers);
    }
}

#[test]
#[ignore = "needs root"]
fn a_tunnel_inside_a_tunnel_passes() {
    let lab = Lab::routed(1);
    let (near, far) = (lab.router(), &lab.server);
    let outer = Server::new(near, [1]).start();
    let _inner = Server::new(far, [1]).start_with(&["/bin/true"]);
    let host = lab.client();
    let client = Client::new(host, 1)
        .to("198.51.100.2")
        .options(&["-k", "1"])
        .start();
    client.wait_up();
    outer.wait_progs(1);
    host.ip(&format!("route add {SERVER4}/32 dev tun0"));
    far.ip("route add 10.0.0.0/8 via 198.51.100.2");
    let up = host.script("up", "ip link set $TUN_DEV_NAME up");
    let second = Client::new(host, 1).options(&["-k", "1"]);
    let second = second.start_with(&[up]);
    second.lines.wait("answers from 198.51.100.1");
    for lines in [&client.lines, &second.lines, &outer.lines] {
        lines.exactly("dropped", 0);
    }
}

#[test]
#[ignore = "needs root"]
fn other_packets_for_the_peers_address_pass() {
    // Only address and port together are the tunnel's own.
    let lab = Lab::routed(1);
    let tunnel = Tunnel::up(lab, &[], &["-M", "5"]);
    let client = tunnel.lab.client();
    let tun = &client.tuns()[0];
    client.ip("route add default via 192.168.1.1 table 7");
    client.ip("rule add fwmark 5 lookup 7");
    client.ip(&format!("route add {SERVER4}/32 dev {tun}"));
    let sniffer = Sniffer::new(&tunnel.lab.server, &tunnel.lab.server.tuns()[0]);
    let own = match tunnel.client.inner.client4() {
        IpAddr::V4(address) => SocketAddrV4::new(address, 5886),
        IpAddr::V6(_) => unreachable!(),
    };
    Forger::new(client).udp(own, v4(SERVER4, 5887), b"another port");
    sniffer.wait("the datagram", |p| {
        sniffer::udp(p).is_some_and(|(_, to, _)| to == 5887)
    });
    // By hand through the tunnel, with the very port: dropped by the client.
    let packet = udp_packet(own, v4(SERVER4, 5886), b"the very port");
    Forger::new(client).packet(&packet, v4(SERVER4, 5886));
    tunnel.client.lines.wait("routed into itself");
    client.try_sh("ping -n -c 1 -W 1 198.51.100.1");
    sniffer.wait("a ping to the same address", |p| p[0] == 0x45 && p[9] == 1);
}

/// The error, what makes sends of a host fail, and how to end it.
const FAILURES: [(&str, &str, &str); 7] = [
    (
        "EPERM",
        "nft add table ip f
         nft add chain ip f o '{ type filter hook output priority 0; }'
         nft add rule ip f o udp dport 5886 drop
         nft add rule ip f o udp sport 5886 drop",
        "nft delete table ip f",
    ),
    (
        "ENETUNREACH",
        "ip route del default",
        "ip route add default via $GATE",
    ),
    (
        "EHOSTUNREACH",
        "ip route add unreachable $FAR",
        "ip route del unreachable $FAR",
    ),
    (
        "EACCES",
        "ip route add prohibit $FAR",
        "ip route del prohibit $FAR",
    ),
    (
        "EINVAL",
        "ip route add blackhole $FAR",
        "ip route del blackhole $FAR",
    ),
    (
        "ENETDOWN",
        "ip link set eth0 down",
        "ip link set eth0 up; ip route replace default via $GATE",
    ),
    (
        "EADDRNOTAVAIL",
        "ip address del $OWN dev eth0",
        "ip address add $OWN dev eth0; ip route replace default via $GATE",
    ),
];

/// Lets the sends of a host fail in every way, and expects the tunnel to work again each time.
fn fail_and_recover(tunnel: &Tunnel, host: &Host, [own, far, gate]: [&str; 3]) {
    let beat = Heartbeat::start(
        tunnel.lab.client(),
        &tunnel.lab.server,
        tunnel.client.inner.server4(),
    );
    let sender = proc::twins(tunnel.client.pid());
    for (name, start, end) in FAILURES {
        beat.wait_beats(20);
        let fill = |text: &str| {
            let text = text.replace("$OWN", own).replace("$FAR", far);
            text.replace("$GATE", gate)
        };
        host.sh(&fill(start));
        beat.wait_silence(Instant::now());
        host.sh(&fill(end));
        let time = beat.recovery(Instant::now());
        report_recovery(format_args!("{name} on {}", host.name()), time);
        // The next packet has to do: a keepalive is 25 s away.
        assert!(time < Duration::from_secs(5), "{name}: {time:?}");
    }
    assert_eq!(proc::twins(tunnel.client.pid()), sender);
    // A minute has not passed: at most a line for each reason to send.
    for lines in [&tunnel.client.lines, &tunnel.server.lines] {
        lines.exactly("starting it again", 0);
        assert!(lines.count("unable to send") <= 3, "{:?}", lines.all());
    }
}

#[test]
#[ignore = "needs root"]
fn failing_sends_of_the_client_lose_the_packet_only() {
    let tunnel = Tunnel::up(Lab::routed(1), &[], &["-k", "25"]);
    let ends = ["192.168.1.2/24", SERVER4, "192.168.1.1"];
    fail_and_recover(&tunnel, tunnel.lab.client(), ends);
}

#[test]
#[ignore = "needs root"]
fn failing_sends_of_the_server_lose_the_packet_only() {
    let tunnel = Tunnel::up(Lab::routed(1), &[], &["-k", "25"]);
    let ends = ["198.51.100.1/24", "192.168.1.2", "198.51.100.2"];
    fail_and_recover(&tunnel, &tunnel.lab.server, ends);
}

#[test]
#[ignore = "needs root"]
fn a_port_that_nobody_listens_on() {
    // ICMP port unreachable, ECONNREFUSED for sockets that are connected.
    let lab = Lab::direct();
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    client.lines.wait("no answer from");
    assert!(client.runs());
    let _server = Server::new(&lab.server, [1]).start();
    let since = Instant::now();
    client.wait_up();
    report_recovery("server started late", since.elapsed());
    assert_eq!(proc::twins(client.pid()).len(), 1);
}

#[test]
#[ignore = "needs root"]
fn a_path_that_shrinks() {
    // EMSGSIZE and fragments: the local end knows the path's MTU.
    let tunnel = Tunnel::plain(Lab::direct());
    for mtu in ["1300", "600", "1500"] {
        for host in [tunnel.lab.client(), &tunnel.lab.server] {
            host.ip(&format!("link set eth0 mtu {mtu}"));
        }
        let options = ["-s", "1392", "-M", "do"];
        let to = tunnel.client.inner.server4();
        assert_pings(tunnel.lab.client(), to, 5, &options);
    }
}

#[test]
#[ignore = "needs root"]
fn a_forged_icmp_narrows_no_path() {
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let line = tunnel.server.report(" heard ");
    let outer = line
        .split(' ')
        .find(|word| word.starts_with("198.51.100.2:"));
    let far: SocketAddrV4 = outer.unwrap().parse().unwrap();
    let near = v4(SERVER4, 5886);
    for (victim, other, own, peer) in [(server, client, near, far), (client, server, far, near)] {
        // Fragmentation needed, MTU 552 (RFC 1191, 4), for a packet of the tunnel.
        let mut icmp = vec![3, 4, 0, 0, 0, 0, 2, 40];
        icmp.extend(&udp_packet(own, peer, &[0; 1400])[..28]);
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        Forger::new(other).packet(&ipv4_packet(peer, own, 1, &icmp), own);
        // What comes behind has passed, so it has been looked at.
        wait_ping(other, (*own.ip()).into());
        let way = victim.ip(&format!("route get {}", peer.ip()));
        assert!(!way.contains("mtu 552"), "{way}");
    }
}

/// Tells either end of a tunnel over IPv6, in the name of a router, that its datagrams are too big
/// (RFC 4443, 3.2), and returns what the route to the other end is then.
fn forge_too_big(tunnel: &Tunnel) -> [String; 2] {
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let line = tunnel.server.report(" heard ");
    let outer = line
        .split(' ')
        .find(|word| word.starts_with("[2001:db8::2]:"));
    let far: SocketAddrV6 = outer.unwrap().parse().unwrap();
    let near = SocketAddrV6::new(SERVER6.parse().unwrap(), 5886, 0, 0);
    [(server, client, near, far), (client, server, far, near)].map(|(victim, other, own, peer)| {
        let mut message = vec![2, 0, 0, 0, 0, 0, 5, 0];
        message.extend([0x60, 0, 0, 0, 5, 100, 17, 64]);
        message.extend([own.ip().octets(), peer.ip().octets()].concat());
        for field in [own.port(), peer.port(), 1380, 0] {
            message.extend(field.to_be_bytes());
        }
        send_icmp6(other, *own.ip(), &message);
        // What comes behind has passed, so it has been looked at.
        wait_ping(other, (*own.ip()).into());
        victim.ip(&format!("route get {}", peer.ip()))
    })
}

#[test]
#[ignore = "needs root"]
fn a_forged_icmp6_narrows_no_path_for_small_packets() {
    let up = |mtu: &str| {
        let lab = Lab::direct();
        let server = Server::new(&lab.server, [1]).options(&["-m", mtu]).start();
        let client = Client::new(lab.client(), 1)
            .to(SERVER6)
            .options(&["-k", "1", "-m", mtu]);
        let client = client.start();
        client.lines.wait("answers from");
        Tunnel {
            client,
            server,
            lab,
        }
    };
    for way in forge_too_big(&up("1200")) {
        assert!(!way.contains("mtu 1280"), "{way}");
    }
    // Larger ones need to hear of a narrow path.
    for way in forge_too_big(&up("1225")) {
        assert!(way.contains("mtu 1280"), "{way}");
    }
}

/// Waits for datagrams that leave the host in one call, which the kernel shows as one; large ones
/// do with -O.
fn wait_segments(host: &Host, what: &str) {
    let least = if offload_by_default() { 1500 } else { 1000 };
    Sniffer::new(host, "eth0").wait(what, |packet| {
        sniffer::udp(packet).is_some_and(|(from, to, content)| {
            (from == 5886 || to == 5886) && content.len() > least
        })
    });
}

#[test]
#[ignore = "needs root"]
fn a_blackhole_under_load_is_no_reason_to_send_singly() {
    let tunnel = Tunnel::plain(Lab::direct());
    let (near, far, inner) = (tunnel.lab.client(), &tunnel.lab.server, tunnel.client.inner);
    for (host, other, to, outer, lines) in [
        (near, far, inner.server4(), SERVER4, &tunnel.client.lines),
        (
            far,
            near,
            inner.client4(),
            "198.51.100.2",
            &tunnel.server.lines,
        ),
    ] {
        let _load = Stream::start(host, other, to);
        wait_segments(host, "segments");
        for _ in 0..5 {
            host.ip(&format!("route add blackhole {outer}"));
            lines.wait("unable to send");
            host.ip(&format!("route del blackhole {outer}"));
        }
        wait_segments(host, "segments after a blackhole");
        lines.exactly("one by one", 0);
    }
}

#[test]
#[ignore = "needs root"]
fn a_source_of_ipv6_that_is_gone_is_no_reason_to_send_singly() {
    let lab = Lab::direct();
    let server = &lab.server;
    addresses(server, "eth0", &["2001:db8::10/64"]);
    let program = Server::new(server, [1]).start();
    let client = Client::new(lab.client(), 1)
        .to("2001:db8::10")
        .options(&["-k", "1"])
        .start();
    client.wait_up();
    let to = (client.inner.client4(), 9);
    let load = Flood::cut(server, to, vec![7; 50_000], 1000);
    wait_segments(server, "segments");
    server.ip("address del 2001:db8::10/64 dev eth0");
    let least = if offload_by_default() { 1500 } else { 1000 };
    let left = SERVER6.parse::<Ipv6Addr>().unwrap().octets();
    let sniffer = Sniffer::leaving(server, "eth0");
    for _ in 0..100 {
        sniffer.wait("segments from the address that is left", |packet| {
            sniffer::udp(packet).is_some_and(|(from, _, content)| {
                from == 5886 && content.len() > least && packet[8..24] == left
            })
        });
    }
    load.stop();
    program.lines.exactly("one by one", 0);
}

#[test]
#[ignore = "needs root"]
fn an_identifier_of_another_host_moves_the_tunnel_and_back() {
    // The last one to speak has it; the log tells of it now and then.
    let lab = Lab::behind_nat(2);
    let server = Server::new(&lab.server, [1]).start();
    let clients: Vec<Client> = lab
        .clients
        .iter()
        .map(|host| Client::new(host, 1).options(&["-k", "1"]).start())
        .collect();
    for round in 0..3 {
        for client in &clients {
            wait_ping(&client.host, Inner(1).server4());
            assert!(client.runs(), "round {round}");
        }
    }
    server.lines.wait("moved from");
    assert!(server.lines.count("moved from") <= 2);
    server.lines.exactly("admitted from", 1);
    assert_eq!(lab.server.tuns().len(), 1);
}

#[test]
#[ignore = "needs root"]
fn keepalives_without_end_are_not_all_answered() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1]).start();
    let peer = Peer::new(lab.client());
    peer.knock(&client_id(1), TO, SERVER_ID);
    let since = Instant::now();
    for counter in 0..20_000 {
        peer.send(&client_id(1), &keepalive(counter), TO);
    }
    let mut answers = 0;
    while peer.receive_within(Duration::from_millis(300)).is_some() {
        answers += 1;
    }
    let limit = 1000 * (since.elapsed().as_secs() + 2);
    assert!((900..=limit).contains(&answers), "{answers}, not {limit}");
    // And soon all are answered again.
    peer.knock(&client_id(1), TO, SERVER_ID);
}
