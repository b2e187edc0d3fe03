//! Keyed links: the files that hold the keys, what HUP makes of them, `-G` and `-K`, and what the log
//! tells those who made a slip.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::config::{SERVER_ID, client_id, shown};
use support::keyed::{KEY, OTHER, WORDS, client, line, server};
use support::lab::{Lab, SERVER4};
use support::launch::Launch;
use support::lines::Lines;
use support::middle::Kind;
use support::peer::{Peer, keepalive};
use support::sniffer::{Sniffer, udp};
use support::traffic::{ping_works, wait_ping};
use support::tunnel::{Client, Inner, Server};
use support::wait::{PATIENCE, wait_until};

const INNER: Inner = Inner(1);

/// What is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Empty,
    Sign,
    Seal,
    Other,
    Junk,
}

use Content::{Empty, Junk, Other, Seal, Sign};

const ALL: [Content; 5] = [Empty, Sign, Seal, Other, Junk];

impl Content {
    fn text(self) -> String {
        match self {
            Empty => String::new(),
            Sign => line("sign", KEY),
            Seal => line("seal", KEY),
            Other => line("seal", OTHER),
            Junk => "seal of approval\n".into(),
        }
    }

    /// How much it protects.
    fn strength(self) -> u8 {
        match self {
            Junk | Empty => 0,
            Sign => 1,
            Seal | Other => 2,
        }
    }
}

/// What left from, or to, this port, without the identifier.
fn left(sniffer: &Sniffer) -> Vec<(u16, Vec<u8>)> {
    let packets = std::iter::from_fn(|| sniffer.packet());
    let outer = packets.filter_map(|packet| match udp(&packet) {
        Some((5886, port, payload)) | Some((port, 5886, payload)) => Some((port, payload.to_vec())),
        _ => None,
    });
    outer.collect()
}

/// The port that client `number` sends from.
fn port(number: u16) -> u16 {
    20000 + number
}

/// A client that speaks with the server under each pair of contents: the first at its start, the
/// other after HUP. The number is that of the pair.
fn pairs() -> Vec<(u16, Content, Content)> {
    let all = ALL.into_iter().flat_map(|from| ALL.map(|to| (from, to)));
    (1..)
        .zip(all)
        .map(|(number, (from, to))| (number, from, to))
        .collect()
}

/// Whether client `number` has its tunnel within a while.
fn works(host: &support::host::Host, number: u16) -> bool {
    (0..12).any(|_| ping_works(host, Inner(number).server4()))
}

