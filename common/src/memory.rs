//! Memory, of which small machines have little.

use nix::sys::sysinfo::sysinfo;

/// From 128 KiB on allocators map pages for one piece alone (`M_MMAP_THRESHOLD`, mallopt(3)).
const MAPPED: usize = 132 * 1024;

/// Room for this many bytes at least, all 0. What is never touched takes no memory, and dropping
/// it gives back what does.
pub fn room(len: usize) -> Box<[u8]> {
    vec![0; len.max(MAPPED)].into()
}

/// All of the machine's memory, in bytes; 0 if the kernel does not say. What waits in queues must
/// leave most of it alone.
pub fn total() -> u64 {
    sysinfo().map_or(0, |info| info.ram_total())
}
