//! What packets cost a small machine: instructions in the context of jtunnel-client's processes,
//! and their system calls, for a TCP stream each way: with -O, by default, and by default where the
//! network device finishes no checksums, so that the kernel takes no segments. The guest counts by
//! itself. How many packets wait together and whom an interrupt hits still depends on this machine.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;

use support::config::SERVER_ID;
use support::host::Host;
use support::traffic::wait_ping;
use support::tree::{example, root};
use support::tunnel::Server;

use crate::guest::{ARM64, Etc, Guest};
use crate::{CLIENT, SERVER, WORKSHOP};

/// Of a stream: blocks of 64 KiB.
const BLOCKS: u32 = 512;
const BLOCK: u32 = 64 * 1024;
/// IPv4 and TCP headers, with timestamps.
const HEADERS: u32 = 52;
/// The kernel's instructions with offload, as a part of those without, both ways together: upload
/// by itself with -O differs by a quarter between runs.
const LIMIT: f64 = 0.35;
/// For perf_event_open(2): PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS.
const INSTRUCTIONS: &str = "0:1";
const SYSTEM_CALLS: &str = "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id";

/// Of one packet of full size, with all that comes with it, acknowledgements above all.
struct Cost {
    kernel: f64,
    user: f64,
    calls: f64,
}

/// A figure and how many decimals it has.
type Figure = (&'static str, fn(&Cost) -> f64, usize);

const FIGURES: [Figure; 3] = [
    ("user instructions", |cost| cost.user, 0),
    ("system calls", |cost| cost.calls, 2),
    ("kernel instructions", |cost| cost.kernel, 0),
];

/// Prints a table, and fails if offload saves too little.
pub(crate) fn measure() {
    let [plain, offload] = measure_on(&[], &[(&["-O"], false), (&[], false)]);
    let no_checksums = ["-global", "virtio-net-device.csum=off"];
    let [singly] = measure_on(&no_checksums, &[(&[], true)]);

    println!(
        "| for each packet, arm64 | -O | offload | ratio | no segments | ratio |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |"
    );
    for (way, n) in [("tun to UDP", 0), ("UDP to tun", 1), ("both", 2)] {
        for (what, of, digits) in FIGURES {
            let [plain, offload, singly] = [&plain, &offload, &singly].map(|costs| of(&costs[n]));
            println!(
                "| {way}, {what} | {plain:.digits$} | {offload:.digits$} | {:.2} \
                 | {singly:.digits$} | {:.2} |",
                offload / plain,
                singly / plain
            );
        }
    }
    let ratio = offload[2].kernel / plain[2].kernel;
    assert!(
        ratio <= LIMIT,
        "the kernel's instructions with offload, both ways: {ratio:.2} of those with -O"
    );
}

/// What clients with these options cost on a machine with others of its own. Beside each is whether
/// its packets leave one by one.
fn measure_on<const N: usize>(machine: &[&str], clients: &[(&[&str], bool); N]) -> [[Cost; 3]; N] {
    let host = Host::new("server");
    let etc = host.path("guest-etc");
    Etc(&etc)
        .network()
        .file("rc.local", "mount -t tracefs tracefs /sys/kernel/tracing\n")
        .file("jtunnel/id", &format!("{WORKSHOP}\n"))
        .file(&format!("jtunnel/servers/{SERVER_ID}"), "")
        .example("client-up", "jtunnel/client-up");
    compile(&etc.join("perf"));
    let options = [&["-icount", "shift=0"], machine].concat();
    let mut guest = Guest::boot(&host, &ARM64, &etc, &options);
    guest.wait("rc.local: status 0");
    clients.map(|(options, one_by_one)| {
        let costs = costs(&host, &mut guest, options);
        let log = guest.sh("cat /var/log/messages");
        assert_eq!(log.contains("one by one"), one_by_one, "{options:?}: {log}");
        costs
    })
}

/// What a client costs with options for both ends: upload, download, and their mean.
fn costs(host: &Host, guest: &mut Guest, options: &[&str]) -> [Cost; 3] {
    let server = Server::new(host, []).options(options);
    server.config.authorise(WORKSHOP);
    let _server = server.start_with(&[example("server-up")]);
    let options = options.join(" ");
    guest.sh(&format!(
        "jtunnel-client {options} -k 0 -P /var/run/pid 192.0.2.1 5886 /etc/jtunnel/client-up"
    ));
    // It sends nothing of its own.
    guest.sh(&format!(
        "until ping -c 1 -W 1 {SERVER} >/dev/null; do sleep 1; done"
    ));
    wait_ping(host, CLIENT.parse().unwrap());
    let [up, down] = [true, false].map(|upload| cost(host, guest, upload));
    guest.sh("kill $(cat /var/run/pid); while pidof jtunnel-client; do sleep 1; done");
    let mean = Cost {
        kernel: (up.kernel + down.kernel) / 2.0,
        user: (up.user + down.user) / 2.0,
        calls: (up.calls + down.calls) / 2.0,
    };
    [up, down, mean]
}

fn cost(host: &Host, guest: &mut Guest, upload: bool) -> Cost {
    let call = guest.sh(&format!("cat {SYSTEM_CALLS}"));
    // By itself: it makes each call longer.
    let calls = count(host, guest, upload, &format!("2:{call}:k"));
    let instructions = count(
        host,
        guest,
        upload,
        &format!("{INSTRUCTIONS}:k {INSTRUCTIONS}:u"),
    );
    Cost {
        kernel: instructions[0],
        user: instructions[1],
        calls: calls[0],
    }
}

/// Counts these events during a stream, for each packet.
fn count(host: &Host, guest: &mut Guest, upload: bool, events: &str) -> Vec<f64> {
    let mtu: u32 = guest.sh("cat /sys/class/net/tun0/mtu").parse().unwrap();
    let packets = f64::from(BLOCKS * BLOCK) / f64::from(mtu - HEADERS);
    let pids = guest.pids("jtunnel-client");
    assert_eq!(pids.len(), 2, "two processes");
    let (port, end) = stream(host, upload);
    let work = match upload {
        // Until the other end has it all.
        true => format!("dd if=/dev/zero bs={BLOCK} count={BLOCKS}; cat >/dev/null"),
        false => format!("dd of=/dev/null bs={BLOCK}"),
    };
    let text = guest.sh(&format!(
        "/etc/perf 'nc {SERVER} {port} -e sh -c \"{work}\" 2>/dev/null' {events} -- {} {}",
        pids[0], pids[1]
    ));
    end.join().unwrap();
    text.lines()
        .map(|line| line.parse::<f64>().unwrap() / packets)
        .collect()
}

/// The end of a stream on this machine.
fn stream(host: &Host, upload: bool) -> (u16, JoinHandle<()>) {
    let listener = host.run(|| TcpListener::bind((SERVER, 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    let end = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        if upload {
            let size = u64::from(BLOCKS * BLOCK);
            let got = io::copy(&mut (&mut stream).take(size), &mut io::sink()).unwrap();
            assert_eq!(got, size);
        } else {
            let block = [0; BLOCK as usize];
            (0..BLOCKS).for_each(|_| stream.write_all(&block).unwrap());
        }
    });
    (port, end)
}

/// Compiles the program that counts, for the guest.
fn compile(into: &Path) {
    let status = Command::new(root().join("tests/embedded/perf.sh"))
        .arg(into)
        .status()
        .unwrap();
    assert!(status.success(), "perf.c does not compile");
}
