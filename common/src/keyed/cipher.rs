//! Keyed hash, key agreement and authenticated encryption: the one file that knows the crates.

use std::hint::black_box;

use blake2::Blake2sMac256;
use blake2::digest::{KeyInit as _, Mac as _};
use chacha20::cipher::{Block as CipherBlock, StreamCipherCore as _};
use chacha20::variants::Ietf;
use chacha20::{ChaChaCore, KeyIvInit as _, R20};
use poly1305::universal_hash::UniversalHash as _;
use poly1305::{Block, Poly1305};

use super::Random;

pub(super) const KEY_LEN: usize = 32;
/// Bytes behind the payload.
pub const TAG_LEN: usize = 16;

/// A public key of X25519.
pub(super) type Public = [u8; 32];

/// 32 secret bytes. They can neither be copied nor shown, and are overwritten when dropped. What a
/// move leaves behind is not: what lives long is dropped where it lies, or moved in its box.
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
        are_same(&self.0, &other.0)
    }
}

/// Whether both of one length are the same, in a time that does not tell where they differ.
fn are_same<const N: usize>(some: &[u8; N], other: &[u8; N]) -> bool {
    let pairs = some.iter().zip(other);
    pairs.fold(0, |differ, (a, b)| black_box(differ | (a ^ b))) == 0
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

/// BLAKE2s-256 (RFC 7693) of the parts one behind the other. Once in the file, not once for each of its callers.
#[inline(never)]
pub(super) fn hash(key: &Key, parts: &[&[u8]]) -> Key {
    Key::new(keyed(key, parts).finalize().into_bytes().into())
}

/// Whether the tag is the start of the hash. Takes as long when it is not.
pub(super) fn is_hash(key: &Key, bytes: &[u8], tag: &[u8]) -> bool {
    keyed(key, &[bytes]).verify_truncated_left(tag).is_ok()
}

/// A fresh private key, behind its public one. `None` while there are no random numbers.
pub(super) fn key_pair(random: Random<'_>) -> Option<(Public, Key)> {
    let mut private = Key::new([0; KEY_LEN]);
    random(private.bytes_mut()).then(|| (public(&private), private))
}

/// The public key of a private one.
pub(super) fn public(private: &Key) -> Public {
    x25519_dalek::x25519(*private.bytes(), x25519_dalek::X25519_BASEPOINT_BYTES)
}

/// X25519 (RFC 7748). `None` if the other's is a point of small order, whose result anybody knows.
pub(super) fn agree(private: &Key, other: &Public) -> Option<Key> {
    let shared = Key::new(x25519_dalek::x25519(*private.bytes(), *other));
    (shared.bytes() != &[0; KEY_LEN]).then_some(shared)
}

// ChaCha20-Poly1305 (RFC 8439, 2.8), put together here and not by the crate of that name: there the
// function for a block of Poly1305 has many callers, so that it is a call for each 16 bytes. On MIPS
// a signed packet costs an eighth less this way.

/// Encrypts the text in place. `None` for a text too long for it.
pub(super) fn seal(key: &Key, counter: u32, aad: &[u8], text: &mut [u8]) -> Option<[u8; TAG_LEN]> {
    let (cipher, mac) = start(key, counter);
    cipher
        .try_apply_keystream_partial((&mut *text).into())
        .ok()?;
    Some(tag(mac, aad, text))
}

/// Decrypts the text in place. If the tag is not right it stays as it is.
pub(super) fn open(
    key: &Key,
    counter: u32,
    aad: &[u8],
    text: &mut [u8],
    expected: &[u8; TAG_LEN],
) -> bool {
    let (cipher, mac) = start(key, counter);
    are_same(&tag(mac, aad, text), expected)
        && cipher.try_apply_keystream_partial(text.into()).is_ok()
}

type ChaCha20 = ChaChaCore<R20, Ietf>;

/// The cipher at its second block; of the first one half is the key of Poly1305 (RFC 8439, 2.6).
#[inline]
fn start(key: &Key, counter: u32) -> (ChaCha20, Poly1305) {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&counter.to_be_bytes());
    let mut cipher = ChaCha20::new(key.bytes().into(), &nonce.into());
    let mut first = CipherBlock::<ChaCha20>::default();
    cipher.write_keystream_block(&mut first);
    let (mac_key, _) = first.split_ref();
    (cipher, Poly1305::new(mac_key))
}

