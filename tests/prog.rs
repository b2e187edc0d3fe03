//! PROG: what it finds when it runs, and what it may do without harm to the tunnel.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::config::{SERVER_ID, client_id, shown};
use support::heartbeat::Heartbeat;
use support::host::Host;
use support::lab::{Lab, SERVER4, SERVER6, TO};
use support::peer::{Peer, answer, datagram, keepalive};
use support::proc;
use support::syslog::Syslog;
use support::traffic::wait_ping;
use support::tunnel::{Client, Inner, Server, Tunnel, client_prog, server_prog};
use support::wait::{PATIENCE, wait_for, wait_until};

/// A PROG that tells all about itself, in files beside it.
fn curious(host: &Host) -> PathBuf {
    host.script(
        "curious",
        r#"
        env | sort >$0.env
        printf '%s\n' "$@" >$0.arguments
        grep -E '^(Sig|Pid|NSpgid)' /proc/self/status >$0.status
        for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done >$0.streams
        ulimit -n >$0.limit; ulimit -Hn >>$0.limit
        pwd >$0.directory
        cut -d ' ' -f 1,5 /proc/$$/stat >$0.group
        echo to-output; echo to-error >&2
        : >$0.done"#,
    )
}

fn told(host: &Host, what: &str) -> String {
    host.read(&format!("curious.{what}"))
}

fn wait_done(host: &Host) {
    wait_until(PATIENCE, "PROG", || host.path("curious.done").exists());
}

/// What holds for PROG of either program, run with `-f`.
fn common_to_both(host: &Host, parent: Pid) {
    let arguments = told(host, "arguments");
    assert_eq!(
        arguments, "-f\n-k\n \nid\n",
        "PROG's own options are its own"
    );
    let status = told(host, "status");
    for name in ["SigBlk:", "SigIgn:"] {
        let set = status.lines().find_map(|line| line.strip_prefix(name));
        let set = u64::from_str_radix(set.unwrap().trim(), 16).unwrap();
        assert_eq!(set & !INTERNAL_SIGNALS, 0, "{status}");
    }
    let streams = told(host, "streams");
    let streams: Vec<&str> = streams.lines().collect();
    assert_eq!(streams[0], "/dev/null");
    assert!(
        streams[2].starts_with("pipe:"),
        "inherited with -f: {streams:?}"
    );
    let own_limit = fs::read_to_string("/proc/self/limits").unwrap();
    let own_limit = own_limit
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let own_limit: Vec<&str> = own_limit.split_whitespace().skip(3).take(2).collect();
    assert_eq!(
        told(host, "limit").split_whitespace().collect::<Vec<_>>(),
        own_limit
    );
    assert_eq!(
        Path::new(told(host, "directory").trim()),
        host.path("").components().as_path()
    );
    let group = told(host, "group");
    let (pid, group) = group.trim().split_once(' ').unwrap();
    assert_eq!(pid, group, "a process group of its own");
    assert_ne!(group, parent.to_string());
}

/// 32 and 33, which the C library keeps for itself and ignores while it spawns.
const INTERNAL_SIGNALS: u64 = 3 << 31;

