//! Who gets in, from when on, and until when.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use support::config::{Config, SERVER_ID, client_id, shown};
use support::heartbeat::Heartbeat;
use support::lab::{Lab, SERVER4, TO};
use support::launch::Launch;
use support::lines::Lines;
use support::peer::{Forger, Peer, answer, datagram, keepalive};
use support::proc;
use support::traffic::{ping_works, wait_ping};
use support::tunnel::{Client, Inner, Server, server_prog};
use support::wait::{PATIENCE, report_recovery, wait_until};

#[test]
#[ignore = "needs root"]
fn a_new_client_needs_its_file_only() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, []).start();
    let (peer, id) = (Peer::new(lab.client()), client_id(1));
    peer.send(&id, &keepalive(1), TO);
    let line = server.lines.wait("not authorised");
    assert!(line.contains(&shown(&id)), "{line}");
    server.config.authorise(&id);
    let since = Instant::now();
    peer.knock(&id, TO, SERVER_ID);
    report_recovery("authorised without a signal", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(5));
    server.lines.wait("admitted from");
    server.lines.assert_discreet();
}

#[test]
#[ignore = "needs root"]
fn a_directory_that_others_can_read_is_worth_a_line() {
    let lab = Lab::direct();
    let server = Config::server(&lab.server, "server", SERVER_ID);
    let client = Config::client(lab.client(), "client", &client_id(1));
    for (config, launch) in [
        (&server, Launch::server(&lab.server)),
        (
            &client,
            Launch::client(lab.client()).operands([SERVER4, "5886"]),
        ),
    ] {
        let launch = launch.options(["-d".as_ref(), config.path.as_os_str()]);
        let launch = launch.operands(["/bin/true"]);
        for (mode, lines) in [(0o755, 1), (0o700, 0)] {
            fs::set_permissions(&config.path, Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(config.peers(), Permissions::from_mode(0o755)).unwrap();
            let mut process = launch.start();
            process.lines.wait("started: ");
            let told = process.lines.exactly("other users can get at ", lines);
            let end = format!(": chmod 700 {}", config.path.display());
            assert!(told.iter().all(|line| line.ends_with(&end)), "{told:?}");
            process.stop();
        }
    }
}

#[test]
#[ignore = "needs root"]
fn an_unknown_one_gets_no_answer_and_no_device() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start();
    let peer = Peer::new(lab.client());
    for payload in [&keepalive(1)[..], &[], &[0x45; 40], &[0x60; 60]] {
        peer.send(&client_id(2), payload, TO);
        // The server's own identifier opens nothing either.
        peer.send(SERVER_ID, payload, TO);
    }
    let reply = peer.receive_within(Duration::from_millis(200));
    assert!(reply.is_none(), "{reply:?}");
    peer.knock(&client_id(1), TO, SERVER_ID);
    assert_eq!(lab.server.tuns().len(), 1);
    server.lines.exactly("admitted", 1);
    server.lines.assert_discreet();
    let status = server.report("status: ");
    assert!(
        status.contains("1 clients, 1 authorised") && status.contains(" 8 unknown"),
        "{status}"
    );
}

#[test]
#[ignore = "needs root"]
fn several_that_are_not_authorised_are_all_named() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    let peer = Peer::new(lab.client());
    // One is louder than all others.
    for _ in 0..100 {
        peer.send(&client_id(2), &keepalive(1), TO);
    }
    for number in 3..40 {
        peer.send(&client_id(number), &keepalive(1), TO);
    }
    peer.knock(&client_id(1), TO, SERVER_ID);
    let lines = server.lines.exactly("not authorised", 8);
    for (number, line) in (2..).zip(&lines) {
        let id = shown(&client_id(number));
        assert!(
            line.contains(&format!("of client {id} from 198.51.100.2:")),
            "{line}"
        );
    }
    assert!(
        lines[1].ends_with(" (99 more since the last such line)"),
        "{lines:?}"
    );
    server.lines.assert_discreet();
}

