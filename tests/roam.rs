//! Addresses change, mappings go stale, names move: the tunnel follows without anybody's help. How
//! long it takes is printed.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::config::{SERVER_ID, client_id};
use support::flood::Flood;
use support::heartbeat::Heartbeat;
use support::host::Host;
use support::lab::{Lab, SERVER4, SERVER6, addresses, cable};
use support::lines::Lines;
use support::peer::{Peer, answer, datagram, keepalive};
use support::proc;
use support::sniffer::{self, Sniffer};
use support::traffic::{Transfer, tcp_both_ways, wait_ping};
use support::tunnel::{Client, Server, Tunnel};
use support::wait::{PATIENCE, SLACK, report_recovery, wait_until};

/// The keepalive interval of most tests here.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// At once, on a busy machine: far below the usual keepalive interval of 25 s.
const SOON: Duration = Duration::from_secs(5);

/// Where the client's datagrams come from, as the server last logged it.
fn endpoint(lines: &Lines) -> String {
    let lines = lines.all();
    let last = lines
        .iter()
        .rev()
        .find_map(|line| match line.split_once(" moved from ") {
            Some((_, rest)) => rest.split(' ').nth(2),
            None => line.split_once(" admitted from ")?.1.split(' ').next(),
        });
    last.unwrap().to_owned()
}

#[test]
#[ignore = "needs root"]
fn the_clients_address_changes_under_traffic() {
    let tunnel = Tunnel::up(Lab::direct(), &[], &["-k", "25"]);
    let client = tunnel.lab.client();
    let beat = Heartbeat::start(client, &tunnel.lab.server, tunnel.client.inner.server4());
    beat.wait_beats(20);
    client.ip("address del 198.51.100.2/24 dev eth0");
    client.ip("address add 198.51.100.3/24 dev eth0");
    let time = beat.recovery(Instant::now());
    report_recovery("new client address under traffic", time);
    assert!(
        time < SOON,
        "the next packet had to do, not a keepalive: {time:?}"
    );
    tunnel.server.lines.wait("moved from 198.51.100.2:");
    assert!(endpoint(&tunnel.server.lines).starts_with("198.51.100.3:"));
}

#[test]
#[ignore = "needs root"]
fn the_clients_address_changes_while_idle() {
    let tunnel = Tunnel::plain(Lab::direct());
    let client = tunnel.lab.client();
    // From the server, so that the client says nothing of its own accord.
    let beat = Heartbeat::start(&tunnel.lab.server, client, tunnel.client.inner.client4());
    beat.wait_beats(20);
    client.ip("address del 198.51.100.2/24 dev eth0");
    client.ip("address add 198.51.100.3/24 dev eth0");
    let time = beat.recovery(Instant::now());
    report_recovery("new client address, idle client, keepalive 1 s", time);
    assert!(time < KEEPALIVE + SLACK, "{time:?}");
}

