//! What happens to the tun device while it is in use: down, renamed, deleted.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::config::{SERVER_ID, client_id, shown};
use support::crowd::Crowd;
use support::heartbeat::Heartbeat;
use support::host::Host;
use support::lab::{Lab, SERVER4, TO, server_address};
use support::lines::Lines;
use support::peer::{Peer, answer, datagram, keepalive};
use support::proc;
use support::traffic::{ping_works, wait_ping};
use support::tunnel::{Client, Inner, Server, Tunnel, client_prog, server_prog};
use support::wait::{PATIENCE, report_recovery, wait_until};

/// The processor time of a program and its children.
fn cpu(pid: Pid) -> Duration {
    let children = proc::children(pid);
    let times = std::iter::once(pid).chain(children).map(proc::cpu_time);
    times.sum()
}

/// Both ends of a tunnel, in turn: host and log.
fn ends(tunnel: &Tunnel) -> [(&Host, &Lines); 2] {
    [
        (&tunnel.lab.server, &tunnel.server.lines),
        (tunnel.lab.client(), &tunnel.client.lines),
    ]
}

#[test]
#[ignore = "needs root"]
fn a_device_that_is_down_loses_packets_and_no_more() {
    let tunnel = Tunnel::plain(Lab::direct());
    let inner = tunnel.client.inner;
    for (down, other, address) in [
        (&tunnel.lab.server, tunnel.lab.client(), inner.server4()),
        (tunnel.lab.client(), &tunnel.lab.server, inner.client4()),
    ] {
        let tun = &down.tuns()[0];
        let before = (cpu(tunnel.server.pid()), cpu(tunnel.client.pid()));
        let beat = Heartbeat::start(other, down, address);
        beat.wait_beats(10);
        down.ip(&format!("link set {tun} down"));
        // A keepalive or two pass meanwhile.
        sleep(Duration::from_secs(2));
        tunnel.client.report("status: device");
        down.ip(&format!("link set {tun} up"));
        // An address of IPv4 stays, its route does not.
        let far = [inner.server4(), inner.client4()]
            .into_iter()
            .find(|end| *end != address);
        down.try_ip(&format!("route add {} dev {tun}", far.unwrap()));
        let time = beat.recovery(Instant::now());
        assert!(time < Duration::from_secs(5), "{time:?}");
        let after = (cpu(tunnel.server.pid()), cpu(tunnel.client.pid()));
        let used = [
            after.0.saturating_sub(before.0),
            after.1.saturating_sub(before.1),
        ];
        let most = Duration::from_millis(500);
        assert!(used.iter().all(|used| *used < most), "one spins: {used:?}");
    }
    for (_, lines) in ends(&tunnel) {
        lines.exactly("gone", 0);
        lines.exactly("starting it again", 0);
    }
}

#[test]
#[ignore = "needs root"]
fn a_packet_for_a_device_that_is_down_is_counted() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    let peer = Peer::new(lab.client());
    peer.knock(&client_id(1), TO, SERVER_ID);
    for _ in 0..5 {
        peer.send(&client_id(1), &[0x45; 100], TO);
        peer.send(&client_id(1), &[0x65; 100], TO);
    }
    peer.knock(&client_id(1), TO, SERVER_ID);
    let line = server.report(" heard ");
    assert!(line.ends_with("dropped 10"), "{line}");
}

#[test]
#[ignore = "needs root"]
fn a_device_may_be_renamed() {
    let tunnel = Tunnel::plain(Lab::direct());
    for (host, lines) in ends(&tunnel) {
        let beat = Heartbeat::start(
            tunnel.lab.client(),
            &tunnel.lab.server,
            tunnel.client.inner.server4(),
        );
        beat.wait_beats(10);
        // Linux renames devices that are up, as long as nobody else has the name.
        let tun = &host.tuns()[0];
        host.ip(&format!("link set {tun} name home"));
        beat.wait_beats(20);
        assert_eq!(beat.tally().lost, 0);
        lines.exactly("gone", 0);
    }
    let line = tunnel.server.report(" heard ");
    assert!(line.contains(" home "), "{line}");
    let line = tunnel.client.report("status: device");
    assert!(line.contains("device home,"), "{line}");
}