/// The variables that are PROG's only.
fn variables(host: &Host) -> Vec<String> {
    let text = told(host, "env");
    let lines = text.lines().filter(|line| line.starts_with("TUN_"));
    lines.map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root"]
fn what_the_servers_prog_finds() {
    let lab = Lab::direct();
    let prog = curious(&lab.server);
    let words = [prog.to_str().unwrap(), "-f", "-k", " ", "id"];
    let server = Server::new(&lab.server, [1])
        .options(&["-m", "1300"])
        .start_with(&words);
    Peer::new(lab.client()).knock(&client_id(1), TO, SERVER_ID);
    wait_done(&lab.server);
    common_to_both(&lab.server, server.pid());
    let tun = &lab.server.tuns()[0];
    assert_eq!(
        variables(&lab.server),
        [
            format!("TUN_CLIENT_ID={}", client_id(1)),
            format!("TUN_DEV_NAME={tun}"),
            "TUN_MTU=1300".into(),
            "TUN_PROTECTION=plain".into(),
        ]
    );
    server.lines.wait("to-output");
    server.lines.wait("to-error");
}

#[test]
#[ignore = "needs root"]
fn what_the_clients_prog_finds() {
    for (address, name) in [
        (SERVER4, SERVER4),
        (SERVER6, SERVER6),
        (SERVER4, "tunnel.example"),
    ] {
        let lab = Lab::direct();
        lab.client()
            .etc("hosts", &format!("{SERVER4} tunnel.example\n"));
        let prog = curious(lab.client());
        let words = [prog.to_str().unwrap(), "-f", "-k", " ", "id"];
        let client = Client::new(lab.client(), 1).to(name).start_with(&words);
        wait_done(lab.client());
        common_to_both(lab.client(), client.pid());
        let tun = &lab.client().tuns()[0];
        assert_eq!(
            variables(lab.client()),
            [
                format!("TUN_DEV_NAME={tun}"),
                "TUN_MTU=1420".into(),
                "TUN_PROTECTION=plain".into(),
                format!("TUN_SERVER_ADDRESS={address}"),
                "TUN_SERVER_PORT=5886".into(),
            ]
        );
        client.lines.wait("to-output");
    }
}

/// Holds a lock while it runs a program, as start scripts do.
const LOCKED: [&str; 4] = ["sh", "-c", "exec 9>lock && exec \"$@\"", "sh"];
/// A PROG whose descriptors can be seen.
const SLEEP: [&str; 2] = ["sleep", "1000"];

/// Nothing of the caller's is open in a program, and nothing of either in its PROG.
#[track_caller]
fn assert_closed(host: &Host, program: Pid) {
    assert!(host.path("lock").exists());
    let ninth = fs::read_link(format!("/proc/{program}/fd/9"));
    assert_ne!(ninth.ok(), Some(host.path("lock")));
    let prog = wait_for(PATIENCE, "PROG", || {
        proc::children(program)
            .into_iter()
            .find(|&pid| proc::name(pid) == SLEEP[0])
    });
    for entry in fs::read_dir(format!("/proc/{prog}/fd")).unwrap() {
        let number = entry.unwrap().file_name().into_string().unwrap();
        assert!(["0", "1", "2"].contains(&&*number), "descriptor {number}");
    }
}

#[test]
#[ignore = "needs root"]
fn descriptors_of_the_caller_and_ours_end_here() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1])
        .with(|launch| launch.under(&LOCKED))
        .start_with(&SLEEP);
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "1"])
        .with(|launch| launch.under(&LOCKED))
        .start_with(&SLEEP);
    assert_closed(&lab.server, server.pid());
    assert_closed(lab.client(), client.pid());
}

#[test]
#[ignore = "needs root"]
fn before_linux_5_9_they_end_here_too() {
    let (call, inject) = ("trace=close_range", "inject=close_range:error=ENOSYS");
    let old = ["strace", "-o", "/dev/null", "-e", call, "-e", inject];
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1])
        .with(|launch| launch.under(&[&old[..], &LOCKED].concat()))
        .start_with(&SLEEP);
    Peer::new(lab.client()).knock(&client_id(1), TO, SERVER_ID);
    assert_closed(&lab.server, proc::children(server.pid())[0]);
}

#[test]
#[ignore = "needs root"]
fn in_the_background_standard_error_goes_to_the_log() {
    let lab = Lab::direct();
    let log = Syslog::start(&lab.server);
    let prog = curious(&lab.server);
    let server = Server::new(&lab.server, [1]);
    let launch = server.launch().clone().operands([prog]);
    launch.background("pid");
    Peer::new(lab.client()).knock(&client_id(1), TO, SERVER_ID);
    wait_done(&lab.server);
    // Standard output is the file itself while it is written.
    let file = lab.server.path("curious.streams");
    let streams = told(&lab.server, "streams");
    let start = format!("/dev/null\n{}\npipe:", file.display());
    assert!(streams.starts_with(&start), "{streams}");
    assert_eq!(told(&lab.server, "directory"), "/\n");
    log.lines.wait("/curious: to-error");
    log.lines.exactly("to-output", 0);
}

/// A PROG that makes mistakes, at each of which a terminal would do something.
const MISTAKEN: &str = r#"
    echo 'RTNETLINK answers: File exists' >&2
    printf 'one\033[2J\tand \302\233 \377 more\r\n\n' >&2
    head -c 5000 /dev/zero | tr '\0' z >&2
    printf '\nno end of line' >&2
    exit 3"#;