#[test]
#[ignore = "needs root"]
fn the_clients_address_goes_and_comes_back() {
    for (server, own, device_address) in [
        (SERVER4, "198.51.100.2", "198.51.100.2/24"),
        (SERVER6, "2001:db8::2", "2001:db8::2/64"),
    ] {
        let lab = Lab::direct();
        let _server = Server::new(&lab.server, [1]).start();
        let client = Client::new(lab.client(), 1)
            .to(server)
            .options(&["-k", "25"])
            .start();
        client.wait_up();
        let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
        beat.wait_beats(10);
        lab.client()
            .ip(&format!("address del {device_address} dev eth0"));
        // Sends fail meanwhile: there is no address to send from, or no route.
        client.lines.wait("unable to send");
        lab.client()
            .ip(&format!("address add {device_address} dev eth0"));
        let time = beat.recovery(Instant::now());
        report_recovery(format_args!("address {own} back"), time);
        assert!(time < SOON, "{time:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn the_clients_interface_goes_down_and_up() {
    let tunnel = Tunnel::plain(Lab::direct());
    let client = tunnel.lab.client();
    let beat = Heartbeat::start(client, &tunnel.lab.server, tunnel.client.inner.server4());
    beat.wait_beats(10);
    client.ip("link set eth0 down");
    tunnel.client.lines.wait("unable to send");
    client.ip("link set eth0 up");
    let time = beat.recovery(Instant::now());
    report_recovery("interface up again", time);
    assert!(time < KEEPALIVE + SLACK, "{time:?}");
}

/// A client behind NAT with a second way to the router, 192.168.99.1, that is not used yet.
fn two_uplinks() -> (Lab, Host) {
    let lab = Lab::behind_nat(1);
    let client = lab.client().clone();
    cable(&client, "eth1", lab.router(), "backup");
    addresses(&client, "eth1", &["192.168.99.2/24"]);
    addresses(lab.router(), "backup", &["192.168.99.1/24"]);
    (lab, client)
}

#[test]
#[ignore = "needs root"]
fn another_uplink_takes_over() {
    let (lab, client) = two_uplinks();
    let tunnel = Tunnel::up(lab, &[], &["-k", "25"]);
    let beat = Heartbeat::start(&client, &tunnel.lab.server, tunnel.client.inner.server4());
    beat.wait_beats(10);
    client.ip("route replace default via 192.168.99.1");
    client.ip("link set eth0 down");
    let time = beat.recovery(Instant::now());
    report_recovery("second uplink", time);
    assert!(time < SOON, "{time:?}");
}

#[test]
#[ignore = "needs root"]
fn what_is_stuck_in_the_old_uplink_keeps_nobody_from_the_new_one() {
    let (lab, client) = two_uplinks();
    let tunnel = Tunnel::plain(lab);
    let inner = tunnel.client.inner;
    // A modem that has stalled, and has room for many.
    client.sh("tc qdisc add dev eth0 root tbf rate 100bit burst 2kb limit 50mb");
    let beat = Heartbeat::start(&client, &tunnel.lab.server, inner.server4());
    beat.wait_beats(10);
    let flood = Flood::start(&client, (inner.server4(), 9), 1300, 1300);
    beat.wait_silence(Instant::now());
    flood.stop();
    client.ip("route replace default via 192.168.99.1");
    let time = beat.recovery(Instant::now());
    report_recovery("an uplink that has stalled", time);
    // Three keepalives, for which there was no room.
    assert!(time < 4 * KEEPALIVE + SOON, "{time:?}");
}

#[test]
#[ignore = "needs root"]
fn the_nat_forgets_and_maps_anew() {
    let lab = Lab::routed(1);
    addresses(lab.router(), "wan", &["198.51.100.3/24"]);
    lab.nat("meta l4proto udp snat to 198.51.100.2:40000-40099");
    let tunnel = Tunnel::plain(lab);
    assert!(endpoint(&tunnel.server.lines).starts_with("198.51.100.2:400"));
    let inner = tunnel.client.inner;
    let beat = Heartbeat::start(&tunnel.lab.server, tunnel.lab.client(), inner.client4());
    beat.wait_beats(10);
    // Another address and another port at once.
    tunnel
        .lab
        .nat("meta l4proto udp snat to 198.51.100.3:50000-50099");
    tunnel.lab.forget_mappings();
    let time = beat.recovery(Instant::now());
    report_recovery("NAT rebound, idle client, keepalive 1 s", time);
    assert!(time < KEEPALIVE + SLACK, "{time:?}");
    tunnel.server.lines.wait("moved from 198.51.100.2:400");
    assert!(endpoint(&tunnel.server.lines).starts_with("198.51.100.3:500"));
}

#[test]
#[ignore = "needs root"]
fn keepalives_hold_a_mapping_of_two_seconds() {
    let lab = Lab::behind_nat(1);
    for timeout in [
        "nf_conntrack_udp_timeout",
        "nf_conntrack_udp_timeout_stream",
    ] {
        lab.router()
            .sysctl(&format!("net/netfilter/{timeout}"), "2");
    }
    let tunnel = Tunnel::plain(lab);
    // Five keepalives; then the server reaches the client by the mapping they held.
    let keepalives = Sniffer::new(&tunnel.lab.server, "eth0");
    for _ in 0..5 {
        keepalives.wait("a keepalive", |packet| {
            sniffer::udp(packet).is_some_and(|(_, to, payload)| to == 5886 && payload.len() == 13)
        });
    }
    wait_ping(&tunnel.lab.server, tunnel.client.inner.client4());
    tunnel.server.lines.exactly("moved from", 0);
}

#[test]
#[ignore = "needs root"]
fn a_stale_mapping_is_left_for_a_new_source_port() {
    let lab = Lab::routed(1);
    lab.nat("snat to 198.51.100.2");
    let tunnel = Tunnel::plain(lab);
    let router = tunnel.lab.router();
    let beat = Heartbeat::start(
        tunnel.lab.client(),
        &tunnel.lab.server,
        tunnel.client.inner.server4(),
    );
    beat.wait_beats(10);
    let sender = proc::twins(tunnel.client.pid());
    // The router's uplink gets another address. The mapping still has the old one, and steady
    // traffic keeps it alive.
    tunnel.lab.nat("snat to 198.51.100.3");
    router.ip("address add 198.51.100.3/24 dev wan");
    router.ip("address del 198.51.100.2/24 dev wan");
    tunnel
        .lab
        .server
        .ip("route replace default via 198.51.100.3");
    tunnel.lab.server.ip("neigh flush dev eth0");
    let time = beat.recovery(Instant::now());
    report_recovery(
        "stale NAT mapping, three keepalives of 1 s unanswered",
        time,
    );
    assert!(time > KEEPALIVE, "the mapping was not stale: {time:?}");
    assert!(time < KEEPALIVE * 4 + SLACK, "{time:?}");
    tunnel.client.lines.wait("new source port");
    assert!(endpoint(&tunnel.server.lines).starts_with("198.51.100.3:"));
    assert_ne!(
        proc::twins(tunnel.client.pid()),
        sender,
        "the sender has the new socket"
    );
}

/// Lets nothing pass from the client to the server any more, as it has been sent so far.
fn block_the_way_up(tunnel: &Tunnel) {
    let port = endpoint(&tunnel.server.lines);
    let port = port.rsplit(':').next().unwrap();
    let rule = format!("udp sport {port} udp dport 5886 drop");
    tunnel.lab.router().filter("up", "forward", &rule);
}

/// The report's words for what had no answer, and for the round trip.
fn answers(client: &Client) -> (u32, String) {
    let line = client.report("status: device");
    let (before, rest) = line
        .split_once(" keepalives unanswered, round trip ")
        .unwrap();
    let number = before.rsplit(' ').next().unwrap().parse().unwrap();
    (number, rest.split(',').next().unwrap().to_owned())
}

#[test]
#[ignore = "needs root"]
fn a_way_that_is_dead_from_here_to_there_is_left_however_much_comes() {
    let tunnel = Tunnel::plain(Lab::routed(1));
    let inner = tunnel.client.inner;
    // The server talks all the time.
    let beat = Heartbeat::start(&tunnel.lab.server, tunnel.lab.client(), inner.client4());
    beat.wait_beats(10);
    tunnel.client.lines.wait("answers from");
    let (unanswered, round_trip) = answers(&tunnel.client);
    assert!(unanswered <= 1, "{unanswered}");
    assert!(
        round_trip.contains(" ms ") && round_trip.ends_with(" s ago"),
        "{round_trip}"
    );
    block_the_way_up(&tunnel);
    let time = beat.recovery(Instant::now());
    report_recovery("a way that is dead one way, keepalive 1 s", time);
    assert!(time > KEEPALIVE, "it was not dead: {time:?}");
    assert!(time < KEEPALIVE * 4 + SLACK, "{time:?}");
    let line = tunnel
        .client
        .lines
        .wait("no answer from 198.51.100.1:5886 for ");
    assert!(line.ends_with(" s: new source port"), "{line}");
    tunnel.client.lines.wait_nth("answers from", 2);
}

#[test]
#[ignore = "needs root"]
fn the_report_tells_how_many_keepalives_had_no_answer() {
    let tunnel = Tunnel::up(Lab::routed(1), &[], &["-p", "4444"]);
    let inner = tunnel.client.inner;
    let beat = Heartbeat::start(&tunnel.lab.server, tunnel.lab.client(), inner.client4());
    tunnel.client.lines.wait("answers from");
    block_the_way_up(&tunnel);
    beat.wait_silence(Instant::now());
    wait_until(PATIENCE, "five keepalives", || {
        answers(&tunnel.client).0 >= 5
    });
    let (_, round_trip) = answers(&tunnel.client);
    assert_eq!(round_trip, "unknown");
    // All the time the server is heard.
    let line = tunnel.client.report("status: device");
    assert!(
        line.contains(", heard 0 s ago, ") || line.contains(", heard 1 s ago, "),
        "{line}"
    );
    tunnel.lab.router().filter("up", "forward", "accept");
    wait_until(PATIENCE, "an answer", || answers(&tunnel.client).0 <= 1);
}

#[test]
#[ignore = "needs root"]
fn a_fixed_source_port_stays() {
    let lab = Lab::direct();
    let peer = Peer::bound(&lab.server, "[::]:5886");
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "1", "-p", "4444"])
        .start_with(&["/bin/true"]);
    let from: Vec<u16> = (0..8).map(|_| peer.receive().1.port()).collect();
    assert_eq!(from, [4444; 8]);
    client.lines.wait("no answer");
    client.lines.exactly("new source port", 0);
}

