//! A clock that a test sets, for programs that are started under it.

/// The command in front of a program; the last word to come is `FAKETIME_TIMESTAMP_FILE=` and a
/// file with the date.
pub const SETTABLE: [&str; 5] = [
    "env",
    "LD_PRELOAD=libfaketime.so.1",
    "LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu/faketime:/usr/lib/aarch64-linux-gnu/faketime",
    "FAKETIME_NO_CACHE=1",
    "FAKETIME_DONT_FAKE_MONOTONIC=1",
];
