//! This host's own identifier, `DIR/id`: read, or made on first use.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkdir;

use crate::error::{Context, Error, Result};
use crate::id::{NotAnId, PeerId};
use crate::options::Common;
use crate::sys;

/// The largest content that can be an identifier with white space around it, in bytes.
const MAX_CONTENT: u64 = 64;

/// The identifier that `-i` gives, or else that in `DIR/id`.
pub fn of(options: &Common, peers: &str) -> Result<PeerId> {
    match options.id {
        Some(id) => Ok(id),
        None => load(&options.directory, peers),
    }
}

/// Reads `DIR/id`, making it first if it is missing, and `DIR/PEERS` for the files of the peers.
fn load(directory: &Path, peers: &str) -> Result<PeerId> {
    let path = directory.join("id");
    let id = read_or_make(directory, &path)?;
    // `touch` is to work at once. Without it there is a warning later.
    let _ = private_directory(&directory.join(peers));
    Ok(id)
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
            read(path).context(|| format!("read {}", path.display()))
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
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it exists").permissions().mode() & 0o7777
    }

    #[test]
    fn made_once_and_private() {
        let random: [u8; 8] = sys::random().expect("getrandom works");
        let directory = std::env::temp_dir().join(format!("jtunnel-{}", hex::encode(random)));
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
        fs::remove_dir_all(&directory).expect("it is ours");
    }
}
