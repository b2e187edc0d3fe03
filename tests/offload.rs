//! Super-packets and many packets in one call, against the kernel at the other end and against a
//! kernel that refuses. The content of every transfer is compared.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    MsgFlags, send, setsockopt,
    sockopt::{RcvBufForce, UdpGsoSegment},
};
use nix::unistd::Pid;
use support::config::client_id;
use support::heartbeat::Heartbeat;
use support::host::Host;
use support::lab::{Lab, SERVER4, SERVER6, addresses, cable};
use support::launch::Launch;
use support::peer::{datagram, udp_packet};
use support::proc;
use support::process::Process;
use support::programs::offload_by_default;
use support::sniffer::{self, Sniffer};
use support::traffic::{Noise, tcp_both_ways, udp, udp_datagrams};
use support::tunnel::{Client, Inner, Server, Tunnel};
use support::wait::{PATIENCE, wait_until};
use support::worker::Worker;

/// Both directions at once, over IPv4 and IPv6 inside.
fn transfers(lab: &Lab, inner: Inner, mebibytes: usize) {
    let (server, client) = (&lab.server, lab.client());
    let transfers = [
        tcp_both_ways(client, server, inner.server4(), mebibytes),
        tcp_both_ways(server, client, inner.client6(), mebibytes),
    ];
    transfers.into_iter().for_each(|transfer| transfer.join());
}

/// Datagrams of one call leave the hosts one by one, to be lost or seen by themselves.
fn one_by_one(lab: &Lab) {
    for host in [&lab.server, lab.client()] {
        host.sh("ethtool -K eth0 gso off gro off tx-udp-segmentation off >/dev/null");
    }
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
    let lab = Lab::routed(1);
    one_by_one(&lab);
    let tunnel = Tunnel::plain(lab);
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
    for outer in [SERVER4, SERVER6] {
        let lab = Lab::direct();
        for host in [&lab.server, lab.client()] {
            host.ip("link set eth0 mtu 1280");
        }
        let server = Server::new(&lab.server, [1]).start();
        let client = Client::new(lab.client(), 1).to(outer).start();
        client.wait_up();
        transfers(&lab, client.inner, 4);
        for lines in [&client.lines, &server.lines] {
            lines.exactly("packets go one by one", offload_by_default().into());
            lines.exactly("unable to send", 0);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_path_that_refuses_pairs() {
    let lab = Lab::direct();
    for host in [&lab.server, lab.client()] {
        host.ip("link set eth0 mtu 1280");
    }
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1).start();
    client.wait_up();
    let inner = client.inner;
    let (sender, receiver) = sockets(lab.client(), &lab.server, inner.client4(), inner.server4());
    setsockopt(&sender, UdpGsoSegment, &1300).unwrap();
    for n in 0..10 {
        sender.send(&[n; 2600]).unwrap();
        for _ in 0..2 {
            let mut buffer = [0; 2000];
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 1300);
            assert_eq!(buffer[..1300], [n; 1300]);
        }
    }
    let told = offload_by_default().into();
    client.lines.exactly("packets go one by one", told);
}

#[test]
#[ignore = "needs root"]
fn a_packet_that_the_kernel_can_not_describe() {
    let lab = Lab::direct();
    let trace = ["strace", "-f", "-o", "trace", "-P", "/dev/net/tun"];
    let (read, inject) = ("trace=read", "inject=read:error=EINVAL:when=10+10");
    let under = [&trace[..], &["-e", read, "-e", inject]].concat();
    let server = Server::new(&lab.server, [1])
        .with(|launch| launch.under(&under))
        .start();
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "1"])
        .with(|launch| launch.under(&under))
        .start();
    client.wait_up();
    let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
    beat.wait_beats(100);
    for (process, host) in [(&*server, &lab.server), (&*client, lab.client())] {
        assert!(host.read("trace").matches("INJECTED").count() > 3);
        for line in ["is gone", "the sender", "starting it again"] {
            process.lines.exactly(line, 0);
        }
    }
    assert_eq!(beat.tally().lost, 0);
}

/// Lets a system call of a program fail; strace(1) writes down all calls of that name.
fn failing(launch: Launch, injection: &str) -> Launch {
    let call = injection.split(':').next().unwrap();
    let (trace, inject) = (format!("trace={call}"), format!("inject={injection}"));
    let mut words = vec!["strace", "-o", "trace", "-e", &trace, "-e", &inject];
    // Calls are counted in each process by itself. Those of the set-up are the first process's,
    // and PROG's own must work; the sender is a child.
    if !is_set_up(injection) {
        words.extend(["-f", "--seccomp-bpf"]);
    }
    launch.under(&words)
}

