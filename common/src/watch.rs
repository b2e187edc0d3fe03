//! The descriptors that a program waits for, with select(2).

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use libc::{FD_SETSIZE, c_ulong};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;

use crate::sys;

/// Bits in a word of an `fd_set` (`__FD_SETSIZE` of `<linux/posix_types.h>`).
const BITS: usize = c_ulong::BITS as usize;

/// An `fd_set`.
pub(crate) type Words = [c_ulong; FD_SETSIZE / BITS];

/// Some descriptors that must stay open. The set that the kernel writes over is not made anew for
/// each call: 128 bytes, of which one word is in use.
#[derive(Debug)]
pub struct Watch {
    wanted: Words,
    ready: Words,
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

impl Default for Watch {
    /// Nothing yet.
    fn default() -> Self {
        Self {
            wanted: [0; FD_SETSIZE / BITS],
            ready: [0; FD_SETSIZE / BITS],
            words: 0,
            end: 0,
        }
    }
}

impl Watch {
    /// Watches a descriptor, which must be below 1024 (EMFILE): select() has no room for more.
    pub fn add(&mut self, fd: BorrowedFd<'_>) -> nix::Result<Watched> {
        let number = usize::try_from(fd.as_raw_fd()).unwrap_or(FD_SETSIZE);
        let watched = Watched {
            word: number / BITS,
            bit: 1 << (number % BITS),
        };
        *self.wanted.get_mut(watched.word).ok_or(Errno::EMFILE)? |= watched.bit;
        self.words = self.words.max(watched.word + 1);
        self.end = self.end.max(fd.as_raw_fd() + 1);
        Ok(watched)
    }

    /// Sleeps until one of them can be read from, or for that long. After an error none is ready.
    pub fn wait(&mut self, timeout: Option<&TimeSpec>) -> nix::Result<()> {
        for (ready, wanted) in self.ready.iter_mut().zip(&self.wanted).take(self.words) {
            *ready = *wanted;
        }
        let result = sys::select(&mut self.ready, self.end, timeout);
        if result.is_err() {
            self.ready = [0; FD_SETSIZE / BITS];
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
    use std::os::fd::AsFd;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::unistd::{dup, pipe, read, write};

    use super::*;

    const NO_TIME: TimeSpec = TimeSpec::new(0, 0);

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
            watch.wait(Some(&NO_TIME)).expect("no time to wait");
            assert_eq!([a, b].map(|w| watch.is_ready(w)), [false, false]);
        }
    }

    #[test]
    fn as_many_as_select_has_room_for() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("what is allowed");
        let (reader, writer) = pipe().expect("a pipe");
        write(&writer, b"x").expect("room in the pipe");
        let mut fds = vec![reader];
        while fds[fds.len() - 1].as_raw_fd() < 1024 {
            fds.push(dup(&fds[0]).expect("some descriptors more"));
        }
        for fd in &fds {
            let mut watch = Watch::default();
            match watch.add(fd.as_fd()) {
                Ok(watched) => {
                    assert!(fd.as_raw_fd() < 1024);
                    watch.wait(Some(&NO_TIME)).expect("no time to wait");
                    assert!(watch.is_ready(watched));
                }
                Err(error) => assert_eq!((error, fd.as_raw_fd()), (Errno::EMFILE, 1024)),
            }
        }
    }
}
