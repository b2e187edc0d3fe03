//! Which identifiers a directory authorises. A peer is authorised while a file of its name
//! exists; the names are kept in memory.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::report::error::reason;
use crate::report::log;
use crate::report::throttle::Throttle;
use crate::wire::id::PeerId;

/// The largest peer file that is looked at, in bytes.
const MAX_CONTENT: u64 = 4096;
/// Unknown identifiers cause one re-read in this time, however many there are.
const RESCAN_INTERVAL: Duration = Duration::from_secs(1);

/// The authorised identifiers of one directory.
#[derive(Debug)]
pub struct Authorized {
    directory: PathBuf,
    /// Sorted: 8 bytes each, found in a few steps.
    ids: Vec<PeerId>,
    /// Refused already, so that each is reported once.
    refused: Vec<PeerId>,
    last_scan: Instant,
    unreadable: Throttle,
}

/// Why a file of a peer's name does not authorise it.
#[derive(Debug)]
enum Refusal {
    /// Content is reserved for keys.
    HasContent,
    /// A directory, a FIFO, a device.
    NotRegular,
    /// More than 4 KiB.
    TooLarge,
    /// The system said no.
    Unreadable(io::Error),
}

/// How a scan treats names that are in memory already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scan {
    /// Names are added only: on an unknown identifier.
    Add,
    /// The list is made anew: at start and at HUP.
    Replace,
}

impl Authorized {
    /// For the directory of that name; nobody is authorised before [`Authorized::reload`].
    pub fn new(directory: PathBuf, now: Instant) -> Self {
        Self {
            directory,
            ids: Vec::new(),
            refused: Vec::new(),
            last_scan: now,
            unreadable: Throttle::per_minute(),
        }
    }

    /// How many identifiers are authorised.
    pub fn count(&self) -> usize {
        self.ids.len()
    }

    /// Whether this identifier is authorised, as far as memory knows.
    pub fn contains(&self, id: PeerId) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    /// Whether this identifier is authorised. If memory does not know it, new names are looked for,
    /// but once in a second.
    pub fn admits(&mut self, id: PeerId, now: Instant) -> bool {
        self.contains(id) || {
            tell(&self.add(now));
            self.contains(id)
        }
    }

    /// Makes the list anew. If the directory can't be read, or a file of it for want of memory or
    /// descriptors, the list stays as it is.
    pub fn reload(&mut self, now: Instant) {
        tell(&self.replace(now));
    }

    /// Returns what the administrator ought to hear.
    fn replace(&mut self, now: Instant) -> Vec<String> {
        self.refused.clear();
        self.unreadable = Throttle::per_minute();
        self.scan(Scan::Replace, now)
    }

    /// The same, but removed names stay, and nothing is read twice in a second.
    fn add(&mut self, now: Instant) -> Vec<String> {
        if now.saturating_duration_since(self.last_scan) < RESCAN_INTERVAL {
            return Vec::new();
        }
        self.scan(Scan::Add, now)
    }

    #[cold]
    fn scan(&mut self, scan: Scan, now: Instant) -> Vec<String> {
        self.last_scan = now;
        let mut findings = Vec::new();
        if let Err(error) = self.read(scan, &mut findings)
            && let Some(held_back) = self.unreadable.pass(now)
        {
            let (directory, reason) = (self.directory.display(), reason(&error));
            findings.push(format!("unable to read {directory}: {reason}{held_back}"));
        }
        findings
    }

    fn read(&mut self, scan: Scan, findings: &mut Vec<String>) -> io::Result<()> {
        let directory = self.directory.display();
        let mut ids = match scan {
            Scan::Add => self.ids.clone(),
            Scan::Replace => Vec::new(),
        };
        let mut foreign_names = 0;
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|n| n.parse::<PeerId>().ok()) else {
                foreign_names += usize::from(!name.as_encoded_bytes().starts_with(b"."));
                continue;
            };
            // Thousands move in milliseconds, and to sort them would take 5 KB of code.
            let Err(place) = ids.binary_search(&id) else {
                continue;
            };
            match check(&self.directory.join(&name)) {
                Ok(()) => ids.insert(place, id),
                Err(Refusal::Unreadable(error)) if is_shortage(&error) => return Err(error),
                Err(_) if self.refused.contains(&id) => {}
                Err(refusal) => {
                    self.refused.push(id);
                    findings.push(format!("refused {directory}/{id}: {refusal}"));
                }
            }
        }
        // Once is enough: an unknown identifier may come every second.
        if foreign_names > 0 && scan == Scan::Replace {
            findings.push(format!(
                "ignored {foreign_names} names in {directory} that are not 16 lower-case hex digits"
            ));
        }
        ids.shrink_to_fit();
        self.ids = ids;
        Ok(())
    }
}

fn tell(findings: &[String]) {
    for finding in findings {
        log::warning(format_args!("{finding}"));
    }
}

/// Whether an error says nothing of the file, but that the machine has no descriptor or memory.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)
    )
}

