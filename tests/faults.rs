//! What a path, a name server, a clock or a scheduler may do to a tunnel under traffic.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::clock::SETTABLE;
use support::heartbeat::Heartbeat;
use support::host::Host;
use support::lab::{Lab, SERVER4, SERVER6, addresses, cable};
use support::launch::Launch;
use support::name_server::NameServer;
use support::proc;
use support::relay::{Mischief, Relay};
use support::traffic::{assert_pings, ping, tcp_blocks_both_ways, tcp_both_ways};
use support::tunnel::{Client, Server, Tunnel, client_prog, server_prog};
use support::wait::{PATIENCE, SLACK, report_recovery, wait_until};

/// A client whose path to the server does mischief.
fn by_relay(mischief: Mischief) -> (Lab, Server, Client, Relay) {
    let lab = Lab::routed(1);
    let near = "192.168.1.1";
    let relay = Relay::start(
        lab.router(),
        &format!("{near}:5886"),
        &format!("{SERVER4}:5886"),
        mischief,
    );
    let server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1)
        .to(near)
        .options(&["-k", "1"])
        .start();
    client.wait_up();
    (lab, server, client, relay)
}

#[test]
#[ignore = "needs root"]
fn lost_doubled_and_late_datagrams() {
    let mischief = Mischief {
        lost: 2,
        doubled: 10,
        late: 10,
    };
    let (lab, _server, client, _relay) = by_relay(mischief);
    let inner = client.inner;
    let transfers = [
        tcp_both_ways(lab.client(), &lab.server, inner.server4(), 1),
        tcp_both_ways(&lab.server, lab.client(), inner.client6(), 1),
    ];
    transfers.into_iter().for_each(|transfer| transfer.join());
    client.lines.exactly("no answer", 0);
}

#[test]
#[ignore = "needs root"]
fn a_third_of_all_datagrams_is_lost() {
    let mischief = Mischief {
        lost: 30,
        doubled: 0,
        late: 0,
    };
    let (lab, server, client, _relay) = by_relay(mischief);
    // 0.7 times 0.7, and no more lost than the path loses.
    let result = ping(lab.client(), client.inner.server4(), 400, &[]);
    assert!((140..=260).contains(&result.received), "{result:?}");
    // A stream gets through, sooner if the kernel can be told not to wait for long (6.15).
    for host in [&lab.server, lab.client()] {
        host.try_sh("echo 10000 >/proc/sys/net/ipv4/tcp_rto_min_us");
        host.try_sh("echo 1000 >/proc/sys/net/ipv4/tcp_rto_max_ms");
        host.sysctl("net/ipv4/tcp_syn_retries", "30");
        // What a closed socket still has to send is given up after 8 tries: once in 200 times.
        host.sysctl("net/ipv4/tcp_orphan_retries", "100");
        host.sysctl("net/ipv4/tcp_retries2", "100");
    }
    let (from, to) = (lab.client(), &lab.server);
    tcp_blocks_both_ways(from, to, client.inner.server4(), 1).join();
    // Three answers in a row may be lost by chance; the tunnel is the same after that.
    assert_eq!(server.lines.count(" admitted "), 1);
    assert_eq!(lab.client().tuns().len(), 1);
}

#[test]
#[ignore = "needs root"]
fn a_name_server_that_is_absent_then_lies_then_is_right() {
    let lab = Lab::direct();
    let host = lab.client();
    host.etc("nsswitch.conf", "hosts: dns\n");
    host.etc(
        "resolv.conf",
        "nameserver 198.51.100.1\noptions timeout:1 attempts:1\n",
    );
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(host, 1)
        .to("tunnel.example")
        .options(&["-k", "1"])
        .start();
    client.lines.wait("unable to resolve tunnel.example");
    let name_server = NameServer::start(&lab.server, Ipv4Addr::new(198, 51, 100, 77));
    client.lines.wait("sending to 198.51.100.77:5886");
    client.lines.wait("no answer");
    name_server.say(SERVER4.parse().unwrap());
    let since = Instant::now();
    client.wait_up();
    let time = since.elapsed();
    report_recovery("the name server is right", time);
    client.lines.exactly("sending to 198.51.100.1:5886", 1);
    // Gone again, and nobody needs it any more.
    drop(name_server);
    let beat = Heartbeat::start(host, &lab.server, client.inner.server4());
    beat.wait_beats(300);
    assert_eq!(beat.tally().lost, 0);
}

