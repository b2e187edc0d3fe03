//! Who may come in, and how. Names and contents of files in the configuration directory come in;
//! for the identifier of a datagram no goes out, or plain, or its key (`authorized`). Both programs
//! ask, for identifiers that they do not know yet, and count here what they drop of a keyed peer
//! (`dropped`).

pub mod authorized;
pub mod dropped;
