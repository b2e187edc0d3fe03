//! Bytes that are compared for each packet.

const WORD: usize = size_of::<usize>();

/// Whether two arrays hold the same, word by word. What `==` may come down to is a call of memcmp,
/// and musl's goes byte by byte.
#[inline(always)]
pub(crate) fn are_same<const LEN: usize>(a: &[u8; LEN], b: &[u8; LEN]) -> bool {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WORD>(), b.as_chunks::<WORD>());
    let differ = a.iter().zip(b).fold(0, |differ, (a, b)| {
        differ | (usize::from_ne_bytes(*a) ^ usize::from_ne_bytes(*b))
    });
    let rest = a_rest.iter().zip(b_rest);
    differ == 0 && rest.fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Whether both have the same `LEN` bytes at this place.
#[inline(always)]
pub(crate) fn have_same<const LEN: usize>(a: &[u8], b: &[u8], at: usize) -> bool {
    let part = |all| <[u8]>::get(all, at..).and_then(<[u8]>::first_chunk::<LEN>);
    matches!((part(a), part(b)), (Some(a), Some(b)) if are_same(a, b))
}
