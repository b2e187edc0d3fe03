//! What a start is to say: it works, but the tunnel won't, or not as the administrator thinks.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::startup::identity;
use crate::startup::options::Common;
use crate::wire::id::PeerId;

/// All that there is to say; `peers` is the directory in DIR of those that may come in, if files
/// there decide on it.
#[cold]
pub(crate) fn of(options: &Common, peers: &str, by_files: bool) -> Vec<String> {
    let directory = &options.directory;
    let mut findings = Vec::new();
    findings.extend(identity::exposure(directory, peers));
    findings.extend(owner(directory, peers));
    if by_files && let Ok(id) = identity::of(options, peers) {
        findings.extend(authorisation(&directory.join(peers), id));
    }
    findings.extend(absent_address(options));
    findings
}

/// Somebody else can change what is in a file or directory of his, whatever its mode.
fn owner(directory: &Path, peers: &str) -> Option<String> {
    let peers = directory.join(peers);
    let files = names(&peers).map(|name| peers.join(name));
    let places = [directory.to_owned(), directory.join("id"), peers.clone()];
    let (path, owner) = places.into_iter().chain(files).find_map(|path| {
        let owner = fs::metadata(&path).ok()?.uid();
        (owner != 0).then_some((path, owner))
    })?;
    // The name may be an identifier.
    let path = match path.parent() == Some(&peers) {
        true => format!("a file in {}", peers.display()),
        false => path.display().to_string(),
    };
    let directory = directory.display();
    Some(format!(
        "{path} belongs to user {owner}, who can change it: chown -R root {directory}"
    ))
}

/// Whether nobody can come in, or the wrong identifier was taken there.
fn authorisation(peers: &Path, own: PeerId) -> Option<String> {
    let path = peers.display();
    // What can't be read has a line of its own.
    fs::read_dir(peers).ok()?;
    let mut ids = names(peers).filter_map(|name| name.parse::<PeerId>().ok());
    match ids.next() {
        None => Some(format!(
            "nobody is authorised in {path}: the identifier that the other end prints with -I is \
             to be the name of a file there"
        )),
        Some(first) if first == own || ids.any(|id| id == own) => Some(format!(
            "{path}/{own} is this host's own identifier: that of the other end belongs there"
        )),
        Some(_) => None,
    }
}

/// The names in a directory.
fn names(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// `-b` takes an address that is not there yet, and so one with a slip in it.
fn absent_address(options: &Common) -> Option<String> {
    let mut address = options.bind_address?;
    address.set_port(0);
    let error = UdpSocket::bind(address).err()?;
    let is_absent = error.kind() == io::ErrorKind::AddrNotAvailable;
    is_absent.then(|| {
        let address = address.ip();
        format!("no interface has the address {address} yet: nothing is received until one has")
    })
}