/// One call for standard error. Then for each device 5 if the first fails, 6 if the second does, and
/// one more for the log. The server's first device is a trial.
const NO_HEADER: &str = "ioctl:error=EINVAL:when=2..8+6";
/// Below Linux 6.2: the second call for a device is TUNSETOFFLOAD.
const NO_USO: &str = "ioctl:error=EINVAL:when=3..10+7";
/// Below Linux 4.18: the first option that is set is UDP_SEGMENT.
const NO_UDP_SEGMENT: &str = "setsockopt:error=ENOPROTOOPT:when=1";
/// A device that can't do segments: many at once, then one, then the rest at once.
const NO_SEGMENTS: &str = "sendmsg:error=EIO:when=20..80+2";
/// A kernel that does not take super-packets.
const NO_SUPER_PACKETS: &str = "writev:error=EINVAL:when=20+9";
/// A blocking descriptor can't be asked for what is there: the device's driver, or any, or not from
/// within a sandbox.
const NO_NOWAIT: [&str; 3] = [
    "preadv2:error=EOPNOTSUPP",
    "preadv2:error=ENOSYS",
    "preadv2:error=EPERM",
];

/// What a kernel may refuse, played by calls that fail.
const REFUSALS: [&str; 5] = [
    NO_HEADER,
    NO_USO,
    NO_UDP_SEGMENT,
    NO_SEGMENTS,
    NO_SUPER_PACKETS,
];

fn is_set_up(refusal: &str) -> bool {
    refusal.starts_with("ioctl") || refusal.starts_with("setsockopt")
}

/// Without the header the calls of the set-up are others, and those of the packets must do.
fn refusals() -> impl Iterator<Item = &'static str> {
    let all = offload_by_default();
    REFUSALS.into_iter().filter(move |r| all || !is_set_up(r))
}

/// After a transfer: the program has given up what was refused and nothing else, and said so once
/// for each way. The sniffer has seen what left the host.
fn check(refusal: &str, process: &Process, host: &Host, sniffer: &Sniffer) {
    let told = ["go", "come"].map(|way| {
        let line = format!("packets {way} one by one");
        process.lines.count(&line)
    });
    assert!(told.iter().all(|&n| n <= 1), "{refusal}: {told:?}");
    if !offload_by_default() {
        return;
    }
    let refused = [NO_SEGMENTS, NO_SUPER_PACKETS].map(|r| usize::from(r == refusal));
    assert_eq!(told, refused, "{refusal}");
    let header = host.ip("-d link show type tun").contains("vnet_hdr on");
    assert_eq!(header, refusal != NO_HEADER, "{refusal}");
    let features = host.sh(&format!("ethtool -k {}", host.tuns()[0]));
    let cuts = features.contains("tx-udp-segmentation: on");
    assert_eq!(cuts, ![NO_HEADER, NO_USO].contains(&refusal), "{refusal}");
    // Of what left in one call the cable shows one packet.
    let large = std::iter::from_fn(|| sniffer.packet()).any(|packet| packet.len() > 1500);
    match refusal {
        // Before the refusal, or with equal packets, there may have been some.
        NO_HEADER | NO_SEGMENTS => {}
        _ => assert_eq!(large, refusal != NO_UDP_SEGMENT, "{refusal}"),
    }
}

