//! Signals, daemon manners, and the deaths of processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::config::{Config, SERVER_ID, client_id, key_line, shown};
use support::heartbeat::Heartbeat;
use support::host::Host;
use support::lab::{Lab, SERVER4, TO};
use support::launch::Launch;
use support::peer::{Peer, answer, datagram, keepalive};
use support::proc;
use support::process::Process;
use support::syslog::Syslog;
use support::traffic::{assert_pings, wait_ping};
use support::tree::root;
use support::tunnel::{Client, Inner, Server, Tunnel, client_prog, server_prog};
use support::wait::{PATIENCE, report_recovery, wait_for, wait_until};

/// Nothing of the programs is left on the host.
fn assert_clean(host: &Host) {
    assert_eq!(host.pids(), [], "processes are left");
    assert_eq!(host.tuns(), Vec::<String>::new(), "devices are left");
}

#[test]
#[ignore = "needs root"]
fn as_daemons_both_leave_the_terminal_and_end_clean() {
    let lab = Lab::direct();
    let (server_host, client_host) = (&lab.server, lab.client());
    let log = Syslog::start(server_host);
    Config::server(server_host, "server", SERVER_ID).authorise(&client_id(1));
    Config::client(client_host, "client", &client_id(1)).authorise(SERVER_ID);
    // A relative PROG, directory and pid file: in the background they mean the same.
    server_prog(server_host, "server-up", "");
    client_prog(client_host, "client-up", 1, "");
    let server = Launch::server(server_host)
        .options(["-d", "server"])
        .operands(["./server-up"]);
    let client = Launch::client(client_host)
        .options(["-d", "client", "-k", "1"])
        .operands([SERVER4, "5886", "./client-up"]);
    let daemons = [
        (server_host, server.background("server.pid"), "server.pid"),
        (client_host, client.background("client.pid"), "client.pid"),
    ];
    wait_ping(client_host, Inner(1).server4());
    for (_, pid, _) in daemons {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        assert_eq!(fields[3], pid.to_string(), "a session of its own");
        assert_eq!(fields[4], "0", "no terminal");
        assert_eq!(
            fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
            Path::new("/")
        );
        for number in 0..3 {
            let stream = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
            assert_eq!(stream, Path::new("/dev/null"));
        }
    }
    log.lines.wait("admitted from");
    for (host, pid, file) in daemons {
        kill(pid, Signal::SIGTERM).unwrap();
        wait_until(PATIENCE, "the end of a daemon", || !proc::runs(pid));
        assert!(!host.path(file).exists(), "the pid file is left");
        assert_eq!(host.tuns(), Vec::<String>::new());
    }
    log.lines.wait("stopping: signal TERM");
    drop(log);
    for host in [server_host, client_host] {
        wait_until(PATIENCE, "an empty host", || host.pids().is_empty());
        assert_clean(host);
    }
}

#[test]
#[ignore = "needs root"]
fn a_daemon_that_cannot_start_says_so_before_it_detaches() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    let output = server.launch().output();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(111), "{said}");
    assert!(
        said.starts_with("jtunneld: unable to ") && said.ends_with(" in use\n"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
    let bad = ["-P", "/nonexistent/pid", "-p", "5887"];
    let output = Launch::server(&lab.server)
        .options(["-d".as_ref(), server.config.path.as_os_str()])
        .options(bad)
        .operands(["/bin/true"])
        .output();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(111), "{said}");
    assert!(
        said.contains("/nonexistent/pid: No such file or directory"),
        "{said}"
    );
    assert!(server.runs());
}

/// A PROG that takes its time to clean up.
const CLEANS_UP: &str = "trap 'sleep 0.7; exit' TERM; sleep 1000 & wait";

/// Both programs in the background with such a PROG, and how to start them once more; the tunnel is up.
fn both_with_pid_files(lab: &Lab) -> [(Launch, Pid, &Host); 2] {
    let (server_host, client_host) = (&lab.server, lab.client());
    let server = Server::new(server_host, [1]).launch().clone();
    let server = server.operands([server_prog(server_host, "server-up", CLEANS_UP)]);
    let client = Client::new(client_host, 1).launch().clone();
    let client = client.options(["-k", "1"]).operands([SERVER4, "5886"]);
    let client = client.operands([client_prog(client_host, "client-up", 1, CLEANS_UP)]);
    let pids = (server.background("pid"), client.background("pid"));
    wait_ping(client_host, Inner(1).server4());
    [(server, pids.0, server_host), (client, pids.1, client_host)]
}

