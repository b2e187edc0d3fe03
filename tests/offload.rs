//! Super-packets and many packets in one call, against the kernel at the other end and against a
//! kernel that refuses. The content of every transfer is compared.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use support::host::Host;
use support::lab::Lab;
use support::process::Process;
use support::traffic::{tcp_both_ways, udp_datagrams};
use support::tunnel::{Client, Inner, Server, Tunnel, client_prog, server_prog};
use support::wait::{PATIENCE, wait_until};

/// Whether the options from outside leave it on: with -O there is nothing to give up.
fn offload_by_default() -> bool {
    std::env::var_os("JTUNNEL_FLAGS").is_none()
}

/// Both directions at once, over IPv4 and IPv6 inside.
fn transfers(lab: &Lab, inner: Inner, mebibytes: usize) {
    let (server, client) = (&lab.server, lab.client());
    let transfers = [
        tcp_both_ways(client, server, inner.server4(), mebibytes),
        tcp_both_ways(server, client, inner.client6(), mebibytes),
    ];
    transfers.into_iter().for_each(|transfer| transfer.join());
}

#[test]
#[ignore = "needs root"]
fn each_end_with_and_without() {
    for (server, client) in [
        (&[][..], &["-O"][..]),
        (&["-O"], &[]),
        (&[], &[]),
        (&["-O"], &["-O"]),
    ] {
        let tunnel = Tunnel::up(Lab::behind_nat(1), server, client);
        let inner = tunnel.client.inner;
        transfers(&tunnel.lab, inner, 4);
        let sizes: Vec<usize> = (0..40).map(|n| n * 613 % 1393).collect();
        let (near, far) = (inner.client4(), inner.server4());
        udp_datagrams(tunnel.lab.client(), &tunnel.lab.server, (near, far), &sizes);
        udp_datagrams(&tunnel.lab.server, tunnel.lab.client(), (far, near), &sizes);
    }
}

#[test]
#[ignore = "needs root"]
fn lost_packets_and_a_window_without_timestamps() {
    let tunnel = Tunnel::plain(Lab::routed(1));
    for host in [&tunnel.lab.server, tunnel.lab.client()] {
        host.sysctl("net/ipv4/tcp_timestamps", "0");
        host.sysctl("net/ipv4/tcp_ecn", "1");
    }
    let drop = "udp dport 5886 numgen random mod 100 < 2 drop\n\
                udp sport 5886 numgen random mod 100 < 2 drop";
    tunnel.lab.router().filter("loss", "forward", drop);
    transfers(&tunnel.lab, tunnel.client.inner, 2);
}

#[test]
#[ignore = "needs root"]
fn a_path_smaller_than_the_segments() {
    let lab = Lab::direct();
    for host in [&lab.server, lab.client()] {
        host.ip("link set eth0 mtu 1280");
    }
    let tunnel = Tunnel::up(lab, &[], &[]);
    transfers(&tunnel.lab, tunnel.client.inner, 4);
    if offload_by_default() {
        tunnel.client.lines.wait("packets go one by one");
        tunnel.client.lines.exactly("packets go one by one", 1);
        tunnel.server.lines.exactly("packets go one by one", 1);
    }
    tunnel.client.lines.exactly("unable to send", 0);
}

/// A command that makes a system call of the program under it fail.
fn failing(injection: &str) -> Vec<String> {
    let call = injection.split(':').next().unwrap();
    // Calls are counted in each process by itself. Those of the set-up are the first process's,
    // and PROG's own must work; the sender is a child.
    let follow: &[&str] = match call {
        "ioctl" | "setsockopt" => &[],
        _ => &["-f", "--seccomp-bpf"],
    };
    let mut words = vec!["strace".to_owned()];
    words.extend(follow.iter().map(|&word| word.to_owned()));
    words.extend(["-o", "/dev/null", "-e"].map(str::to_owned));
    words.extend([
        format!("trace={call}"),
        "-e".into(),
        format!("inject={injection}"),
    ]);
    words
}

