//! Lines about packets that were lost or had to go one by one, each kind at a bounded rate.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use nix::errno::Errno;

use crate::datapath::loops::Loop;
use crate::datapath::tally::Tally;
use crate::io::socket::would_block;
use crate::io::target::Target;
use crate::report::error::reason;
use crate::report::log;
use crate::report::ring::Ring;
use crate::wire::id::PeerId;

/// What was logged lately, and of whom.
#[derive(Default)]
pub struct TroubleLog {
    lost: Ring<SocketAddr>,
    looped: Ring<Whose>,
    crossed: Ring<Whose>,
    go: Ring<Whose>,
    come: Ring<Whose>,
}

impl TroubleLog {
    /// As if lines of each kind had been logged at this time.
    pub fn since(at: Instant) -> Self {
        Self {
            lost: Ring::passed(at),
            looped: Ring::passed(at),
            crossed: Ring::passed(at),
            go: Ring::passed(at),
            come: Ring::passed(at),
        }
    }

    /// Logs, and takes from the tally, what went wrong with packets from a tun to a peer. A server
    /// says which client's.
    #[inline]
    pub fn sent(&mut self, client: Option<PeerId>, tally: &mut Tally, target: &Target) {
        if tally.looped.is_some() || tally.gave_up.is_some() || tally.error.is_some() {
            self.log_sent(client, tally, target);
        }
    }

    #[cold]
    fn log_sent(&mut self, client: Option<PeerId>, tally: &mut Tally, target: &Target) {
        let (whose, now) = (Whose(client), Instant::now());
        if let Some(how) = tally.looped.take() {
            let (ring, what) = match how {
                Loop::Itself => (
                    &mut self.looped,
                    "for the peer's own address and port: the tunnel is routed into itself",
                ),
                Loop::Others => (
                    &mut self.crossed,
                    "that came by for the third time: tunnels lead through each other",
                ),
            };
            if let Some(held_back) = ring.pass(whose, now) {
                log::warning(format_args!("{whose}dropped a packet {what}{held_back}"));
            }
        }
        if let Some(error) = tally.gave_up.take() {
            log_refusal(&mut self.go, whose, "go", error);
        }
        if let Some(error) = tally.error.take() {
            self.lost(error, target, now);
        }
    }

    /// The same of packets from a peer to a tun.
    #[inline(always)]
    pub fn received(&mut self, client: Option<PeerId>, tally: &mut Tally) {
        if let Some(error) = tally.gave_up.take() {
            log_refusal(&mut self.come, Whose(client), "come", error);
        }
    }

    /// Logs that a datagram to a peer was lost. The next one may pass, so there is nothing else to
    /// do. A buffer that is full is what a busy link has; the counters tell.
    #[cold]
    pub fn lost(&mut self, error: Errno, target: &Target, now: Instant) {
        if !would_block(error)
            && let Some(held_back) = self.lost.pass(target.address(), now)
        {
            let (to, reason) = (target.address(), reason(&error.into()));
            log::warning(format_args!("unable to send to {to}: {reason}{held_back}"));
        }
    }
}

#[cold]
fn log_refusal(ring: &mut Ring<Whose>, whose: Whose, way: &str, error: Errno) {
    if let Some(held_back) = ring.pass(whose, Instant::now()) {
        let reason = reason(&error.into());
        log::info(format_args!(
            "{whose}packets {way} one by one, many at once were refused: {reason}{held_back}"
        ));
    }
}

/// How a line begins.
#[derive(Clone, Copy, PartialEq)]
struct Whose(Option<PeerId>);

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, "client {id}: "),
            None => Ok(()),
        }
    }
}