#[test]
#[ignore = "needs root"]
fn one_pid_file_is_for_one_process() {
    let lab = Lab::direct();
    for (launch, pid, host) in both_with_pid_files(&lab) {
        let path = host.path("pid");
        for options in [&["-P", "pid"][..], &["-P", "pid", "-f"]] {
            let output = launch.clone().options(options).output();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(111), "{said}");
            let reason = format!("unable to write {}: process {pid} runs\n", path.display());
            assert!(said.ends_with(&reason), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{pid}\n"));
        assert!(proc::runs(pid));
        // What a killed one leaves keeps nobody out, whoever has its number by now.
        kill(pid, Signal::SIGKILL).unwrap();
        wait_until(PATIENCE, "the end", || !proc::runs(pid));
        fs::write(&path, "1\n").unwrap();
        let next = launch.background("pid");
        assert!(next != pid && proc::runs(next));
        // One that was moved away is not ours to remove, nor is what took its place.
        fs::rename(&path, host.path("moved")).unwrap();
        fs::write(&path, "another's").unwrap();
        kill(next, Signal::SIGTERM).unwrap();
        wait_until(PATIENCE, "the end", || !proc::runs(next));
        assert!(path.exists() && host.path("moved").exists());
    }
}

#[test]
#[ignore = "needs root"]
fn a_start_waits_for_the_end_of_the_one_before() {
    let lab = Lab::direct();
    for (launch, pid, host) in both_with_pid_files(&lab) {
        kill(pid, Signal::SIGTERM).unwrap();
        let next = launch.background("pid");
        assert!(!proc::runs(pid) && proc::runs(next));
        let written = fs::read_to_string(host.path("pid")).unwrap();
        assert_eq!(written, format!("{next}\n"));
    }
}

#[test]
#[ignore = "needs root"]
fn no_link_is_followed_to_a_pid_file() {
    let lab = Lab::direct();
    for (launch, name) in both(&lab) {
        let host = if name == "jtunneld" {
            &lab.server
        } else {
            lab.client()
        };
        fs::write(host.path("precious"), "content").unwrap();
        std::os::unix::fs::symlink("precious", host.path("pid")).unwrap();
        let output = launch.output();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(111), "{said}");
        assert!(said.ends_with("/pid: it is a symbolic link\n"), "{said}");
        assert_eq!(host.read("precious"), "content");
        assert!(host.path("pid").is_symlink());
    }
}

