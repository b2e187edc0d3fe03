//! Compares jtunnel with the bare cable, with VXLAN in the kernel, and with every other tunnel that
//! is installed, alternating in one run. Prints tables and writes them as Markdown, and a picture of
//! them beside it. Newer ones than the installed are found if PATH has their directory first.
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

mod chart;
mod link;
mod measure;
mod path;
mod scale;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Duration;

use crate::link::{Crowd, Kind, Link};

/// What is measured, in the order of the columns.
const COLUMNS: [&str; 20] = [
    "TCP up, Gbit/s",
    "TCP down, Gbit/s",
    "4 streams, Gbit/s",
    "32 streams, Gbit/s",
    "64-byte UDP, 1000/s",
    "1300-byte UDP, Mbit/s",
    "8 UDP flows to a LAN, Mbit/s",
    "TCP over 20 ms with loss, Mbit/s",
    "ping, ms",
    "ping p99, ms",
    "ping, cores awake, ms",
    "ping at 200 Mbit/s, ms",
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
const TCP_4: usize = 2;
const TCP_32: usize = 3;
const UDP_64: usize = 4;
const UDP_1300: usize = 5;
const UDP_FLOWS: usize = 6;
const FAR: usize = 7;
const AWAKE: usize = 10;
const PING_200: usize = 11;
const LOADED: usize = 12;
const OWN_CPU: usize = 14;
const PSS_SERVER: usize = 16;
const PSS_CLIENT: usize = 17;
/// A stream over a long path needs so many times the time of others.
const FAR_TIMES: u32 = 5;

type Row = [f64; COLUMNS.len()];
/// Takes one figure out of a row.
type Figure = fn(&Row) -> f64;

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
            option if option.starts_with('-') => panic!("{option}: there is no such option"),
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
    let picture = std::path::Path::new(&file).with_extension("svg");
    std::fs::write(picture, chart::draw(&medians)).unwrap();
    ExitCode::SUCCESS
}

fn measure(kind: Kind, time: Duration) -> Row {
    let link = Link::up(kind);
    let (server, client) = (&link.server, &link.client);
    let idle = measure::memory(server).max(measure::memory(client));
    let idle_pings = measure::pings(client, server, 400);
    let awake_pings = measure::pings_awake(client, server, 200);
    let up = measure::tcp(&[(client, server)], time);
    let down = measure::tcp(&[(server, client)], time);
    let four = measure::tcp(&[(client, server); 4], time);
    let many = measure::tcp(&[(client, server); 32], time);
    let small = measure::udp(client, server, 1, 64);
    let large = measure::udp(client, server, 1, 1300);
    let flows = measure::udp(server, &link.lan, 8, 1300);
    let steady_pings = measure::pings_beside(client, server, time, measure::FIXED_RATE);
    let loaded_pings = measure::pings_beside(client, server, time, f64::INFINITY);
    let (own, machine) = measure::cost(client, server, time);
    let memory = [server, client].map(measure::memory);
    // A slow uplink below the tunnel: whatever queues here is late.
    let shape = "tc qdisc add dev eth0 root handle 1: htb default 1 r2q 100 &&
                 tc class add dev eth0 parent 1: classid 1:1 htb rate 20mbit";
    let is_shaped = client.host.try_sh(shape);
    let shaped_pings =
        is_shaped.then(|| measure::pings_beside(client, server, time, f64::INFINITY));
    // Some have but one device of a name.
    drop(link);
    let link = Link::far(kind);
    let far = measure::tcp(&[(&link.server, &link.client)], FAR_TIMES * time);
    [
        up / 1e9,
        down / 1e9,
        four / 1e9,
        many / 1e9,
        small / 1e3,
        large * 1300.0 * 8.0 / 1e6,
        flows * 1300.0 * 8.0 / 1e6,
        far / 1e6,
        percentile(&idle_pings, 50),
        percentile(&idle_pings, 99),
        percentile(&awake_pings, 50),
        percentile(&steady_pings, 50),
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
            let digits = digits(*value);
            write!(text, " {value:.digits$} |").unwrap();
        }
        text.push('\n');
    }
    text.push_str("\n| ratio | is | required | aim |\n|---|---:|---:|---:|\n");
    for ratio in ratios(rows, crowd, idle) {
        let (name, value) = (ratio.name, ratio.value);
        let (required, aim) = (ratio.required, ratio.aim);
        writeln!(text, "| {name} | {value:.2} | {required} | {aim} |").unwrap();
    }
    let mut versions: Vec<_> = rows.keys().map(|&n| Kind::ALL[n].version()).collect();
    versions.dedup();
    writeln!(text, "\nVersions: {}.", versions.join("; ")).unwrap();
    text
}

/// Digits behind the point that a figure of three digits has.
fn digits(value: f64) -> usize {
    usize::from(value < 100.0) + usize::from(value < 10.0)
}

/// A figure against what it is to be.
struct Ratio {
    name: String,
    value: f64,
    required: &'static str,
    aim: &'static str,
}

/// The best of some links in a column: which one, and its figure.
fn best<'a>(
    rows: impl Iterator<Item = (Kind, &'a Row)>,
    figure: impl Fn(&Row) -> f64,
) -> (String, f64) {
    let figures = rows.map(|(kind, row)| (kind, figure(row)));
    match figures.max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((kind, value)) if kind.is_encrypting_rival() => {
            (format!("{}, which encrypts", kind.name()), value)
        }
        Some((kind, value)) => (kind.name().to_owned(), value),
        None => ("none".to_owned(), f64::NAN),
    }
}

