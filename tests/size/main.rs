//! What the programs cost: sizes of files, what is in them, memory, wake-ups, and instructions for
//! each packet. Prints tables in Markdown, and fails if a size or a number of instructions is more
//! than 5 % above the recorded one, or a figure of a keyed link above what is required.
//!
//! usage: size DYNAMIC STATIC UNSTRIPPED [--record]
//!
//! DYNAMIC is the directory of the ordinary build, STATIC has one directory for each target, and
//! UNSTRIPPED one of the ordinary build with its symbols. With --record the figures are recorded.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on says so by a panic"
)]

mod instructions;
mod memory;
mod symbols;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use support::host::Host;
use support::tree;

use crate::instructions::Figure;

const PROGRAMS: [&str; 2] = ["jtunneld", "jtunnel-client"];
/// Static files whose memory and instructions are measured beside those of the ordinary build.
const STATIC_X86: &str = "x86_64-unknown-linux-musl";
/// Static files whose instructions are counted besides.
const STATIC_MIPS: &str = "mipsel-unknown-linux-musl";
/// Where the figures are recorded.
const RECORD: &str = "tests/size/figures";
/// How much more than recorded is too much, in percent.
const TOLERANCE: u64 = 5;

/// What a figure of a keyed link may be at most, whatever is recorded: bytes of memory that a client
/// takes more than a plain one, and instructions for a packet on the smallest machine.
fn most(name: &str) -> Option<u64> {
    if name.starts_with("bytes of memory") {
        return Some(2048);
    }
    let words: Vec<_> = name.split(", ").collect();
    match words[..] {
        ["instructions", "mipsel", _, _, "sign", ..] => Some(25_000),
        ["instructions", "mipsel", _, _, "seal", ..] => Some(80_000),
        _ => None,
    }
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [dynamic, statics, unstripped] = [0, 1, 2].map(|n| std::path::absolute(&words[n]).unwrap());
    let mut figures = sizes(&dynamic, &statics);
    figures.extend(code(&dynamic));
    contents(&unstripped);
    needs(&dynamic, &statics);
    memories(&dynamic, &statics);
    figures.extend(clients(&dynamic, &statics));
    figures.extend(counts(&dynamic, &statics));
    let code = judge(&figures);
    let record = tree::root().join(RECORD);
    if words.iter().any(|word| word == "--record") {
        let lines: String = figures
            .iter()
            .map(|(name, n)| format!("{n}\t{name}\n"))
            .collect();
        fs::write(record, lines).unwrap();
        return code;
    }
    match compare(&figures, &fs::read_to_string(record).unwrap()) {
        ExitCode::SUCCESS => code,
        worse => worse,
    }
}

/// Whether each figure is what it may be at most.
fn judge(figures: &[Figure]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (name, now) in figures {
        if let Some(most) = most(name).filter(|most| now > most) {
            println!("{name}: {now}, but at most {most} is required");
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// Compares with what is recorded.
fn compare(figures: &[Figure], recorded: &str) -> ExitCode {
    let recorded: BTreeMap<&str, u64> = recorded
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(number, name)| (name, number.parse().unwrap()))
        .collect();
    let mut code = ExitCode::SUCCESS;
    for (name, now) in figures {
        let before = recorded.get(name.as_str()).copied().unwrap_or(0);
        if now * 100 > before * (100 + TOLERANCE) {
            println!("{name}: {now}, but {before} is recorded");
            code = ExitCode::FAILURE;
        }
    }
    if code == ExitCode::FAILURE {
        println!("If that is meant to be: make size RECORD=--record");
    }
    code
}

fn sizes(dynamic: &Path, statics: &Path) -> Vec<Figure> {
    let mut rows = vec![("x86-64, dynamic".to_owned(), dynamic.to_owned())];
    let mut targets: Vec<_> = fs::read_dir(statics).unwrap().flatten().collect();
    targets.retain(|entry| entry.path().join(PROGRAMS[0]).exists());
    targets.sort_by_key(fs::DirEntry::file_name);
    for target in targets {
        let name = target.file_name().into_string().unwrap();
        rows.push((name, target.path()));
    }
    println!("| file, bytes | jtunneld | jtunnel-client |\n| --- | ---: | ---: |");
    let mut figures = Vec::new();
    for (name, directory) in rows {
        let sizes = PROGRAMS.map(|program| fs::metadata(directory.join(program)).unwrap().len());
        println!("| {name} | {} | {} |", sizes[0], sizes[1]);
        for (program, size) in PROGRAMS.into_iter().zip(sizes) {
            figures.push((format!("bytes of {program}, {name}"), size));
        }
    }
    figures
}

/// What common/link/panic.ld puts apart is not in memory, so what it leaves has a figure.
fn code(dynamic: &Path) -> Vec<Figure> {
    println!("\n| code, bytes, x86-64, dynamic | apart, for a panic | all other |");
    println!("| --- | ---: | ---: |");
    let figures = PROGRAMS.map(|program| {
        let file = dynamic.join(program);
        let output = Command::new("size").arg("-Ad").arg(file).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let (mut apart, mut other) = (0_u64, 0);
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(section), Some(size)) = (words.next(), words.next()) else {
                continue;
            };
            if section == ".text.panic" {
                apart = size.parse().unwrap();
            } else if section.starts_with(".text") {
                other += size.parse::<u64>().unwrap();
            }
        }
        println!("| {program} | {apart} | {other} |");
        (
            format!("bytes of code of {program} but for a panic's"),
            other,
        )
    });
    figures.into()
}

