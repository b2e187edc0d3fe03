//! What became of the packets that went one way.

use std::io;

/// Counts for one client, or for one process of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets that went through.
    pub packets: u64,
    /// Their length without any header of ours, in bytes.
    pub bytes: u64,
    /// Packets that were lost here.
    pub dropped: u64,
}

/// The outcome of one turn, with what there may be to log.
#[derive(Debug, Default)]
pub struct Tally {
    /// The packets of the turn.
    pub count: Count,
    /// Whether a packet was for the peer's own address and port: the tunnel routed into itself.
    pub looped: bool,
    /// The last error that lost a packet.
    pub error: Option<io::Error>,
    /// The error for which many packets in one call were given up.
    pub gave_up: Option<io::Error>,
}

impl Count {
    /// A packet of this length went through.
    pub fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.dropped += other.dropped;
    }
}

impl Tally {
    /// So many packets were lost.
    pub fn lose(&mut self, packets: usize, error: io::Error) {
        self.count.dropped += packets as u64;
        self.error = Some(error);
    }
}