#[test]
#[ignore = "needs root"]
fn what_it_says_on_standard_error_is_logged() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]);
    let client = Client::new(lab.client(), 1);
    let client = client.launch().clone().operands([SERVER4, "5886"]);
    for (host, launch) in [
        (lab.client(), client),
        (&lab.server, server.launch().clone()),
    ] {
        let log = Syslog::start(host);
        let prog = host.script("mistaken", MISTAKEN);
        launch.operands([&prog]).background("pid");
        if host.name() == lab.server.name() {
            Peer::new(lab.client()).knock(&client_id(1), TO, SERVER_ID);
        }
        log.lines.wait("exited with status 3");
        let lines = log.lines.all();
        let said: Vec<&str> = lines
            .iter()
            .filter_map(|line| Some(line.split_once(&format!("{}: ", prog.display()))?.1))
            .collect();
        assert_eq!(
            said[..2],
            [
                "RTNETLINK answers: File exists",
                "one [2J and   \u{fffd} more"
            ]
        );
        assert!(said[2].trim_matches('z').is_empty(), "{said:?}");
        assert!((100..1000).contains(&said[2].len()), "{said:?}");
        assert_eq!(said[3..], ["no end of line"]);
        // What it said comes first.
        assert!(lines.last().unwrap().contains("exited with status 3"));
    }
}

#[test]
#[ignore = "needs root"]
fn in_the_foreground_standard_error_has_it_too() {
    let lab = Lab::direct();
    let log = Syslog::start(&lab.server);
    let prog = lab.server.script("speaks", "echo two words >&2");
    let server = Server::new(&lab.server, [1]).start_with(&[&prog]);
    Peer::new(lab.client()).knock(&client_id(1), TO, SERVER_ID);
    server.lines.wait("two words");
    log.lines.wait("/speaks: two words");
    assert_eq!(server.lines.matching("two words"), ["two words"]);
}

/// A PROG that writes 100 MB in two ways, and goes on whatever becomes of that.
const FLOODS: &str = r#"
    line=$(head -c 50000 /dev/zero | tr '\0' x)
    lines=$(echo "$line" | fold -w 49)
    round=0
    while [ $round -lt 20 ]; do
        n=0
        while [ $n -lt 50 ]; do echo "$lines" >&2; echo "$line" >&2; n=$((n + 1)); done
        round=$((round + 1))
        sleep 0.1
    done
    : >$0.done"#;

#[test]
#[ignore = "needs root"]
fn one_that_floods_its_standard_error_stops_nobody() {
    let lab = Lab::direct();
    let logs = [&lab.server, lab.client()].map(Syslog::start);
    let (server, client) = (
        server_prog(&lab.server, "up", &format!("sleep 1\n{FLOODS}")),
        client_prog(lab.client(), "up", 1, &format!("sleep 1\n{FLOODS}")),
    );
    let launch = Server::new(&lab.server, [1]).launch().clone();
    launch.operands([server]).background("server.pid");
    let client_launch = Client::new(lab.client(), 1);
    let client_launch = client_launch.launch().clone().options(["-k", "1"]);
    let operands = [SERVER4.as_ref(), "5886".as_ref(), client.as_os_str()];
    client_launch.operands(operands).background("client.pid");
    wait_ping(lab.client(), Inner(1).server4());
    let beat = Heartbeat::start(lab.client(), &lab.server, Inner(1).server4());
    beat.wait_beats(10);
    for host in [&lab.server, lab.client()] {
        wait_until(PATIENCE, "its end", || host.path("up.done").exists());
    }
    for log in &logs {
        log.lines.wait("/up: ");
        log.lines.wait(" lines more");
        let count = log.lines.count("/up: ");
        assert!((5..30).contains(&count), "{count} lines");
    }
    beat.wait_beats(20);
    assert_eq!(beat.tally().lost, 0, "{:?}", beat.tally());
}

#[test]
#[ignore = "needs root"]
fn what_it_has_started_survives_the_program() {
    let lab = Lab::direct();
    let prog = lab.server.script(
        "starts",
        "setsid sh -c ': >$0.on; while [ ! -e $0.go ]; do sleep 0.1; done
            n=0; while [ $n -lt 5000 ]; do echo so many words >&2; n=$((n + 1)); done
            : >$0.lives' $0 &",
    );
    let mut server = Server::new(&lab.server, [1]).start_with(&[prog]);
    Peer::new(lab.client()).knock(&client_id(1), TO, SERVER_ID);
    let is_there = |name| wait_until(PATIENCE, name, || lab.server.path(name).exists());
    is_there("starts.on");
    server.process().kill();
    fs::write(lab.server.path("starts.go"), "").unwrap();
    is_there("starts.lives");
}

