//! What somebody on the way, without the key, can do to keyed links: nothing but what every network
//! may do.

use std::time::{Duration, Instant};

use support::config::{bytes, client_id};
use support::flood::Flood;
use support::independent;
use support::keyed::{
    Between, Ends, KEY, OTHER, WORDS, assert_no_nonce_twice, client, line, server,
};
use support::lab::{Lab, TO, server_address};
use support::middle::{Fate, Kind, Middle, Way, extended, flipped, spliced, truncated};
use support::peer::Peer;
use support::proc;
use support::programs;
use support::traffic::{ping, wait_ping};
use support::wait::{PATIENCE, report_recovery, wait_until};

const MOMENT: Duration = Duration::from_millis(300);

/// A datagram damaged in every way: each bit flipped, cut, made longer, mixed with another of the
/// same session.
fn damaged(datagram: &[u8], other: &[u8]) -> Vec<Vec<u8>> {
    let len = datagram.len();
    let flips = (0..8 * len).map(|bit| flipped(datagram, bit));
    let cuts = (1..=len).map(|by| truncated(datagram, by));
    let longer = [&[0][..], &[0; 16], &datagram[len - 16..], datagram];
    let longer = longer.into_iter().map(|more| extended(datagram, more));
    let mixed = (1..len.min(other.len()))
        .flat_map(|at| [spliced(datagram, other, at), spliced(other, datagram, at)]);
    let all = flips.chain(cuts).chain(longer).chain(mixed);
    // Two may have a beginning in common.
    all.filter(|bytes| bytes != datagram && bytes != other)
        .collect()
}

