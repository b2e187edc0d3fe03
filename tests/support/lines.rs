//! Lines of a log as they come in, to be waited for and counted.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::wait::{PATIENCE, wait_for, wait_until};

/// A log that grows. Its copies show the same lines.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<(Instant, String)>>>);

impl Lines {
    /// Follows a stream of bytes until its end, in a thread of its own.
    pub fn follow(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let copy = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                copy.push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        lines
    }

    /// Adds one line.
    pub fn push(&self, line: String) {
        self.with(|lines| lines.push((Instant::now(), line)));
    }

    fn with<T>(&self, look: impl FnOnce(&mut Vec<(Instant, String)>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        self.with(|lines| lines.iter().map(|(_, line)| line.clone()).collect())
    }

    /// The lines so far that contain this text.
    pub fn matching(&self, text: &str) -> Vec<String> {
        let mut lines = self.all();
        lines.retain(|line| line.contains(text));
        lines
    }

    /// How many lines so far contain this text.
    pub fn count(&self, text: &str) -> usize {
        self.matching(text).len()
    }

    /// Waits for the first line that contains this text.
    #[track_caller]
    pub fn wait(&self, text: &str) -> String {
        self.wait_nth(text, 1)
    }

    /// Waits for the nth line that contains this text.
    #[track_caller]
    pub fn wait_nth(&self, text: &str, n: usize) -> String {
        let what = format!("line {n} with {text:?}");
        wait_for(PATIENCE, &what, || self.matching(text).get(n - 1).cloned())
    }

    /// Waits for this number of lines with this text, and expects no more.
    #[track_caller]
    pub fn exactly(&self, text: &str, n: usize) -> Vec<String> {
        if n > 0 {
            self.wait_nth(text, n);
        }
        let lines = self.matching(text);
        assert_eq!(lines.len(), n, "lines with {text:?}: {lines:?}");
        lines
    }

    /// No line shows an identifier in full.
    #[track_caller]
    pub fn assert_discreet(&self) {
        for line in self.all() {
            let mut words = line.split(|c: char| !c.is_ascii_hexdigit());
            assert!(words.all(|word| word.len() < 12), "{line}");
        }
    }

    /// When the nth line with this text came.
    pub fn time_of(&self, text: &str, n: usize) -> Option<Instant> {
        self.with(|lines| {
            let mut matching = lines.iter().filter(|(_, line)| line.contains(text));
            matching.nth(n - 1).map(|(time, _)| *time)
        })
    }

    /// Waits until a line with this text comes that is not there yet, after the action.
    #[track_caller]
    pub fn wait_next(&self, text: &str, action: impl FnOnce()) -> String {
        let before = self.count(text);
        action();
        self.wait_nth(text, before + 1)
    }

    /// Waits until the lines satisfy the condition.
    #[track_caller]
    pub fn wait_all(&self, what: &str, condition: impl Fn(&[String]) -> bool) {
        wait_until(PATIENCE, what, || condition(&self.all()));
    }
}
