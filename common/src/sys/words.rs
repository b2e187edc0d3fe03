//! Bytes that are compared for each packet.

const WORD: usize = size_of::<usize>();

/// Whether two arrays, whose length is a multiple of a word's, hold the same. musl's memcmp, which
/// `==` may come down to, goes byte by byte.
#[inline]
pub(crate) fn are_same<const LEN: usize>(a: &[u8; LEN], b: &[u8; LEN]) -> bool {
    const { assert!(LEN.is_multiple_of(WORD), "whole words") };
    let words = a.as_chunks::<WORD>().0.iter().zip(b.as_chunks::<WORD>().0);
    let differ = words.fold(0, |differ, (a, b)| {
        differ | (usize::from_ne_bytes(*a) ^ usize::from_ne_bytes(*b))
    });
    differ == 0
}
