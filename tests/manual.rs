//! Usage text, manual pages and README say the same.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

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
            &["TUN_DEV_NAME", "TUN_CLIENT_ID", "TUN_MTU"][..],
        ),
        (
            "jtunnel-client",
            &[
                "TUN_DEV_NAME",
                "TUN_MTU",
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
    let lines = (1..=17).map(|n| n.to_string());
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