#[test]
#[ignore = "needs root"]
fn a_deleted_device_is_built_again_under_traffic() {
    let lab = Lab::direct();
    let runs = "case $TUN_CLIENT_ID in 0001*) echo ran >>$0.runs; esac";
    let prog = server_prog(&lab.server, "up", runs);
    let server = Server::new(&lab.server, [1, 2]).start_with(&[prog]);
    let prog = client_prog(lab.client(), "up", 1, "echo ran >>$0.runs");
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "1"])
        .start_with(&[prog]);
    client.wait_up();
    let other = Client::new(lab.client(), 2).options(&["-k", "1"]).start();
    other.wait_up();
    let untouched = Heartbeat::start(lab.client(), &lab.server, other.inner.server4());
    untouched.wait_beats(10);
    let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
    for (host, process) in [(&lab.server, &*server), (lab.client(), &*client)] {
        let (lines, pid) = (&process.lines, process.pid());
        beat.wait_beats(10);
        let (child, cpu_before) = (proc::twins(client.pid()), cpu(pid));
        let route = host.ip("-o -4 address show");
        let line = route
            .lines()
            .find(|line| line.contains(" 10.0.1."))
            .unwrap();
        let tun = line.split_whitespace().nth(1).unwrap();
        host.ip(&format!("link del {tun}"));
        let time = beat.recovery(Instant::now());
        report_recovery(format_args!("device deleted on {}", host.name()), time);
        assert!(time < Duration::from_secs(5), "{time:?}");
        lines.wait("is gone");
        wait_until(PATIENCE, "PROG for the new device", || {
            host.read("up.runs") == "ran\nran\n"
        });
        assert_eq!(host.tuns().len(), 2);
        let used = cpu(pid).saturating_sub(cpu_before);
        assert!(used < Duration::from_millis(500), "it spins: {used:?}");
        if host.name() == lab.client().name() {
            assert_ne!(
                proc::twins(client.pid()),
                child,
                "a new sender for the new device"
            );
            lines.wait("opened");
        }
    }
    assert_eq!(untouched.tally().lost, 0, "the other client noticed");
    other.lines.exactly("gone", 0);
}

#[test]
#[ignore = "needs root"]
fn a_deleted_device_is_noticed_without_traffic() {
    let lab = Lab::direct();
    let mut server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    let peer = Peer::new(lab.client());
    peer.knock(&client_id(1), TO, SERVER_ID);
    lab.server.ip(&format!("link del {}", lab.server.tuns()[0]));
    server.lines.wait("is gone");
    server.lines.wait("forgotten");
    // It comes again with the next packet of any kind.
    assert_eq!(lab.server.tuns().len(), 0);
    peer.send(&client_id(1), &[], TO);
    server.lines.wait_nth("admitted from", 2);
    lab.server.wait_tuns(1);
    server.process().stop();

    // The client rebuilds at once.
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "0"])
        .start_with(&["/bin/true"]);
    let tun = &lab.client().wait_tuns(1)[0];
    wait_until(PATIENCE, "the sender", || {
        proc::twins(client.pid()).len() == 1
    });
    lab.client().ip(&format!("link del {tun}"));
    client.lines.wait("opened");
    lab.client().wait_tuns(1);
    wait_until(PATIENCE, "the new sender", || {
        proc::twins(client.pid()).len() == 1
    });
}

#[test]
#[ignore = "needs root"]
fn a_device_deleted_before_the_server_is_known() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1]).start();
    let prog = lab.client().script("tells", "echo $TUN_DEV_NAME >>$0.runs");
    let client = Client::new(lab.client(), 1)
        .to("tunnel.example")
        .options(&["-k", "1"])
        .start_with(&[prog]);
    client.lines.wait("unable to resolve ");
    lab.client().ip("link del tun0");
    // Its name is another's now.
    lab.client().ip("tuntap add dev tun0 mode tun");
    lab.client()
        .etc("hosts", &format!("{SERVER4} tunnel.example\n"));
    client.signal(Signal::SIGHUP);
    client.lines.wait("device tun1 opened");
    client.lines.wait("answers from");
    wait_until(PATIENCE, "PROG", || {
        !lab.client().read("tells.runs").is_empty()
    });
    assert_eq!(lab.client().read("tells.runs"), "tun1\n");
    client.lines.exactly("device tun0 is gone", 1);
}