#[test]
#[ignore = "needs root"]
fn a_failure_is_logged_and_survived() {
    let lab = Lab::direct();
    let prog = lab.server.script("fails", "exit 3");
    let server = Server::new(&lab.server, [1, 2]).start_with(&[prog]);
    let peer = Peer::new(lab.client());
    peer.knock(&client_id(1), TO, SERVER_ID);
    let line = server.lines.wait("exited with status 3");
    assert!(
        line.contains(&format!("client {}: ", shown(&client_id(1)))),
        "{line}"
    );
    // Killed by a signal.
    let prog = lab.server.script("fails", "kill -9 $$");
    peer.knock(&client_id(2), TO, SERVER_ID);
    let line = server.lines.wait("was killed by signal 9");
    assert!(
        line.contains(&format!("client {}: ", shown(&client_id(2)))),
        "{line}"
    );
    // Not there any more.
    fs::remove_file(prog).unwrap();
    server.config.authorise(&client_id(3));
    peer.knock(&client_id(3), TO, SERVER_ID);
    let line = server.lines.wait("unable to run");
    assert!(
        line.contains(&format!("client {}: ", shown(&client_id(3)))),
        "{line}"
    );
    assert_eq!(lab.server.tuns().len(), 3);
    peer.knock(&client_id(1), TO, SERVER_ID);
}

#[test]
#[ignore = "needs root"]
fn one_that_could_not_be_started_is_started_later() {
    let lab = Lab::direct();
    let progs = [
        server_prog(&lab.server, "up", ""),
        client_prog(lab.client(), "up", 1, ""),
    ];
    let server = Server::new(&lab.server, [1]).start_with(&[&progs[0]]);
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]);
    // A name that is not there yet, or PROG would be run at once.
    let client = client.to("tunnel.example").start_with(&[&progs[1]]);
    let away = progs.clone().map(|prog| prog.with_extension("away"));
    for (prog, away) in progs.iter().zip(&away) {
        fs::rename(prog, away).unwrap();
    }
    lab.client()
        .etc("hosts", &format!("{SERVER4} tunnel.example\n"));
    for lines in [&server.lines, &client.lines] {
        let line = lines.wait("unable to run ");
        assert!(line.ends_with("/up: No such file or directory"), "{line}");
    }
    for (prog, away) in progs.iter().zip(&away) {
        fs::rename(away, prog).unwrap();
    }
    client.wait_up();
    // However often it was tried.
    server.lines.exactly("unable to run ", 1);
    client.lines.exactly("unable to run ", 1);
}

#[test]
#[ignore = "needs root"]
fn success_is_no_news() {
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.server, &tunnel.client);
    wait_until(PATIENCE, "the end of both PROGs", || {
        proc::children(server.pid()).is_empty()
            && proc::children(client.pid()) == proc::twins(client.pid())
    });
    // A report comes after what there is to say of them.
    let (heard, status) = (" heard ", "status: device");
    server.report(heard);
    client.report(status);
    for lines in [&server.lines, &client.lines] {
        lines.exactly("exited", 0);
    }
}

#[test]
#[ignore = "needs root"]
fn the_clients_prog_may_fail_too() {
    let lab = Lab::direct();
    let prog = client_prog(lab.client(), "fails", 1, "exit 4");
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "1"])
        .start_with(&[prog]);
    client.lines.wait("exited with status 4");
    client.wait_up();
}

#[test]
#[ignore = "needs root"]
fn one_that_hangs_stops_nobody() {
    let lab = Lab::behind_nat(2);
    // Client 2's never returns, and never gives it an address.
    let prog = server_prog(&lab.server, "up", "");
    let hangs = format!(
        "case $TUN_CLIENT_ID in 0002*) trap '' TERM; while :; do sleep 1000; done;; esac\nexec {}",
        prog.display()
    );
    let hangs = lab.server.script("hangs", &hangs);
    let server = Server::new(&lab.server, [1, 2]).start_with(&[hangs]);
    Peer::new(&lab.clients[1]).knock(&client_id(2), TO, SERVER_ID);
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    client.wait_up();
    let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
    beat.wait_beats(50);
    // It is asked to end, in vain; after five seconds its device goes all the same.
    let since = Instant::now();
    server.config.revoke(&client_id(2));
    server.signal(Signal::SIGHUP);
    lab.server.wait_tuns(1);
    let time = since.elapsed();
    assert!(time > Duration::from_secs(4), "{time:?}");
    assert_eq!(beat.tally().lost, 0, "{:?}", beat.tally());
}

