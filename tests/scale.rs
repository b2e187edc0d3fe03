//! A thousand clients of one server.

use std::time::{Duration, Instant};

use support::crowd::Crowd;
use support::keyed_crowd::KeyedCrowd;
use support::lab::{Lab, server_address};
use support::tunnel::{Server, server_prog};
use support::wait::{PATIENCE, wait_until};

const CLIENTS: u16 = 1000;

/// Starts the server anew, and waits until all have knocked and have their PROG again.
#[track_caller]
fn come_back(server: &mut Server, what: &str, knock: impl FnOnce()) {
    let since = Instant::now();
    server.restart();
    knock();
    let answered = since.elapsed();
    server.wait_progs(CLIENTS);
    let all = since.elapsed();
    println!(
        "recovery: {CLIENTS} clients, {what}: all answered {answered:.1?}, all PROGs done {all:.1?}"
    );
    // 500 starts a second are allowed, and a busy machine takes its time for each.
    assert!(all < Duration::from_secs(60), "{all:?}");
    server.lines.exactly(" admitted ", CLIENTS.into());
    server.lines.exactly("unable to", 0);
    server.lines.assert_discreet();
    server.process().stop();
}

#[test]
#[ignore = "needs root"]
fn a_thousand_come_back_together() {
    let lab = Lab::direct();
    let mut server = Server::new(&lab.server, 1..=CLIENTS).start();
    let crowd = Crowd::new(lab.client(), 1..=CLIENTS, server_address());
    crowd.knock();
    server.wait_progs(CLIENTS);
    let since = Instant::now();
    server.process().stop();
    println!("{CLIENTS} clients: stopped in {:.1?}", since.elapsed());
    assert!(lab.server.tuns().is_empty());
    come_back(&mut server, "plain", || {
        crowd.knock();
    });
}

/// Each needs a handshake, and the server a key agreement for each. Each is nudged by its first ping.
#[test]
#[ignore = "needs root"]
fn a_thousand_keyed_ones_come_back_together() {
    for (word, is_killed) in [("sign", true), ("seal", true), ("seal", false)] {
        let lab = Lab::direct();
        let mut server = Server::new(&lab.server, [])
            .keyed(word, 1..=CLIENTS)
            .start();
        let mut crowd = KeyedCrowd::new(lab.client(), word, 1..=CLIENTS, server_address());
        crowd.knock();
        server.wait_progs(CLIENTS);
        match is_killed {
            true => server.process().kill(),
            false => server.process().stop(),
        };
        come_back(&mut server, word, || {
            crowd.knock();
        });
        server.lines.exactly("dropped a", 0);
    }
}

#[test]
#[ignore = "needs root"]
fn a_prog_that_takes_a_second_keeps_nobody_out() {
    let lab = Lab::direct();
    let mut server = Server::new(&lab.server, 1..=CLIENTS);
    let prog = server_prog(&lab.server, "up", "sleep 1");
    server = server.start_with(&[prog]);
    let crowd = Crowd::new(lab.client(), 1..=CLIENTS, server_address());
    let since = Instant::now();
    crowd.knock();
    println!("{CLIENTS} answered after {:.1?}", since.elapsed());
    server.wait_progs(CLIENTS);
    println!(
        "{CLIENTS} PROGs of a second begun after {:.1?}",
        since.elapsed()
    );
    // Everybody is answered meanwhile.
    let (sent, answered) = crowd.keep_alive(Duration::from_secs(1), Duration::from_secs(1));
    assert!(answered + 5 >= sent, "{answered} of {sent}");
    wait_until(PATIENCE, "the end of all PROGs", || {
        support::proc::children(server.pid()).is_empty()
    });
    server.lines.exactly("unable to", 0);
    server.process().stop();
}