#[test]
#[ignore = "needs root"]
fn trouble_of_several_clients_is_told_of_each() {
    let lab = Lab::direct();
    let prog = server_prog(&lab.server, "up", "");
    let server = Server::new(&lab.server, [1, 2, 3, 4]).start_with(&[&prog]);
    let mut peers = Vec::new();
    for number in 1..=2 {
        let peer = Peer::new(lab.client());
        peer.knock(&client_id(number), TO, SERVER_ID);
        peers.push(peer);
    }
    server.wait_progs(2);
    // Nothing may leave to either.
    lab.server
        .filter("firewall", "output", "udp sport 5886 drop");
    for number in 1..=2 {
        let address = Inner(number).client4();
        lab.server
            .sh(&format!("ping -n -c 1 -W 0.1 {address} || :"));
    }
    for peer in &peers {
        let said = format!("unable to send to 198.51.100.2:{}: ", peer.port());
        server.lines.wait(&said);
    }
    lab.server.filter("firewall", "output", "accept");
    // What is for each one's own address and port, into its own device.
    for (number, (device, peer)) in (1..).zip(lab.server.tuns().iter().zip(&peers)) {
        let route = format!("198.51.100.2/32 dev {device}");
        lab.server.ip(&format!("route add {route}"));
        Peer::new(&lab.server).send_raw(&[0; 20], ("198.51.100.2", peer.port()));
        let id = shown(&client_id(number));
        let said = format!("client {id}: dropped a packet for the peer's own address");
        server.lines.wait(&said);
        lab.server.ip(&format!("route del {route}"));
    }
    // PROG is not there any more.
    fs::remove_file(&prog).unwrap();
    for number in 3..=4 {
        Peer::new(lab.client()).send(&client_id(number), &keepalive(1), TO);
        let id = shown(&client_id(number));
        server.lines.wait(&format!("client {id}: unable to run "));
    }
}

#[test]
#[ignore = "needs root"]
fn hup_forgets_one_of_three_and_the_others_lose_nothing() {
    let lab = Lab::behind_nat(3);
    let server = Server::new(&lab.server, [1, 2, 3]).start();
    let clients = Client::on_each(&lab, &["-k", "1"]);
    let beats: Vec<Heartbeat> = [&clients[0], &clients[2]]
        .iter()
        .map(|client| Heartbeat::start(&client.host, &lab.server, client.inner.server4()))
        .collect();
    beats.iter().for_each(|beat| beat.wait_beats(50));

    // The file alone does nothing yet.
    server.config.revoke(&client_id(2));
    wait_ping(&lab.clients[1], clients[1].inner.server4());
    let admitted = server.lines.matching("admitted from");
    let device = admitted
        .iter()
        .find(|line| line.contains(&shown(&client_id(2))))
        .unwrap();
    let device = device.rsplit(' ').next().unwrap();

    server.signal(Signal::SIGHUP);
    let line = server.lines.wait("forgotten");
    assert!(
        line.contains(&shown(&client_id(2))) && line.contains(device),
        "{line}"
    );
    let tuns = lab.server.wait_tuns(2);
    assert!(!tuns.contains(&device.to_owned()), "{tuns:?}");
    beats.iter().for_each(|beat| beat.wait_beats(100));
    for beat in &beats {
        assert_eq!(beat.tally().lost, 0, "{:?}", beat.tally());
    }
    assert!(!ping_works(&lab.clients[1], clients[1].inner.server4()));
    server.lines.exactly("forgotten", 1);
    server.lines.exactly("admitted from", 3);

    // Authorised again, it is back without a signal.
    server.config.authorise(&client_id(2));
    clients[1].wait_up();
    server.lines.assert_discreet();
}

