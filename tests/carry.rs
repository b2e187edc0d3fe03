//! What goes in at one end comes out at the other, unchanged: every family, protocol and size.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};

use support::config::{SERVER_ID, client_id};
use support::host::Host;
use support::lab::{Lab, SERVER4, SERVER6, TO, addresses};
use support::peer::{Forger, Peer, answer, datagram, ipv4_packet, keepalive};
use support::sniffer::{self, Sniffer};
use support::traffic::{assert_pings, ping, tcp_both_ways, udp, udp_datagrams, wait_ping};
use support::tunnel::{Client, Inner, Server, Tunnel, client_prog, server_prog};
use support::wait::{PATIENCE, wait_until};

/// IPv4 and IPv6 inside, in both directions.
fn both_families_inside(tunnel: &Tunnel) {
    let (server, client, inner) = (&tunnel.lab.server, tunnel.lab.client(), tunnel.client.inner);
    for (host, address) in [
        (client, inner.server4()),
        (client, inner.server6()),
        (server, inner.client4()),
        (server, inner.client6()),
    ] {
        assert_pings(host, address, 20, &[]);
    }
    for (from, to) in [
        (inner.client4(), inner.server4()),
        (inner.client6(), inner.server6()),
    ] {
        udp_datagrams(client, server, (from, to), &[0, 1, 100, 1000]);
        udp_datagrams(server, client, (to, from), &[0, 1, 100, 1000]);
    }
}

#[test]
#[ignore = "needs root"]
fn both_families_over_ipv4() {
    let tunnel = Tunnel::plain(Lab::direct());
    let sniffer = Sniffer::new(&tunnel.lab.server, "eth0");
    both_families_inside(&tunnel);
    sniffer.wait("an outer packet", |p| {
        p[0] >> 4 == 4 && sniffer::udp(p).is_some_and(|(_, to, _)| to == 5886)
    });
}

#[test]
#[ignore = "needs root"]
fn both_families_over_ipv6() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1)
        .to(SERVER6)
        .options(&["-k", "1"])
        .start();
    client.wait_up();
    let tunnel = Tunnel {
        client,
        server,
        lab,
    };
    let sniffer = Sniffer::new(&tunnel.lab.server, "eth0");
    both_families_inside(&tunnel);
    sniffer.wait("an outer packet", |p| {
        p[0] >> 4 == 6 && sniffer::udp(p).is_some_and(|(_, to, _)| to == 5886)
    });
    let admitted = tunnel.server.lines.wait("admitted from");
    assert!(admitted.contains("from [2001:db8::2]:"), "{admitted}");
}

#[test]
#[ignore = "needs root"]
fn link_local_addresses_work() {
    let lab = Lab::direct();
    let text = lab.server.ip("-6 -o address show dev eth0 scope link");
    let address = text
        .split_whitespace()
        .nth(3)
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    let _server = Server::new(&lab.server, [1]).start();
    let client = Client::new(lab.client(), 1)
        .to(&format!("{address}%eth0"))
        .options(&["-k", "1"])
        .start();
    client.wait_up();
    client.lines.wait("answers from");
}

#[test]
#[ignore = "needs root"]
fn packets_of_every_size_up_to_the_mtu() {
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    let sizes: Vec<usize> = (0..64).chain(1300..=1392).collect();
    let ends = (inner.client4(), inner.server4());
    udp_datagrams(client, server, ends, &sizes);
    udp_datagrams(server, client, (ends.1, ends.0), &sizes);
    // 1420 bytes in one piece.
    for (host, address, size) in [
        (client, inner.server4(), 1392),
        (server, inner.client4(), 1392),
        (client, inner.server6(), 1372),
        (server, inner.client6(), 1372),
    ] {
        let size_option = size.to_string();
        assert_pings(host, address, 5, &["-M", "do", "-s", &size_option]);
        let size_option = (size + 1).to_string();
        let larger = ping(
            host,
            address,
            1,
            &["-M", "do", "-s", &size_option, "-W", "0.2"],
        );
        assert_eq!(
            larger.received, 0,
            "{address}: the MTU is larger than it should be"
        );
    }
    // Larger ones pass in fragments, which the kernel makes inside.
    udp_datagrams(client, server, ends, &[1393, 8000, 60000]);
    let ends = (inner.client6(), inner.server6());
    udp_datagrams(server, client, (ends.1, ends.0), &[1373, 8000, 60000]);
}