fn stream(row: &Row) -> f64 {
    f64::midpoint(row[TCP_UP], row[TCP_DOWN])
}

fn ratios(rows: &BTreeMap<usize, Row>, crowd: f64, idle: f64) -> Vec<Ratio> {
    let row = |kind| {
        let position = Kind::ALL.iter().position(|&k| k == kind);
        position
            .and_then(|n| rows.get(&n))
            .copied()
            .unwrap_or([f64::NAN; COLUMNS.len()])
    };
    let (ours, plain, vxlan) = (row(Kind::Offload), row(Kind::Plain), row(Kind::Vxlan));
    let (sign, seal) = (row(Kind::Sign), row(Kind::Seal));
    let others = || {
        let rows = rows.iter().map(|(&n, row)| (Kind::ALL[n], row));
        rows.filter(|(kind, _)| kind.is_rival())
    };
    let encrypting = || others().filter(|(kind, _)| kind.is_encrypting_rival());
    let mut ratios = Vec::new();
    let mut add = |name: &str, value, required, aim| {
        ratios.push(Ratio {
            name: name.to_owned(),
            value,
            required,
            aim,
        });
    };
    let figures: [(&str, Figure, [&str; 4]); 5] = [
        ("TCP stream", stream, ["0.5", "0.7", "2.5", "4"]),
        ("4 streams", |row| row[TCP_4], ["0.4", "0.6", "2.5", "4"]),
        ("32 streams", |row| row[TCP_32], ["0.4", "0.6", "2.5", "4"]),
        ("64-byte UDP", |row| row[UDP_64], ["2.2", "3", "2.5", "4"]),
        (
            "1300-byte UDP",
            |row| row[UDP_1300],
            ["1.9", "2.5", "2.5", "4"],
        ),
    ];
    for (what, figure, [kernel, kernel_aim, other, other_aim]) in figures {
        let against = |is: f64| figure(&ours) / is;
        let name = format!("{what}, against in-kernel VXLAN");
        add(&name, against(figure(&vxlan)), kernel, kernel_aim);
        let (who, is) = best(others(), figure);
        let name = format!("{what}, against the fastest other tunnel: {who}");
        add(&name, against(is), other, other_aim);
    }
    for (what, column) in [
        ("8 UDP flows to a LAN", UDP_FLOWS),
        ("TCP over 20 ms with loss", FAR),
    ] {
        let (who, is) = best(others(), |row| row[column]);
        let name = format!("{what}, against the fastest other tunnel: {who}");
        add(&name, ours[column] / is, "", "");
    }
    for (what, column, required, aim) in [
        ("CPU s/GB of the daemons", OWN_CPU, "at most 0.3", "0.2"),
        ("ping, cores awake", AWAKE, "at most 1.6", "1.0"),
        ("ping at 200 Mbit/s", PING_200, "at most 1.5", "1.0"),
    ] {
        let (who, is) = best(others(), |row| -row[column]);
        let name = format!("{what}, against the lowest other: {who}");
        add(&name, ours[column] / -is, required, aim);
    }
    let (ours_64, plain_64) = (ours[UDP_64], plain[UDP_64]);
    add(
        "TCP stream, against -O",
        stream(&ours) / stream(&plain),
        "6",
        "10",
    );
    add("64-byte UDP, against -O", ours_64 / plain_64, "2", "4");
    let ratio = ours[UDP_1300] / plain[UDP_1300];
    add("1300-byte UDP, against -O", ratio, "1.8", "3");
    let ratio = ours[OWN_CPU] / plain[OWN_CPU];
    add(
        "CPU s/GB of the daemons, against -O",
        ratio,
        "at most 0.35",
        "0.2",
    );
    add("ping idle, against -O", idle, "at most 1.1", "1.0");
    let ratio = ours[LOADED] / plain[LOADED];
    add("ping under load, against -O", ratio, "at most 1.1", "0.5");
    let larger = ours[PSS_SERVER].max(ours[PSS_CLIENT]);
    add(
        "PSS of the larger end, MiB",
        larger / 1024.0,
        "at most 1",
        "0.75",
    );
    add("8 clients together, against one alone", crowd, "0.9", "");
    let (who, is) = best(encrypting(), stream);
    for (word, row, limits) in [
        ("sign", &sign, ["0.4", "0.5", "0.6", "0.85"]),
        ("seal", &seal, ["0.18", "0.3", "0.5", "0.75"]),
    ] {
        let [tcp, tcp_aim, udp, udp_aim] = limits;
        let name = format!("{word}: TCP stream, against plain");
        add(&name, stream(row) / stream(&ours), tcp, tcp_aim);
        let name = format!("{word}: 64-byte UDP, against plain");
        add(&name, row[UDP_64] / ours_64, udp, udp_aim);
        let name = format!("{word}: TCP stream, against {who}");
        add(&name, stream(row) / is, "0.7", "1.2");
    }
    let (who, is) = best(encrypting(), |row| -row[OWN_CPU]);
    let name = format!("seal: CPU s/GB of the daemons, against {who}");
    add(&name, seal[OWN_CPU] / -is, "at most 1", "0.6");
    ratios
}
