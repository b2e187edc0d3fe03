//! Keyed links: `sign` and `seal`. Pure: bytes in, bytes and decisions out; the time and the random
//! bytes are handed in.
//!
//! ```text
//! client (its parent)                    server
//! OPEN [Ec, 0]                    ->     nothing stored
//!                                 <-     CHAL [Ec, Es]
//! OPEN [Ec, Es]                   ->     session made
//!                                 <-     DATA, empty: the client may send now
//! PING, and DATA (from its child) <->    DATA
//! ```
//!
//! [`secret`] reads the line of a peer's file. [`server::Server`] is the server's side of one
//! client, [`client::Client`] is the side of the client's parent; a [`Sealer`] is what the client's
//! child is given. Only `cipher` knows the crates.

mod cipher;
pub mod client;
mod derivation;
pub mod discard;
mod handshake;
pub mod secret;
pub mod server;
mod session;
#[cfg(test)]
mod simulator;
pub mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod vectors;
mod window;

use std::time::{Duration, Instant};

pub use cipher::TAG_LEN;
pub use session::{HEADER_LEN, OVERHEAD, Sealer};

/// A session of this age is of no more use.
const LIFE: Duration = Duration::from_secs(1800);
/// What anybody could provoke without end is done once, or so often, in this time.
const PACE: Duration = Duration::from_millis(1000);

/// The identifier of a peer, in wire order.
pub type Id = [u8; 8];

/// Fills a slice with random bytes, or returns false while the pool is not ready.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]) -> bool;

/// Whether what was last done then is too recent to be done again.
fn is_recent(last: Option<Instant>, now: Instant) -> bool {
    last.is_some_and(|at| now.saturating_duration_since(at) < PACE)
}