fn start_failing(launch: &support::launch::Launch, injection: &str) -> Process {
    let words = failing(injection);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let process = launch.start_under(&words);
    process.lines.wait("started: ");
    process
}

/// For each device: 5 calls if the first fails, 6 if the second does, and one more for the log. The
/// server's first device is a trial.
const NO_HEADER: &str = "ioctl:error=EINVAL:when=1+6";

/// What a kernel may refuse, played by calls that fail.
const REFUSALS: [&str; 6] = [
    // No IFF_VNET_HDR: the first call for a device is TUNSETIFF.
    NO_HEADER,
    // No USO, below Linux 6.2: the second is TUNSETOFFLOAD.
    "ioctl:error=EINVAL:when=2+7",
    // No UDP_SEGMENT, below Linux 4.18: the first option that is set.
    "setsockopt:error=ENOPROTOOPT:when=1",
    // A blocking descriptor can't be asked for what is there.
    "preadv2:error=EOPNOTSUPP",
    // A device that can't do segments. In a row, since a send that fails is tried again without
    // the source address.
    "sendmsg:error=EIO:when=20..45",
    // A kernel that does not take super-packets.
    "writev:error=EINVAL:when=20+9",
];

/// Without the header the calls of the set-up are others, and those of the packets must do.
fn refusals() -> impl Iterator<Item = &'static str> {
    let set_up = |refusal: &&str| refusal.starts_with("ioctl") || refusal.starts_with("setsockopt");
    let all = offload_by_default();
    REFUSALS.into_iter().filter(move |r| all || !set_up(r))
}

/// After a transfer: the program has given up what was refused, and said so once for each way.
fn check(refusal: &str, process: &Process, host: &Host) {
    let told = process.lines.count("one by one");
    assert!(told <= 2, "{refusal}: {told}");
    if offload_by_default() {
        let refused = refusal.starts_with("sendmsg") || refusal.starts_with("writev");
        assert_eq!(told > 0, refused, "{refusal}");
        let header = host.ip("-d link show type tun").contains("vnet_hdr on");
        assert_eq!(header, refusal != NO_HEADER, "{refusal}");
    }
}

fn wait_up(host: &Host, inner: Inner) {
    wait_until(PATIENCE, "a ping", || {
        support::traffic::ping_works(host, inner.server4())
    });
}

#[test]
#[ignore = "needs root"]
fn a_client_whose_kernel_refuses() {
    for refusal in refusals() {
        let lab = Lab::direct();
        let _server = Server::new(&lab.server, [1]).start();
        let client = Client::new(lab.client(), 1).options(&["-k", "1"]);
        let (inner, prog) = (client.inner, client_prog(lab.client(), "up", 1, ""));
        let launch = client.launch().clone();
        let launch = launch.operands(["198.51.100.1", "5886"]).operands([prog]);
        let process = start_failing(&launch, refusal);
        wait_up(lab.client(), inner);
        transfers(&lab, inner, 2);
        check(refusal, &process, lab.client());
    }
}

#[test]
#[ignore = "needs root"]
fn a_server_whose_kernel_refuses() {
    for refusal in refusals() {
        let lab = Lab::direct();
        let prog = server_prog(&lab.server, "up", "");
        let server = Server::new(&lab.server, [1]);
        let process = start_failing(&server.launch().clone().operands([prog]), refusal);
        let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
        client.wait_up();
        transfers(&lab, client.inner, 2);
        check(refusal, &process, &lab.server);
    }
}

#[test]
#[ignore = "needs root"]
fn eight_clients_keep_their_contents_apart() {
    let lab = Lab::routed(8);
    let _server = Server::new(&lab.server, 1..=8).start();
    let clients: Vec<Client> = (1..=8)
        .zip(&lab.clients)
        .map(|(number, host)| Client::new(host, number).start())
        .collect();
    clients.iter().for_each(Client::wait_up);
    let transfers: Vec<_> = clients
        .iter()
        .map(|client| tcp_both_ways(&client.host, &lab.server, client.inner.server4(), 2))
        .collect();
    transfers.into_iter().for_each(|transfer| transfer.join());
}
