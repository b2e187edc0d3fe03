//! What test processes that were killed have left behind.

use std::fs;
use std::path::Path;
use std::sync::Once;

use crate::namespace;

/// The start of every name that the tests give: `jt-PID-NUMBER-ROLE`.
pub(crate) const PREFIX: &str = "jt-";

/// Removes namespaces and directories of processes that are no more; once in each test process.
pub(crate) fn sweep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in names(Path::new(namespace::DIRECTORY)) {
            namespace::remove(&name);
        }
        for name in names(&std::env::temp_dir()) {
            let _ = fs::remove_dir_all(std::env::temp_dir().join(name));
        }
    });
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_stale(name))
        .collect()
}

fn is_stale(name: &str) -> bool {
    let mut words = name.strip_prefix(PREFIX).unwrap_or_default().split('-');
    let pid = words.next().and_then(|word| word.parse::<u32>().ok());
    let numbered = words.next().is_some_and(|word| word.parse::<u32>().is_ok());
    numbered && pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}