#[test]
#[ignore = "needs root"]
fn devices_deleted_again_and_again() {
    let tunnel = Tunnel::plain(Lab::direct());
    for round in 0..3 {
        for (host, _) in ends(&tunnel) {
            let tuns = host.wait_tuns(1);
            host.ip(&format!("link del {}", tuns[0]));
            tunnel.client.wait_up();
        }
        assert!(
            tunnel.client.runs() && tunnel.server.runs(),
            "round {round}"
        );
    }
    assert_eq!(proc::twins(tunnel.client.pid()).len(), 1);
}

#[test]
#[ignore = "needs root"]
fn what_deletes_each_device_makes_nothing_spin() {
    let lab = Lab::direct();
    let deletes = "ip link del $TUN_DEV_NAME";
    let prog = lab.server.script("deletes", deletes);
    let server = Server::new(&lab.server, [1]).start_with(&[prog]);
    let prog = lab.client().script("deletes", deletes);
    let client = Client::new(lab.client(), 2).start_with(&[prog]);
    let (peer, since) = (Peer::new(lab.client()), Instant::now());
    let gone = |n| [&server.lines, &client.lines].map(|lines| lines.time_of("is gone", n));
    wait_until(PATIENCE, "four devices that are gone at each end", || {
        peer.send(&client_id(1), &keepalive(1), TO);
        gone(4).iter().all(Option::is_some)
    });
    // The second comes at once, the others after 1 and 2 seconds at least.
    for time in gone(4).into_iter().flatten() {
        let time = time - since;
        assert!(time > Duration::from_millis(2500), "{time:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn devices_with_names_in_use_are_closed_by_a_helper() {
    const GOING: u16 = 20;
    let lab = Lab::direct();
    let prog = lab.server.script("stays", "trap '' TERM; sleep 100");
    let trace = ["strace", "-o", "trace", "-T", "-e", "trace=close"];
    let server = Server::new(&lab.server, 1..=GOING + 1)
        .with(|launch| launch.under(&trace))
        .start_with(&[prog]);
    let peer = Peer::new(lab.client());
    for number in 1..=GOING {
        peer.knock(&client_id(number), TO, SERVER_ID);
    }
    let jtunneld = proc::children(server.pid())[0];
    wait_until(PATIENCE, "all PROGs", || {
        proc::children(jtunneld).len() == GOING.into()
    });
    for tun in lab.server.tuns() {
        lab.server.ip(&format!("link del {tun}"));
    }
    server.lines.wait_nth("is gone", GOING.into());
    // Each makes nine devices, whose names are in use.
    wait_until(PATIENCE, "names in use", || {
        assert!(proc::runs(jtunneld));
        peer.send(&client_id(GOING + 1), &keepalive(1), TO);
        server.lines.count("unable to use ") > 0
    });
    let text = lab.server.read("trace");
    let times = text.lines().filter_map(|line| {
        let (_, time) = line.strip_suffix('>')?.rsplit_once('<')?;
        time.parse::<f64>().ok()
    });
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    assert!(times.len() >= 9, "{times:?}");
    // The one that closes a device takes ten or twenty ms.
    assert!(times[times.len() / 2] < 0.005, "{times:?}");
}

#[test]
#[ignore = "needs root"]
fn a_name_of_any_bytes_reaches_prog() {
    let lab = Lab::direct();
    let host = lab.client();
    let prog = host.script(
        "prog",
        "printf %s \"$TUN_DEV_NAME\" | od -An -tx1 >$0.new; mv $0.new $0.name",
    );
    // PROG waits for the server's address. Latin-1 and UTF-8, and neither of them.
    let _client = Client::new(host, 1)
        .to("tunnel.example")
        .start_with(&[prog]);
    host.sh("ip link set tun0 name \"$(printf 't\\374\\303\\274\\377')\"");
    host.etc("hosts", &format!("{SERVER4} tunnel.example\n"));
    wait_until(PATIENCE, "PROG", || {
        host.read("prog.name").trim() == "74 fc c3 bc ff"
    });
}

#[test]
#[ignore = "needs root"]
fn an_answer_that_a_signal_held_up_is_read_again() {
    let lab = Lab::direct();
    let mut server = Server::new(&lab.server, 1..=2)
        .with(|launch| launch.failing("recvfrom", "error=EINTR:when=1"))
        .start_with(&["/bin/true"]);
    let peer = Peer::new(lab.client());
    for number in 1..=2 {
        peer.knock(&client_id(number), TO, SERVER_ID);
    }
    lab.server.wait_tuns(2);
    kill(proc::children(server.pid())[0], Signal::SIGTERM).unwrap();
    server.process().wait();
    // Both devices join a group, and it is deleted: three answers.
    let trace = lab.server.read("trace");
    assert_eq!(trace.matches("EINTR").count(), 1, "{trace}");
    assert_eq!(trace.matches("recvfrom(").count(), 4, "{trace}");
}

#[test]
#[ignore = "needs root"]
fn a_device_of_the_same_number_is_left_alone() {
    let lab = Lab::direct();
    let mut server = Server::new(&lab.server, 1..=3).start_with(&["/bin/true"]);
    let peer = Peer::new(lab.client());
    for number in 1..=3 {
        peer.knock(&client_id(number), TO, SERVER_ID);
    }
    let tun = &lab.server.wait_tuns(3)[0];
    let index = lab.server.sh(&format!("cat /sys/class/net/{tun}/ifindex"));
    let netns = lab.client().name();
    lab.server.ip(&format!("link set {tun} netns {netns}"));
    let index = index.trim();
    lab.server.ip(&format!(
        "link add foreign index {index} type veth peer name other"
    ));
    server.process().stop();
    assert!(lab.server.ip("-o link show").contains(" foreign@"));
    assert_eq!(lab.server.tuns().len(), 0);
}

#[test]
#[ignore = "needs root"]
fn a_name_that_is_cleaned_up_after_keeps_nobody_out() {
    let lab = Lab::direct();
    let stays = "trap '' TERM; : >$0.$TUN_DEV_NAME; while :; do sleep 1000; done";
    let prog = lab.server.script("stays", stays);
    let server = Server::new(&lab.server, [1, 2, 3]).start_with(&[prog]);
    let peer = Peer::new(lab.client());
    for number in [1, 2] {
        peer.knock(&client_id(number), TO, SERVER_ID);
    }
    let tuns = lab.server.wait_tuns(2);
    let since = Instant::now();
    for tun in &tuns {
        let runs = lab.server.path(&format!("stays.{tun}"));
        wait_until(PATIENCE, "PROG", || runs.exists());
        lab.server.ip(&format!("link del {tun}"));
    }
    server.lines.wait_nth("is gone", 2);
    peer.knock(&client_id(3), TO, SERVER_ID);
    // What comes for a device that is gone counts as lost.
    peer.send(&client_id(1), &[0x45; 20], TO);
    peer.knock(&client_id(3), TO, SERVER_ID);
    // The two PROGs have 5 seconds, of which a busy machine may have taken most.
    if since.elapsed() < Duration::from_secs(4) {
        server.signal(Signal::SIGUSR1);
        assert!(server.lines.wait(" (deleted) ").ends_with(" dropped 1"));
        server.lines.exactly("forgotten", 0);
    }
    server.lines.exactly("unable to", 0);
    assert_eq!(lab.server.tuns().len(), 1);
    assert!(!tuns.contains(&lab.server.tuns()[0]));
}

#[test]
#[ignore = "needs root"]
fn no_device_file_for_the_next_client() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1, 2]).start();
    let peer = Peer::new(lab.client());
    peer.knock(&client_id(1), TO, SERVER_ID);
    lab.server.without_device("net/tun");
    for counter in 0..200 {
        peer.send(&client_id(2), &keepalive(counter), TO);
    }
    // The first one is served on.
    peer.send(&client_id(1), &keepalive(777), TO);
    peer.expect(&datagram(SERVER_ID, &answer(777)));
    let line = server.report("status: ");
    assert!(line.ends_with(", 200 without a device"), "{line}");
    // At a bounded rate.
    let lines = server.lines.exactly("/dev/net/tun", 1);
    assert!(lines[0].contains("No such file or directory"), "{lines:?}");
    assert_eq!(lab.server.tuns().len(), 1);
}

