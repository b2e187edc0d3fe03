//! Somebody in the middle of a keyed link, who can do anything to datagrams but knows no key.
//!
//! The client is told the middle's address instead of the server's. Whatever is not ruled otherwise
//! passes unchanged. What comes is recorded before anything is done to it, so that a test can say it
//! again, from here or by a `Peer` from elsewhere.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::host::Host;
use crate::wait::{PATIENCE, wait_for};
use crate::worker::Worker;

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// From the client.
    ToServer,
    /// From the server.
    ToClient,
}

/// What a datagram says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The client opens a session.
    Open,
    /// The server's challenge, or a nudge.
    Chal,
    /// An inner packet, or the server's empty answer.
    Data,
    /// The client's keepalive.
    Ping,
    /// Nothing of a keyed link.
    Other,
}

impl Kind {
    /// As the byte behind the identifier tells.
    pub fn of(datagram: &[u8]) -> Self {
        match datagram.get(8) {
            Some(0x11) => Self::Open,
            Some(0x12) => Self::Chal,
            Some(0x13) => Self::Data,
            Some(0x14) => Self::Ping,
            _ => Self::Other,
        }
    }
}

/// A datagram that came, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where it was going.
    pub way: Way,
    /// What it says it is.
    pub kind: Kind,
    /// All of it.
    pub bytes: Vec<u8>,
    /// When it came.
    pub time: Instant,
}

/// Makes of one datagram what is to arrive instead.
type Change = Box<dyn FnMut(&[u8]) -> Vec<Vec<u8>> + Send>;

/// What becomes of the datagrams of one kind and way.
pub enum Fate {
    /// They arrive.
    Pass,
    /// They don't.
    Drop,
    /// They arrive when they are released.
    Hold,
    /// They arrive so much later.
    Delay(Duration),
    /// These arrive in the place of each.
    Change(Change),
}

impl Fate {
    /// Another datagram arrives.
    pub fn change(mut how: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        Self::Change(Box::new(move |datagram| vec![how(datagram)]))
    }

    /// Each arrives so many times.
    pub fn repeat(times: usize) -> Self {
        Self::Change(Box::new(move |datagram| vec![datagram.to_vec(); times]))
    }
}

/// A datagram with one bit flipped; the bits count on over the bytes, the highest of each first.
pub fn flipped(datagram: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = datagram.to_vec();
    flipped[bit / 8] ^= 0x80 >> (bit % 8);
    flipped
}

/// A datagram's first bytes, all but so many.
pub fn truncated(datagram: &[u8], by: usize) -> Vec<u8> {
    datagram[..datagram.len().saturating_sub(by)].to_vec()
}

/// A datagram with something behind it.
pub fn extended(datagram: &[u8], by: &[u8]) -> Vec<u8> {
    [datagram, by].concat()
}

/// The start of one datagram with the rest of another.
pub fn spliced(start: &[u8], rest: &[u8], at: usize) -> Vec<u8> {
    [&start[..at.min(start.len())], &rest[at.min(rest.len())..]].concat()
}

/// The man in the middle, until it is dropped.
pub struct Middle {
    host: Host,
    link: Arc<Mutex<Link>>,
    _workers: [Worker; 3],
}

struct Link {
    front: Arc<UdpSocket>,
    back: Arc<UdpSocket>,
    server: SocketAddr,
    /// Where the client's last datagram came from.
    client: Option<SocketAddr>,
    fates: HashMap<(Way, Kind), Fate>,
    seen: Vec<Seen>,
    held: Vec<Seen>,
    delayed: Vec<(Instant, Way, Vec<u8>)>,
}

impl Middle {
    /// On a host that both reach: what comes to `near` goes on to `server`, and back.
    pub fn start(host: &Host, near: (IpAddr, u16), server: (IpAddr, u16)) -> Self {
        let link = Arc::new(Mutex::new(Link {
            front: bind(host, near),
            back: bind(host, any(server.0)),
            server: server.into(),
            client: None,
            fates: HashMap::new(),
            seen: Vec::new(),
            held: Vec::new(),
            delayed: Vec::new(),
        }));
        let [there, back, late] = [(); 3].map(|()| link.clone());
        let _workers = [
            Worker::start(move || relay(&there, Way::ToServer)),
            Worker::start(move || relay(&back, Way::ToClient)),
            Worker::start(move || {
                std::thread::sleep(Duration::from_millis(1));
                lock(&late).send_due();
            }),
        ];
        Self {
            host: host.clone(),
            link,
            _workers,
        }
    }

    /// Rules what becomes of datagrams of this kind from now on.
    pub fn rule(&self, way: Way, kind: Kind, fate: Fate) {
        lock(&self.link).fates.insert((way, kind), fate);
    }

    /// Lets everything pass from now on. What is held stays held.
    pub fn pass_all(&self) {
        lock(&self.link).fates.clear();
    }

