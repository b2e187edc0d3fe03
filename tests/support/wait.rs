//! Waiting for conditions, never for times.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Long enough for a busy machine, whose kernel may be at the devices of others for more than a
/// minute; short enough for a test that hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// What a busy machine may take on top of a keepalive interval of a second; the third
/// keepalive without an answer is later.
pub const SLACK: Duration = Duration::from_millis(1700);
/// Between two looks at a condition.
pub(crate) const STEP: Duration = Duration::from_millis(5);

/// Prints how long something took to be well again.
pub fn report_recovery(of: impl Display, time: Duration) {
    println!("recovery: {of}: {:.3} s", time.as_secs_f64());
}

/// Waits until the question has an answer, and returns it; panics when patience is at its end.
#[track_caller]
pub fn wait_for<T>(patience: Duration, what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(
            Instant::now() < end,
            "waited {patience:?} in vain for {what}"
        );
        std::thread::sleep(STEP);
    }
}

/// Waits until the condition holds; panics when patience is at its end.
#[track_caller]
pub fn wait_until(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(patience, what, || condition().then_some(()));
}
