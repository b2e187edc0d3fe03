//! A server and two clients behind NAT, with TCP and UDP through their tunnels whose content is
//! checked, while one fault after another befalls them.
//!
//! usage: soak [SECONDS [SEED]]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod faults;
mod site;
mod traffic;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use support::wait::{PATIENCE, wait_until};

use crate::faults::FAULTS;
use crate::site::Site;
use crate::traffic::Traffic;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse().unwrap());
    let seconds = numbers.next().unwrap_or(600);
    let seed = numbers.next().unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    });
    println!("soak: {seconds} s, seed {seed}; the same again: soak {seconds} {seed}");
    let mut site = Site::up(seed);
    let traffic: Vec<Traffic> = site
        .clients
        .iter()
        .flat_map(|client| {
            let (near, far, inner) = (&client.host, &site.lab.server, client.inner);
            [
                Traffic::start(near, far, inner.server4()),
                Traffic::start(far, near, inner.client4()),
            ]
        })
        .collect();
    std::thread::sleep(Duration::from_secs(3));
    site.take_stock();

    let (start, mut count, mut bag) = (Instant::now(), 0, Vec::new());
    while start.elapsed() < Duration::from_secs(seconds) {
        // Each once, in an order that chance gives, and so again.
        if bag.is_empty() {
            bag.extend(FAULTS);
        }
        let (name, befall) = bag.swap_remove(site.dice(bag.len()));
        befall(&mut site);
        let since = Instant::now();
        site.wait_up(name);
        count += 1;
        println!(
            "{:6.1} s: {name}, up again after {:.2} s",
            start.elapsed().as_secs_f64(),
            since.elapsed().as_secs_f64()
        );
    }
    // Streams that broke are there again.
    for (n, traffic) in traffic.into_iter().enumerate() {
        let before = traffic.so_far();
        wait_until(PATIENCE, &format!("traffic {n} after the faults"), || {
            traffic
                .so_far()
                .iter()
                .zip(before)
                .all(|(now, before)| *now > before)
        });
        let [bytes, datagrams] = traffic.so_far();
        println!(
            "traffic {n}: {} MB, {datagrams} datagrams, as they were sent",
            bytes / 1_000_000
        );
        traffic.stop();
    }
    site.assert_sound();
    println!("{count} faults, no client lost, nothing left behind");
    ExitCode::SUCCESS
}
