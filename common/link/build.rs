//! Has the linker leave out what only unwinding reads, or put what only a panic runs apart.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=../common/link");
    // It says both: abort,immediate-abort.
    let abort = var("CARGO_CFG_PANIC").is_ok_and(|panic| panic.contains("immediate-abort"));
    let script = if abort { "lean.ld" } else { "panic.ld" };
    let package = var("CARGO_MANIFEST_DIR").expect("cargo names the package's directory");
    println!("cargo::rustc-link-arg-bins=-T{package}/../common/link/{script}");
}
