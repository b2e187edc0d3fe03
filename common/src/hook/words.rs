//! What PROG says on standard error: one pipe for all that run, whose lines go to the log.
//!
//! Nobody waits for anybody. PROG loses what there is no room for; we read a bounded part at a time,
//! and log a bounded number of lines.

use std::fmt::Arguments;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::report::log;
use crate::report::throttle::HeldBack;

/// Lines of one run; later ones are counted, and one a minute is logged.
const LINES: u32 = 20;
/// Lines of all PROGs within a minute.
const LINES_A_MINUTE: u32 = 100;
const MINUTE: Duration = Duration::from_secs(60);
/// A longer line is cut, in bytes.
const MAX_LINE: usize = 400;
/// What is read at a time, in bytes: half of what a pipe holds.
const MAX_READ: usize = 32 * 1024;
/// When to look again while PROG speaks.
const PAUSE: Duration = Duration::from_millis(100);

/// The pipe, and how much of what came is logged.
#[derive(Debug)]
pub(super) struct Words {
    pipe: File,
    for_prog: File,
    line: Vec<u8>,
    /// When to look, if PROG may be speaking.
    pub(super) next: Option<Instant>,
    /// Lines that the run may still log.
    left: u32,
    /// When the minute began, and the lines that were logged in it.
    minute: Instant,
    logged: u32,
    held_back: u32,
}

impl Words {
    pub(super) fn new(now: Instant) -> io::Result<Self> {
        let (pipe, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Once more, for both directions: who has the reading end too is not killed by SIGPIPE when
        // we are gone. What PROG started may live on.
        let both = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", writer.as_raw_fd()));
        Ok(Self {
            pipe: pipe.into(),
            for_prog: both.unwrap_or_else(|_| writer.into()),
            line: Vec::new(),
            next: None,
            left: 0,
            minute: now,
            logged: 0,
            held_back: 0,
        })
    }

    /// The end that PROG writes to.
    pub(super) fn for_prog(&self) -> BorrowedFd<'_> {
        self.for_prog.as_fd()
    }

    /// The end that can be waited for.
    pub(super) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// A run begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.left = LINES;
        self.next.get_or_insert(now + PAUSE);
    }

    /// Logs what has come; `copy` has it go to standard error as it is, and only the lines to syslog.
    pub(super) fn hear(&mut self, prog: &Path, copy: bool, now: Instant) {
        let (mut buffer, mut heard) = ([0; 4096], 0);
        while heard < MAX_READ {
            // Nothing, or an error that the next look has again.
            let Ok(len @ 1..) = self.pipe.read(&mut buffer) else {
                break;
            };
            heard += len;
            let bytes = buffer.get(..len).unwrap_or_default();
            if copy {
                log::copy(bytes);
            }
            for &byte in bytes {
                match byte {
                    b'\n' => self.end_line(prog, copy, now),
                    _ if self.line.len() < MAX_LINE => self.line.push(byte),
                    _ => {}
                }
            }
        }
        self.next = (heard > 0).then(|| now + PAUSE);
    }

    /// A run has ended: there is no more to a line that has begun.
    pub(super) fn end(&mut self, prog: &Path, copy: bool, now: Instant) {
        self.hear(prog, copy, now);
        self.end_line(prog, copy, now);
        if self.held_back > 0 && self.is_room(now) {
            let lines = std::mem::take(&mut self.held_back);
            self.log(format_args!("{}: {lines} lines more", prog.display()), copy);
        }
    }

    fn end_line(&mut self, prog: &Path, copy: bool, now: Instant) {
        if self.line.iter().all(u8::is_ascii_whitespace) {
            return self.line.clear();
        }
        if !self.is_room(now) || self.left == 0 {
            self.held_back = self.held_back.saturating_add(1);
            return self.line.clear();
        }
        self.left -= 1;
        let text = printable(&self.line);
        let held_back = HeldBack(std::mem::take(&mut self.held_back));
        self.log(format_args!("{}: {text}{held_back}", prog.display()), copy);
        self.line.clear();
    }

    /// Whether there is room for one more line in this minute.
    fn is_room(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.minute) >= MINUTE {
            (self.minute, self.logged) = (now, 0);
            self.left = self.left.max(1);
        }
        self.logged < LINES_A_MINUTE
    }

    fn log(&mut self, line: Arguments<'_>, copied: bool) {
        self.logged += 1;
        log::quote(line, !copied);
    }
}

/// The text without what moves a terminal's cursor, or worse.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.trim_ascii_end());
    let harmless = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Writes from PROG's end until there is no room.
    fn fill(words: &mut Words) -> usize {
        std::iter::from_fn(|| words.for_prog.write(b"a few words\n").ok()).count()
    }

    #[test]
    fn twenty_lines_a_run_and_one_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut words = Words::new(start).expect("a pipe");
        let prog = Path::new("/prog");
        words.begin(start);
        let count = fill(&mut words);
        words.hear(prog, true, start);
        assert_eq!((words.logged, words.left), (LINES, 0));
        assert_eq!(words.next, Some(start + PAUSE), "there is more");
        while words.next.is_some() {
            words.hear(prog, true, start);
        }
        assert_eq!(u64::from(words.held_back), count as u64 - u64::from(LINES));
        words.for_prog.write_all(b"later\n").expect("there is room");
        words.hear(prog, true, at(60));
        assert_eq!((words.logged, words.held_back), (1, 0));
        words.for_prog.write_all(b"a\nb\nc").expect("there is room");
        words.hear(prog, true, at(61));
        words.end(prog, true, at(61));
        assert_eq!((words.logged, words.held_back), (2, 0));
        // Many runs together have a bound too.
        for _ in 0..20 {
            words.begin(at(62));
            fill(&mut words);
            words.hear(prog, true, at(62));
        }
        assert_eq!(words.logged, LINES_A_MINUTE);
    }

    #[test]
    fn text_that_does_no_harm() {
        let line = b"\x1b[31mred\x07 \xff\xc2\x9b.\x00.\r";
        assert_eq!(printable(line), " [31mred  \u{fffd} . .");
        assert_eq!(printable("schön".as_bytes()), "schön");
    }
}