#[test]
#[ignore = "needs root"]
fn no_more_descriptors_for_the_next_client() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, 1..=60)
        .with(|launch| launch.under(&["prlimit", "--nofile=40:40"]))
        .start();
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    client.wait_up();
    let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
    let peer = Peer::new(lab.client());
    for number in 2..=60 {
        peer.send(&client_id(number), &keepalive(0), TO);
    }
    let line = server.lines.wait("unable to create a tun device");
    assert!(line.contains("client 00"), "{line}");
    beat.wait_beats(30);
    assert_eq!(beat.tally().lost, 0, "no harm to the others");
    let tuns = lab.server.tuns().len();
    assert!((10..40).contains(&tuns), "{tuns} devices");
    assert!(server.lines.count("unable to create a tun device") <= 2);
    // One leaves, another may come.
    server.config.revoke(&client_id(2));
    server
        .lines
        .wait_next("forgotten", || server.signal(Signal::SIGHUP));
    peer.knock(&client_id(60), TO, SERVER_ID);
    wait_ping(lab.client(), client.inner.server4());
}

#[test]
#[ignore = "needs root"]
fn no_descriptors_for_any_client() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]);
    let launch = server.launch().clone().operands(["/bin/true"]);
    let output = launch.under(&["prlimit", "--nofile=24:24"]).output();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(111), "{said}");
    assert!(said.contains("unable to create a tun device: "), "{said}");
}