#[test]
#[ignore = "needs root"]
fn three_keepalives_without_an_answer_change_the_port() {
    let lab = Lab::direct();
    let peer = Peer::bound(&lab.server, "[::]:5886");
    let _client = Client::new(lab.client(), 1)
        .options(&["-k", "1"])
        .start_with(&["/bin/true"]);
    let mut ports: Vec<u16> = Vec::new();
    let mut counters = Vec::new();
    for _ in 0..7 {
        let (content, from) = peer.receive();
        assert_eq!(content[..8], support::config::bytes(&client_id(1)));
        assert_eq!((content[8], content.len()), (1, 13), "{content:02x?}");
        ports.push(from.port());
        counters.push(u32::from_be_bytes(content[9..].try_into().unwrap()));
    }
    assert!(!ports.contains(&0));
    assert!(ports[..3].iter().all(|p| *p == ports[0]), "{ports:?}");
    assert!(ports[3..6].iter().all(|p| *p == ports[3]), "{ports:?}");
    assert!(ports[0] != ports[3] && ports[3] != ports[6], "{ports:?}");
    let steps: Vec<u32> = counters
        .windows(2)
        .map(|pair| pair[1].wrapping_sub(pair[0]))
        .collect();
    assert_eq!(steps, [1; 6], "{counters:?}");
}

#[test]
#[ignore = "needs root"]
fn without_keepalives_nothing_is_tried() {
    let lab = Lab::direct();
    let peer = Peer::bound(&lab.server, "[::]:5886");
    let client = Client::new(lab.client(), 1).options(&["-k", "0"]).start();
    wait_until(PATIENCE, "the device's address", || {
        lab.client()
            .ip("-br address show up type tun")
            .contains(" 10.0.1.2 ")
    });
    // Pings for four seconds, which nobody answers.
    let address = client.inner.server4();
    lab.client()
        .sh(&format!("ping -n -i 0.1 -c 40 -W 0.1 {address} || :"));
    let mut ports = Vec::new();
    while let Some((content, from)) = peer.receive_within(Duration::from_millis(50)) {
        assert!(
            [4, 6].contains(&(content[8] >> 4)),
            "no keepalive: {content:02x?}"
        );
        ports.push(from.port());
    }
    assert!(ports.len() >= 40, "{}", ports.len());
    ports.dedup();
    assert_eq!(ports.len(), 1);
    client.lines.exactly("no answer", 0);
}

