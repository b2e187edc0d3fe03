//! The PROG scripts of the manual, as they are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;

use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};
use support::host::Host;
use support::lab::{Lab, addresses, cable};
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
        let server = server.start_with(&[example("server-up")]);
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
            client
                .sh(&format!("ip route get {ELSEWHERE}"))
                .contains("dev tun")
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
fn tcp_is_kept_to_segments_that_fit() {
    let sites = Sites::up(&[], &["stay-and-clean", "client-default-route"]);
    // Nobody hears that a packet was too big.
    sites
        .lab
        .client()
        .filter("deaf", "output", "meta l4proto icmp drop");
    let address = ip("10.10.0.2");
    wait_until(PATIENCE, "the clamp", || {
        let clamp = "nft list table inet jtunnel_tun0 | grep -c maxseg";
        sites.lab.client().try_sh(clamp)
    });
    let listener = sites
        .office
        .run(move || TcpListener::bind((address, 0)).unwrap());
    let to = listener.local_addr().unwrap();
    let near = sites.workshop.run(move || TcpStream::connect(to).unwrap());
    let far = listener.accept().unwrap().0;
    // 1420 less 20 for IP, 20 for TCP, and 12 for time stamps.
    let sizes = [near, far].map(|end| getsockopt(&end, TcpMaxSeg).unwrap());
    assert_eq!(sizes, [1368; 2]);
    tcp_both_ways(&sites.workshop, &sites.office, address, 2).join();
}
