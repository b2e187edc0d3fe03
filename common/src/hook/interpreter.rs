//! Why a PROG that is there may not run: "No such file or directory" is what the kernel says of its
//! interpreter, and a shell by itself would run what it calls an "Exec format error".

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::report::error::reason;

/// What the kernel reads of the first line (BINPRM_BUF_SIZE, 128 before Linux 5.1), in bytes.
const FIRST_LINE: u64 = 256;

/// Looks at the first line of a script.
pub(super) fn check(program: &Path) -> io::Result<()> {
    let mut head = Vec::new();
    // Who may run it need not be able to read it.
    if let Ok(file) = File::open(program) {
        let _ = file.take(FIRST_LINE).read_to_end(&mut head);
        look_at(&head)?;
    }
    Ok(())
}

fn look_at(head: &[u8]) -> io::Result<()> {
    let Some(rest) = head.strip_prefix(b"#!") else {
        // Programs have a 0 near their beginning, scripts have none.
        return match head.contains(&0) {
            true => Ok(()),
            false => Err(io::Error::other("it does not begin with #!")),
        };
    };
    let mut lines = rest.split(|&byte| byte == b'\n');
    let line = lines.next().unwrap_or_default();
    if line.ends_with(b"\r") {
        return Err(io::Error::other("its first line ends in CR"));
    }
    let mut words = line.split(u8::is_ascii_whitespace);
    let interpreter = words.find(|word| !word.is_empty()).unwrap_or_default();
    let path = Path::new(OsStr::from_bytes(interpreter));
    access(path, AccessFlags::X_OK).map_err(|errno| {
        let (path, reason) = (path.display(), reason(&errno.into()));
        io::Error::other(format!("its interpreter {path}: {reason}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_first_line_tells() {
        let missing = "its interpreter /no/sh: No such file or directory";
        let bare = "it does not begin with #!";
        for (head, fault) in [
            (&b"#!/bin/sh\necho\r\n"[..], None),
            (b"#! \t/bin/sh -eu", None),
            (b"#!/bin/sh\r\n", Some("its first line ends in CR")),
            (b"#!/bin/sh -e\r", Some("its first line ends in CR")),
            (b"#!/no/sh -e\n", Some(missing)),
            (b"#!\n", Some("its interpreter : No such file or directory")),
            (b"\xef\xbb\xbf#!/bin/sh\n", Some(bare)),
            (b"echo\n", Some(bare)),
            (b"", Some(bare)),
            (b"\x7fELF\x02\x01\x01\0", None),
        ] {
            let found = look_at(head).err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), fault, "{head:?}");
        }
    }
}
