//! Super-packets and many packets in one call, against the kernel at the other end and against a
//! kernel that refuses. The content of every transfer is compared.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt::UdpGsoSegment};
use support::config::client_id;
use support::host::Host;
use support::lab::{Lab, SERVER4};
use support::peer::{datagram, udp_packet};
use support::process::Process;
use support::programs::offload_by_default;
use support::sniffer::{self, Sniffer};
use support::traffic::{tcp_both_ways, udp_datagrams};
use support::tunnel::{Client, Inner, Server, Tunnel, client_prog, server_prog};
use support::wait::{PATIENCE, wait_until};

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
    // A device that can't do segments: many at once, then one, then the rest at once.
    "sendmsg:error=EIO:when=20..80+2",
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
        // A server of many addresses would try each send that fails again without the address.
        let server = Server::new(&lab.server, [1]).options(&["-b", SERVER4]);
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

/// Sends datagrams that leave in one call and arrive in one.
fn burst(host: &Host, to: &str, datagrams: &[Vec<u8>]) {
    let socket = host.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    let len = datagrams[0].len();
    setsockopt(&socket, UdpGsoSegment, &i32::try_from(len).unwrap()).unwrap();
    socket.send_to(&datagrams.concat(), (to, 5886)).unwrap();
}

#[test]
#[ignore = "needs root"]
fn one_burst_for_two_clients_is_kept_apart() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1, 2]).start();
    let ids = [1, 2].map(client_id);
    let hello: Vec<_> = ids.iter().map(|id| datagram(id, b"\x03hello")).collect();
    burst(lab.client(), SERVER4, &hello);
    lab.server.wait_tuns(2);
    let sniffers = ["tun0", "tun1"].map(|device| {
        wait_until(PATIENCE, device, || {
            lab.server
                .ip(&format!("link show dev {device}"))
                .contains("LOWER_UP")
        });
        Sniffer::new(&lab.server, device)
    });
    // One flow, as far as addresses and ports tell: only the identifiers are different, at first
    // by turns, then in two runs.
    let turns: Vec<usize> = [[0, 1].repeat(10), vec![0; 10], vec![1; 10]].concat();
    let [from, to] = ["10.0.1.2:7000", "10.0.1.1:7001"].map(|a| a.parse().unwrap());
    let datagrams: Vec<_> = (0..)
        .zip(&turns)
        .map(|(n, &client)| datagram(&ids[client], &udp_packet(from, to, &[n; 100])))
        .collect();
    burst(lab.client(), SERVER4, &datagrams);
    for (client, sniffer) in sniffers.iter().enumerate() {
        let mut expected = (0..).zip(&turns).filter(|&(_, &turn)| turn == client);
        let mut seen = Vec::new();
        while seen.len() < 20 {
            let what = format!("packets of client {client}, {seen:?}");
            let packet = sniffer.wait(&what, |p| {
                sniffer::udp(p).is_some_and(|(source, ..)| source == 7000)
            });
            let (_, _, content) = sniffer::udp(&packet).unwrap();
            // A super-packet has several behind each other.
            seen.extend(content.chunks(100).map(|piece| {
                assert!(piece.len() == 100 && piece.iter().all(|byte| *byte == piece[0]));
                piece[0]
            }));
        }
        for n in seen {
            assert_eq!(expected.next().map(|(n, _)| n), Some(n), "client {client}");
        }
    }
}

/// The packets inside datagrams, in a file that tcpdump(8) reads, each as it was on the wire.
fn capture(packets: &[Vec<u8>], file: &Path) {
    // pcap: magic, version 2.4, time zone and accuracy, longest packet, LINKTYPE_RAW.
    let mut content = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x0004_0000, 101] {
        content.extend(u32::to_ne_bytes(word));
    }
    for packet in packets {
        let len = u32::try_from(packet.len()).unwrap();
        for word in [0, 0, len, len] {
            content.extend(u32::to_ne_bytes(word));
        }
        content.extend(packet);
    }
    std::fs::write(file, content).unwrap();
}

#[test]
#[ignore = "needs root"]
fn every_segment_on_the_wire_is_sound() {
    let lab = Lab::direct();
    // Datagrams of one call leave one by one, for all to see.
    for host in [&lab.server, lab.client()] {
        host.sh("ethtool -K eth0 gso off gro off tx-udp-segmentation off >/dev/null");
        host.sysctl("net/ipv4/tcp_ecn", "1");
    }
    let tunnel = Tunnel::plain(lab);
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    let sniffer = Sniffer::new(client, "eth0");
    let ending = Arc::new(AtomicBool::new(false));
    let end = ending.clone();
    let catching = std::thread::spawn(move || {
        let mut packets = Vec::new();
        loop {
            match sniffer.packet() {
                Some(packet) => packets.push(packet),
                None if end.load(Ordering::Relaxed) => return packets,
                None => std::thread::yield_now(),
            }
        }
    });
    transfers(&tunnel.lab, inner, 1);
    // Pieces of odd sizes, which are pushed, and some urgent bytes.
    let listener = server.run(move || TcpListener::bind((inner.server6(), 0)).unwrap());
    let to = listener.local_addr().unwrap();
    let stream = client.run(move || TcpStream::connect(to).unwrap());
    let far = listener.accept().unwrap().0;
    for n in 0..60_u16 {
        let piece = vec![7; usize::from(n) * 331 % 9000 + 1];
        (&stream).write_all(&piece).unwrap();
        if n % 10 == 0 {
            send(stream.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
        }
    }
    drop(stream);
    let mut received = Vec::new();
    { &far }.read_to_end(&mut received).unwrap();
    assert!(received.len() > 60_000, "{}", received.len());
    let sizes: Vec<usize> = (0..40).map(|n| n * 613 % 1393).collect();
    udp_datagrams(client, server, (inner.client4(), inner.server4()), &sizes);
    ending.store(true, Ordering::Relaxed);

    let outer = catching.join().unwrap();
    let packets: Vec<Vec<u8>> = outer
        .iter()
        .filter_map(|packet| {
            let (from, to, payload) = sniffer::udp(packet)?;
            let inner = payload.get(8..).filter(|_| from == 5886 || to == 5886)?;
            assert!(inner.len() <= 1420, "{} bytes inside", inner.len());
            matches!(inner.first()? >> 4, 4 | 6).then(|| inner.to_vec())
        })
        .collect();
    assert!(packets.len() > 4 * 1024 * 1024 / 1420, "{}", packets.len());
    let file = client.path("packets.pcap");
    capture(&packets, &file);
    let text = client.sh("tcpdump -n -vvv -r packets.pcap 2>/dev/null");
    let [good, udp_good] = ["(correct)", "[udp sum ok]"].map(|word| text.matches(word).count());
    let signs = [
        "incorrect",
        "bad udp",
        "bad cksum",
        "wrong",
        "truncated",
        "[|",
    ];
    let is_bad = |line: &&str| signs.iter().any(|sign| line.contains(sign));
    let bad: Vec<&str> = text.lines().filter(is_bad).collect();
    assert_eq!(bad, [""; 0]);
    // ICMPv6 and IGMP, which nobody asked for, are few.
    assert!(
        good + udp_good + 50 >= packets.len(),
        "{good} and {udp_good} of {}",
        packets.len()
    );
    assert!(udp_good >= sizes.len() && good > packets.len() / 2);
    for flag in ["Flags [P.]", "Flags [.]", "Flags [P.U]", "IP6", "IP ("] {
        assert!(text.contains(flag), "no {flag}");
    }
}
