//! Datagrams to one peer that leave together: in runs of one length, of which the last may be
//! shorter, and several runs in one call.

use std::io::IoSlice;
use std::ops::Range;

use nix::errno::Errno;

use crate::datapath::exit::Exit;
use crate::io::socket::{MAX_AT_ONCE, Message, is_refusal};
use crate::wire::packet::HEADER_LEN;

/// Pieces of memory in one call, of which a datagram is one or two.
const MAX_PARTS: usize = 128;
/// What each kernel takes: UDP_MAX_SEGMENTS of `<linux/udp.h>` was 64 before Linux 6.9. Before Linux
/// 5.17 the headers of IPv6 and UDP were counted as well, by their bytes (kernel commit 158390e45612).
const SURE_SEGMENTS: usize = 62;
const SMALLEST: usize = HEADER_LEN + 20;
const _: () = assert!(SURE_SEGMENTS * SMALLEST + 40 + 8 <= 64 * SMALLEST);
/// All segments together must fit one IPv4 packet: 65535 less its header and that of UDP.
const MAX_BYTES: usize = 65_507;

/// To prepare a call for several messages costs more than a call for each if they are fewer.
const WORTH_A_CALL: usize = 3;

/// One datagram, gathered from up to two places.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// In the buffer of rebuilt headers; may be empty.
    pub(crate) head: Range<usize>,
    /// In the buffer of packets.
    pub(crate) body: Range<usize>,
}

/// The two buffers that segments lie in.
#[derive(Clone, Copy)]
pub(super) struct Buffers<'a> {
    pub(crate) heads: &'a [u8],
    pub(super) bodies: &'a [u8],
}

/// Datagrams that wait for each other, though never for the network.
#[derive(Debug)]
pub(super) struct Batch {
    segments: Vec<Segment>,
    parts: usize,
    bytes: usize,
    /// So many runs, and the last one: how long its first datagram is, in bytes, and whether it
    /// ended with a shorter one.
    runs: usize,
    stride: usize,
    ended: bool,
    /// The longest datagram, in bytes.
    longest: usize,
    /// How many segments the kernel takes in one call, as far as is known.
    most: usize,
}

impl Segment {
    fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    fn count_parts(&self) -> usize {
        usize::from(!self.head.is_empty()) + usize::from(!self.body.is_empty())
    }

    fn parts<'a>(&self, buffers: Buffers<'a>) -> [&'a [u8]; 2] {
        [
            &buffers.heads[self.head.clone()],
            &buffers.bodies[self.body.clone()],
        ]
    }
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            segments: Vec::with_capacity(MAX_PARTS),
            parts: 0,
            bytes: 0,
            runs: 0,
            stride: 0,
            ended: false,
            longest: 0,
            most: MAX_PARTS,
        }
    }

    /// Length of all datagrams together, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves what lies in the buffer of packets to its front. Returns where that ends.
    pub(super) fn move_up(&mut self, bodies: &mut [u8]) -> usize {
        let mut end = 0;
        for segment in &mut self.segments {
            let start = end;
            end += segment.body.len();
            bodies.copy_within(segment.body.clone(), start);
            segment.body = start..end;
        }
        end
    }

    /// Whether a datagram of this length can join.
    pub(crate) fn fits(&self, len: usize) -> bool {
        self.segments.is_empty()
            || self.parts + 2 <= MAX_PARTS
                && self.bytes + len <= MAX_BYTES
                && (self.continues(len) || self.runs < MAX_AT_ONCE)
    }

    /// Whether it would be of the last run.
    pub(super) fn continues(&self, len: usize) -> bool {
        !self.ended && len <= self.stride
    }

    /// Adds a datagram that fits.
    pub(crate) fn push(&mut self, segment: Segment) {
        let len = segment.len();
        if self.continues(len) {
            self.ended = len < self.stride;
        } else {
            self.runs += 1;
            (self.stride, self.ended) = (len, false);
            self.longest = self.longest.max(len);
        }
        self.parts += segment.count_parts();
        self.bytes += len;
        self.segments.push(segment);
    }

    /// Sends all datagrams, in as few calls as the path takes, and is empty then.
    pub(crate) fn send(&mut self, buffers: Buffers<'_>, exit: &mut Exit<'_>) {
        let mut left = self.segments.as_slice();
        let mut together = self.runs >= WORTH_A_CALL
            || left.len() >= WORTH_A_CALL && !exit.target.takes_segments(self.longest);
        while !left.is_empty() {
            if together && left.len() >= WORTH_A_CALL {
                let (sent, is_all) = send_together(left, self.most, buffers, exit);
                left = &left[sent..];
                if is_all {
                    continue;
                }
                together = sent > 0;
            }
            // What a call did not take tells by itself why.
            let run = match self.runs {
                1 => left.len(),
                _ => run_len(left, MAX_PARTS),
            };
            let (run, rest) = left.split_at(run);
            send_run(run, &mut self.most, buffers, exit);
            left = rest;
        }
        self.segments.clear();
        self.parts = 0;
        self.bytes = 0;
        self.runs = 0;
        (self.stride, self.ended) = (0, false);
        self.longest = 0;
    }
}

