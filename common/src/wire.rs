//! What a datagram is. Bytes come in and their meaning goes out, and the other way round. No I/O.
//! Every floor above knows these words.

pub mod id;
pub mod packet;
