//! Both sides against a hostile network: what must hold whatever it does, and that they speak again
//! soon after it is calm.
//!
//! One run again: `KEYED_SEED=n cargo test -p jtunnel-common simulator`.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::client::{self, Client, Due};
use super::secret::{Secret, Word};
use super::server::{self, Server};
use super::session::{DATA, PING, Sealer};
use super::testing::{CLIENT, Seeded, WORDS, seal, secret_of, slot};
use super::{HEADER_LEN, Id};

const RUNS: u64 = 200;
const TURN: Duration = Duration::from_millis(10);
/// Each side's tun has a packet so often.
const TRAFFIC: u64 = 5;
const KEEPALIVE: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(2 * 2 + 5);

/// Where a datagram comes from: nobody listens at [`NOWHERE`].
type Address = u64;
const ATTACKER: Address = 0;
const NOWHERE: Address = 1;

/// The other end, in plain view: both that a datagram may go to.
#[derive(Clone, Copy, PartialEq)]
enum To {
    /// The client's device that has this address now.
    Client(Address),
    Server(usize),
}

#[derive(Clone)]
struct Datagram {
    source: Address,
    to: To,
    bytes: Vec<u8>,
}

/// A host with its own clock.
struct Clock(Instant);

/// A device that runs the client, with what the program holds besides the state machine.
struct Device {
    clock: Clock,
    client: Client,
    child: Option<Box<Sealer>>,
    address: Address,
    next_ping: Instant,
}

/// What the server's program holds of the client.
struct Host {
    clock: Clock,
    server: Server,
    address: Option<Address>,
    has_tun: bool,
}

/// What has come out of a tun.
struct Packet {
    /// Of this server; of a client if `None`.
    server: Option<usize>,
    turn: u64,
    bytes: Vec<u8>,
}

struct World {
    word: Word,
    random: Seeded,
    turn: u64,
    devices: Vec<Device>,
    hosts: Vec<Host>,
    /// With the turn of its arrival.
    under_way: Vec<(u64, Datagram)>,
    recorded: Vec<Datagram>,
    is_hostile: bool,
    /// There were two devices.
    shares: bool,
    next_address: Address,
    /// Packets by number.
    sent: HashMap<u64, Packet>,
    /// By number.
    delivered: HashSet<u64>,
    /// Sender, type, name and counter of all that was sealed.
    sealed: HashSet<[u8; HEADER_LEN]>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in turn {}", self.turn);
        }
    }
}

/// One server's identifier and key.
fn server_id(index: usize) -> Id {
    [0x50 + u8::try_from(index).expect("few"); 8]
}

