//! Which counters have been seen (RFC 6479).

/// Words for packets, which may overtake each other.
pub(super) const WIDE: usize = 64;
/// Words for counters that must simply grow.
pub(super) const NARROW: usize = 1;

const BITS: u32 = u32::BITS;

/// A ring of bits, one for each of the last counters.
pub(super) struct Window<const WORDS: usize> {
    highest: u32,
    words: [u32; WORDS],
}

impl<const WORDS: usize> Window<WORDS> {
    /// So far behind the highest a counter is too old. One word is always being refilled.
    const TOO_OLD: usize = (WORDS - 1) * BITS as usize;

    pub(super) fn new() -> Self {
        Self {
            highest: 0,
            words: [0; WORDS],
        }
    }

    /// Whether the counter is neither seen nor too old. Counters begin at 1.
    #[inline]
    pub(super) fn is_new(&self, counter: u32) -> bool {
        if counter > self.highest {
            return true;
        }
        counter != 0
            && ((self.highest - counter) as usize) < Self::TOO_OLD
            && self.words[word(counter) % WORDS] & bit(counter) == 0
    }

    /// Marks one that is new as seen. Returns whether it is the highest so far.
    #[inline]
    pub(super) fn mark(&mut self, counter: u32) -> bool {
        let is_highest = counter > self.highest;
        if is_highest {
            let (old, new) = (word(self.highest), word(counter));
            for passed in 1..=(new - old).min(WORDS) {
                self.words[(old + passed) % WORDS] = 0;
            }
            self.highest = counter;
        }
        self.words[word(counter) % WORDS] |= bit(counter);
        is_highest
    }
}

fn word(counter: u32) -> usize {
    (counter / BITS) as usize
}

fn bit(counter: u32) -> u32 {
    1 << (counter % BITS)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::testing::Seeded;
    use super::*;

    const USABLE: u32 = 2016;

    fn take<const WORDS: usize>(window: &mut Window<WORDS>, counter: u32) -> bool {
        let is_new = window.is_new(counter);
        if is_new {
            window.mark(counter);
        }
        is_new
    }

    #[test]
    fn edges() {
        let mut window = Window::<WIDE>::new();
        assert!(!take(&mut window, 0), "counters begin at 1");
        assert!(take(&mut window, 1) && !take(&mut window, 1));
        assert!(
            window.mark(5000) && !window.mark(4000),
            "the highest so far"
        );
        assert!(!window.is_new(5000) && !window.is_new(4000));
        assert!(window.is_new(5000 - USABLE + 1) && !window.is_new(5000 - USABLE));
        assert!(take(&mut window, u32::MAX) && !take(&mut window, u32::MAX));
        assert!(!window.is_new(5001));
        assert!(take(&mut window, u32::MAX - USABLE + 1));
    }

    #[test]
    fn narrow() {
        let mut window = Window::<NARROW>::new();
        for (counter, is_taken) in [
            (0, false),
            (1, true),
            (1, false),
            (3, true),
            (2, false),
            (31, true),
            (32, true),
            (31, false),
            (33, true),
            (96, true),
            (97, true),
            (1, false),
            (u32::MAX, true),
            (u32::MAX, false),
            (98, false),
        ] {
            assert_eq!(take(&mut window, counter), is_taken, "{counter}");
        }
    }

    /// Whatever comes in whatever order: each once, and none that is too old.
    #[test]
    fn like_a_set() {
        for seed in 1..=100 {
            let mut random = Seeded::new(seed);
            let (mut window, mut seen) = (Window::<WIDE>::new(), HashSet::new());
            let mut highest = 0u32;
            for _ in 0..5000 {
                let step = u32::try_from(random.below(4 * 2016)).expect("small");
                let counter = match random.below(10) {
                    0 => highest.saturating_add(step),
                    1..4 => highest.saturating_add(step % 4),
                    4 => highest.saturating_sub(step),
                    _ => highest.saturating_sub(step % 2100),
                };
                let is_old = counter == 0 || highest.saturating_sub(counter) >= 2016;
                let wanted = !is_old && seen.insert(counter);
                assert_eq!(
                    take(&mut window, counter),
                    wanted,
                    "{counter} of {highest}, seed {seed}"
                );
                highest = highest.max(counter);
            }
        }
    }
}