#[test]
#[ignore = "needs root"]
fn more_devices_than_prog_may_have_descriptors() {
    let lab = Lab::direct();
    let prog = lab.server.script("counts", "ulimit -n >>$0.runs");
    let server = Server::new(&lab.server, 1..=60)
        .with(|launch| launch.under(&["prlimit", "--nofile=40:4096"]))
        .start_with(&[prog]);
    let peer = Peer::new(lab.client());
    for number in 1..=60 {
        peer.knock(&client_id(number), TO, SERVER_ID);
    }
    wait_until(PATIENCE, "PROG of each, with its limit", || {
        let runs = std::fs::read_to_string(lab.server.path("counts.runs"));
        runs.is_ok_and(|runs| runs == "40\n".repeat(60))
    });
    server.lines.exactly("unable to", 0);
}

#[test]
#[ignore = "needs root"]
fn more_devices_than_select_can_name() {
    // Descriptors beyond 1024 need a limit that allows them.
    const CLIENTS: u16 = 1100;
    let lab = Lab::direct();
    let server = Server::new(&lab.server, 1..=CLIENTS)
        .with(|launch| launch.under(&["prlimit", "--nofile=1024:4096"]))
        .start_with(&["/bin/true"]);
    let time = Crowd::new(lab.client(), 1..=CLIENTS, server_address()).knock();
    report_recovery(
        format_args!("{CLIENTS} clients at once have a device"),
        time,
    );
    let line = server.report("status: ");
    assert!(line.contains("1100 clients"), "{line}");
    let text = lab.server.ip("-o link show type tun");
    assert_eq!(text.lines().count(), CLIENTS.into());
    // The last one carries packets in both directions.
    let admitted = format!("client {} admitted from", shown(&client_id(CLIENTS)));
    let last = server.lines.wait(&admitted);
    let device = last.rsplit(' ').next().unwrap();
    let (own, other) = (Inner(CLIENTS).server4(), Inner(CLIENTS).client4());
    lab.server
        .ip(&format!("address add {own} peer {other} dev {device}"));
    lab.server.ip(&format!("link set {device} up"));
    let peer = Peer::new(lab.client());
    peer.knock(&client_id(CLIENTS), TO, SERVER_ID);
    wait_until(PATIENCE, "a packet of the last device", || {
        assert!(!ping_works(&lab.server, other), "nobody answers");
        let moment = Duration::from_millis(10);
        let mut arrived = std::iter::from_fn(|| peer.receive_within(moment));
        arrived.any(|(content, _)| content.get(8) == Some(&0x45))
    });
    // All deleted at once: none is left, and nothing spins.
    let devices = text.lines().filter_map(|line| line.split(": ").nth(1));
    let lines: String = devices
        .map(|name| format!("link set {name} group 7\n"))
        .collect();
    std::fs::write(lab.server.path("batch"), lines).unwrap();
    lab.server.sh("ip -batch batch");
    lab.server.ip("link del group 7");
    server.lines.wait_nth("forgotten", CLIENTS.into());
    let since = Instant::now();
    server.signal(Signal::SIGTERM);
    wait_until(PATIENCE, "the end", || !server.runs());
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "{:?}",
        since.elapsed()
    );
}