fn contents(unstripped: &Path) {
    for program in PROGRAMS {
        let [crates, functions] = symbols::of(&unstripped.join(program));
        println!("\n| what is in {program}, x86-64, dynamic | bytes |\n| --- | ---: |");
        for (name, size) in crates {
            println!("| {name} | {size} |");
        }
        for (name, size) in functions {
            println!("| `{name}` | {size} |");
        }
    }
}

fn needs(dynamic: &Path, statics: &Path) {
    println!();
    for directory in [dynamic, &statics.join(STATIC_X86)] {
        let output = Command::new("readelf")
            .arg("-d")
            .arg(directory.join(PROGRAMS[0]))
            .output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let lines = text.lines().filter(|line| line.contains("(NEEDED)"));
        let names: Vec<_> = lines
            .filter_map(|line| line.split(['[', ']']).nth(1))
            .collect();
        let kind = if directory == dynamic {
            "dynamic"
        } else {
            "static"
        };
        println!(
            "Libraries, {kind}: {}.",
            if names.is_empty() {
                "none".into()
            } else {
                names.join(", ")
            }
        );
    }
}

fn memories(dynamic: &Path, statics: &Path) {
    let builds = [("dynamic", dynamic), ("static", &statics.join(STATIC_X86))];
    let rows = together(builds, |(_, files)| memory::rows(files));
    for ((kind, _), rows) in builds.into_iter().zip(rows) {
        println!(
            "\n| process, x86-64, {kind} | resident, KiB | anonymous, KiB | resident after 512 MiB of TCP | anonymous after it | wake-ups in 50 idle s |\n\
             | --- | ---: | ---: | ---: | ---: | ---: |"
        );
        for row in rows {
            println!("{row}");
        }
    }
}

/// Does the same with each at once: most of the time is waiting, and instructions are counted by
/// qemu, whatever else the machine does.
fn together<B: Send, T: Send, const N: usize>(
    builds: [B; N],
    work: impl Fn(B) -> T + Sync,
) -> [T; N] {
    let work = &work;
    std::thread::scope(|scope| {
        let threads = builds.map(|build| scope.spawn(move || work(build)));
        threads.map(|thread| thread.join().unwrap())
    })
}

/// What the server keeps of each client.
fn clients(dynamic: &Path, statics: &Path) -> Vec<Figure> {
    println!(
        "\n| memory of jtunneld for each client, bytes, x86-64 | plain | more for sign | more for seal |"
    );
    println!("| --- | ---: | ---: | ---: |");
    let mut figures = Vec::new();
    for (kind, files) in [("dynamic", dynamic), ("static", &statics.join(STATIC_X86))] {
        // The lower of two: now and then an allocator holds more than is in use.
        let [first, second] = [(); 2].map(|()| memory::for_each_client(files));
        let [plain, sign, seal] = std::array::from_fn(|n| first[n].min(second[n]));
        let more = [sign, seal].map(|bytes| bytes.saturating_sub(plain));
        println!("| {kind} | {plain} | {} | {} |", more[0], more[1]);
        for (word, bytes) in ["sign", "seal"].into_iter().zip(more) {
            figures.push((
                format!("bytes of memory for each client, {kind}, {word}"),
                bytes,
            ));
        }
    }
    figures
}

fn counts(dynamic: &Path, statics: &Path) -> Vec<Figure> {
    let host = Host::new("compiler");
    let plugin = instructions::plugin(&host);
    let builds = [
        ("x86-64, dynamic", "x86_64", dynamic),
        ("x86-64, static", "x86_64", &statics.join(STATIC_X86)),
        ("mipsel, static", "mipsel", &statics.join(STATIC_MIPS)),
    ];
    let names = builds.map(|(name, ..)| name);
    let counts = together(builds, |(_, machine, files)| {
        instructions::of(machine, files, &plugin)
    });
    println!(
        "\n| instructions for each packet, user part | {} |",
        names.join(" | ")
    );
    println!("| --- | ---: | ---: | ---: |");
    for (row, (path, _)) in counts[0].iter().enumerate() {
        let numbers = counts.each_ref().map(|list| list[row].1.to_string());
        println!("| {path} | {} |", numbers.join(" | "));
    }
    let named = names.into_iter().zip(counts).flat_map(|(name, list)| {
        let list = list.into_iter();
        list.map(move |(path, n)| (format!("instructions, {name}, {path}"), n))
    });
    named.collect()
}
