//! Feeds packets that were made and then damaged to everything that reads packets, and checks that
//! nothing panics, nothing is lost, and what was cut apart can be joined again.
//!
//! usage: fuzz [SECONDS [SEED]], for ever without SECONDS. A failure names the seed of its case.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::datapath::loops;
use common::io::control::{self, Control};
use common::keyed::client::{self, Client, Due};
use common::keyed::secret::{self, Content, Word};
use common::keyed::server::{self, Server};
use common::keyed::{self, Sealer};
use common::offload::gro::Coalescer;
use common::offload::gso::{SuperPacket, complete_checksum};
use common::offload::virtio_net::{self, GsoType, VirtioNetHdr};
use common::sys::address;
use common::wire::id::PeerId;
use common::wire::packet;

/// A seeded xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or_default() % limit.max(1)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[2]).collect()
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            if !bytes.is_empty() {
                let bit = self.below(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        if self.below(4) == 0 {
            bytes.truncate(self.below(bytes.len() + 1));
        }
    }
}

/// A case, which can be had again by itself.
struct Case(u64);

impl Case {
    fn random(&self) -> Random {
        Random(self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the same again: fuzz 1 {}", self.0);
        }
    }
}

fn main() {
    let mut words = std::env::args()
        .skip(1)
        .map(|word| word.parse::<u64>().expect("a number"));
    let time = words.next().map(Duration::from_secs);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seed = words.next().unwrap_or(now.as_secs());
    println!("seed {seed}");
    let (start, mut cases) = (Instant::now(), 0u64);
    while time.is_none_or(|time| start.elapsed() < time) {
        for _ in 0..1000 {
            let case = Case(seed + cases);
            one_case(&mut case.random());
            cases += 1;
        }
    }
    println!("{cases} cases");
}

fn one_case(random: &mut Random) {
    let len = random.below(300);
    let noise = random.bytes(len);
    let _ = secret::parse(&noise);
    // Making keys takes as long as a hundred other cases.
    if random.below(200) == 0 {
        let mut link = Link::new();
        (0..50).for_each(|_| link.one_datagram(random));
    }
    if let Some((_, payload)) = packet::decapsulate(&noise) {
        let _ = packet::Payload::of(payload);
    }
    let _ = address::decode(&noise);
    // To walk through them is all: none may lead out of the noise.
    control::messages(&noise).count();
    take_a_message(random);
    let id = PeerId::from_bytes([7; PeerId::LEN]);
    loops::look(&noise, id, ([192, 0, 2, 1], 5886).into());

    let (mut super_packet, header) = super_packet(random);
    let mut bytes = header.encode().to_vec();
    if random.below(3) > 0 {
        random.damage(&mut super_packet);
    }
    if random.below(3) == 0 {
        random.damage(&mut bytes);
    }
    let header = bytes
        .first_chunk::<{ virtio_net::HEADER_LEN }>()
        .and_then(VirtioNetHdr::decode);
    let Some(header) = header else {
        return;
    };
    let mut copy = super_packet.clone();
    let _ = complete_checksum(&mut copy, &header);
    let Some(mut segments) = cut(&super_packet, &header) else {
        return;
    };
    for segment in &mut segments {
        if random.below(20) == 0 {
            random.damage(segment);
        }
    }
    join_and_cut(&segments);
}

/// Takes one message from some, of which some may be damaged: the others stay.
fn take_a_message(random: &mut Random) {
    const KINDS: [(i32, i32); 3] = [(17, 103), (41, 50), (0, 8)];
    let mut control = Control::default();
    // Two of 16 bytes of data at most find room.
    for _ in 0..random.below(3) {
        let (level, kind) = KINDS[random.below(KINDS.len())];
        let len = random.below(17);
        control.push(level, kind, &random.bytes(len));
    }
    let mut bytes = control.as_bytes().to_vec();
    random.damage(&mut bytes);
    control.room()[..bytes.len()].copy_from_slice(&bytes);
    control.received(bytes.len());

    let (wanted, all) = (KINDS[0], messages(&control));
    let found = all
        .iter()
        .position(|(level, kind, data)| (*level, *kind) == wanted && data.len() >= 4);
    let taken = control.take(wanted.0, wanted.1);
    assert_eq!(
        taken.as_ref().map(<[u8; 4]>::as_slice),
        found.map(|n| &all[n].2[..4])
    );
    let mut left = all;
    found.map(|n| left.remove(n));
    assert_eq!(messages(&control), left);
}