/// Injects all of them, not faster than a socket's buffer can take.
fn inject_all(middle: &Middle, way: Way, datagrams: &[Vec<u8>]) {
    for some in datagrams.chunks(50) {
        some.iter().for_each(|bytes| middle.inject(way, bytes));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs root"]
fn no_damaged_packet_passes() {
    for word in WORDS {
        let between = Between::up(&line(word, KEY), "1");
        let (middle, host) = (&between.middle, &between.lab.server);
        let ends = Ends::new(between.lab.client(), host);
        for way in [Way::ToServer, Way::ToClient] {
            // The client's PINGs and their answers must not mix with what is watched.
            middle.rule(way, Kind::Data, Fate::Hold);
            let texts = [b"first, with some text", b"second, and another.."];
            for text in texts {
                ends.send(way, text);
            }
            let is_full = |seen: &support::middle::Seen| seen.bytes.len() > 32 + 28;
            let mut held = Vec::new();
            wait_until(PATIENCE, "two packets", || {
                held.extend(middle.take_held().into_iter().filter(is_full));
                held.len() >= 2
            });
            let [first, second] = [&held[0].bytes, &held[1].bytes];
            let shows =
                |datagram: &[u8], text: &[u8]| datagram.windows(text.len()).any(|w| w == text);
            assert_eq!(shows(first, texts[0]), word == "sign");
            inject_all(middle, way, &damaged(first, second));
            // The good ones still pass: nothing damaged has used up their counters.
            middle.inject(way, second);
            ends.expect(way, texts[1]);
            middle.inject(way, first);
            ends.expect(way, texts[0]);
            for again in [first, second] {
                middle.inject(way, again);
            }
            assert_eq!(ends.next(way, MOMENT), None, "{word} {way:?}");
            middle.pass_all();
        }
        between.server.lines.wait(": forged");
        between.client.lines.wait(": forged");
        between.client.wait_up();
        between.server.lines.assert_discreet();
        between.client.lines.assert_discreet();
    }
}

#[test]
#[ignore = "needs root"]
fn no_damaged_handshake_or_ping_does_anything() {
    for word in WORDS {
        let between = Between::told(&line(word, KEY), "25", |middle| {
            middle.rule(Way::ToServer, Kind::Open, Fate::Hold);
            middle.rule(Way::ToClient, Kind::Chal, Fate::Hold);
            middle.rule(Way::ToClient, Kind::Data, Fate::Hold);
            middle.rule(Way::ToServer, Kind::Ping, Fate::Hold);
        });
        let (middle, server, client) = (&between.middle, &between.server, &between.client);
        let has_challenge = |open: &support::middle::Seen| open.bytes[48..80] != [0; 32];
        let accepting = || {
            let seen = middle.seen();
            let opens = seen.iter().filter(|seen| seen.kind == Kind::Open);
            opens.filter(|open| has_challenge(open)).count()
        };

        // OPEN without a challenge.
        let opens = [1, 2].map(|n| middle.wait(Way::ToServer, Kind::Open, n));
        inject_all(
            middle,
            Way::ToServer,
            &damaged(&opens[0].bytes, &opens[1].bytes),
        );
        std::thread::sleep(MOMENT);
        for seen in middle.seen() {
            // A flip of the type makes DATA of an unknown session of it.
            let is_nudge = seen.kind == Kind::Chal && seen.bytes[12..16] == [0; 4];
            assert!(seen.way == Way::ToServer || is_nudge, "{seen:?}");
        }
        server.lines.wait("another key, word");

        // CHAL.
        middle.take_held();
        let before = middle.count(Way::ToClient, Kind::Chal);
        for open in &opens {
            middle.inject(Way::ToServer, &open.bytes);
        }
        let chals = [1, 2].map(|n| middle.wait(Way::ToClient, Kind::Chal, before + n));
        inject_all(
            middle,
            Way::ToClient,
            &damaged(&chals[0].bytes, &chals[1].bytes),
        );
        std::thread::sleep(MOMENT);
        assert_eq!(accepting(), 0, "{word}: no CHAL that was good");
        client.lines.wait("another key, word");

        // OPEN with the challenge.
        middle.take_held();
        middle.inject(Way::ToClient, &chals[1].bytes);
        wait_until(PATIENCE, "two OPENs with challenge", || accepting() >= 2);
        let opens: Vec<_> = middle
            .seen()
            .into_iter()
            .filter(|seen| seen.kind == Kind::Open && has_challenge(seen))
            .collect();
        inject_all(
            middle,
            Way::ToServer,
            &damaged(&opens[0].bytes, &opens[1].bytes),
        );
        std::thread::sleep(MOMENT);
        server.lines.exactly("session up", 0);
        assert!(between.lab.server.tuns().is_empty());
        middle.inject(Way::ToServer, &opens[0].bytes);
        server.lines.wait(" admitted ");

        // The empty DATA that says that the session is up.
        let answer = middle.wait(Way::ToClient, Kind::Data, 1);
        assert_eq!(answer.bytes.len(), 32);
        inject_all(
            middle,
            Way::ToClient,
            &damaged(&answer.bytes, &chals[0].bytes),
        );
        std::thread::sleep(MOMENT);
        client.lines.exactly("session up", 0);
        assert_eq!(
            middle.count(Way::ToServer, Kind::Data),
            0,
            "nothing is sent before"
        );
        middle.inject(Way::ToClient, &answer.bytes);
        client.lines.wait("session up");

        // PING.
        let ping = middle.wait(Way::ToServer, Kind::Ping, 1);
        let answered = middle.count(Way::ToClient, Kind::Data);
        inject_all(
            middle,
            Way::ToServer,
            &damaged(&ping.bytes, &opens[0].bytes),
        );
        std::thread::sleep(MOMENT);
        assert_eq!(
            middle.count(Way::ToClient, Kind::Data),
            answered,
            "{word}: a PING"
        );
        middle.inject(Way::ToServer, &ping.bytes);
        middle.wait(Way::ToClient, Kind::Data, answered + 1);
        middle.pass_all();
        client.wait_up();
        server.lines.exactly("session up", 1);
    }
}

/// All that was said before, said again by somebody else: to a session, to the next one, to a server
/// that was restarted, to a client that was.
#[test]
#[ignore = "needs root"]
fn what_was_recorded_is_of_no_use() {
    for word in WORDS {
        let mut between = Between::up(&line(word, KEY), "1");
        let ends = Ends::new(between.lab.client(), &between.lab.server);
        for way in [Way::ToServer, Way::ToClient] {
            ends.send(way, b"once");
            ends.expect(way, b"once");
        }
        between.middle.wait(Way::ToServer, Kind::Ping, 2);
        let recorded = between.middle.seen();
        let elsewhere = Peer::new(between.lab.router());
        let replay = |between: &Between| {
            for _ in 0..3 {
                for seen in &recorded {
                    between.middle.inject(seen.way, &seen.bytes);
                    if seen.way == Way::ToServer {
                        elsewhere.send_raw(&seen.bytes, TO);
                    }
                }
            }
        };
        // Within the session.
        replay(&between);
        for way in [Way::ToServer, Way::ToClient] {
            assert_eq!(ends.next(way, MOMENT), None, "{word} {way:?}");
        }
        between.server.lines.exactly(" moved ", 0);
        between.server.lines.exactly("session up", 1);
        between.client.wait_up();
        between.server.lines.wait(": replayed");
        between.client.lines.wait(": replayed");

        // After the client's restart.
        drop(ends);
        between.client.process().kill();
        between.client.restart();
        between.client.wait_up();
        let ends = Ends::new(between.lab.client(), &between.lab.server);
        between.server.lines.wait_nth("session up", 2);
        let moves = between.server.lines.count(" moved ");
        replay(&between);
        for way in [Way::ToServer, Way::ToClient] {
            assert_eq!(ends.next(way, MOMENT), None, "{word} {way:?}");
        }
        between.client.wait_up();
        between.server.lines.exactly(" moved ", moves);
        between.server.lines.exactly("session up", 2);
        assert_no_nonce_twice(between.middle.seen().iter().map(|seen| &*seen.bytes));

        // After the server's, with nobody else.
        drop(ends);
        between.client.process().kill();
        between.server.process().kill();
        between.server.restart();
        replay(&between);
        std::thread::sleep(MOMENT);
        between.server.lines.exactly("session up", 0);
        between.server.lines.exactly(" admitted ", 0);
        assert!(
            between.lab.server.tuns().is_empty(),
            "no device for a replay"
        );
        between.client.restart();
        between.client.wait_up();
    }
}

/// Who sends every answer to where it came from must not be of use for more.
#[test]
#[ignore = "needs root"]
fn no_answer_is_larger_than_its_question() {
    let between = Between::up(&line("seal", KEY), "1");
    let middle = &between.middle;
    let open = middle.wait(Way::ToServer, Kind::Open, 1);
    let elsewhere = Peer::new(between.lab.router());
    // A recorded OPEN gets one answer of its own size.
    for _ in 0..50 {
        elsewhere.send_raw(&open.bytes, TO);
        let (answer, _) = elsewhere.receive();
        assert_eq!(
            (Kind::of(&answer), answer.len()),
            (Kind::Chal, open.bytes.len())
        );
        assert_eq!(answer[16..48], open.bytes[16..48]);
    }
    assert_eq!(elsewhere.receive_within(MOMENT), None);
    // Junk of 32 bytes gets 96, but 20 times a second only.
    let mut junk = [
        &bytes(&client_id(1))[..],
        &[0x13, 1, 2, 3, 0, 0, 0, 1],
        &[7; 16],
    ]
    .concat();
    let (since, mut answers) = (Instant::now(), 0);
    for n in 0..2000_u32 {
        junk[9..12].copy_from_slice(&n.to_be_bytes()[1..]);
        elsewhere.send_raw(&junk, TO);
        if n % 100 == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    while elsewhere.receive_within(MOMENT).is_some() {
        answers += 1;
    }
    let seconds = u32::try_from(since.elapsed().as_secs()).unwrap() + 1;
    assert!(
        (1..=20 * (seconds + 1)).contains(&answers),
        "{answers} in {seconds} s"
    );
    // All else gets none.
    let mut ping = junk.clone();
    ping[8] = 0x14;
    for bytes in [
        &junk[..31],
        &open.bytes[..95],
        &[&ping[..], &[0]].concat(),
        &extended(&open.bytes, &[0]),
    ] {
        std::thread::sleep(Duration::from_millis(50));
        elsewhere.send_raw(bytes, TO);
    }
    elsewhere.send(&client_id(1), &[1, 0, 0, 0, 1], TO);
    elsewhere.send(
        &client_id(1),
        &support::peer::ipv4_packet(
            "10.0.0.1:0".parse().unwrap(),
            "10.0.0.2:0".parse().unwrap(),
            253,
            b"",
        ),
        TO,
    );
    elsewhere.send(&client_id(2), &open.bytes[8..], TO);
    assert_eq!(elsewhere.receive_within(Duration::from_secs(1)), None);
    between.server.lines.wait("dropped a plain packet");
    between.server.lines.exactly(" moved ", 0);
    between.server.lines.exactly("session up", 1);
    between.client.wait_up();
}

#[test]
#[ignore = "needs root"]
fn floods_of_opens_and_junk_leave_the_session_alone() {
    for word in WORDS {
        let between = Between::up(&line(word, KEY), "25");
        let (lab, middle) = (&between.lab, &between.middle);
        let open = middle.wait(Way::ToServer, Kind::Open, 1).bytes;
        // Far apart are its keepalives: a flood may cost an answer, or three.
        let data = middle.wait(Way::ToServer, Kind::Data, 1).bytes;
        let pid = between.server.pid();
        let before = proc::resident(pid);
        let id = bytes(&client_id(1));
        let recorded = open.clone();
        let floods = [
            Flood::of(lab.router(), server_address(), move |_| recorded.clone()),
            Flood::of(lab.router(), server_address(), move |noise| {
                // Forged: a fresh Ec each time, or a tag of nothing.
                let mut forged = open.clone();
                noise.fill(&mut forged[16..96]);
                forged
            }),
            Flood::through(middle, Way::ToServer, move |noise| {
                let len = 24 + usize::try_from(noise.number() % 200).unwrap();
                let mut junk = noise.bytes(len);
                junk[..8].copy_from_slice(&id);
                junk[8] = 0x11 + junk[8] % 4;
                if junk[9] & 1 == 0 {
                    // Of the session, but forged.
                    junk[8..12].copy_from_slice(&data[8..12]);
                }
                std::thread::sleep(Duration::from_micros(100));
                junk
            }),
        ];
        let since = Instant::now();
        let result = ping(
            lab.client(),
            between.client.inner.server4(),
            200,
            &["-i", "0.02"],
        );
        let sent: u64 = floods.into_iter().map(Flood::stop).sum();
        println!("{word}: {sent} in {:?}: {result:?}", since.elapsed());
        // Some are lost in the socket's buffer; how many, an emulated processor has no say in.
        let least = if programs::are_emulated() { 1 } else { 20 };
        assert!(
            sent > 10_000 && result.received >= least,
            "{sent} {result:?}"
        );
        between.client.wait_up();
        between.server.lines.exactly("session up", 1);
        between.server.lines.exactly(" moved ", 0);
        between.client.lines.exactly("no answer", 0);
        let after = proc::resident(pid);
        assert!(after < before + 512, "{before} KiB, {after} KiB");
        assert!(
            between.server.lines.all().len() < 40,
            "lines at a bounded rate"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn a_key_holder_gets_one_session_a_second() {
    let lab = Lab::direct();
    let key = line("seal", KEY);
    let server = server(&lab.server, &key).start();
    let mut holder = independent::client(lab.client(), 1, key.trim(), server_address(), 1);
    holder.lines.wait(" up");
    let (since, before) = (Instant::now(), server.lines.count("session up"));
    while since.elapsed() < Duration::from_secs(8) {
        holder.tell("open");
        std::thread::sleep(Duration::from_millis(20));
    }
    let after = server.lines.count("session up");
    let seconds = usize::try_from(since.elapsed().as_secs()).unwrap();
    println!("{} sessions in {seconds} s", after - before);
    assert!(after - before <= seconds + 1);
    server.lines.wait("two devices");
    holder.lines.wait_next(" up", || {});
}

#[test]
#[ignore = "needs root"]
fn one_key_under_two_words_opens_nothing() {
    let lab = Lab::direct();
    for (ours, theirs) in [("seal", "sign"), ("sign", "seal")] {
        let server = server(&lab.server, &line(ours, KEY)).start();
        let client = client(lab.client(), 1, &line(theirs, KEY), "1").start();
        let line = server.lines.wait("another key, word or identifier");
        assert!(
            line.contains(&format!("here it is {ours}, check value")),
            "{line}"
        );
        client.lines.wait("no answer");
        server.lines.exactly(" admitted ", 0);
        assert!(lab.server.tuns().is_empty());
    }
}

#[test]
#[ignore = "needs root"]
fn a_new_mapping_is_followed_with_one_packet() {
    let between = Between::up(&line("seal", KEY), "25");
    let ends = Ends::new(between.lab.client(), &between.lab.server);
    let port = between.middle.change_port();
    ends.send(Way::ToServer, b"from here");
    ends.expect(Way::ToServer, b"from here");
    let moved = between.server.lines.wait(" moved ");
    assert!(
        moved.contains(&format!("to 198.51.100.2:{port}")),
        "{moved}"
    );
    ends.send(Way::ToClient, b"to there");
    ends.expect(Way::ToClient, b"to there");
    between.server.lines.exactly("session up", 1);
}

/// A packet held back and sent on from elsewhere moves the address only while it is the newest.
#[test]
#[ignore = "needs root"]
fn only_the_newest_packet_moves_the_address() {
    let between = Between::up(&line("sign", KEY), "25");
    let (middle, ends) = (
        &between.middle,
        Ends::new(between.lab.client(), &between.lab.server),
    );
    let elsewhere = Peer::new(between.lab.router());
    middle.rule(Way::ToServer, Kind::Data, Fate::Hold);
    for text in [b"1", b"2"] {
        ends.send(Way::ToServer, text);
    }
    let mut held = Vec::new();
    wait_until(PATIENCE, "both", || {
        held.extend(middle.take_held());
        held.len() >= 2
    });
    middle.rule(Way::ToServer, Kind::Data, Fate::Pass);
    // It overtakes the other.
    middle.inject(Way::ToServer, &held[1].bytes);
    ends.expect(Way::ToServer, b"2");
    // An older one is for the tun, but moves nobody.
    elsewhere.send_raw(&held[0].bytes, TO);
    ends.expect(Way::ToServer, b"1");
    between.server.lines.exactly(" moved ", 0);
    // The newest from elsewhere: until the client's next one.
    middle.rule(Way::ToServer, Kind::Data, Fate::Hold);
    ends.send(Way::ToServer, b"3");
    wait_until(PATIENCE, "it", || {
        held.extend(middle.take_held());
        held.len() >= 3
    });
    middle.rule(Way::ToServer, Kind::Data, Fate::Pass);
    elsewhere.send_raw(&held[2].bytes, TO);
    ends.expect(Way::ToServer, b"3");
    between.server.lines.wait(" moved ");
    ends.send(Way::ToServer, b"4");
    ends.expect(Way::ToServer, b"4");
    ends.send(Way::ToClient, b"back");
    ends.expect(Way::ToClient, b"back");
}

/// Somebody is faster with the client's OPEN than the client.
#[test]
#[ignore = "needs root"]
fn an_open_that_was_relayed_faster_costs_a_second() {
    let between = Between::told(&line("seal", KEY), "25", |middle| {
        middle.rule(Way::ToServer, Kind::Open, Fate::Hold);
    });
    let middle = &between.middle;
    let open = middle.wait(Way::ToServer, Kind::Open, 1);
    middle.take_held();
    middle.inject(Way::ToServer, &open.bytes);
    let accepting = support::wait::wait_for(PATIENCE, "the OPEN with the challenge", || {
        let seen = middle.seen();
        seen.into_iter()
            .find(|seen| seen.kind == Kind::Open && seen.bytes[48..80] != [0; 32])
    });
    let elsewhere = Peer::new(between.lab.router());
    elsewhere.send_raw(&accepting.bytes, TO);
    let (answer, _) = elsewhere.receive();
    assert_eq!((Kind::of(&answer), answer.len()), (Kind::Data, 32));
    let since = Instant::now();
    // Too late, and a replay by now.
    middle.pass_all();
    middle.release();
    between.client.lines.wait("session up");
    wait_ping(between.lab.client(), between.client.inner.server4());
    let time = since.elapsed();
    report_recovery("an OPEN relayed faster", time);
    assert!(time < Duration::from_secs(4), "{time:?}");
    between.server.lines.exactly("session up", 1);
    between.server.lines.wait(" moved ");
}

#[test]
#[ignore = "needs root"]
fn another_servers_answers_are_not_taken() {
    // A server that has another key for the client, at the address of the right one.
    let lab = Lab::direct();
    let server = independent::server(&lab.server, 1, line("seal", OTHER).trim(), server_address());
    server.lines.wait("port 5886");
    let client = client(lab.client(), 1, &line("seal", KEY), "1").start();
    server
        .lines
        .wait_nth("dropped: a handshake with a wrong tag", 3);
    client.lines.wait("no answer from");
    client.lines.exactly("session up", 0);
}