/// A PROG with a child, that stays until SIGTERM and then looks whether its device is there.
const STAYS: &str = r#"
    trap 'ip -o link show dev "$TUN_DEV_NAME" >$0.$TUN_DEV_NAME.down 2>&1
        echo "$TUN_DEV_NAME" >>$0.downs; exit 7' TERM
    echo $$ >>$0.pids
    # It writes its number when it has no trap any more.
    sh -c 'echo $$ >>"$0.pids"; exec sleep 1000' "$0" &
    wait"#;

/// A server for two clients and the first of them, with the same PROG.
fn both_ends(lab: &Lab, name: &str, prog: &str) -> (Server, Client) {
    let server = Server::new(&lab.server, [1, 2]);
    let server = server.start_with(&[server_prog(&lab.server, name, prog)]);
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]);
    let client = client.start_with(&[client_prog(lab.client(), name, 1, prog)]);
    (server, client)
}

fn pids(host: &Host, name: &str, number: usize) -> Vec<Pid> {
    wait_for(PATIENCE, "the processes of PROG", || {
        let text = host.read(name);
        let pids: Vec<Pid> = text
            .lines()
            .filter_map(|l| l.parse().ok().map(Pid::from_raw))
            .collect();
        (pids.len() == number).then_some(pids)
    })
}

#[test]
#[ignore = "needs root"]
fn one_that_stays_is_told_when_its_client_is_forgotten() {
    let lab = Lab::direct();
    let prog = server_prog(&lab.server, "stays", STAYS);
    let server = Server::new(&lab.server, [1, 2]).start_with(&[prog]);
    let peer = Peer::new(lab.client());
    peer.knock(&client_id(1), TO, SERVER_ID);
    let first = pids(&lab.server, "stays.pids", 2);
    peer.knock(&client_id(2), TO, SERVER_ID);
    let both = pids(&lab.server, "stays.pids", 4);
    server.config.revoke(&client_id(1));
    server.signal(Signal::SIGHUP);
    server.lines.wait("forgotten");
    wait_until(PATIENCE, "the end of its whole group", || {
        !first.iter().any(|&pid| proc::runs(pid))
    });
    assert!(
        both[2..].iter().all(|&pid| proc::runs(pid)),
        "the other's runs on"
    );
    lab.server.wait_tuns(1);
    let name = lab.server.read("stays.downs");
    let look = lab.server.read(&format!("stays.{}.down", name.trim()));
    assert!(
        look.contains("POINTOPOINT"),
        "its device was still there: {look}"
    );
    server.lines.exactly("exited", 0);
}

#[test]
#[ignore = "needs root"]
fn one_that_stays_is_told_when_the_program_ends() {
    let lab = Lab::direct();
    let (mut server, mut client) = both_ends(&lab, "stays", STAYS);
    client.wait_up();
    Peer::new(lab.client()).knock(&client_id(2), TO, SERVER_ID);
    for (host, process, number) in [
        (lab.client(), client.process(), 2),
        (&lab.server, server.process(), 4),
    ] {
        let pids = pids(host, "stays.pids", number);
        process.stop();
        assert_eq!(host.tuns().len(), 0);
        wait_until(PATIENCE, "the end of PROG", || {
            !pids.iter().any(|&pid| proc::runs(pid))
        });
        for name in host.read("stays.downs").lines() {
            let look = host.read(&format!("stays.{name}.down"));
            assert!(
                look.contains("POINTOPOINT"),
                "its device was still there: {look}"
            );
        }
        assert_eq!(host.read("stays.downs").lines().count(), number / 2);
    }
}

#[test]
#[ignore = "needs root"]
fn the_programs_end_with_one_that_stays() {
    let lab = Lab::direct();
    let (mut server, mut client) = both_ends(&lab, "stays", STAYS);
    // A second is for one that does not end. A busy machine may spoil a try.
    let mut times = Vec::new();
    while times.len() < 3 {
        client.wait_up();
        times.push([client.process(), server.process()].map(|process| {
            let since = Instant::now();
            process.stop();
            since.elapsed()
        }));
        let best = [0, 1].map(|end| times.iter().map(|time| time[end]).min());
        if best
            .iter()
            .flatten()
            .all(|time| *time < Duration::from_millis(900))
        {
            return;
        }
        server.restart();
        client.restart();
    }
    panic!("{times:?}");
}

