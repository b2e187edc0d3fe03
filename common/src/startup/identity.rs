//! This host's own identifier, `DIR/id`: read, or made on first use.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkdir;

use crate::report::error::{Context, Error, Result};
use crate::report::log;
use crate::startup::options::Common;
use crate::sys;
use crate::wire::id::{NotAnId, PeerId};

/// The largest content that can be an identifier with white space around it, in bytes.
const MAX_CONTENT: u64 = 64;

/// The identifier that `-i` gives, or else that in `DIR/id`.
pub fn of(options: &Common, peers: &str) -> Result<PeerId> {
    match options.id {
        Some(id) => Ok(id),
        None => load(&options.directory, peers),
    }
}

/// The same for `-I`, by which a host is introduced: it may be both client and server, so the
/// files of both kinds of peers have a place from then on.
pub(super) fn introduce(options: &Common) -> Result<PeerId> {
    let id = of(options, "clients")?;
    if options.id.is_none() {
        let _ = private_directory(&options.directory.join("servers"));
    }
    Ok(id)
}

/// Reads `DIR/id`, making it first if it is missing, and `DIR/PEERS` for the files of the peers.
fn load(directory: &Path, peers: &str) -> Result<PeerId> {
    let path = directory.join("id");
    let id = read_or_make(directory, &path)?;
    // `touch` is to work at once. Without it there is a warning later.
    let _ = private_directory(&directory.join(peers));
    Ok(id)
}

/// What is open to other users though identifiers are in it, as content or as names of files.
pub(super) fn exposure(directory: &Path, peers: &str) -> Option<String> {
    let open = |path: &Path, bits| {
        fs::metadata(path).is_ok_and(|status| status.permissions().mode() & bits != 0)
    };
    // Who may not enter the directory gets at nothing in it.
    if !open(directory, 0o011) {
        return None;
    }
    let (id, peers) = (directory.join("id"), directory.join(peers));
    let places = [(directory, 0o022), (&id, 0o066), (&peers, 0o066)];
    let (path, _) = places.into_iter().find(|&(path, bits)| open(path, bits))?;
    Some(format!(
        "other users can get at {}, and identifiers work like passwords: chmod 700 {}",
        path.display(),
        directory.display()
    ))
}

fn read_or_make(directory: &Path, path: &Path) -> Result<PeerId> {
    match read(path) {
        Ok(id) => Ok(id),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(directory, path).map_err(|error| Error::System {
                doing: format!(
                    "write {} (option -i gives an identifier without a file)",
                    path.display()
                ),
                source: error,
            })?;
            // Read back: another program may have been faster.
            let id = read(path).context(|| format!("read {}", path.display()))?;
            // A slip in -d, or a flash that was lost, is seen at once.
            log::warning(format_args!(
                "made a new identifier {id} in {}",
                path.display()
            ));
            Ok(id)
        }
        Err(error) => Err(error).context(|| format!("read {}", path.display())),
    }
}

fn read(path: &Path) -> io::Result<PeerId> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = String::new();
    file.take(MAX_CONTENT).read_to_string(&mut content)?;
    content
        .trim_ascii()
        .parse()
        .map_err(|e: NotAnId| io::Error::other(e.to_string()))
}

/// Writes a new identifier so that it is there whole or not at all, whenever the power fails.
fn make(directory: &Path, path: &Path) -> io::Result<()> {
    private_directory(directory)?;
    let temporary = directory.join(format!(".id.{}", std::process::id()));
    let id = PeerId::from_bytes(sys::random()?);
    let result = write(&temporary, id).and_then(|()| publish(&temporary, path));
    let _ = fs::remove_file(&temporary);
    result?;
    File::open(directory)?.sync_all()
}

fn write(temporary: &Path, id: PeerId) -> io::Result<()> {
    // A process of the same number may have left one behind when the power failed.
    let _ = fs::remove_file(temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)?;
    writeln!(file, "{}", id.hex())?;
    file.sync_all()
}

/// A hard link does not replace what another program has put there in the meantime, a rename
/// does; FAT knows renames only.
fn publish(temporary: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => fs::rename(temporary, path),
        Ok(()) => Ok(()),
    }
}

/// Makes a directory, and those that it is to be in, unless it is there.
fn private_directory(path: &Path) -> io::Result<()> {
    match (mkdir(path, Mode::S_IRWXU), path.parent()) {
        (Err(Errno::ENOENT), Some(parent)) => {
            private_directory(parent)?;
            Ok(mkdir(path, Mode::S_IRWXU)?)
        }
        (Err(Errno::EEXIST), _) if path.is_dir() => Ok(()),
        (result, _) => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Directory;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it exists").permissions().mode() & 0o7777
    }

    #[test]
    fn made_once_and_private() {
        let parent = Directory::new();
        let directory = parent.join("jtunnel");
        let first = load(&directory, "clients").expect("a writable directory");
        let second = load(&directory, "clients").expect("a readable file");
        assert_eq!(first, second);
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("clients")), 0o700);
        assert_eq!(mode(&directory.join("id")), 0o600);
        let names: Vec<_> = fs::read_dir(&directory)
            .expect("readable")
            .flatten()
            .collect();
        assert_eq!(names.len(), 2, "no temporary file is left");

        fs::write(directory.join("id"), "0123456789ABCDEF\n").expect("writable");
        let error = load(&directory, "clients").expect_err("upper case is refused");
        assert!(
            error
                .to_string()
                .ends_with("not an identifier of 16 lower-case hex digits")
        );
    }

    #[test]
    fn what_other_users_can_get_at() {
        let parent = Directory::new();
        let directory = parent.join("jtunnel");
        load(&directory, "clients").expect("a writable directory");
        let (id, clients) = (directory.join("id"), directory.join("clients"));
        for (modes, found) in [
            ([0o700, 0o600, 0o700], None),
            ([0o755, 0o600, 0o700], None),
            ([0o700, 0o644, 0o755], None),
            ([0o744, 0o644, 0o755], None),
            ([0o750, 0o640, 0o700], Some(&id)),
            ([0o711, 0o600, 0o755], Some(&clients)),
            ([0o755, 0o600, 0o720], Some(&clients)),
            ([0o775, 0o600, 0o700], Some(&directory)),
        ] {
            for (path, mode) in [&directory, &id, &clients].into_iter().zip(modes) {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
            }
            let told = exposure(&directory, "clients");
            let start = found.map(|path| format!("other users can get at {}, ", path.display()));
            assert_eq!(told.is_some(), start.is_some(), "{modes:?}: {told:?}");
            assert!(
                told.unwrap_or_default()
                    .starts_with(&start.unwrap_or_default())
            );
        }
    }
}
