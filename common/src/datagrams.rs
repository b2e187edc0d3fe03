//! What a socket receives, and where: a buffer of which one half is written to while packets in
//! the other wait. Pure.

use std::ops::Range;

use crate::address::RawAddress;
use crate::control::Control;
use crate::memory;
use crate::socket::Source;
use crate::sys::Pages;

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
    /// The local address it came to, unless the socket is bound to one.
    pub source: Option<Source>,
    /// Whether it was longer than what one call can bring.
    pub truncated: bool,
    /// Length of each datagram but the last in what was received; the length of all if it is one.
    pub(crate) stride: usize,
    pub(crate) control: Control,
    /// Where in the buffer it lies.
    start: usize,
    /// How much one call can bring, in bytes: half of the buffer.
    room: usize,
}

impl Datagrams {
    /// For calls that bring so many bytes at most.
    pub fn new(room: usize) -> Self {
        Self {
            data: memory::room(2 * room),
            len: 0,
            from: RawAddress::EMPTY,
            source: None,
            truncated: false,
            stride: 0,
            control: Control::default(),
            start: 0,
            room,
        }
    }

    /// Finds a place for what the next call brings, while what begins at `waiting` in the buffer is
    /// still to be used. If that is in the way the answer is false, and the next call writes over
    /// it.
    #[inline]
    pub fn make_room(&mut self, waiting: Option<usize>) -> bool {
        let place = place(self.room, self.start + self.len, waiting);
        (self.start, self.len) = (place.unwrap_or(0), 0);
        place.is_some()
    }

    /// What the next call writes to: data, address, control messages.
    #[inline]
    pub(crate) fn targets(&mut self) -> (&mut [u8], &mut RawAddress, &mut [u8]) {
        let data = &mut self.data[self.start..self.start + self.room];
        (data, &mut self.from, self.control.room())
    }

    /// So many bytes have come.
    #[inline]
    pub(crate) fn received(&mut self, len: usize, truncated: bool) {
        (self.len, self.stride) = (len.min(self.room), len);
        self.truncated = truncated;
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

/// Where in a buffer of twice this room the next packets can go: the last ones end at `used`, and
/// the first that wait begin at `waiting`. `None` if those are in the way.
fn place(room: usize, used: usize, waiting: Option<usize>) -> Option<usize> {
    let Some(waiting) = waiting else {
        return Some(0);
    };
    let (behind, before) = match waiting < used {
        true => (2 * room - used, waiting),
        false => (waiting - used, 0),
    };
    match (behind >= room, before >= room) {
        (true, _) => Some(used),
        (false, true) => Some(0),
        (false, false) => None,
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
        let mut datagrams = Datagrams::new(ROOM);
        // Where those lie that wait, the oldest first.
        let mut waiting = Vec::<Range<usize>>::new();
        let (mut wraps, mut in_the_way) = (0, 0);
        for _ in 0..100_000 {
            let gone = random.below(3).min(waiting.len());
            waiting.drain(..gone);
            let last = datagrams.start;
            if !datagrams.make_room(waiting.first().map(|first| first.start)) {
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
        assert!(wraps > 1000 && in_the_way > 1000, "{wraps} {in_the_way}");
    }
}
