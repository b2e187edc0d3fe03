//! A clock that a test sets, for programs that are started under it.

/// The command in front of a program; the last word to come is `FAKETIME_TIMESTAMP_FILE=` and a
/// file with the date.
pub const SETTABLE: [&str; 4] = [
    "env",
    // ld.so(8) puts the machine's own directory for $LIB.
    "LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1",
    "FAKETIME_NO_CACHE=1",
    "FAKETIME_DONT_FAKE_MONOTONIC=1",
];
