//! The PROG scripts of the manual, as they are.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;

use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};
use support::host::Host;
use support::lab::{Lab, addresses, cable};
use support::manual::block;
use support::proc;
use support::traffic::{tcp_both_ways, wait_ping};
use support::tree::example;
use support::tunnel::{Client, Server};
use support::wait::{PATIENCE, wait_until};

/// The first client of server-up.
const WORKSHOP: &str = "1f3a5c7e9b2d4f60";
/// Somewhere beyond the server.
const ELSEWHERE: &str = "203.0.113.7";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The two sites of the figure in jtunnel(7), with a host behind each end.
struct Sites {
    _server: Server,
    client: Client,
    office: Host,
    workshop: Host,
    /// The client's host before the client.
    before: String,
    lab: Lab,
}

impl Sites {
    fn up(options: &[&str], prog: &[&str]) -> Self {
        Self::under(&[], options, prog)
    }

    /// The same with both programs under another command, which changes what PROG finds.
    fn under(command: &[&str], options: &[&str], prog: &[&str]) -> Self {
        let lab = Lab::behind_nat(1);
        let lan = |router: &Host, network: &str| {
            let host = Host::new("lan");
            cable(router, "lan0", &host, "eth0");
            router.sysctl("net/ipv4/ip_forward", "1");
            addresses(router, "lan0", &[&format!("{network}.1/24")]);
            addresses(&host, "eth0", &[&format!("{network}.2/24")]);
            host.ip(&format!("route add default via {network}.1"));
            host
        };
        let office = lan(&lab.server, "10.10.0");
        let workshop = lan(lab.client(), "10.11.0");
        addresses(&lab.server, "lo", &[&format!("{ELSEWHERE}/32")]);

        let server = Server::new(&lab.server, []);
        server.config.authorise(WORKSHOP);
        let server = server.with(|launch| launch.under(command));
        // The rules of the manual that PROG may make as well.
        let rules = block("jtunnel.7", "Let only the right source addresses in");
        let up = example("server-up");
        let script = format!("set -e\n{}\n{rules}", up.display());
        let server = server.start_with(&[lab.server.script("server-up", &script)]);
        let client = Client::new(lab.client(), 1);
        let before = state(lab.client());
        let prog: Vec<PathBuf> = prog.iter().map(|name| example(name)).collect();
        let client = client
            .options(&["-k", "1", "-i", WORKSHOP])
            .options(options)
            .with(|launch| launch.under(command))
            .start_with(&prog);
        let sites = Self {
            _server: server,
            client,
            office,
            workshop,
            before,
            lab,
        };
        sites.wait_ping(&sites.workshop, "10.10.0.2");
        sites
    }

    fn wait_ping(&self, from: &Host, to: &str) {
        wait_ping(from, ip(to));
    }

    /// Everything goes through the tunnel, but for the datagrams that carry it.
    fn assert_default_route(&self, mark: &str) {
        let client = self.lab.client();
        wait_until(PATIENCE, "the default route", || {
            client.try_sh(&format!("ip route get {ELSEWHERE} | grep -q 'dev tun'"))
        });
        self.wait_ping(&self.workshop, ELSEWHERE);
        let outer = client.sh(&format!("ip route get 198.51.100.1 {mark}"));
        assert!(outer.contains("dev eth0"), "{outer}");
        tcp_both_ways(&self.workshop, &self.office, ip("10.10.0.2"), 2).join();
        self.client.lines.exactly("routed into itself", 0);
    }

    /// Ends the client, and expects nothing of it on its host but what was there before.
    #[track_caller]
    fn assert_clean_end(&mut self) {
        self.client.process().stop();
        assert_eq!(state(self.lab.client()), self.before);
    }
}

/// What PROG may leave behind.
fn state(host: &Host) -> String {
    host.sh("ip -o link show type tun; ip route; ip rule; ip -6 rule; nft list tables")
}

#[test]
#[ignore = "needs root"]
fn networks_behind_both_ends() {
    let mut sites = Sites::up(&[], &["client-up"]);
    sites.wait_ping(&sites.office, "10.11.0.2");
    tcp_both_ways(&sites.office, &sites.workshop, ip("10.11.0.2"), 2).join();
    wait_ping(sites.lab.client(), ip("fd00:99::1"));
    sites.assert_clean_end();
}

