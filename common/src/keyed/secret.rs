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
        [Self::Sign, Self::Seal]
            .into_iter()
            .find(|word| word.name() == name)
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
    pub(super) key: Key,
}

/// Why the content of a file is not understood. None of it is shown, it may be most of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It begins neither with `seal` nor with `sign`, and one space.
    Word,
    /// There are that many digits instead of 64.
    Length(usize),
    /// There is something among the digits that is none.
    Digit,
    /// There is something behind the key besides one newline.
    Rest,
    /// All digits are 0.
    Zero,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word => f.write_str("it does not begin with `seal` or `sign` and one space"),
            Self::Length(digits) => write!(f, "its key has {digits} digits instead of {DIGITS}"),
            Self::Digit => f.write_str("its key has a character that is no hex digit"),
            Self::Rest => f.write_str("there is more than a newline behind the key"),
            Self::Zero => f.write_str("its key is all 0"),
        }
    }
}

/// What the content of a peer's file says: nothing, or one line, `seal HEX` or `sign HEX`.
pub fn parse(content: &[u8]) -> Result<Content, Fault> {
    if content.trim_ascii().is_empty() {
        return Ok(Content::Plain);
    }
    let (word, digits) = [Word::Sign, Word::Seal]
        .into_iter()
        .find_map(|word| {
            let digits = content.strip_prefix(word.name().as_bytes())?;
            Some((word, digits.strip_prefix(b" ")?))
        })
        .ok_or(Fault::Word)?;
    let digits = digits.strip_suffix(b"\n").unwrap_or(digits);
    if digits.trim_ascii_end().len() < digits.len() {
        return Err(Fault::Rest);
    }
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Fault::Digit);
    }
    let mut key = Key::new([0; KEY_LEN]);
    hex::decode_to_slice(digits, key.bytes_mut()).map_err(|_| Fault::Length(digits.len()))?;
    if key.bytes() == &[0; KEY_LEN] {
        return Err(Fault::Zero);
    }
    Ok(Content::Keyed(Secret { word, key }))
}

/// A new line with these random bytes as its key, newline included: the output of `-G`.
pub fn line(word: Word, random: &[u8; KEY_LEN]) -> String {
    format!("{word} {}\n", hex::encode(random))
}

/// As in `seal, check value 27f02d6d`: what may be told of it.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, check value {}",
            self.word,
            hex::encode(self.check())
        )
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

    /// Four bytes that are equal on both ends and tell nothing about the key.
    pub fn check(&self) -> [u8; 4] {
        let hash = self.derive("show", &[]);
        let [a, b, c, d, ..] = *hash.bytes();
        [a, b, c, d]
    }

    /// A key for one use, named by its label.
    pub(super) fn derive(&self, label: &str, parts: &[&[u8]]) -> Key {
        let head: [&[u8]; 4] = [
            b"jtunnel1 ",
            self.word.name().as_bytes(),
            b" ",
            label.as_bytes(),
        ];
        hash(&self.key, &[&head, parts].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eFF";

    fn parsed(content: &str) -> Result<Option<Word>, Fault> {
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
        for (content, fault) in [
            (HEX.to_string(), Fault::Word),
            ("seal".to_string(), Fault::Word),
            (format!(" seal {HEX}"), Fault::Word),
            (format!("Seal {HEX}"), Fault::Word),
            (format!("seal\t{HEX}"), Fault::Word),
            (format!("plain {HEX}"), Fault::Word),
            ("\0".to_string(), Fault::Word),
            (format!("seal  {HEX}"), Fault::Digit),
            ("seal ".to_string(), Fault::Length(0)),
            (format!("seal {short}"), Fault::Length(63)),
            (format!("seal {HEX}00\n"), Fault::Length(66)),
            (format!("seal {HEX}0\n"), Fault::Length(65)),
            (format!("seal {short}g"), Fault::Digit),
            (format!("seal {short}é"), Fault::Digit),
            (format!("seal {HEX} "), Fault::Rest),
            (format!("seal {HEX}\r\n"), Fault::Rest),
            (format!("seal {HEX}\n\n"), Fault::Rest),
            (format!("seal {HEX}\nsign {HEX}\n"), Fault::Digit),
            (format!("sign {}", "0".repeat(64)), Fault::Zero),
        ] {
            assert_eq!(parsed(&content), Err(fault), "{content:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_the_key() {
        for (content, text) in [
            ("seal 1f", "its key has 2 digits instead of 64"),
            ("seal 1fx", "its key has a character that is no hex digit"),
            (
                "seel 1f",
                "it does not begin with `seal` or `sign` and one space",
            ),
        ] {
            let fault = parsed(content).expect_err("a fault");
            assert_eq!(fault.to_string(), text);
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
