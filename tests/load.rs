//! The machine at its limit: transfers in both directions, floods. Such tests drop the packets of
//! their neighbours, so they are in a file of their own and run one by one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::net::SocketAddrV4;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use support::config::client_id;
use support::flood::Flood;
use support::heartbeat::Heartbeat;
use support::lab::{Lab, SERVER4, SERVER6, server_address};
use support::peer::{datagram, keepalive};
use support::proc;
use support::programs::offload_by_default;
use support::traffic::{Noise, Stream, ping, tcp_both_ways, udp};
use support::tunnel::{Client, Server, Tunnel};
use support::wait::{PATIENCE, report_recovery, wait_for, wait_until};

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a newcomer may wait while the machine has other things to do too; `make scale` allows 2 s.
const NEWCOMER: Duration = Duration::from_secs(5);

/// Under a flood no more than one beat in twenty is lost; `make scale` allows one ping in a
/// hundred. A busy machine may spoil a round, and a flood that is not kept off spoils all.
#[track_caller]
fn assert_beats_pass(beat: &Heartbeat) {
    assert_few_lost(beat, 20);
}

/// The same with no more than one in so many.
#[track_caller]
fn assert_few_lost(beat: &Heartbeat, one_in: usize) {
    let mut rounds = Vec::new();
    while rounds.len() < 8 {
        let before = beat.tally();
        beat.wait_beats(200);
        let after = beat.tally();
        let lost = after.lost.saturating_sub(before.lost);
        rounds.push((lost, after.sent - before.sent));
        if lost * one_in <= after.sent - before.sent {
            return println!("beats lost, and sent: {rounds:?}");
        }
    }
    panic!("beats lost, and sent: {rounds:?}");
}

#[test]
#[ignore = "needs root"]
fn tcp_both_ways_at_once_with_checksums() {
    let _alone = alone();
    let tunnel = Tunnel::plain(Lab::behind_nat(1));
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    // Two connections, opened from either side, each loaded in both directions.
    let transfers = [
        tcp_both_ways(client, server, inner.server4(), 24),
        tcp_both_ways(server, client, inner.client6(), 24),
    ];
    transfers.into_iter().for_each(|transfer| transfer.join());
    tunnel.client.lines.wait("answers from");
    tunnel.client.lines.exactly("no answer", 0);
}

