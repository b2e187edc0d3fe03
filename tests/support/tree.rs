//! Where things are in the source tree.

use std::path::{Path, PathBuf};

/// The top of the tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A PROG script or another file that the manual shows.
pub fn example(name: &str) -> PathBuf {
    root().join("man/examples").join(name)
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}
