//! When to send a keepalive, and what the absence of an answer means. Pure.
//!
//! Nothing but an answer shows that the way to the server is good: it may go on talking while
//! nothing arrives there. Without one, at start and after each silence, the server is searched for:
//! keepalives come sooner then.

use std::time::{Duration, Instant};

use common::backoff::Backoff;

/// This many in a row without an answer mean silence.
const UNANSWERED: u32 = 3;
/// An answer that comes later than this many keepalives after its own is none.
const LATEST: u32 = 64;
/// A search that lasts is worth a line after this time, and then now and then.
const OVERDUE: Duration = Duration::from_secs(10);
const STILL_OVERDUE: Duration = Duration::from_secs(600);

/// The keepalives to one server.
#[derive(Debug)]
pub(crate) struct Keepalive {
    /// `None` is none at all.
    interval: Option<Duration>,
    next: Instant,
    /// From the last one that counts to the next.
    wait: Duration,
    /// For those of a search.
    search: Backoff,
    /// When a search is worth a line.
    overdue: Option<Instant>,
    /// For those that could not be sent.
    retry: Backoff,
    /// So many in a row.
    failures: u32,
    /// That of the last one.
    counter: u32,
    /// That of the last one that was answered.
    answered: u32,
    /// When the last one left, until its answer comes.
    sent: Option<Instant>,
    /// The last one that counts.
    asked: Option<Instant>,
    /// Those that count since the last answer.
    unanswered: u32,
    /// Those of them before the last silence.
    given_up: u32,
    /// When the first of them left.
    unanswered_since: Option<Instant>,
    heard: Option<Instant>,
    /// Answered since the start, or since the last silence.
    up: bool,
    round_trip: Option<RoundTrip>,
}

/// How long an answer took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoundTrip {
    pub(crate) time: Duration,
    /// When it came.
    pub(crate) at: Instant,
}

impl Keepalive {
    /// The counter begins behind this one. If it is random, who sees none of the keepalives can't
    /// answer them.
    pub(crate) fn new(interval: Option<Duration>, counter: u32, now: Instant) -> Self {
        Self {
            interval,
            next: now,
            wait: Duration::ZERO,
            search: Backoff::default(),
            overdue: None,
            retry: Backoff::default(),
            failures: 0,
            counter,
            answered: counter,
            sent: None,
            asked: None,
            unanswered: 0,
            given_up: 0,
            unanswered_since: None,
            heard: None,
            up: false,
            round_trip: None,
        }
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.interval.map(|_| self.next)
    }