#[test]
#[ignore = "needs root"]
fn a_narrow_path_of_ipv6_needs_an_mtu() {
    let lab = Lab::routed(1);
    lab.router().ip("link set wan mtu 1400");
    lab.server.ip("link set eth0 mtu 1400");
    // Nobody is told.
    lab.router().filter(
        "hole",
        "output",
        "icmpv6 type packet-too-big drop; icmp type destination-unreachable drop",
    );
    let mtu = ["-m", "1320"];
    let _server = Server::new(&lab.server, [1]).options(&mtu).start();
    let client = Client::new(lab.client(), 1)
        .to(SERVER6)
        .options(&["-k", "1"])
        .options(&mtu)
        .start();
    client.wait_up();
    let inner = client.inner;
    let large = ["-s", "1292", "-M", "do"];
    assert_pings(lab.client(), inner.server4(), 10, &large);
    let transfers = [
        tcp_both_ways(lab.client(), &lab.server, inner.server4(), 4),
        tcp_both_ways(&lab.server, lab.client(), inner.client6(), 4),
    ];
    transfers.into_iter().for_each(|transfer| transfer.join());
}

#[test]
#[ignore = "needs root"]
fn a_firewall_that_rejects_for_five_seconds() {
    let tunnel = Tunnel::plain(Lab::behind_nat(1));
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let (inner, before) = (tunnel.client.inner, proc::twins(tunnel.client.pid()));
    let beat = Heartbeat::start(client, server, inner.server4());
    beat.wait_beats(20);
    for host in [server, client] {
        host.filter("reload", "output", "meta l4proto udp drop");
    }
    let since = Instant::now();
    beat.wait_silence(since);
    std::thread::sleep(Duration::from_secs(5).saturating_sub(since.elapsed()));
    for host in [server, client] {
        host.nft("delete table inet reload");
    }
    let time = beat.recovery(Instant::now());
    report_recovery("EPERM for 5 s", time);
    assert!(time < SLACK, "{time:?}");
    // Neither has been started anew, and each has said it once.
    assert_eq!(proc::twins(tunnel.client.pid()), before);
    tunnel.server.lines.exactly("admitted", 1);
    for (lines, least) in [(&tunnel.server.lines, 0), (&tunnel.client.lines, 1)] {
        let told = lines.count("unable to send");
        assert!((least..=2).contains(&told), "{:?}", lines.all());
    }
}