#[test]
#[ignore = "needs root"]
fn the_mtu_is_set_before_prog_runs() {
    let lab = Lab::direct();
    let look = "cat /sys/class/net/$TUN_DEV_NAME/mtu >$0.mtu; echo $TUN_MTU >>$0.mtu";
    let prog = server_prog(&lab.server, "prog", look);
    let _server = Server::new(&lab.server, [1])
        .options(&["-m", "4000"])
        .start_with(&[prog]);
    let prog = client_prog(lab.client(), "prog", 1, look);
    let client = Client::new(lab.client(), 1)
        .options(&["-k", "1", "-m", "4000"])
        .start_with(&[prog]);
    client.wait_up();
    for host in [&lab.server, lab.client()] {
        wait_until(PATIENCE, "PROG's look at the MTU", || {
            host.read("prog.mtu") == "4000\n4000\n"
        });
    }
    // The outer packets are fragmented: their DF bit is clear.
    let inner = client.inner;
    udp_datagrams(
        &lab.server,
        lab.client(),
        (inner.server4(), inner.client4()),
        &[3972],
    );
    udp_datagrams(
        lab.client(),
        &lab.server,
        (inner.client4(), inner.server4()),
        &[3972],
    );
}

#[test]
#[ignore = "needs root"]
fn the_default_mtu_is_1420() {
    let tunnel = Tunnel::plain(Lab::direct());
    for host in [&tunnel.lab.server, tunnel.lab.client()] {
        let tun = host.ip("-o link show type tun");
        assert!(tun.contains(" mtu 1420 "), "{tun}");
        for flag in ["POINTOPOINT", "MULTICAST"] {
            assert!(tun.contains(flag), "{tun}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn multicast_passes() {
    let tunnel = Tunnel::plain(Lab::direct());
    let (server, client) = (&tunnel.lab.server, tunnel.lab.client());
    let inner = tunnel.client.inner;
    for (from, from_address, to, to_address) in [
        (client, inner.client4(), server, inner.server4()),
        (server, inner.server4(), client, inner.client4()),
    ] {
        // The groups of OSPF.
        multicast4(
            from,
            from_address,
            to,
            to_address,
            Ipv4Addr::new(224, 0, 0, 5),
        );
        multicast6(from, to, "ff02::5".parse().unwrap());
    }
}

fn multicast4(from: &Host, own: IpAddr, to: &Host, other: IpAddr, group: Ipv4Addr) {
    let receiver = udp(to, (Ipv4Addr::UNSPECIFIED, 0).into());
    let IpAddr::V4(interface) = other else {
        panic!("{other} is not IPv4")
    };
    receiver.join_multicast_v4(&group, &interface).unwrap();
    let tun = &from.tuns()[0];
    from.ip(&format!("route replace {group} dev {tun}"));
    let sender = udp(from, (own, 0).into());
    sender.send_to(b"hello", (group, port(&receiver))).unwrap();
    let mut buffer = [0; 64];
    let (len, source) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..len], source),
        (&b"hello"[..], sender.local_addr().unwrap())
    );
}

fn multicast6(from: &Host, to: &Host, group: Ipv6Addr) {
    let receiver = udp(to, (Ipv6Addr::UNSPECIFIED, 0).into());
    receiver.join_multicast_v6(&group, index(to)).unwrap();
    let sender = udp(from, (Ipv6Addr::UNSPECIFIED, 0).into());
    let target = SocketAddrV6::new(group, port(&receiver), 0, index(from));
    sender.send_to(b"hello", target).unwrap();
    let mut buffer = [0; 64];
    let (len, source) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..len], source.port()),
        (&b"hello"[..], port(&sender))
    );
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

