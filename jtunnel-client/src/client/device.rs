//! The tun device and its PROG: built again after the device was deleted.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use common::hook;
use common::io::tun::Tun;
use common::report::error::reason;
use common::report::log;
use nix::net::if_::if_indextoname;

use super::Client;

/// How long PROG may clean up before a new device is made.
const CLEAN_UP: Duration = Duration::from_secs(5);
/// After PROG could not be started, the next try.
const START_RETRY: Duration = Duration::from_secs(1);

impl Client {
    /// The device goes and another one comes, so that PROG sees how the link is protected now.
    pub(super) fn close_device(&mut self, now: Instant) {
        let Some(tun) = self.tun.take() else {
            return;
        };
        let (name, protection) = (tun.name(), self.protection());
        log::info(format_args!(
            "device {name} is closed: from now on {protection}"
        ));
        // It stays while PROG cleans up.
        self.closing = Some(tun);
        self.expect_device(now);
    }

    /// The device was deleted. PROG may clean up before there is a new one, which is likely to
    /// have the same name.
    pub(super) fn device_gone(&mut self, now: Instant) {
        let Some(tun) = self.tun.take() else {
            return;
        };
        log::warning(format_args!("device {} is gone", tun.name()));
        self.expect_device(now);
    }

    fn expect_device(&mut self, now: Instant) {
        self.stop_sender();
        self.timeout.reset();
        self.prog_start = None;
        let mut due = self.rebuilds.next(now);
        if let Some(pid) = self.prog {
            hook::terminate(pid);
            due = due.max(now + CLEAN_UP);
        }
        self.rebuild = Some(due);
    }

    pub(super) fn rebuild_tun(&mut self, now: Instant) {
        self.closing = None;
        match Tun::open(self.tun_mode) {
            Ok(tun) => {
                log::info(format_args!("device {} opened", tun.name()));
                self.tun = Some(tun);
                self.rebuild = None;
                if self.server.is_some() {
                    self.run_prog(now);
                    self.start_sender(now);
                }
            }
            Err(error) => {
                self.rebuild = Some(self.rebuilds.next(now));
                if let Some(held_back) = self.throttles.tun.pass(now) {
                    log::warning(format_args!("{error}{held_back}"));
                }
            }
        }
    }

    pub(super) fn run_prog(&mut self, now: Instant) {
        self.prog_start = None;
        let (Some(tun), Some(server)) = (&self.tun, &self.server) else {
            return;
        };
        let server = server.address();
        let Some(name) = tun.current_name() else {
            // By now its name may be another's device.
            return self.device_gone(now);
        };
        let environment = [
            ("TUN_DEV_NAME", name),
            ("TUN_MTU", self.tun_mode.mtu.to_string().into()),
            ("TUN_PROTECTION", self.protection().into()),
            ("TUN_SERVER_ADDRESS", host(server)),
            ("TUN_SERVER_PORT", server.port().to_string().into()),
        ];
        match self.hook.spawn(&environment, now) {
            Ok(pid) => self.prog = Some(pid),
            Err(error) => {
                self.prog_start = Some(now + START_RETRY);
                if let Some(held_back) = self.throttles.prog.pass(now) {
                    let (prog, reason) = (self.hook.program().display(), reason(&error));
                    log::warning(format_args!("unable to run {prog}: {reason}{held_back}"));
                }
            }
        }
    }
}

/// The address for `ip route`, with the interface of a link-local one.
fn host(server: SocketAddr) -> OsString {
    match server {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => match if_indextoname(v6.scope_id()) {
            Ok(name) => {
                let mut host = OsString::from(format!("{}%", v6.ip()));
                host.push(OsStr::from_bytes(name.to_bytes()));
                host
            }
            Err(_) => v6.ip().to_string().into(),
        },
        _ => server.ip().to_string().into(),
    }
}
