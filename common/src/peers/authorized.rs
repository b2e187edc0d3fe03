//! Which identifiers a directory authorises. A peer is authorised while a file of its name
//! exists; the names are kept in memory.

use std::fmt::{self, Write};
use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::keyed::secret::{self, Content, Secret, Word};
use crate::report::error::reason;
use crate::report::log;
use crate::report::throttle::Throttle;
use crate::wire::id::PeerId;

/// The largest peer file that is looked at, in bytes.
const MAX_CONTENT: usize = 4096;
/// Unknown identifiers cause one re-read in this time, however many there are.
const RESCAN_INTERVAL: Duration = Duration::from_secs(1);

/// What its file says of a peer that is authorised.
#[derive(Clone)]
pub enum Grant {
    /// There is no key: a plain link.
    Plain,
    /// The link is signed or sealed.
    Keyed(Rc<Secret>),
}

/// The authorised identifiers of one directory.
pub struct Authorized {
    directory: PathBuf,
    /// `-K`: a file without a key authorises nobody.
    keyed_only: bool,
    /// Sorted: 8 bytes each, found in a few steps.
    ids: Vec<PeerId>,
    /// Sorted: those with a key, and those that had one while a file of that name remains.
    keyed: Vec<Keyed>,
    /// Refused already, so that each is reported once.
    refused: Vec<PeerId>,
    last_scan: Instant,
    unreadable: Throttle,
}

/// A peer that has, or had, a key.
#[derive(Clone)]
struct Keyed {
    id: PeerId,
    /// `None` if the file is not understood now.
    secret: Option<Rc<Secret>>,
    /// The strongest word that was found there.
    word: Word,
    /// A weaker one was found later: nothing in this file is believed any more.
    barred: bool,
}

