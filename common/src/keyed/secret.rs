//! What a peer's file holds: nothing, or the line of a keyed link.

use std::fmt;

use super::cipher::{KEY_LEN, Key, hash};

/// Digits of a key.
const DIGITS: usize = 2 * KEY_LEN;

/// How a keyed link is protected: the first word of the line. The larger is the stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// Authenticated, protected against replay, readable.
    Sign,
    /// The same, and encrypted.
    Seal,
}

impl Word {
    /// The word as it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Seal => "seal",
        }
    }

    /// The word of this name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "sign" => Some(Self::Sign),
            "seal" => Some(Self::Seal),
            _ => None,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a peer's file says.
pub enum Content {
    /// It is empty, but for white space.
    Plain,
    /// It holds a line with a key.
    Keyed(Secret),
}

/// A word and a key. Neither copied nor shown; the key is overwritten when dropped.
pub struct Secret {
    word: Word,
    key: Key,
}

/// What the content of a peer's file says: nothing, or one line, `seal HEX` or `sign HEX`. Else what
/// is wrong, without any of it: it may be most of a key.
pub fn parse(content: &[u8]) -> Result<Content, String> {
    if content.trim_ascii().is_empty() {
        return Ok(Content::Plain);
    }
    let (word, digits) = match content.split_first_chunk() {
        Some((b"sign ", digits)) => (Word::Sign, digits),
        Some((b"seal ", digits)) => (Word::Seal, digits),
        _ => return Err("it does not begin with `seal` or `sign` and one space".into()),
    };
    let digits = digits.strip_suffix(b"\n").unwrap_or(digits);
    if digits.trim_ascii_end().len() < digits.len() {
        return Err("there is more than a newline behind the key".into());
    }
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err("its key has a character that is no hex digit".into());
    }
    let mut key = Key::new([0; KEY_LEN]);
    hex::decode_to_slice(digits, key.bytes_mut())
        .map_err(|_| format!("its key has {} digits instead of {DIGITS}", digits.len()))?;
    if key.bytes() == &[0; KEY_LEN] {
        return Err("its key is all 0".into());
    }
    Ok(Content::Keyed(Secret { word, key }))
}

/// A new line with these random bytes as its key, newline included: the output of `-G`.
pub fn line(word: Word, random: &[u8; KEY_LEN]) -> String {
    format!("{word} {}\n", hex::encode(random))
}

/// As in `seal, check value 27f02d6d`: equal on both ends, and tells nothing about the key.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = self.derive("show", &[]);
        let check = hex::encode(&hash.bytes()[..4]);
        write!(f, "{}, check value {check}", self.word)
    }
}

impl Secret {
    /// How it protects.
    pub fn word(&self) -> Word {
        self.word
    }

    /// Whether both are the same word and key.
    pub fn is_same(&self, other: &Self) -> bool {
        self.word == other.word && self.key.is_same(&other.key)
    }

    /// A key for one use, named by its label.
    pub(super) fn derive(&self, label: &str, parts: &[&[u8]]) -> Key {
        let head = format!("jtunnel1 {} {label}", self.word);
        hash(&self.key, &[&[head.as_bytes()], parts].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eFF";

    fn parsed(content: &str) -> Result<Option<Word>, String> {
        parse(content.as_bytes()).map(|content| match content {
            Content::Plain => None,
            Content::Keyed(secret) => Some(secret.word()),
        })
    }

    #[test]
    fn plain() {
        for content in ["", " ", "\n", " \t\r\n\n"] {
            assert_eq!(parsed(content), Ok(None), "{content:?}");
        }
    }

    #[test]
    fn keyed() {
        assert_eq!(parsed(&format!("seal {HEX}")), Ok(Some(Word::Seal)));
        assert_eq!(parsed(&format!("sign {HEX}\n")), Ok(Some(Word::Sign)));
    }

    #[test]
    fn anything_else_is_refused() {
        let short = &HEX[1..];
        let word = "it does not begin with `seal` or `sign` and one space";
        let digit = "its key has a character that is no hex digit";
        let rest = "there is more than a newline behind the key";
        for (content, fault) in [
            (HEX.to_string(), word),
            ("seal".to_string(), word),
            (format!(" seal {HEX}"), word),
            (format!("Seal {HEX}"), word),
            (format!("seal\t{HEX}"), word),
            (format!("plain {HEX}"), word),
            ("\0".to_string(), word),
            (format!("seal  {HEX}"), digit),
            ("seal ".to_string(), "its key has 0 digits instead of 64"),
            (
                format!("seal {short}"),
                "its key has 63 digits instead of 64",
            ),
            (
                format!("seal {HEX}00\n"),
                "its key has 66 digits instead of 64",
            ),
            (
                format!("seal {HEX}0\n"),
                "its key has 65 digits instead of 64",
            ),
            (format!("seal {short}g"), digit),
            (format!("seal {short}é"), digit),
            (format!("seal {HEX} "), rest),
            (format!("seal {HEX}\r\n"), rest),
            (format!("seal {HEX}\n\n"), rest),
            (format!("seal {HEX}\nsign {HEX}\n"), digit),
            (format!("sign {}", "0".repeat(64)), "its key is all 0"),
        ] {
            assert_eq!(parsed(&content), Err(fault.to_string()), "{content:?}");
        }
    }

    #[test]
    fn a_new_line_is_understood() {
        for word in [Word::Sign, Word::Seal] {
            let line = line(word, &[0xa5; KEY_LEN]);
            assert_eq!(line.len(), 4 + 1 + DIGITS + 1);
            assert_eq!(parsed(&line), Ok(Some(word)));
        }
        assert!(Word::Seal > Word::Sign);
        assert_eq!(Word::of("seal"), Some(Word::Seal));
        assert_eq!(Word::of("plain"), None);
    }

    #[test]
    fn same_word_and_key() {
        let secret = |word, byte| Secret {
            word,
            key: Key::new([byte; KEY_LEN]),
        };
        assert!(secret(Word::Seal, 1).is_same(&secret(Word::Seal, 1)));
        assert!(!secret(Word::Seal, 1).is_same(&secret(Word::Sign, 1)));
        assert!(!secret(Word::Seal, 1).is_same(&secret(Word::Seal, 2)));
    }
}