/// Of both, each filled up to whole blocks, and their lengths.
fn tag(mut mac: Poly1305, aad: &[u8], text: &[u8]) -> [u8; TAG_LEN] {
    let mut lengths = Block::default();
    let (aad_len, text_len) = lengths.split_at_mut(8);
    aad_len.copy_from_slice(&(aad.len() as u64).to_le_bytes());
    text_len.copy_from_slice(&(text.len() as u64).to_le_bytes());
    for part in [aad, text] {
        let (blocks, rest) = Block::slice_as_chunks(part);
        absorb(&mut mac, blocks);
        if !rest.is_empty() {
            let mut padded = Block::default();
            padded[..rest.len()].copy_from_slice(rest);
            absorb(&mut mac, &[padded]);
        }
    }
    absorb(&mut mac, &[lengths]);
    mac.finalize().into()
}

/// The one caller of the function for a block, which is compiled into it.
#[inline(never)]
fn absorb(mac: &mut Poly1305, blocks: &[Block]) {
    mac.update(blocks);
}

#[cfg(test)]
mod tests {
    use super::super::testing::WEAK;
    use super::*;

    /// Without them small packets cost five times as much. RUSTFLAGS replace those of
    /// .cargo/config.toml.
    #[test]
    fn backends() {
        for (name, is_chosen) in [
            ("chacha20", cfg!(chacha20_backend = "soft")),
            ("poly1305", cfg!(poly1305_backend = "soft")),
            (
                "curve25519_dalek",
                cfg!(curve25519_dalek_backend = "serial"),
            ),
        ] {
            assert!(is_chosen, "built without --cfg {name}_backend");
        }
    }

    /// What the crate of that name makes is the same, and each opens what the other sealed.
    #[test]
    fn second_opinion() {
        use chacha20poly1305::{AeadInOut as _, ChaCha20Poly1305};

        let bytes = [0x5a; KEY_LEN];
        let (key, other) = (Key::new(bytes), ChaCha20Poly1305::new(&bytes.into()));
        for counter in [1, 258, u32::MAX] {
            let mut nonce = [0; 12];
            nonce[8..].copy_from_slice(&counter.to_be_bytes());
            for (aad_len, text_len) in (0..150).flat_map(|n| [(16, n), (n, 0), (n, 7)]).chain([
                (16, 1420),
                (1436, 0),
                (16, 65_000),
            ]) {
                let text: Vec<u8> = (0..=255).cycle().take(text_len).collect();
                let (aad, mut ours, mut theirs) = (vec![3; aad_len], text.clone(), text.clone());
                let tag = seal(&key, counter, &aad, &mut ours).expect("not too long");
                let their_tag =
                    other.encrypt_inout_detached(&nonce.into(), &aad, theirs.as_mut_slice().into());
                assert_eq!(tag, <[u8; TAG_LEN]>::from(their_tag.expect("not too long")));
                assert!(ours == theirs, "{aad_len}, {text_len}");
                let mut wrong = tag;
                wrong[text_len % TAG_LEN] ^= 1;
                assert!(!open(&key, counter, &aad, &mut ours, &wrong) && ours == theirs);
                assert!(open(&key, counter, &aad, &mut ours, &tag) && ours == text);
            }
        }
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn agreement() {
        let key = |digits: &str| {
            let mut bytes = [0; KEY_LEN];
            hex::decode_to_slice(digits, &mut bytes).expect("64 digits");
            bytes
        };
        let bob = Key::new(key(
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        ));
        let alice = key("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        assert_eq!(
            agree(&bob, &alice).expect("a good point").bytes(),
            &key("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
        );
        assert_eq!(
            public(&bob),
            key("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        );
    }

    #[test]
    fn weak_points() {
        let private = Key::new([7; KEY_LEN]);
        for point in WEAK {
            let mut bytes = [0; KEY_LEN];
            hex::decode_to_slice(point, &mut bytes).expect("64 digits");
            assert!(agree(&private, &bytes).is_none(), "{point}");
            // The highest bit is not looked at.
            bytes[31] ^= 0x80;
            assert!(agree(&private, &bytes).is_none(), "{point}");
        }
    }

    #[test]
    fn comparison() {
        let key = Key::new([7; KEY_LEN]);
        assert!(key.is_same(&Key::new([7; KEY_LEN])));
        for bit in 0..256 {
            let mut other = [7; KEY_LEN];
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.is_same(&Key::new(other)), "{bit}");
        }
    }
}