/// Puts files that authorise nobody into a directory of peers; returns the lines to be expected.
fn unfit_files(config: &Config) -> Vec<String> {
    let file = |number| config.peer(&client_id(number));
    fs::write(file(0xa001), "a key\n").unwrap();
    fs::create_dir(file(0xa002)).unwrap();
    nix::unistd::mkfifo(&file(0xa003), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::File::create(file(0xa004))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    fs::write(file(0xa005), [b' '; 4097]).unwrap();
    std::os::unix::fs::symlink("/dev/zero", file(0xa006)).unwrap();
    std::os::unix::fs::symlink("/nonexistent", file(0xa007)).unwrap();
    // Names of other shapes: too short, upper case, too long, no hex, and one that says nothing.
    for name in [
        "0123",
        "0123456789ABCDEF",
        "0123456789abcdef0",
        "README",
        ".hidden",
    ] {
        fs::write(config.peer(name), "").unwrap();
    }
    [
        ("a001", "it does not begin with `seal` or `sign`"),
        ("a002", "is not a regular file"),
        ("a003", "is not a regular file"),
        ("a004", "is larger than 4096 bytes"),
        ("a005", "is larger than 4096 bytes"),
        ("a006", "is not a regular file"),
        ("a007", "No such file or directory"),
    ]
    .map(|(id, reason)| format!("/{id}...: |{reason}"))
    .into()
}

/// Waits for a line that contains both parts.
fn wait_for_parts(lines: &Lines, parts: &str) {
    let (first, second) = parts.split_once('|').unwrap();
    lines.wait_all(parts, |lines| {
        lines
            .iter()
            .any(|line| line.contains("refused") && line.contains(first) && line.contains(second))
    });
}

#[test]
#[ignore = "needs root"]
fn files_that_do_not_authorise() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]);
    let expected = unfit_files(&server.config);
    // White space is nothing, and a link to an empty file is a file.
    fs::write(server.config.peer(&client_id(2)), " \t\r\n\n").unwrap();
    fs::write(server.config.path.join("empty"), "").unwrap();
    std::os::unix::fs::symlink("../empty", server.config.peer(&client_id(3))).unwrap();
    let memory_limit = 16 * 1024;
    let server = server.start_with(&["/bin/true"]);
    for parts in &expected {
        wait_for_parts(&server.lines, parts);
    }
    let line = server.lines.wait("are not 16 lower-case hex digits");
    assert!(line.contains("ignored 4 names in "), "{line}");
    assert!(!line.contains("README"), "{line}");
    server.lines.wait("3 authorised clients");

    let peer = Peer::new(lab.client());
    for number in 0xa001..=0xa007 {
        peer.send(&client_id(number), &keepalive(u32::from(number)), TO);
    }
    for number in [1, 2, 3] {
        peer.send(&client_id(number), &keepalive(number.into()), TO);
        let others = peer.expect(&datagram(SERVER_ID, &answer(number.into())));
        assert!(others.is_empty(), "{others:02x?}");
    }
    server.lines.exactly("admitted", 3);
    assert!(
        proc::resident(server.pid()) < memory_limit,
        "the large file was not read"
    );
    let refused = server.lines.count("refused");
    assert_eq!(refused, expected.len(), "each is named once");
    let status = server.reload();
    assert!(status.contains(" 3 authorised"), "{status}");
    server.lines.exactly("refused", 2 * expected.len());
    server.lines.assert_discreet();
}

#[test]
#[ignore = "needs root"]
fn a_client_refuses_the_same_files() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]);
    let expected = unfit_files(&client.config);
    let client = client.start();
    for parts in &expected {
        wait_for_parts(&client.lines, parts);
    }
    client.wait_up();
    client.lines.assert_discreet();
}

#[test]
#[ignore = "needs root"]
fn a_file_that_gets_content_is_refused_at_hup() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    Peer::new(lab.client()).knock(&client_id(1), TO, SERVER_ID);
    fs::write(server.config.peer(&client_id(1)), "key\n").unwrap();
    server.signal(Signal::SIGHUP);
    wait_for_parts(
        &server.lines,
        "/0001...: |it does not begin with `seal` or `sign`",
    );
    server.lines.wait("forgotten");
    lab.server.wait_tuns(0);
}