#[test]
#[ignore = "needs root"]
fn without_keepalives_hup_finds_another_address() {
    let lab = Lab::direct();
    let name = "tunnel.example";
    lab.client().etc("hosts", &format!("198.51.100.9 {name}\n"));
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1)
        .to(name)
        .options(&["-k", "0"])
        .start();
    client.lines.wait("sending to 198.51.100.9:5886");
    // The old one is still among them.
    let names = format!("{SERVER4} {name}\n198.51.100.9 {name}\n");
    lab.client().etc("hosts", &names);
    client.signal(Signal::SIGHUP);
    client.lines.wait(&format!("sending to {SERVER4}:5886"));
    wait_ping(lab.client(), client.inner.server4());
}

#[test]
#[ignore = "needs root"]
fn a_resolver_that_can_not_start_has_a_line() {
    let lab = Lab::direct();
    let names = format!("{SERVER4} tunnel.example\n");
    lab.client().etc("hosts", &names);
    let client = Client::new(lab.client(), 1)
        .to("tunnel.example")
        .with(|launch| launch.failing("?clone,?clone3,?fork,?vfork", "error=EAGAIN:when=1"))
        .start_with(&["/bin/true"]);
    client
        .lines
        .wait("unable to resolve tunnel.example: no helper: ");
    client.lines.wait("server tunnel.example resolved to ");
}

#[test]
#[ignore = "needs root"]
fn what_a_resolver_leaves_behind_holds_nothing_up() {
    // A name service module that leaves a process with all that was open.
    const MODULE: &str = r"
        #include <nss.h>
        #include <unistd.h>
        enum nss_status _nss_leave_gethostbyname4_r(void) {
            if (fork() == 0) { sleep(100); _exit(0); }
            return NSS_STATUS_NOTFOUND;
        }
    ";
    let lab = Lab::direct();
    let host = lab.client();
    host.sh(&format!(
        "echo '{MODULE}' >leave.c && cc -shared -fPIC -o libnss_leave.so.2 leave.c"
    ));
    host.etc("nsswitch.conf", "hosts: leave files\n");
    host.etc("hosts", &format!("{SERVER4} tunnel.example\n"));
    let path = format!("LD_LIBRARY_PATH={}", host.path("").display());
    let since = Instant::now();
    let client = Client::new(host, 1)
        .to("tunnel.example")
        .with(|launch| launch.under(&["env", &path]))
        .start_with(&["/bin/true"]);
    client.lines.wait("sending to 198.51.100.1:5886");
    let time = since.elapsed();
    assert!(time < Duration::from_secs(50), "{time:?}");
}

#[test]
#[ignore = "needs root"]
fn only_what_is_accepted_counts_as_heard() {
    let lab = Lab::direct();
    let peer = Peer::bound(&lab.server, "[::]:5886");
    let elsewhere = Peer::new(&lab.server);
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "1"])
        .start_with(&["/bin/true"]);
    // The answer to a keepalive, and where it is to go.
    let asked = || {
        let (content, from) = peer.receive();
        let counter = u32::from_be_bytes(content[9..].try_into().unwrap());
        (counter, from.ip().to_string(), from.port())
    };
    let (mut counter, mut ip, mut port) = asked();
    let first = port;
    for _ in 0..4 {
        let to = (&*ip, port);
        // The right identifier from a wrong port, a wrong one from the right port, and the right one
        // with everything but an answer to what was asked.
        elsewhere.send(SERVER_ID, &answer(counter), to);
        peer.send(&client_id(9), &answer(counter), to);
        peer.send_raw(&[0; 7], to);
        for wrong in [counter.wrapping_add(1), counter.wrapping_sub(100)] {
            peer.send(SERVER_ID, &answer(wrong), to);
        }
        peer.send(SERVER_ID, &[], to);
        (counter, ip, port) = asked();
    }
    assert_ne!(first, port);
    client.lines.wait("no answer");
    client.lines.exactly("answers from", 0);
    // The real one counts.
    while client.lines.count("answers from") == 0 {
        let (counter, ip, port) = asked();
        peer.send(SERVER_ID, &answer(counter), (&ip, port));
    }
}