#[test]
#[ignore = "needs root"]
fn a_default_route_by_a_host_route() {
    let mut sites = Sites::up(&[], &["stay-and-clean", "client-default-route"]);
    sites.assert_default_route("");
    sites.assert_clean_end();
}

#[test]
#[ignore = "needs root"]
fn a_default_route_by_a_mark() {
    let programs = ["stay-and-clean", "client-policy-route"];
    let mut sites = Sites::up(&["-M", "5886"], &programs);
    sites.assert_default_route("mark 5886");
    // systemd-networkd leaves these alone.
    let rules = sites.lab.client().sh("ip -d rule; ip -d -6 rule");
    let own = rules.lines().filter(|line| line.starts_with("588"));
    assert_eq!(own.filter(|line| line.contains("proto kernel")).count(), 8);
    // Another way to the server changes nothing.
    let client = sites.lab.client();
    addresses(client, "eth0", &["192.168.1.3/24"]);
    client.ip("route replace default via 192.168.1.1 src 192.168.1.3");
    client.ip("address del 192.168.1.2/24 dev eth0");
    sites.wait_ping(&sites.workshop, ELSEWHERE);
    addresses(client, "eth0", &["192.168.1.2/24"]);
    client.ip("address del 192.168.1.3/24 dev eth0");
    // Its route has gone with it. The tunnel's own packets do not go into the tunnel then.
    client.ip("-6 route del default");
    assert!(!client.try_sh("ip route get 198.51.100.1 mark 5886"));
    assert!(!client.try_sh("ip route get 2001:db8::1 mark 5886"));
    client.ip("route replace default via 192.168.1.1");
    client.ip("route replace default via 2001:db8:1::1");
    sites.wait_ping(&sites.workshop, ELSEWHERE);
    sites.assert_clean_end();
}

#[test]
#[ignore = "needs root"]
fn the_ip_of_busybox_will_do() {
    let tools = Host::new("tools");
    tools.script("ip", "exec busybox ip \"$@\"");
    let path = std::env::var("PATH").unwrap();
    let path = format!("PATH={}:{path}", tools.path("").display());
    for (options, program, mark) in [
        (&[][..], "client-default-route", ""),
        (&["-M", "5886"], "client-policy-route", "mark 5886"),
    ] {
        let programs = ["stay-and-clean", program];
        let mut sites = Sites::under(&["env", &path], options, &programs);
        sites.assert_default_route(mark);
        sites.assert_clean_end();
    }
}

#[test]
#[ignore = "needs root"]
fn a_tunnel_without_ipv6_is_set_up_for_ipv4() {
    let forbid = "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; exec \"$@\"";
    let forbidden = ["sh", "-c", forbid, "sh"];
    for (command, options, program, mark) in [
        (&forbidden[..], &[][..], "client-default-route", ""),
        (
            &forbidden,
            &["-M", "5886"],
            "client-policy-route",
            "mark 5886",
        ),
        (&[], &["-m", "1200"], "client-default-route", ""),
        (
            &[],
            &["-m", "1200", "-M", "5886"],
            "client-policy-route",
            "mark 5886",
        ),
    ] {
        let mut sites = Sites::under(command, options, &["stay-and-clean", program]);
        sites.assert_default_route(mark);
        sites.client.lines.exactly("exited", 0);
        sites.assert_clean_end();
    }
}

#[test]
#[ignore = "needs root"]
fn a_default_route_that_fails_leaves_the_old_way() {
    let lab = Lab::behind_nat(1);
    let routes = example("client-default-route");
    let script = format!("{} || exit\nexit 3", routes.display());
    let prog = lab.client().script("fails", &script);
    let client = Client::new(lab.client(), 1).start_with(&[example("stay-and-clean"), prog]);
    client.lines.wait("exited with status 3");
    for address in ["198.51.100.1", ELSEWHERE] {
        let way = lab.client().sh(&format!("ip route get {address}"));
        assert!(way.contains("dev eth0"), "{way}");
    }
}