    /// All that came so far, or since it was last forgotten.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.link).seen.clone()
    }

    /// How many of a kind are among that.
    pub fn count(&self, way: Way, kind: Kind) -> usize {
        lock(&self.link).of(way, kind).count()
    }

    /// Forgets what came so far.
    pub fn forget(&self) {
        lock(&self.link).seen.clear();
    }

    /// Waits for the nth datagram of a kind, the first of all being 1.
    #[track_caller]
    pub fn wait(&self, way: Way, kind: Kind, n: usize) -> Seen {
        wait_for(PATIENCE, &format!("{kind:?} {n} {way:?}"), || {
            lock(&self.link).of(way, kind).nth(n - 1).cloned()
        })
    }

    /// Takes what is held, to be sent on, or not, in any order and shape.
    pub fn take_held(&self) -> Vec<Seen> {
        std::mem::take(&mut lock(&self.link).held)
    }

    /// Sends on what is held, first come, first served.
    pub fn release(&self) {
        for held in self.take_held() {
            self.inject(held.way, &held.bytes);
        }
    }

    /// Sends a datagram as if it had come from the other end; it is neither recorded nor ruled upon.
    pub fn inject(&self, way: Way, datagram: &[u8]) {
        lock(&self.link).send(way, datagram);
    }

    /// Speaks to the server from another port from now on, as a NAT that has lost its mappings, and
    /// returns it. What still comes to the old one is lost.
    pub fn change_port(&self) -> u16 {
        let back = bind(&self.host, any(lock(&self.link).server.ip()));
        let port = back.local_addr().unwrap().port();
        lock(&self.link).back = back;
        port
    }

    /// Speaks to the server from this address of its host, and a free port, from now on.
    pub fn change_address(&self, address: IpAddr) {
        lock(&self.link).back = bind(&self.host, (address, 0));
    }
}

impl Link {
    fn of(&self, way: Way, kind: Kind) -> impl Iterator<Item = &Seen> {
        let mut all = self.seen.iter();
        std::iter::from_fn(move || all.find(|seen| seen.way == way && seen.kind == kind))
    }

    fn receive(&mut self, seen: Seen) {
        let (way, bytes) = (seen.way, &seen.bytes);
        self.seen.push(seen.clone());
        match self.fates.get_mut(&(way, seen.kind)) {
            None | Some(Fate::Pass) => self.send(way, bytes),
            Some(Fate::Drop) => (),
            Some(Fate::Hold) => self.held.push(seen),
            Some(Fate::Delay(by)) => self.delayed.push((seen.time + *by, way, seen.bytes)),
            Some(Fate::Change(how)) => {
                for datagram in how(bytes) {
                    self.send(way, &datagram);
                }
            }
        }
    }

    fn send(&self, way: Way, datagram: &[u8]) {
        let _ = match (way, self.client) {
            (Way::ToServer, _) => self.back.send_to(datagram, self.server),
            (Way::ToClient, Some(client)) => self.front.send_to(datagram, client),
            (Way::ToClient, None) => return,
        };
    }

    fn send_due(&mut self) {
        let now = Instant::now();
        self.delayed.sort_by_key(|(time, ..)| *time);
        let due = self.delayed.partition_point(|(time, ..)| *time <= now);
        for (_, way, datagram) in self.delayed.drain(..due).collect::<Vec<_>>() {
            self.send(way, &datagram);
        }
    }
}

/// Takes one datagram, if one comes.
fn relay(link: &Mutex<Link>, way: Way) {
    let socket = match way {
        Way::ToServer => lock(link).front.clone(),
        Way::ToClient => lock(link).back.clone(),
    };
    let mut buffer = [0; 65536];
    let Ok((len, source)) = socket.recv_from(&mut buffer) else {
        return;
    };
    let mut link = lock(link);
    match way {
        Way::ToServer => link.client = Some(source),
        Way::ToClient if Arc::ptr_eq(&socket, &link.back) => (),
        Way::ToClient => return,
    }
    link.receive(Seen {
        way,
        kind: Kind::of(&buffer[..len]),
        bytes: buffer[..len].to_vec(),
        time: Instant::now(),
    });
}

fn bind(host: &Host, address: (IpAddr, u16)) -> Arc<UdpSocket> {
    let socket = host.run(move || UdpSocket::bind(address)).unwrap();
    // The workers look up now and then, to see whether they are to end.
    let limit = Some(Duration::from_millis(10));
    socket.set_read_timeout(limit).unwrap();
    setsockopt(&socket, RcvBufForce, &(32 << 20)).unwrap();
    Arc::new(socket)
}

/// Any address of the family of this one, and any port.
fn any(like: IpAddr) -> (IpAddr, u16) {
    let any = match like {
        IpAddr::V4(_) => "0.0.0.0",
        IpAddr::V6(_) => "::",
    };
    (any.parse().unwrap(), 0)
}

fn lock(link: &Mutex<Link>) -> MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}
