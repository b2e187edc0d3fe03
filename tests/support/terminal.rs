//! A terminal that a program of a host writes to.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::process::{Child, Stdio};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};

use crate::host::Host;
use crate::launch::Launch;

/// A terminal.
pub struct Terminal {
    /// Shows what was written.
    pub master: PtyMaster,
    slave: File,
    host: Host,
}

impl Terminal {
    /// Makes one. A host has one at most.
    pub fn new(host: &Host) -> Self {
        let (master, slave) = host.run(|| {
            fs::create_dir("/dev/pts").unwrap();
            let (kind, options) = (Some("devpts"), Some("newinstance,ptmxmode=0666"));
            mount(kind, "/dev/pts", kind, MsFlags::empty(), options).unwrap();
            symlink("pts/ptmx", "/dev/ptmx").unwrap();
            let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            let master = posix_openpt(flags).unwrap();
            grantpt(&master).unwrap();
            unlockpt(&master).unwrap();
            let mut options = File::options();
            options.write(true).custom_flags(OFlag::O_NOCTTY.bits());
            let slave = options.open(ptsname_r(&master).unwrap()).unwrap();
            (master, slave)
        });
        Self {
            master,
            slave,
            host: host.clone(),
        }
    }

    /// Starts a program in its foreground. It ends with the host.
    pub fn start(&self, launch: &Launch) -> Child {
        let mut command = launch.clone().options(["-f"]).command();
        command
            .stdin(Stdio::null())
            .stdout(self.slave.try_clone().unwrap())
            .stderr(self.slave.try_clone().unwrap());
        self.host.spawn(command)
    }

    /// Whether it takes nothing more until somebody reads.
    pub fn is_full(&self) -> bool {
        let mut room = [PollFd::new(self.slave.as_fd(), PollFlags::POLLOUT)];
        poll(&mut room, PollTimeout::ZERO).unwrap() == 0
    }
}
