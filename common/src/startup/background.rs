//! Going to the background in the manner of daemon(3), but with an exit status: the process that
//! was started waits until the daemon is set up, so that /etc/rc.local hears of a failure.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::fcntl::OFlag;
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

use crate::report::error::{Context, EX_SYSTEM, Result};
use crate::sys::{self, Fork};

/// Which process this is after [`start`].
pub(super) enum Started {
    /// The one that was started: it ends with this status.
    Parent(u8),
    /// The daemon.
    Daemon(Ready),
}

/// What the daemon says when it is set up.
#[must_use]
pub(super) struct Ready(Option<File>);

/// Goes to the background, or stays if `foreground`.
pub(crate) fn start(foreground: bool) -> Result<Started> {
    if foreground {
        return Ok(Started::Daemon(Ready(None)));
    }
    let doing = || "go to the background".to_owned();
    let (status, ready) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    match sys::fork().context(doing)? {
        Fork::Parent(_) => {
            drop(ready);
            // End of file without a byte: the daemon ended, and has said why.
            let came = File::from(status).read_exact(&mut [0]);
            Ok(Started::Parent(if came.is_ok() { 0 } else { EX_SYSTEM }))
        }
        Fork::Child => {
            setsid().context(doing)?;
            chdir("/").context(doing)?;
            Ok(Started::Daemon(Ready(Some(ready.into()))))
        }
    }
}

impl Ready {
    /// Lets go of the terminal and tells the waiting process that all is well.
    pub(super) fn announce(self) -> Result<()> {
        let Some(mut waiting) = self.0 else {
            return Ok(());
        };
        redirect().context(|| "let go of the terminal".into())?;
        // It may have been killed while it waited.
        let _ = waiting.write_all(&[0]);
        Ok(())
    }
}

fn redirect() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(null.as_fd())?;
    dup2_stdout(null.as_fd())?;
    dup2_stderr(null.as_fd())?;
    Ok(())
}
