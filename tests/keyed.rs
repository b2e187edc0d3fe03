//! Links that are signed or sealed: what they carry, and what becomes of their sessions.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use support::clock::SETTABLE;
use support::config::client_id;
use support::heartbeat::Heartbeat;
use support::independent::{self, ping};
use support::keyed::{
    Between, Ends, KEY, OTHER, WORDS, assert_no_nonce_twice, client, line, server,
};
use support::lab::{Lab, SERVER4, SERVER6, server_address};
use support::middle::{Fate, Kind, Way};
use support::proc;
use support::sniffer::{Sniffer, udp};
use support::traffic::{assert_pings, tcp_both_ways, udp_datagrams, wait_ping};
use support::tunnel::{Client, Inner, Server, client_prog, server_prog};
use support::wait::{PATIENCE, report_recovery, wait_for, wait_until};

const INNER: Inner = Inner(1);

/// All outer payloads that a device saw so far.
fn payloads(sniffer: &Sniffer) -> Vec<Vec<u8>> {
    let packets = std::iter::from_fn(|| sniffer.packet());
    let outer = packets.filter_map(|packet| match udp(&packet) {
        Some((from, to, payload)) if from == 5886 || to == 5886 => Some(payload.to_vec()),
        _ => None,
    });
    outer.collect()
}

