//! The packet path from a tun to UDP: read, cut super-packets into segments, encapsulate, send.
//! Both programs go this way; nothing on it allocates, and nothing waits for a batch to fill.

use std::ops::Range;

use crate::datapath::alone::Alone;
use crate::datapath::batch::{Batch, Buffers, Segment};
use crate::datapath::exit::{Exit, Wrap};
use crate::datapath::loops::{self, Loop};
use crate::io::memory;
use crate::io::tun::{Trouble, Tun};
use crate::keyed;
use crate::offload::gso::{self, SuperPacket};
use crate::offload::virtio_net::{self, GsoType, VirtioNetHdr};
use crate::sys::Pages;
use crate::wire::id::PeerId;
use crate::wire::packet::HEADER_LEN;

/// The largest packet that a tun hands over, in bytes.
const MAX_PACKET: usize = 65_535;
/// Room before each packet, for the header that the tun writes and then for ours: that of a keyed
/// link is the longest.
const HEADROOM: usize = keyed::HEADER_LEN;
const _: () = assert!(HEADROOM >= virtio_net::HEADER_LEN && HEADROOM >= HEADER_LEN);
/// Small packets gather in so many bytes, and one of any size always finds room behind them.
const GATHER_LEN: usize = 24 * 1024;
const DATA_LEN: usize = GATHER_LEN + HEADROOM + MAX_PACKET + keyed::TAG_LEN;
/// Rebuilt headers, ours included: many of the usual 60 to 120 bytes, and one of any size, since
/// IPv6 sets no bound to its extension headers. On a keyed link, whole segments.
const HEADS_LEN: usize = MAX_PACKET + keyed::OVERHEAD;
/// Packets in one turn, bytes, and datagrams, of which a packet may be many: then another tun is due.
/// Those that leave one by one take longer.
const MAX_PACKETS: usize = 128;
const MAX_SINGLES: usize = 64;
const MAX_BYTES: usize = 4 * MAX_PACKET;
const MAX_DATAGRAMS: u64 = 256;

/// One end's way out.
pub struct Outbound {
    id: PeerId,
    /// Whether packets that are queued already leave together.
    batching: bool,
    /// Whether packets come one by one.
    alone: Alone,
    data: Pages,
    used: usize,
    heads: Pages,
    heads_used: usize,
    batch: Batch,
}

impl Outbound {
    /// For packets that leave with this identifier.
    pub fn new(id: PeerId, batching: bool) -> Self {
        let mut data = memory::room(DATA_LEN);
        data[..HEADER_LEN].copy_from_slice(&id.bytes());
        Self {
            id,
            batching,
            alone: Alone::default(),
            data,
            used: 0,
            heads: memory::room(HEADS_LEN),
            heads_used: 0,
            batch: Batch::new(),
        }
    }

    /// Carries what is queued in the tun to the target, up to a bound. The first read waits if
    /// the tun's descriptor blocks. Returns why there is no more to read, if so it is.
    pub fn carry(&mut self, tun: &Tun, exit: &mut Exit<'_>) -> Result<(), Trouble> {
        let result = match self.batching {
            true => self.carry_together(tun, exit),
            false => self.carry_singly(tun, exit),
        };
        if result == Err(Trouble::Refused) {
            // One that the kernel has no header for (tun_put_user). It is gone, and others wait.
            exit.tally.count.dropped += 1;
            return Ok(());
        }
        result
    }

    fn carry_together(&mut self, tun: &Tun, exit: &mut Exit<'_>) -> Result<(), Trouble> {
        let (mut result, mut packets, mut bytes) = (Ok(()), 0, 0);
        let last = exit.tally.count.all() + MAX_DATAGRAMS;
        for n in 0..MAX_PACKETS {
            let read = match n {
                0 => tun.receive(self.room(tun)),
                _ => tun.receive_queued(self.room(tun)),
            };
            let len = match read {
                Ok(len) => len,
                Err(trouble) => {
                    result = Err(trouble);
                    break;
                }
            };
            // One that is likely to be alone does not wait for the kernel to say so.
            let first = n == 0 && self.alone.is_likely();
            self.add(len, first, tun, exit);
            if first || self.batch.bytes() > GATHER_LEN {
                self.flush(exit);
            } else if self.used > GATHER_LEN {
                // What was sent leaves room in front. Mostly it is the end of a super-packet
                // that waits, for which one call had no more room.
                self.used = self.batch.move_up(&mut self.data);
            }
            if first && self.alone.ends_turn() {
                return Ok(());
            }
            packets += 1;
            bytes += len;
            if bytes >= MAX_BYTES || exit.tally.count.all() >= last {
                break;
            }
        }
        self.flush(exit);
        self.alone.found(packets);
        result
    }

