//! Usage text, manual pages and README say the same.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use support::host::Host;
use support::launch::Launch;
use support::tree::root;

const PROGRAMS: [&str; 2] = ["jtunneld", "jtunnel-client"];

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn page(program: &str) -> String {
    read(&format!("man/{program}.8"))
}

fn usage(program: &'static str) -> String {
    let host = Host::new("help");
    let output = Launch::new(&host, program).options(["-h"]).output();
    String::from_utf8(output.stdout).unwrap()
}

/// The options that a usage text explains, with the names of their arguments.
fn explained(usage: &str) -> BTreeSet<(char, Option<String>)> {
    let lines = usage.lines().filter_map(|line| line.strip_prefix("  -"));
    lines
        .map(|line| {
            let mut words = line.split("  ").next().unwrap().split(' ');
            let letter = words.next().unwrap();
            assert_eq!(letter.len(), 1, "{line}");
            (
                letter.chars().next().unwrap(),
                words.next().map(str::to_owned),
            )
        })
        .collect()
}

/// The options of the synopsis at its head.
fn listed(usage: &str) -> BTreeSet<(char, Option<String>)> {
    let (synopsis, _) = usage.split_once("\n\n").unwrap();
    let words = synopsis.replace(['[', ']'], " ");
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut options = BTreeSet::new();
    for (place, word) in words.iter().enumerate() {
        let Some(letters) = word.strip_prefix('-') else {
            continue;
        };
        let argument = words.get(place + 1).filter(|next| {
            letters.len() == 1 && next.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        });
        // -I [-d DIR] and the flags have none.
        let argument = argument.filter(|_| !matches!(letters, "I" | "A"));
        for letter in letters.chars() {
            options.insert((letter, argument.map(|a| (*a).to_owned())));
        }
    }
    options
}

/// The options of a manual page: those explained in its lists.
fn documented(page: &str) -> BTreeSet<(char, Option<String>)> {
    page.lines()
        .filter_map(|line| line.strip_prefix(".It Fl "))
        .map(|line| {
            let mut words = line.split_whitespace();
            let letter = words.next().unwrap().chars().next().unwrap();
            let argument = words.skip_while(|word| *word != "Ar").nth(1);
            (letter, argument.map(str::to_owned))
        })
        .collect()
}

#[test]
#[ignore = "needs root"]
fn the_usage_lists_what_it_explains() {
    for program in PROGRAMS {
        let usage = usage(program);
        assert_eq!(listed(&usage), explained(&usage), "{program}");
        assert!(usage.lines().all(|line| line.len() < 80), "{program}");
    }
}