fn messages(control: &Control) -> Vec<(i32, i32, Vec<u8>)> {
    let messages = control::messages(control.as_bytes());
    messages
        .map(|(level, kind, data)| (level, kind, data.to_vec()))
        .collect()
}

/// IPv4 or IPv6, TCP or UDP, with a payload of some segments.
fn super_packet(random: &mut Random) -> (Vec<u8>, VirtioNetHdr) {
    let (ipv4, tcp) = (random.below(2) == 0, random.below(2) == 0);
    let (ip_len, protocol) = (if ipv4 { 20 } else { 40 }, if tcp { 6 } else { 17 });
    let transport_len = if tcp { 20 + 4 * random.below(11) } else { 8 };
    let payload_len = random.below(5000);
    let mut packet = random.bytes(ip_len + transport_len + payload_len);
    if ipv4 {
        packet[0] = 0x45;
        packet[6..8].copy_from_slice(&[0x40, 0]);
        packet[9] = protocol;
    } else {
        packet[0] = 0x60;
        packet[6] = protocol;
    }
    if tcp {
        packet[ip_len + 12] = u8::try_from(transport_len / 4 * 16).unwrap_or(0x50);
        packet[ip_len + 13] = [0x10, 0x18, 0x50, 0x91][random.below(4)];
    }
    let header = VirtioNetHdr {
        needs_checksum: true,
        gso: match (tcp, ipv4) {
            (true, true) => GsoType::Tcp4,
            (true, false) => GsoType::Tcp6,
            (false, _) => GsoType::Udp,
        },
        header_len: 0,
        gso_size: u16::try_from(1 + random.below(1500)).unwrap_or(1),
        checksum_start: u16::try_from(ip_len).unwrap_or_default(),
        checksum_offset: if tcp { 16 } else { 6 },
    };
    (packet, header)
}

fn cut(packet: &[u8], header: &VirtioNetHdr) -> Option<Vec<Vec<u8>>> {
    let whole = SuperPacket::new(packet, header).ok()?;
    let mut payload = Vec::new();
    let segments = (0..whole.count())
        .map(|n| {
            let mut segment = vec![0; whole.header_len()];
            let body = whole.segment(packet, n, &mut segment);
            segment.extend_from_slice(&packet[body.clone()]);
            payload.extend_from_slice(&packet[body]);
            segment
        })
        .collect();
    assert_eq!(
        payload,
        packet[whole.header_len()..],
        "the payload as it was, in order"
    );
    Some(segments)
}

/// Joins packets and cuts the result: the same payload must come out, in the same order.
fn join_and_cut(packets: &[Vec<u8>]) {
    let mut buffer = Vec::new();
    let ranges: Vec<Range<usize>> = packets
        .iter()
        .map(|packet| {
            buffer.extend_from_slice(packet);
            buffer.len() - packet.len()..buffer.len()
        })
        .collect();
    let (mut coalescer, mut written) = (Coalescer::default(), Vec::new());
    for range in ranges {
        if !coalescer.push(&buffer, range.clone()) {
            take(&mut coalescer, &buffer, &mut written);
            coalescer.start(range, true);
        }
    }
    take(&mut coalescer, &buffer, &mut written);
    assert_eq!(written.len(), packets.len(), "as many as there were");
    for (written, packet) in written.iter().zip(packets) {
        assert_eq!(written.len(), packet.len());
        // Without fragmentation the identification of IPv4 may be counted up, and with it changes
        // the header's checksum.
        let start = written.len().min(20);
        assert_eq!(written[start..], packet[start..]);
    }
}

fn take(coalescer: &mut Coalescer, buffer: &[u8], written: &mut Vec<Vec<u8>>) {
    if let [only] = coalescer.packets() {
        written.push(buffer[only.clone()].to_vec());
        return coalescer.clear();
    }
    let Some(whole) = coalescer.finish(buffer) else {
        return;
    };
    let mut packet = whole.headers.to_vec();
    for at in whole.packets {
        packet.extend_from_slice(&buffer[at.clone()][whole.headers.len()..]);
    }
    let header = VirtioNetHdr::decode(&whole.virtio).expect("a known type");
    written.extend(cut(&packet, &header).expect("a good super-packet"));
    coalescer.clear();
}

