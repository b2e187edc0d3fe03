//! What the programs cost: nothing while nothing happens, and few system calls for each packet.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::config::{SERVER_ID, client_id};
use support::heartbeat::Heartbeat;
use support::host::Host;
use support::lab::{Lab, TO};
use support::peer::{Peer, answer, datagram, keepalive};
use support::proc;
use support::process::Process;
use support::sniffer::{self, Sniffer};
use support::traffic::udp;
use support::tunnel::{Client, Inner, Server, Tunnel};
use support::wait::{PATIENCE, wait_for, wait_until};

/// How often a process slept while this time passed.
fn sleeps_within(pids: &[Pid], time: Duration) -> Vec<u64> {
    let count = || {
        pids.iter()
            .map(|&pid| proc::sleeps(pid))
            .collect::<Vec<_>>()
    };
    let before = count();
    sleep(time);
    count()
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect()
}

#[test]
#[ignore = "needs root"]
fn an_idle_server_sleeps() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, 1..=20).start_with(&["/bin/true"]);
    let peer = Peer::new(lab.client());
    for number in 1..=20 {
        peer.send(&client_id(number), &keepalive(number.into()), TO);
        peer.expect(&datagram(SERVER_ID, &answer(number.into())));
    }
    // Until the last PROG has been waited for.
    wait_until(PATIENCE, "the end of PROGs", || {
        sleeps_within(&[server.pid()], Duration::from_millis(200)) == [0]
    });
    let sleeps = sleeps_within(&[server.pid()], Duration::from_secs(5));
    assert_eq!(sleeps, [0], "with 20 clients and nothing to do");
}

#[test]
#[ignore = "needs root"]
fn an_idle_client_wakes_for_keepalives_only() {
    for (interval, most) in [("0", 0), ("25", 1), ("1", 12)] {
        let lab = Lab::direct();
        let _server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
        let client = Client::new(lab.client(), 1)
            .options(&["-k", interval])
            .start_with(&["/usr/bin/touch", "ran"]);
        if interval != "0" {
            client.lines.wait("answers from");
        }
        // PROG is a twin of its parent until it becomes itself.
        wait_until(PATIENCE, "PROG", || client.host.path("ran").exists());
        let sender = wait_for(PATIENCE, "the sender and no PROG", || {
            let twins = proc::twins(client.pid());
            (proc::children(client.pid()) == twins).then(|| twins.first().copied())?
        });
        let pids = [client.pid(), sender];
        wait_until(PATIENCE, "the sender's sleep", || {
            sleeps_within(&pids[1..], Duration::from_millis(200)) == [0]
        });
        // Five seconds hold five keepalives and five answers, and one more of each at the ends.
        let sleeps = sleeps_within(&pids, Duration::from_secs(5));
        println!(
            "-k {interval}: the parent woke {} times in 5 s, the child {}",
            sleeps[0], sleeps[1]
        );
        assert!(sleeps[0] <= most, "-k {interval}: {sleeps:?}");
        assert_eq!(sleeps[1], 0, "the child");
    }
}

#[test]
#[ignore = "needs root"]
fn keepalives_go_out_under_a_steady_download() {
    let tunnel = Tunnel::plain(Lab::direct());
    // Receives never time out now.
    let beat = Heartbeat::start(
        &tunnel.lab.server,
        tunnel.lab.client(),
        tunnel.client.inner.client4(),
    );
    let sniffer = Sniffer::new(&tunnel.lab.server, "eth0");
    let mut times = Vec::new();
    for _ in 0..5 {
        sniffer.wait("a keepalive", |packet| {
            sniffer::udp(packet).is_some_and(|(_, to, payload)| {
                to == 5886 && payload.len() == 13 && payload[8] == 1
            })
        });
        times.push(Instant::now());
    }
    // One that is seen late makes the next step short.
    let four = times[4] - times[0];
    let (least, most) = (Duration::from_millis(3300), Duration::from_millis(5300));
    assert!(four > least && four < most, "{times:?}");
    assert_eq!(beat.tally().lost, 0);
}

/// The system calls of one process, by name, while something is done.
struct Trace {
    process: Process,
    pid: Pid,
    file: PathBuf,
}

impl Trace {
    fn attach(host: &Host, pid: Pid) -> Self {
        let file = host.path(&format!("trace-{pid}"));
        let mut command = Command::new("strace");
        command.arg("-o").arg(&file).args(["-p", &pid.to_string()]);
        let process = Process::spawn(host, command);
        process.lines.wait("attached");
        Self { process, pid, file }
    }

