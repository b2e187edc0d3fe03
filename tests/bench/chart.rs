//! The picture: bars of what is fast, one panel for each column.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::link::Kind;
use crate::{Figure, Row, TCP_4, TCP_32, UDP_64, UDP_1300, digits, stream};

/// Of one panel, in pixels.
const WIDTH: f64 = 170.0;
/// Room for the names, left of all panels.
const NAMES: f64 = 125.0;
const LINE: f64 = 20.0;
const TOP: f64 = 50.0;

/// Colours that can be read on a light page, and on a dark one.
const STYLE: &str = "text{font:12px sans-serif;fill:#222}.t{font-weight:bold}\
    .own{fill:#0a7}.kernel{fill:#999}.other{fill:#d80}.v{text-anchor:start}.n{text-anchor:end}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}.own{fill:#2c9}.kernel{fill:#777}\
    .other{fill:#fa4}}";

/// A Scalable Vector Graphic (W3C SVG 1.1) of the links and what they carry.
pub(crate) fn draw(rows: &BTreeMap<usize, Row>) -> String {
    let panels: [(&str, Figure); 5] = [
        ("one TCP stream, Gbit/s", stream),
        ("4 streams, Gbit/s", |row| row[TCP_4]),
        ("32 streams, Gbit/s", |row| row[TCP_32]),
        ("64-byte UDP, 1000/s", |row| row[UDP_64]),
        ("1300-byte UDP, Mbit/s", |row| row[UDP_1300]),
    ];
    // The cable would make all others short.
    let links = || {
        let rows = rows.iter().map(|(&n, row)| (Kind::ALL[n], row));
        rows.filter(|(kind, _)| *kind != Kind::Veth)
    };
    let (width, height) = (
        NAMES + WIDTH * panels.len() as f64,
        TOP + LINE * links().count() as f64,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\" aria-label=\"What each tunnel carries\"><style>{STYLE}</style>\n"
    );
    for (n, (kind, _)) in links().enumerate() {
        let (x, y) = (NAMES - 8.0, TOP + LINE * n as f64 + 13.0);
        let name = kind.name();
        writeln!(svg, "<text class=\"n\" x=\"{x}\" y=\"{y}\">{name}</text>").unwrap();
    }
    for (panel, (title, figure)) in panels.into_iter().enumerate() {
        let x = NAMES + WIDTH * panel as f64;
        let y = TOP - 16.0;
        writeln!(svg, "<text class=\"t\" x=\"{x}\" y=\"{y}\">{title}</text>").unwrap();
        let most = links().map(|(_, row)| figure(row)).fold(0.0, f64::max);
        for (n, (kind, row)) in links().enumerate() {
            let value = figure(row);
            // Room is left for the figure.
            let (top, length) = (TOP + LINE * n as f64, (WIDTH - 50.0) * value / most);
            let class = match kind {
                Kind::Vxlan => "kernel",
                _ if kind.is_rival() => "other",
                _ => "own",
            };
            let digits = digits(value);
            writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{top}\" width=\"{length:.1}\" height=\"16\"/>\
                 <text class=\"v\" x=\"{:.1}\" y=\"{}\">{value:.digits$}</text>",
                x + length + 4.0,
                top + 13.0
            )
            .unwrap();
        }
    }
    svg.push_str("</svg>\n");
    svg
}
