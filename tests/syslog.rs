//! The system logger: absent, there, gone, back, and one that hangs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::report::error::reason;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::config::{SERVER_ID, client_id};
use support::heartbeat::Heartbeat;
use support::host::Host;
use support::lab::{Lab, SERVER4, TO};
use support::lines::Lines;
use support::peer::Peer;
use support::proc;
use support::process::Process;
use support::syslog::{Syslog, busybox, deaf};
use support::terminal::Terminal;
use support::traffic::{ping, wait_ping};
use support::tunnel::{Client, Inner, Server, Tunnel, client_prog, server_prog};
use support::wait::{PATIENCE, wait_for, wait_until};

fn server_in_background(host: &Host) -> (Server, Pid) {
    let server = Server::new(host, [1, 2]);
    let prog = server_prog(host, "up", "");
    let launch = server.launch().clone().operands([prog]);
    let pid = launch.background("server.pid");
    (server, pid)
}

/// The lines so far are all `<PRIORITY>name[pid]: text`, with facility daemon and no time.
fn assert_form(lines: &Lines, name: &str, pid: Pid) {
    let lines = lines.all();
    assert!(!lines.is_empty());
    for line in lines {
        let (priority, rest) = line.strip_prefix('<').unwrap().split_once('>').unwrap();
        let priority: u8 = priority.parse().unwrap();
        assert_eq!(priority >> 3, 3, "facility daemon: {line}");
        assert!([4, 6, 7].contains(&(priority & 7)), "{line}");
        assert!(rest.starts_with(&format!("{name}[{pid}]: ")), "{line}");
        assert!(!line.ends_with('\n') && !line.ends_with('\0'), "{line:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn lines_have_the_form_that_syslogd_expects() {
    let lab = Lab::direct();
    let logs = [Syslog::start(&lab.server), Syslog::start(lab.client())];
    let (_config, server) = server_in_background(&lab.server);
    let client = Client::new(lab.client(), 1);
    let prog = client_prog(lab.client(), "up", 1, "exit 9");
    let launch = client.launch().clone().options(["-k", "1"]);
    let launch = launch.operands([SERVER4, "5886"]).operands([prog]);
    let client = launch.background("client.pid");
    wait_ping(lab.client(), Inner(1).server4());
    let line = logs[0].lines.wait("admitted from");
    assert!(line.starts_with("<30>"), "info: {line}");
    let line = logs[1].lines.wait("exited with status 9");
    assert!(line.starts_with("<28>"), "warning: {line}");
    logs[1].lines.wait("answers from");
    assert_form(&logs[0].lines, "jtunneld", server);
    assert_form(&logs[1].lines, "jtunnel-client", client);
    // Without -v there is no debug line.
    assert!(
        logs.iter()
            .all(|log| !log.lines.all().iter().any(|line| line.starts_with("<31>")))
    );
}

#[test]
#[ignore = "needs root"]
fn in_the_foreground_both_hear() {
    let lab = Lab::direct();
    let log = Syslog::start(&lab.server);
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    Peer::new(lab.client()).knock(&client_id(1), TO, SERVER_ID);
    let heard = log.lines.wait("admitted from");
    let said = server.lines.wait("admitted from");
    assert_eq!(
        heard.split_once("]: ").unwrap().1,
        said.split_once(": ").unwrap().1
    );
    assert!(said.starts_with("jtunneld: client "), "{said}");
}

#[test]
#[ignore = "needs root"]
fn a_set_up_that_fails_is_in_the_log_too() {
    let lab = Lab::direct();
    let log = Syslog::start(&lab.server);
    let server = Server::new(&lab.server, [1]);
    for (options, count) in [(&[][..], 1), (&["-f"], 2)] {
        let launch = server.launch().clone().options(options);
        let output = launch.operands(["/nonexistent/prog"]).output();
        assert_eq!(output.status.code(), Some(111));
        let said = String::from_utf8(output.stderr).unwrap();
        let heard = log.lines.wait_nth("unable to run", count);
        let (start, text) = heard.split_once("]: ").unwrap();
        assert!(start.starts_with("<27>jtunneld["), "error: {heard}");
        assert_eq!(said, format!("jtunneld: {text}\n"));
    }
    // Wrong usage is for who gave it.
    let output = server.launch().clone().options(["-Z"]).output();
    assert_eq!(output.status.code(), Some(100));
    log.lines.exactly("jtunneld", 2);
}

#[test]
#[ignore = "needs root"]
fn absent_at_start_restarted_and_gone_for_a_while() {
    let lab = Lab::direct();
    let (_config, pid) = server_in_background(&lab.server);
    let peer = Peer::new(lab.client());
    let usr1 = || kill(pid, Signal::SIGUSR1).unwrap();
    peer.knock(&client_id(1), TO, SERVER_ID);
    // It was not there; now it is.
    let log = Syslog::start(&lab.server);
    log.lines.wait_next("status: ", usr1);
    drop(log);
    usr1();
    peer.knock(&client_id(1), TO, SERVER_ID);
    let log = Syslog::start(&lab.server);
    log.lines.wait_next("status: ", usr1);
    // A new one took the place of the old before anything was logged.
    drop(log);
    let log = Syslog::start(&lab.server);
    peer.knock(&client_id(2), TO, SERVER_ID);
    log.lines.wait("admitted from");
}

#[test]
#[ignore = "needs root"]
fn the_client_and_its_child_find_a_new_one_too() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1]).start();
    let log = Syslog::start(lab.client());
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    client.wait_up();
    log.lines.wait("answers from");
    drop(log);
    for _ in 0..3 {
        let log = Syslog::start(lab.client());
        client.signal(Signal::SIGUSR1);
        log.lines.wait("status: device");
        log.lines.wait("status: sent");
    }
}