    /// The names of the calls, and how often each was made.
    fn finish(mut self) -> BTreeMap<String, u32> {
        assert_eq!(
            proc::status(self.pid, "TracerPid"),
            Some(self.process.pid().to_string())
        );
        self.process.signal(Signal::SIGINT);
        self.process.wait();
        let text = fs::read_to_string(&self.file).unwrap();
        let mut calls = BTreeMap::new();
        for line in text.lines() {
            // The one that was under way when strace came is not complete.
            if let Some((name, _)) = line.split_once('(')
                && line.contains(" = ")
            {
                *calls.entry(name.to_owned()).or_default() += 1;
            }
        }
        calls
    }
}

#[test]
#[ignore = "needs root"]
fn one_read_and_one_write_for_each_packet_of_the_client() {
    const PACKETS: u32 = 200;
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1]).start();
    // Without keepalives nothing else happens; and one packet at a time.
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "0", "-O"])
        .start();
    client.wait_up();
    let pids = [client.pid(), proc::twins(client.pid())[0]];
    let traces = pids.map(|pid| Trace::attach(lab.client(), pid));
    exchange(&lab, client.inner, PACKETS);
    let calls = traces.map(Trace::finish);
    println!(
        "client, {PACKETS} packets each way: parent {:?}, child {:?}",
        calls[0], calls[1]
    );
    for (process, calls) in ["parent", "child"].iter().zip(&calls) {
        let count: u32 = calls.values().sum();
        // The last receive is not over; a neighbour or router message of the kernel may slip in.
        let expected = 2 * PACKETS;
        assert!(
            count >= expected - 1 && count <= expected + 12,
            "{process}: {calls:?}"
        );
        assert!(calls.len() <= 3, "{process}: {calls:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn few_calls_for_each_wake_up_of_the_server() {
    const PACKETS: u32 = 200;
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).options(&["-O"]).start();
    let client = Client::new(lab.client(), 1).options(&["-k", "0"]).start();
    client.wait_up();
    wait_until(PATIENCE, "PROG's end", || {
        proc::children(server.pid()).is_empty()
    });
    let trace = Trace::attach(&lab.server, server.pid());
    exchange(&lab, client.inner, PACKETS);
    let calls = trace.finish();
    println!("server, {PACKETS} packets each way: {calls:?}");
    let count = |names: &[&str]| -> u32 { names.iter().filter_map(|name| calls.get(*name)).sum() };
    let wake_ups = count(&["select", "pselect6", "_newselect"]);
    assert!(wake_ups <= 2 * PACKETS + 12, "{calls:?}");
    // There is one tun only, and so no question which it is.
    let questions = count(&["epoll_wait", "epoll_pwait", "epoll_pwait2"]);
    assert_eq!(questions, 0, "{calls:?}");
    // A read for each packet and one that finds nothing, and a write for each.
    let reads = count(&["read", "readv", "preadv2", "recvfrom", "recvmsg"]);
    let writes = count(&["write", "writev", "sendto", "sendmsg"]);
    assert!(reads <= 4 * PACKETS + 24, "{calls:?}");
    assert!(writes <= 2 * PACKETS + 12, "{calls:?}");
    let all: u32 = calls.values().sum();
    let named = wake_ups + reads + writes;
    assert!(all <= named + 4, "other calls than these: {calls:?}");
}

/// Sends packets from the client's end, each after the answer to the one before.
fn exchange(lab: &Lab, inner: Inner, packets: u32) {
    let near = udp(lab.client(), (inner.client4(), 0).into());
    let far = udp(&lab.server, (inner.server4(), 0).into());
    let mut buffer = [0; 2000];
    for number in 0..packets {
        near.send_to(&number.to_be_bytes(), far.local_addr().unwrap())
            .unwrap();
        let (len, source) = far.recv_from(&mut buffer).unwrap();
        far.send_to(&buffer[..len], source).unwrap();
        near.recv_from(&mut buffer).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn a_report_costs_a_moment_only() {
    // A wake-up by a signal, and then sleep again.
    let tunnel = Tunnel::up(Lab::direct(), &[], &["-k", "0"]);
    let pid = tunnel.server.pid();
    tunnel
        .server
        .lines
        .wait_next(" heard ", || kill(pid, Signal::SIGUSR1).unwrap());
    // PROG may have ended late, which is one more.
    let seconds = [(); 3].map(|()| sleeps_within(&[pid], Duration::from_secs(1))[0]);
    assert!(
        seconds.contains(&0) && seconds.iter().sum::<u64>() < 5,
        "{seconds:?}"
    );
}
