//! Errors that end a program before it runs, and their exit codes.
//! Trouble with single packets is never an `Error`.

use std::fmt;
use std::io;

/// Exit code for wrong usage, as in the s6 tools.
const EX_USAGE: u8 = 100;
/// Exit code for a set-up step that failed.
pub(crate) const EX_SYSTEM: u8 = 111;

/// What keeps a program from starting.
#[derive(Debug)]
pub enum Error {
    /// The command line is wrong; the text says where.
    Usage(String),
    /// A step of the set-up failed.
    System {
        /// Verb and object, as in `open /dev/net/tun`.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// The result of a set-up step.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The exit status that belongs to this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EX_USAGE,
            Self::System { .. } => EX_SYSTEM,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::System { doing, source } => {
                write!(f, "unable to {doing}: {}", reason(source))
            }
        }
    }
}

impl std::error::Error for Error {}

/// Says what was being done when a system call failed.
pub trait Context<T> {
    /// Wraps the error; `doing` returns verb and object.
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::System {
            doing: doing(),
            source: source.into(),
        })
    }
}

/// The text of an error without the ` (os error N)` that std appends.
pub fn reason(error: &io::Error) -> String {
    let mut text = error.to_string();
    if error.raw_os_error().is_some()
        && let Some(bracket) = text.rfind('(')
    {
        text.truncate(bracket.saturating_sub(1));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_on_what_and_why() {
        let error = Err::<(), _>(io::Error::from_raw_os_error(2))
            .context(|| "open /dev/net/tun".into())
            .expect_err("an error stays one");
        assert_eq!(
            error.to_string(),
            "unable to open /dev/net/tun: No such file or directory"
        );
        assert_eq!(error.exit_code(), 111);
    }

    #[test]
    fn usage_is_100() {
        let error = Error::Usage("no PROG given".into());
        assert_eq!(
            (error.exit_code(), error.to_string().as_str()),
            (100, "no PROG given")
        );
    }
}
