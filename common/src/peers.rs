//! Who may come in. Names of files in the configuration directory come in, and yes or no for the
//! identifier of a datagram goes out. Both programs ask, for identifiers that they do not know yet.

pub mod authorized;