/// The number of the host's tun device.
fn index(host: &Host) -> u32 {
    let text = host.ip("-o link show type tun");
    text.split(':').next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn every_protocol_passes_unchanged() {
    let tunnel = Tunnel::plain(Lab::direct());
    let end = |address: IpAddr| match address {
        IpAddr::V4(address) => SocketAddrV4::new(address, 0),
        IpAddr::V6(address) => panic!("{address} is not IPv4"),
    };
    let (own, other) = (
        end(tunnel.client.inner.client4()),
        end(tunnel.client.inner.server4()),
    );
    let sniffer = Sniffer::new(&tunnel.lab.server, &tunnel.lab.server.tuns()[0]);
    let forger = Forger::new(tunnel.lab.client());
    // GRE, ESP, OSPF, SCTP, and one that has no meaning yet.
    for protocol in [47, 50, 89, 132, 250] {
        let content: Vec<u8> = (0..200).map(|n| n ^ protocol).collect();
        let mut packet = ipv4_packet(own, other, protocol, &content);
        // TTL 1, as routing protocols have it: a tunnel is one link. The checksum follows.
        packet[8] = 1;
        packet[10] = packet[10].wrapping_add(63);
        forger.packet(&packet, other);
        let arrived = sniffer.wait("the packet", |p| p[0] >> 4 == 4 && p[9] == protocol);
        assert_eq!(arrived[8], 1, "TTL");
        assert_eq!(arrived[20..], content[..]);
    }
}

#[test]
#[ignore = "needs root"]
fn a_black_hole_for_icmp_does_not_stop_large_packets() {
    let lab = Lab::behind_nat(1);
    // A narrow path behind the router, which nobody is told of.
    lab.router().ip("link set wan mtu 1400");
    lab.server.ip("link set eth0 mtu 1400");
    lab.router()
        .filter("hole", "output", "icmp type destination-unreachable drop");
    let tunnel = Tunnel::plain(lab);
    let inner = tunnel.client.inner;
    let whole = ["-s", "1392", "-M", "do"];
    assert_pings(tunnel.lab.client(), inner.server4(), 10, &whole);
    tcp_both_ways(tunnel.lab.client(), &tunnel.lab.server, inner.server4(), 4).join();
}

#[test]
#[ignore = "needs root"]
fn a_wait_that_fails_has_a_line_and_is_tried_again() {
    let lab = Lab::direct();
    let inject = "inject=pselect6:error=ENOMEM:when=2..51";
    let under = [
        "strace",
        "-r",
        "-o",
        "trace",
        "-e",
        "trace=pselect6",
        "-e",
        inject,
    ];
    let server = Server::new(&lab.server, [1])
        .with(|launch| launch.under(&under))
        .start_with(&["/bin/true"]);
    let peer = Peer::new(lab.client());
    peer.knock(&client_id(1), TO, SERVER_ID);
    server.lines.wait("unable to wait for packets: ");
    peer.knock(&client_id(1), TO, SERVER_ID);
    server.lines.exactly("unable to wait for packets: ", 1);
    // Fifty times 10 ms, not as fast as it can.
    let trace = lab.server.read("trace");
    let pauses = trace
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    let failed = trace.matches("INJECTED").count();
    let time: f64 = pauses.sum();
    assert!(failed == 50 && time > 0.4, "{failed} in {time} s");
}

#[test]
#[ignore = "needs root"]
fn df_is_clear_on_outer_packets() {
    let tunnel = Tunnel::plain(Lab::direct());
    let sniffer = Sniffer::new(&tunnel.lab.server, "eth0");
    wait_ping(tunnel.lab.client(), tunnel.client.inner.server4());
    for (from, to) in [(None, Some(5886)), (Some(5886), None)] {
        let packet = sniffer.wait("an outer packet", |p| {
            p[0] >> 4 == 4
                && sniffer::udp(p).is_some_and(|(source, target, payload)| {
                    from.is_none_or(|port| source == port)
                        && to.is_none_or(|port| target == port)
                        && payload.len() > 13
                })
        });
        assert!(sniffer::may_fragment(&packet), "{:02x?}", &packet[..20]);
    }
}

#[test]
#[ignore = "needs root"]
fn the_wire_format_is_header_and_packet() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1]).start();
    let (peer, id, to) = (Peer::new(lab.client()), client_id(1), (SERVER4, 5886));
    peer.knock(&id, to, SERVER_ID);
    wait_until(PATIENCE, "the device to be up", || {
        lab.server.ip("-br link show type tun").contains("LOWER_UP")
    });
    // A keepalive is answered with the same counter, and with no byte more.
    peer.send(&id, &keepalive(0xdead_beef), to);
    let others = peer.expect(&datagram(SERVER_ID, &answer(0xdead_beef)));
    // What came before, if anything, are packets behind the server's header.
    for other in others {
        assert_eq!(other[..8], support::config::bytes(SERVER_ID));
        assert!([4, 6].contains(&(other[8] >> 4)), "{other:02x?}");
    }
    // A ping by hand: the answer comes with the header, as one packet.
    let [own, other] = [Inner(1).client4(), Inner(1).server4()].map(|address| match address {
        IpAddr::V4(address) => SocketAddrV4::new(address, 0),
        IpAddr::V6(_) => unreachable!(),
    });
    let echo = [&[8, 0, 0x12, 0x34, 0, 7, 0, 9][..], b"abcdefgh"].concat();
    let mut echo_request = ipv4_packet(own, other, 1, &echo);
    let sum = echo
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum::<u32>()
        - 0x1234;
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    echo_request[22..24].copy_from_slice(&sum.to_be_bytes());
    peer.send(&id, &echo_request, to);
    loop {
        let (reply, _) = peer.receive();
        assert_eq!(reply[..8], support::config::bytes(SERVER_ID));
        if reply[8] == 0x45 && reply[17] == 1 {
            assert_eq!(reply.len(), 8 + echo_request.len());
            assert_eq!(reply[28], 0, "an echo reply");
            assert_eq!(reply[32..], echo[4..]);
            break;
        }
    }
}

