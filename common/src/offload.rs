//! Arithmetic with packets. A super-packet comes in and the packets that it stands for go out
//! (`gso`), or packets come in and a super-packet goes out (`gro`). Slices in, slices out, no
//! I/O. The datapath calls.

pub(crate) mod checksum;
pub mod gro;
pub mod gso;
pub(crate) mod headers;
pub mod virtio_net;
