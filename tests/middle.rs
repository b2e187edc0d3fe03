//! The man in the middle does what it is told to, to plain datagrams and to keyed links between two
//! ends of the other implementation.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::config::{bytes, client_id};
use support::flood::Flood;
use support::independent;
use support::lab::{Lab, SERVER4, SERVER6, server_address};
use support::middle::{Fate, Kind, Middle, Way, extended, flipped, spliced, truncated};
use support::peer::Peer;
use support::process::Process;

const NEAR: (&str, u16) = ("192.168.1.1", 5886);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn near() -> (IpAddr, u16) {
    (ip(NEAR.0), NEAR.1)
}

/// A datagram of this type.
fn typed(kind: u8, content: &[u8]) -> Vec<u8> {
    [&bytes(&client_id(1))[..], &[kind], content].concat()
}

/// Two peers with the middle between them.
struct Between {
    lab: Lab,
    client: Peer,
    server: Peer,
    middle: Arc<Middle>,
}

impl Between {
    fn new() -> Self {
        let lab = Lab::routed(1);
        let server = Peer::bound(&lab.server, &format!("{SERVER4}:5886"));
        let client = Peer::new(lab.client());
        let middle = Arc::new(Middle::start(lab.router(), near(), server_address()));
        Self {
            lab,
            client,
            server,
            middle,
        }
    }

    /// The client says this; nothing need arrive.
    fn says(&self, datagram: &[u8]) {
        let kind = Kind::of(datagram);
        let n = self.middle.count(Way::ToServer, kind);
        self.client.send_raw(datagram, NEAR);
        assert_eq!(
            self.middle.wait(Way::ToServer, kind, n + 1).bytes,
            datagram,
            "recorded as it came"
        );
    }

    /// This is what arrives next at the server.
    #[track_caller]
    fn hears(&self, datagram: &[u8]) -> SocketAddr {
        let (got, from) = self.server.receive();
        assert_eq!(got, datagram);
        from
    }

    /// Nothing else has arrived: this, which passes, comes next.
    #[track_caller]
    fn hears_no_more(&self) {
        self.says(b"end");
        self.hears(b"end");
    }
}

#[test]
#[ignore = "needs root"]
fn datagrams_pass_both_ways_and_are_recorded() {
    let between = Between::new();
    let kinds = [
        (0x11, Kind::Open),
        (0x12, Kind::Chal),
        (0x13, Kind::Data),
        (0x14, Kind::Ping),
        (0x45, Kind::Other),
    ];
    for (number, kind) in kinds {
        let datagram = typed(number, b"content");
        between.says(&datagram);
        let from = between.hears(&datagram);
        assert_eq!(from.ip(), ip("198.51.100.2"));
        let to = (&*from.ip().to_string(), from.port());
        between.server.send_raw(&datagram, to);
        let (got, source) = between.client.receive();
        assert_eq!((got, source), (datagram, near().into()));
        for way in [Way::ToServer, Way::ToClient] {
            assert_eq!(between.middle.count(way, kind), 1, "{kind:?} {way:?}");
        }
    }
    assert_eq!(between.middle.seen().len(), 10);
    between.middle.forget();
    assert_eq!(between.middle.seen(), []);
}

#[test]
#[ignore = "needs root"]
fn a_rule_is_for_one_kind_and_way() {
    let between = Between::new();
    let (open, data) = (typed(0x11, b"open"), typed(0x13, b"data"));
    between.middle.rule(Way::ToServer, Kind::Open, Fate::Drop);
    between.middle.rule(Way::ToClient, Kind::Data, Fate::Drop);
    between.says(&open);
    between.says(&data);
    let from = between.hears(&data);
    let to = (&*from.ip().to_string(), from.port());
    between.server.send_raw(&data, to);
    between.server.send_raw(&open, to);
    assert_eq!(between.client.receive().0, open);
    between.middle.rule(Way::ToServer, Kind::Open, Fate::Pass);
    between.says(&open);
    between.hears(&open);
    between.middle.pass_all();
    between.server.send_raw(&data, to);
    assert_eq!(between.client.receive().0, data);
    between.hears_no_more();
}

#[test]
#[ignore = "needs root"]
fn datagrams_are_held_delayed_and_said_again() {
    let between = Between::new();
    let [a, b, c] = [b"a", b"b", b"c"].map(|content| typed(0x13, content));
    between.middle.rule(Way::ToServer, Kind::Data, Fate::Hold);
    for datagram in [&a, &b] {
        between.says(datagram);
    }
    between.hears_no_more();
    between.middle.release();
    between.hears(&a);
    between.hears(&b);
    for datagram in [&a, &b] {
        between.says(datagram);
    }
    // The other way round.
    for held in between.middle.take_held().iter().rev() {
        between.middle.inject(held.way, &held.bytes);
    }
    between.hears(&b);
    between.hears(&a);
    let by = Duration::from_millis(300);
    between
        .middle
        .rule(Way::ToServer, Kind::Data, Fate::Delay(by));
    let since = Instant::now();
    between.says(&c);
    between.hears_no_more();
    between.hears(&c);
    assert!(since.elapsed() >= by, "{:?}", since.elapsed());
    // What was recorded, again.
    let first = between.middle.wait(Way::ToServer, Kind::Data, 1);
    between.middle.inject(Way::ToServer, &first.bytes);
    between.hears(&a);
    between.middle.inject(Way::ToClient, &first.bytes);
    assert_eq!(between.client.receive().0, a);
    between.hears_no_more();
}

