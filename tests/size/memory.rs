//! Memory and wake-ups of each process, idle and after a load.

use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;
use support::config::client_id;
use support::crowd::Crowd;
use support::keyed_crowd::KeyedCrowd;
use support::lab::{Lab, server_address};
use support::proc;
use support::traffic::tcp_both_ways;
use support::tunnel::{Client, Server};
use support::wait::{PATIENCE, wait_until};

/// Two keepalives' time, and no more than these two.
const IDLE: Duration = Duration::from_secs(50);

/// Clients among whom the memory of a server is shared out.
const CLIENTS: u16 = 500;

/// Bytes that a server takes for each client that is plain, signed and sealed, the last two after a
/// second session: what is left of the first one is kept for a minute.
pub(crate) fn for_each_client(files: &Path) -> [u64; 3] {
    [None, Some("sign"), Some("seal")].map(|word| {
        let lab = Lab::direct();
        let server = Server::new(&lab.server, []).with(|launch| launch.from(files));
        let server = match word {
            Some(word) => server.keyed(word, 1..=CLIENTS),
            None => {
                (1..=CLIENTS).for_each(|n| server.config.authorise(&client_id(n)));
                server
            }
        };
        let mut server = server.start();
        let before = proc::anonymous(server.pid());
        if let Some(word) = word {
            let mut crowd = KeyedCrowd::new(lab.client(), word, 1..=CLIENTS, server_address());
            crowd.knock();
            // Sessions are not made more often.
            std::thread::sleep(Duration::from_secs(1));
            crowd.renew();
            crowd.knock();
        } else {
            Crowd::new(lab.client(), 1..=CLIENTS, server_address()).knock();
        }
        server.wait_progs(CLIENTS);
        let grown = proc::anonymous(server.pid()) - before;
        server.process().stop();
        grown * 1024 / u64::from(CLIENTS)
    })
}

/// Rows of a table: process, resident and anonymous KiB idle and after the load, wake-ups.
pub(crate) fn rows(files: &Path) -> Vec<String> {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1])
        .with(|launch| launch.from(files))
        .start();
    let client = Client::new(lab.client(), 1)
        .with(|launch| launch.from(files))
        .start();
    client.wait_up();
    wait_until(PATIENCE, "PROG's end", || {
        proc::children(client.pid()).len() == 1
    });
    let processes = [
        ("jtunneld", server.pid()),
        ("jtunnel-client, to the tun", client.pid()),
        ("jtunnel-client, from the tun", proc::twins(client.pid())[0]),
    ];
    let memory = |pid: Pid| ["Rss", "Anonymous"].map(|field| proc::memory(pid, field));

    let wakes = processes.map(|(_, pid)| proc::sleeps(pid));
    std::thread::sleep(IDLE);
    let idle = processes.map(|(_, pid)| (memory(pid), proc::sleeps(pid)));
    tcp_both_ways(lab.client(), &lab.server, client.inner.server4(), 256).join();

    let mut rows = Vec::new();
    for (n, (name, pid)) in processes.into_iter().enumerate() {
        let ([resident, anonymous], woken) = idle[n];
        let [loaded, loaded_anonymous] = memory(pid);
        let woken = woken - wakes[n];
        rows.push(format!(
            "| {name} | {resident} | {anonymous} | {loaded} | {loaded_anonymous} | {woken} |"
        ));
    }
    rows
}