#[test]
#[ignore = "needs root"]
fn an_old_host_route_does_not_say_which_way_is_right() {
    let lab = Lab::behind_nat(1);
    let host = lab.client();
    let prog = [example("client-default-route")];
    let mut client = Client::new(host, 1).start_with(&prog);
    let way = || host.sh("ip route get 198.51.100.1");
    wait_until(PATIENCE, "a host route", || {
        host.sh("ip route").contains("metric 5886")
    });
    client.process().kill();
    // What it has left holds, and another gateway is the right one now.
    addresses(host, "eth0", &["192.168.1.3/24"]);
    host.ip("route replace default via 192.168.1.77");
    assert!(way().contains("via 192.168.1.1 "), "{}", way());
    client.restart();
    wait_until(PATIENCE, "the new way", || {
        host.sh("ip route")
            .contains("198.51.100.1 via 192.168.1.77 ")
    });
    // A route of somebody else's is not this one's to take away.
    client.process().kill();
    host.ip("route del 198.51.100.1 metric 5886");
    host.ip("route add 198.51.100.1 via 192.168.1.88");
    let prog = ["stay-and-clean", "client-default-route"].map(example);
    let mut client = Client::new(host, 1).start_with(&prog);
    wait_until(PATIENCE, "the halves", || {
        host.sh("ip route").contains("128.0.0.0/1 dev tun")
    });
    client.process().stop();
    assert!(way().contains("via 192.168.1.88 "), "{}", way());
}

#[test]
#[ignore = "needs root"]
fn what_a_killed_program_leaves_is_removed() {
    let programs = ["stay-and-clean", "client-policy-route"];
    let mut sites = Sites::up(&["-M", "5886"], &programs);
    sites.assert_default_route("mark 5886");
    let host = sites.lab.client().clone();
    let staying = || {
        let pids = host.pids().into_iter();
        pids.filter(|pid| proc::name(*pid) == "stay-and-clean")
            .collect::<Vec<_>>()
    };
    sites.client.process().kill();
    // The next one may be here before the former one's PROG has noticed.
    let former = staying();
    assert!(!former.is_empty());
    sites.client.restart();
    sites.assert_default_route("mark 5886");
    wait_until(PATIENCE, "the end of the former PROG", || {
        staying().iter().all(|pid| !former.contains(pid))
    });
    sites.assert_default_route("mark 5886");
    sites.client.process().kill();
    wait_until(PATIENCE, "a clean host", || state(&host) == sites.before);
    assert_eq!(staying(), []);
}

#[test]
#[ignore = "needs root"]
fn a_tunnel_of_another_name_is_cleaned_by_its_number() {
    let lab = Lab::behind_nat(1);
    let host = lab.client();
    let renames = format!(
        "{}\nip link set \"$TUN_DEV_NAME\" down name jt-first && ip link set jt-first up",
        example("clamp-mss").display()
    );
    let prog = [example("stay-and-clean"), host.script("renames", &renames)];
    let mut client = Client::new(host, 1).start_with(&prog);
    host.wait_tuns(1);
    wait_until(PATIENCE, "another name", || host.tuns() == ["jt-first"]);
    // Somebody else has the old name, and is called like an old table.
    host.ip("tuntap add tun0 mode tun");
    host.ip("link set tun0 up");
    host.nft("table inet jtunnel_tun0 {}");
    client.process().stop();
    assert_eq!(host.tuns(), ["tun0"]);
    assert!(host.ip("link show tun0").contains(",UP"));
    assert_eq!(host.sh("nft list tables").trim(), "table inet jtunnel_tun0");
    // A table whose device is gone goes when the next tunnel makes its own.
    let prog = [example("clamp-mss")];
    for _ in 0..2 {
        client = Client::new(host, 1).start_with(&prog);
        let number = || {
            let line = host.ip("-o link show dev tun1");
            line.split(':').next().unwrap().to_owned()
        };
        host.wait_tuns(2);
        let expected = format!("table inet jtunnel_tun0\ntable inet jtunnel_{}\n", number());
        wait_until(PATIENCE, "one table", || {
            host.sh("nft list tables") == expected
        });
        client.process().kill();
        host.wait_tuns(1);
    }
}

