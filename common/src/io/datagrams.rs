//! What a socket receives, and where: a buffer that is written to while packets in other parts of
//! it wait.

use std::ops::Range;

use crate::io::control::{Control, messages};
use crate::io::memory;
use crate::io::source::Source;
use crate::sys::Pages;
use crate::sys::address::RawAddress;

/// What one call received: a datagram, or several of one flow and one length behind each other,
/// the last of which may be shorter. Kept for the next call, so that nothing is copied or cleared.
#[derive(Debug)]
pub struct Datagrams {
    /// The buffer.
    pub data: Pages,
    /// Length of what was received, in bytes.
    pub len: usize,
    /// The sender.
    pub from: RawAddress,
    /// Whether it was longer than what one call can bring.
    pub truncated: bool,
    /// Length of each datagram but the last in what was received; the length of all if it is one.
    pub(crate) stride: usize,
    /// What says which local address it came to.
    pub(crate) control: Control,
    /// Where in the buffer it lies.
    start: usize,
    /// How much one call can bring, in bytes.
    room: usize,
    /// How much of the buffer is in use, in bytes.
    end: usize,
}

impl Datagrams {
    /// For calls that bring so many bytes at most, with room for so many of them at once: two,
    /// until there is need for more.
    pub fn new(room: usize, rooms: usize) -> Self {
        let data = memory::room(rooms * room);
        let end = data.len().min(2 * room);
        Self {
            data,
            len: 0,
            from: RawAddress::EMPTY,
            truncated: false,
            stride: 0,
            control: Control::default(),
            start: 0,
            room,
            end,
        }
    }

    /// Has use for room for so many calls at once, or for all there is. What is in use is touched
    /// sooner or later, and takes memory then.
    pub fn grow(&mut self, rooms: usize) {
        let wanted = rooms.saturating_mul(self.room).min(self.data.len());
        self.end = self.end.max(wanted);
    }

    /// Nothing waits: the whole buffer is free again.
    #[inline]
    pub fn clear(&mut self) {
        (self.start, self.len) = (0, 0);
    }

    /// Finds a place for what the next call brings, while what begins at these places in the buffer
    /// still waits there. If that is in the way the answer is false, and the next call writes over
    /// it: it has to be written to its tun first.
    #[inline]
    pub fn make_room(&mut self, waiting: impl IntoIterator<Item = usize>) -> bool {
        let used = self.start + self.len;
        // The buffer is a ring: the oldest is the first from here on.
        let oldest = waiting
            .into_iter()
            .min_by_key(|&start| (start < used, start));
        let place = match oldest {
            None => Some(0),
            Some(oldest) => place(self.end, self.room, used, oldest),
        };
        self.clear();
        self.start = place.unwrap_or(0);
        place.is_some()
    }

    /// What the next call writes to: data, address, control messages.
    #[inline]
    pub(super) fn targets(&mut self) -> (&mut [u8], &mut RawAddress, &mut [u8]) {
        let data = &mut self.data[self.start..self.start + self.room];
        (data, &mut self.from, self.control.room())
    }

    /// So many bytes have come.
    #[inline]
    pub(crate) fn received(&mut self, len: usize, truncated: bool) {
        (self.len, self.stride) = (len.min(self.room), len);
        self.truncated = truncated;
    }

    /// The local address it came to, unless the socket is bound to one.
    pub fn source(&self) -> Option<Source> {
        messages(self.control.as_bytes()).find_map(|(level, kind, data)| match (level, kind) {
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => Source::from_v6(data),
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => Source::from_v4(data),
            _ => None,
        })
    }

    /// Where in the buffer each datagram lies. An empty one is one too.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (last, stride) = (self.start + self.len, self.stride);
        let mut next = Some(self.start);
        std::iter::from_fn(move || {
            let start = next?;
            let end = last.min(start + stride);
            next = (end < last).then_some(end);
            Some(start..end)
        })
    }
}

/// Where in a buffer of this length the next packets can go, which need so much room: the last ones
/// end at `used`, and the oldest that wait begin at `waiting`. `None` if those are in the way.
fn place(len: usize, room: usize, used: usize, waiting: usize) -> Option<usize> {
    let (behind, before) = match waiting < used {
        true => (len - used, waiting),
        false => (waiting - used, 0),
    };
    // The front first, so that few pages are ever touched.
    if before >= room {
        Some(0)
    } else if behind >= room {
        Some(used)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    const ROOM: usize = 1000;

    #[test]
    fn nothing_is_written_over_what_waits() {
        let mut random = Random::new(4);
        for rooms in 2..6 {
            let mut datagrams = Datagrams::new(ROOM, rooms);
            datagrams.grow(rooms);
            let mut waiting = Vec::<Range<usize>>::new();
            let (mut wraps, mut in_the_way) = (0, 0);
            for _ in 0..20_000 {
                // Most of the oldest go first, as a client's packets do.
                for _ in 0..random.below(3).min(waiting.len()) {
                    waiting.remove(random.below(waiting.len().min(2)));
                }
                let last = datagrams.start;
                if !datagrams.make_room(waiting.iter().map(|w| w.start)) {
                    in_the_way += 1;
                    waiting.clear();
                }
                let start = datagrams.start;
                wraps += usize::from(start < last && !waiting.is_empty());
                assert_eq!(datagrams.targets().0.len(), ROOM);
                let overlaps = |w: &Range<usize>| w.start < start + ROOM && start < w.end;
                assert!(!waiting.iter().any(overlaps), "{start} {waiting:?}");
                let len = [1, 20, 150, ROOM][random.below(4)];
                datagrams.received(len, false);
                // It may be that only the last of them waits.
                let waits = [len, len.min(20)][random.below(2)];
                waiting.push(start + len - waits..start + len);
            }
            assert!(wraps > 100 && in_the_way > 100, "{wraps} {in_the_way}");
        }
    }
}