#[test]
#[ignore = "needs root"]
fn the_servers_name_moves() {
    let lab = Lab::direct();
    let (server_host, client_host) = (&lab.server, lab.client());
    client_host.etc("hosts", &format!("{SERVER4} tunnel.example\n"));
    let prog_runs = "echo $TUN_SERVER_ADDRESS $TUN_SERVER_PORT >>$0.runs";
    let prog = support::tunnel::client_prog(client_host, "up", 1, prog_runs);
    let _server = Server::new(server_host, [1]).start();
    let client = Client::new(client_host, 1)
        .to("tunnel.example")
        .options(&["-k", "1"])
        .start_with(&[prog]);
    client.wait_up();
    client
        .lines
        .wait("server tunnel.example resolved to 198.51.100.1:5886");
    let tun = client_host.tuns();
    let (up, down) = (
        Heartbeat::start(client_host, server_host, client.inner.server4()),
        Heartbeat::start(server_host, client_host, client.inner.client4()),
    );
    up.wait_beats(10);
    client_host.etc("hosts", "198.51.100.9 tunnel.example\n");
    server_host.ip("address add 198.51.100.9/24 dev eth0");
    server_host.ip("address del 198.51.100.1/24 dev eth0");
    let since = Instant::now();
    let (up, down) = (up.recovery(since), down.recovery(since));
    report_recovery("server's name moved, from the client", up);
    report_recovery("server's name moved, from the server", down);
    assert!(up.max(down) < KEEPALIVE * 5 + SLACK, "{up:?} {down:?}");
    client.lines.wait("sending to 198.51.100.9:5886");
    assert_eq!(client_host.tuns(), tun, "the device stays");
    assert_eq!(
        client_host.read("up.runs"),
        "198.51.100.1 5886\n",
        "PROG ran once"
    );
}

#[test]
#[ignore = "needs root"]
fn the_servers_name_moves_from_an_address_without_a_way() {
    let lab = Lab::direct();
    let name = |address: &str| {
        lab.client()
            .etc("hosts", &format!("{address} tunnel.example\n"))
    };
    // A name server that lies at boot: nothing may be sent to this address.
    name("255.255.255.255");
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1)
        .to("tunnel.example")
        .options(&["-k", "1"])
        .start();
    client
        .lines
        .wait("unable to send to 255.255.255.255:5886: ");
    name(SERVER6);
    client.wait_up();
    // The uplink has no IPv6 any more.
    lab.client().ip("-6 address flush dev eth0");
    lab.client().ip("-6 route flush dev eth0");
    name(SERVER4);
    let since = Instant::now();
    client.lines.wait("sending to 198.51.100.1:5886");
    report_recovery(
        "server's name moved, no way to the old address",
        since.elapsed(),
    );
    client.wait_up();
}

#[test]
#[ignore = "needs root"]
fn all_addresses_of_a_name_are_tried() {
    let lab = Lab::direct();
    // In the order in which getaddrinfo returns them (RFC 6724).
    let addresses = ["2001:db8::9", "198.51.100.3", SERVER4];
    let lines = addresses.map(|address| format!("{address} tunnel.example\n"));
    lab.client().etc("hosts", &lines.concat());
    let _server = Server::new(&lab.server, [1]).start();
    let started = Instant::now();
    let client = Client::new(lab.client(), 1)
        .to("tunnel.example")
        .options(&["-k", "1"])
        .start();
    client.wait_up();
    report_recovery(
        "the working one of three addresses found",
        started.elapsed(),
    );
    client.lines.wait("answers from 198.51.100.1:5886");
    client.lines.wait("sending to 198.51.100.1:5886");
}

/// A client with keepalives as usual, far apart, and how long it takes to find its server.
fn time_of_first_answer(client: Client) -> (Client, Duration) {
    let started = Instant::now();
    let client = client.start();
    client.lines.wait("answers from 198.51.100.1:5886");
    (client, started.elapsed())
}

#[test]
#[ignore = "needs root"]
fn a_datagram_lost_at_the_start_costs_a_second() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1]).start();
    // The first keepalive.
    let rule = "udp dport 5886 udp length 21 limit rate 1/day burst 1 packets drop";
    lab.server.filter("lost", "input", rule);
    let (client, time) = time_of_first_answer(Client::new(lab.client(), 1));
    report_recovery("the first datagram was lost", time);
    assert!(time > KEEPALIVE, "it was not lost: {time:?}");
    assert!(time < Duration::from_secs(2) + SLACK, "{time:?}");
    client.wait_up();
}

#[test]
#[ignore = "needs root"]
fn a_first_address_that_is_a_black_hole_costs_a_second() {
    let lab = Lab::direct();
    addresses(&lab.server, "eth0", &["198.51.100.3/24"]);
    let rule = "ip daddr 198.51.100.3 drop";
    lab.server.filter("hole", "input", rule);
    let names = format!("198.51.100.3 tunnel.example\n{SERVER4} tunnel.example\n");
    lab.client().etc("hosts", &names);
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1).to("tunnel.example");
    let (client, time) = time_of_first_answer(client);
    report_recovery("the first address is a black hole", time);
    assert!(time < Duration::from_secs(3) + SLACK, "{time:?}");
    client.lines.wait("sending to 198.51.100.3:5886");
    client.lines.wait("sending to 198.51.100.1:5886");
    client.wait_up();
    // It stays with the one that answers.
    lab.server.filter("hole", "input", "accept");
    wait_ping(lab.client(), client.inner.server4());
    client.lines.exactly("sending to ", 2);
    client.lines.exactly("no answer", 0);
}

#[test]
#[ignore = "needs root"]
fn an_identifier_authorised_a_second_too_late_costs_three() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, []).start();
    let client = Client::new(lab.client(), 1);
    let late = {
        let (lines, config) = (server.lines.clone(), server.config.clone());
        lab.server.thread(move || {
            lines.wait("not authorised");
            std::thread::sleep(Duration::from_millis(1200));
            config.authorise(&client_id(1));
        })
    };
    let (client, time) = time_of_first_answer(client);
    late.join().unwrap();
    report_recovery("authorised a second too late", time);
    assert!(time > KEEPALIVE, "it was not late: {time:?}");
    assert!(time < Duration::from_secs(3) + SLACK, "{time:?}");
    client.wait_up();
}