#[test]
#[ignore = "needs root"]
fn a_client_whose_kernel_refuses() {
    for refusal in refusals().chain(NO_NOWAIT) {
        let lab = Lab::direct();
        let host = lab.client();
        let _server = Server::new(&lab.server, [1]).start();
        // A sender asks for what is there but once, and silence would start another one.
        let keepalive = if NO_NOWAIT.contains(&refusal) {
            "0"
        } else {
            "1"
        };
        let sniffer = Sniffer::leaving(host, "eth0");
        // It has one device, whose name it asks for later.
        let first = refusal.split_once("..").filter(|_| is_set_up(refusal));
        let injection = first.map_or(refusal, |(first, _)| first);
        let client = Client::new(host, 1)
            .options(&["-k", keepalive])
            .with(|launch| failing(launch, injection))
            .start();
        client.wait_up();
        transfers(&lab, client.inner, 2);
        check(refusal, &client, host, &sniffer);
        if NO_NOWAIT.contains(&refusal) {
            let asked = host.read("trace").matches("preadv2(").count();
            assert_eq!(asked, offload_by_default().into(), "{refusal}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_server_whose_kernel_refuses() {
    for refusal in refusals() {
        let lab = Lab::direct();
        let sniffer = Sniffer::leaving(&lab.server, "eth0");
        let server = Server::new(&lab.server, [1])
            .with(|launch| failing(launch, refusal))
            .start();
        let client = Client::new(lab.client(), 1).options(&["-k", "1"]).start();
        client.wait_up();
        transfers(&lab, client.inner, 2);
        check(refusal, &server, &lab.server, &sniffer);
    }
}

/// Two sockets at the ends of a tunnel, and the address of the second.
fn sockets(from: &Host, to: &Host, near: IpAddr, far: IpAddr) -> (UdpSocket, UdpSocket) {
    let (sender, receiver) = (udp(from, (near, 0).into()), udp(to, (far, 0).into()));
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    // All of it waits here for a reader who has no time.
    setsockopt(&receiver, RcvBufForce, &(8 << 20)).unwrap();
    (sender, receiver)
}

/// The next datagrams are these.
#[track_caller]
fn expect(receiver: &UdpSocket, datagrams: impl IntoIterator<Item = impl AsRef<[u8]>>) {
    let mut buffer = [0; 2048];
    for (n, expected) in datagrams.into_iter().enumerate() {
        let len = receiver.recv(&mut buffer);
        let len = len.unwrap_or_else(|error| panic!("datagram {n}: {error}"));
        assert!(buffer[..len] == *expected.as_ref(), "datagram {n}");
    }
}

#[test]
#[ignore = "needs root"]
fn datagrams_that_a_host_sends_many_at_once() {
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let (inner, device) = (tunnel.client.inner, client.tuns().remove(0));
    let mut noise = Noise::new(11);
    for (from, to, near, far) in [
        (client, server, inner.client4(), inner.server4()),
        (client, server, inner.client6(), inner.server6()),
        (server, client, inner.server4(), inner.client4()),
        (server, client, inner.server6(), inner.client6()),
    ] {
        let (sender, receiver) = sockets(from, to, near, far);
        let sniffer = Sniffer::new(client, &device);
        // 41 datagrams, the last one shorter.
        setsockopt(&sender, UdpGsoSegment, &1000).unwrap();
        for _ in 0..20 {
            let content = noise.bytes(40_500);
            sender.send(&content).unwrap();
            expect(&receiver, content.chunks(1000));
        }
        // They went through the device as they were sent, and came out of it likewise.
        let large = std::iter::from_fn(|| sniffer.packet()).any(|packet| packet.len() > 1500);
        assert_eq!(large, offload_by_default(), "{near} to {far}");
    }
}

/// What is sent meanwhile waits for this process.
fn while_stopped(reader: Pid, send: impl FnOnce()) {
    kill(reader, Signal::SIGSTOP).unwrap();
    send();
    kill(reader, Signal::SIGCONT).unwrap();
}

/// These datagrams wait together for this process.
fn send_at_once(reader: Pid, sender: &UdpSocket, datagrams: &[Vec<u8>]) {
    while_stopped(reader, || {
        for datagram in datagrams {
            sender.send(datagram).unwrap();
        }
    });
}

#[test]
#[ignore = "needs root"]
fn datagrams_of_equal_and_mixed_sizes_that_wait_together() {
    // The largest fits the MTU with either header.
    const SIZES: [usize; 7] = [100, 1000, 100, 1372, 0, 1372, 7];
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    let child = proc::twins(tunnel.client.pid())[0];
    let mut noise = Noise::new(12);
    for (from, to, near, far, reader) in [
        (client, server, inner.client4(), inner.server4(), child),
        (client, server, inner.client6(), inner.server6(), child),
        (
            server,
            client,
            inner.server4(),
            inner.client4(),
            tunnel.server.pid(),
        ),
    ] {
        let (sender, receiver) = sockets(from, to, near, far);
        let sniffer = Sniffer::leaving(from, "eth0");
        // Runs of equal sizes and changes of all kinds, in no pattern, while nobody reads them.
        let mut datagrams: Vec<Vec<u8>> = Vec::new();
        while datagrams.len() < 200 {
            let size = SIZES[usize::try_from(noise.number() % 7).unwrap()];
            let run = usize::try_from(1 + noise.number() % 9).unwrap();
            datagrams.extend((0..run).map(|_| noise.bytes(size)));
        }
        send_at_once(reader, &sender, &datagrams);
        expect(&receiver, &datagrams);
        let calls = std::iter::from_fn(|| sniffer.packet()).count();
        if offload_by_default() {
            let all = datagrams.len();
            assert!(calls * 4 < all * 3, "{calls} calls for {all} datagrams");
        }
    }
}

/// The system calls of a process during this, as strace(1) has them with these expressions.
fn traced(host: &Host, process: Pid, expressions: &[&str], during: impl FnOnce()) -> String {
    let mut command = Command::new("strace");
    command.arg("-o").arg(host.path("trace"));
    command.args(["-p", &process.to_string()]);
    for expression in expressions {
        command.args(["-e", expression]);
    }
    let mut trace = Process::spawn(host, command);
    trace.lines.wait("attached");
    during();
    // Otherwise the last one may be cut short.
    wait_until(PATIENCE, "the last call to end", || proc::rests(process));
    trace.signal(Signal::SIGINT);
    trace.wait();
    host.read("trace")
}

/// The process that reads what the client's host sends, and sockets to send it and to receive it.
fn upload(tunnel: &Tunnel) -> (Pid, UdpSocket, UdpSocket) {
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    let (sender, receiver) = sockets(client, server, inner.client4(), inner.server4());
    (proc::twins(tunnel.client.pid())[0], sender, receiver)
}

/// What each of these calls returned.
fn results(calls: &str) -> Vec<&str> {
    let calls = calls.lines().filter(|line| line.starts_with("send"));
    let results = calls.filter_map(|call| call.rsplit_once(" = ")?.1.split(' ').next());
    results.collect()
}

/// Datagrams that are each longer than the one before are no run, and leave in one call all the same.
/// What a call does not take leaves behind it.
#[test]
#[ignore = "needs root"]
fn unequal_datagrams_share_calls() {
    let tunnel = Tunnel::plain(Lab::direct());
    let client = tunnel.lab.client();
    let (child, sender, receiver) = upload(&tunnel);
    let mut noise = Noise::new(15);
    let datagrams: Vec<_> = (1..=40).map(|n| noise.bytes(10 * n)).collect();
    let burst = || {
        send_at_once(child, &sender, &datagrams);
        let mut received: Vec<Vec<u8>> = Vec::new();
        let mut buffer = [0; 1000];
        while received.last() != datagrams.last() {
            let len = receiver.recv(&mut buffer).unwrap();
            received.push(buffer[..len].to_vec());
        }
        received
    };
    // Who had one by one before does not look for more at first: there is a burst before the first
    // one, and none of IPv6's own packets in between.
    let device = client.tuns().remove(0);
    client.sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1");
    burst();
    for (injection, expected, lost) in [
        (Some("inject=sendmmsg:error=ENOSYS"), &["-1", "-1"][..], 0),
        (None, &["32", "8"], 0),
        (
            Some("inject=sendmmsg:error=ENOBUFS:when=1"),
            &["-1", "8"],
            0,
        ),
        // That three have left is not true. The next one leaves by itself.
        (
            Some("inject=sendmmsg:retval=3:when=1"),
            &["3", "28", "8"],
            3,
        ),
    ] {
        let mut received = Vec::new();
        let expressions: Vec<_> = ["trace=sendmmsg"].into_iter().chain(injection).collect();
        let calls = traced(client, child, &expressions, || received = burst());
        let (expected, lost) = match offload_by_default() {
            true => (expected, lost),
            false => (&[][..], 0),
        };
        assert_eq!(results(&calls), expected, "{injection:?}");
        assert!(received == datagrams[lost..], "{injection:?}");
    }
}

/// A path that refuses segments still takes several datagrams in a call; one that is lost among runs
/// does not part the others.
#[test]
#[ignore = "needs root"]
fn what_is_refused_costs_few_calls() {
    let tunnel = Tunnel::plain(Lab::direct());
    let client = tunnel.lab.client();
    let (child, sender, receiver) = upload(&tunnel);
    let calls_of = |datagrams: &[Vec<u8>], expected: &[Vec<u8>]| {
        let calls = traced(client, child, &["trace=sendmsg,sendmmsg"], || {
            send_at_once(child, &sender, datagrams);
            expect(&receiver, expected);
        });
        results(&calls)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut noise = Noise::new(16);
    let mut run = |len: usize| (0..20).map(|_| noise.bytes(len)).collect::<Vec<_>>();
    let runs = [run(100), run(200), run(600)].concat();
    let with_one = [vec![vec![7; 10]], runs.clone()].concat();
    client.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    calls_of(&runs, &runs);
    // 10 bytes with all headers.
    client.filter("short", "output", "udp dport 5886 udp length 54 drop");
    let calls = calls_of(&with_one, &runs);
    if offload_by_default() {
        assert_eq!(calls, ["-1", "-1", "2720", "4720", "12720"]);
    }
    // The longest run is refused. Known it is after the second time.
    client.ip("link set eth0 mtu 600");
    for _ in 0..2 {
        calls_of(&runs, &runs);
    }
    let calls = calls_of(&runs, &runs);
    if offload_by_default() {
        assert_eq!(calls, ["22"]);
    }
}

/// Before Linux 6.9, which takes 128 segments in one call. What is lost on its way teaches nothing.
#[test]
#[ignore = "needs root"]
fn a_kernel_that_takes_64_segments_only() {
    let lab = Lab::direct();
    let host = lab.client();
    let _server = Server::new(&lab.server, [1]).keyed("sign", [1]).start();
    let client = Client::new(host, 1).keyed("sign").start();
    client.wait_up();
    let inner = client.inner;
    let (sender, receiver) = sockets(host, &lab.server, inner.client4(), inner.server4());
    setsockopt(&sender, UdpGsoSegment, &50).unwrap();
    let child = proc::twins(client.pid())[0];
    // How many segments each call has, of which the first is refused.
    let calls_of = |send: &mut dyn FnMut()| {
        let options = ["trace=sendmsg", "inject=sendmsg:error=EINVAL:when=1"];
        let calls = traced(host, child, &options, send);
        let count = |line: &str| {
            let (_, rest) = line.split_once("msg_iovlen=")?;
            let (count, _) = rest.split_once(',')?;
            count.parse::<u32>().ok().filter(|&count| count > 2)
        };
        calls.lines().filter_map(count).collect::<Vec<_>>()
    };
    let mut noise = Noise::new(14);
    let mut pass = || {
        let content = noise.bytes(100 * 50);
        sender.send(&content).unwrap();
        expect(&receiver, content.chunks(50));
    };
    if offload_by_default() {
        let calls = calls_of(&mut || {
            host.filter("full", "output", "udp dport 5886 counter drop");
            sender.send(&[0; 100 * 50]).unwrap();
            wait_until(PATIENCE, "both halves to be lost", || {
                host.sh("nft list table inet full").contains("packets 2 ")
            });
            host.nft("delete table inet full");
            pass();
        });
        assert_eq!(calls, [100, 62, 38, 100]);
    }
    let calls = calls_of(&mut || (0..3).for_each(|_| pass()));
    let expected: &[u32] = match offload_by_default() {
        true => &[100, 62, 38, 62, 38, 62, 38],
        false => &[],
    };
    assert_eq!(calls, expected);
    client.lines.exactly("packets go one by one", 0);
}

/// More flows than gather at once, each with datagrams of two lengths and now and then one that is
/// never joined: each flow keeps its order, and is joined though others come between.
#[test]
#[ignore = "needs root"]
fn flows_that_come_by_turns_are_joined_and_keep_their_order() {
    const FLOWS: usize = 12;
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    let child = proc::twins(tunnel.client.pid())[0];
    let devices = [client.tuns().remove(0), server.tuns().remove(0)];
    let mut noise = Noise::new(13);
    for (from, to, near, far, reader, device) in [
        (
            client,
            server,
            inner.client4(),
            inner.server4(),
            child,
            &devices[1],
        ),
        (
            server,
            client,
            inner.server6(),
            inner.client6(),
            tunnel.server.pid(),
            &devices[0],
        ),
    ] {
        let pairs: Vec<_> = (0..FLOWS).map(|_| sockets(from, to, near, far)).collect();
        let sniffer = Sniffer::new(to, device);
        let mut sent = vec![Vec::new(); FLOWS];
        while_stopped(reader, || {
            for n in 0..240 {
                // Three by turns, then any.
                let flow = match n < 60 {
                    true => n % 3,
                    false => usize::try_from(noise.number()).unwrap() % FLOWS,
                };
                let len = match noise.number() % 20 {
                    // In fragments.
                    0..2 if n >= 60 => 1500,
                    2..6 if n >= 60 => 300,
                    _ => 200,
                };
                let content = noise.bytes(len);
                pairs[flow].0.send(&content).unwrap();
                sent[flow].push(content);
            }
        });
        for ((_, receiver), sent) in pairs.iter().zip(&sent) {
            expect(receiver, sent);
        }
        let lens: Vec<_> = std::iter::from_fn(|| sniffer.packet())
            .map(|packet| packet.len())
            .collect();
        let large = lens.iter().any(|&len| len >= 15 * 200);
        assert_eq!(large, offload_by_default(), "{near} to {far}: {lens:?}");
    }
}

/// Though all of it is read in one turn: a call's voice must not wait for a download.
#[test]
#[ignore = "needs root"]
fn a_lone_datagram_is_overtaken_by_few() {
    const SIZE: usize = 300;
    const BEFORE: usize = 20;
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    let pair = || sockets(client, server, inner.client4(), inner.server4());
    let ((voice, heard), (download, loaded)) = (pair(), pair());
    let sniffer = Sniffer::new(server, &server.tuns()[0]);
    let mut noise = Noise::new(15);
    let (word, content) = (noise.bytes(160), noise.bytes(400 * SIZE));
    while_stopped(tunnel.server.pid(), || {
        for (n, datagram) in content.chunks(SIZE).enumerate() {
            if n == BEFORE {
                voice.send(&word).unwrap();
            }
            download.send(datagram).unwrap();
        }
        let arrived = "cat /sys/class/net/eth0/statistics/rx_bytes";
        wait_until(PATIENCE, "all to arrive", || {
            server.sh(arrived).trim().parse::<usize>().unwrap() > content.len()
        });
    });
    expect(&heard, [&word]);
    expect(&loaded, content.chunks(SIZE));
    let lens: Vec<_> = std::iter::from_fn(|| sniffer.packet())
        .map(|packet| packet.len())
        .collect();
    let before = lens.iter().take_while(|&&len| len != 28 + word.len());
    let overtaken = before.sum::<usize>() / SIZE - BEFORE;
    assert!(overtaken < 110, "by {overtaken}: {lens:?}");
}

/// The kernel's multicast router drops what is longer than the next MTU and not to be fragmented,
/// which is what UDP sockets send.
#[test]
#[ignore = "needs root"]
fn multicast_is_routed_on_by_either_end() {
    let (group, port) = (Ipv4Addr::new(239, 1, 1, 1), 5004);
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    let mut noise = Noise::new(14);
    let child = proc::twins(tunnel.client.pid())[0];
    for (from, source, to, reader) in [
        (client, inner.client4(), server, child),
        (server, inner.server4(), client, tunnel.server.pid()),
    ] {
        let lan = Host::new("lan");
        cable(to, "lan0", &lan, "eth0");
        addresses(to, "lan0", &["10.10.0.1/24"]);
        addresses(&lan, "eth0", &["10.10.0.2/24"]);
        let (device, routes) = (&to.tuns()[0], to.path("routes"));
        let route = format!("mroute from {device} source {source} group {group} to lan0\n");
        std::fs::write(&routes, route).unwrap();
        let mut command = Command::new("smcrouted");
        command.args(["-n", "-P", "router.pid", "-u", "router.sock", "-f"]);
        command.arg(&routes).current_dir(to.path(""));
        let _router = Process::spawn(to, command);
        wait_until(PATIENCE, "the multicast route", || {
            to.ip("mroute show").contains("239.1.1.1")
        });

        let receiver = udp(&lan, (Ipv4Addr::UNSPECIFIED, port).into());
        let near = Ipv4Addr::new(10, 10, 0, 2);
        receiver.join_multicast_v4(&group, &near).unwrap();
        setsockopt(&receiver, RcvBufForce, &(8 << 20)).unwrap();
        from.ip(&format!("route add {group} dev {}", from.tuns()[0]));
        let sender = udp(from, (source, 0).into());
        sender.set_multicast_ttl_v4(8).unwrap();
        let datagrams: Vec<_> = (0..100).map(|_| noise.bytes(1316)).collect();
        while_stopped(reader, || {
            for datagram in &datagrams {
                sender.send_to(datagram, (group, port)).unwrap();
            }
        });
        expect(&receiver, &datagrams);
    }
}

#[test]
#[ignore = "needs root"]
fn super_packets_share_calls_and_become_whole_again() {
    // Of such datagrams 47 make a super-packet, and 45 leave in one call.
    const SIZE: usize = 1392;
    const WHOLE: usize = 47 * SIZE;
    const SUPERS: usize = 20;
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    let (daemon, parent) = (tunnel.server.pid(), tunnel.client.pid());
    let child = proc::twins(parent)[0];
    let mut noise = Noise::new(13);
    for (from, to, near, far, sending, receiving) in [
        (
            client,
            server,
            inner.client4(),
            inner.server4(),
            child,
            daemon,
        ),
        (
            server,
            client,
            inner.server4(),
            inner.client4(),
            daemon,
            parent,
        ),
    ] {
        let (sender, receiver) = sockets(from, to, near, far);
        setsockopt(&sender, UdpGsoSegment, &i32::try_from(SIZE).unwrap()).unwrap();
        let calls = Sniffer::leaving(from, "eth0");
        let written = Sniffer::new(to, &to.tuns()[0]);
        for pid in [sending, receiving] {
            kill(pid, Signal::SIGSTOP).unwrap();
        }
        let content = noise.bytes(SUPERS * WHOLE);
        for whole in content.chunks(WHOLE) {
            assert_eq!(sender.send(whole).unwrap(), WHOLE);
        }
        kill(sending, Signal::SIGCONT).unwrap();
        let (mut count, mut bytes) = (0, 0);
        while bytes < content.len() {
            let call = calls.wait("all to be sent", |p| p.len() > SIZE);
            // IPv4, UDP and ours before the first, and one of each before every packet inside.
            let packets = (call.len() - 28).div_ceil(SIZE + 36);
            (count, bytes) = (count + 1, bytes + packets * SIZE);
        }
        kill(receiving, Signal::SIGCONT).unwrap();
        expect(&receiver, content.chunks(SIZE));
        let whole = std::iter::from_fn(|| written.packet()).filter(|p| p.len() == 28 + WHOLE);
        if offload_by_default() {
            // Two for each otherwise; it takes some turns until either end looks for more.
            assert!(count < SUPERS * 9 / 5, "{near}: {count} calls");
            assert!(whole.count() > SUPERS / 4, "{near}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn eight_clients_keep_their_contents_apart() {
    let lab = Lab::routed(8);
    let _server = Server::new(&lab.server, 1..=8).start();
    let clients = Client::on_each(&lab, &[]);
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

/// Two clients, played from one host, have a tunnel each: their identifiers, and what comes out.
fn two_clients(lab: &Lab) -> ([String; 2], [Sniffer; 2]) {
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
    (ids, sniffers)
}

#[test]
#[ignore = "needs root"]
fn one_burst_for_two_clients_is_kept_apart() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1, 2]).start();
    let (ids, sniffers) = two_clients(&lab);
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

#[test]
#[ignore = "needs root"]
fn bursts_of_two_clients_by_turns_are_joined_for_each() {
    const BURST: u8 = 5;
    const BURSTS: u8 = 40;
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1, 2]).start();
    let (ids, sniffers) = two_clients(&lab);
    let [from, to] = ["10.0.1.2:7000", "10.0.1.1:7001"].map(|a| a.parse().unwrap());
    while_stopped(server.pid(), || {
        for n in 0..BURSTS {
            for id in &ids {
                let packet = |m| udp_packet(from, to, &[n * BURST + m; 100]);
                let datagrams: Vec<_> = (0..BURST).map(|m| datagram(id, &packet(m))).collect();
                burst(lab.client(), SERVER4, &datagrams);
            }
        }
    });
    for (client, sniffer) in sniffers.iter().enumerate() {
        let (mut seen, mut longest) = (Vec::new(), 0);
        while seen.len() < usize::from(BURSTS * BURST) {
            let packet = sniffer.wait(&format!("more than {seen:?} of {client}"), |p| {
                sniffer::udp(p).is_some_and(|(source, ..)| source == 7000)
            });
            let (_, _, content) = sniffer::udp(&packet).unwrap();
            seen.extend(content.chunks(100).map(|piece| piece[0]));
            longest = longest.max(content.len() / 100);
        }
        assert!(
            seen.iter().copied().eq(0..BURSTS * BURST),
            "{client}: {seen:?}"
        );
        // Of several bursts, though the other client's came between.
        let joined = longest > 2 * usize::from(BURST);
        assert_eq!(joined, offload_by_default(), "{longest}");
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

/// The packets inside the datagrams that pass a device, as they come.
struct Wire {
    sniffer: Arc<Sniffer>,
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    worker: Worker,
}

impl Wire {
    fn new(host: &Host) -> Self {
        let sniffer = Arc::new(Sniffer::new(host, "eth0"));
        let packets = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let (source, list) = (sniffer.clone(), packets.clone());
        let worker = Worker::start(move || match source.packet() {
            Some(packet) => lock(&list).extend(inside(&packet)),
            None => std::thread::sleep(Duration::from_millis(1)),
        });
        Self {
            sniffer,
            packets,
            worker,
        }
    }

    /// Whether a segment with data has passed with all of these flags.
    fn has(&self, flags: u8) -> bool {
        let list = lock(&self.packets);
        let mut segments = list.iter().filter_map(|packet| Segment::parse(packet));
        segments.any(|s| s.flags & (flags | SYN) == flags)
    }

    /// All packets, once it is over.
    fn stop(self) -> Vec<Vec<u8>> {
        self.worker.stop();
        let mut packets = std::mem::take(&mut *lock(&self.packets));
        let left = std::iter::from_fn(|| self.sniffer.packet());
        packets.extend(left.filter_map(|packet| inside(&packet)));
        packets
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The packet in an outer packet of the tunnel.
fn inside(outer: &[u8]) -> Option<Vec<u8>> {
    let (from, to, payload) = sniffer::udp(outer)?;
    let inner = payload.get(8..).filter(|_| from == 5886 || to == 5886)?;
    assert!(inner.len() <= 1420, "{} bytes inside", inner.len());
    matches!(inner.first()? >> 4, 4 | 6).then(|| inner.to_vec())
}

const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// What a segment of TCP says.
#[derive(Debug)]
struct Segment {
    ports: [u8; 4],
    sequence: u32,
    len: u32,
    flags: u8,
}

impl Segment {
    fn parse(packet: &[u8]) -> Option<Self> {
        let (protocol, header) = match packet[0] >> 4 {
            4 => (packet[9], 20),
            _ => (packet[6], 40),
        };
        let tcp = packet.get(header..).filter(|_| protocol == 6)?;
        let data = tcp.len() - usize::from(tcp[12] >> 4) * 4;
        Some(Self {
            ports: *tcp.first_chunk()?,
            sequence: u32::from_be_bytes(*tcp[4..].first_chunk()?),
            len: u32::try_from(data).ok()?,
            flags: tcp[13],
        })
    }
}

/// A window has one segment with CWR, the first of what was sent together: what follows a segment
/// that has it does not. Returns how often that was seen.
#[track_caller]
fn only_the_first_has_cwr(packets: &[Vec<u8>]) -> usize {
    let segments = packets.iter().filter_map(|packet| Segment::parse(packet));
    let segments: Vec<Segment> = segments.filter(|s| s.len > 0).collect();
    let mut seen = 0;
    for first in segments.iter().filter(|s| s.flags & CWR > 0) {
        let next = first.sequence.wrapping_add(first.len);
        let same = |s: &&Segment| (s.ports, s.sequence) == (first.ports, next);
        for second in segments.iter().filter(same) {
            assert_eq!(second.flags & CWR, 0, "{first:?} {second:?}");
            seen += 1;
        }
    }
    seen
}

#[test]
#[ignore = "needs root"]
fn every_segment_on_the_wire_is_sound() {
    let lab = Lab::direct();
    one_by_one(&lab);
    for host in [&lab.server, lab.client()] {
        host.sysctl("net/ipv4/tcp_ecn", "1");
        // A queue inside the tunnel that is congested now and then.
        let seldom = "limit rate 3/second burst 1 packets";
        let rules = format!(
            "iifname tun* ip ecn ect0 ip length > 1000 {seldom} ip ecn set ce
             iifname tun* ip6 ecn ect0 ip6 length > 1000 {seldom} ip6 ecn set ce"
        );
        host.filter("congestion", "input", &rules);
    }
    let tunnel = Tunnel::plain(lab);
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    let wire = Wire::new(client);
    // As often as it takes for the congestion to have hit the middle of a stream.
    for _ in 0..20 {
        transfers(&tunnel.lab, inner, 1);
        if wire.has(ECE) && only_the_first_has_cwr(&lock(&wire.packets)) > 0 {
            break;
        }
    }
    // Pieces of odd sizes, which are pushed.
    let listener = server.run(move || TcpListener::bind((inner.server6(), 0)).unwrap());
    let to = listener.local_addr().unwrap();
    let stream = client.run(move || TcpStream::connect(to).unwrap());
    let mut far = listener.accept().unwrap().0;
    let reader = std::thread::spawn(move || {
        let mut received = Vec::new();
        far.read_to_end(&mut received).unwrap();
        received.len()
    });
    for n in 0..60_u16 {
        let piece = vec![7; usize::from(n) * 331 % 9000 + 1];
        (&stream).write_all(&piece).unwrap();
    }
    // Urgent bytes, until one of them has a segment of its own.
    wait_until(PATIENCE, "an urgent segment", || {
        send(stream.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
        wire.has(PSH | URG)
    });
    drop(stream);
    assert!(reader.join().unwrap() > 60_000);
    let sizes: Vec<usize> = (0..40).map(|n| n * 613 % 1393).collect();
    udp_datagrams(client, server, (inner.client4(), inner.server4()), &sizes);

    let packets = wire.stop();
    assert!(packets.len() > 4 * 1024 * 1024 / 1420, "{}", packets.len());
    assert!(only_the_first_has_cwr(&packets) > 0);
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
    assert!(text.contains("IP6") && text.contains("IP ("));
    let flags = text.split("Flags [").skip(1);
    let flags: BTreeSet<&str> = flags.filter_map(|rest| rest.split(']').next()).collect();
    assert!(flags.is_superset(&[".", "P.", "P.U"].into()), "{flags:?}");
    // E and W in a SYN ask for ECN.
    for flag in ['E', 'W'] {
        let has = |flags: &&str| flags.contains(flag) && !flags.contains('S');
        assert!(flags.iter().any(has), "no {flag}: {flags:?}");
    }
}