fn key(word: Word, index: usize) -> Rc<Secret> {
    secret_of(word, [0x70 + u8::try_from(index).expect("few"); 32])
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Seeded::new(seed);
        let word = WORDS[usize::from(random.below(2) == 0)];
        let start = Instant::now();
        let hosts = 1 + usize::from(random.below(4) == 0);
        let devices = 1 + usize::from(random.below(4) == 0);
        let mut world = Self {
            word,
            random,
            turn: 0,
            devices: Vec::new(),
            hosts: Vec::new(),
            under_way: Vec::new(),
            recorded: Vec::new(),
            is_hostile: true,
            shares: devices > 1,
            next_address: NOWHERE,
            sent: HashMap::new(),
            delivered: HashSet::new(),
            sealed: HashSet::new(),
        };
        for index in 0..hosts {
            world.hosts.push(Host {
                clock: Clock(start),
                server: Server::new(key(word, index), CLIENT, server_id(index)),
                address: None,
                has_tun: false,
            });
        }
        for _ in 0..devices {
            let address = world.new_address();
            let client = world.new_client();
            world.devices.push(Device {
                clock: Clock(start),
                client,
                child: None,
                address,
                next_ping: start,
            });
        }
        world
    }

    fn new_address(&mut self) -> Address {
        self.next_address += 1;
        self.next_address
    }

    fn new_client(&self) -> Client {
        let servers = 0..self.hosts.len();
        let servers = servers.map(|index| (server_id(index), key(self.word, index)));
        Client::new(CLIENT, servers.collect(), Some(KEEPALIVE))
    }

    fn one_in(&mut self, odds: u64) -> bool {
        self.random.below(odds) == 0
    }

    /// One of so many.
    fn any(&mut self, len: usize) -> usize {
        usize::try_from(self.random.below(len as u64)).expect("an index")
    }

    /// A datagram leaves, and is sealed for the first time.
    fn send(&mut self, source: Address, to: To, bytes: Vec<u8>) {
        if matches!(bytes[8], DATA | PING) {
            let header = *bytes.first_chunk().expect("a header");
            assert!(self.sealed.insert(header), "a counter was used twice");
        }
        let datagram = Datagram { source, to, bytes };
        if self.recorded.len() < 300 {
            self.recorded.push(datagram.clone());
        } else {
            let index = self.any(300);
            self.recorded[index] = datagram.clone();
        }
        if !self.is_hostile {
            return self.under_way.push((self.turn + 2, datagram));
        }
        let copies = [0, 0, 1, 1, 1, 1, 1, 1, 2, 3][self.any(10)];
        for _ in 0..copies {
            let mut copy = datagram.clone();
            if self.one_in(15) {
                self.damage(&mut copy.bytes);
            }
            let delay = if self.one_in(10) { 200 } else { 5 };
            let arrival = self.turn + 1 + self.random.below(delay);
            self.under_way.push((arrival, copy));
        }
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        match self.random.below(6) {
            0 => bytes.truncate(self.any(bytes.len() + 1)),
            1 => bytes.push(0),
            2 => {
                // The end of another.
                let other = self.any(self.recorded.len());
                let other = self.recorded[other].bytes.clone();
                let at = self.any(bytes.len().min(other.len()));
                bytes.truncate(at);
                bytes.extend(&other[at..]);
            }
            _ if bytes.is_empty() => {}
            _ => {
                let bit = self.any(8 * bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    /// What the network, the attacker and the administrators do.
    fn trouble(&mut self) {
        if self.one_in(3) && !self.recorded.is_empty() {
            let index = self.any(self.recorded.len());
            let mut replayed = self.recorded[index].clone();
            let device = self.any(self.devices.len());
            let (host, address) = (self.any(self.hosts.len()), self.devices[device].address);
            if self.one_in(2) {
                replayed.source = [ATTACKER, address][self.any(2)];
            }
            if self.one_in(3) {
                replayed.to = [To::Client(address), To::Server(host)][self.any(2)];
            }
            if self.one_in(4) {
                self.damage(&mut replayed.bytes);
            }
            self.under_way.push((self.turn + 1, replayed));
        }
        for index in 0..self.devices.len() {
            if self.one_in(400) {
                self.devices[index].address = self.new_address();
            }
            if self.one_in(800) {
                self.devices[index].client = self.new_client();
                self.devices[index].child = None;
            }
            if self.one_in(400) && self.devices[index].child.take().is_some() {
                self.devices[index].client.renew();
            }
            if self.one_in(1500) {
                let jump = Duration::from_secs(self.random.below(2500));
                self.devices[index].clock.0 += jump;
            }
        }
        for index in 0..self.hosts.len() {
            if self.one_in(500) {
                let server = Server::new(key(self.word, index), CLIENT, server_id(index));
                self.hosts[index].server = server;
                self.hosts[index].address = None;
                self.hosts[index].has_tun = false;
            }
            if self.one_in(1500) {
                let jump = Duration::from_secs(self.random.below(2500));
                self.hosts[index].clock.0 += jump;
            }
        }
    }

    /// A packet that comes out of a tun, in its slot.
    fn packet(&mut self, server: Option<usize>) -> Vec<u8> {
        let number = self.sent.len() as u64;
        let mut packet = [&[0x45], &number.to_be_bytes()[..]].concat();
        packet.resize(9 + self.any(100), 0);
        let end = packet.len();
        self.random.fill(&mut packet[9..end]);
        let slot = slot(&packet);
        let (turn, bytes) = (self.turn, packet);
        let packet = Packet {
            server,
            turn,
            bytes,
        };
        self.sent.insert(number, packet);
        slot
    }

    /// A packet that goes into a tun.
    fn deliver(&mut self, to_client: bool, packet: &[u8]) {
        let number = packet[1..].first_chunk().expect("one that was sent");
        let number = u64::from_be_bytes(*number);
        let sent = self.sent.get(&number).expect("one that was sent");
        assert_eq!(sent.bytes, packet, "forged");
        assert_eq!(sent.server.is_some(), to_client, "reflected");
        assert!(self.delivered.insert(number), "delivered twice");
    }

    fn turn(&mut self) {
        self.turn += 1;
        for device in &mut self.devices {
            device.clock.0 += TURN;
        }
        for host in &mut self.hosts {
            host.clock.0 += TURN;
        }
        if self.is_hostile {
            self.trouble();
        }
        let turn = self.turn;
        let arrived = self
            .under_way
            .extract_if(.., |(arrival, _)| *arrival <= turn);
        for (_, datagram) in arrived.collect::<Vec<_>>() {
            match datagram.to {
                To::Server(index) => self.at_server(index, datagram),
                To::Client(address) => {
                    let at = self
                        .devices
                        .iter()
                        .position(|device| device.address == address);
                    if let Some(index) = at {
                        self.at_client(index, datagram);
                    }
                }
            }
        }
        for index in 0..self.devices.len() {
            self.on_deadlines(index);
        }
        for host in &mut self.hosts {
            host.server.erase(host.clock.0);
        }
        if self.turn.is_multiple_of(TRAFFIC) {
            self.traffic();
        }
    }

    fn traffic(&mut self) {
        for index in 0..self.devices.len() {
            let mut slot = self.packet(None);
            let device = &mut self.devices[index];
            if let Some(child) = &mut device.child
                && child.seal(&mut slot)
            {
                let source = device.address;
                self.send_to_server(index, source, slot);
            }
        }
        for index in 0..self.hosts.len() {
            let mut slot = self.packet(Some(index));
            let host = &mut self.hosts[index];
            if let Some(address) = host.address
                && seal(&mut host.server, &mut slot, host.clock.0)
            {
                self.send(NOWHERE, To::Client(address), slot);
            }
        }
    }

    /// The client has one address of the server, behind which the program's servers are.
    fn send_to_server(&mut self, device: usize, source: Address, bytes: Vec<u8>) {
        let chosen = self.devices[device].client.server();
        for index in 0..self.hosts.len() {
            if chosen.is_none_or(|server| server == server_id(index)) || bytes[8] == 0x11 {
                if bytes[8] == 0x11 {
                    self.send(source, To::Server(index), bytes.clone());
                    continue;
                }
                return self.send(source, To::Server(index), bytes);
            }
        }
    }

    fn at_server(&mut self, index: usize, mut datagram: Datagram) {
        // The program looks the client up by this.
        if !datagram.bytes.starts_with(&CLIENT) {
            return;
        }
        let is_ready = !self.is_hostile || !self.one_in(20);
        let can_open = !self.is_hostile || !self.one_in(4);
        let random = &mut self.random;
        let host = &mut self.hosts[index];
        let decision = host.server.on_datagram(
            &mut datagram.bytes,
            host.clock.0,
            host.has_tun || can_open,
            &mut |bytes| is_ready && random.fill(bytes),
        );
        let (answer, moves) = match decision {
            Err(_) => return,
            Ok(server::Decision::Answer(answer)) => (answer, false),
            Ok(server::Decision::Opened(answer)) => {
                host.has_tun = true;
                (answer, true)
            }
            Ok(server::Decision::Ping { answer, moves }) => (answer, moves),
            Ok(server::Decision::Data { packet, moves }) => {
                if moves {
                    host.address = Some(datagram.source);
                }
                return self.deliver(false, &datagram.bytes[packet]);
            }
        };
        if moves {
            host.address = Some(datagram.source);
        }
        assert!(answer.len() <= datagram.bytes.len().max(96), "amplified");
        self.send(NOWHERE, To::Client(datagram.source), answer);
    }

    fn at_client(&mut self, index: usize, mut datagram: Datagram) {
        let is_ready = !self.is_hostile || !self.one_in(20);
        let random = &mut self.random;
        let device = &mut self.devices[index];
        let (now, source) = (device.clock.0, device.address);
        let decision = device
            .client
            .on_datagram(&mut datagram.bytes, now, &mut |bytes| {
                is_ready && random.fill(bytes)
            });
        match decision {
            Err(_) | Ok(client::Decision::Heard) => {}
            Ok(client::Decision::Open(open)) => self.send_to_server(index, source, open),
            Ok(client::Decision::Data(packet)) => self.deliver(true, &datagram.bytes[packet]),
            Ok(client::Decision::Up(up)) => {
                device.child = Some(up.sealer);
                device.next_ping = now + KEEPALIVE;
                self.send_to_server(index, source, up.ping);
                if let Some(packet) = up.packet {
                    self.deliver(true, &datagram.bytes[packet]);
                }
            }
        }
    }

    fn on_deadlines(&mut self, index: usize) {
        let is_ready = !self.is_hostile || !self.one_in(20);
        for _ in 0..4 {
            let random = &mut self.random;
            let device = &mut self.devices[index];
            let (now, source) = (device.clock.0, device.address);
            if device.client.deadline(now).is_none_or(|at| at > now) {
                break;
            }
            let due = device
                .client
                .on_deadline(now, &mut |bytes| is_ready && random.fill(bytes));
            match due {
                Due::Nothing => panic!("a deadline, and nothing due"),
                Due::Open(open) => self.send_to_server(index, source, open),
                Due::Expired => device.child = None,
                Due::NoRandom => {}
            }
        }
        let device = &mut self.devices[index];
        let (now, source) = (device.clock.0, device.address);
        assert!(
            device.client.deadline(now).is_some_and(|at| at > now),
            "a deadline that does not pass"
        );
        if now >= device.next_ping {
            device.next_ping = now + KEEPALIVE;
            if let Some(ping) = device.client.ping() {
                self.send_to_server(index, source, ping);
            }
        }
    }

    fn turns(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / TURN.as_millis() {
            self.turn();
        }
    }

    /// From 3 s on nothing is lost any more, in either direction.
    fn calm(&mut self) {
        self.is_hostile = false;
        if self.shares {
            // Two with one file take turns. The one that is left may have to find out by silence,
            // also that an OPEN of the other's came late.
            self.devices.truncate(1);
            self.turns(SILENCE);
        }
        self.turns(Duration::from_secs(3));
        let from = self.turn;
        let chosen = self.devices[0].client.server().expect("a session");
        self.turns(Duration::from_secs(1));
        let to = self.turn;
        self.turns(Duration::from_millis(100));
        assert_eq!(self.devices[0].client.server(), Some(chosen));
        for (number, packet) in &self.sent {
            let matters = packet.server.is_none_or(|index| server_id(index) == chosen);
            if matters && (from + 1..=to).contains(&packet.turn) {
                let Packet { server, turn, .. } = packet;
                assert!(
                    self.delivered.contains(number),
                    "lost, from {server:?} in turn {turn}"
                );
            }
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..3 {
        world.is_hostile = true;
        let time = Duration::from_millis(1000 + world.random.below(7000));
        world.turns(time);
        world.calm();
    }
}

struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the same again: KEYED_SEED={}", self.0);
        }
    }
}

#[test]
fn hostile_network() {
    let given = std::env::var("KEYED_SEED").ok();
    let given = given.map(|seed| seed.parse::<u64>().expect("a number"));
    for seed in given.map_or(1..=RUNS, |seed| seed..=seed) {
        let seed = Seed(seed);
        run(seed.0);
    }
}