#[test]
#[ignore = "needs root"]
fn a_search_asks_all_addresses_in_turn_and_is_told_after_ten_seconds() {
    let lab = Lab::direct();
    addresses(&lab.server, "eth0", &["198.51.100.3/24"]);
    let names = format!("198.51.100.3 tunnel.example\n{SERVER4} tunnel.example\n");
    lab.client().etc("hosts", &names);
    let peers = ["198.51.100.3:5886", "198.51.100.1:5886"].map(|a| Peer::bound(&lab.server, a));
    let started = Instant::now();
    let client = Client::new(lab.client(), 1)
        .to("tunnel.example")
        .start_with(&["/bin/true"]);
    let mut times = Vec::new();
    for n in 0..5 {
        peers[n % 2].receive();
        times.push(Instant::now());
    }
    let waits: Vec<f64> = times
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs_f64())
        .collect();
    for (wait, expected) in waits.iter().zip([1.0, 2.0, 4.0, 8.0]) {
        assert!((wait - expected).abs() < 0.9, "{waits:?}");
    }
    let lines = client.lines.exactly("no answer", 1);
    let said = "no answer from 198.51.100.3:5886, 198.51.100.1:5886 for 10 s";
    assert!(lines[0].ends_with(said), "{lines:?}");
    let told = client.lines.time_of("no answer", 1).unwrap() - started;
    report_recovery("a line that nobody answers", told);
    assert!(told < Duration::from_secs(10) + SLACK, "{told:?}");
}

#[test]
#[ignore = "needs root"]
fn after_a_silence_the_other_address_is_asked_within_a_second() {
    let lab = Lab::direct();
    addresses(&lab.server, "eth0", &["198.51.100.3/24"]);
    let names = format!("198.51.100.3 tunnel.example\n{SERVER4} tunnel.example\n");
    lab.client().etc("hosts", &names);
    let tunnel_server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1)
        .to("tunnel.example")
        .options(&["-k", "2"])
        .start();
    client.wait_up();
    client.lines.wait("answers from 198.51.100.3:5886");
    let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
    beat.wait_beats(10);
    lab.server
        .filter("hole", "input", "ip daddr 198.51.100.3 drop");
    let time = beat.recovery(Instant::now());
    report_recovery("one of two addresses is gone, keepalive 2 s", time);
    // Three keepalives, and one to each of the two.
    assert!(time < 4 * 2 * KEEPALIVE + KEEPALIVE + SLACK, "{time:?}");
    let line = client.lines.wait("no answer from 198.51.100.3:5886");
    assert!(line.ends_with(" s: new source port"), "{line}");
    client.lines.wait("sending to 198.51.100.1:5886");
    client.lines.wait("answers from 198.51.100.1:5886");
    tunnel_server.lines.exactly("admitted", 1);
}

#[test]
#[ignore = "needs root"]
fn a_full_buffer_is_no_reason_for_another_address() {
    let lab = Lab::direct();
    addresses(&lab.server, "eth0", &["198.51.100.3/24"]);
    let names = format!("198.51.100.3 tunnel.example\n{SERVER4} tunnel.example\n");
    lab.client().etc("hosts", &names);
    let _server = Server::new(&lab.server, [1]).start();
    // The third keepalive; the sender is another process.
    let client = Client::new(lab.client(), 1)
        .to("tunnel.example")
        .options(&["-k", "1"])
        .with(|launch| launch.failing("sendto", "error=EAGAIN:when=3"))
        .start_with(&["/bin/true"]);
    client.lines.wait("answers from 198.51.100.3:5886");
    wait_until(PATIENCE, "the keepalive after", || {
        let calls = lab.client().read("trace");
        calls
            .split_once("INJECTED")
            .is_some_and(|(_, rest)| rest.contains("sendto("))
    });
    client.lines.exactly("sending to ", 1);
    client.lines.exactly("unable to send", 0);
}

#[test]
#[ignore = "needs root"]
fn a_socket_of_ipv4_uses_addresses_of_ipv4() {
    let lab = Lab::direct();
    let names = format!("{SERVER6} tunnel.example\n{SERVER4} tunnel.example\n");
    lab.client().etc("hosts", &names);
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1)
        .to("tunnel.example")
        .options(&["-k", "25", "-b", "198.51.100.2"])
        .start();
    client.wait_up();
    client.lines.wait("answers from 198.51.100.1:5886");
    client.lines.exactly("unable to send", 0);
}