#[test]
#[ignore = "needs root"]
fn a_server_with_an_address_on_each_of_two_links() {
    let lab = Lab::routed(2);
    cable(&lab.server, "eth1", lab.router(), "wan2");
    addresses(&lab.server, "eth1", &["203.0.113.1/24"]);
    addresses(lab.router(), "wan2", &["203.0.113.2/24"]);
    let _server = Server::new(&lab.server, [1, 2]).start();
    // The way back to both clients is by the first link; the second address is spoken to all the
    // same, and the answer is to come from there.
    for (number, address) in [(1, SERVER4), (2, "203.0.113.1")] {
        let host = &lab.clients[usize::from(number) - 1];
        let client = Client::new(host, number).to(address).options(&["-k", "1"]);
        let client = client.start();
        client.wait_up();
        client.lines.wait(&format!("answers from {address}:5886"));
        tcp_both_ways(&lab.server, host, client.inner.client4(), 1).join();
        if number == 2 {
            // And if the first link goes, by the second.
            lab.server.ip("link set eth0 down");
            lab.server.ip("route replace default via 203.0.113.2");
            let beat = Heartbeat::start(host, &lab.server, client.inner.server4());
            let time = beat.recovery(Instant::now());
            assert!(time < SLACK, "{time:?}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn processes_stopped_for_ten_seconds() {
    const STOP: Duration = Duration::from_secs(10);
    let tunnels = [0; 3].map(|_| Tunnel::plain(Lab::behind_nat(1)));
    let victims = [
        tunnels[0].server.pid(),
        tunnels[1].client.pid(),
        proc::twins(tunnels[2].client.pid())[0],
    ];
    let beats = tunnels.each_ref().map(|tunnel| {
        let (client, inner) = (tunnel.lab.client(), tunnel.client.inner);
        let beat = Heartbeat::start(client, &tunnel.lab.server, inner.server4());
        beat.wait_beats(20);
        beat
    });
    let signal = |signal| victims.map(|pid: Pid| kill(pid, signal).unwrap());
    signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    for beat in &beats {
        beat.wait_silence(stopped);
    }
    std::thread::sleep(STOP.saturating_sub(stopped.elapsed()));
    signal(Signal::SIGCONT);
    let since = Instant::now();
    for (beat, name) in beats.iter().zip(["server", "client", "client's child"]) {
        let time = beat.recovery(since);
        report_recovery(format_args!("{name} stopped for 10 s"), time);
        assert!(time < SLACK, "{name}: {time:?}");
    }
    for tunnel in &tunnels {
        assert!(tunnel.server.lines.all().len() < 12);
        assert!(tunnel.client.lines.all().len() < 12);
        tunnel.client.lines.exactly("starting it again", 0);
    }
}

#[test]
#[ignore = "needs root"]
fn the_clock_is_set_back_and_forward() {
    let lab = Lab::direct();
    let clock = lab.server.path("clock");
    let set = |date: &str| fs::write(&clock, date).unwrap();
    set("2001-02-03 04:05:06");
    let library = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
    let under = [&SETTABLE[..], &[&library]].concat();
    let year = |host: &Host| host.read("year").trim().to_owned();
    let note = "date +%Y >$TUN_DEV_NAME.year\nmv $TUN_DEV_NAME.year year";

    let server = Server::new(&lab.server, [1])
        .with(|launch| launch.under(&under))
        .start_with(&[server_prog(&lab.server, "up", note)]);
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "1"])
        .with(|launch| launch.under(&under))
        .start_with(&[client_prog(lab.client(), "up", 1, note)]);
    for host in [&lab.server, lab.client()] {
        wait_until(PATIENCE, "the year of PROG", || year(host) == "2001");
    }
    let beat = Heartbeat::start(lab.client(), &lab.server, client.inner.server4());
    beat.wait_beats(50);
    for date in [
        "2000-01-01 00:00:00",
        "2002-06-01 00:00:00",
        "1970-01-01 00:00:01",
    ] {
        set(date);
        // Keepalives go on, and no silence is seen that is none.
        beat.wait_beats(150);
    }
    assert_eq!(beat.tally().lost, 0, "{:?}", beat.tally());
    client.lines.exactly("no answer", 0);
    assert!(server.runs() && client.runs());
}

#[test]
#[ignore = "needs root"]
fn a_disk_that_is_full_at_the_first_start() {
    let host = Host::new("host");
    host.run(|| {
        let (tmpfs, flags) = (Some("tmpfs"), MsFlags::empty());
        mount(tmpfs, "/mnt", tmpfs, flags, Some("size=4k,mode=700")).unwrap();
        fs::write("/mnt/full", [0; 4096]).unwrap();
    });
    for program in ["jtunneld", "jtunnel-client"] {
        let launch = Launch::new(&host, program).options(["-d", "/mnt", "-I"]);
        let output = launch.output();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(111), "{said}");
        let object = format!("{program}: unable to write /mnt/id ");
        assert!(said.starts_with(&object) && said.contains("-i"), "{said}");
        assert!(said.ends_with(": No space left on device\n"), "{said}");
        // Nothing is left that would be taken for an identifier, and no beginning of one.
        let left = host.sh("ls -A /mnt | grep id || :");
        assert_eq!(left, "");
        host.run(|| fs::remove_file("/mnt/full").unwrap());
        let output = launch.output();
        assert!(output.status.success() && output.stdout.len() == 17);
        host.run(|| {
            fs::remove_file("/mnt/id").unwrap();
            fs::write("/mnt/full", [0; 4096]).unwrap();
        });
    }
}
