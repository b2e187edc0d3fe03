//! What became of the packets that went one way.

use std::fmt;
use std::ops::AddAssign;

use nix::errno::Errno;

use crate::datapath::loops::Loop;

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

/// Both directions together, as a line of the log has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// From the peer to the tun.
    pub received: Count,
    /// From the tun to the peer.
    pub sent: Count,
}

/// The counts, with what there may be to log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// The packets.
    pub count: Count,
    /// How a packet would have come back for ever.
    pub looped: Option<Loop>,
    /// The last error that lost a packet.
    pub error: Option<Errno>,
    /// The error for which many packets in one call were given up.
    pub gave_up: Option<Errno>,
}

impl Count {
    /// Packets that went through or were lost.
    pub(crate) fn all(&self) -> u64 {
        self.packets + self.dropped
    }

    /// A packet of this length went through.
    pub fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.dropped += other.dropped;
    }
}

impl Totals {
    /// As the names and values of a line of the state file.
    pub fn pairs(&self) -> String {
        let Self { received, sent } = self;
        format!(
            "received_packets={} received_bytes={} received_dropped={} sent_packets={} \
             sent_bytes={} sent_dropped={}",
            received.packets,
            received.bytes,
            received.dropped,
            sent.packets,
            sent.bytes,
            sent.dropped
        )
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.sent += other.sent;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, sent } = self;
        write!(
            f,
            "received {} packets {} bytes, sent {} packets {} bytes, dropped {}",
            received.packets,
            received.bytes,
            sent.packets,
            sent.bytes,
            received.dropped + sent.dropped
        )
    }
}

impl Tally {
    /// A packet would come back for ever.
    pub fn loops(&mut self, how: Loop) {
        self.looped = Some(how);
        self.count.dropped += 1;
    }

    /// So many packets were lost.
    pub fn lose(&mut self, packets: usize, error: Errno) {
        self.count.dropped += packets as u64;
        self.error = Some(error);
    }
}