#[test]
#[ignore = "needs root"]
fn a_directory_of_clients_that_is_not_there() {
    for missing in [false, true] {
        let lab = Lab::direct();
        let server = Server::new(&lab.server, []);
        fs::remove_dir(server.config.peers()).unwrap();
        fs::write(server.config.peers(), "").unwrap();
        let server = server.start_with(&["/bin/true"]);
        let line = server.lines.wait("unable to read ");
        assert!(line.contains("/clients: Not a directory"), "{line}");
        let peer = Peer::new(lab.client());
        peer.send(&client_id(1), &keepalive(1), TO);
        server.lines.wait("not authorised");
        fs::remove_file(server.config.peers()).unwrap();
        if missing {
            // For a moment, altogether.
            server
                .lines
                .wait_next("unable to read ", || server.signal(Signal::SIGHUP));
        }
        fs::create_dir(server.config.peers()).unwrap();
        server.config.authorise(&client_id(1));
        peer.knock(&client_id(1), TO, SERVER_ID);

        // Unreadable at HUP: the list stays as it was.
        fs::rename(server.config.peers(), server.config.path.join("moved")).unwrap();
        server
            .lines
            .wait_next("unable to read ", || server.signal(Signal::SIGHUP));
        peer.knock(&client_id(1), TO, SERVER_ID);
        server.lines.exactly("forgotten", 0);
    }
}

#[test]
#[ignore = "needs root"]
fn a_shortage_at_hup_forgets_nobody() {
    for error in ["ENFILE", "ENOMEM"] {
        let lab = Lab::direct();
        let server = Server::new(&lab.server, [1, 2]);
        let file = server.config.peers().join(client_id(1));
        // The file is opened at the start and at HUP.
        let inject = format!("inject=?open,openat:error={error}:when=2");
        let filter = [
            "-P",
            file.to_str().unwrap(),
            "-e",
            "trace=?open,openat",
            "-e",
            &inject,
        ];
        let under = [&["strace", "-o", "trace"], &filter[..]].concat();
        let server = server
            .with(|launch| launch.under(&under))
            .start_with(&["/bin/true"]);
        let pid = proc::children(server.pid())[0];
        let peer = Peer::new(lab.client());
        for number in [1, 2] {
            peer.knock(&client_id(number), TO, SERVER_ID);
        }
        server.config.revoke(&client_id(2));
        kill(pid, Signal::SIGHUP).unwrap();
        let line = server.lines.wait("unable to read ");
        assert!(line.contains("/clients: "), "{line}");
        kill(pid, Signal::SIGUSR1).unwrap();
        server.lines.wait("status: 2 clients, 2 authorised");
        // And the next one finds all.
        kill(pid, Signal::SIGHUP).unwrap();
        let line = server.lines.wait("forgotten");
        assert!(line.contains(&shown(&client_id(2))), "{line}");
        server.lines.exactly("refused", 0);
    }
}

#[test]
#[ignore = "needs root"]
fn a_client_accepts_authorised_servers_only() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]);
    client.config.revoke(SERVER_ID);
    let ran =
        support::tunnel::client_prog(lab.client(), "up", 1, "echo ran >>$0.runs; exec sleep 1000");
    let client = client.start_with(&[ran]);
    let line = client.lines.wait("not authorised");
    assert!(line.contains(&shown(SERVER_ID)), "{line}");
    assert!(!ping_works(lab.client(), client.inner.server4()));
    // Without a signal.
    client.config.authorise(SERVER_ID);
    client.wait_up();
    client.lines.wait("answers from");

    // The last server is removed: at HUP all that arrives is dropped, device and PROG stay.
    let tun = lab.client().tuns();
    client.config.revoke(SERVER_ID);
    wait_ping(lab.client(), client.inner.server4());
    client.reload();
    assert!(!ping_works(lab.client(), client.inner.server4()));
    client.config.authorise(SERVER_ID);
    client.wait_up();
    assert_eq!(lab.client().tuns(), tun);
    assert_eq!(lab.client().read("up.runs"), "ran\n");
    assert!(
        client.lines.count("not authorised") <= 2,
        "at a bounded rate"
    );
    client.lines.assert_discreet();
}