#[test]
#[ignore = "needs root"]
fn a_name_of_the_other_family_is_asked_for_now_and_then() {
    let lab = Lab::direct();
    let names = format!("{SERVER6} tunnel.example\n");
    lab.client().etc("hosts", &names);
    let trace = ["strace", "-f", "-o", "trace", "-e", "trace=exit_group"];
    let since = Instant::now();
    let client = Client::new(lab.client(), 1)
        .to("tunnel.example")
        .options(&["-b", SERVER4])
        .with(|launch| launch.under(&trace))
        .start_with(&["/bin/true"]);
    client.lines.wait("no address that the socket can send to");
    // At once, and after 1, 2 and 4 seconds.
    let asked = || lab.client().read("trace").matches("exited with 0").count();
    wait_until(PATIENCE, "four questions", || asked() >= 4);
    let (asked, time) = (asked(), since.elapsed());
    assert!(
        asked == 4 && time > Duration::from_secs(6),
        "{asked} in {time:?}"
    );
}

#[test]
#[ignore = "needs root"]
fn hup_ends_a_question_that_hangs() {
    let lab = Lab::direct();
    let host = lab.client();
    host.etc("hosts", "");
    host.etc("nsswitch.conf", "hosts: files dns\n");
    let server = "nameserver 198.51.100.1\noptions timeout:30 attempts:1\n";
    host.etc("resolv.conf", server);
    lab.server.filter("dns", "input", "udp dport 53 drop");
    let client = Client::new(host, 1).to("tunnel.example");
    let client = client.start_with(&["/bin/true"]);
    wait_until(PATIENCE, "the resolver's process", || {
        proc::twins(client.pid()).len() == 1
    });
    host.etc("hosts", &format!("{SERVER4} tunnel.example\n"));
    let since = Instant::now();
    client.signal(Signal::SIGHUP);
    client.lines.wait("sending to 198.51.100.1:5886");
    assert!(
        since.elapsed() < Duration::from_secs(15),
        "{:?}",
        since.elapsed()
    );
}

#[test]
#[ignore = "needs root"]
fn hup_resolves_again_at_once() {
    let lab = Lab::direct();
    addresses(&lab.server, "eth0", &["198.51.100.9/24"]);
    lab.client()
        .etc("hosts", &format!("{SERVER4} tunnel.example\n"));
    let server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1)
        .to("tunnel.example")
        .options(&["-k", "25"])
        .start();
    client.wait_up();
    lab.client().etc("hosts", "198.51.100.9 tunnel.example\n");
    client.signal(Signal::SIGHUP);
    client.lines.wait("sending to 198.51.100.9:5886");
    client
        .lines
        .wait("server tunnel.example resolved to 198.51.100.9:5886");
    wait_ping(lab.client(), client.inner.server4());
    server.lines.exactly("admitted", 1);
}

#[test]
#[ignore = "needs root"]
fn a_resolver_that_hangs_stops_nothing() {
    let lab = Lab::direct();
    let client_host = lab.client().clone();
    client_host.etc("hosts", &format!("{SERVER4} tunnel.example\n"));
    let _server = Server::new(&lab.server, [1]).start();
    let mut client = Client::new(&client_host, 1)
        .to("tunnel.example")
        .options(&["-k", "1"])
        .start();
    client.wait_up();
    // From now on the name is asked of a host that never answers.
    client_host.etc("hosts", "");
    client_host.etc("nsswitch.conf", "hosts: dns\n");
    client_host.etc(
        "resolv.conf",
        "nameserver 198.51.100.1\noptions timeout:30 attempts:1\n",
    );
    lab.server.filter("dns", "input", "udp dport 53 drop");
    let beat = Heartbeat::start(&client_host, &lab.server, client.inner.server4());
    beat.wait_beats(10);
    client.signal(Signal::SIGHUP);
    wait_until(PATIENCE, "the resolver's process", || {
        proc::twins(client.pid()).len() == 2
    });
    beat.wait_beats(200);
    let tally = beat.tally();
    assert_eq!(tally.lost, 0, "{tally:?}");
    client.report("status: device");
    assert_eq!(proc::twins(client.pid()).len(), 2, "it still waits");
    client.process().stop();
    wait_until(PATIENCE, "the end of the resolver's process", || {
        client_host.pids().is_empty()
    });
}

#[test]
#[ignore = "needs root"]
fn a_name_that_is_unknown_at_boot() {
    let lab = Lab::direct();
    let client_host = lab.client();
    let prog = support::tunnel::client_prog(client_host, "up", 1, "echo ran >>$0.runs");
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(client_host, 1)
        .to("tunnel.example")
        .options(&["-k", "1"])
        .start_with(&[prog]);
    client.lines.wait("unable to resolve tunnel.example: ");
    assert_eq!(
        client_host.tuns().len(),
        1,
        "the device does not wait for the name"
    );
    assert_eq!(client_host.read("up.runs"), "", "PROG does");
    client_host.etc("hosts", &format!("{SERVER4} tunnel.example\n"));
    client.wait_up();
    wait_until(PATIENCE, "the end of PROG", || {
        client_host.read("up.runs") == "ran\n"
    });
}

#[test]
#[ignore = "needs root"]
fn a_route_that_is_missing_at_boot() {
    let lab = Lab::behind_nat(1);
    lab.client().ip("route del default");
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1).options(&["-k", "2"]).start();
    client.lines.wait("unable to send");
    lab.client().ip("route add default via 192.168.1.1");
    let since = Instant::now();
    client.wait_up();
    report_recovery("route added after start", since.elapsed());
    client.lines.wait("answers from");
}

