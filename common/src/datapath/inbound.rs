//! The packet path from UDP to a tun: consecutive segments of one flow become one super-packet
//! again. Both programs go this way; nothing on it allocates or waits.

use std::io::IoSlice;
use std::ops::Range;

use nix::errno::Errno;

use crate::datapath::tally::Tally;
use crate::io::tun::{Trouble, Tun};
use crate::offload::gro::{self, Coalescer};
use crate::offload::virtio_net;

/// A super-packet's virtio-net header, its own headers, and the payloads.
const MAX_PARTS: usize = 2 + gro::MAX_PACKETS;

/// Packets that lie in a receive buffer, on their way to one tun.
#[derive(Default)]
pub struct Inbound {
    coalescer: Coalescer,
}

impl Inbound {
    /// Takes the packet in this part of the receive buffer. It may stay until [`Inbound::flush`],
    /// which must come before that part of the buffer or the tun changes.
    #[inline]
    pub fn push(
        &mut self,
        tun: &Tun,
        buffer: &[u8],
        at: Range<usize>,
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        if !tun.takes_super_packets() {
            // One may have come in before the kernel refused.
            self.flush(tun, buffer, tally)?;
            return write_packet(tun, &buffer[at], tally);
        }
        self.coalescer.set_udp(tun.takes_udp_super_packets());
        if self.coalescer.push(buffer, at.clone()) {
            return match self.coalescer.is_complete() {
                true => self.flush(tun, buffer, tally),
                false => Ok(()),
            };
        }
        let result = self.flush(tun, buffer, tally);
        self.coalescer.push(buffer, at);
        result
    }

    /// Where in the receive buffer the first packet lies that has gathered, if there is one.
    #[inline]
    pub fn start(&self) -> Option<usize> {
        Some(self.coalescer.packets().first()?.start)
    }

    /// Whether a single packet has gathered.
    #[inline]
    pub fn is_one(&self) -> bool {
        self.coalescer.packets().len() == 1
    }

    /// Writes what has gathered.
    #[inline]
    pub fn flush(&mut self, tun: &Tun, buffer: &[u8], tally: &mut Tally) -> Result<(), Trouble> {
        if self.start().is_none() {
            return Ok(());
        }
        let result = self.write(tun, buffer, tally);
        self.coalescer.clear();
        result
    }

    fn write(&mut self, tun: &Tun, buffer: &[u8], tally: &mut Tally) -> Result<(), Trouble> {
        if let [only] = self.coalescer.packets() {
            return write_packet(tun, &buffer[only.clone()], tally);
        }
        let Some(whole) = self.coalescer.finish(buffer) else {
            return Ok(());
        };
        let mut parts = [IoSlice::new(&[]); MAX_PARTS];
        parts[0] = IoSlice::new(&whole.virtio);
        parts[1] = IoSlice::new(whole.headers);
        for (part, at) in parts[2..].iter_mut().zip(whole.parts) {
            *part = IoSlice::new(&buffer[at.clone()]);
        }
        let packets = whole.packets.len();
        match tun.send(&parts[..2 + whole.parts.len()]) {
            Ok(()) => {
                for packet in whole.packets {
                    tally.count.add(packet.len());
                }
            }
            Err(Trouble::Refused) => {
                let before = tally.count.packets;
                for packet in whole.packets {
                    write_packet(tun, &buffer[packet.clone()], tally)?;
                }
                // Unless single ones are refused too: then it is not for their number.
                if tally.count.packets > before {
                    tun.refuse_super_packets();
                    tally.gave_up = Some(Errno::EINVAL);
                }
            }
            Err(Trouble::Gone) => return Err(Trouble::Gone),
            Err(_) => tally.count.dropped += packets as u64,
        }
        Ok(())
    }
}

/// Writes one packet as it came.
pub fn write_packet(tun: &Tun, packet: &[u8], tally: &mut Tally) -> Result<(), Trouble> {
    let nothing_to_do = [0; virtio_net::HEADER_LEN];
    let written = match tun.prefix_len() {
        0 => tun.send_plain(packet),
        len => tun.send(&[IoSlice::new(&nothing_to_do[..len]), IoSlice::new(packet)]),
    };
    match written {
        Ok(()) => tally.count.add(packet.len()),
        Err(Trouble::Gone) => return Err(Trouble::Gone),
        Err(_) => tally.count.dropped += 1,
    }
    Ok(())
}
