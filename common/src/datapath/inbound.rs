//! The packet path from UDP to a tun: consecutive segments of a flow become one super-packet again,
//! though those of others come between. Both programs go this way; nothing on it waits, and memory is
//! taken only when more flows come together than ever before.

use std::io::IoSlice;
use std::ops::Range;

use nix::errno::Errno;

use crate::datapath::tally::Tally;
use crate::io::tun::{Trouble, Tun};
use crate::offload::gro::{self, Coalescer};
use crate::offload::headers::Headers;
use crate::offload::virtio_net;

/// A super-packet's virtio-net header, its own headers, and the payloads.
const MAX_PARTS: usize = 2 + gro::MAX_PACKETS;

/// Flows whose packets gather at once: as many as the kernel's own, in each of its lists
/// (MAX_GRO_SKBS of `net/core/gro.c`).
const MAX_RUNS: usize = 8;
/// More packets than this are not written before the oldest one that waits, which may be a call's voice
/// beside a download.
const PATIENCE: usize = 32;

/// Packets that lie in a receive buffer, on their way to one tun.
pub struct Inbound {
    /// Those in which packets wait come first, the oldest before the others.
    runs: Vec<Coalescer>,
    /// How many those are.
    count: usize,
    /// The one that the last packet came to.
    last: usize,
    /// Packets that were written before the oldest.
    overtaken: usize,
}

/// Where a packet belongs.
enum Found {
    /// To this run.
    Run(usize),
    /// To a flow of which none waits.
    NewFlow,
    /// To none that is known: a fragment for instance.
    NoFlow,
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            runs: vec![Coalescer::default()],
            count: 0,
            last: 0,
            overtaken: 0,
        }
    }
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
            // Some may have come in before the kernel refused.
            if self.count > 0 {
                self.flush(tun, buffer, tally)?;
            }
            return write_packet(tun, &buffer[at], tally);
        }
        let (mut result, mut joined) = (Ok(()), false);
        if self.count > 0 {
            // Mostly it is of the flow that the last one was of.
            joined = self.runs[self.last].push(buffer, at.clone());
            // One that nothing can join waits for nothing.
            if !self.runs[self.last].is_open() {
                result = self.write_run(self.last, tun, buffer, tally);
            }
        }
        if !joined && self.count > 0 {
            match self.find(buffer, &buffer[at.clone()]) {
                Found::Run(n) if self.runs[n].push(buffer, at.clone()) => {
                    (self.last, joined) = (n, true);
                    if !self.runs[n].is_open() {
                        result = result.and(self.write_run(n, tun, buffer, tally));
                    }
                }
                // It must not overtake those that it can't join, and of what has no flow nobody
                // knows whom it may overtake.
                Found::Run(n) => result = result.and(self.write_run(n, tun, buffer, tally)),
                Found::NoFlow => result = result.and(self.flush(tun, buffer, tally)),
                Found::NewFlow if self.count == MAX_RUNS => {
                    result = result.and(self.write_run(0, tun, buffer, tally));
                }
                Found::NewFlow => {}
            }
        }
        if !joined {
            if self.count == self.runs.len() {
                self.runs.push(Coalescer::default());
            }
            self.last = self.count;
            self.count += 1;
            self.runs[self.last].start(at, tun.takes_udp_super_packets());
        }
        result
    }

    /// The run of a packet's flow, after the last run has refused it.
    fn find(&self, buffer: &[u8], packet: &[u8]) -> Found {
        let Some(headers) = Headers::parse(packet) else {
            return Found::NoFlow;
        };
        let is_of = |run: &Coalescer| run.is_of(buffer, packet, &headers);
        let found = self.runs[..self.count].iter().position(is_of);
        found.map_or(Found::NewFlow, Found::Run)
    }

    /// Where in the receive buffer the first packet lies that has gathered, if there is one.
    #[inline]
    pub fn start(&self) -> Option<usize> {
        let oldest = self.runs[..self.count].first()?;
        Some(oldest.packets().first()?.start)
    }

    /// Whether a single packet has gathered.
    #[inline]
    pub fn is_one(&self) -> bool {
        self.count == 1 && self.runs[0].packets().len() == 1
    }

    /// Writes what has gathered.
    #[inline]
    pub fn flush(&mut self, tun: &Tun, buffer: &[u8], tally: &mut Tally) -> Result<(), Trouble> {
        if let [run] = &mut self.runs[..self.count]
            && let [only] = run.packets()
        {
            // Packets that come one by one need none of what is below: 60 instructions of 700.
            let packet = &buffer[only.clone()];
            (self.count, self.last, self.overtaken) = (0, 0, 0);
            run.clear();
            return write_packet(tun, packet, tally);
        }
        let mut result = Ok(());
        while self.count > 0 {
            result = result.and(self.write_run(0, tun, buffer, tally));
        }
        result
    }

    /// Writes the n-th run; those before it first if too many others have been by then.
    fn write_run(
        &mut self,
        mut n: usize,
        tun: &Tun,
        buffer: &[u8],
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        let mut result = Ok(());
        self.overtaken += self.runs[n].packets().len();
        if self.overtaken > PATIENCE {
            for _ in 0..n {
                result = result.and(self.take_out(0, tun, buffer, tally));
            }
            n = 0;
        }
        if n == 0 {
            self.overtaken = 0;
        }
        result.and(self.take_out(n, tun, buffer, tally))
    }

    /// Writes the n-th run and takes it from the others.
    fn take_out(
        &mut self,
        n: usize,
        tun: &Tun,
        buffer: &[u8],
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        let result = write(&mut self.runs[n], tun, buffer, tally);
        self.runs[n].clear();
        self.count -= 1;
        if n < self.count {
            self.runs[n..=self.count].rotate_left(1);
        }
        if self.last >= n {
            self.last = self.last.saturating_sub(1);
        }
        result
    }
}

fn write(run: &mut Coalescer, tun: &Tun, buffer: &[u8], tally: &mut Tally) -> Result<(), Trouble> {
    if let [only] = run.packets() {
        return write_packet(tun, &buffer[only.clone()], tally);
    }
    let Some(whole) = run.finish(buffer) else {
        return Ok(());
    };
    let mut parts = [IoSlice::new(&[]); MAX_PARTS];
    parts[0] = IoSlice::new(&whole.virtio);
    parts[1] = IoSlice::new(whole.headers);
    for (part, at) in parts[2..].iter_mut().zip(whole.packets) {
        *part = IoSlice::new(&buffer[at.start + whole.headers.len()..at.end]);
    }
    let packets = whole.packets.len();
    match tun.send(&parts[..2 + packets]) {
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
