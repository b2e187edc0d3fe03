//! The Internet checksum (RFC 1071): one's-complement sums of 16-bit words. Pure.
//!
//! Words are added in native byte order and the result is stored in native byte order, which
//! gives the right bytes on either kind of machine (RFC 1071, 2(B)).

/// A sum under way. Every piece but the last must be of even length.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

/// Lanes of 32 bits that are added side by side: enough for 128-bit and 256-bit registers.
const LANES: usize = 8;

impl Sum {
    /// Adds a piece.
    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        // 32-bit words into 64-bit lanes: no carry is lost, none has to be looked after, and
        // compilers make vectors of it.
        let mut lanes = [0u64; LANES];
        let (blocks, rest) = bytes.as_chunks::<{ 4 * LANES }>();
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let (words, rest) = rest.as_chunks::<2>();
        let mut sum = lanes
            .iter()
            .map(|lane| low(*lane) + (lane >> 32))
            .sum::<u64>();
        sum += words
            .iter()
            .map(|word| u64::from(u16::from_ne_bytes(*word)))
            .sum::<u64>();
        if let [last] = *rest {
            sum += u64::from(u16::from_ne_bytes([last, 0]));
        }
        Self(self.0 + sum)
    }

    /// Adds a word in network byte order.
    pub(super) fn with_word(self, word: u16) -> Self {
        Self(self.0 + u64::from(u16::from_ne_bytes(word.to_be_bytes())))
    }

    /// The pseudo header of TCP and UDP (RFC 9293, 3.1; RFC 8200, 8.1): `addresses` are source
    /// and destination as they lie in the IP header, `len` is that of transport header and
    /// payload, in bytes.
    pub(crate) fn pseudo_header(addresses: &[u8], protocol: u8, len: u16) -> Self {
        Self::default()
            .with(addresses)
            .with_word(protocol.into())
            .with_word(len)
    }

    /// The sum as it is stored in a checksum field that is to be finished by others.
    pub(crate) fn folded(self) -> [u8; 2] {
        let mut sum = low(self.0) + (self.0 >> 32);
        // 33 bits, then 18, then 17, then 16 and none to carry.
        for _ in 0..3 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let [a, b, ..] = sum.to_le_bytes();
        u16::from_le_bytes([a, b]).to_ne_bytes()
    }

    /// The checksum.
    pub(crate) fn checksum(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }

    /// The checksum of UDP, where 0 would mean none (RFC 768). For TCP either form of zero will do.
    pub(crate) fn nonzero_checksum(self) -> [u8; 2] {
        match self.checksum() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        }
    }

    /// Whether data that contains its own checksum is as it was.
    pub(super) fn is_valid(self) -> bool {
        self.folded() == [0xff, 0xff]
    }
}

fn low(word: u64) -> u64 {
    word & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RFC 1071 describes it, word by word in network byte order.
    fn by_the_book(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            sum += u32::from(word);
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        let [_, _, a, b] = sum.to_be_bytes();
        [!a, !b]
    }

    #[test]
    fn the_example_of_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().with(&bytes).folded(), [0xdd, 0xf2]);
    }

    #[test]
    fn every_length_in_one_piece_and_in_two() {
        let bytes: Vec<u8> = (0..400u32)
            .map(|n| n.wrapping_mul(0x9e37).to_le_bytes()[1])
            .collect();
        for len in 0..bytes.len() {
            let data = &bytes[..len];
            assert_eq!(
                Sum::default().with(data).checksum(),
                by_the_book(data),
                "{len}"
            );
            for cut in (0..len).step_by(2) {
                let (a, b) = data.split_at(cut);
                assert_eq!(Sum::default().with(a).with(b).checksum(), by_the_book(data));
            }
        }
    }

    #[test]
    fn carries_at_the_limits() {
        for len in [2, 30, 32, 64, 1400, 65535] {
            let ones = vec![0xff; len];
            assert_eq!(
                Sum::default().with(&ones).checksum(),
                by_the_book(&ones),
                "{len}"
            );
        }
        for sum in [
            u64::MAX,
            u64::MAX - 1,
            0xffff_0000_ffff,
            0x1_0000_ffff,
            0x1_ffff_ffff,
        ] {
            // 2^16 is 1 in this arithmetic, so all is decided by the remainder.
            let folded = u64::from(u16::from_ne_bytes(Sum(sum).folded()));
            assert_eq!(folded % 0xffff, sum % 0xffff, "{sum:#x}");
        }
    }

    #[test]
    fn valid_with_its_own_checksum_only() {
        let mut data = *b"a datagram with some content....";
        data[6..8].fill(0);
        let checksum = Sum::default().with(&data).checksum();
        data[6..8].copy_from_slice(&checksum);
        assert!(Sum::default().with(&data).is_valid());
        data[20] ^= 1;
        assert!(!Sum::default().with(&data).is_valid());
    }

    #[test]
    fn pseudo_header_by_the_book() {
        let addresses: Vec<u8> = (1..=8).collect();
        let whole = [&addresses[..], &[0, 17, 0x12, 0x34]].concat();
        let sum = Sum::pseudo_header(&addresses, 17, 0x1234);
        assert_eq!(sum.checksum(), by_the_book(&whole));
    }

    #[test]
    fn zero_is_not_none() {
        let sum = Sum::default().with(&[0xff, 0xff]);
        assert_eq!(
            (sum.checksum(), sum.nonzero_checksum()),
            ([0, 0], [0xff, 0xff])
        );
    }
}