#[test]
#[ignore = "needs root"]
fn a_sealed_and_a_signed_ping() {
    for word in WORDS {
        let lab = Lab::direct();
        let note = "echo $TUN_PROTECTION >protection";
        let server = server(&lab.server, &line(word, KEY)).start_with(&[server_prog(
            &lab.server,
            "up",
            note,
        )]);
        let client = client(lab.client(), 1, &line(word, KEY), "1").start_with(&[client_prog(
            lab.client(),
            "up",
            1,
            note,
        )]);
        client.wait_up();
        wait_ping(lab.client(), INNER.server6());
        let check = server.lines.wait(&format!("{word}, check value"));
        let value = check.split("check value ").nth(1).unwrap();
        let value = &value[..8];
        client.lines.wait(&format!("{word}, check value {value}"));
        client.lines.wait(&format!("{word} session up"));
        for host in [&lab.server, lab.client()] {
            assert_eq!(host.read("protection").trim(), word);
        }
        let status = client.report("status: device");
        assert!(status.contains(&format!("{word} session ")), "{status}");
        for lines in [&server.lines, &client.lines] {
            lines.assert_discreet();
            lines.exactly(&KEY[..8], 0);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn packets_of_all_sizes_and_tcp_pass() {
    for word in WORDS {
        let lab = Lab::direct();
        let _server = server(&lab.server, &line(word, KEY)).start();
        let client = client(lab.client(), 1, &line(word, KEY), "1").start();
        client.wait_up();
        let sizes: Vec<usize> = (0..80).chain([500, 1000]).chain(1380..=1392).collect();
        let (there, here) = (INNER.server4(), INNER.client4());
        udp_datagrams(lab.client(), &lab.server, (here, there), &sizes);
        udp_datagrams(&lab.server, lab.client(), (there, here), &sizes);
        // Fragments of the inner packet.
        assert_pings(lab.client(), INNER.server4(), 20, &["-s", "8000"]);
        assert_pings(lab.client(), INNER.server6(), 20, &["-s", "8000"]);
        let sniffer = Sniffer::new(&lab.server, "eth0");
        tcp_both_ways(lab.client(), &lab.server, INNER.server4(), 8).join();
        tcp_both_ways(&lab.server, lab.client(), INNER.client6(), 8).join();
        let seen = payloads(&sniffer);
        assert!(seen.iter().all(|bytes| Kind::of(bytes) != Kind::Other));
        println!("{word}: {} datagrams seen", seen.len());
    }
}

/// What is sealed shows nothing, what is signed all.
#[test]
#[ignore = "needs root"]
fn what_is_seen_on_the_way() {
    const TEXT: &[u8] = b"a text that is easily seen";
    for word in WORDS {
        let lab = Lab::direct();
        let _server = server(&lab.server, &line(word, KEY)).start();
        let client = client(lab.client(), 1, &line(word, KEY), "1").start();
        client.wait_up();
        let ends = Ends::new(lab.client(), &lab.server);
        let sniffer = Sniffer::new(&lab.server, "eth0");
        for way in [Way::ToServer, Way::ToClient] {
            ends.send(way, TEXT);
            ends.expect(way, TEXT);
        }
        let seen = payloads(&sniffer);
        let shows = |part: &[u8]| {
            let with = seen
                .iter()
                .filter(|bytes| bytes.windows(part.len()).any(|w| w == part));
            with.count()
        };
        let is_signed = usize::from(word == "sign");
        assert_eq!(shows(TEXT), 2 * is_signed, "{word}");
        // Nor of an IP header.
        let addresses = [[10, 0, 1, 2, 10, 0, 1, 1], [10, 0, 1, 1, 10, 0, 1, 2]];
        let with = addresses.iter().map(|part| shows(part)).sum::<usize>();
        assert_eq!(with, 2 * is_signed, "{word}");
    }
}

#[test]
#[ignore = "needs root"]
fn another_implementations_client() {
    for word in WORDS {
        let lab = Lab::direct();
        let key = line(word, KEY);
        let mut server = server(&lab.server, &key).start();
        let mut other = independent::client(lab.client(), 1, key.trim(), server_address(), 1);
        ping(&mut other, "10.0.1.2", "10.0.1.1");
        wait_ping(&lab.server, INNER.client4());
        // Another session, another port.
        let lines = other.lines.clone();
        lines.wait_next(" up", || other.tell("open"));
        ping(&mut other, "10.0.1.2", "10.0.1.1");
        wait_ping(&lab.server, INNER.client4());
        server.lines.wait_next(" moved ", || other.tell("port"));
        wait_ping(&lab.server, INNER.client4());
        // The server restarts: a nudge.
        server.process().kill();
        server.restart();
        lines.wait("nudged");
        ping(&mut other, "10.0.1.2", "10.0.1.1");
        wait_ping(&lab.server, INNER.client4());
        for reason in ["wrong tag", "forged", "replayed"] {
            other.lines.exactly(reason, 0);
            server.lines.exactly(reason, 0);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn another_implementations_server() {
    for word in WORDS {
        let lab = Lab::direct();
        let (key, at) = (line(word, KEY), (SERVER6.parse().unwrap(), 5886));
        let mut other = independent::server(&lab.server, 1, key.trim(), at);
        other.lines.wait("port 5886");
        let client = client(lab.client(), 1, &key, "1").to(SERVER6).start();
        wait_ping(lab.client(), INNER.server4());
        ping(&mut other, "10.0.1.1", "10.0.1.2");
        // It loses all that it knows.
        let lines = other.lines.clone();
        lines.wait_next("session ", || other.tell("forget"));
        ping(&mut other, "10.0.1.1", "10.0.1.2");
        wait_ping(lab.client(), INNER.server4());
        lines.wait("nudge sent");
        for reason in ["wrong tag", "forged", "replayed"] {
            other.lines.exactly(reason, 0);
            client.lines.exactly(reason, 0);
        }
    }
}

/// Numbers in datagrams, one way, and when they arrive.
fn resumption(word: &str) -> Duration {
    let lab = Lab::direct();
    let mut server = server(&lab.server, &line(word, KEY)).start();
    let client = client(lab.client(), 1, &line(word, KEY), "25").start();
    client.wait_up();
    let socket = Ends::new(lab.client(), &lab.server).client;
    let sending = support::worker::Worker::start(move || {
        let _ = socket.send(b"one way");
        std::thread::sleep(Duration::from_millis(10));
    });
    server.process().kill();
    // What is lost meanwhile is lost.
    std::thread::sleep(Duration::from_millis(500));
    server.restart();
    let since = Instant::now();
    server.lines.wait(" admitted ");
    let tun = lab.server.wait_tuns(1);
    let up = Sniffer::new(&lab.server, &tun[0]);
    up.wait("a packet of the client", |packet| {
        packet.ends_with(b"one way")
    });
    let time = since.elapsed();
    sending.stop();
    time
}

#[test]
#[ignore = "needs root"]
fn a_killed_server_is_back_for_one_way_traffic() {
    for word in WORDS {
        let time = resumption(word);
        report_recovery(format!("{word}: server killed under one-way traffic"), time);
        assert!(time < Duration::from_secs(5), "{time:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_killed_child_is_replaced_under_a_new_key() {
    let between = Between::up(&line("seal", KEY), "1");
    let pid = between.client.pid();
    for round in 1..=3 {
        let child = proc::twins(pid)[0];
        kill(child, Signal::SIGKILL).unwrap();
        between.server.lines.wait_nth("session up", 1 + round);
        between.client.wait_up();
        let next = proc::twins(pid);
        assert!(next.len() == 1 && next[0] != child, "{child} {next:?}");
    }
    // Nothing but numbers that were never used.
    let seen = between.middle.seen();
    assert!(assert_no_nonce_twice(seen.iter().map(|seen| &*seen.bytes)) > 10);
    let children = seen
        .iter()
        .filter(|s| (s.way, s.kind) == (Way::ToServer, Kind::Data));
    let mut names: Vec<&[u8]> = children.map(|seen| &seen.bytes[9..12]).collect();
    names.dedup();
    assert!(names.len() >= 4, "{names:02x?}");
}

#[test]
#[ignore = "needs root"]
fn a_killed_parent_takes_its_child_along() {
    let mut between = Between::up(&line("sign", KEY), "1");
    let child = proc::twins(between.client.pid())[0];
    between.client.process().kill();
    wait_until(PATIENCE, "the end of the child", || !proc::runs(child));
    between.client.restart();
    between.client.wait_up();
    between.server.lines.exactly("session up", 2);
    assert_no_nonce_twice(between.middle.seen().iter().map(|seen| &*seen.bytes));
}

#[test]
#[ignore = "needs root"]
fn two_devices_with_one_file_take_turns() {
    let lab = Lab::routed(2);
    let server = server(&lab.server, &line("seal", KEY)).start();
    let sniffer = Sniffer::new(&lab.server, "eth0");
    let clients: Vec<Client> = lab
        .clients
        .iter()
        .map(|host| client(host, 1, &line("seal", KEY), "1").start())
        .collect();
    for _ in 0..2 {
        clients.iter().for_each(Client::wait_up);
    }
    let hint = server.lines.wait("two devices");
    assert!(hint.contains("client 0001..."), "{hint}");
    let seen = payloads(&sniffer);
    assert!(assert_no_nonce_twice(seen.iter().map(|bytes| &**bytes)) > 20);
    // One of them goes: the other has the link to itself.
    let mut clients = clients;
    clients.pop();
    clients[0].wait_up();
    assert_pings(&lab.clients[0], INNER.server4(), 50, &[]);
}

#[test]
#[ignore = "needs root"]
fn the_first_address_of_two_is_dead_at_the_start() {
    let lab = Lab::direct();
    lab.client().etc(
        "hosts",
        &format!("198.51.100.3 tunnel.example\n{SERVER4} tunnel.example\n"),
    );
    let _server = server(&lab.server, &line("seal", KEY)).start();
    let client = client(lab.client(), 1, &line("seal", KEY), "1").to("tunnel.example");
    let since = Instant::now();
    let client = client.start();
    client.wait_up();
    report_recovery("a keyed server's second address", since.elapsed());
    client.lines.wait("answers from 198.51.100.1:5886");
    client.lines.wait("sending to 198.51.100.1:5886");
}

/// The session goes on, before another one is there.
#[test]
#[ignore = "needs root"]
fn an_answer_after_a_silence_is_told() {
    let between = Between::up(&line("seal", KEY), "1");
    let middle = &between.middle;
    for kind in [Kind::Open, Kind::Data, Kind::Ping] {
        middle.rule(Way::ToServer, kind, Fate::Drop);
    }
    between.client.lines.wait("no answer from");
    middle.rule(Way::ToServer, Kind::Ping, Fate::Pass);
    between.client.lines.wait_nth("answers from", 2);
    middle.pass_all();
    between.client.wait_up();
}

/// The pool of a router that has just been switched on for the first time.
#[test]
#[ignore = "needs root"]
fn nothing_is_sent_before_there_are_random_numbers() {
    // At the client.
    let lab = Lab::direct();
    let server_now = server(&lab.server, &line("seal", KEY)).start();
    let sniffer = Sniffer::leaving(lab.client(), "eth0");
    let late = client(lab.client(), 1, &line("seal", KEY), "1")
        .with(|launch| launch.failing("getrandom", "error=EAGAIN:when=1..4"))
        .start();
    late.lines.wait("waiting for random numbers");
    assert_eq!(payloads(&sniffer), [] as [Vec<u8>; 0]);
    late.wait_up();
    drop((server_now, late));
    // At the server: no challenge, and no end.
    let lab = Lab::direct();
    let late = server(&lab.server, &line("seal", KEY))
        .with(|launch| launch.failing("getrandom", "error=EAGAIN:when=1..4"))
        .start();
    let client = client(lab.client(), 1, &line("seal", KEY), "1").start();
    late.lines.wait("no random numbers yet");
    client.wait_up();
}

/// Where both programs see this clock.
struct Clock {
    path: std::path::PathBuf,
}

impl Clock {
    fn new(lab: &Lab) -> Self {
        let clock = Self {
            path: lab.server.path("clock"),
        };
        clock.set("+0");
        clock
    }

    fn set(&self, to: &str) {
        let new = self.path.with_extension("new");
        fs::write(&new, to).unwrap();
        fs::rename(new, &self.path).unwrap();
    }

    /// Words in front of a program.
    fn under(&self, monotonic_too: bool) -> Vec<String> {
        let words = SETTABLE
            .iter()
            .filter(|word| !(monotonic_too && word.contains("MONOTONIC")));
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", self.path.display());
        words.map(|word| (*word).to_owned()).chain([file]).collect()
    }
}

#[test]
#[ignore = "needs root"]
fn no_clock_is_needed() {
    let lab = Lab::direct();
    let clock = Clock::new(&lab);
    clock.set("1970-01-01 00:00:01");
    let under = clock.under(false);
    let _server = server(&lab.server, &line("seal", KEY)).start();
    let client = client(lab.client(), 1, &line("seal", KEY), "1")
        .with(|launch| launch.under(&under))
        .start();
    client.wait_up();
    let beat = Heartbeat::start(lab.client(), &lab.server, INNER.server4());
    beat.wait_beats(50);
    for date in [
        "2030-06-01 00:00:00",
        "1970-01-01 00:00:01",
        "2026-01-01 00:00:00",
    ] {
        clock.set(date);
        beat.wait_beats(150);
    }
    assert_eq!(beat.tally().lost, 0, "{:?}", beat.tally());
    client.lines.exactly("no answer", 0);
}

/// The next session comes under load, and no packet is lost by it. The programs see ten minutes pass
/// at once.
#[test]
#[ignore = "needs root"]
fn a_session_is_renewed_without_loss() {
    for word in WORDS {
        let lab = Lab::direct();
        let clock = Clock::new(&lab);
        let under = clock.under(true);
        let server = server(&lab.server, &line(word, KEY)).start();
        let client = client(lab.client(), 1, &line(word, KEY), "1")
            .with(|launch| launch.under(&under))
            .start();
        client.wait_up();
        let beats = [
            Heartbeat::start(lab.client(), &lab.server, INNER.server4()),
            Heartbeat::start(&lab.server, lab.client(), INNER.client4()),
        ];
        for round in 1..=3_usize {
            beats.iter().for_each(|beat| beat.wait_beats(50));
            clock.set(&format!("+{}", 601 * round));
            server.lines.wait_nth("session up", round + 1);
        }
        beats.iter().for_each(|beat| beat.wait_beats(50));
        for beat in &beats {
            assert_eq!(beat.tally().lost, 0, "{word}: {:?}", beat.tally());
        }
        client.lines.exactly("no answer", 0);
        server.lines.exactly("session up", 4);
        // And a transfer goes on over more of them.
        let transfer = tcp_both_ways(lab.client(), &lab.server, INNER.server4(), 16);
        clock.set("+3000");
        transfer.join();
    }
}

/// Where the child spends half of its time between a packet's read and its departure, its end for
/// the next session loses none.
#[test]
#[ignore = "needs root"]
fn a_child_that_ends_sends_what_it_has_read() {
    const NUMBERS: u32 = 400;
    let lab = Lab::direct();
    let clock = Clock::new(&lab);
    let slow = [
        "-e",
        "trace=sendmsg,sendto",
        "-e",
        "inject=sendmsg,sendto:delay_enter=15000",
    ];
    let strace = ["strace", "-f", "--seccomp-bpf", "-o", "trace"];
    let under: Vec<String> = strace
        .iter()
        .chain(&slow)
        .map(|word| (*word).to_owned())
        .chain(clock.under(true))
        .collect();
    let server = server(&lab.server, &line("seal", KEY)).start();
    let client = client(lab.client(), 1, &line("seal", KEY), "1")
        .with(|launch| launch.under(&under))
        .start();
    client.wait_up();
    let ends = Ends::new(lab.client(), &lab.server);
    for number in 1..=NUMBERS {
        if number % 80 == 20 {
            // It is seen with the next keepalive.
            clock.set(&format!("+{}", 601 * (number / 80 + 1)));
        }
        ends.send(Way::ToServer, &number.to_be_bytes());
        std::thread::sleep(Duration::from_millis(30));
    }
    for number in 1..=NUMBERS {
        ends.expect(Way::ToServer, &number.to_be_bytes());
    }
    server.lines.wait_nth("session up", 6);
}

/// Half an hour after its beginning a session is of no use at either end, and nothing is sent.
#[test]
#[ignore = "needs root"]
fn a_session_ends_after_half_an_hour() {
    let lab = Lab::direct();
    let clock = Clock::new(&lab);
    let under = clock.under(true);
    let server = server(&lab.server, &line("sign", KEY))
        .with(|launch| launch.under(&under))
        .start();
    let client = client(lab.client(), 1, &line("sign", KEY), "1")
        .with(|launch| launch.under(&under))
        .start();
    client.wait_up();
    let [to, from] = [Inner::server4(INNER), Inner::client4(INNER)];
    // The way back is gone, so that no other session comes.
    lab.server.filter("mute", "output", "udp sport 5886 drop");
    clock.set("+1900");
    client.lines.wait("too old, nothing is sent");
    assert!(proc::twins(client.pid()).is_empty(), "no child");
    let sniffer = Sniffer::leaving(lab.client(), "eth0");
    for _ in 0..5 {
        let _ = support::traffic::ping_works(lab.client(), to);
        let _ = support::traffic::ping_works(&lab.server, from);
    }
    let seen = payloads(&sniffer);
    assert!(!seen.is_empty() && seen.iter().all(|bytes| Kind::of(bytes) == Kind::Open));
    let line = server.report("without session");
    assert!(line.contains("sign without session"), "{line}");
    lab.server.filter("mute", "output", "");
    client.wait_up();
}

#[test]
#[ignore = "needs root"]
fn plain_signed_and_sealed_clients_share_a_server() {
    let lab = Lab::routed(3);
    let server = Server::new(&lab.server, []).options(&["-v"]);
    let lines = [String::new(), line("sign", KEY), line("seal", OTHER)];
    for (number, line) in (1..).zip(&lines) {
        server.config.key(&client_id(number), line);
    }
    let server = server.start();
    let clients: Vec<Client> = (1..)
        .zip(lab.clients.iter().zip(&lines))
        .map(|(number, (host, line))| client(host, number, line, "1").start())
        .collect();
    clients.iter().for_each(Client::wait_up);
    let transfers: Vec<_> = clients
        .iter()
        .map(|client| tcp_both_ways(&client.host, &lab.server, client.inner.server4(), 4))
        .collect();
    transfers
        .into_iter()
        .for_each(support::traffic::Transfer::join);
    for (client, word) in clients.iter().zip(["PLAIN", "sign, check", "seal, check"]) {
        let id = format!("{:04x}...", client.inner.0);
        let admitted = server.lines.wait(&format!("client {id} admitted"));
        assert!(admitted.contains(word), "{admitted}");
        assert_pings(&client.host, client.inner.server4(), 20, &[]);
    }
}

#[test]
#[ignore = "needs root"]
fn fifty_keyed_clients_come_back_after_a_restart() {
    const CLIENTS: u16 = 50;
    let lab = Lab::behind_nat(1);
    let server = Server::new(&lab.server, []).options(&["-v"]);
    for number in 1..=CLIENTS {
        server.config.key(&client_id(number), &line("seal", KEY));
    }
    let mut server = server.start();
    let clients: Vec<Client> = (1..=CLIENTS)
        .map(|number| client(lab.client(), number, &line("seal", KEY), "1").start())
        .collect();
    clients.iter().for_each(Client::wait_up);
    server.process().kill();
    server.restart();
    let since = Instant::now();
    server.lines.wait_nth(" admitted ", CLIENTS.into());
    let time = since.elapsed();
    report_recovery("50 keyed clients after a restart, keepalive 1 s", time);
    assert!(time < Duration::from_secs(10), "{time:?}");
    clients.iter().for_each(Client::wait_up);
    server.lines.exactly("session up", CLIENTS.into());
}

/// The first datagrams of a handshake are lost, all of one kind at a time.
#[test]
#[ignore = "needs root"]
fn lost_handshakes_come_again() {
    let kinds = [
        (Way::ToServer, Kind::Open),
        (Way::ToClient, Kind::Chal),
        (Way::ToClient, Kind::Data),
        (Way::ToServer, Kind::Ping),
    ];
    for (way, kind) in kinds {
        let between = Between::told(&line("seal", KEY), "1", |middle| {
            middle.rule(way, kind, Fate::Drop);
        });
        between.middle.wait(way, kind, 2);
        between.middle.pass_all();
        between.client.wait_up();
        // Doubled ones do no harm either.
        between.middle.rule(way, kind, Fate::repeat(3));
        let child = wait_for(PATIENCE, "a child", || {
            proc::twins(between.client.pid()).pop()
        });
        kill(child, Signal::SIGKILL).unwrap();
        between.client.wait_up();
    }
}