/// Every content of the server's files becomes every other, with clients that stay as they were, and
/// then follow.
fn matrix(keyed_only: bool) {
    let lab = Lab::direct();
    let only: &[&str] = if keyed_only { &["-K"] } else { &[] };
    let server = Server::new(&lab.server, []).options(&["-v"]).options(only);
    for (number, from, _) in pairs() {
        server.config.key(&client_id(number), &from.text());
    }
    let server = server.start();
    let clients: Vec<Client> = pairs()
        .into_iter()
        .map(|(number, from, _)| {
            let port = port(number).to_string();
            client(lab.client(), number, &from.text(), "1")
                .options(&["-p", &port])
                .options(only)
                .start()
        })
        .collect();
    let is_good = |content: Content| content != Junk && (content != Empty || !keyed_only);
    for (number, from, _) in pairs() {
        if is_good(from) {
            wait_ping(lab.client(), Inner(number).server4());
        }
    }
    let good = pairs().iter().filter(|pair| is_good(pair.1)).count();
    assert_eq!(lab.server.tuns().len(), good);
    for (number, ..) in pairs() {
        let id = client_id(number);
        if !is_good(pairs()[usize::from(number) - 1].1) {
            server.lines.wait(&format!(
                "refused {}/{}",
                server.config.peers().display(),
                shown(&id)
            ));
        }
    }
    let index = |number: u16| usize::from(number) - 1;

    // Only the server's files change. All who were keyed are never spoken to in plain again, nor who
    // is keyed now; what is on its way may still come.
    for (number, _, to) in pairs() {
        server.config.key(&client_id(number), &to.text());
    }
    server.reload();
    std::thread::sleep(Duration::from_millis(300));
    let (to_clients, to_server) = (
        Sniffer::leaving(&lab.server, "eth0"),
        Sniffer::leaving(lab.client(), "eth0"),
    );
    let assert_no_plain =
        |what: &str, from_client: bool, is_keyed: &dyn Fn(Content, Content) -> bool| {
            let sniffer = if from_client { &to_server } else { &to_clients };
            for (port, payload) in left(sniffer) {
                let (number, from, to) = pairs()[index(port - 20000)];
                if is_keyed(from, to) {
                    let kind = Kind::of(&payload);
                    assert!(
                        kind != Kind::Other,
                        "{what}: {number} {from:?} {to:?}: {payload:02x?}"
                    );
                }
            }
        };
    let states: Vec<bool> = pairs()
        .iter()
        .map(|pair| works(lab.client(), pair.0))
        .collect();
    for (number, from, to) in pairs() {
        let same = from == to && is_good(from);
        assert_eq!(states[index(number)], same, "{number}: {from:?} {to:?}");
    }
    assert_no_plain("server changed", false, &|from, to| {
        from.strength() > 0 || to.strength() > 0
    });
    assert_no_plain("server changed", true, &|from, _| {
        from.strength() > 0 || keyed_only
    });

    // The clients follow.
    for (client, (_, _, to)) in clients.iter().zip(pairs()) {
        client.config.key(SERVER_ID, &to.text());
        client.reload();
    }
    std::thread::sleep(Duration::from_millis(300));
    left(&to_server);
    let works_again = |from: Content, to: Content| {
        let is_weaker = to != Junk && to.strength() < from.strength();
        is_good(to) && !is_weaker
    };
    for (number, from, to) in pairs() {
        if works_again(from, to) {
            wait_ping(lab.client(), Inner(number).server4());
        } else {
            assert!(
                !ping_works(lab.client(), Inner(number).server4()),
                "{number}: {from:?} {to:?}"
            );
        }
    }
    let is_keyed = |from: Content, to: Content| from.strength() > 0 || to.strength() > 0;
    assert_no_plain("both changed", false, &is_keyed);
    assert_no_plain("both changed", true, &|from, to| {
        is_keyed(from, to) || keyed_only
    });
    for (number, from, to) in pairs() {
        let id = shown(&client_id(number));
        let refused = format!("clients/{id}: protects less than before");
        let is_weaker = to != Junk
            && to.strength() < from.strength()
            && (to != Empty || !keyed_only || from.strength() > 0);
        assert_eq!(
            server.lines.count(&refused) > 0,
            is_weaker,
            "{number}: {from:?} {to:?}"
        );
        // Another key keeps device and PROG.
        let kept = from == to || matches!((from, to), (Seal, Other) | (Other, Seal));
        if is_good(from) {
            let forgotten = server.lines.count(&format!("client {id} forgotten"));
            assert_eq!(forgotten == 0, kept, "{number}: {from:?} {to:?}");
        }
    }

    // The old line comes back. Who was weaker stays out, at both ends.
    for (client, (number, from, _)) in clients.iter().zip(pairs()) {
        server.config.key(&client_id(number), &from.text());
        client.config.key(SERVER_ID, &from.text());
    }
    server.reload();
    clients.iter().for_each(|client| drop(client.reload()));
    std::thread::sleep(Duration::from_millis(300));
    left(&to_server);
    left(&to_clients);
    let has_been = |from: Content, to: Content| from.strength().max(to.strength());
    for (number, from, to) in pairs() {
        let was_weaker = to != Junk && to.strength() < from.strength();
        let is_weaker_now = from.strength() < has_been(from, to);
        if is_good(from) && !was_weaker && !is_weaker_now {
            wait_ping(lab.client(), Inner(number).server4());
        } else {
            assert!(
                !ping_works(lab.client(), Inner(number).server4()),
                "{number}: {from:?} {to:?}"
            );
        }
    }
    assert_no_plain("the old line", false, &is_keyed);
    assert_no_plain("the old line", true, &|from, to| {
        is_keyed(from, to) || keyed_only
    });
    server.lines.assert_discreet();
}

#[test]
#[ignore = "needs root"]
fn any_file_becomes_any_other() {
    matrix(false);
}

#[test]
#[ignore = "needs root"]
fn any_file_becomes_any_other_with_keys_only() {
    matrix(true);
}

