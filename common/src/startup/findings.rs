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
    let own = identity::of(options, peers).ok();
    let peers = directory.join(peers);
    let (mut count, mut has_own) = (0, false);
    let mut of_another = None;
    for path in [directory, &directory.join("id"), &peers] {
        if let Some(owner) = other_owner(path) {
            of_another = Some((path.display().to_string(), owner));
        }
    }
    // What can't be read has a line of its own.
    let entries = fs::read_dir(&peers);
    let is_readable = entries.is_ok();
    for entry in entries.into_iter().flatten() {
        let Ok(entry) = entry else { break };
        if let Some(owner) = other_owner(&entry.path()) {
            // The name may be an identifier.
            of_another = Some((format!("a file in {}", peers.display()), owner));
        }
        let name = entry.file_name();
        if let Some(Ok(id)) = name.to_str().map(str::parse::<PeerId>) {
            count += 1;
            has_own |= Some(id) == own;
        }
    }
    if let Some((what, owner)) = of_another {
        findings.push(format!(
            "{what} belongs to user {owner}, who can change it: chown -R root {}",
            directory.display()
        ));
    }
    let path = peers.display();
    if by_files && is_readable && count == 0 {
        findings.push(format!(
            "nobody is authorised in {path}: the identifier that the other end prints with -I is \
             to be the name of a file there"
        ));
    }
    if by_files
        && has_own
        && let Some(own) = own
    {
        findings.push(format!(
            "{path}/{own} is this host's own identifier: that of the other end belongs there"
        ));
    }
    findings.extend(absent_address(options));
    findings
}

/// An owner who is not root can change what is in a file or directory, whatever its mode.
#[inline(never)]
fn other_owner(path: &Path) -> Option<u32> {
    let owner = fs::metadata(path).ok()?.uid();
    (owner != 0).then_some(owner)
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
