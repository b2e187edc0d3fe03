//! A thousand clients of one server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use support::crowd::Crowd;
use support::host::Host;
use support::lab::{Lab, SERVER4};
use support::tunnel::{Server, server_prog};
use support::wait::wait_until;

const CLIENTS: u16 = 1000;
/// A thousand scripts on two processors.
const PATIENCE: Duration = Duration::from_secs(120);

fn to() -> (IpAddr, u16) {
    (SERVER4.parse().unwrap(), 5886)
}

/// Waits until PROG has given every device its address.
#[track_caller]
fn wait_progs(host: &Host) {
    wait_until(PATIENCE, "the addresses of all", || {
        host.ip("-o -4 address show").matches("inet 10.").count() == usize::from(CLIENTS)
    });
}

#[test]
#[ignore = "needs root"]
fn a_thousand_come_back_together() {
    let lab = Lab::direct();
    let mut server = Server::new(&lab.server, 1..=CLIENTS).start();
    let crowd = Crowd::new(lab.client(), 1..=CLIENTS, to());
    crowd.knock();
    wait_progs(&lab.server);
    let since = Instant::now();
    server.process().stop();
    let stopped = since.elapsed();
    assert!(lab.server.tuns().is_empty());

    let since = Instant::now();
    server.restart();
    crowd.knock();
    let answered = since.elapsed();
    wait_progs(&lab.server);
    let all = since.elapsed();
    println!(
        "recovery: {CLIENTS} clients: server stopped {stopped:.1?}, all answered {answered:.1?}, \
         all PROGs done {all:.1?}"
    );
    // 500 starts a second are allowed, and this machine takes its time for each.
    assert!(all < Duration::from_secs(30), "{all:?}");
    assert_eq!(server.lines.count(" admitted "), usize::from(CLIENTS));
    server.lines.exactly("unable to", 0);
    server.lines.assert_discreet();
    server.process().stop();
}

#[test]
#[ignore = "needs root"]
fn a_prog_that_takes_a_second_keeps_nobody_out() {
    let lab = Lab::direct();
    let mut server = Server::new(&lab.server, 1..=CLIENTS);
    let prog = server_prog(&lab.server, "up", "sleep 1");
    server = server.start_with(&[prog]);
    let crowd = Crowd::new(lab.client(), 1..=CLIENTS, to());
    let since = Instant::now();
    crowd.knock();
    println!("{CLIENTS} answered after {:.1?}", since.elapsed());
    wait_progs(&lab.server);
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
