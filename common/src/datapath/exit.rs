//! Where packets leave, and what becomes of them.

use crate::datapath::tally::Tally;
use crate::io::socket::Socket;
use crate::io::target::Target;
use crate::wire::packet::HEADER_LEN;

/// The socket, the peer, and the count of what left.
pub struct Exit<'a> {
    /// The socket that they leave by.
    pub socket: &'a Socket,
    /// The peer.
    pub target: &'a mut Target,
    /// Kept by every step.
    pub tally: &'a mut Tally,
}

impl Exit<'_> {
    /// Sends one datagram.
    pub(crate) fn send(&mut self, datagram: &[u8]) {
        match self.socket.send(datagram, self.target) {
            Ok(()) => self.tally.count.add(datagram.len() - HEADER_LEN),
            Err(error) => self.tally.lose(1, error),
        }
    }
}
