//! What is told of a link: in the log, and in the file of `-S`.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::keyed::discard::Discard;

/// How a link is protected, and what became of it. As text it is part of a line of the log.
#[derive(Debug)]
pub struct Status<'a> {
    /// `plain`, `sign` or `seal`.
    pub protection: &'static str,
    /// Since when there is the session, if there is one.
    pub session_age: Option<Duration>,
    /// Of a keyed link: how often each reason was one to drop a datagram.
    pub discarded: Option<&'a [u32; Discard::COUNT]>,
}

/// Those that are told.
const REASONS: [(&str, &str, Discard); 4] = [
    ("replayed", "replayed", Discard::Replayed),
    ("forged", "forged", Discard::Forged),
    ("wrong key", "wrong_key", Discard::WrongTag),
    ("plain", "plain", Discard::Plain),
];

impl Status<'_> {
    /// That of a link without a key.
    pub const PLAIN: Self = Status {
        protection: "plain",
        session_age: None,
        discarded: None,
    };

    /// As the end of a line of the state file. The names are always all there.
    pub fn pairs(&self) -> String {
        let or_none = |value: Option<u64>| value.map_or("-".into(), |number| number.to_string());
        let mut pairs = format!(
            "protection={} session_age={}",
            self.protection,
            or_none(self.session_age.map(|age| age.as_secs()))
        );
        for (_, name, reason) in REASONS {
            let count = self.discarded.map(|counts| counts[reason as usize].into());
            let _ = write!(pairs, " {name}={}", or_none(count));
        }
        pairs
    }
}

impl fmt::Display for Status<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protection)?;
        let Some(counts) = self.discarded else {
            return Ok(());
        };
        match self.session_age {
            Some(age) => write!(f, " session {} s old", age.as_secs())?,
            None => f.write_str(" without session")?,
        }
        for (words, _, reason) in REASONS {
            write!(f, ", {words} {}", counts[reason as usize])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_the_log_and_for_a_monitor() {
        let mut counts = [0; Discard::COUNT];
        counts[Discard::Forged as usize] = 2;
        counts[Discard::WrongTag as usize] = 3;
        let mut status = Status {
            protection: "seal",
            session_age: Some(Duration::from_millis(9900)),
            discarded: Some(&counts),
        };
        let text = "seal session 9 s old, replayed 0, forged 2, wrong key 3, plain 0";
        assert_eq!(status.to_string(), text);
        let pairs = "protection=seal session_age=9 replayed=0 forged=2 wrong_key=3 plain=0";
        assert_eq!(status.pairs(), pairs);
        status.session_age = None;
        assert!(status.to_string().starts_with("seal without session, "));
        assert!(status.pairs().contains("session_age=- "));
        assert_eq!(Status::PLAIN.to_string(), "plain");
        let pairs = "protection=plain session_age=- replayed=- forged=- wrong_key=- plain=-";
        assert_eq!(Status::PLAIN.pairs(), pairs);
    }
}
