//! The descriptors that a program waits for, with select(2).

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Instant;

use libc::c_ulong;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;

use crate::sys::{self, FdWords};

/// Some descriptors that must stay open. Their numbers are below the bits of a word, as those are
/// that a program opens first: the rest of the set is empty at all times, and no loop goes over it.
#[derive(Debug, Default)]
pub struct Watch {
    wanted: c_ulong,
    ready: FdWords,
    /// The highest descriptor, and one more.
    end: RawFd,
}

/// A watched descriptor: its bit.
#[derive(Clone, Copy, Debug)]
pub struct Watched(c_ulong);

impl Watched {
    /// This one or another: ready when either is.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Watch {
    /// Watches a descriptor, which must be below 32, or 64 where a word has so many bits (EMFILE).
    pub fn add(&mut self, fd: BorrowedFd<'_>) -> nix::Result<Watched> {
        let number = fd.as_raw_fd();
        let shift = u32::try_from(number).map_err(|_| Errno::EBADF)?;
        let watched = Watched(c_ulong::checked_shl(1, shift).ok_or(Errno::EMFILE)?);
        self.wanted |= watched.0;
        self.end = self.end.max(number + 1);
        Ok(watched)
    }

    /// Waits for this one, or does not.
    pub fn set(&mut self, watched: Watched, wanted: bool) {
        match wanted {
            true => self.wanted |= watched.0,
            false => self.wanted &= !watched.0,
        }
    }

    /// Sleeps until one of them can be read from, or until then. After an error none is ready.
    pub fn wait(&mut self, until: Option<Instant>) -> nix::Result<()> {
        self.ready[0] = self.wanted;
        let time = until.map(|until| until.saturating_duration_since(Instant::now()));
        let result = sys::select(&mut self.ready, self.end, time.map(TimeSpec::from));
        if result.is_err() {
            self.ready[0] = 0;
        }
        result
    }

    /// Whether the last call found that this one can be read from.
    pub fn is_ready(&self, watched: Watched) -> bool {
        self.ready[0] & watched.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    use nix::unistd::{dup, pipe, read, write};

    use super::*;

    const LIMIT: RawFd = c_ulong::BITS.cast_signed();

    /// One test: it takes all low descriptors in the end.
    #[test]
    fn who_can_be_read_from() {
        let pipes = [pipe(), pipe()].map(|pipe| pipe.expect("a pipe"));
        let mut watch = Watch::default();
        let [a, b] = [&pipes[0].0, &pipes[1].0].map(|fd| watch.add(fd.as_fd()));
        let (a, b) = (a.expect("a low descriptor"), b.expect("a low descriptor"));
        for (n, expected) in [(0, [true, false]), (1, [false, true])] {
            write(&pipes[n].1, b"x").expect("room in the pipe");
            watch.wait(None).expect("one is ready");
            assert_eq!([a, b].map(|w| watch.is_ready(w)), expected);
            read(&pipes[n].0, &mut [0]).expect("a byte");
            watch.wait(Some(Instant::now())).expect("no time to wait");
            assert_eq!([a, b].map(|w| watch.is_ready(w)), [false, false]);
        }

        let (start, time) = (Instant::now(), Duration::from_millis(20));
        watch.wait(Some(start + time)).expect("nothing but time");
        assert!(start.elapsed() >= time);

        let mut copies = Vec::new();
        while copies
            .last()
            .is_none_or(|last: &OwnedFd| last.as_raw_fd() < 2 * LIMIT)
        {
            copies.push(dup(&pipes[0].0).expect("some descriptors more"));
        }
        write(&pipes[0].1, b"x").expect("room in the pipe");
        for fd in &copies {
            let mut watch = Watch::default();
            match watch.add(fd.as_fd()) {
                Ok(watched) => {
                    assert!(fd.as_raw_fd() < LIMIT);
                    watch.wait(Some(Instant::now())).expect("no time to wait");
                    assert!(watch.is_ready(watched));
                }
                Err(error) => {
                    assert_eq!(error, Errno::EMFILE);
                    assert!(fd.as_raw_fd() >= LIMIT);
                }
            }
        }
    }
}
