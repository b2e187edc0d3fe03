//! What the manual pages show, to be run as it stands there.

use std::fs;

use crate::tree::root;

/// The literal block of a page that comes after these words, without the prompts.
#[track_caller]
pub fn block(page: &str, words: &str) -> String {
    let text = fs::read_to_string(root().join("man").join(page)).unwrap();
    let (_, after) = text
        .split_once(words)
        .unwrap_or_else(|| panic!("{page} does not say {words:?}"));
    let (_, block) = after.split_once(".Bd -literal").unwrap();
    let (block, _) = block.split_once("\n.Ed\n").unwrap();
    let lines = block.lines().skip(1);
    let lines = lines.map(|line| line.strip_prefix("# ").unwrap_or(line).replace("\\e", "\\"));
    lines.collect::<Vec<_>>().join("\n")
}
