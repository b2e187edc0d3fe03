//! Keyed links between the two programs, with or without somebody in the middle.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

pub use crate::config::KEY;
use crate::config::{SERVER_ID, client_id};
use crate::host::Host;
use crate::lab::{Lab, server_address};
use crate::middle::{Kind, Middle, Way};
use crate::tunnel::{Client, Inner, Server};
use crate::wait::PATIENCE;

/// Another key than the one of `config`.
pub const OTHER: &str = "100102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// Both protections.
pub const WORDS: [&str; 2] = ["seal", "sign"];
/// Where the middle is, for the client.
pub const NEAR: (&str, u16) = ("192.168.1.1", 5886);

/// The line of a file.
pub fn line(word: &str, key: &str) -> String {
    format!("{word} {key}\n")
}

/// A server, about to run, with this line in the file of client 1. It says what it does.
pub fn server(host: &Host, line: &str) -> Server {
    let server = Server::new(host, []).options(&["-v"]);
    server.config.key(&client_id(1), line);
    server
}

/// Client `number`, about to run, with this line in the server's file and this keepalive.
pub fn client(host: &Host, number: u16, line: &str, keepalive: &str) -> Client {
    let client = Client::new(host, number).options(&["-v", "-k", keepalive]);
    client.config.key(SERVER_ID, line);
    client
}

/// A server and a client, and somebody in the middle.
pub struct Between {
    /// The client, number 1.
    pub client: Client,
    /// The server.
    pub server: Server,
    /// On the router.
    pub middle: Arc<Middle>,
    /// The hosts.
    pub lab: Lab,
}

impl Between {
    /// Both run, and what the middle is told before counts from the first datagram on.
    #[track_caller]
    pub fn told(line: &str, keepalive: &str, tell: impl FnOnce(&Middle)) -> Self {
        let lab = Lab::routed(1);
        let near = (NEAR.0.parse().unwrap(), NEAR.1);
        let middle = Arc::new(Middle::start(lab.router(), near, server_address()));
        tell(&middle);
        let server = server(&lab.server, line).start();
        let client = client(lab.client(), 1, line, keepalive).to(NEAR.0).start();
        Self {
            client,
            server,
            middle,
            lab,
        }
    }

    /// The tunnel is up.
    #[track_caller]
    pub fn up(line: &str, keepalive: &str) -> Self {
        let between = Self::told(line, keepalive, |_| ());
        between.client.wait_up();
        between
    }
}

/// A socket at each end of client 1's tunnel, that talk to each other.
pub struct Ends {
    /// At the client.
    pub client: UdpSocket,
    /// At the server.
    pub server: UdpSocket,
}

impl Ends {
    /// The tunnel must be up: sockets want addresses.
    pub fn new(client: &Host, server: &Host) -> Self {
        let inner = Inner(1);
        let bind = |host: &Host, address| {
            let socket = host.run(move || UdpSocket::bind((address, 9))).unwrap();
            // What comes may be read late.
            setsockopt(&socket, RcvBufForce, &(8 << 20)).unwrap();
            socket
        };
        let ends = Self {
            client: bind(client, inner.client4()),
            server: bind(server, inner.server4()),
        };
        ends.client.connect((inner.server4(), 9)).unwrap();
        ends.server.connect((inner.client4(), 9)).unwrap();
        ends
    }

    /// Sends from this end.
    pub fn send(&self, way: Way, content: &[u8]) {
        let from = match way {
            Way::ToServer => &self.client,
            Way::ToClient => &self.server,
        };
        from.send(content).unwrap();
    }

    /// What arrives next at the end of this way, in time.
    pub fn next(&self, way: Way, patience: Duration) -> Option<Vec<u8>> {
        let at = match way {
            Way::ToServer => &self.server,
            Way::ToClient => &self.client,
        };
        at.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 65536];
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if let Ok(len) = at.recv(&mut buffer) {
                return Some(buffer[..len].to_vec());
            }
        }
        None
    }

    /// This arrives next, and nothing else before.
    #[track_caller]
    pub fn expect(&self, way: Way, content: &[u8]) {
        let got = self.next(way, PATIENCE).expect("it arrives");
        assert_eq!(
            got.escape_ascii().to_string(),
            content.escape_ascii().to_string()
        );
    }
}

/// No key is used twice with one counter, unless the same bytes are sent again: what else would be
/// the end of all secrecy. Returns how many packets there were.
#[track_caller]
pub fn assert_no_nonce_twice<'a>(datagrams: impl IntoIterator<Item = &'a [u8]>) -> usize {
    let mut seen: HashMap<&[u8], &[u8]> = HashMap::new();
    for datagram in datagrams {
        if !matches!(Kind::of(datagram), Kind::Data | Kind::Ping) || datagram.len() < 32 {
            continue;
        }
        // Identifier, type, name, counter.
        let before = *seen.entry(&datagram[..16]).or_insert(datagram);
        assert!(before == datagram, "{:02x?} twice", &datagram[..16]);
    }
    seen.len()
}
