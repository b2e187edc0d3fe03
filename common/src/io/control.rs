//! Control messages of sendmsg and recvmsg, in bytes. Pure; nothing is allocated.
//!
//! Layout (`struct cmsghdr` in `<linux/socket.h>`): length as `size_t`, level and type as `int`,
//! then the data; each message begins at a multiple of the size of `size_t`.

use crate::sys::words;

const WORD: usize = size_of::<usize>();
const HEADER_LEN: usize = WORD + 8;

/// Room for all messages of one datagram, in bytes: an IPv6 packet info and a segment size
/// need 64.
const CAPACITY: usize = 64;

/// A buffer of control messages, aligned as the kernel's structure is.
#[repr(align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Control {
    bytes: [u8; CAPACITY],
    len: usize,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            bytes: [0; CAPACITY],
            len: 0,
        }
    }
}

impl Control {
    /// Appends a message. It must fit: what the programs send is known beforehand.
    pub fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let message = &mut self.bytes[self.len..];
        let length = HEADER_LEN + data.len();
        message[..WORD].copy_from_slice(&length.to_ne_bytes());
        message[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        message[WORD + 4..HEADER_LEN].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER_LEN..length].copy_from_slice(data);
        self.len += space(data.len());
    }

    /// The messages, for `sendmsg`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The whole room, for `recvmsg` to write to.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// So many bytes were written there.
    pub fn received(&mut self, len: usize) {
        self.len = len.min(CAPACITY);
    }

    /// Takes out the first message of this kind with 4 bytes of data or more, and returns the first
    /// 4 of them.
    pub fn take(&mut self, level: i32, kind: i32) -> Option<[u8; 4]> {
        let mut end = 0;
        let (start, taken) =
            messages(self.as_bytes()).find_map(|(its_level, its_kind, data)| {
                let start = end;
                end += space(data.len());
                let is_it = (its_level, its_kind) == (level, kind);
                is_it.then_some((start, *data.first_chunk()?))
            })?;
        // The last one need not be padded.
        let end = end.min(self.len);
        self.bytes.copy_within(end..self.len, start);
        self.len -= end - start;
        Some(taken)
    }

    /// Whether the messages that were received begin with the same header and the same 16 bytes of
    /// data as the ones to be sent, which must not be empty. In an IPv6 packet info those are the
    /// address.
    #[inline]
    pub(super) fn begins_like(&self, received: &Self) -> bool {
        const LEN: usize = HEADER_LEN + 16;
        match (
            self.bytes.first_chunk::<LEN>(),
            received.bytes.first_chunk(),
        ) {
            (Some(a), Some(b)) => words::are_same(a, b) && received.len >= LEN,
            _ => false,
        }
    }
}

/// What a message with so many bytes of data takes.
fn space(len: usize) -> usize {
    (HEADER_LEN + len).next_multiple_of(WORD)
}

/// Walks over the messages that `recvmsg` wrote: level, type and data of each.
/// It ends at the first length that can't be right.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<WORD>()?;
        let (level, after) = after.split_first_chunk::<4>()?;
        let (kind, _) = after.split_first_chunk::<4>()?;
        let length = usize::from_ne_bytes(*length);
        let data = rest.get(HEADER_LEN..length)?;
        // No more than `rest` has, so it can't overflow.
        rest = rest
            .get(length.next_multiple_of(WORD)..)
            .unwrap_or_default();
        Some((i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), data))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Control {
        let mut control = Control::default();
        control.push(41, 50, &[7; 20]);
        control.push(17, 103, &[9; 2]);
        control
    }

    #[test]
    fn round_trip() {
        let control = two();
        let read: Vec<_> = messages(control.as_bytes()).collect();
        assert_eq!(read, [(41, 50, &[7; 20][..]), (17, 103, &[9; 2][..])]);
    }

    #[test]
    fn one_is_taken_out() {
        for (first, second) in [((17, 103), (41, 50)), ((41, 50), (17, 103))] {
            let mut control = Control::default();
            control.push(first.0, first.1, &[7; 4]);
            control.push(second.0, second.1, &[9; 20]);
            let mut other = control;
            assert_eq!(control.take(first.0, first.1), Some([7; 4]));
            assert_eq!(other.take(second.0, second.1), Some([9; 4]));
            for (left, (level, kind), data) in
                [(&control, second, &[9; 20][..]), (&other, first, &[7; 4])]
            {
                let left: Vec<_> = messages(left.as_bytes()).collect();
                assert_eq!(left, [(level, kind, data)]);
            }
            assert_eq!(control.take(first.0, first.1), None);
        }
        assert_eq!(two().take(17, 103), None, "2 bytes of data");
        let mut control = Control::default();
        control.push(17, 103, &[7; 4]);
        control.received(HEADER_LEN + 4);
        assert_eq!(control.take(17, 103), Some([7; 4]));
        assert!(control.as_bytes().is_empty());
    }

    #[test]
    fn truncated_at_every_length() {
        let control = two();
        let first = HEADER_LEN + 20;
        let second = first.next_multiple_of(WORD) + HEADER_LEN + 2;
        for length in 0..control.as_bytes().len() {
            let found = messages(&control.as_bytes()[..length]).count();
            assert_eq!(
                found,
                usize::from(length >= first) + usize::from(length >= second),
                "{length}"
            );
        }
    }

    #[test]
    fn impossible_lengths_end_it() {
        for length in [
            0,
            1,
            HEADER_LEN - 1,
            HEADER_LEN + 21,
            usize::MAX,
            usize::MAX - 3,
        ] {
            let mut control = Control::default();
            control.push(41, 50, &[7; 20]);
            control.room()[..WORD].copy_from_slice(&length.to_ne_bytes());
            let end = HEADER_LEN + 20;
            assert_eq!(messages(&control.room()[..end]).count(), 0, "{length}");
        }
    }
}
