//! The start of a program. Arguments come in, and a program that is set up, in the background and
//! told to run goes out, or an exit status. Each program's `main` calls `program`, once.

mod background;
pub(crate) mod findings;
pub mod identity;
pub mod options;
mod pidfile;
pub mod program;
