//! Memory in pages of its own.

use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Bytes that are 0 at first, in pages of their own.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
}

/// `mmap(2)` of this many bytes. A page takes memory once it is written to, whatever the C library:
/// its calloc(3) may write zeros to all of them.
pub(crate) fn map_pages(len: usize) -> io::Result<Pages> {
    let some = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the kernel chooses a place where nothing else is.
    let start = unsafe { mmap_anonymous(None, some, access, MapFlags::MAP_PRIVATE) }?;
    let start = start.cast();
    Ok(Pages { start, len })
}

impl Default for Pages {
    /// None at all.
    fn default() -> Self {
        let start = NonNull::dangling();
        Self { start, len: 0 }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `map_pages` made these bytes, if any, and nobody else knows of them.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: `map_pages` made these bytes, and with their owner no borrow is left. It
            // cannot fail for a mapping that is whole.
            let _ = unsafe { munmap(self.start.cast(), self.len) };
        }
    }
}
