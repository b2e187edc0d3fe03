//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::tree;

/// The directory of the two programs; they are built first unless `JTUNNEL_BIN` names one.
pub(crate) fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| match std::env::var_os("JTUNNEL_BIN") {
        Some(directory) => tree::root().join(directory),
        None => build(),
    })
}

fn build() -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "-p",
            "jtunneld",
            "-p",
            "jtunnel-client",
        ])
        .current_dir(tree::root())
        .status()
        .unwrap();
    assert!(status.success(), "the programs do not build");
    let triple = std::env::var_os("CARGO_BUILD_TARGET").unwrap_or_default();
    tree::target().join(triple).join("release")
}

/// The words of an environment variable.
fn words(variable: &str) -> Vec<String> {
    let value = std::env::var(variable).unwrap_or_default();
    value.split_whitespace().map(str::to_owned).collect()
}

/// A command that runs one of the programs, without options.
pub fn command(program: &str) -> Command {
    if std::env::var_os("JTUNNEL_NATIVE").is_some_and(|native| native == program) {
        static NATIVE: OnceLock<PathBuf> = OnceLock::new();
        return Command::new(NATIVE.get_or_init(build).join(program));
    }
    let path = directory().join(program);
    match words("JTUNNEL_RUNNER").split_first() {
        None => Command::new(path),
        Some((runner, arguments)) => {
            let mut command = Command::new(runner);
            command.args(arguments).arg(path);
            command
        }
    }
}

/// Whether an emulated processor runs them, which is slow, beside traffic that this machine makes.
pub fn are_emulated() -> bool {
    !words("JTUNNEL_RUNNER").is_empty()
}

/// Options that every run of either program is to have.
pub fn flags() -> Vec<String> {
    words("JTUNNEL_FLAGS")
}

/// Whether the options from outside leave it on: with -O there is nothing to give up.
pub fn offload_by_default() -> bool {
    flags().is_empty()
}