    /// Each packet behind the one header: the identifier has been there since [`Outbound::new`].
    fn carry_singly(&mut self, tun: &Tun, exit: &mut Exit<'_>) -> Result<(), Trouble> {
        let start = match exit.wrap {
            Wrap::Plain => HEADER_LEN,
            Wrap::Keyed(_) | Wrap::Shut => keyed::HEADER_LEN,
        };
        for n in 0..MAX_SINGLES {
            let room = &mut self.data[start..];
            let read = match n {
                0 => tun.receive(room),
                1 if self.alone.ends_turn() => break,
                _ => tun.receive_queued(room),
            };
            let len = read.inspect_err(|_| self.alone.found(n))?;
            let packet = start..start + len;
            let (inner, to) = (&self.data[packet.clone()], exit.target.address());
            if let Some(how) = loops::look(inner, self.id, to) {
                exit.tally.loops(how);
                continue;
            }
            let datagram = match exit.wrap {
                Wrap::Plain => Some(0..packet.end),
                Wrap::Keyed(_) | Wrap::Shut => self.wrap(packet, exit),
            };
            match datagram {
                Some(datagram) => exit.send(&self.data[datagram]),
                None => exit.tally.count.dropped += 1,
            }
        }
        Ok(())
    }

    fn room(&mut self, tun: &Tun) -> &mut [u8] {
        let start = self.used + HEADROOM - tun.prefix_len();
        &mut self.data[start..]
    }

    /// Takes the packet that was read into the room, `len` bytes with what the tun wrote before.
    fn add(&mut self, len: usize, alone: bool, tun: &Tun, exit: &mut Exit<'_>) {
        let start = self.used + HEADROOM;
        let prefix = tun.prefix_len();
        let Some(end) = len.checked_sub(prefix).map(|len| start + len) else {
            exit.tally.count.dropped += 1;
            return;
        };
        if let Some(how) = loops::look(&self.data[start..end], self.id, exit.target.address()) {
            return exit.tally.loops(how);
        }
        let header = match self.data[start - prefix..].first_chunk() {
            Some(bytes) if prefix > 0 => VirtioNetHdr::decode(bytes),
            _ => Some(VirtioNetHdr::default()),
        };
        let done = match header {
            Some(header) if header.gso == GsoType::None => {
                self.add_packet(start..end, alone, &header, exit)
            }
            Some(header) => self.add_super(start..end, &header, exit),
            None => None,
        };
        // What the kernel hands over is well-formed; if it is not, it can't be repaired here.
        if done.is_none() {
            exit.tally.count.dropped += 1;
        }
        self.used = match exit.wrap {
            Wrap::Keyed(_) => end + keyed::TAG_LEN,
            Wrap::Plain | Wrap::Shut => end,
        };
    }

    fn add_packet(
        &mut self,
        at: Range<usize>,
        alone: bool,
        header: &VirtioNetHdr,
        exit: &mut Exit<'_>,
    ) -> Option<()> {
        if header.needs_checksum {
            gso::complete_checksum(&mut self.data[at.clone()], header).ok()?;
        }
        let body = self.wrap(at, exit)?;
        if alone {
            exit.send(&self.data[body]);
            return Some(());
        }
        if matches!(exit.wrap, Wrap::Keyed(_)) {
            self.send_unless_joined(body.len(), exit);
        }
        self.make_room(0, body.len(), exit);
        self.batch.push(Segment { head: 0..0, body });
        Some(())
    }

    /// Makes a datagram of the packet that lies there with room around it. Returns where that lies,
    /// or `None` if it must not leave.
    fn wrap(&mut self, at: Range<usize>, exit: &mut Exit<'_>) -> Option<Range<usize>> {
        match &mut exit.wrap {
            Wrap::Plain => {
                let start = at.start - HEADER_LEN;
                self.data[start..at.start].copy_from_slice(&self.id.bytes());
                Some(start..at.end)
            }
            Wrap::Keyed(sealer) => {
                let slot = at.start - keyed::HEADER_LEN..at.end + keyed::TAG_LEN;
                sealer.seal(&mut self.data[slot.clone()]).then_some(slot)
            }
            Wrap::Shut => None,
        }
    }

    fn add_super(
        &mut self,
        at: Range<usize>,
        header: &VirtioNetHdr,
        exit: &mut Exit<'_>,
    ) -> Option<()> {
        let whole = SuperPacket::new(&self.data[at.clone()], header).ok()?;
        let is_udp = header.gso == GsoType::Udp;
        let first_len = exit.wrap.overhead() + whole.header_len() + whole.payload(0).len();
        self.send_unless_joined(first_len, exit);
        if !matches!(exit.wrap, Wrap::Plain) {
            return self.add_keyed(at, &whole, is_udp, exit);
        }
        let head_len = HEADER_LEN + whole.header_len();
        for n in 0..whole.count() {
            let payload = whole.payload(n);
            let len = payload.len();
            let bytes = at.start + payload.start..at.start + payload.end;
            if is_udp && loops::came_by(&self.data[bytes], self.id) {
                exit.tally.loops(Loop::Others);
                continue;
            }
            self.make_room(head_len, head_len + len, exit);
            let start = self.heads_used;
            self.heads_used += head_len;
            let (id, headers) = self.heads[start..self.heads_used].split_at_mut(HEADER_LEN);
            id.copy_from_slice(&self.id.bytes());
            let body = whole.segment(&self.data[at.clone()], n, headers);
            self.batch.push(Segment {
                head: start..self.heads_used,
                body: at.start + body.start..at.start + body.end,
            });
        }
        Some(())
    }

