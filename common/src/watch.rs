//! The descriptors that a program waits for, with select(2).

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Instant;

use libc::c_ulong;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;

use crate::sys::{self, FdWords, WORD_BITS};

/// Some descriptors that must stay open. The set that the kernel writes over is not made anew for
/// each call: 128 bytes, of which one word is in use.
#[derive(Debug, Default)]
pub struct Watch {
    wanted: FdWords,
    ready: FdWords,
    /// How many words are in use.
    words: usize,
    /// The highest descriptor, and one more.
    end: RawFd,
}

/// A watched descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    word: usize,
    bit: c_ulong,
}

impl Watch {
    /// Watches a descriptor, which must be below 1024 (EMFILE): select() has no room for more.
    pub fn add(&mut self, fd: BorrowedFd<'_>) -> nix::Result<Watched> {
        let number = usize::try_from(fd.as_raw_fd()).unwrap_or(usize::MAX);
        let watched = Watched {
            word: number / WORD_BITS,
            bit: 1 << (number % WORD_BITS),
        };
        *self.wanted.get_mut(watched.word).ok_or(Errno::EMFILE)? |= watched.bit;
        self.words = self.words.max(watched.word + 1);
        self.end = self.end.max(fd.as_raw_fd() + 1);
        Ok(watched)
    }

    /// Sleeps until one of them can be read from, or until then. After an error none is ready.
    pub fn wait(&mut self, until: Option<Instant>) -> nix::Result<()> {
        for n in 0..self.words.min(self.wanted.len()) {
            self.ready[n] = self.wanted[n];
        }
        let time = until.map(|until| until.saturating_duration_since(Instant::now()));
        let result = sys::select(&mut self.ready, self.end, time.map(TimeSpec::from));
        if result.is_err() {
            self.ready.fill(0);
        }
        result
    }

    /// Whether the last call found that this one can be read from.
    pub fn is_ready(&self, watched: Watched) -> bool {
        self.ready[watched.word] & watched.bit != 0
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::unistd::{dup, pipe, read, write};

    use super::*;

    /// One test: it takes all low descriptors in the end.
    #[test]
    fn who_can_be_read_from() {
        let pipes = [pipe(), pipe()].map(|pipe| pipe.expect("a pipe"));
        let mut watch = Watch::default();
        let [a, b] = [&pipes[0].0, &pipes[1].0].map(|fd| watch.add(fd.as_fd()));
        let (a, b) = (a.expect("below 1024"), b.expect("below 1024"));
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

        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("what is allowed");
        write(&pipes[0].1, b"x").expect("room in the pipe");
        let mut copies = Vec::new();
        while copies
            .last()
            .is_none_or(|last: &OwnedFd| last.as_raw_fd() < 1024)
        {
            copies.push(dup(&pipes[0].0).expect("some descriptors more"));
        }
        for fd in &copies {
            let mut watch = Watch::default();
            match watch.add(fd.as_fd()) {
                Ok(watched) => {
                    assert!(fd.as_raw_fd() < 1024);
                    watch.wait(Some(Instant::now())).expect("no time to wait");
                    assert!(watch.is_ready(watched));
                }
                Err(error) => {
                    assert_eq!(error, Errno::EMFILE);
                    assert!(fd.as_raw_fd() >= 1024);
                }
            }
        }
        drop(copies);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("what was allowed");
    }
}
