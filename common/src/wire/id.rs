//! The 8-byte identifier of a peer and its hex form.

use std::fmt;
use std::str::FromStr;

/// An identifier: 8 random bytes, written as 16 lower-case hex digits.
///
/// It works like a password, so `Display` and `Debug` show the first 4 digits only.
/// The full form has a name of its own, [`PeerId::hex`].
///
/// A number, since it is looked up for each packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerId(u64);

/// The text is not 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnId;

impl PeerId {
    /// Length on the wire, in bytes.
    pub const LEN: usize = 8;

    /// An identifier of these bytes, in wire order.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    /// The bytes in wire order.
    pub const fn bytes(self) -> [u8; Self::LEN] {
        self.0.to_be_bytes()
    }

    /// The first 4 digits, as logs show them.
    pub fn first_digits(self) -> String {
        format!("{:04x}", self.0 >> 48)
    }

    /// All 16 digits: for file names and `TUN_CLIENT_ID`, never for a log.
    pub fn hex(&self) -> String {
        hex::encode(self.bytes())
    }
}

impl FromStr for PeerId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        // That of the library takes upper case and a sign too. One spelling only, since it is a file
        // name as well.
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 2 * Self::LEN || !text.bytes().all(is_digit) {
            return Err(NotAnId);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| NotAnId)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}...", self.0 >> 48)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an identifier of 16 lower-case hex digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let id: PeerId = "0123456789abcdef".parse().expect("a good identifier");
        assert_eq!(id.bytes(), [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        assert_eq!(id.hex(), "0123456789abcdef");
    }

    #[test]
    fn one_spelling_only() {
        for text in [
            "",
            "0123456789abcde",
            "0123456789abcdef0",
            "0123456789ABCDEF",
            "0123456789abcdeg",
            " 123456789abcdef",
            "0123456789abcdé",
        ] {
            assert_eq!(text.parse::<PeerId>(), Err(NotAnId), "{text:?}");
        }
    }

    #[test]
    fn shows_four_digits_only() {
        let id = PeerId::from_bytes([0x1a, 0x2b, 3, 4, 5, 6, 7, 8]);
        assert_eq!(format!("{id} {id:?}"), "1a2b... 1a2b...");
    }
}
