//! Packets on their way to several tun devices at once, so that the packets of one client may be
//! joined though another's came between.

use std::ops::Range;

use common::datapath::inbound::Inbound;
use common::datapath::tally::Tally;
use common::io::tun::{Trouble, Tun};

use crate::clients::Slot;

/// Clients whose packets gather at once.
const MAX_RUNS: usize = 8;

/// What gathers for one client.
#[derive(Default)]
struct Run {
    slot: Slot,
    inbound: Inbound,
}

/// What gathers for all clients.
#[derive(Default)]
pub(crate) struct Gathering {
    /// Those in which packets wait come first, the oldest before the others.
    runs: Vec<Run>,
    /// How many those are.
    count: usize,
    /// The client whose packet came last.
    last: Slot,
}

impl Gathering {
    /// Makes room for the packets of so many clients, or as many as gather at once.
    pub(crate) fn grow(&mut self, clients: usize) {
        let wanted = clients.min(MAX_RUNS).max(self.runs.len());
        self.runs.resize_with(wanted, Run::default);
    }

    /// Whether nothing has gathered.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Where in the receive buffer the first packet of each client lies.
    #[inline]
    pub(crate) fn starts(&self) -> impl Iterator<Item = usize> {
        let waiting = self.runs[..self.count].iter();
        waiting.filter_map(|run| run.inbound.start())
    }

    /// The run that is to be written before a packet of this client comes: a single packet of
    /// another client, which would wait for nothing, or the oldest if there are too many.
    #[inline]
    pub(crate) fn in_the_way_of(&self, slot: Slot) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        if self.last != slot {
            let last = self.find(self.last);
            if last < self.count && self.runs[last].inbound.is_one() {
                return Some(last);
            }
        }
        (self.find(slot) == self.runs.len()).then_some(0)
    }

    /// The run of this client, or the next free one.
    #[inline(always)]
    fn find(&self, slot: Slot) -> usize {
        let mut waiting = self.runs[..self.count].iter();
        let found = waiting.position(|run| run.slot == slot);
        found.unwrap_or(self.count)
    }

    /// Takes the packet in this part of the receive buffer, see [`Inbound::push`]. Nothing must be
    /// in its way, see [`Gathering::in_the_way_of`].
    #[inline]
    pub(crate) fn push(
        &mut self,
        slot: Slot,
        tun: &Tun,
        buffer: &[u8],
        at: Range<usize>,
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        let n = self.find(slot);
        self.last = slot;
        let run = &mut self.runs[n];
        run.slot = slot;
        let result = run.inbound.push(tun, buffer, at, tally);
        let waits = run.inbound.start().is_some();
        if n == self.count {
            self.count += usize::from(waits);
        } else if !waits {
            self.take(n);
        }
        result
    }

    /// Takes the n-th run from the others: whose packets it has, and what is to be flushed.
    pub(crate) fn take(&mut self, n: usize) -> (Slot, &mut Inbound) {
        self.runs[n..self.count].rotate_left(1);
        self.count -= 1;
        let run = &mut self.runs[self.count];
        (run.slot, &mut run.inbound)
    }
}
