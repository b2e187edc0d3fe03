//! Control messages of sendmsg and recvmsg, in bytes. Pure; nothing is allocated.
//!
//! Layout (`struct cmsghdr` in `<linux/socket.h>`): length as `size_t`, level and type as `int`,
//! then the data; each message begins at a multiple of the size of `size_t`.

const WORD: usize = size_of::<usize>();
const HEADER_LEN: usize = WORD + 8;

/// Room for all messages of one datagram, in bytes: an IPv6 packet info and a segment size
/// need 64.
pub const CAPACITY: usize = 64;

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
        self.len += length.next_multiple_of(WORD);
    }

    /// The messages, for `sendmsg`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The whole room, for `recvmsg` to write to.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
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