#[test]
#[ignore = "needs root"]
fn one_that_stays_is_told_when_its_device_is_deleted() {
    let lab = Lab::direct();
    let (server, client) = both_ends(&lab, "stays", STAYS);
    client.wait_up();
    for (host, lines) in [(&lab.server, &server.lines), (lab.client(), &client.lines)] {
        let pids = pids(host, "stays.pids", 2);
        host.ip(&format!("link del {}", host.tuns()[0]));
        lines.wait("is gone");
        wait_until(PATIENCE, "the end of PROG", || {
            !pids.iter().any(|&pid| proc::runs(pid))
        });
        client.wait_up();
        self::pids(host, "stays.pids", 4);
    }
}

/// A PROG that takes its time to clean up, in the way of stay-and-clean.
const CLEANS: &str = r#"
    clean() {
        for step in 1 2 3 4 5 6 7 8; do echo $step >>$0.steps; sleep 0.1; done
    }
    trap clean EXIT
    trap 'exit 0' TERM
    while :; do sleep 1000 & wait "$!"; done"#;

#[test]
#[ignore = "needs root"]
fn one_that_cleans_up_is_told_once() {
    let lab = Lab::direct();
    let (mut server, mut client) = both_ends(&lab, "cleans", CLEANS);
    client.wait_up();
    lab.client()
        .ip(&format!("link del {}", lab.client().tuns()[0]));
    server.config.revoke(&client_id(1));
    server.signal(Signal::SIGHUP);
    for (host, process) in [
        (lab.client(), client.process()),
        (&lab.server, server.process()),
    ] {
        wait_until(PATIENCE, "the first step", || {
            host.path("cleans.steps").exists()
        });
        process.stop();
        wait_until(PATIENCE, "the last step", || {
            host.read("cleans.steps").ends_with("8\n")
        });
    }
}

#[test]
#[ignore = "needs root"]
fn one_that_does_not_listen_delays_the_end_by_a_second() {
    let lab = Lab::direct();
    let deaf = "trap '' TERM; : >$0.runs; while :; do sleep 1000; done";
    let prog = lab.server.script("deaf", deaf);
    let mut server = Server::new(&lab.server, [1]).start_with(&[prog]);
    let prog = lab.client().script("deaf", deaf);
    let mut client = Client::new(lab.client(), 1)
        .options(&["-k", "1"])
        .start_with(&[prog]);
    for (host, process) in [
        (lab.client(), client.process()),
        (&lab.server, server.process()),
    ] {
        wait_until(PATIENCE, "PROG", || host.path("deaf.runs").exists());
        let since = Instant::now();
        process.stop();
        let time = since.elapsed();
        assert!(
            time > Duration::from_millis(900) && time < Duration::from_millis(4500),
            "{time:?}"
        );
        assert_eq!(host.tuns().len(), 0);
    }
}

#[test]
#[ignore = "needs root"]
fn one_that_stays_may_be_killed() {
    let lab = Lab::direct();
    let prog = server_prog(&lab.server, "stays", "echo $$ >$0.pid; exec sleep 1000");
    let server = Server::new(&lab.server, [1]).start_with(&[prog]);
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
    client.wait_up();
    let pid = pids(&lab.server, "stays.pid", 1)[0];
    kill(pid, Signal::SIGKILL).unwrap();
    server.lines.wait("was killed by signal 9");
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "it was waited for"
    );
    wait_ping(lab.client(), client.inner.server4());
}

#[test]
#[ignore = "needs root"]
fn many_start_quickly_and_each_has_its_own_device() {
    let lab = Lab::direct();
    let prog = lab.server.script(
        "up",
        "echo $TUN_DEV_NAME $TUN_CLIENT_ID >>$0.all; exec sleep 1000",
    );
    let server = Server::new(&lab.server, 1..=100).start_with(&[prog]);
    let peer = Peer::new(lab.client());
    let since = Instant::now();
    for number in 1..=100 {
        peer.send(&client_id(number), &keepalive(number.into()), TO);
        peer.expect(&datagram(SERVER_ID, &answer(number.into())));
    }
    let answered = since.elapsed();
    let lines = || lab.server.read("up.all").lines().count();
    wait_until(PATIENCE, "100 PROGs", || lines() == 100);
    println!(
        "100 clients: tunnels after {answered:?}, PROGs after {:?}",
        since.elapsed()
    );
    // A busy machine takes its time for each.
    assert!(since.elapsed() < Duration::from_secs(60));
    let text = lab.server.read("up.all");
    let mut devices: Vec<&str> = text.lines().filter_map(|l| l.split(' ').next()).collect();
    devices.sort_unstable();
    devices.dedup();
    assert_eq!(devices.len(), 100);
    server.lines.exactly("admitted from", 100);
}
