//! The bytes of OPEN and CHAL.

use super::Id;
use super::cipher::{Key, Public, TAG_LEN, hash, is_hash};

/// Type of the message in which a client opens a session.
pub(super) const OPEN: u8 = 0x11;
/// Type of the message in which a server challenges a client.
pub(super) const CHALLENGE: u8 = 0x12;

/// Bytes of either before its tag.
const TAGGED: usize = 80;

/// A handshake as it travels.
pub(super) type Handshake = [u8; TAGGED + TAG_LEN];

/// What an OPEN or a CHAL says.
pub(super) struct Content {
    /// Of the OPEN, or of the one answered; zero in a nudge.
    pub(super) number: u32,
    /// The client's public key; in a nudge header and tag of what could not be read.
    pub(super) ec: Public,
    /// The server's public key; zero in an OPEN that knows none.
    pub(super) es: Public,
}

/// The datagram of this content, from `sender`.
pub(super) fn encode(sender: &Id, kind: u8, content: &Content, key: &Key) -> Vec<u8> {
    let (number, reserved) = (content.number.to_be_bytes(), [0; 3]);
    let parts: [&[u8]; 6] = [
        sender,
        &[kind],
        &reserved,
        &number,
        &content.ec,
        &content.es,
    ];
    let mut bytes = parts.concat();
    let tag = hash(key, &[&bytes]);
    bytes.extend_from_slice(&tag.bytes()[..TAG_LEN]);
    bytes
}

/// What the datagram says, if its tag is right.
pub(super) fn decode(bytes: &Handshake, key: &Key) -> Option<Content> {
    let (tagged, tag) = bytes.split_at(TAGGED);
    if !is_hash(key, tagged, tag) {
        return None;
    }
    let (number, keys) = tagged[12..].split_first_chunk()?;
    let (ec, es) = keys.split_first_chunk()?;
    Some(Content {
        number: u32::from_be_bytes(*number),
        ec: *ec,
        es: *es.first_chunk()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_bit() {
        let content = Content {
            number: 0x0102_0304,
            ec: [5; 32],
            es: [6; 32],
        };
        let key = Key::new([7; 32]);
        let bytes = encode(&[8; 8], OPEN, &content, &key);
        let bytes: Handshake = bytes.try_into().expect("96 bytes");
        let decoded = decode(&bytes, &key).expect("the right tag");
        assert_eq!(
            (decoded.number, decoded.ec, decoded.es),
            (content.number, content.ec, content.es)
        );
        assert!(decode(&bytes, &Key::new([9; 32])).is_none());
        for bit in 0..8 * bytes.len() {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes, &key).is_none(), "bit {bit}");
        }
    }
}