#[test]
#[ignore = "needs root"]
fn term_and_int_end_both_with_status_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut tunnel = Tunnel::up(Lab::direct(), &["-P", "pid"], &["-P", "pid"]);
        for host in [&tunnel.lab.server, tunnel.lab.client()] {
            assert!(host.path("pid").exists());
        }
        for process in [tunnel.client.process(), tunnel.server.process()] {
            let since = Instant::now();
            process.signal(signal);
            assert_eq!(process.wait().code(), Some(0));
            assert!(
                since.elapsed() < Duration::from_secs(5),
                "{:?}",
                since.elapsed()
            );
            process
                .lines
                .wait(&format!("stopping: signal {}", &signal.as_str()[3..]));
        }
        for host in [&tunnel.lab.server, tunnel.lab.client()] {
            assert_clean(host);
            assert!(!host.path("pid").exists());
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_signal_at_the_very_end_writes_to_nothing() {
    let lab = Lab::direct();
    // One with each descriptor that is closed, and the pipe's are closed before others.
    let trace = [
        "strace",
        "-o",
        "trace",
        "-e",
        "trace=close,write",
        "-e",
        "inject=close:signal=SIGCHLD",
    ];
    let mut server = Server::new(&lab.server, [1])
        .with(|launch| launch.under(&trace))
        .start_with(&["/bin/true"]);
    Peer::new(lab.client()).knock(&client_id(1), TO, SERVER_ID);
    kill(proc::children(server.pid())[0], Signal::SIGTERM).unwrap();
    server.process().wait();
    let trace = lab.server.read("trace");
    assert!(trace.contains("exited with 0"), "{trace}");
    assert!(!trace.contains("EBADF"), "{trace}");
}

#[test]
#[ignore = "needs root"]
fn term_is_never_lost() {
    let lab = Lab::direct();
    // At every moment of an idle and of a busy life.
    for number in 0..40 {
        let mut server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
        // Its next deadline comes later than the end that is waited for.
        let mut client = Client::new(lab.client(), 1)
            .options(&["-k", "25"])
            .start_with(&["/bin/true"]);
        let until = Instant::now() + Duration::from_micros(500) * number;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        for process in [client.process(), server.process()] {
            process.signal(Signal::SIGUSR1);
            process.signal(Signal::SIGTERM);
            assert_eq!(process.wait_at_most(Duration::from_secs(5)).code(), Some(0));
        }
    }
    assert_clean(&lab.server);
    assert_clean(lab.client());
}

/// Both programs, and what they are called.
fn both(lab: &Lab) -> [(Launch, &'static str); 2] {
    let server = Server::new(&lab.server, [1]);
    let client = Client::new(lab.client(), 1);
    let client = client.launch().clone().operands([SERVER4, "5886"]);
    [
        (server.launch().clone(), "jtunneld"),
        (client, "jtunnel-client"),
    ]
    .map(|(launch, name)| {
        let launch = launch.options(["-P", "pid"]).operands(["/bin/true"]);
        (launch, name)
    })
}

/// Starts a program under strace(1), and returns in the midst of its set-up: the first device, which
/// comes after a look at standard error, takes its time.
fn start_slowly(launch: &Launch, name: &str) -> (Process, Pid) {
    let slow = [
        "-e",
        "trace=ioctl",
        "-e",
        "inject=ioctl:delay_enter=500000:when=2",
    ];
    let under = [&["strace", "-o", "/dev/null"], &slow[..]].concat();
    let process = launch.clone().under(&under).start();
    let pid = wait_for(PATIENCE, "the set-up", || {
        let pid = *proc::children(process.pid()).first()?;
        let mut fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let tun =
            fds.any(|fd| fs::read_link(fd.path()).is_ok_and(|path| path.ends_with("net/tun")));
        (tun && proc::name(pid) == name).then_some(pid)
    });
    process.lines.exactly("started: ", 0);
    (process, pid)
}

#[test]
#[ignore = "needs root"]
fn hup_and_usr1_during_the_set_up_end_nothing() {
    let lab = Lab::direct();
    for (launch, name) in both(&lab) {
        let (mut process, pid) = start_slowly(&launch, name);
        kill(pid, Signal::SIGHUP).unwrap();
        kill(pid, Signal::SIGUSR1).unwrap();
        process.lines.wait("started: ");
        kill(pid, Signal::SIGTERM).unwrap();
        assert_eq!(process.wait().code(), Some(0), "{name}");
    }
}

#[test]
#[ignore = "needs root"]
fn term_and_int_during_the_set_up_are_heeded_after_it() {
    let lab = Lab::direct();
    for (launch, name) in both(&lab) {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let (mut process, pid) = start_slowly(&launch, name);
            kill(pid, signal).unwrap();
            assert_eq!(process.wait().code(), Some(0), "{name}: {signal}");
            process.lines.wait("stopping: signal ");
        }
    }
    for host in [&lab.server, lab.client()] {
        assert_clean(host);
        assert!(!host.path("pid").exists());
    }
}

#[test]
#[ignore = "needs root"]
fn no_usr1_is_lost() {
    // One that is lost would be noticed with the next keepalive.
    let tunnel = Tunnel::up(Lab::direct(), &[], &["-k", "25"]);
    let beat = Heartbeat::start(
        tunnel.lab.client(),
        &tunnel.lab.server,
        tunnel.client.inner.server4(),
    );
    // Under traffic, and with nothing else to do.
    for quiet in [false, true] {
        for _ in 0..30 {
            for process in [&*tunnel.client, &*tunnel.server] {
                let since = Instant::now();
                process.report("status: ");
                assert!(
                    since.elapsed() < Duration::from_secs(5),
                    "{:?}",
                    since.elapsed()
                );
            }
        }
        if !quiet {
            assert_eq!(beat.tally().lost, 0);
            tunnel.lab.client().ip("link set eth0 down");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn usr1_tells_the_state() {
    let tunnel = Tunnel::plain(Lab::direct());
    let line = tunnel.server.report("status: ");
    assert!(line.contains("status: 1 clients, 1 authorised; dropped: 0 short, 0 unknown, 0 from port 0, 0 truncated, 0 of keyed links, 0 without a device"), "{line}");
    let device = &tunnel.lab.server.tuns()[0];
    let line = tunnel.server.lines.wait(" heard ");
    let start = format!("client {} {device} 198.51.100.2:", shown(&client_id(1)));
    assert!(line.contains(&start), "{line}");
    let words = [
        "s ago, plain, received ",
        " packets ",
        " bytes, sent ",
        " bytes, dropped ",
    ];
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    assert!(!line.contains(&client_id(1)), "{line}");

    tunnel.client.signal(Signal::SIGUSR1);
    let line = tunnel.client.lines.wait("status: device");
    let device = &tunnel.lab.client().tuns()[0];
    let start = format!("status: device {device}, server 198.51.100.1:5886, heard ");
    assert!(line.contains(&start), "{line}");
    let time = line
        .split("round trip ")
        .nth(1)
        .and_then(|rest| rest.split(" ms").next());
    assert!(time.unwrap().parse::<f64>().unwrap() < 1000.0, "{line}");
    let line = tunnel.client.lines.wait("status: sent");
    assert!(
        line.contains(" packets ") && line.contains(" bytes, dropped "),
        "{line}"
    );
}

/// The lines of a state file, as pairs in their order.
fn state_of(host: &Host, name: &str) -> Vec<Vec<(String, String)>> {
    let text = host.read(name);
    let last = text.lines().last().unwrap_or_default();
    assert!(
        text.ends_with('\n') && last.contains(" plain="),
        "whole: {text:?}"
    );
    let pair = |word: &str| {
        let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("{word}"));
        (key.to_owned(), value.to_owned())
    };
    let lines = text.lines();
    lines
        .map(|line| line.split(' ').map(pair).collect())
        .collect()
}

fn value(line: &[(String, String)], key: &str) -> String {
    let found = line.iter().find(|(name, _)| name == key);
    found
        .unwrap_or_else(|| panic!("no {key} in {line:?}"))
        .1
        .clone()
}

/// Asks for a state, and returns its lines.
fn new_state(host: &Host, process: &Process) -> Vec<Vec<(String, String)>> {
    let _ = fs::remove_file(host.path("state"));
    process.signal(Signal::SIGUSR1);
    wait_until(PATIENCE, "the state", || host.path("state").exists());
    let mode = fs::metadata(host.path("state"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
    state_of(host, "state")
}

#[test]
#[ignore = "needs root"]
fn usr1_writes_the_state_to_a_file() {
    let lab = Lab::direct();
    let progs = [
        server_prog(&lab.server, "up", "exit 3"),
        client_prog(lab.client(), "up", 1, "exec sleep 1000"),
    ];
    let options = ["-S", "state"];
    let server = Server::new(&lab.server, [1, 2]).options(&options);
    let server = server.start_with(&[&progs[0]]);
    let client = Client::new(lab.client(), 1).options(&[&options[..], &["-k", "1"]].concat());
    let client = client.start_with(&[&progs[1]]);
    client.wait_up();
    server.lines.wait("exited with status 3");
    for (host, process, page) in [
        (&lab.server, &*server, "jtunneld"),
        (lab.client(), &*client, "jtunnel-client"),
    ] {
        let before = new_state(host, process);
        lab.client().sh("ping -c 5 -i 0.01 -s 1000 10.0.1.1");
        let [about, tunnel] = &new_state(host, process)[..] else {
            panic!("two lines");
        };
        assert_eq!(value(about, "program"), page);
        assert_eq!(value(about, "version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(value(about, "pid"), process.pid().to_string());
        assert!(value(about, "uptime").parse::<u64>().unwrap() < 120);
        assert_eq!(value(tunnel, "device"), host.tuns()[0]);
        assert_eq!(value(tunnel, "state"), "up");
        assert!(value(tunnel, "heard").parse::<u64>().unwrap() < 10);
        for way in ["received", "sent"] {
            let number = |line: &[_], what: &str| -> u64 {
                value(line, &format!("{way}_{what}")).parse().unwrap()
            };
            let more = number(tunnel, "bytes") - number(&before[1], "bytes");
            assert!((5 * 1028..10 * 1028).contains(&more), "{more} bytes {way}");
            let more = number(tunnel, "packets") - number(&before[1], "packets");
            assert!((5..20).contains(&more), "{more} packets {way}");
            number(tunnel, "dropped");
        }
        let (own, status) = match page {
            "jtunneld" => {
                for (key, expected) in [("clients", "1"), ("authorised", "2"), ("short", "0")] {
                    assert_eq!(value(about, key), expected);
                }
                assert_eq!(value(tunnel, "client"), client_id(1)[..4]);
                assert!(value(tunnel, "address").starts_with("198.51.100.2:"));
                (SERVER_ID.to_owned(), ("ended", "3"))
            }
            _ => {
                assert_eq!(value(tunnel, "server"), "198.51.100.1:5886");
                assert!(value(tunnel, "round_trip").parse::<f64>().unwrap() < 1.0);
                assert!(value(tunnel, "round_trip_age").parse::<u64>().unwrap() < 10);
                assert!(value(tunnel, "unanswered").parse::<u32>().unwrap() < 3);
                (client_id(1), ("running", "-"))
            }
        };
        assert_eq!(value(about, "identifier"), own[..4]);
        let prog = (value(tunnel, "prog"), value(tunnel, "status"));
        assert_eq!((&*prog.0, &*prog.1), status);
        // The manual names each word, and no other.
        let manual = fs::read_to_string(root().join(format!("man/{page}.8"))).unwrap();
        let section = manual.split(".Ss State file").nth(1).unwrap();
        let section = section.split(".Sh ").next().unwrap();
        let keys = section
            .lines()
            .filter_map(|line| line.strip_prefix(".It Li "));
        let mut listed: Vec<&str> = keys.flat_map(|keys| keys.split(" , ")).collect();
        let mut written: Vec<&str> = [about, tunnel]
            .into_iter()
            .flatten()
            .map(|w| &*w.0)
            .collect();
        listed.sort_unstable();
        written.sort_unstable();
        assert_eq!(listed, written);
        let text = host.read("state");
        assert!(!text.contains(&client_id(1)) && !text.contains(SERVER_ID));
    }
    // What becomes of the device and of PROG.
    let device = &lab.client().tuns()[0];
    lab.client().ip(&format!("link set {device} down"));
    let prog = proc::children(client.pid())
        .into_iter()
        .find(|&pid| proc::name(pid) == "sleep");
    kill(prog.unwrap(), Signal::SIGKILL).unwrap();
    client.lines.wait("was killed by signal 9");
    let tunnel = &new_state(lab.client(), &client)[1];
    assert_eq!(value(tunnel, "state"), "down");
    assert_eq!(
        (value(tunnel, "prog"), value(tunnel, "status")),
        ("ended".into(), "137".into())
    );
    let device = &lab.server.tuns()[0];
    lab.server.ip(&format!("link set {device} down"));
    lab.server.ip(&format!("link set {device} name renamed"));
    let tunnel = &new_state(&lab.server, &server)[1];
    assert_eq!(
        (value(tunnel, "device"), value(tunnel, "state")),
        ("renamed".into(), "down".into())
    );
}

#[test]
#[ignore = "needs root"]
fn the_state_of_a_keyed_link() {
    for word in ["sign", "seal"] {
        let (lab, options) = (Lab::direct(), ["-S", "state", "-k", "1"]);
        let server = Server::new(&lab.server, []).options(&options[..2]);
        server.config.key(&client_id(1), &key_line(word));
        let server = server.start();
        let client = Client::new(lab.client(), 1).options(&options);
        client.config.key(SERVER_ID, &key_line(word));
        let client = client.start();
        client.wait_up();
        for (host, process) in [(&lab.server, &*server), (lab.client(), &*client)] {
            let tunnel = &new_state(host, process)[1];
            assert_eq!(value(tunnel, "protection"), word);
            assert!(value(tunnel, "session_age").parse::<u64>().unwrap() < 60);
            for key in ["replayed", "forged", "wrong_key", "plain"] {
                assert_eq!(value(tunnel, key), "0", "{key}");
            }
        }
        let tunnel = &new_state(lab.client(), &client)[1];
        assert!(value(tunnel, "round_trip").parse::<f64>().unwrap() < 1.0);
        assert!(value(tunnel, "round_trip_age").parse::<u64>().unwrap() < 10);
        // Without its key.
        let peer = Peer::new(lab.client());
        peer.send(&client_id(1), &keepalive(1), TO);
        drop(client);
        let other = Client::new(lab.client(), 1).options(&options);
        other
            .config
            .key(SERVER_ID, &format!("{word} {}\n", "5a".repeat(32)));
        let other = other.start();
        server.lines.wait("with another key");
        let state = &new_state(&lab.server, &server);
        assert_eq!(value(&state[1], "plain"), "1");
        assert!(value(&state[1], "wrong_key").parse::<u32>().unwrap() >= 1);
        assert_eq!(value(&state[0], "keyed"), "0");
        let tunnel = &new_state(lab.client(), &other)[1];
        assert_eq!(value(tunnel, "protection"), word);
        assert_eq!(value(tunnel, "session_age"), "-");
        assert!(value(tunnel, "unanswered").parse::<u32>().unwrap() >= 1);
    }
}

#[test]
#[ignore = "needs root"]
fn the_state_counts_what_all_senders_sent() {
    let tunnel = Tunnel::up(Lab::direct(), &[], &["-S", "state", "-k", "1"]);
    let host = tunnel.lab.client();
    let sent = || -> u64 {
        let state = new_state(host, &tunnel.client);
        value(&state[1], "sent_packets").parse().unwrap()
    };
    host.sh("ping -c 50 -i 0.01 10.0.1.1");
    let before = sent();
    assert!(before >= 50, "{before}");
    let sender = || proc::twins(tunnel.client.pid()).first().copied();
    let killed = sender().unwrap();
    kill(killed, Signal::SIGKILL).unwrap();
    tunnel.client.lines.wait("killed by signal 9");
    wait_until(PATIENCE, "another sender", || {
        sender().is_some_and(|pid| pid != killed)
    });
    wait_ping(host, tunnel.client.inner.server4());
    host.sh("ping -c 50 -i 0.01 10.0.1.1");
    let after = sent();
    assert!(
        (before + 50..before + 100).contains(&after),
        "{before}, {after}"
    );
}

#[test]
#[ignore = "needs root"]
fn a_hundred_signals_a_second_cost_no_packet() {
    let tunnel = Tunnel::up(Lab::direct(), &["-S", "state"], &["-S", "state"]);
    let (client_host, server_host) = (tunnel.lab.client(), &tunnel.lab.server);
    // A few clients more, that are told of as well.
    let peer = Peer::new(client_host);
    for number in 2..200 {
        tunnel.server.config.authorise(&client_id(number));
    }
    tunnel.server.reload();
    for number in 2..200 {
        peer.send(&client_id(number), &keepalive(number.into()), TO);
        peer.expect(&datagram(SERVER_ID, &answer(number.into())));
    }
    let beat = Heartbeat::start(client_host, server_host, tunnel.client.inner.server4());
    beat.wait_beats(10);
    // That of the reload knows one client only.
    new_state(server_host, &tunnel.server);
    let mut seen = 0;
    for _ in 0..300 {
        for process in [&*tunnel.client, &*tunnel.server] {
            process.signal(Signal::SIGUSR1);
        }
        std::thread::sleep(Duration::from_millis(10));
        for (host, lines) in [(client_host, 2), (server_host, 200)] {
            if host.path("state").exists() {
                assert_eq!(state_of(host, "state").len(), lines);
                seen += 1;
            }
        }
    }
    assert!(seen > 300, "{seen} of 600");
    beat.wait_beats(20);
    assert_eq!(beat.tally().lost, 0, "{:?}", beat.tally());
    for host in [client_host, server_host] {
        let is_one = || host.sh("ls -A").matches("state").count() == 1;
        wait_until(PATIENCE, "no draft of a state", is_one);
    }
}

#[test]
#[ignore = "needs root"]
fn a_monitor_reads_the_state_as_the_manual_has_it() {
    let tunnel = Tunnel::up(Lab::direct(), &["-S", "state"], &["-S", "state"]);
    let commands = |page: &str| -> Vec<String> {
        let manual = fs::read_to_string(root().join(format!("man/{page}.8"))).unwrap();
        let displays = manual.split(".Bd -literal -offset indent\n").skip(1);
        let displays = displays.map(|rest| rest.split(".Ed").next().unwrap().replace("\\e", "\\"));
        let displays = displays.filter(|display| display.contains("awk "));
        // The signal is another test's matter.
        displays
            .map(|display| display[display.find("awk ").unwrap()..].to_owned())
            .map(|command| command.replace(&format!("/var/run/{page}.state"), "state"))
            .map(|command| command.replace("/var/lib/node_exporter/jtunnel.prom", "prom"))
            .collect()
    };
    let (server_host, client_host) = (&tunnel.lab.server, tunnel.lab.client());
    new_state(server_host, &tunnel.server);
    new_state(client_host, &tunnel.client);
    let on_server = commands("jtunneld");
    assert_eq!(server_host.sh(&on_server[0]), "");
    server_host.sh(&on_server[1]);
    let digits = &client_id(1)[..4];
    let metrics = server_host.read("prom");
    for name in ["heard", "received_packets", "sent_bytes"] {
        let start = format!("jtunnel_{name}{{client=\"{digits}\"}} ");
        let line = metrics.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("{metrics}"));
        assert!(line[start.len()..].parse::<u64>().is_ok(), "{line}");
    }
    server_host.sh("sed -i 's/ heard=[0-9]*/ heard=76/' state");
    assert_eq!(server_host.sh(&on_server[0]), format!("{digits} is away\n"));
    let on_client = &commands("jtunnel-client")[0];
    assert_eq!(client_host.sh(on_client), "");
    client_host.sh("sed -i 's/ unanswered=[0-9]*/ unanswered=2/' state");
    assert_eq!(
        client_host.sh(on_client),
        format!("no answer from {SERVER4}:5886\n")
    );
}

#[test]
#[ignore = "needs root"]
fn a_state_file_that_cannot_be_written() {
    let lab = Lab::direct();
    for (launch, name) in both(&lab) {
        let output = launch.options(["-S", "/nonexistent/state"]).output();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(111), "{name}: {said}");
        let reason = "unable to write /nonexistent/state: No such file or directory\n";
        assert!(said.ends_with(reason), "{said}");
    }
}

#[test]
#[ignore = "needs root"]
fn the_counters_count() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    let peer = Peer::new(lab.client());
    peer.knock(&client_id(1), TO, SERVER_ID);
    for len in 0..8 {
        peer.send_raw(&[0; 7][..len.min(7)], TO);
    }
    for _ in 0..5 {
        peer.send(&client_id(9), &[], TO);
    }
    // The device is down, so a packet is lost there.
    peer.send(&client_id(1), &[0x45; 20], TO);
    peer.knock(&client_id(1), TO, SERVER_ID);
    let line = server.report("status: ");
    assert!(
        line.contains("dropped: 8 short, 5 unknown, 0 from port 0"),
        "{line}"
    );
    let line = server.lines.wait(" heard ");
    assert!(
        line.ends_with("dropped 1") && line.contains("received 0 packets 0 bytes"),
        "{line}"
    );
}

#[test]
#[ignore = "needs root"]
fn a_long_report_loses_no_line() {
    let lab = Lab::direct();
    let log = Syslog::start(&lab.server);
    let server = Server::new(&lab.server, 1..=200).start_with(&["/bin/true"]);
    let peer = Peer::new(lab.client());
    for number in 1..=200 {
        peer.send(&client_id(number), &keepalive(number.into()), TO);
        peer.expect(&datagram(SERVER_ID, &answer(number.into())));
    }
    server.signal(Signal::SIGUSR1);
    log.lines.wait_all("200 lines", |lines| {
        lines.iter().filter(|line| line.contains(" heard ")).count() == 200
    });
    for number in 1..=200 {
        let start = format!("client {} ", shown(&client_id(number)));
        let lines = log.lines.matching(&start);
        assert_eq!(
            lines.iter().filter(|line| line.contains(" heard ")).count(),
            1,
            "{start}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn hup_is_harmless_to_a_client_with_an_address() {
    let tunnel = Tunnel::plain(Lab::direct());
    let beat = Heartbeat::start(
        tunnel.lab.client(),
        &tunnel.lab.server,
        tunnel.client.inner.server4(),
    );
    beat.wait_beats(10);
    let child = proc::twins(tunnel.client.pid());
    for _ in 0..20 {
        tunnel.client.reload();
        tunnel.server.reload();
    }
    beat.wait_beats(50);
    assert_eq!(beat.tally().lost, 0, "{:?}", beat.tally());
    assert_eq!(proc::twins(tunnel.client.pid()), child);
}

#[test]
#[ignore = "needs root"]
fn the_clients_child_is_replaced_when_killed() {
    let tunnel = Tunnel::plain(Lab::direct());
    let (parent, inner) = (tunnel.client.pid(), tunnel.client.inner);
    let beat = Heartbeat::start(tunnel.lab.client(), &tunnel.lab.server, inner.server4());
    beat.wait_beats(10);
    let child = proc::twins(parent)[0];
    kill(child, Signal::SIGKILL).unwrap();
    let at_once = beat.recovery(Instant::now());
    report_recovery("sender killed", at_once);
    let line = tunnel.client.lines.wait("starting it again");
    assert!(line.contains("signal 9"), "{line}");
    // Signals that are the parent's leave the child alone.
    let child = proc::twins(parent);
    let parents = [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGINT,
        Signal::SIGTERM,
    ];
    for signal in parents {
        kill(child[0], signal).unwrap();
    }
    beat.wait_beats(50);
    assert_eq!(proc::twins(parent), child);
    // The next ones wait 1, 2, 4 .. s.
    let since = Instant::now();
    kill(child[0], Signal::SIGKILL).unwrap();
    tunnel.client.lines.wait_nth("starting it again", 2);
    beat.recovery(Instant::now());
    let later = since.elapsed();
    assert!(later > Duration::from_millis(800), "{later:?}");
    assert!(at_once < later, "{at_once:?} {later:?}");
    assert_eq!(proc::twins(parent).len(), 1);
}

/// Both directions of a line's totals, in packets and bytes: received, then sent.
fn totals(line: &str) -> [(u64, u64); 2] {
    [" received ", " sent "].map(|way| {
        let (_, rest) = line.split_once(way).unwrap();
        let mut words = rest.split([' ', ',']);
        let mut number = |unit: &str| {
            let number = words.next().unwrap().parse().unwrap();
            assert_eq!(words.next(), Some(unit), "{line}");
            number
        };
        (number("packets"), number("bytes"))
    })
}

#[test]
#[ignore = "needs root"]
fn a_shut_down_that_signals_all_is_told_with_totals() {
    let mut tunnel = Tunnel::plain(Lab::direct());
    let (client, server) = (tunnel.lab.client(), &tunnel.lab.server);
    let inner = tunnel.client.inner;
    assert_pings(client, inner.server4(), 50, &["-i", "0.01", "-s", "1000"]);
    // A new sender goes on with the counts of the one before.
    server.filter("hole", "input", "udp dport 5886 drop");
    tunnel.client.lines.wait("new source port");
    server.filter("hole", "input", "accept");
    tunnel.client.lines.wait_nth("answers from", 2);
    wait_ping(client, inner.server4());
    assert_pings(client, inner.server4(), 50, &["-i", "0.01", "-s", "1000"]);

    let last = |line: &str, text: &str| {
        let [received, sent] = totals(line);
        assert!(received.0 >= 100 && sent.0 >= 100, "{line}");
        assert!(received.1 >= 102_800 && sent.1 >= 102_800, "{line}");
        assert!(received.0 < 300 && sent.0 < 300, "{line}");
        let (_, end) = line.rsplit_once(" in ").unwrap();
        let seconds: u64 = end.strip_suffix(" s").unwrap().parse().unwrap();
        assert!((2..100).contains(&seconds), "{line}");
        assert!(line.contains(text), "{line}");
    };
    // As init does, and the sender comes first.
    let sender = proc::twins(tunnel.client.pid())[0];
    kill(sender, Signal::SIGTERM).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    tunnel.client.process().stop();
    last(
        &tunnel.client.lines.wait("stopping: "),
        "stopping: signal TERM, received ",
    );
    tunnel.client.lines.exactly("the sender ", 0);

    tunnel.server.config.revoke(&client_id(1));
    tunnel.server.reload();
    let line = tunnel.server.lines.wait(" forgotten, ");
    server.wait_tuns(0);
    last(&line, "client 0001... forgotten, tun0 closed: received ");
    tunnel.server.process().stop();
    // Those of clients that are gone too.
    let line = tunnel.server.lines.wait("stopping: ");
    last(&line, "stopping: signal TERM, received ");
}

#[test]
#[ignore = "needs root"]
fn the_child_goes_with_its_parent() {
    let mut tunnel = Tunnel::plain(Lab::direct());
    let child = proc::twins(tunnel.client.pid());
    assert_eq!(child.len(), 1);
    tunnel.client.process().kill();
    wait_until(PATIENCE, "the end of the child", || !proc::runs(child[0]));
    tunnel.lab.client().wait_tuns(0);
    // Started again, it has its place back at once.
    let since = Instant::now();
    tunnel.client.restart();
    tunnel.client.wait_up();
    report_recovery("client restarted", since.elapsed());
    let line = tunnel.server.lines.wait("admitted from");
    let before = line
        .split_once(" from ")
        .unwrap()
        .1
        .split(' ')
        .next()
        .unwrap();
    tunnel.server.signal(Signal::SIGUSR1);
    // Its new port may be the old one by chance.
    if !tunnel.server.lines.wait(" heard ").contains(before) {
        tunnel.server.lines.wait("moved from");
    }
}

#[test]
#[ignore = "needs root"]
fn a_killed_server_leaves_no_device() {
    let lab = Lab::direct();
    let prog = server_prog(&lab.server, "up", "sleep 1000");
    let mut server = Server::new(&lab.server, [1]).start_with(&[prog]);
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    client.wait_up();
    server.process().kill();
    // PROG still runs, but has inherited nothing.
    lab.server.wait_tuns(0);
    assert!(!lab.server.pids().is_empty());
}

#[test]
#[ignore = "needs root"]
fn a_restart_of_the_server_is_healed_by_the_next_packet() {
    let mut tunnel = Tunnel::up(Lab::behind_nat(1), &[], &["-k", "25"]);
    let beat = Heartbeat::start(
        tunnel.lab.client(),
        &tunnel.lab.server,
        tunnel.client.inner.server4(),
    );
    beat.wait_beats(10);
    tunnel.server.process().stop();
    tunnel.server.restart();
    let time = beat.recovery(Instant::now());
    report_recovery("server restarted under traffic", time);
    // PROG gives the addresses. A keepalive would be 25 s away.
    assert!(time < Duration::from_secs(5), "{time:?}");
    tunnel.client.lines.exactly("no answer", 0);
}

#[test]
#[ignore = "needs root"]
fn fifty_clients_come_back_after_a_restart() {
    const CLIENTS: u16 = 50;
    let lab = Lab::behind_nat(1);
    let mut server = Server::new(&lab.server, 1..=CLIENTS).start();
    let mut clients = Vec::new();
    for number in 1..=CLIENTS {
        clients.push(
            Client::new(lab.client(), number)
                .options(&["-k", "1"])
                .start(),
        );
    }
    clients.iter().for_each(Client::wait_up);
    server.process().stop();
    assert_clean(&lab.server);
    server.restart();
    let since = Instant::now();
    server.lines.wait_nth("admitted from", CLIENTS.into());
    let admitted = server
        .lines
        .time_of("admitted from", CLIENTS.into())
        .unwrap();
    report_recovery(
        "50 idle clients after a restart, keepalive 1 s",
        admitted - since,
    );
    // Without the keepalives it would be 25 s.
    assert!(admitted - since < Duration::from_secs(10));
    clients.iter().for_each(Client::wait_up);
    assert_eq!(lab.server.tuns().len(), CLIENTS.into());
    // None of them had to do anything.
    assert!(clients.iter().all(|client| client.lines.count("gone") == 0));
    server.process().stop();
    assert_clean(&lab.server);
}

#[test]
#[ignore = "needs root"]
fn a_detached_parent_leaves_the_callers_pipe() {
    // rc.local may wait for the end of the output of what it starts.
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]);
    // Returns at the end of the pipes only.
    let output = server.launch().clone().operands(["/bin/true"]).output();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(lab.server.pids().len(), 1, "it runs");
}