/// A file that was weaker is believed again once it was gone at a HUP.
#[test]
#[ignore = "needs root"]
fn a_weaker_file_is_good_once_it_was_gone() {
    let lab = Lab::direct();
    let server = server(&lab.server, &line("seal", KEY)).start();
    let mut client = client(lab.client(), 1, &line("seal", KEY), "1").start();
    client.wait_up();
    let id = client_id(1);
    server.config.key(&id, &line("sign", KEY));
    server.reload();
    server
        .lines
        .wait("protects less than before, which was seal");
    server.lines.wait("forgotten");
    server.config.revoke(&id);
    server.reload();
    server.config.key(&id, &line("sign", KEY));
    // The client is another matter: it is started anew.
    client.config.key(SERVER_ID, &line("sign", KEY));
    client.reload();
    client
        .lines
        .wait("protects less than before, which was seal");
    let sniffer = Sniffer::leaving(lab.client(), "eth0");
    assert!(!ping_works(lab.client(), INNER.server4()));
    assert_eq!(left(&sniffer), []);
    client.restart();
    client.wait_up();
    server.lines.wait("sign session up");
}

#[test]
#[ignore = "needs root"]
fn another_key_at_hup_keeps_the_device() {
    for word in WORDS {
        let lab = Lab::direct();
        let server = server(&lab.server, &line(word, KEY)).start();
        let client = client(lab.client(), 1, &line(word, KEY), "1").start();
        client.wait_up();
        // The client first: it has no session at once.
        client.config.key(SERVER_ID, &line(word, OTHER));
        client.reload();
        assert!(
            !ping_works(lab.client(), INNER.server4()),
            "the key is another"
        );
        server.lines.wait("another key, word or identifier");
        server.config.key(&client_id(1), &line(word, OTHER));
        server.reload();
        client.wait_up();
        server.lines.wait("new key, ");
        for lines in [&server.lines, &client.lines] {
            lines.exactly("is gone", 0);
            lines.exactly("forgotten", 0);
        }
        // No file: forgotten, and a client says nothing.
        server.config.revoke(&client_id(1));
        server.reload();
        server.lines.wait("forgotten");
        client.config.revoke(SERVER_ID);
        client.reload();
        let sniffer = Sniffer::leaving(lab.client(), "eth0");
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(left(&sniffer), []);
        // And back, the client's without a signal.
        for config in [&server.config, &client.config] {
            let id = if config.peers().ends_with("clients") {
                client_id(1)
            } else {
                SERVER_ID.into()
            };
            config.key(&id, &line(word, KEY));
        }
        client.wait_up();
    }
}

#[test]
#[ignore = "needs root"]
fn a_new_key_is_a_line_that_works() {
    let lab = Lab::direct();
    for word in WORDS {
        let server = Server::new(&lab.server, []);
        let client = Client::new(lab.client(), 1);
        let (clients, servers) = (server.config.peers(), client.config.peers());
        // As the manual says.
        let id = client_id(1);
        let command = Launch::new(&lab.server, "jtunneld")
            .options(["-G", word])
            .command();
        let words = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
        let make = format!(
            "cd {} && umask 077; {} >.new && mv .new {id} && cat {id}",
            clients.display(),
            words.join(" ")
        );
        let line = lab.server.sh(&make);
        assert!(
            line.starts_with(&format!("{word} ")) && line.len() == 70,
            "{} bytes",
            line.len()
        );
        client.config.key(SERVER_ID, &line);
        let mode = fs::metadata(clients.join(&id))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let (server, client) = (server.start(), client.options(&["-k", "1"]).start());
        client.wait_up();
        server.lines.exactly("other users", 0);
        drop((server, client, servers));
    }
    for program in ["jtunneld", "jtunnel-client"] {
        let line = |words: &[&str]| Launch::new(&lab.server, program).options(words).output();
        let [a, b] = [line(&["-G", "seal"]), line(&["-G", "seal"])];
        assert_eq!(
            (a.status.code(), a.stdout.len(), a.stderr.len()),
            (Some(0), 70, 0)
        );
        assert_ne!(a.stdout, b.stdout);
        for words in [
            &["-G", "plain"][..],
            &["-G"],
            &["-G", "seal", "sign"],
            &["-G", ""],
        ] {
            let output = line(words);
            assert_eq!(
                (output.status.code(), output.stdout.len()),
                (Some(100), 0),
                "{words:?}"
            );
        }
    }
}

