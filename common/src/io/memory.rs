//! Memory, of which small machines have little.

use std::alloc::{Layout, handle_alloc_error};

use nix::sys::sysinfo::sysinfo;

use crate::sys::{Pages, map_pages};

/// Room for this many bytes, all 0. What is never touched takes no memory, and dropping it gives
/// back what does.
pub(crate) fn room(len: usize) -> Pages {
    map_pages(len).unwrap_or_else(|_| {
        handle_alloc_error(Layout::array::<u8>(len).unwrap_or(Layout::new::<u8>()))
    })
}

/// All of the machine's memory, in bytes; 0 if the kernel does not say. What waits in queues must
/// leave most of it alone.
pub(crate) fn total() -> u64 {
    sysinfo().map_or(0, |info| info.ram_total())
}