#[test]
#[ignore = "needs root"]
fn tcp_is_kept_to_segments_that_fit() {
    let sites = Sites::up(&[], &["stay-and-clean", "client-default-route"]);
    // Nobody hears that a packet was too big.
    sites
        .lab
        .client()
        .filter("deaf", "output", "meta l4proto icmp drop");
    let address = ip("10.10.0.2");
    wait_until(PATIENCE, "the clamp", || {
        let clamp = "nft list ruleset | grep -c maxseg";
        sites.lab.client().try_sh(clamp)
    });
    assert_clamped(&sites);
    tcp_both_ways(&sites.workshop, &sites.office, address, 2).join();
    // Rules that are loaded anew, as Debian does it, are not the end of it with the manual's lines.
    let client = sites.lab.client();
    client.nft("flush ruleset");
    assert_eq!(segments(&sites), [1448; 2]);
    let lines = block("jtunnel-client.8", "put this into that file instead");
    client.nft(&format!("flush ruleset\n{lines}"));
    assert_clamped(&sites);
}

/// The largest segments of a connection between the sites, by either end.
fn segments(sites: &Sites) -> [u32; 2] {
    let address = ip("10.10.0.2");
    let listener = sites
        .office
        .run(move || TcpListener::bind((address, 0)).unwrap());
    let to = listener.local_addr().unwrap();
    let near = sites.workshop.run(move || TcpStream::connect(to).unwrap());
    let far = listener.accept().unwrap().0;
    [near, far].map(|end| getsockopt(&end, TcpMaxSeg).unwrap())
}

#[track_caller]
fn assert_clamped(sites: &Sites) {
    // 1420 less 20 for IP, 20 for TCP, and 12 for time stamps.
    assert_eq!(segments(sites), [1368; 2]);
}

#[test]
#[ignore = "needs root"]
fn the_rules_for_a_firewall_of_debian() {
    let sites = Sites::up(&[], &["client-up"]);
    let (server, client) = (&sites.lab.server, sites.lab.client());
    let passes = |from: &Host, to: &str| from.try_sh(&format!("ping -c 1 -W 1 {to}"));
    for host in [server, client] {
        // Debian's, with a policy.
        host.nft(
            "table inet filter {
                chain input { type filter hook input priority filter; }
                chain forward { type filter hook forward priority filter; policy drop; }
                chain output { type filter hook output priority filter; }
            }",
        );
    }
    server.nft("add chain inet filter input { policy drop; }");
    assert!(!passes(&sites.workshop, "10.10.0.2"));
    assert!(!passes(client, "10.99.0.1"));
    server.sh(&block("jtunnel.7", "the second one for the ping below"));
    assert!(passes(client, "10.99.0.1"));
    assert!(!passes(&sites.workshop, "10.10.0.2"));
    for host in [server, client] {
        host.sh(&block("jtunnel.7", "where its chain"));
    }
    assert!(passes(&sites.workshop, "10.10.0.2"));
    assert!(passes(&sites.office, "10.11.0.2"));
}

#[test]
#[ignore = "needs root"]
fn only_the_right_source_addresses_come_in() {
    let sites = Sites::up(&[], &["client-up"]);
    let (server, client) = (&sites.lab.server, sites.lab.client());
    addresses(client, "lo", &["10.77.0.1/32", "fd00:77::1/128"]);
    let seen = |from: &str| {
        server.filter(
            "seen",
            "input",
            "ip saddr 10.77.0.1 counter\nip6 saddr fd00:77::1 counter",
        );
        client.try_sh(&format!("ping -c 1 -W 1 -I {from} 10.99.0.1"));
        client.try_sh("ping -c 1 -W 1 -I fd00:77::1 fd00:99::1");
        let counters = server.sh("nft list table inet seen");
        counters.matches("packets 1 ").count()
    };
    let from = "10.77.0.1";
    assert_eq!(seen(from), 0);
    wait_ping(client, ip("fd00:99::1"));
    server.nft("delete table inet jtunnel_from_tun0");
    assert_eq!(seen(from), 2);
}
