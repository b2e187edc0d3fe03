//! Where packets leave, and what becomes of them.

use crate::datapath::tally::Tally;
use crate::io::socket::Socket;
use crate::io::target::Target;
use crate::keyed::{self, Sealer};
use crate::wire::packet::HEADER_LEN;

/// The socket, the peer, and the count of what left.
pub struct Exit<'a> {
    /// The socket that they leave by.
    pub socket: &'a Socket,
    /// The peer.
    pub target: &'a mut Target,
    /// How they become datagrams.
    pub wrap: Wrap<'a>,
    /// Kept by every step.
    pub tally: &'a mut Tally,
}

/// How a packet becomes a datagram.
pub enum Wrap<'a> {
    /// Behind the own identifier, as it is.
    Plain,
    /// Signed or sealed under the key of a session.
    Keyed(&'a mut Sealer),
    /// Not at all: a keyed peer without a session gets nothing.
    Shut,
}

impl Exit<'_> {
    /// Sends one datagram.
    #[inline(always)]
    pub(crate) fn send(&mut self, datagram: &[u8]) {
        match self.socket.send(datagram, self.target) {
            Ok(()) => self.count(datagram.len()),
            Err(error) => self.tally.lose(1, error),
        }
    }

    /// A datagram of this length has left.
    pub(crate) fn count(&mut self, len: usize) {
        self.tally.count.add(len - self.wrap.overhead());
    }
}

impl Wrap<'_> {
    /// What a datagram has more than the packet in it, in bytes.
    pub(super) fn overhead(&self) -> usize {
        match self {
            Self::Keyed(_) => keyed::OVERHEAD,
            Self::Plain | Self::Shut => HEADER_LEN,
        }
    }
}
