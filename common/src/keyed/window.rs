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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::testing::Seeded;
    use super::*;

    fn take(window: &mut Window, counter: u32) -> bool {
        let is_new = window.is_new(counter);
        if is_new {
            window.mark(counter);
        }
        is_new
    }

    #[test]
    fn edges() {
        let mut window = Window::new();
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

    /// Whatever comes in whatever order: each once, and none that is too old.
    #[test]
    fn like_a_set() {
        for seed in 1..=100 {
            let mut random = Seeded::new(seed);
            let (mut window, mut seen) = (Window::new(), HashSet::new());
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