#[test]
#[ignore = "needs root"]
fn a_burst_loses_nothing() {
    const BURST: usize = 200;
    let _alone = alone();
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    for (from, to, address) in [
        (client, server, inner.server4()),
        (server, client, inner.client6()),
    ] {
        let receiver = udp(to, (address, 0).into());
        let target = receiver.local_addr().unwrap();
        let local = if address.is_ipv4() {
            inner.client4()
        } else {
            inner.server6()
        };
        let sender = udp(from, (local, 0).into());
        for round in 0..10 {
            for number in 0..BURST {
                sender
                    .send_to(&[u8::try_from(number).unwrap(); 100], target)
                    .unwrap();
            }
            // All of them, and in order.
            let mut buffer = [0; 200];
            for number in 0..BURST {
                let len = receiver.recv(&mut buffer);
                let len = len.unwrap_or_else(|error| panic!("{round}, {number}: {error}"));
                assert_eq!(
                    (len, usize::from(buffer[0])),
                    (100, number),
                    "round {round}"
                );
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn tcp_both_ways_over_ipv6() {
    let _alone = alone();
    let lab = Lab::routed(1);
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1)
        .to(SERVER6)
        .options(&["-k", "1"])
        .start();
    client.wait_up();
    tcp_both_ways(lab.client(), &lab.server, client.inner.server6(), 16).join();
}

#[test]
#[ignore = "needs root"]
fn memory_does_not_grow_with_packets() {
    let _alone = alone();
    let tunnel = Tunnel::plain(Lab::direct());
    let beat = Heartbeat::start(
        tunnel.lab.client(),
        &tunnel.lab.server,
        tunnel.client.inner.server4(),
    );
    beat.wait_beats(20);
    let pids = [
        tunnel.server.pid(),
        tunnel.client.pid(),
        proc::twins(tunnel.client.pid())[0],
    ];
    let sizes = || pids.map(proc::anonymous);
    let (from, to) = (tunnel.lab.client(), &tunnel.lab.server);
    let inner = tunnel.client.inner;
    tcp_both_ways(from, to, inner.server4(), 4).join();
    // What is lost with packets is lost each time; a cache, such as an emulator's, is full one day.
    let mut rounds = vec![sizes()];
    while rounds.len() < 4 {
        tcp_both_ways(from, to, inner.server4(), 32).join();
        let (before, after) = (rounds[rounds.len() - 1], sizes());
        rounds.push(after);
        if after.iter().zip(before).all(|(a, b)| *a <= b + 64) {
            return println!("KiB of their own, with 64 MiB in between: {rounds:?}");
        }
    }
    panic!("KiB of their own, with 64 MiB in between: {rounds:?}");
}

#[test]
#[ignore = "needs root"]
fn a_flood_of_unknown_identifiers_keeps_nobody_out() {
    let _alone = alone();
    let lab = Lab::behind_nat(2);
    let server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    client.wait_up();
    let memory = proc::resident(server.pid());
    // Random identifiers, and datagrams that are too short for one.
    let flood = Flood::start(&lab.clients[1], server_address(), 0, 64);
    let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
    assert_beats_pass(&beat);
    let newcomer = Client::new(&lab.clients[1], 2)
        .options(&["-k", "1"])
        .start();
    server.config.authorise(&client_id(2));
    let since = Instant::now();
    let entering = Heartbeat::start(&lab.clients[1], &lab.server, newcomer.inner.server4());
    let time = entering.recovery(since);
    report_recovery("authorised under a flood", time);
    assert!(time < NEWCOMER, "{time:?}");
    assert_beats_pass(&beat);
    let sent = flood.stop();
    println!("{sent} datagrams of a flood");
    assert!(sent > 10_000);
    assert!(server.lines.all().len() < 20, "the log stays bounded");
    assert!(
        proc::resident(server.pid()) < memory + 1024,
        "memory stays bounded"
    );
    server.lines.assert_discreet();
}

#[test]
#[ignore = "needs root"]
fn a_flood_costs_one_look_at_the_directory_a_second() {
    let _alone = alone();
    let lab = Lab::direct();
    let trace = ["strace", "-f", "-e", "trace=?open,openat", "-o", "trace"];
    let server = Server::new(&lab.server, [])
        .with(|launch| launch.under(&trace))
        .start_with(&["/bin/true"]);
    let looks = || {
        let directory = server.config.peers();
        let text = lab.server.read("trace");
        text.matches(directory.to_str().unwrap()).count()
    };
    let before = looks();
    let flood = Flood::start(lab.client(), server_address(), 8, 64);
    let since = Instant::now();
    wait_until(PATIENCE, "three looks", || looks() >= before + 3);
    let (seconds, looked) = (since.elapsed().as_secs(), looks() - before);
    let sent = flood.stop();
    assert!(sent > 1000);
    assert!(
        looked <= usize::try_from(seconds).unwrap() + 2,
        "{looked} in {seconds} s"
    );
    assert!(since.elapsed() > Duration::from_millis(1900));
}

#[test]
#[ignore = "needs root"]
fn a_flood_of_junk_leaves_authorised_traffic_alone() {
    let _alone = alone();
    let tunnel = Tunnel::plain(Lab::behind_nat(2));
    let memory = proc::resident(tunnel.server.pid());
    let flood = Flood::start(&tunnel.lab.clients[1], server_address(), 1400, 1400);
    let beat = Heartbeat::start(
        tunnel.lab.client(),
        &tunnel.lab.server,
        tunnel.client.inner.server4(),
    );
    assert_beats_pass(&beat);
    let sent = flood.stop();
    println!("a flood of {sent} datagrams of junk");
    assert!(sent > 10_000);
    assert!(tunnel.server.lines.all().len() < 20);
    assert!(proc::resident(tunnel.server.pid()) < memory + 1024);
    tunnel.client.lines.exactly("no answer", 0);
}

/// One of a thousand sources.
fn source(noise: &mut Noise) -> SocketAddrV4 {
    let number = u16::try_from(noise.number() % 1000).unwrap();
    let [high, low] = number.to_be_bytes();
    SocketAddrV4::new([10, 66, high, low].into(), 1024 + number)
}

#[test]
#[ignore = "needs root"]
fn valid_identifiers_from_a_thousand_sources() {
    let _alone = alone();
    let lab = Lab::routed(2);
    let server = Server::new(&lab.server, 1..=11).start();
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    client.wait_up();
    // Ten of them have become known, and not the eleventh.
    let memory = proc::resident(server.pid());
    let stolen: Vec<String> = (2..=11).map(client_id).collect();
    let target = SocketAddrV4::new(SERVER4.parse().unwrap(), 5886);
    let flood = Flood::forged(&lab.clients[1], target, move |noise| {
        let id = &stolen[usize::try_from(noise.number() % 10).unwrap()];
        (source(noise), datagram(id, &keepalive(7)))
    });
    let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
    assert_beats_pass(&beat);
    let sent = flood.stop();
    println!("{sent} keepalives of stolen identifiers");
    assert!(sent > 10_000);
    // A line for each when it comes, and for each move of one 10 s after the last.
    let lines = server.lines.count("moved from");
    assert!(lines <= 20, "{lines} lines about moves");
    assert!(proc::resident(server.pid()) < memory + 1024);
    server.lines.exactly(" admitted ", 11);
}

#[test]
#[ignore = "needs root"]
fn datagrams_of_64_kib_and_keepalives_by_the_thousand() {
    let _alone = alone();
    let lab = Lab::routed(2);
    let server = Server::new(&lab.server, [1, 2]).start();
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    client.wait_up();
    let memory = proc::resident(server.pid());
    let id = client_id(2);
    let floods: [&dyn Fn() -> Flood; 2] = [
        &|| Flood::start(&lab.clients[1], server_address(), 65_000, 65_507),
        &|| {
            let question = datagram(&id, &keepalive(7));
            Flood::of(&lab.clients[1], server_address(), move |_| question.clone())
        },
    ];
    for start in floods {
        let flood = start();
        let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
        assert_beats_pass(&beat);
        let sent = flood.stop();
        println!("{sent} large datagrams or keepalives");
        assert!(sent > 1000);
    }
    assert!(server.lines.all().len() < 20);
    // Its buffers are touched now.
    assert!(proc::resident(server.pid()) < memory + 1024);
}

#[test]
#[ignore = "needs root"]
fn a_client_that_floods_its_tunnel_leaves_the_others_their_share() {
    let _alone = alone();
    let lab = Lab::behind_nat(2);
    let _server = Server::new(&lab.server, [1, 2]).start();
    let clients = Client::on_each(&lab, &["-k", "1"]);
    // From the server into the second client's tunnel.
    let flood = Flood::start(&lab.server, (clients[1].inner.client4(), 9), 1300, 1300);
    let beat = Heartbeat::start(lab.client(), &lab.server, clients[0].inner.server4());
    assert_beats_pass(&beat);
    let sent = flood.stop();
    println!("beside a tunnel with a flood of {sent} packets");
    assert!(sent > 10_000);
}

#[test]
#[ignore = "needs root"]
fn a_client_that_floods_the_server_leaves_the_others_their_share() {
    let _alone = alone();
    let lab = Lab::routed(2);
    let server = Server::new(&lab.server, [1, 2]).start();
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    client.wait_up();
    // Each costs a write to the second client's device. Whoever takes them one by one can't keep up
    // with more than one thread's sends.
    let (host, to, small) = (
        &lab.clients[1],
        server_address(),
        datagram(&client_id(2), &[0x45; 28]),
    );
    let flood = match offload_by_default() {
        true => Flood::cut(host, to, small.repeat(64), 36),
        false => Flood::of(host, to, move |_| small.clone()),
    };
    server.lines.wait("client 0002... admitted");
    let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
    // The flood takes one of two cores to make.
    assert_few_lost(&beat, 5);
    let sent = flood.stop();
    println!("beside a client with a flood of {sent} calls");
    assert!(sent > 10_000);
}

#[test]
#[ignore = "needs root"]
fn clients_that_are_loaded_together_get_equal_shares() {
    const CLIENTS: u16 = 4;
    let _alone = alone();
    let lab = Lab::routed(CLIENTS.into());
    let _server = Server::new(&lab.server, 1..=CLIENTS).start();
    let clients = Client::on_each(&lab, &["-k", "1"]);
    for up in [true, false] {
        let loads: Vec<Stream> = clients
            .iter()
            .map(|client| match up {
                true => Stream::start(&client.host, &lab.server, client.inner.server4()),
                false => Stream::start(&lab.server, &client.host, client.inner.client4()),
            })
            .collect();
        // What streams take from each other for a moment evens out.
        let since = Instant::now();
        let shares = wait_for(PATIENCE, "half of the mean for the least", || {
            let shares: Vec<u64> = loads.iter().map(Stream::bytes).collect();
            let mean = shares.iter().sum::<u64>() / u64::from(CLIENTS);
            let is_fair = shares.iter().all(|&share| share * 2 >= mean);
            (is_fair && since.elapsed() > Duration::from_secs(3)).then_some(shares)
        });
        println!("bytes of each, up {up}: {shares:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn an_uplink_that_is_too_slow_lets_nothing_wait_in_the_tun() {
    let _alone = alone();
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    for (from, to) in [(client, inner.server4()), (server, inner.client4())] {
        from.sh(
            "tc qdisc add dev eth0 root handle 1: htb default 1 r2q 100 &&
                 tc class add dev eth0 parent 1: classid 1:1 htb rate 4mbit",
        );
        // Two to four times as much as may pass.
        let _flood = Flood::of(from, (to, 9), |_| {
            std::thread::sleep(Duration::from_micros(500));
            vec![7; 1000]
        });
        let answers = |within| ping(from, to, 20, &["-W", within]).received;
        wait_until(PATIENCE, "a full queue", || answers("3") < 20);
        // The 1000 packets that a device takes with -O would be 2 s, the 4000 without it 8 s.
        wait_until(PATIENCE, "an answer in time", || answers("1.5") > 0);
        from.sh("tc qdisc del dev eth0 root");
    }
}
