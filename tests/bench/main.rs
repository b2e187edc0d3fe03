//! Compares jtunnel with the bare cable, with VXLAN in the kernel, and with every other tunnel that
//! is installed, alternating in one run. Prints tables and writes them as Markdown.
//!
//! With `--scale` it measures one server with thousands of clients, and under floods, instead, and
//! fails if a figure is worse than required.
//!
//! usage: bench [--rounds N] [--seconds S] [--only NAME,... | --scale] [FILE]
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on says so by a panic; counts are far below 2^52"
)]

mod link;
mod measure;
mod scale;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Duration;

use crate::link::{Crowd, Kind, Link};

/// What is measured, in the order of the columns.
const COLUMNS: [&str; 15] = [
    "TCP up, Gbit/s",
    "TCP down, Gbit/s",
    "4 streams, Gbit/s",
    "64-byte UDP, 1000/s",
    "1300-byte UDP, Mbit/s",
    "ping, ms",
    "ping p99, ms",
    "loaded ping, ms",
    "loaded p99, ms",
    "CPU s/GB, own",
    "CPU s/GB, machine",
    "PSS server, KiB",
    "PSS client, KiB",
    "PSS idle, KiB",
    "ping beside TCP at 20 Mbit/s, ms",
];
const TCP_UP: usize = 0;
const TCP_DOWN: usize = 1;
const UDP_64: usize = 3;
const UDP_1300: usize = 4;
const LOADED: usize = 7;
const OWN_CPU: usize = 9;
const PSS_SERVER: usize = 11;
const PSS_CLIENT: usize = 12;

type Row = [f64; COLUMNS.len()];

fn main() -> ExitCode {
    let (mut rounds, mut seconds, mut file) = (3, 2.0, "target/bench.md".to_owned());
    let (mut only, mut scale) = (None, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => rounds = words.next().unwrap().parse().unwrap(),
            "--seconds" => seconds = words.next().unwrap().parse().unwrap(),
            "--only" => only = words.next(),
            "--scale" => scale = true,
            _ => file = word,
        }
    }
    let time = Duration::from_secs_f64(seconds);
    if scale {
        let report = scale::run(time);
        print!("{}", report.tables);
        std::fs::write(&file, report.tables).unwrap();
        for line in &report.missed {
            println!("missed: {line}");
        }
        return ExitCode::from(u8::from(!report.missed.is_empty()));
    }
    let mut rows: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
    let (mut crowd, mut idle) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for (n, kind) in Kind::ALL.into_iter().enumerate() {
            let mut names = only.iter().flat_map(|names| names.split(','));
            if only.is_some() && !names.any(|name| name == kind.name()) {
                continue;
            }
            if !kind.is_installed() {
                eprintln!("round {}: {} is not installed", round + 1, kind.name());
                continue;
            }
            eprintln!("round {}: {}", round + 1, kind.name());
            // A tunnel that can't be set up here has said why; the others go on.
            if let Ok(row) = catch_unwind(|| measure(kind, time)) {
                rows.entry(n).or_default().push(row);
            }
        }
        if only.is_none() {
            eprintln!("round {}: 8 clients", round + 1);
            crowd.extend(crowd_ratios(time));
            eprintln!("round {}: idle pings", round + 1);
            idle.push(idle_ratio());
        }
    }
    let medians: BTreeMap<usize, Row> = rows.iter().map(|(&n, rows)| (n, medians(rows))).collect();
    let text = report(&medians, median(crowd), median(idle), rounds, seconds);
    print!("{text}");
    std::fs::write(&file, text).unwrap();
    ExitCode::SUCCESS
}

fn measure(kind: Kind, time: Duration) -> Row {
    let link = Link::up(kind);
    let (server, client) = (&link.server, &link.client);
    let idle = measure::memory(server).max(measure::memory(client));
    let idle_pings = measure::pings(client, server, 400);
    let up = measure::tcp(&[(client, server)], time);
    let down = measure::tcp(&[(server, client)], time);
    let four = measure::tcp(&[(client, server); 4], time);
    let small = measure::udp(client, server, 64);
    let large = measure::udp(client, server, 1300);
    let loaded_pings = measure::pings_under_load(client, server, time);
    let (own, machine) = measure::cost(client, server, time);
    let memory = [server, client].map(measure::memory);
    // A slow uplink below the tunnel: whatever queues here is late.
    let shape = "tc qdisc add dev eth0 root handle 1: htb default 1 r2q 100 &&
                 tc class add dev eth0 parent 1: classid 1:1 htb rate 20mbit";
    let is_shaped = client.host.try_sh(shape);
    let shaped_pings = is_shaped.then(|| measure::pings_under_load(client, server, time));
    [
        up / 1e9,
        down / 1e9,
        four / 1e9,
        small / 1e3,
        large * 1300.0 * 8.0 / 1e6,
        percentile(&idle_pings, 50),
        percentile(&idle_pings, 99),
        percentile(&loaded_pings, 50),
        percentile(&loaded_pings, 99),
        own,
        machine,
        memory[0],
        memory[1],
        idle,
        percentile(&shaped_pings.unwrap_or_default(), 50),
    ]
}

/// Throughput of 8 clients that send together, against one of them alone, a few times by turns: with
/// so many processes for few processors it is another each time.
fn crowd_ratios(time: Duration) -> [f64; 4] {
    let crowd = Crowd::up(8);
    let pairs: Vec<_> = crowd
        .tunnels
        .iter()
        .map(|(server, client)| (client, server))
        .collect();
    std::array::from_fn(|_| {
        let alone = measure::tcp(&pairs[..1], time);
        let together = measure::tcp(&pairs, time);
        together / alone
    })
}