/// Why a file of a peer's name does not authorise it.
#[derive(Debug)]
enum Refusal {
    /// It holds something that is no key.
    NotUnderstood(String),
    /// It holds no key, and `-K` asks for one.
    NotKeyed,
    /// It protects less than it did before.
    Weaker(Word),
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
    pub fn new(directory: PathBuf, keyed_only: bool, now: Instant) -> Self {
        Self {
            directory,
            keyed_only,
            ids: Vec::new(),
            keyed: Vec::new(),
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

    /// Whether this identifier is that of a plain peer, as far as memory knows.
    pub fn is_plain(&self, id: PeerId) -> bool {
        let is_keyed = || find(&self.keyed, id).is_ok_and(|n| self.keyed[n].secret.is_some());
        self.contains(id) && !is_keyed()
    }

    /// What is granted to this identifier, as far as memory knows.
    pub fn grant(&self, id: PeerId) -> Option<Grant> {
        let secret = || self.keyed[find(&self.keyed, id).ok()?].secret.clone();
        self.contains(id)
            .then(|| secret().map_or(Grant::Plain, Grant::Keyed))
    }

    /// What is granted to this identifier. If memory does not know it, new names are looked for,
    /// but once in a second.
    pub fn admits(&mut self, id: PeerId, now: Instant) -> Option<Grant> {
        self.grant(id).or_else(|| {
            tell(&self.add(now));
            self.grant(id)
        })
    }

    /// All that are authorised, with what is granted to them.
    pub fn grants(&self) -> impl Iterator<Item = (PeerId, Grant)> {
        let ids = self.ids.iter();
        ids.filter_map(|&id| Some((id, self.grant(id)?)))
    }

    /// How many are protected in which way, as in `: 3 seal, 1 sign, 2 PLAIN`; nothing if nobody is
    /// authorised.
    pub fn protections(&self) -> String {
        let count = |word| {
            let keyed = self.keyed.iter().filter(|peer| peer.secret.is_some());
            keyed.filter(|peer| peer.word == word).count()
        };
        let (seal, sign) = (count(Word::Seal), count(Word::Sign));
        let plain = self.count().saturating_sub(seal + sign);
        let parts = [("seal", seal), ("sign", sign), ("PLAIN", plain)];
        let mut text = String::new();
        for (name, count) in parts.into_iter().filter(|(_, count)| *count > 0) {
            let _ = write!(
                text,
                "{} {count} {name}",
                if text.is_empty() { ":" } else { "," }
            );
        }
        text
    }

    /// Looks for new names, but once in a second. True if there are any.
    pub fn look_again(&mut self, now: Instant) -> bool {
        let before = self.ids.len();
        tell(&self.add(now));
        self.ids.len() > before
    }

    /// Makes the list without a word, and returns whether anybody has a key.
    pub fn find_key(&mut self, now: Instant) -> bool {
        self.replace(now);
        !self.keyed.is_empty()
    }

    /// Whether there are files of peers, and none of them authorises.
    pub fn refuses_all(&self) -> bool {
        self.ids.is_empty() && !self.refused.is_empty()
    }

    /// Makes the list anew. If the directory can't be read, or a file of it for want of memory or
    /// descriptors, the list stays as it is.
    pub fn reload(&mut self, now: Instant) {
        tell(&self.replace(now));
    }

    /// Returns what the administrator ought to hear.
    fn replace(&mut self, now: Instant) -> Vec<String> {
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
        let (mut keyed, mut refused) = match scan {
            Scan::Add => (self.keyed.clone(), self.refused.clone()),
            Scan::Replace => (Vec::new(), Vec::new()),
        };
        let (mut foreign_names, mut example) = (0, String::new());
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|n| n.parse::<PeerId>().ok()) else {
                if !name.as_encoded_bytes().starts_with(b".") {
                    foreign_names += 1;
                    // No more than of an identifier: it may be one with a slip in it.
                    example = name.to_string_lossy().chars().take(4).collect();
                }
                continue;
            };
            // Thousands move in milliseconds, and to sort them would take 5 KB of code.
            let Err(place) = ids.binary_search(&id) else {
                continue;
            };
            let path = self.directory.join(&name);
            let before = find(&self.keyed, id).ok().map(|n| self.keyed[n].clone());
            let (peer, grant) = match check(&path) {
                Err(Refusal::Unreadable(error)) if is_shortage(&error) => return Err(error),
                found => judge(id, before, found, self.keyed_only),
            };
            if let Some(peer) = peer {
                match find(&keyed, id) {
                    Ok(n) => keyed[n] = peer,
                    Err(n) => keyed.insert(n, peer),
                }
            }
            match grant {
                Ok(exposed) => {
                    ids.insert(place, id);
                    if exposed {
                        findings.push(format!(
                            "other users can read the key in {directory}/{id}: chmod 600"
                        ));
                    }
                }
                Err(_) if refused.contains(&id) => {}
                Err(refusal) => {
                    refused.push(id);
                    findings.push(format!("refused {directory}/{id}: {refusal}"));
                }
            }
        }
        // Once is enough: an unknown identifier may come every second.
        if foreign_names > 0 && scan == Scan::Replace {
            findings.push(format!(
                "ignored {foreign_names} names in {directory} that are not 16 lower-case hex digits, \
                 such as {example:?}..."
            ));
        }
        ids.shrink_to_fit();
        keyed.shrink_to_fit();
        (self.ids, self.keyed, self.refused) = (ids, keyed, refused);
        Ok(())
    }
}

fn find(keyed: &[Keyed], id: PeerId) -> Result<usize, usize> {
    keyed.binary_search_by_key(&id, |peer| peer.id)
}