    /// Whether one is due.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next().is_some_and(|next| now >= next)
    }

    /// Whether there was no answer for too long. It counts anew from here on.
    pub(crate) fn take_silence(&mut self) -> bool {
        let silent = self.unanswered - self.given_up >= UNANSWERED;
        if silent {
            self.given_up = self.unanswered;
            if std::mem::take(&mut self.up) {
                self.search = Backoff::default();
            }
            // It was that of a way that is left.
            self.round_trip = None;
        }
        silent
    }

    /// Whether no answer has come since the start, or since a silence.
    pub(crate) fn is_searching(&self) -> bool {
        self.interval.is_some() && !self.up
    }

    /// There are other addresses to try, or the one in use has no way any more: one is due now, and
    /// the next ones soon.
    pub(crate) fn search(&mut self, now: Instant) {
        self.next = now;
        self.wait = Duration::ZERO;
        self.search = Backoff::default();
        self.given_up = self.unanswered;
        self.up = false;
        self.overdue = None;
    }

    /// When a search is worth a line.
    pub(crate) fn overdue(&self) -> Option<Instant> {
        self.overdue
    }

    /// Whether it is now.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> bool {
        let is_overdue = self.overdue.is_some_and(|at| now >= at);
        if is_overdue {
            self.overdue = Some(now + STILL_OVERDUE);
        }
        is_overdue
    }

    /// The counter for the next one: some carriers drop identical datagrams.
    pub(crate) fn next_counter(&mut self) -> u32 {
        self.counter = self.counter.wrapping_add(1);
        self.counter
    }

    /// It has left.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.ask(now);
        self.retry = Backoff::default();
        self.failures = 0;
        self.next = now + self.wait;
    }

    /// The socket had no room for it, and it is tried again soon. What the socket holds may be
    /// stuck in an uplink that is out of use, so it counts like one that was lost on its way.
    pub(crate) fn held_up(&mut self, now: Instant) {
        self.ask(now);
        self.retry_soon(now);
    }

    fn ask(&mut self, now: Instant) {
        self.sent = Some(now);
        // One that hurries after another asks no second question.
        let is_early = |at| now.saturating_duration_since(at) < self.wait / 2;
        if self.asked.is_some_and(is_early) {
            return;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        self.unanswered_since.get_or_insert(now);
        self.asked = Some(now);
        let interval = self.interval.unwrap_or_default();
        self.wait = match self.up {
            true => interval,
            false => self.search.next_wait().min(interval),
        };
        if !self.up {
            self.overdue.get_or_insert(now + OVERDUE);
        }
    }

    fn retry_soon(&mut self, now: Instant) {
        let wait = self.retry.next_wait();
        self.next = now + wait.min(self.interval.unwrap_or_default());
    }

    /// It could not leave: no route, no address. It is tried again sooner than in an interval.
    /// True with every third in a row: this may not be the way to the server any more.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        self.retry_soon(now);
        self.failures = self.failures.saturating_add(1);
        self.failures.is_multiple_of(UNANSWERED)
    }

    /// One is due now: there is another address or port to try.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.next = now;
    }

    /// The server was heard. True if that is news: it is none where an answer will tell more.
    pub(crate) fn heard(&mut self, now: Instant) -> bool {
        self.heard = Some(now);
        self.interval.is_none() && !std::mem::replace(&mut self.up, true)
    }

    /// Whether there is a keepalive with this counter that an answer may still come to.
    pub(crate) fn awaits(&self, counter: u32) -> bool {
        let open = self.counter.wrapping_sub(self.answered).min(LATEST);
        self.counter.wrapping_sub(counter) < open
    }

    /// The same of a link whose answers have no counter, but can't be forged or repeated.
    pub(crate) fn answered_last(&mut self, now: Instant) -> bool {
        self.answered(self.counter, now)
    }

    /// An answer with this counter has come; true if it is the first since the start, or since a
    /// silence. Only one to a keepalive of ours counts, and once: it may come again much later.
    pub(crate) fn answered(&mut self, counter: u32, now: Instant) -> bool {
        if !self.awaits(counter) {
            return false;
        }
        if counter == self.counter
            && let Some(at) = self.sent.take()
        {
            let time = now.saturating_duration_since(at);
            self.round_trip = Some(RoundTrip { time, at: now });
        }
        self.answered = counter;
        (self.unanswered, self.given_up) = (0, 0);
        self.unanswered_since = None;
        let is_news = !std::mem::replace(&mut self.up, true);
        if is_news {
            // The search is over.
            self.overdue = None;
            self.wait = self.interval.unwrap_or_default();
            self.next = self.asked.unwrap_or(now) + self.wait;
        }
        is_news
    }

    /// When the server was last heard.
    pub(crate) fn last_heard(&self) -> Option<Instant> {
        self.heard
    }

    /// How many had no answer since there was one.
    pub(crate) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// When the first of those left.
    pub(crate) fn unanswered_since(&self) -> Option<Instant> {
        self.unanswered_since
    }

    /// How long the last answer took, if there was one since the last silence.
    pub(crate) fn round_trip(&self) -> Option<RoundTrip> {
        self.round_trip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(25);
    /// It soon passes 0.
    const BEGIN: u32 = u32::MAX - 1;

    fn send(keepalive: &mut Keepalive, now: Instant) -> u32 {
        assert!(keepalive.is_due(now));
        let counter = keepalive.next_counter();
        keepalive.sent(now);
        counter
    }

    /// One whose first was answered at once.
    fn found(start: Instant) -> Keepalive {
        let mut keepalive = Keepalive::new(Some(INTERVAL), BEGIN, start);
        let counter = send(&mut keepalive, start);
        assert!(keepalive.answered(counter, start));
        keepalive
    }

    /// After how many seconds each of so many leaves, with these waits between.
    fn times(keepalive: &mut Keepalive, start: Instant, count: usize) -> Vec<u64> {
        let times = (0..count).map(|_| {
            let now = keepalive.next().expect("there always is one");
            keepalive.take_silence();
            send(keepalive, now);
            (now - start).as_secs()
        });
        times.collect()
    }

    #[test]
    fn a_search_begins_fast() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some(INTERVAL), BEGIN, start);
        let all = [0, 1, 3, 7, 15, 31, 56, 81];
        assert_eq!(times(&mut keepalive, start, 8), all);
        // An answer ends it; a silence begins another.
        let counter = send(&mut keepalive, start + Duration::from_secs(106));
        assert!(keepalive.answered(counter, start + Duration::from_secs(107)));
        assert!(!keepalive.is_searching());
        let (next, start) = ([131, 156, 181], start);
        assert_eq!(times(&mut keepalive, start, 3), next);
        let again = [206, 207, 209, 213, 221];
        assert_eq!(times(&mut keepalive, start, 5), again);
        // So does another address.
        let now = start + Duration::from_secs(222);
        keepalive.search(now);
        assert_eq!(times(&mut keepalive, start, 3), [222, 223, 225]);
    }

    #[test]
    fn a_search_is_not_more_frequent_than_asked_for() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some(Duration::from_secs(3)), BEGIN, start);
        assert_eq!(times(&mut keepalive, start, 5), [0, 1, 3, 6, 9]);
    }

    #[test]
    fn silences_of_a_search() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some(INTERVAL), BEGIN, start);
        let mut silences = Vec::new();
        while silences.len() < 3 {
            let now = keepalive.next().expect("there always is one");
            if keepalive.take_silence() {
                silences.push((now - start).as_secs());
            }
            send(&mut keepalive, now);
        }
        assert_eq!(silences, [7, 56, 131]);
    }

    #[test]
    fn a_search_that_lasts_is_told() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut keepalive = Keepalive::new(Some(INTERVAL), BEGIN, start);
        assert_eq!(keepalive.overdue(), None, "nothing was sent");
        send(&mut keepalive, start);
        assert_eq!(keepalive.overdue(), Some(at(10)));
        assert!(!keepalive.take_overdue(at(9)) && keepalive.take_overdue(at(10)));
        assert!(!keepalive.take_overdue(at(609)) && keepalive.take_overdue(at(610)));
        let counter = send(&mut keepalive, at(611));
        keepalive.answered(counter, at(611));
        assert_eq!(keepalive.overdue(), None);
    }

    #[test]
    fn every_interval_whatever_is_heard() {
        let start = Instant::now();
        let mut keepalive = found(start);
        keepalive.heard(start + INTERVAL / 2);
        assert!(!keepalive.is_due(start + INTERVAL - Duration::from_millis(1)));
        assert!(keepalive.is_due(start + INTERVAL));
    }

    #[test]
    fn three_unanswered_are_silence() {
        let start = Instant::now();
        let mut keepalive = found(start);
        for n in 1..4 {
            assert!(!keepalive.take_silence());
            send(&mut keepalive, start + INTERVAL * n);
        }
        assert!(keepalive.take_silence());
        assert!(!keepalive.take_silence(), "it counts anew");
    }

    #[test]
    fn many_in_a_hurry_are_one_question() {
        let start = Instant::now();
        let mut keepalive = found(start);
        for n in 0..10 {
            let now = start + INTERVAL + Duration::from_millis(100) * n;
            keepalive.hurry(now);
            send(&mut keepalive, now);
        }
        assert_eq!(keepalive.unanswered(), 1);
        for n in 2..4 {
            assert!(!keepalive.take_silence());
            send(
                &mut keepalive,
                start + (INTERVAL + Duration::from_secs(1)) * n,
            );
        }
        assert!(keepalive.take_silence());
    }

    #[test]
    fn many_in_a_hurry_slow_no_search_down() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some(INTERVAL), BEGIN, start);
        for n in 0..4 {
            let now = start + Duration::from_millis(100) * n;
            keepalive.hurry(now);
            send(&mut keepalive, now);
        }
        let next = start + Duration::from_millis(1300);
        assert_eq!((keepalive.unanswered(), keepalive.next()), (1, Some(next)));
    }

    #[test]
    fn an_answer_breaks_the_row() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some(INTERVAL), BEGIN, start);
        for n in 0..10 {
            let now = start + INTERVAL * n;
            let counter = send(&mut keepalive, now);
            if n % 2 == 1 {
                assert_eq!(keepalive.answered(counter, now), n == 1, "news once");
                assert_eq!(keepalive.unanswered(), 0);
            }
            assert!(!keepalive.take_silence());
        }
    }

    #[test]
    fn whatever_else_is_heard_does_not() {
        let start = Instant::now();
        let mut keepalive = found(start);
        for n in 1..=3 {
            assert!(!keepalive.take_silence());
            send(&mut keepalive, start + INTERVAL * n);
            assert!(!keepalive.heard(start + INTERVAL * n));
            assert_eq!(keepalive.unanswered(), n);
        }
        let end = start + INTERVAL * 4;
        assert!(!keepalive.heard(end));
        assert!(keepalive.take_silence());
        assert_eq!(keepalive.last_heard(), Some(end));
        assert_eq!(keepalive.unanswered_since(), Some(start + INTERVAL));
        // It counts anew, but the report goes on.
        send(&mut keepalive, end);
        assert_eq!(keepalive.unanswered(), 4);
        assert!(!keepalive.take_silence());
    }

    #[test]
    fn only_answers_to_what_was_asked_count() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some(INTERVAL), BEGIN, start);
        let first = keepalive.next_counter();
        assert!(!keepalive.answered(first.wrapping_add(1), start), "not yet");
        assert!(!keepalive.answered(first.wrapping_sub(1), start), "never");
        for _ in 0..2 {
            keepalive.next_counter();
        }
        // A way with a round trip longer than an interval; the last one comes twice, and late.
        assert!(keepalive.answered(first, start));
        assert!(!keepalive.awaits(first));
        let after = |n| first.wrapping_add(n);
        assert!(keepalive.awaits(after(1)) && keepalive.awaits(after(2)));
        keepalive.answered(after(2), start);
        assert!(!keepalive.awaits(after(1)) && !keepalive.awaits(after(2)));
        for _ in 0..1000 {
            keepalive.next_counter();
        }
        assert!(!keepalive.awaits(after(3)), "much too late");
        assert!(keepalive.awaits(after(1002)));
    }

    #[test]
    fn what_could_not_leave_is_no_silence() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some(INTERVAL), BEGIN, start);
        let mut now = start;
        for (n, wait) in (1..).zip([1, 2, 4, 8, 16, 25, 25]) {
            assert_eq!(keepalive.failed(now), n % 3 == 0, "{n} in a row");
            assert_eq!(keepalive.next(), Some(now + Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
        }
        assert!(!keepalive.take_silence());
        send(&mut keepalive, now);
        assert!(
            !keepalive.failed(now) && !keepalive.failed(now),
            "a new row"
        );
    }

    #[test]
    fn those_that_hurry_hide_no_silence() {
        let start = Instant::now();
        let mut keepalive = found(start);
        let mut silence = None;
        for seconds in (4..).step_by(4).take(20) {
            let now = start + Duration::from_secs(seconds);
            keepalive.hurry(now);
            if keepalive.take_silence() {
                silence = silence.or(Some(seconds));
            }
            send(&mut keepalive, now);
        }
        // After 16, 32 and 48 s.
        assert_eq!(silence, Some(52));
    }

    #[test]
    fn what_found_no_room_is_tried_soon_and_ends_in_silence() {
        let start = Instant::now();
        let (mut keepalive, mut now) = (found(start), start + INTERVAL);
        for wait in [1, 2, 4, 8, 16, 25] {
            assert!(keepalive.is_due(now) && !keepalive.take_silence());
            keepalive.held_up(now);
            now += Duration::from_secs(wait);
            assert_eq!(keepalive.next(), Some(now));
        }
        assert!(keepalive.take_silence(), "at once, and after 15 and 31 s");
    }

    #[test]
    fn round_trip_of_the_last_one_only() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some(INTERVAL), BEGIN, start);
        let first = send(&mut keepalive, start);
        let second = send(&mut keepalive, start + INTERVAL);
        assert_ne!(first, second);
        keepalive.answered(first, start + INTERVAL);
        assert_eq!(keepalive.round_trip(), None);
        let time = Duration::from_millis(30);
        let at = start + INTERVAL + time;
        keepalive.answered(second, at);
        let round_trip = Some(RoundTrip { time, at });
        assert_eq!(keepalive.round_trip(), round_trip);
        keepalive.answered(second, start + 2 * INTERVAL);
        assert_eq!(keepalive.round_trip(), round_trip, "doubled on its way");
        for n in 2..5 {
            send(&mut keepalive, start + n * INTERVAL);
        }
        assert!(keepalive.take_silence());
        assert_eq!(keepalive.round_trip(), None, "that of a way that is left");
    }

    #[test]
    fn none_at_all() {
        let now = Instant::now();
        let mut keepalive = Keepalive::new(None, BEGIN, now);
        assert!(keepalive.next().is_none() && !keepalive.is_due(now + INTERVAL));
        assert!(keepalive.heard(now), "no answer will tell more");
        assert!(!keepalive.heard(now));
    }
}