/// Each has a line that says what to do.
#[test]
#[ignore = "needs root"]
fn slips_and_what_is_said_of_them() {
    let sealed = line("seal", KEY);
    let short = line("seal", &KEY[1..]);
    // Server's file, client's file, what the server says, what the client says.
    let slips = [
        (
            &*sealed,
            &*line("seal", OTHER),
            "another key, word or identifier; here it is seal",
            "no answer from",
        ),
        (
            &sealed,
            &line("sign", KEY),
            "another key, word or identifier; here it is seal",
            "no answer from",
        ),
        (
            &sealed,
            "",
            "dropped a plain packet from 198.51.100.2",
            "no answer from",
        ),
        (
            "",
            &sealed,
            "dropped a packet of a keyed link from 198.51.100.2",
            "no answer from",
        ),
        (
            &short,
            &sealed,
            "its key has 63 digits instead of 64",
            "no answer from",
        ),
        (
            &sealed,
            &short,
            "started: ",
            "its key has 63 digits instead of 64",
        ),
        (
            KEY,
            &sealed,
            "does not begin with `seal` or `sign`",
            "no answer from",
        ),
        (
            &sealed,
            &line("Seal", KEY),
            "started: ",
            "does not begin with `seal` or `sign`",
        ),
        (
            &format!("{sealed}\n"),
            &sealed,
            "more than a newline behind the key",
            "no answer from",
        ),
    ];
    for (at_server, at_client, server_says, client_says) in slips {
        let lab = Lab::direct();
        let server = server(&lab.server, at_server).start();
        let client = client(lab.client(), 1, at_client, "1").start();
        server.lines.wait(server_says);
        client.lines.wait(client_says);
        assert!(lab.server.tuns().is_empty(), "{at_server:?} {at_client:?}");
        for lines in [&server.lines, &client.lines] {
            lines.assert_discreet();
            lines.exactly(&KEY[4..12], 0);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn identifiers_swapped() {
    // The server's file has the server's name, the client's the client's.
    let lab = Lab::direct();
    let server = Server::new(&lab.server, []);
    server.config.key(SERVER_ID, &line("seal", KEY));
    let server = server.start();
    let mixed = Client::new(lab.client(), 1).options(&["-k", "1"]);
    mixed.config.revoke(SERVER_ID);
    mixed.config.key(&client_id(1), &line("seal", KEY));
    let mixed = mixed.start();
    let said = server.lines.wait("not authorised");
    assert!(
        said.contains(&format!("client {}", shown(&client_id(1)))),
        "{said}"
    );
    mixed.lines.wait("no answer from");
    drop((server, mixed));
    // Only the client's.
    let server = support::keyed::server(&lab.server, &line("seal", KEY)).start();
    let mixed = Client::new(lab.client(), 1).options(&["-k", "1"]);
    mixed.config.revoke(SERVER_ID);
    mixed.config.key(&client_id(1), &line("seal", KEY));
    let mixed = mixed.start();
    server.lines.wait("another key, word or identifier");
    mixed.lines.wait("no answer from");
}

#[test]
#[ignore = "needs root"]
fn a_key_that_others_can_read_is_worth_a_line() {
    let lab = Lab::direct();
    let server = server(&lab.server, &line("seal", KEY));
    let client = client(lab.client(), 1, &line("seal", KEY), "1");
    for file in [
        server.config.peer(&client_id(1)),
        client.config.peer(SERVER_ID),
    ] {
        fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
    }
    let (server, client) = (server.start(), client.start());
    for lines in [&server.lines, &client.lines] {
        lines.wait("other users can read the key in ");
    }
    client.wait_up();
}

/// Of several files the strongest are spoken, whichever is the right one.
#[test]
#[ignore = "needs root"]
fn the_strongest_of_several_files_is_spoken() {
    let lab = Lab::direct();
    let server = server(&lab.server, &line("seal", KEY)).start();
    let client = client(lab.client(), 1, &line("seal", KEY), "1");
    client.config.key(&client_id(7), &line("seal", OTHER));
    client.config.key(&client_id(8), &line("sign", OTHER));
    client.config.authorise(&client_id(9));
    let client = client.start();
    client.wait_up();
    client
        .lines
        .wait("ignored 2 servers whose file protects less than seal");
    server.lines.wait("seal session up");
}

#[test]
#[ignore = "needs root"]
fn keys_only() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, []).options(&["-K"]);
    server.config.key(&client_id(1), "");
    server.config.key(&client_id(2), &line("sign", KEY));
    let server = server.start();
    server
        .lines
        .wait("clients/0001...: has no key, and -K asks for one");
    let plain = client(lab.client(), 1, "", "1").start();
    server.lines.wait("not authorised");
    let keyed = client(lab.client(), 2, &line("sign", KEY), "1").start();
    keyed.wait_up();
    assert_eq!(lab.server.tuns().len(), 1);
    drop((plain, keyed));
    // A client says nothing at all, until there is a key.
    let sniffer = Sniffer::leaving(lab.client(), "eth0");
    let mute = client(lab.client(), 2, "", "1").options(&["-K"]).start();
    mute.lines
        .wait("servers/face...: has no key, and -K asks for one");
    assert!(!ping_works(lab.client(), Inner(2).server4()));
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(left(&sniffer), []);
    mute.config.key(SERVER_ID, &line("sign", KEY));
    mute.signal(Signal::SIGHUP);
    mute.wait_up();
    for words in [&["-A", "-K"][..], &["-A"]] {
        let launch = client(lab.client(), 3, &line("seal", KEY), "1");
        let launch =
            launch
                .launch()
                .clone()
                .options(words)
                .operands([SERVER4, "5886", "/bin/true"]);
        assert_eq!(launch.output().status.code(), Some(100), "{words:?}");
    }
}

/// A key file is made while its client sends plain packets.
#[test]
#[ignore = "needs root"]
fn a_key_file_made_under_plain_traffic() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, []).options(&["-v"]).start();
    let peer = Peer::new(lab.client());
    let id = client_id(1);
    let knock = |number| peer.send(&id, &keepalive(number), support::lab::TO);
    let refused = |lines: &Lines| lines.count("not authorised") > 0;
    wait_until(PATIENCE, "a refusal", || {
        knock(1);
        refused(&server.lines)
    });
    server.config.key(&id, &line("seal", KEY));
    wait_until(PATIENCE, "another line", || {
        knock(2);
        server
            .lines
            .count("dropped a plain packet from 198.51.100.2")
            > 0
    });
    assert!(lab.server.tuns().is_empty());
    assert_eq!(peer.receive_within(Duration::from_millis(300)), None);
    // Its client has no file yet: it takes the new one as it comes.
    let newcomer = Client::new(lab.client(), 1).options(&["-k", "1"]);
    newcomer.config.revoke(SERVER_ID);
    let newcomer = newcomer.start();
    newcomer.config.key(SERVER_ID, &line("seal", KEY));
    newcomer.signal(Signal::SIGHUP);
    newcomer.wait_up();
    newcomer.lines.wait("seal session up");
}

/// A client whose only file is not understood sends nothing at all: neither keepalives nor what comes
/// out of its device, from its start or from HUP on. Once the file is good it speaks again.
#[test]
#[ignore = "needs root"]
fn without_a_file_that_is_understood_nothing_leaves() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1]).start();
    for at_start in [true, false] {
        let client = Client::new(lab.client(), 1).options(&["-k", "1"]);
        let file = client.config.peer(SERVER_ID);
        if at_start {
            fs::write(&file, "sea").unwrap();
        }
        let client = client.start();
        if !at_start {
            client.wait_up();
            fs::write(&file, "sea").unwrap();
            client.signal(Signal::SIGHUP);
        }
        client.lines.wait("nothing is sent: no file in ");
        let sniffer = Sniffer::new(&lab.server, "eth0");
        for _ in 0..5 {
            assert!(!ping_works(lab.client(), INNER.server4()));
        }
        let seen = left(&sniffer);
        assert!(seen.is_empty(), "{at_start}: {seen:?}");
        fs::write(&file, "").unwrap();
        client.reload();
        client.wait_up();
    }
}
