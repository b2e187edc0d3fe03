//! Paths that stay good when the working directory changes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The path from the root. `None` if the working directory was deleted. std::path::absolute does the
/// same, and is 2.4 KB larger on MIPS: it takes the path apart.
#[cold]
pub(crate) fn absolute(path: &Path) -> Option<PathBuf> {
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let bytes = path.as_os_str().as_bytes();
    let path = OsStr::from_bytes(bytes.strip_prefix(b"./").unwrap_or(bytes));
    Some(std::env::current_dir().ok()?.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_root() {
        let here = std::env::current_dir().expect("it is there");
        for (path, wanted) in [
            ("/etc/jtunnel", "/etc/jtunnel".into()),
            ("/./a", "/./a".into()),
            ("a/b", here.join("a/b")),
            ("./a", here.join("a")),
            (".", here.join(".")),
        ] {
            assert_eq!(
                absolute(path.as_ref()).map(PathBuf::into_os_string),
                Some(wanted.into_os_string())
            );
        }
    }
}