#[test]
#[ignore = "needs root"]
fn what_needs_no_answer_gets_none() {
    let lab = Lab::direct();
    let server = Server::new(&lab.server, [1]).start_with(&["/bin/true"]);
    let (peer, id, to) = (Peer::new(lab.client()), client_id(1), (SERVER4, 5886));
    peer.knock(&id, to, SERVER_ID);
    for payload in [
        &[][..],
        &[1],
        &[1, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0, 1],
        &[3, 0, 0, 0, 1],
        &[0],
        &[0xff; 100],
        &[0x45],
    ] {
        peer.send(&id, payload, to);
    }
    peer.send(&id, &keepalive(7), to);
    let others = peer.expect(&datagram(SERVER_ID, &answer(7)));
    assert!(others.is_empty(), "{others:02x?}");
    server.lines.exactly("admitted", 1);
}

#[test]
#[ignore = "needs root"]
fn outer_packets_carry_the_mark() {
    let lab = Lab::direct();
    for host in [&lab.server, lab.client()] {
        host.filter(
            "marks",
            "output",
            "udp dport 5886 meta mark 0x1234 accept
             udp sport 5886 meta mark 42 accept
             meta l4proto udp drop",
        );
    }
    // Packets without the mark are dropped, keepalives and answers too.
    let tunnel = Tunnel::up(lab, &["-M", "42"], &["-M", "0x1234"]);
    tunnel.client.lines.wait("answers from");
}

#[test]
#[ignore = "needs root"]
fn a_mark_keeps_the_tunnel_out_of_the_tunnel() {
    let lab = Lab::routed(1);
    let tunnel = Tunnel::up(lab, &[], &["-M", "7"]);
    let client = tunnel.lab.client();
    // Everything goes through the tunnel, but for what carries the mark.
    client.ip("route add default via 192.168.1.1 table 77");
    client.ip("rule add fwmark 7 lookup 77");
    let tun = &client.tuns()[0];
    client.ip(&format!("route replace default dev {tun}"));
    assert_pings(client, tunnel.client.inner.server4(), 10, &[]);
    tunnel.client.lines.exactly("routed into itself", 0);
}

#[test]
#[ignore = "needs root"]
fn bound_to_one_address_and_port() {
    for (bind, address, client_bind, seen) in [
        (SERVER4, SERVER4, "198.51.100.2", "198.51.100.2:4444"),
        ("::", SERVER6, "::", "[2001:db8::2]:4444"),
        ("0.0.0.0", SERVER4, "0.0.0.0", "198.51.100.2:4444"),
        (SERVER6, SERVER6, "2001:db8::2", "[2001:db8::2]:4444"),
    ] {
        let lab = Lab::direct();
        let server = Server::new(&lab.server, [1])
            .options(&["-b", bind, "-p", "5886"])
            .start();
        let client = Client::new(lab.client(), 1)
            .to(address)
            .options(&["-k", "1", "-b", client_bind, "-p", "4444"])
            .start();
        client.wait_up();
        let line = server.lines.wait("admitted from");
        assert!(line.contains(&format!("from {seen} as ")), "{line}");
    }
}

