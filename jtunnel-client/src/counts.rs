//! The pipe through which the child tells the parent what it has sent: when it is asked, and at its
//! end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::datapath::tally::Count;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

const RECORD: usize = 3 * size_of::<u64>();

/// The parent's end.
pub(crate) struct Counts(File);

/// The child's end.
pub(crate) struct Teller(File);

/// One for a new child.
pub(crate) fn pipe() -> nix::Result<(Counts, Teller)> {
    // Nobody waits for the other.
    let (counts, teller) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    Ok((Counts(counts.into()), Teller(teller.into())))
}

impl Teller {
    pub(crate) fn tell(&self, count: &Count) {
        // It is written whole or not at all, pipe(7). Without room the parent has enough to read.
        let _ = (&self.0).write_all(&to_bytes(count));
    }
}

impl Counts {
    /// What was told last, if anything was since the last look.
    pub(crate) fn take(&self) -> Option<Count> {
        let (mut record, mut last) = ([0; RECORD], None);
        while (&self.0).read(&mut record).is_ok_and(|len| len == RECORD) {
            last = Some(from_bytes(&record));
        }
        last
    }

    /// The same at the child's end, which is waited for, but not for longer than this.
    pub(crate) fn take_last(self, patience: Duration) -> Option<Count> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            // No event is asked for: that the other end was closed is told in any case.
            let mut wait = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
            if poll(&mut wait, limit) != Err(Errno::EINTR) {
                return self.take();
            }
        }
    }
}

fn to_bytes(count: &Count) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let numbers = [count.packets, count.bytes, count.dropped];
    for (place, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
        *place = number.to_ne_bytes();
    }
    bytes
}

fn from_bytes(bytes: &[u8; RECORD]) -> Count {
    let mut numbers = bytes.as_chunks().0.iter().map(|&b| u64::from_ne_bytes(b));
    let mut next = || numbers.next().unwrap_or_default();
    Count {
        packets: next(),
        bytes: next(),
        dropped: next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(packets: u64) -> Count {
        Count {
            packets,
            bytes: u64::MAX - packets,
            dropped: 7,
        }
    }

    #[test]
    fn the_last_that_was_told() {
        let (counts, teller) = pipe().unwrap();
        assert_eq!(counts.take(), None);
        for packets in 1..4 {
            teller.tell(&count(packets));
        }
        assert_eq!(counts.take(), Some(count(3)));
        assert_eq!(counts.take(), None);
        // More than there is room for stops nobody.
        for packets in 0..10_000 {
            teller.tell(&count(packets));
        }
        assert!(counts.take().is_some());
        teller.tell(&count(5));
        teller.tell(&count(6));
        drop(teller);
        assert_eq!(counts.take_last(Duration::from_secs(60)), Some(count(6)));
    }

    #[test]
    fn an_end_that_does_not_come() {
        let (counts, teller) = pipe().unwrap();
        teller.tell(&count(1));
        let last = counts.take_last(Duration::from_millis(20));
        assert_eq!(last, Some(count(1)));
        drop(teller);
    }
}
