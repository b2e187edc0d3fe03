//! Which counters have been seen (RFC 6479).

const WORDS: u32 = 64;
const BITS: u32 = u32::BITS;

/// How far behind the highest a counter may be. One word is always being refilled.
pub(super) const USABLE: u32 = (WORDS - 1) * BITS;

/// A ring of bits, one for each of the last counters.
pub(super) struct Window {
    highest: u32,
    words: [u32; WORDS as usize],
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            highest: 0,
            words: [0; WORDS as usize],
        }
    }

    /// Whether the counter is neither seen nor too old. Counters begin at 1.
    pub(super) fn is_new(&self, counter: u32) -> bool {
        if counter > self.highest {
            return true;
        }
        counter != 0
            && self.highest - counter < USABLE
            && self.words[word(counter)] & bit(counter) == 0
    }

    /// Marks one that is new as seen. Returns whether it is the highest so far.
    pub(super) fn mark(&mut self, counter: u32) -> bool {
        let is_highest = counter > self.highest;
        if is_highest {
            let (old, new) = (self.highest / BITS, counter / BITS);
            for passed in 1..=(new - old).min(WORDS) {
                self.words[((old + passed) % WORDS) as usize] = 0;
            }
            self.highest = counter;
        }
        self.words[word(counter)] |= bit(counter);
        is_highest
    }
}

fn word(counter: u32) -> usize {
    (counter / BITS % WORDS) as usize
}

fn bit(counter: u32) -> u32 {
    1 << (counter % BITS)
}