#[test]
#[ignore = "needs root"]
fn a_clients_directory_of_servers_that_is_not_there() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]);
    fs::remove_dir_all(client.config.peers()).unwrap();
    fs::write(client.config.peers(), "").unwrap();
    let client = client.start();
    let line = client.lines.wait("unable to read ");
    assert!(line.contains("/servers: Not a directory"), "{line}");
    fs::remove_file(client.config.peers()).unwrap();
    fs::create_dir(client.config.peers()).unwrap();
    client.config.authorise(SERVER_ID);
    client.wait_up();
}

#[test]
#[ignore = "needs root"]
fn the_peers_of_the_other_part_open_nothing() {
    // A server's identifier is seen by all its clients; it must not open this host's own server.
    let lab = Lab::direct();
    let config = Config::server(&lab.server, "jtunneld", SERVER_ID);
    fs::create_dir(config.path.join("servers")).unwrap();
    fs::write(config.path.join("servers").join(client_id(1)), "").unwrap();
    config.authorise(&client_id(2));
    let server = Launch::server(&lab.server)
        .options(["-d".as_ref(), config.path.as_os_str()])
        .operands(["/bin/true"])
        .start();
    server.lines.wait("started: ");
    let peer = Peer::new(lab.client());
    peer.send(&client_id(1), &keepalive(1), TO);
    peer.send(&client_id(2), &keepalive(2), TO);
    assert!(peer.expect(&datagram(SERVER_ID, &answer(2))).is_empty());
}

#[test]
#[ignore = "needs root"]
fn any_identifier_but_not_any_address() {
    let lab = Lab::direct();
    let peer = Peer::bound(&lab.server, "0.0.0.0:5886");
    let client = Client::new(lab.client(), 1).options(&["-k", "1", "-A"]);
    client.config.revoke(SERVER_ID);
    let client = client.start();
    let (question, from) = peer.receive();
    let to = (&*from.ip().to_string(), from.port());
    let counter = u32::from_be_bytes(question[9..].try_into().unwrap());
    peer.send("00000000000000ee", &answer(counter), to);
    // Another port of the server, and another host's forgery of another address.
    Peer::new(&lab.server).send("00000000000000ff", &[], to);
    let forged = |n: u8| std::net::SocketAddrV4::new([198, 51, 100, n].into(), 5886);
    let target = std::net::SocketAddrV4::new([198, 51, 100, 2].into(), from.port());
    Forger::new(&lab.server).udp(forged(9), target, &datagram(SERVER_ID, &[]));
    // The marker: a keepalive, whose answer shows that the rest was seen.
    wait_until(PATIENCE, "an answer", || {
        peer.send("00000000000000ee", &keepalive(5), to);
        std::iter::from_fn(|| peer.receive_within(Duration::from_millis(100)))
            .any(|(content, _)| content == datagram(&client_id(1), &answer(5)))
    });
    let lines = client.lines.exactly("answers from", 1);
    assert!(lines[0].contains("server 0000... answers"), "{lines:?}");
    let status = client.report("status: device");
    assert!(status.ends_with("dropped 2"), "{status}");
    // The directory is of no interest, be it there or not.
    fs::remove_dir(client.config.peers()).unwrap();
    client.reload();
    client.lines.exactly("unable to read", 0);
    client.lines.exactly("authorised servers", 0);
}