/// What is to be remembered of a peer that has or had a key, and whether it is authorised: if so,
/// whether others can read its key.
///
/// Who can write to the directory for a moment must not turn a sealed link into a plain one: what
/// became weaker stays refused while there is a file of that name.
fn judge(
    id: PeerId,
    before: Option<Keyed>,
    found: Result<(Content, bool), Refusal>,
    keyed_only: bool,
) -> (Option<Keyed>, Result<bool, Refusal>) {
    let strongest = before.as_ref().map(|peer| peer.word);
    let mut barred = before.as_ref().is_some_and(|peer| peer.barred);
    let (secret, grant) = match found {
        Err(refusal) => (None, Err(refusal)),
        Ok((Content::Plain, _)) if strongest.is_none() && keyed_only => {
            (None, Err(Refusal::NotKeyed))
        }
        Ok((Content::Plain, _)) if strongest.is_none() => return (None, Ok(false)),
        Ok((Content::Plain, _)) => {
            barred = true;
            (None, Ok(false))
        }
        Ok((Content::Keyed(secret), exposed)) => {
            barred |= strongest.is_some_and(|word| secret.word() < word);
            (Some(Rc::new(secret)), Ok(exposed))
        }
    };
    let word = secret.as_ref().map(|secret| secret.word()).max(strongest);
    let Some(word) = word else {
        return (None, grant);
    };
    let grant = match barred {
        true => grant.and(Err(Refusal::Weaker(word))),
        false => grant,
    };
    let secret = secret.filter(|_| !barred);
    let peer = Keyed {
        id,
        secret,
        word,
        barred,
    };
    (Some(peer), grant)
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

/// What the file says, if it is a regular one, and whether it is open to others than its owner.
///
/// The type is looked at before opening, since opening a device may do something; and again on
/// the descriptor, since it may have changed in between.
fn check(path: &Path) -> Result<(Content, bool), Refusal> {
    if !fs::metadata(path).map_err(Refusal::Unreadable)?.is_file() {
        return Err(Refusal::NotRegular);
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(Refusal::Unreadable)?;
    let status = file.metadata().map_err(Refusal::Unreadable)?;
    if !status.is_file() {
        return Err(Refusal::NotRegular);
    }
    // On the stack, to be overwritten: what grows leaves copies behind.
    let mut content = [0; MAX_CONTENT + 1];
    let len = read_whole(file, &mut content).map_err(Refusal::Unreadable)?;
    let found = match len > MAX_CONTENT {
        true => Err(Refusal::TooLarge),
        false => secret::parse(&content[..len]).map_err(Refusal::NotUnderstood),
    };
    content.fill(0);
    black_box(&content);
    Ok((found?, status.permissions().mode() & 0o077 != 0))
}

/// Fills the buffer as far as the file goes.
fn read_whole(mut file: File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUnderstood(fault) => write!(f, "{fault}"),
            Self::NotKeyed => f.write_str("has no key, and -K asks for one"),
            Self::Weaker(word) => write!(
                f,
                "protects less than before, which was {word}, and is not believed: see Keys in \
                 jtunnel(7)"
            ),
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
        let mut authorized = Authorized::new(directory.to_owned(), false, start);
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
        let huge = File::create(directory.join(&names[5])).expect("a file");
        huge.set_len(1 << 30).expect("a hole of a gigabyte");
        write(&directory, "0123456789ABCDEF", b"");
        write(&directory, "short", b"");
        write(&directory, ".keep", b"");

        let mut authorized = Authorized::new(directory.to_owned(), false, now);
        let mut findings = authorized.replace(now);
        assert_eq!(authorized.count(), 0);
        findings.sort();
        let too_large = "is larger than 4096 bytes";
        let not_regular = "is not a regular file";
        let path = directory.display();
        let expected: Vec<String> = [
            String::new(),
            format!(
                "refused {path}/0000...: it does not begin with `seal` or `sign` and one space"
            ),
            format!("refused {path}/1000...: {too_large}"),
            format!("refused {path}/2000...: {not_regular}"),
            format!("refused {path}/3000...: {not_regular}"),
            format!("refused {path}/4000...: {not_regular}"),
            format!("refused {path}/5000...: {too_large}"),
        ]
        .into();
        // Which one it is, is the file system's affair.
        let ignored = std::mem::take(&mut findings[0]);
        let start =
            format!("ignored 2 names in {path} that are not 16 lower-case hex digits, such as ");
        let example = ignored.strip_prefix(&start);
        assert!(
            matches!(example, Some("\"0123\"..." | "\"shor\"...")),
            "{ignored}"
        );
        assert_eq!(findings, expected);
        let again = authorized.add(now + RESCAN_INTERVAL);
        assert!(again.is_empty(), "each is reported once: {again:?}");
    }

    #[test]
    fn a_directory_that_vanishes_changes_nothing() {
        let (directory, now) = (Directory::new(), Instant::now());
        write(&directory, A, b"");
        let mut authorized = Authorized::new(directory.to_owned(), false, now);
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