#[test]
#[ignore = "needs root"]
fn an_address_to_bind_to_need_not_be_there_yet() {
    let lab = Lab::direct();
    let _server = Server::new(&lab.server, [1])
        .options(&["-b", "198.51.100.77"])
        .start();
    let client = Client::new(lab.client(), 1)
        .to("198.51.100.77")
        .options(&["-k", "1", "-b", "198.51.100.78"])
        .start();
    addresses(&lab.server, "eth0", &["198.51.100.77/24"]);
    addresses(lab.client(), "eth0", &["198.51.100.78/24"]);
    client.wait_up();
}

#[test]
#[ignore = "needs root"]
fn a_kernel_without_ipv6_still_has_a_tunnel() {
    let lab = Lab::direct();
    for host in [&lab.server, lab.client()] {
        for kind in ["all", "default"] {
            host.sysctl(&format!("net/ipv6/conf/{kind}/disable_ipv6"), "1");
        }
    }
    // The first socket is the dual-stack one.
    let under = ["strace", "-o", "/dev/null", "-e", "trace=socket"];
    let under = [
        &under[..],
        &["-e", "inject=socket:error=EAFNOSUPPORT:when=1"],
    ]
    .concat();
    let inner_up =
        "ip address add 10.0.1.1 peer 10.0.1.2 dev $TUN_DEV_NAME; ip link set $TUN_DEV_NAME up";
    let prog = lab.server.script("up", inner_up);
    let server = Server::new(&lab.server, [1]).with(|launch| launch.under(&under));
    let server = server.start_with(&[prog]);
    server.lines.wait("listening on 0.0.0.0:5886");
    let prog = lab.client().script(
        "up",
        &inner_up.replace("10.0.1.1 peer 10.0.1.2", "10.0.1.2 peer 10.0.1.1"),
    );
    // The name has an address that this client can't use.
    let names = format!("{SERVER6} tunnel.example\n{SERVER4} tunnel.example\n");
    lab.client().etc("hosts", &names);
    let client = Client::new(lab.client(), 1)
        .to("tunnel.example")
        .with(|launch| launch.under(&under))
        .options(&["-k", "1"])
        .start_with(&[prog]);
    client.wait_up();
    tcp_both_ways(lab.client(), &lab.server, client.inner.server4(), 1).join();
}

#[test]
#[ignore = "needs root"]
fn hosts_with_addresses_of_one_family() {
    // Server, two clients, and who of them has no IPv4, no IPv6.
    for (without4, without6) in [(&[1][..], &[2][..]), (&[0], &[]), (&[], &[0])] {
        let lab = Lab::routed(2);
        let hosts = [&lab.server, &lab.clients[0], &lab.clients[1]];
        for &n in without4 {
            hosts[n].ip("-4 address flush dev eth0");
        }
        for &n in without6 {
            hosts[n].sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
        }
        let _server = Server::new(&lab.server, [1, 2]).start();
        let names = format!("{SERVER4} tunnel.example\n{SERVER6} tunnel.example\n");
        for (number, host) in (1..).zip(&lab.clients) {
            host.etc("hosts", &names);
            let client = Client::new(host, number).to("tunnel.example");
            let client = client.options(&["-k", "1"]).start();
            client.wait_up();
            let inner = client.inner;
            let transfers = [
                tcp_both_ways(host, &lab.server, inner.server4(), 1),
                tcp_both_ways(&lab.server, host, inner.client6(), 1),
            ];
            transfers.into_iter().for_each(|transfer| transfer.join());
        }
    }
}

#[test]
#[ignore = "needs root"]
fn two_hosts_in_both_parts() {
    // Each host is a server to the other: two tunnels, two directories of peers.
    let lab = Lab::direct();
    let (a, b) = (&lab.server, lab.client());
    let _server_a = Server::new(a, [1]).start();
    let client_b = Client::new(b, 1).options(&["-k", "1"]).start();
    let _server_b = Server::new(b, [2]).start();
    let client_a = Client::new(a, 2)
        .to("198.51.100.2")
        .options(&["-k", "1"])
        .start();
    client_a.wait_up();
    client_b.wait_up();
    assert_eq!((a.tuns().len(), b.tuns().len()), (2, 2));
}