const CLIENT: keyed::Id = [0xc1; 8];
const SERVER: keyed::Id = [0x5e; 8];

/// Both ends of a keyed link, and what they have said.
struct Link {
    client: Client,
    server: Server,
    sealer: Option<Box<Sealer>>,
    now: Instant,
    said: Vec<Vec<u8>>,
}

impl Link {
    fn new() -> Self {
        let secret = || match secret::parse(secret::line(Word::Seal, &[7; 32]).as_bytes()) {
            Ok(Content::Keyed(secret)) => Rc::new(secret),
            _ => unreachable!("a good line"),
        };
        Self {
            client: Client::new(CLIENT, vec![(SERVER, secret())], None),
            server: Server::new(secret(), CLIENT, SERVER),
            sealer: None,
            now: Instant::now(),
            said: Vec::new(),
        }
    }

    /// Something that was said, mostly damaged, to either end; now and then time passes.
    fn one_datagram(&mut self, random: &mut Random) {
        self.now += Duration::from_millis(1 << random.below(12));
        let mut fill = |bytes: &mut [u8]| {
            bytes.fill_with(|| random.next().to_le_bytes()[2]);
            true
        };
        if let Due::Open(open) = self.client.on_deadline(self.now, &mut fill) {
            self.said.push(open);
        }
        let mut slot = vec![0x45; keyed::OVERHEAD + random.below(100)];
        let sealed = match &mut self.sealer {
            Some(sealer) if random.below(2) == 0 => sealer.seal(&mut slot),
            _ => {
                let sealer = self.server.sealer(self.now);
                sealer.is_some_and(|sealer| sealer.seal(&mut slot))
            }
        };
        if sealed {
            self.said.push(slot);
        }
        if self.said.len() > 100 {
            self.said.swap_remove(random.below(100));
        }
        let newest = self.said.len().saturating_sub(1);
        let index = if random.below(2) == 0 {
            newest
        } else {
            random.below(newest)
        };
        let mut datagram = self.said.get(index).cloned().unwrap_or_default();
        match random.below(4) {
            0 => {}
            1 => datagram.resize(random.below(200), 0),
            _ => random.damage(&mut datagram),
        }
        let mut copy = datagram.clone();
        self.serve(&mut datagram, random);
        self.receive(&mut copy, random);
    }

    fn serve(&mut self, datagram: &mut [u8], random: &mut Random) {
        let len = datagram.len();
        let may_open = random.below(2) == 0;
        let random = &mut |bytes: &mut [u8]| {
            bytes.fill_with(|| random.next().to_le_bytes()[2]);
            true
        };
        match self
            .server
            .on_datagram(datagram, self.now, may_open, random)
        {
            Err(_) => {}
            Ok(server::Decision::Answer(answer))
            | Ok(server::Decision::Opened(answer))
            | Ok(server::Decision::Ping { answer, .. }) => self.said.push(answer),
            Ok(server::Decision::Data { packet, .. }) => assert_packet(&datagram[packet], len),
        }
        self.server.erase(self.now);
    }

    fn receive(&mut self, datagram: &mut [u8], random: &mut Random) {
        let len = datagram.len();
        let random = &mut |bytes: &mut [u8]| {
            bytes.fill_with(|| random.next().to_le_bytes()[2]);
            true
        };
        match self.client.on_datagram(datagram, self.now, random) {
            Err(_) | Ok(client::Decision::Heard) => {}
            Ok(client::Decision::Open(open)) => self.said.push(open),
            Ok(client::Decision::Data(packet)) => assert_packet(&datagram[packet], len),
            Ok(client::Decision::Up(up)) => {
                self.said.push(up.ping);
                self.sealer = Some(up.sealer);
            }
        }
    }
}

/// Only what was sealed comes out.
fn assert_packet(packet: &[u8], len: usize) {
    assert_eq!(packet.len() + keyed::OVERHEAD, len);
    assert!(packet.iter().all(|byte| *byte == 0x45), "forged");
}