/// Whether the file authorises: regular, and empty but for white space.
///
/// The type is looked at before opening, since opening a device may do something; and again on
/// the descriptor, since it may have changed in between.
fn check(path: &Path) -> Result<(), Refusal> {
    if !fs::metadata(path).map_err(Refusal::Unreadable)?.is_file() {
        return Err(Refusal::NotRegular);
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(Refusal::Unreadable)?;
    if !file.metadata().map_err(Refusal::Unreadable)?.is_file() {
        return Err(Refusal::NotRegular);
    }
    let mut content = Vec::new();
    file.take(MAX_CONTENT + 1)
        .read_to_end(&mut content)
        .map_err(Refusal::Unreadable)?;
    if content.len() as u64 > MAX_CONTENT {
        return Err(Refusal::TooLarge);
    }
    match content.iter().all(u8::is_ascii_whitespace) {
        true => Ok(()),
        false => Err(Refusal::HasContent),
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HasContent => f.write_str("has content, which is reserved for keys"),
            Self::NotRegular => f.write_str("is not a regular file"),
            Self::TooLarge => write!(f, "is larger than {MAX_CONTENT} bytes"),
            Self::Unreadable(e) => write!(f, "unable to read it: {}", reason(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Directory;

    fn write(directory: &Directory, name: &str, content: &[u8]) {
        fs::write(directory.join(name), content).expect("a writable directory");
    }

    const A: &str = "00000000000000aa";
    const B: &str = "00000000000000bb";

    fn id(text: &str) -> PeerId {
        text.parse().expect("an identifier")
    }

    #[test]
    fn adding_needs_a_second_removing_a_reload() {
        let (directory, start) = (Directory::new(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        write(&directory, A, b"");
        let mut authorized = Authorized::new(directory.to_owned(), start);
        assert!(authorized.replace(at(0)).is_empty());
        assert!(authorized.contains(id(A)) && !authorized.contains(id(B)));

        write(&directory, B, b" \n\t");
        authorized.add(at(999));
        assert!(!authorized.contains(id(B)));
        fs::remove_file(directory.join(A)).expect("it is there");
        authorized.add(at(1000));
        assert!(authorized.contains(id(B)) && authorized.contains(id(A)));

        authorized.replace(at(1001));
        assert!(authorized.contains(id(B)) && !authorized.contains(id(A)));
        assert_eq!(authorized.count(), 1);
    }

    #[test]
    fn what_does_not_authorise() {
        let (directory, now) = (Directory::new(), Instant::now());
        let names: Vec<String> = (0..6).map(|n| format!("{n}000000000000000")).collect();
        write(&directory, &names[0], b"a key");
        write(&directory, &names[1], &[b' '; 4097]);
        fs::create_dir(directory.join(&names[2])).expect("a directory in it");
        let mode = nix::sys::stat::Mode::S_IRUSR;
        nix::unistd::mkfifo(&directory.join(&names[3]), mode).expect("a FIFO in it");
        std::os::unix::fs::symlink("/dev/zero", directory.join(&names[4])).expect("a link");
        let huge = fs::File::create(directory.join(&names[5])).expect("a file");
        huge.set_len(1 << 30).expect("a hole of a gigabyte");
        write(&directory, "0123456789ABCDEF", b"");
        write(&directory, "short", b"");
        write(&directory, ".keep", b"");

        let mut authorized = Authorized::new(directory.to_owned(), now);
        let mut findings = authorized.replace(now);
        assert_eq!(authorized.count(), 0);
        findings.sort();
        let too_large = "is larger than 4096 bytes";
        let not_regular = "is not a regular file";
        let path = directory.display();
        let expected: Vec<String> = [
            format!("ignored 2 names in {path} that are not 16 lower-case hex digits"),
            format!("refused {path}/0000...: has content, which is reserved for keys"),
            format!("refused {path}/1000...: {too_large}"),
            format!("refused {path}/2000...: {not_regular}"),
            format!("refused {path}/3000...: {not_regular}"),
            format!("refused {path}/4000...: {not_regular}"),
            format!("refused {path}/5000...: {too_large}"),
        ]
        .into();
        assert_eq!(findings, expected);
        let again = authorized.add(now + RESCAN_INTERVAL);
        assert!(again.is_empty(), "each is reported once: {again:?}");
    }

    #[test]
    fn a_directory_that_vanishes_changes_nothing() {
        let (directory, now) = (Directory::new(), Instant::now());
        write(&directory, A, b"");
        let mut authorized = Authorized::new(directory.to_owned(), now);
        authorized.replace(now);
        let path = directory.display().to_string();
        drop(directory);
        let reason = "No such file or directory";
        assert_eq!(
            authorized.replace(now),
            [format!("unable to read {path}: {reason}")]
        );
        assert!(authorized.contains(id(A)));
        let later = now + RESCAN_INTERVAL;
        assert!(authorized.add(later).is_empty(), "at a bounded rate");
    }
}
