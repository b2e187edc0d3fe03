//! Keyed hash, key agreement and authenticated encryption: the one file that knows the crates.

use std::hint::black_box;

use blake2::Blake2sMac256;
use blake2::digest::{KeyInit as _, Mac as _};
use chacha20poly1305::{AeadInOut as _, ChaCha20Poly1305, Nonce, Tag};

pub(super) const KEY_LEN: usize = 32;
/// Bytes behind the payload.
pub const TAG_LEN: usize = 16;

/// A public key of X25519.
pub(super) type Public = [u8; 32];

/// 32 secret bytes. They can neither be copied nor shown, and are overwritten when dropped.
pub(super) struct Key([u8; KEY_LEN]);

impl Key {
    pub(super) fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8; KEY_LEN] {
        &mut self.0
    }

    /// In a time that does not tell where they differ.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        pairs.fold(0, |differ, (a, b)| black_box(differ | (a ^ b))) == 0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.fill(0);
        // Or the compiler leaves out what nobody reads.
        black_box(&mut self.0);
    }
}

fn keyed(key: &Key, parts: &[&[u8]]) -> Blake2sMac256 {
    let mut mac = Blake2sMac256::new(key.bytes().into());
    for part in parts {
        mac.update(part);
    }
    mac
}

/// BLAKE2s-256 (RFC 7693) of the parts one behind the other.
pub(super) fn hash(key: &Key, parts: &[&[u8]]) -> Key {
    Key::new(keyed(key, parts).finalize().into_bytes().into())
}

/// Whether the tag is the start of the hash. Takes as long when it is not.
pub(super) fn is_hash(key: &Key, bytes: &[u8], tag: &[u8]) -> bool {
    keyed(key, &[bytes]).verify_truncated_left(tag).is_ok()
}

/// The public key of a private one.
pub(super) fn public(private: &Key) -> Public {
    x25519_dalek::x25519(*private.bytes(), x25519_dalek::X25519_BASEPOINT_BYTES)
}

/// X25519 (RFC 7748). `None` if the other's is a point of small order, whose result anybody knows.
pub(super) fn agree(private: &Key, other: &Public) -> Option<Key> {
    let shared = Key::new(x25519_dalek::x25519(*private.bytes(), *other));
    shared
        .bytes()
        .iter()
        .any(|byte| *byte != 0)
        .then_some(shared)
}

/// Encrypts the text in place with ChaCha20-Poly1305 (RFC 8439). `None` for a text too long for it.
pub(super) fn seal(key: &Key, counter: u32, aad: &[u8], text: &mut [u8]) -> Option<[u8; TAG_LEN]> {
    let tag = cipher(key).encrypt_inout_detached(&nonce(counter), aad, text.into());
    tag.ok().map(Into::into)
}

/// Decrypts the text in place. If the tag is not right it stays as it is.
pub(super) fn open(
    key: &Key,
    counter: u32,
    aad: &[u8],
    text: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> bool {
    let tag: &Tag = tag.into();
    let opened = cipher(key).decrypt_inout_detached(&nonce(counter), aad, text.into(), tag);
    opened.is_ok()
}

/// It is made for each packet: there is nothing in it but the key, which it would not overwrite.
#[inline]
fn cipher(key: &Key) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(key.bytes().into())
}

#[inline]
fn nonce(counter: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&counter.to_be_bytes());
    nonce.into()
}