#[test]
#[ignore = "needs root"]
fn the_manual_explains_what_the_usage_lists() {
    for program in PROGRAMS {
        let lower = |options: BTreeSet<(char, Option<String>)>| -> BTreeSet<_> {
            options
                .into_iter()
                .map(|(o, a)| (o, a.map(|a| a.to_lowercase())))
                .collect()
        };
        assert_eq!(
            lower(documented(&page(program))),
            lower(explained(&usage(program))),
            "{program}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn the_parser_takes_what_the_usage_lists() {
    let host = Host::new("parser");
    for program in PROGRAMS {
        for (letter, argument) in explained(&usage(program)) {
            // A value, if one is wanted; -h ends the matter before anything happens.
            let option = format!("-{letter}");
            let value = argument.as_ref().map(|_| "1");
            let output = Launch::new(&host, program)
                .options([&*option].into_iter().chain(value))
                .options(["-h"])
                .output();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{program} {option}: {said}");
            if argument.is_some() {
                // Were none needed, -h would end it with 0.
                let output = Launch::new(&host, program)
                    .options(["-h", &option])
                    .output();
                assert_eq!(
                    output.status.code(),
                    Some(100),
                    "{program} {option} needs a value"
                );
            }
        }
        // And no other letter.
        let known: Vec<char> = explained(&usage(program))
            .into_iter()
            .map(|(o, _)| o)
            .collect();
        for letter in ('a'..='z').chain('A'..='Z').filter(|l| !known.contains(l)) {
            let output = Launch::new(&host, program)
                .options([format!("-{letter}"), "-h".into()])
                .output();
            assert_eq!(output.status.code(), Some(100), "{program} -{letter}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn variables_and_signals_are_in_the_manual() {
    let readme = read("README.md");
    for (program, variables) in [
        (
            "jtunneld",
            &["TUN_DEV_NAME", "TUN_CLIENT_ID", "TUN_MTU", "TUN_PROTECTION"][..],
        ),
        (
            "jtunnel-client",
            &[
                "TUN_DEV_NAME",
                "TUN_MTU",
                "TUN_PROTECTION",
                "TUN_SERVER_ADDRESS",
                "TUN_SERVER_PORT",
            ],
        ),
    ] {
        let (page, usage) = (page(program), usage(program));
        for variable in variables {
            assert!(
                page.contains(&format!(".It Ev {variable}")),
                "{program}: {variable}"
            );
            assert!(readme.contains(variable), "README.md: {variable}");
            assert!(usage.contains(variable), "{program} -h: {variable}");
        }
        for signal in ["HUP", "USR1", "TERM", "INT"] {
            assert!(page.contains(signal), "{program}: {signal}");
        }
        for status in ["100", "111"] {
            assert!(page.contains(status), "{program}: exit status {status}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn the_sections_are_in_the_usual_order() {
    let usual = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "ENVIRONMENT",
        "FILES",
        "EXIT STATUS",
        "EXAMPLES",
        "DIAGNOSTICS",
        "SEE ALSO",
        "STANDARDS",
        "HISTORY",
        "AUTHORS",
        "CAVEATS",
        "BUGS",
        "SECURITY CONSIDERATIONS",
    ];
    for program in PROGRAMS {
        let page = page(program);
        let sections: Vec<&str> = page
            .lines()
            .filter_map(|l| l.strip_prefix(".Sh "))
            .collect();
        let places: Vec<_> = sections
            .iter()
            .filter_map(|s| usual.iter().position(|u| u == s))
            .collect();
        assert!(places.is_sorted(), "{program}: {sections:?}");
        for needed in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "ENVIRONMENT",
            "FILES",
            "EXIT STATUS",
            "EXAMPLES",
            "SEE ALSO",
            "CAVEATS",
        ] {
            assert!(sections.contains(&needed), "{program}: {needed}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn mandoc_has_nothing_to_say() {
    for name in ["man/jtunneld.8", "man/jtunnel-client.8", "man/jtunnel.7"] {
        let output = Command::new("mandoc")
            .args(["-T", "lint", name])
            .current_dir(root())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // Which other pages are installed is the machine's affair.
        let lines = said.lines().filter(|line| {
            !line.contains("referenced manual not found") && !line.contains("outdated mandoc.db")
        });
        assert_eq!(lines.collect::<Vec<_>>(), Vec::<&str>::new(), "{name}");
    }
}

#[test]
#[ignore = "needs root"]
fn the_examples_are_named_and_sound() {
    let examples = root().join("man/examples");
    let pages = [
        page("jtunneld"),
        page("jtunnel-client"),
        read("man/jtunnel.7"),
        read("README.md"),
    ]
    .concat();
    for entry in fs::read_dir(&examples).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(pages.contains(name), "no page names {name}");
        let text = fs::read_to_string(&path).unwrap();
        if text.starts_with("#!/bin/sh") {
            let output = Command::new("sh").arg("-n").arg(&path).output().unwrap();
            assert!(
                output.status.success(),
                "{name}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

/// A page as its readers see it, with all white space alike.
fn rendered(page: &str) -> String {
    let file = root().join("man").join(page);
    let mut mandoc = Command::new("mandoc");
    let output = mandoc.args(["-T", "ascii"]).arg(file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // A letter in bold or with a line below is struck twice.
    let mut plain: Vec<char> = Vec::new();
    for letter in text.chars() {
        if letter == '\u{8}' {
            plain.pop();
        } else {
            plain.push(letter);
        }
    }
    let plain: String = plain.into_iter().collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What no other test runs: warnings, and what is for hosts that there are none of here.
#[test]
#[ignore = "needs root"]
fn what_an_administrator_has_to_know_is_said() {
    for (page, all) in [
        (
            "jtunnel.7",
            &[
                "option dest_port 5886",
                "give each role of a host, and each server that is not your own, a -d of its own",
                "turns all that goes to a plain client to that address",
                "Fragments of outer packets can be spoiled by anyone",
                "On hosts with other users give one below 1024 with -p",
                "systemctl reload jtunneld",
            ][..],
        ),
        (
            "jtunneld.8",
            &[
                "journalctl -t jtunneld",
                "the report shows its present name",
                "ethtool -K br0 tso off",
                "rx-gro-list",
                "inherit TUN_CLIENT_ID",
                "give one below 1024 with -p",
                "flush ruleset",
            ],
        ),
        (
            "jtunnel-client.8",
            &[
                "journalctl -t jtunnel-client",
                "ManageForeignRoutingPolicyRules=no",
                "has but the 16 bits of this host's port to guess",
                "needs one of its own, since it reads it in each packet",
            ],
        ),
    ] {
        let text = rendered(page);
        for words in all {
            assert!(text.contains(words), "{page} does not say {words:?}");
        }
    }
    for (file, words) in [
        ("README.md", "turns that client's stream to a third party"),
        ("man/examples/clamp-mss", "flush ruleset"),
    ] {
        let text = read(file);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "{file} does not say {words:?}");
    }
    // What was promised and does not hold.
    for file in ["README.md", "man/jtunnel.7"] {
        assert!(
            !read(file).contains("never with more than it was"),
            "{file}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn the_oldest_compiler_is_named_where_one_builds() {
    let table = read("Cargo.toml");
    let mut versions = table
        .lines()
        .filter_map(|line| line.strip_prefix("rust-version = "));
    let version = versions.next().unwrap().trim_matches('"');
    for (file, words) in [
        ("README.md", format!("Rust {version} or later")),
        (
            "man/examples/openwrt.mk",
            format!("Rust has to be {version} or later"),
        ),
    ] {
        assert!(read(file).contains(&words), "{file} does not say {words:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn every_failure_of_others_has_a_test() {
    let table = read("tests/README.md");
    let cells = |line: &str| line.split(" | ").map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| cells(line.trim_matches(['|', ' '])))
        .filter(|row| row.len() == 4)
        .collect();
    let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let lines = (1..=18).map(|n| n.to_string());
    let reports = (1..=25).map(|n| format!("P{n}"));
    assert_eq!(names, lines.chain(reports).collect::<Vec<_>>());
    for row in &rows {
        assert!(row[2].contains("::"), "{} has no test", row[0]);
    }
    // Wherever one is named.
    let named = table.split('`').filter(|word| word.contains("::"));
    for name in named {
        let (file, function) = name.split_once("::").unwrap();
        let text = read(&format!("tests/{file}.rs"));
        let definition = format!("#[test]\n#[ignore = \"needs root\"]\nfn {function}() {{");
        assert!(text.contains(&definition), "{name} is not there");
    }
}

/// The rooms of `common` on their floors, as README's table has them: what lives there, and how high.
fn floors() -> Vec<(String, u32)> {
    let readme = read("README.md");
    let rows = readme.lines().filter_map(|line| {
        let (floor, rest) = line.strip_prefix("| ")?.split_once(" | ")?;
        Some((floor.parse::<u32>().ok()?, rest.split_once(" | ")?.0))
    });
    let rooms = rows.flat_map(|(floor, rooms)| {
        let rooms = rooms.split(", ").map(|room| room.trim_matches('`'));
        rooms.map(move |room| (room.trim_end_matches(['/']).replace(".rs", ""), floor))
    });
    rooms.collect()
}

/// Each file of `common` as a path of modules, with those that it names, but for its tests.
fn imports() -> Vec<(String, Vec<String>)> {
    let sources = root().join("common/src");
    let mut files = Vec::new();
    let mut folders = vec![sources.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let (code, _) = text
                .split_once("\n#[cfg(test)]\nmod tests")
                .unwrap_or((&text, ""));
            let named = code.split("crate::").skip(1).map(|rest| {
                let end = rest.find(|c: char| !(c.is_ascii_lowercase() || "_:".contains(c)));
                rest[..end.unwrap_or(rest.len())]
                    .trim_end_matches(':')
                    .to_owned()
            });
            let name = path.strip_prefix(&sources).unwrap().with_extension("");
            let name = name.to_str().unwrap().replace('/', "::");
            files.push((name, named.collect()));
        }
    }
    // The plan and what tests build with stand outside the floors.
    files.retain(|(name, _)| name != "lib" && name != "testing");
    files
}

#[test]
#[ignore = "needs root"]
fn imports_go_down_only_and_in_no_circle() {
    let (floors, imports) = (floors(), imports());
    let room = |module: &str| module.split("::").next().unwrap().to_owned();
    let floor = |module: &str| {
        let found = floors.iter().find(|(name, _)| *name == room(module));
        found
            .unwrap_or_else(|| panic!("README has no room for {module}"))
            .1
    };
    let mut count = 0;
    for (file, named) in &imports {
        for other in named {
            let within = room(file) == room(other);
            assert!(
                within || floor(file) > floor(other),
                "{file} imports {other}"
            );
            count += 1;
        }
    }
    assert!(count > 50, "{count} imports were found");
    // Who imports nothing that is left can go: where nobody can, there is a circle.
    let mut left: Vec<(&str, Vec<&str>)> = Vec::new();
    let names: Vec<&str> = imports.iter().map(|(file, _)| file.as_str()).collect();
    for (file, named) in &imports {
        let files = named.iter().filter_map(|other| {
            let is_it = |name: &&&str| other == *name || other.starts_with(&format!("{name}::"));
            names
                .iter()
                .filter(is_it)
                .max_by_key(|name| name.len())
                .copied()
        });
        left.push((file, files.filter(|other| other != file).collect()));
    }
    while !left.is_empty() {
        let waiting: BTreeSet<&str> = left.iter().map(|(file, _)| *file).collect();
        let before = left.len();
        left.retain(|(_, named)| named.iter().any(|other| waiting.contains(other)));
        assert!(left.len() < before, "a circle is among {left:?}");
    }
}