#[test]
#[ignore = "needs root"]
fn of_any_identifiers_the_first_that_answers_is_kept_until_silence() {
    const FIRST: &str = "aaaa000000000001";
    const SECOND: &str = "bbbb000000000002";
    let lab = Lab::direct();
    let peer = Peer::bound(&lab.server, "0.0.0.0:5886");
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "1", "-A"])
        .start_with(&["/bin/true"]);
    // The next keepalive's counter, and where its answer is to go.
    let asked = || loop {
        let (content, from) = peer.receive();
        if let [1, counter @ ..] = &content[8..] {
            let counter = u32::from_be_bytes(counter.try_into().unwrap());
            break (counter, from.ip().to_string(), from.port());
        }
    };
    let is_heard = |id: &str, (_, ip, port): &(u32, String, u16)| {
        peer.send(id, &keepalive(5), (ip, *port));
        let wait = Duration::from_millis(300);
        let mut replies = std::iter::from_fn(|| peer.receive_within(wait));
        replies.any(|(content, _)| content == datagram(&client_id(1), &answer(5)))
    };
    let question = asked();
    assert!(question.0 > 1000, "begun at random: {}", question.0);
    // Nobody is heard who has not answered what was asked.
    for counter in [0, 1, question.0.wrapping_sub(1), question.0.wrapping_add(1)] {
        peer.send(SECOND, &answer(counter), (&question.1, question.2));
    }
    assert!(!is_heard(SECOND, &question));
    client.lines.exactly("answers from", 0);
    let answers = |id: &str, line: usize| {
        loop {
            let question = asked();
            peer.send(id, &answer(question.0), (&question.1, question.2));
            if client.lines.count("answers from") >= line {
                break question;
            }
        }
    };
    let question = answers(FIRST, 1);
    client.lines.exactly("server aaaa... answers from", 1);
    assert!(is_heard(FIRST, &question));
    assert!(!is_heard(SECOND, &question));
    client
        .lines
        .wait("dropped a datagram of server bbbb... from 198.51.100.1:5886: another one");
    // Nor does the answer of another to the next one change that.
    let question = asked();
    peer.send(SECOND, &answer(question.0), (&question.1, question.2));
    assert!(!is_heard(SECOND, &question));
    assert!(is_heard(FIRST, &question));
    // After a silence it does.
    client.lines.wait("no answer from");
    let question = answers(SECOND, 2);
    client.lines.exactly("server bbbb... answers from", 1);
    assert!(is_heard(SECOND, &question));
    assert!(!is_heard(FIRST, &question));
    client.lines.assert_discreet();
}

#[test]
#[ignore = "needs root"]
fn two_clients_behind_one_nat() {
    let lab = Lab::behind_nat(2);
    let server = Server::new(&lab.server, [1, 2]).start();
    let clients = Client::on_each(&lab, &["-k", "1"]);
    let beats: Vec<Heartbeat> = clients
        .iter()
        .map(|client| Heartbeat::start(&lab.server, &client.host, client.inner.client4()))
        .collect();
    beats.iter().for_each(|beat| beat.wait_beats(100));
    for beat in &beats {
        assert_eq!(beat.tally().lost, 0);
    }
    for line in server.lines.matching("admitted from") {
        assert!(line.contains("from 198.51.100.2:"), "{line}");
    }
    server.lines.exactly("moved from", 0);
}

#[test]
#[ignore = "needs root"]
fn two_clients_with_one_identifier() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    let (a, b) = (Peer::new(lab.client()), Peer::new(lab.client()));
    let id = client_id(1);
    for counter in 0..100 {
        for peer in [&a, &b] {
            peer.send(&id, &keepalive(counter), TO);
            // The last one to speak has the answer.
            let others = peer.expect(&datagram(SERVER_ID, &answer(counter)));
            assert!(others.iter().all(|other| other.len() > 13), "{others:02x?}");
        }
    }
    server.lines.exactly("admitted from", 1);
    server.lines.exactly("moved from", 1);
    assert_eq!(lab.server.tuns().len(), 1);
    // What that means is said once, and not of one that moves on and on.
    let lines = server.lines.exactly(" by turns: ", 1);
    let ports = [&b, &a].map(|peer| format!("from 198.51.100.2:{}", peer.port()));
    let said = format!(
        "client 0001... comes {} and {} by turns: two hosts with one identifier, or one with two uplinks",
        ports[0], ports[1]
    );
    assert!(lines[0].ends_with(&said), "{lines:?}");
}

#[test]
#[ignore = "needs root"]
fn one_that_moves_on_and_on_is_one() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    let peers: Vec<Peer> = (0..20).map(|_| Peer::new(lab.client())).collect();
    for peer in &peers {
        peer.knock(&client_id(1), TO, SERVER_ID);
    }
    server.lines.wait("moved from");
    server.lines.exactly(" by turns: ", 0);
}
