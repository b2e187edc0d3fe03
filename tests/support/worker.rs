//! A thread that does the same thing again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Ends with the turn that it is at when it is stopped or dropped.
pub struct Worker {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts one. A turn must not take long: whoever stops it waits for its end.
    pub fn start(mut turn: impl FnMut() + Send + 'static) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let end = ending.clone();
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                turn();
            }
        });
        Self {
            ending,
            thread: Some(thread),
        }
    }

    /// Ends it; panics if it did.
    pub fn stop(mut self) {
        self.end().unwrap();
    }

    fn end(&mut self) -> std::thread::Result<()> {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
