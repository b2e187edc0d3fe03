//! What is told. Events and errors come in, and lines for the administrator go out, at a bounded
//! rate where packets cause them. Everybody above calls.

pub mod error;
pub mod log;
pub mod ring;
pub mod state;
pub mod throttle;