#[test]
#[ignore = "needs root"]
fn a_real_syslogd_stopped_and_started() {
    let lab = Lab::direct();
    let (_config, pid) = server_in_background(&lab.server);
    let mut syslogd = busybox(&lab.server);
    let status = |host: &Host| host.read("messages").matches("status: 0 clients").count();
    for round in 1..=3 {
        wait_until(PATIENCE, "the line in the file", || {
            kill(pid, Signal::SIGUSR1).unwrap();
            status(&lab.server) >= round
        });
        let before = status(&lab.server);
        syslogd.signal(Signal::SIGTERM);
        syslogd.wait();
        syslogd = busybox(&lab.server);
        wait_until(PATIENCE, "the line in the file", || {
            kill(pid, Signal::SIGUSR1).unwrap();
            status(&lab.server) > before
        });
    }
    let text = lab.server.read("messages");
    let line = text.lines().find(|line| line.contains("status: ")).unwrap();
    // syslogd has put the time in front, and only one.
    assert!(
        line.contains(" daemon.info jtunneld[") && line.len() < 200,
        "{line}"
    );
    assert_eq!(line.matches("jtunneld[").count(), 1, "{line}");
}

#[test]
#[ignore = "needs root"]
fn a_terminal_that_nobody_reads_stops_nothing() {
    let lab = Lab::direct();
    let terminal = Terminal::new(&lab.server);
    let server = Server::new(&lab.server, [1]);
    let prog = server_prog(&lab.server, "up", "");
    let mut child = terminal.start(&server.launch().clone().operands([prog]));
    let pid = Pid::from_raw(child.id().cast_signed());
    let client = Client::new(lab.client(), 1).start();
    client.wait_up();
    wait_until(PATIENCE, "a full terminal", || {
        kill(pid, Signal::SIGHUP).unwrap();
        terminal.is_full()
    });
    client.wait_up();
    kill(pid, Signal::SIGTERM).unwrap();
    let status = wait_for(PATIENCE, "the end", || child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
#[ignore = "needs root"]
fn a_report_comes_to_the_terminal_while_syslogd_hangs() {
    let lab = Lab::direct();
    let _deaf = deaf(&lab.server);
    let terminal = Terminal::new(&lab.server);
    let server = Server::new(&lab.server, [1]);
    let mut child = terminal.start(&server.launch().clone().operands(["/bin/true"]));
    let pid = Pid::from_raw(child.id().cast_signed());
    let lines = Lines::follow(terminal.master);
    lines.wait("started: ");
    Peer::new(lab.client()).knock(&client_id(1), TO, SERVER_ID);
    // More than its queue holds.
    for _ in 0..20 {
        lines.wait_next("authorised clients", || {
            kill(pid, Signal::SIGHUP).unwrap();
        });
    }
    kill(pid, Signal::SIGUSR1).unwrap();
    lines.wait("status: 1 clients");
    lines.wait("jtunneld: client 0001... tun0 ");
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "needs root"]
fn one_that_hangs_blocks_nothing() {
    let lab = Lab::direct();
    // Their queues fill up, and nobody reads.
    let _deaf = [deaf(&lab.server), deaf(lab.client())];
    let mut tunnel = Tunnel::plain(lab);
    let beat = Heartbeat::start(
        tunnel.lab.client(),
        &tunnel.lab.server,
        tunnel.client.inner.server4(),
    );
    beat.wait_beats(10);
    for _ in 0..100 {
        tunnel.server.signal(Signal::SIGHUP);
        tunnel.client.signal(Signal::SIGHUP);
        beat.wait_beats(1);
    }
    tunnel.server.signal(Signal::SIGUSR1);
    tunnel.client.signal(Signal::SIGUSR1);
    beat.wait_beats(50);
    assert_eq!(beat.tally().lost, 0, "{:?}", beat.tally());
    let since = Instant::now();
    tunnel.client.process().stop();
    tunnel.server.process().stop();
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "{:?}",
        since.elapsed()
    );
}

#[test]
#[ignore = "needs root"]
fn what_is_in_its_place_may_be_anything() {
    let lab = Lab::direct();
    lab.server.run(|| fs::write("/dev/log", "a file").unwrap());
    lab.client().run(|| fs::create_dir("/dev/log").unwrap());
    let tunnel = Tunnel::plain(lab);
    tunnel.server.report("status: ");
    tunnel.client.report("status: device");
    assert_eq!(
        tunnel
            .lab
            .server
            .run(|| fs::read(Path::new("/dev/log")).unwrap()),
        b"a file"
    );
}

#[test]
#[ignore = "needs root"]
fn a_reader_that_goes_away_ends_nothing() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]);
    let pid_file = lab.server.path("pid");
    let launch = server
        .launch()
        .clone()
        .options(["-P".as_ref(), pid_file.as_os_str()]);
    let pipe = "exec 3>&1; { \"$@\"; echo status $? >&3; } 2>&1 | true";
    let launch = launch.under(&["sh", "-c", pipe, "sh"]);
    let piped = launch.operands(["/bin/true"]).start();
    let pid = wait_for(PATIENCE, "the pid file", || {
        fs::read_to_string(&pid_file).ok()?.trim().parse().ok()
    });
    let pid = Pid::from_raw(pid);
    let peer = Peer::new(lab.client());
    for _ in 0..10 {
        kill(pid, Signal::SIGHUP).unwrap();
        peer.knock(&client_id(1), TO, SERVER_ID);
    }
    kill(pid, Signal::SIGTERM).unwrap();
    piped
        .lines
        .wait_all("status 0", |lines| lines == ["status 0"]);
}