#[test]
#[ignore = "needs root"]
fn answers_leave_from_the_address_spoken_to() {
    let lab = Lab::direct();
    addresses(
        &lab.server,
        "eth0",
        &["198.51.100.10/24", "2001:db8::10/64"],
    );
    let _server = Server::new(&lab.server, [1, 2]).start();
    for (number, address) in [(1, "198.51.100.10"), (2, "2001:db8::10")] {
        let peer = Peer::new(lab.client());
        let from = peer.knock(&client_id(number), (address, 5886), SERVER_ID);
        assert_eq!(
            from.to_string(),
            std::net::SocketAddr::new(address.parse().unwrap(), 5886).to_string()
        );
    }
    // The client accepts packets from there only, so a tunnel to the second address shows the same
    // for packets.
    let client = Client::new(lab.client(), 1)
        .to("198.51.100.10")
        .options(&["-k", "1"])
        .start();
    client.wait_up();
    let beat = Heartbeat::start(&lab.server, lab.client(), client.inner.client6());
    beat.wait_beats(20);
}

#[test]
#[ignore = "needs root"]
fn a_source_address_that_is_gone_is_not_insisted_on() {
    // Of each family, and one that is not on the kernel's list but in its table of routes.
    for (bind, spoken_to, come, go) in [
        (
            "0.0.0.0",
            "198.51.100.10",
            "address add 198.51.100.10/24 dev eth0",
            "address del 198.51.100.10/24 dev eth0",
        ),
        (
            "::",
            "198.51.100.10",
            "address add 198.51.100.10/24 dev eth0",
            "address del 198.51.100.10/24 dev eth0",
        ),
        (
            "::",
            "2001:db8::10",
            "address add 2001:db8::10/64 dev eth0",
            "address del 2001:db8::10/64 dev eth0",
        ),
        (
            "::",
            "2001:db8::10",
            "route add local 2001:db8::10/124 dev lo",
            "route del local 2001:db8::10/124 dev lo",
        ),
    ] {
        let lab = Lab::direct();
        lab.server.ip(come);
        lab.client()
            .ip("route add 2001:db8::10/128 via 2001:db8::1");
        let _server = Server::new(&lab.server, [1]).options(&["-b", bind]).start();
        let peer = Peer::new(lab.client());
        let from = peer.knock(&client_id(1), (spoken_to, 5886), SERVER_ID);
        assert_eq!(from.ip(), spoken_to.parse::<IpAddr>().unwrap());
        wait_until(PATIENCE, "the device to be up", || {
            lab.server.ip("-br link show type tun").contains("LOWER_UP")
        });
        lab.server.ip(go);
        let left = match from.is_ipv4() {
            true => SERVER4,
            false => SERVER6,
        };
        let ping = lab.server.thread({
            let (host, address) = (lab.server.clone(), support::tunnel::Inner(1).client4());
            move || host.sh(&format!("ping -n -c 20 -i 0.1 -W 0.1 {address} || :"))
        });
        // Packets come, from the address that is left.
        wait_until(PATIENCE, &format!("a packet from {left}"), || {
            let (content, from) = peer.receive();
            content.len() > 80 && content[8] == 0x45 && from.ip() == left.parse::<IpAddr>().unwrap()
        });
        ping.join().unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn a_prefix_that_is_local_as_a_whole() {
    for bind in [&[][..], &["-b", "::"]] {
        let lab = Lab::direct();
        lab.server.ip("route add local 2001:db8:77::/64 dev lo");
        lab.client()
            .ip("route add 2001:db8:77::/64 via 2001:db8::1");
        let server = Server::new(&lab.server, [1, 2]).options(bind).start();
        let clients = [(1, "2001:db8:77::5"), (2, "2001:db8:77::6")].map(|(number, address)| {
            let client = Client::new(lab.client(), number).to(address);
            let client = client.options(&["-k", "1"]).start();
            client.wait_up();
            client.lines.wait(&format!("answers from [{address}]:5886"));
            client
        });
        // By turns, and many at a time.
        let transfers = clients.each_ref().map(|client| {
            let to = client.inner.server4();
            tcp_both_ways(lab.client(), &lab.server, to, 4)
        });
        transfers.into_iter().for_each(Transfer::join);
        server.lines.exactly("one by one", 0);
        // An address on the list beside them.
        let peer = Peer::new(lab.client());
        let from = peer.knock(&client_id(1), (SERVER6, 5886), SERVER_ID);
        assert_eq!(from.ip(), SERVER6.parse::<IpAddr>().unwrap());
    }
}

#[test]
#[ignore = "needs root"]
fn the_last_authorised_packet_sets_the_endpoint() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    let (a, b) = (Peer::new(lab.client()), Peer::new(lab.client()));
    let (id, to) = (client_id(1), (SERVER4, 5886));
    a.knock(&id, to, SERVER_ID);
    // A payload of any kind will do, but not another identifier.
    b.send(&client_id(9), &keepalive(1), to);
    a.send(&id, &keepalive(2), to);
    a.expect(&datagram(SERVER_ID, &answer(2)));
    server.lines.exactly("moved from", 0);
    b.send(&id, &[], to);
    server.lines.wait("moved from");
    assert!(endpoint(&server.lines).ends_with(&format!(":{}", b.port())));
}
