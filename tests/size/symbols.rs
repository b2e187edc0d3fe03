//! What the code of a program consists of: crates and large functions.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::instructions::Figure;

/// Functions to be listed.
const LARGEST: usize = 12;

/// Bytes of code by crate, and the largest functions of ours, of a program that is not stripped.
pub(crate) fn of(program: &Path) -> [Vec<Figure>; 2] {
    let output = Command::new("nm")
        .args(["-S", "-C"])
        .arg(program)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "nm does not read {}",
        program.display()
    );
    let (mut crates, mut functions) = (BTreeMap::<String, u64>::new(), Vec::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // address size type name
        let mut words = line.splitn(4, ' ');
        let (Some(_), Some(size), Some("t" | "T" | "r" | "R"), Some(name)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let size = u64::from_str_radix(size, 16).unwrap();
        let part = part(name);
        if OURS.contains(&part) {
            functions.push((name.to_owned(), size));
        }
        *crates.entry(part.to_owned()).or_default() += size;
    }
    let mut crates: Vec<_> = crates.into_iter().collect();
    for list in [&mut crates, &mut functions] {
        list.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    }
    functions.truncate(LARGEST);
    [crates, functions]
}

const OURS: [&str; 3] = ["common", "jtunneld", "jtunnel_client"];
const CRATES: [&str; 11] = [
    "getopts",
    "hex",
    "hostname",
    "libc",
    "log",
    "nix",
    "syslog",
    "time",
    "deranged",
    "num_threads",
    "memchr",
];
/// What the standard library brings along to print where a panic came from.
const BACKTRACE: [&str; 6] = [
    "gimli",
    "addr2line",
    "miniz_oxide",
    "object",
    "rustc_demangle",
    "backtrace_rs",
];

/// The crate that a symbol comes from; of one that is about several, ours comes first.
fn part(name: &str) -> &'static str {
    let has = |part: &str| {
        name.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == part)
    };
    let find = |parts: &[&'static str]| parts.iter().find(|part| has(part)).copied();
    let backtrace = || {
        BACKTRACE
            .iter()
            .any(|part| has(part))
            .then_some("backtraces of std")
    };
    let standard = || {
        ["std", "core", "alloc"]
            .iter()
            .any(|part| has(part))
            .then_some("std")
    };
    // gimli has a module `common`.
    backtrace()
        .or_else(|| find(&OURS))
        .or_else(|| find(&CRATES))
        .or_else(standard)
        .unwrap_or("other")
}