#[test]
#[ignore = "needs root"]
fn debug_lines_on_demand() {
    let lab = Lab::direct();
    let log = Syslog::start(lab.client());
    let fake = Peer::bound(&lab.server, "0.0.0.0:5886");
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "1", "-v"])
        .start_with(&["/bin/true"]);
    let (_, from) = fake.receive();
    Peer::new(&lab.server).send(SERVER_ID, &[], (&from.ip().to_string(), from.port()));
    let line = log.lines.wait("not the server");
    assert!(line.starts_with("<31>jtunnel-client["), "{line}");
    client.lines.wait("not the server");

    // Hosts of their own: a process that is just being started may hold the port of the last ones.
    let lab = Lab::direct();
    let peer = Peer::new(lab.client());
    for (options, count) in [(&["-v"][..], 1), (&[], 0)] {
        let server = Server::new(&lab.server, [1]).options(options);
        let server = server.start_with(&["/bin/true"]);
        peer.send_raw(b"7 bytes", TO);
        wait_until(PATIENCE, "a datagram that is counted", || {
            let report = || server.signal(Signal::SIGUSR1);
            server
                .lines
                .wait_next("status: ", report)
                .contains(" 1 short")
        });
        let line = format!(
            "dropped a datagram from 198.51.100.2:{}: too short",
            peer.port()
        );
        server.lines.exactly(&line, count);
    }
}

#[test]
#[ignore = "needs root"]
fn each_reason_for_a_lost_packet_has_a_line() {
    for errno in [
        Errno::EPERM,
        Errno::ENETUNREACH,
        Errno::EHOSTUNREACH,
        Errno::ENETDOWN,
        Errno::ENOBUFS,
        Errno::EAGAIN,
        Errno::EADDRNOTAVAIL,
        Errno::ECONNREFUSED,
        Errno::EMSGSIZE,
        Errno::EINVAL,
        Errno::ENODEV,
    ] {
        let (trace, inject) = ("trace=sendmsg,sendto", "inject=sendmsg,sendto");
        let inject = format!("{inject}:error={errno:?}:when=10..20");
        let filter = ["--seccomp-bpf", "-e", trace, "-e", &inject];
        let under = [&["strace", "-f", "-o", "/dev/null"], &filter[..]].concat();
        let lab = Lab::direct();
        let server = Server::new(&lab.server, [1])
            .with(|launch| launch.under(&under))
            .start();
        // Without keepalives all that is sent is packets.
        let client = Client::new(lab.client(), 1)
            .options(&["-k", "0"])
            .with(|launch| launch.under(&under))
            .start();
        let lines = |process: &Process| process.lines.count("unable to send to ");
        wait_until(PATIENCE, &format!("all of {errno}"), || {
            let result = ping(lab.client(), client.inner.server4(), 40, &["-W", "0.3"]);
            result.received == 40 && lab.server.tuns().len() == 1
        });
        for process in [&*server, &*client] {
            let line = format!(": {}", reason(&errno.into()));
            match errno {
                // The socket's buffer is full: a busy link.
                Errno::EAGAIN => assert_eq!(lines(process), 0, "{:?}", process.lines.all()),
                _ => assert!(process.lines.exactly("unable to send to ", 1)[0].ends_with(&line)),
            }
            // What runs under strace; the client's child hears it from its parent.
            for pid in proc::children(process.pid()) {
                kill(pid, Signal::SIGUSR1).unwrap();
            }
        }
        let counted = |process: &Process, what| {
            let line = process.lines.wait(what);
            let (_, dropped) = line.rsplit_once("dropped ").unwrap();
            assert!(
                (5..=20).contains(&dropped.parse().unwrap()),
                "{errno}: {line}"
            );
        };
        counted(&server, " heard ");
        counted(&client, "status: sent ");
    }
}