/// Idle ping with offload against that without, a few of each by turns: which processor wakes for
/// them makes half of their time, and stays the same for long.
fn idle_ratio() -> f64 {
    let links = [Kind::Offload, Kind::Plain].map(Link::up);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..40 {
        for (link, times) in links.iter().zip(&mut times) {
            times.extend(measure::pings(&link.client, &link.server, 10));
        }
    }
    let [ours, plain] = times.map(median);
    ours / plain
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(last * percent / 100)
        .copied()
        .unwrap_or(f64::NAN)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(&values, 50)
}

fn medians(rows: &[Row]) -> Row {
    std::array::from_fn(|column| median(rows.iter().map(|row| row[column]).collect()))
}

fn report(rows: &BTreeMap<usize, Row>, crowd: f64, idle: f64, rounds: u32, seconds: f64) -> String {
    let mut text = format!(
        "Medians of {rounds} rounds, {seconds} s for each figure, alternating; UDP with a loss of at \
         most 0.5 %; CPU at 200 Mbit/s of TCP.\n\n| link |"
    );
    for column in COLUMNS {
        write!(text, " {column} |").unwrap();
    }
    text.push_str("\n|---|");
    text.push_str(&"---:|".repeat(COLUMNS.len()));
    text.push('\n');
    for (&n, row) in rows {
        write!(text, "| {} |", Kind::ALL[n].name()).unwrap();
        for value in row {
            let digits = if *value < 10.0 {
                2
            } else {
                usize::from(*value < 100.0)
            };
            write!(text, " {value:.digits$} |").unwrap();
        }
        text.push('\n');
    }
    text.push_str("\n| ratio | is | required | aim |\n|---|---:|---:|---:|\n");
    for (name, value, required, aim) in ratios(rows, crowd, idle) {
        writeln!(text, "| {name} | {value:.2} | {required} | {aim} |").unwrap();
    }
    text
}

fn ratios(
    rows: &BTreeMap<usize, Row>,
    crowd: f64,
    idle: f64,
) -> Vec<(&'static str, f64, &'static str, &'static str)> {
    let row = |kind| {
        let position = Kind::ALL.iter().position(|&k| k == kind);
        position
            .and_then(|n| rows.get(&n))
            .copied()
            .unwrap_or([f64::NAN; COLUMNS.len()])
    };
    let (ours, plain, vxlan) = (row(Kind::Offload), row(Kind::Plain), row(Kind::Vxlan));
    let (sign, seal) = (row(Kind::Sign), row(Kind::Seal));
    let stream = |row: &Row| (row[TCP_UP] + row[TCP_DOWN]) / 2.0;
    let rival = rows
        .iter()
        .filter(|&(&n, _)| Kind::ALL[n].is_rival())
        .map(|(_, row)| stream(row))
        .fold(f64::NAN, f64::max);
    // The fastest other one that encrypts.
    let encrypting = rows
        .iter()
        .filter(|&(&n, _)| Kind::ALL[n].is_encrypting_rival())
        .map(|(_, row)| *row)
        .max_by(|a, b| stream(a).total_cmp(&stream(b)))
        .unwrap_or([f64::NAN; COLUMNS.len()]);
    vec![
        (
            "TCP stream, against in-kernel VXLAN",
            stream(&ours) / stream(&vxlan),
            "0.45",
            "0.8",
        ),
        (
            "TCP stream, against -O",
            stream(&ours) / stream(&plain),
            "6",
            "10",
        ),
        (
            "TCP stream, against the fastest other user-space tunnel",
            stream(&ours) / rival,
            "8",
            "12",
        ),
        (
            "64-byte UDP, against -O",
            ours[UDP_64] / plain[UDP_64],
            "2",
            "4",
        ),
        (
            "64-byte UDP, against in-kernel VXLAN",
            ours[UDP_64] / vxlan[UDP_64],
            "1.5",
            "2.5",
        ),
        (
            "1300-byte UDP, against -O",
            ours[UDP_1300] / plain[UDP_1300],
            "1.8",
            "3",
        ),
        (
            "CPU s/GB of the daemons, against -O",
            ours[OWN_CPU] / plain[OWN_CPU],
            "at most 0.35",
            "0.2",
        ),
        ("ping idle, against -O", idle, "at most 1.1", "1.0"),
        (
            "ping under load, against -O",
            ours[LOADED] / plain[LOADED],
            "at most 1.1",
            "0.5",
        ),
        (
            "PSS of the larger end, MiB",
            ours[PSS_SERVER].max(ours[PSS_CLIENT]) / 1024.0,
            "at most 1",
            "0.49",
        ),
        ("8 clients together, against one alone", crowd, "0.9", ""),
        (
            "sign: TCP stream, against plain",
            stream(&sign) / stream(&ours),
            "0.4",
            "0.5",
        ),
        (
            "seal: TCP stream, against plain",
            stream(&seal) / stream(&ours),
            "0.18",
            "0.3",
        ),
        (
            "seal: TCP stream, against the fastest other user-space tunnel that encrypts",
            stream(&seal) / stream(&encrypting),
            "0.7",
            "1.2",
        ),
        (
            "sign: 64-byte UDP, against plain",
            sign[UDP_64] / ours[UDP_64],
            "0.6",
            "0.85",
        ),
        (
            "seal: 64-byte UDP, against plain",
            seal[UDP_64] / ours[UDP_64],
            "0.5",
            "0.75",
        ),
        (
            "seal: CPU s/GB of the daemons, against that other tunnel",
            seal[OWN_CPU] / encrypting[OWN_CPU],
            "at most 1",
            "0.6",
        ),
    ]
}
