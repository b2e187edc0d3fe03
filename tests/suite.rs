//! All tests of the two programs in one file: most of them wait most of the time, for timeouts that
//! cannot be made shorter, so many run at once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod authorise;
mod carry;
mod cli;
mod device;
mod examples;
mod faults;
mod hostile;
mod idle;
mod independent;
mod install;
mod keyed;
mod keyed_files;
mod keyed_hostile;
mod manual;
mod middle;
mod offload;
mod ospf;
mod prog;
mod roam;
mod scale;
mod signals;
mod syslog;
mod topology;