#[test]
#[ignore = "needs root"]
fn datagrams_are_changed_on_the_way() {
    let between = Between::new();
    let (first, second) = (typed(0x14, b"first"), typed(0x14, b"other"));
    let change = |fate| between.middle.rule(Way::ToServer, Kind::Ping, fate);
    for bit in [0, 7, 8 * first.len() - 1] {
        change(Fate::change(move |datagram| flipped(datagram, bit)));
        between.says(&first);
        let (got, _) = between.server.receive();
        let differing: Vec<usize> = (0..8 * first.len())
            .filter(|at| {
                let bit = |bytes: &[u8]| bytes[at / 8] >> (7 - at % 8) & 1;
                bit(&got) != bit(&first)
            })
            .collect();
        assert_eq!((got.len(), differing), (first.len(), vec![bit]));
    }
    change(Fate::change(|datagram| truncated(datagram, 2)));
    between.says(&first);
    between.hears(&typed(0x14, b"fir"));
    change(Fate::change(|datagram| extended(datagram, b"!!")));
    between.says(&first);
    between.hears(&typed(0x14, b"first!!"));
    let rest = second.clone();
    change(Fate::change(move |datagram| spliced(datagram, &rest, 11)));
    between.says(&first);
    between.hears(&typed(0x14, b"fiher"));
    change(Fate::repeat(3));
    between.says(&first);
    for _ in 0..3 {
        between.hears(&first);
    }
    between.hears_no_more();
}

#[test]
#[ignore = "needs root"]
fn the_source_changes() {
    let between = Between::new();
    between.says(b"one");
    let old = between.hears(b"one");
    let port = between.middle.change_port();
    between.says(b"two");
    let new = between.hears(b"two");
    assert_eq!((new.ip(), new.port()), (old.ip(), port));
    assert_ne!(old.port(), port);
    // What goes to the old port is lost, what goes to the new one is not.
    for (to, content) in [(old, b"old"), (new, b"new")] {
        let to = (&*to.ip().to_string(), to.port());
        between.server.send_raw(content, to);
    }
    assert_eq!(between.client.receive().0, b"new");
    let router = between.lab.router();
    router.ip("address add 198.51.100.77/24 dev wan");
    between.middle.change_address(ip("198.51.100.77"));
    between.says(b"three");
    assert_eq!(between.hears(b"three").ip(), ip("198.51.100.77"));
}

#[test]
#[ignore = "needs root"]
fn a_flood_comes_from_where_the_client_seems_to_be() {
    let between = Between::new();
    between.says(b"one");
    let from = between.hears(b"one");
    let flood = Flood::through(&between.middle, Way::ToServer, |noise| noise.bytes(40));
    for _ in 0..1000 {
        let (datagram, source) = between.server.receive();
        assert_eq!((datagram.len(), source), (40, from));
    }
    assert!(flood.stop() >= 1000);
}

/// A keyed link between two ends of the other implementation, through the middle.
fn keyed() -> (Lab, Process, Process, Middle) {
    let key = format!("seal {}", "5a".repeat(32));
    let lab = Lab::routed(1);
    let at = (ip(SERVER6), 5886);
    let near = (ip("2001:db8:1::1"), 5886);
    let server = independent::server(&lab.server, 1, &key, at);
    server.lines.wait("port 5886");
    let middle = Middle::start(lab.router(), near, at);
    middle.rule(Way::ToServer, Kind::Open, Fate::Hold);
    let client = independent::client(lab.client(), 1, &key, near, 1);
    (lab, server, client, middle)
}

#[test]
#[ignore = "needs root"]
fn a_keyed_link_through_the_middle() {
    let (_lab, server, client, middle) = keyed();
    let open = middle.wait(Way::ToServer, Kind::Open, 1);
    for bit in 0..8 * open.bytes.len() {
        // One of them makes DATA of it, of an unknown session.
        let said = server.lines.all().len();
        middle.inject(Way::ToServer, &flipped(&open.bytes, bit));
        let all = |lines: &[String]| lines.len() > said;
        server.lines.wait_all("what became of it", all);
    }
    server.lines.exactly("dropped: ", 8 * open.bytes.len() - 1);
    server.lines.exactly("nudge sent", 1);
    server.lines.exactly("CHAL sent", 0);
    middle.rule(Way::ToServer, Kind::Open, Fate::Pass);
    middle.release();
    client.lines.wait(" up");
    // A replay from another port moves nobody; what is new does.
    let ping = middle.wait(Way::ToServer, Kind::Ping, 1);
    server.lines.wait("PING answered");
    middle.rule(Way::ToServer, Kind::Ping, Fate::Hold);
    let port = middle.change_port();
    server.lines.wait_next("dropped: replayed", || {
        middle.inject(Way::ToServer, &ping.bytes);
    });
    server.lines.exactly("address ", 1);
    middle.rule(Way::ToServer, Kind::Ping, Fate::Pass);
    middle.release();
    let moved = server.lines.wait_nth("address ", 2);
    assert!(moved.ends_with(&format!(" {port}")), "{moved}");
}
