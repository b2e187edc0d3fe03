//! A configuration directory: the own identifier and the authorised peers.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::host::Host;

/// The server's identifier.
pub const SERVER_ID: &str = "face0123456789ab";

/// A key, as it stands in files.
pub const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// The identifier of client `number`: its first four digits are the number, so that log lines,
/// which show no more, tell the clients apart.
pub fn client_id(number: u16) -> String {
    format!("{number:04x}5eed{number:04x}{:04x}", !number)
}

/// The line of a peer's file whose link is protected by this word, always with the same key.
pub fn key_line(word: &str) -> String {
    format!("{word} {KEY}\n")
}

/// An identifier as logs show it.
pub fn shown(id: &str) -> String {
    format!("{}...", &id[..4])
}

/// An identifier's bytes.
pub fn bytes(id: &str) -> [u8; 8] {
    u64::from_str_radix(id, 16).unwrap().to_be_bytes()
}

/// A configuration directory.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory itself, for option `-d`.
    pub path: PathBuf,
    peers: &'static str,
}

impl Config {
    /// One for jtunneld on this host.
    pub fn server(host: &Host, name: &str, id: &str) -> Self {
        Self::new(host.path(name), "clients", id)
    }

    /// One for jtunnel-client on this host.
    pub fn client(host: &Host, name: &str, id: &str) -> Self {
        Self::new(host.path(name), "servers", id)
    }

    fn new(path: PathBuf, peers: &'static str, id: &str) -> Self {
        fs::create_dir_all(path.join(peers)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(path.join("id"), format!("{id}\n")).unwrap();
        fs::set_permissions(path.join("id"), fs::Permissions::from_mode(0o600)).unwrap();
        Self { path, peers }
    }

    /// The directory of the peers.
    pub fn peers(&self) -> PathBuf {
        self.path.join(self.peers)
    }

    /// The file of a peer.
    pub fn peer(&self, id: &str) -> PathBuf {
        self.peers().join(id)
    }

    /// Authorises a peer, with the protection of `JTUNNEL_WORD` if there is one.
    pub fn authorise(&self, id: &str) {
        let line = env::var("JTUNNEL_WORD").map(|word| key_line(&word));
        self.key(id, &line.unwrap_or_default());
    }

    /// Authorises a peer with this line, as a careful administrator does: under another name first.
    pub fn key(&self, id: &str, line: &str) {
        let new = self.peers().join(".new");
        fs::write(&new, line).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&new, self.peer(id)).unwrap();
    }

    /// Takes the authorisation of a peer away; effective at HUP.
    pub fn revoke(&self, id: &str) {
        fs::remove_file(self.peer(id)).unwrap();
    }
}