    /// The same on a keyed link: each segment is sealed whole, in a place of its own, so that what
    /// the path loses is one segment.
    fn add_keyed(
        &mut self,
        at: Range<usize>,
        whole: &SuperPacket,
        is_udp: bool,
        exit: &mut Exit<'_>,
    ) -> Option<()> {
        for n in 0..whole.count() {
            if is_udp && loops::came_by(&self.data[at.clone()][whole.payload(n)], self.id) {
                exit.tally.loops(Loop::Others);
                continue;
            }
            let len = keyed::OVERHEAD + whole.header_len() + whole.payload(n).len();
            self.make_room(len, len, exit);
            let Wrap::Keyed(sealer) = &mut exit.wrap else {
                return None;
            };
            let slot = self.heads_used..self.heads_used + len;
            let room = &mut self.heads[slot.clone()];
            let (headers, payload) = room[keyed::HEADER_LEN..].split_at_mut(whole.header_len());
            let body = whole.segment(&self.data[at.clone()], n, headers);
            payload[..body.len()].copy_from_slice(&self.data[at.clone()][body]);
            if !sealer.seal(room) {
                return None;
            }
            self.heads_used = slot.end;
            self.batch.push(Segment {
                head: slot,
                body: 0..0,
            });
        }
        Some(())
    }

    /// Sends what has gathered, unless a datagram of this length is of one run with it: to cut a
    /// super-packet, or to seal the next packets, takes longer than a call.
    fn send_unless_joined(&mut self, len: usize, exit: &mut Exit<'_>) {
        if !self.batch.continues(len) {
            self.send(exit);
        }
    }

    /// Sends what has gathered if a datagram of these lengths, of which the first is that of a
    /// rebuilt header, can't join it.
    fn make_room(&mut self, head_len: usize, len: usize, exit: &mut Exit<'_>) {
        if !self.batch.fits(len) || self.heads_used + head_len > self.heads.len() {
            self.send(exit);
        }
    }

    fn flush(&mut self, exit: &mut Exit<'_>) {
        self.send(exit);
        self.used = 0;
    }

    fn send(&mut self, exit: &mut Exit<'_>) {
        if self.batch.bytes() == 0 {
            return;
        }
        let buffers = Buffers {
            heads: &self.heads,
            bodies: &self.data,
        };
        self.batch.send(buffers, exit);
        self.heads_used = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::datapath::tally::Tally;
    use crate::io::datagrams::Datagrams;
    use crate::io::socket::{Bind, Socket};
    use crate::testing::{Flow, Random, super_packet};

    const ID: PeerId = PeerId::from_bytes([7; PeerId::LEN]);

    fn bind() -> Socket {
        Socket::bind(&Bind {
            address: Some("127.0.0.1:0".parse().expect("an address")),
            port: 0,
            mark: None,
            nonblocking: false,
            report_source: false,
            offload: true,
            mtu: 1420,
        })
        .expect("a socket")
    }

    /// IPv6 with so many bytes of destination options before TCP (RFC 8200, 4.6).
    fn with_options(packet: &[u8], header: &mut VirtioNetHdr, len: u16) -> Vec<u8> {
        let mut longer = packet[..40].to_vec();
        longer[6] = 60;
        let mut options = vec![0; len.into()];
        options[0] = 6;
        options[1] = u8::try_from(len / 8 - 1).expect("one extension header");
        longer.extend(options);
        longer.extend(&packet[40..]);
        header.checksum_start += len;
        longer
    }

    #[test]
    fn headers_of_any_length_pass() {
        let (near, far) = (bind(), bind());
        let to: SocketAddr = far.local_address().expect("its address");
        let payload = Random::new(3).bytes(60_000);
        for len in [8, 256, 2048] {
            let (packet, mut header) = super_packet(Flow::TCP6, 1000, &payload);
            let packet = with_options(&packet, &mut header, len);
            let mut outbound = Outbound::new(ID, true);
            let mut tally = Tally::default();
            let mut exit = Exit {
                socket: &near,
                target: &mut near.target(to, None),
                wrap: Wrap::Plain,
                tally: &mut tally,
            };
            let at = HEADROOM..HEADROOM + packet.len();
            outbound.data[at.clone()].copy_from_slice(&packet);
            outbound.add_super(at, &header, &mut exit).expect("sound");
            outbound.flush(&mut exit);
            assert_eq!((tally.count.packets, tally.count.dropped), (60, 0), "{len}");
            let (mut datagrams, mut content) = (Datagrams::new(MAX_PACKET, 2), Vec::<u8>::new());
            while content.len() < payload.len() {
                far.receive(&mut datagrams).expect("datagrams");
                for range in datagrams.ranges() {
                    let headers = HEADER_LEN + 40 + usize::from(len) + 32;
                    content.extend(&datagrams.data[range][headers..]);
                }
            }
            assert!(content == payload, "{len}");
        }
    }
}