/// Sends one run, in one call if the path takes that. How many datagrams it takes in one is known so
/// far, and learnt.
fn send_run(mut left: &[Segment], known: &mut usize, buffers: Buffers<'_>, exit: &mut Exit<'_>) {
    let mut most = *known;
    // If a single one is lost as well it is the route, and nothing is learnt of the path.
    let mut single_lost = false;
    while let [first, rest @ ..] = left {
        let len = first.len();
        if !single_lost && !rest.is_empty() && exit.target.takes_segments(len) {
            let (now, later) = left.split_at(left.len().min(most));
            match send_at_once(now, buffers, exit) {
                Ok(have_left) => {
                    left = later;
                    if have_left {
                        *known = most;
                    }
                    continue;
                }
                // For their number, or for the path: the next call tells.
                Err(Errno::EINVAL) if now.len() > SURE_SEGMENTS => {
                    most = SURE_SEGMENTS;
                    continue;
                }
                Err(error) if exit.target.refuse_segments(len) => {
                    exit.tally.gave_up = Some(error);
                }
                Err(_) => {}
            }
        }
        if !send_one(first, buffers, exit) {
            single_lost = true;
            exit.target.trust_segments();
        }
        left = rest;
    }
}

/// How many of the first are of one length, the last of which may be shorter: so many at most.
fn run_len(segments: &[Segment], most: usize) -> usize {
    let len = segments.first().map_or(0, Segment::len);
    let equal = segments.iter().take_while(|next| next.len() == len).count();
    let shorter = segments.get(equal).is_some_and(|next| next.len() < len);
    most.min(equal + usize::from(shorter))
}

/// The runs of these segments, of so many datagrams at most. Those longer than this go by themselves.
fn runs(
    mut left: &[Segment],
    longest: usize,
    most: usize,
) -> impl Iterator<Item = &[Segment]> + Clone {
    std::iter::from_fn(move || {
        let many = match left.first()?.len() <= longest {
            true => run_len(left, most),
            false => 1,
        };
        let run;
        (run, left) = left.split_at(many);
        Some(run)
    })
}

/// Sends several runs in one call. Returns how many datagrams of the first have left, and whether
/// those are all that the call had.
fn send_together(
    segments: &[Segment],
    most: usize,
    buffers: Buffers<'_>,
    exit: &mut Exit<'_>,
) -> (usize, bool) {
    let runs = runs(segments, exit.target.longest_segment(), most);
    let mut parts = [IoSlice::new(&[]); MAX_PARTS];
    let mut parts = gather(segments, buffers, &mut parts);
    let mut messages = [Message::default(); MAX_AT_ONCE];
    let mut count = 0;
    for (message, run) in messages.iter_mut().zip(runs.clone()) {
        let of_run = run.iter().map(Segment::count_parts).sum();
        (message.parts, parts) = parts.split_at(of_run);
        message.segment = (run.len() > 1).then(|| stride(run));
        count += 1;
    }
    let gone = exit.socket.send_messages(&messages[..count], exit.target);
    let mut sent = 0;
    for run in runs.take(gone) {
        if run.len() > 1 {
            exit.target.accept_segments(stride(run).into());
        }
        for segment in run {
            exit.count(segment.len());
        }
        sent += run.len();
    }
    (sent, gone == count)
}

/// Whether they left. Fails if the same datagrams are to go by fewer, or singly.
fn send_at_once(
    segments: &[Segment],
    buffers: Buffers<'_>,
    exit: &mut Exit<'_>,
) -> nix::Result<bool> {
    let mut parts = [IoSlice::new(&[]); MAX_PARTS];
    let stride = stride(segments);
    let message = Message {
        parts: gather(segments, buffers, &mut parts),
        segment: Some(stride),
    };
    match exit.socket.send_message(&message, exit.target) {
        Ok(()) => {
            exit.target.accept_segments(stride.into());
            for segment in segments {
                exit.count(segment.len());
            }
            Ok(true)
        }
        Err(error) if is_refusal(error) => Err(error),
        Err(error) => {
            exit.tally.lose(segments.len(), error);
            Ok(false)
        }
    }
}

/// Whether it left.
fn send_one(segment: &Segment, buffers: Buffers<'_>, exit: &mut Exit<'_>) -> bool {
    let parts = segment.parts(buffers).map(IoSlice::new);
    let result = exit.socket.send_parts(&parts, exit.target);
    let left = result.is_ok();
    match result {
        Ok(()) => exit.count(segment.len()),
        Err(error) => exit.tally.lose(1, error),
    }
    left
}

/// The length that a run is cut by: that of its first datagram, at most MAX_BYTES.
fn stride(run: &[Segment]) -> u16 {
    let len = run.first().map_or(0, Segment::len);
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// Where the segments lie, piece by piece.
fn gather<'a, 'b>(
    segments: &[Segment],
    buffers: Buffers<'a>,
    parts: &'b mut [IoSlice<'a>; MAX_PARTS],
) -> &'b [IoSlice<'a>] {
    let mut used = 0;
    for segment in segments {
        for part in segment.parts(buffers) {
            parts[used] = IoSlice::new(part);
            used += usize::from(!part.is_empty());
        }
    }
    &parts[..used]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_up_stays_the_same() {
        let (mut bodies, mut batch) = ([0; 100], Batch::new());
        for (n, body) in [10..20, 30..40, 40..50, 92..99].into_iter().enumerate() {
            bodies[body.clone()].fill(u8::try_from(n + 1).expect("one of four"));
            assert!(batch.fits(body.len()));
            batch.push(Segment { head: 0..0, body });
        }
        assert_eq!(batch.move_up(&mut bodies), 37);
        assert_eq!(batch.bytes(), 37);
        let moved = batch.segments.iter().map(|segment| segment.body.clone());
        assert_eq!(moved.collect::<Vec<_>>(), [0..10, 10..20, 20..30, 30..37]);
        let expected = [[1; 10], [2; 10], [3; 10], [4; 10]].concat();
        assert_eq!(bodies[..37], expected[..37]);
    }
}
