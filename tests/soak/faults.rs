//! What may befall a tunnel: each fault does something bad, for a while, and undoes it.

use nix::sys::signal::{Signal, kill};
use support::config::client_id;
use support::flood::Flood;
use support::lab::SERVER4;
use support::proc;

use crate::site::Site;

type Fault = (&'static str, fn(&mut Site));

pub(crate) const FAULTS: [Fault; 23] = [
    // The path.
    ("nothing is forwarded", |site| {
        site.lab.router().filter("cut", "forward", "drop");
        site.a_while();
        site.lab.router().nft("delete table inet cut");
    }),
    ("30 % are lost", |site| {
        let loss = "numgen random mod 100 < 30 drop";
        site.lab.router().filter("loss", "forward", loss);
        site.a_while();
        site.lab.router().nft("delete table inet loss");
    }),
    ("doubled and late datagrams", |site| {
        let router = site.lab.router().clone();
        for device in DEVICES {
            // Late is what must wait in the slow class.
            router.sh(&format!(
                "tc qdisc add dev {device} root handle 1: htb default 1
                 tc class add dev {device} parent 1: classid 1:1 htb rate 10gbit quantum 60000
                 tc class add dev {device} parent 1: classid 1:2 htb rate 20mbit quantum 1500"
            ));
            router.nft(&format!(
                "table netdev twice {{
                     chain {device} {{
                         type filter hook egress device {device} priority 0
                         meta l4proto udp numgen random mod 100 < 10 dup to {device}
                     }}
                 }}"
            ));
        }
        let late = "numgen random mod 100 < 5 meta priority set \"1:2\"";
        router.filter("late", "forward", late);
        site.a_while();
        router.nft("delete table inet late\ndelete table netdev twice");
        for device in DEVICES {
            router.sh(&format!("tc qdisc del dev {device} root"));
        }
    }),
    ("a narrow path that nobody is told of", |site| {
        let (router, server) = (site.lab.router().clone(), site.lab.server.clone());
        let silent = "icmp type destination-unreachable drop";
        router.filter("hole", "output", silent);
        for mtu in [1300, 1500] {
            router.ip(&format!("link set wan mtu {mtu}"));
            server.ip(&format!("link set eth0 mtu {mtu}"));
            site.a_while();
        }
        router.nft("delete table inet hole");
    }),
    ("another NAT address", |site| {
        let number = 2 + site.dice(3);
        site.lab.nat(&format!("snat to 198.51.100.{number}"));
        site.lab.forget_mappings();
    }),
    ("another NAT address, old mappings kept", |site| {
        let number = 2 + site.dice(3);
        site.lab.nat(&format!("snat to 198.51.100.{number}"));
    }),
    ("mappings that are forgotten after a second", |site| {
        let router = site.lab.router().clone();
        for (limit, limit_stream) in [("1", "1"), ("30", "120")] {
            router.sysctl("net/netfilter/nf_conntrack_udp_timeout", limit);
            router.sysctl(
                "net/netfilter/nf_conntrack_udp_timeout_stream",
                limit_stream,
            );
            router.filter("cut", "forward", "drop");
            site.a_while();
            router.nft("delete table inet cut");
        }
    }),
    ("a flood of junk", |site| {
        let to = (SERVER4.parse().unwrap(), 5886);
        let flood = Flood::start(&site.lab.clients[1], to, 0, 1400);
        site.a_while();
        flood.stop();
    }),
    // The hosts.
    ("another client address", |site| {
        let n = site.a_client();
        let (client, net) = (site.lab.clients[n].clone(), n + 1);
        client.ip(&format!("address add 192.168.{net}.9/24 dev eth0"));
        client.ip(&format!("address del 192.168.{net}.2/24 dev eth0"));
        site.a_while();
        client.ip(&format!("address add 192.168.{net}.2/24 dev eth0"));
        client.ip(&format!("address del 192.168.{net}.9/24 dev eth0"));
    }),
    ("interface down and up", |site| {
        let n = site.a_client();
        let (client, gate) = (site.lab.clients[n].clone(), n + 1);
        client.ip("link set eth0 down");
        site.a_while();
        client.ip("link set eth0 up");
        client.ip(&format!("route replace default via 192.168.{gate}.1"));
    }),
    ("another uplink", |site| {
        let n = site.a_client();
        let (client, gate) = (site.lab.clients[n].clone(), n + 1);
        client.ip(&format!("route replace default via 192.168.10{n}.1"));
        site.a_while();
        client.ip(&format!("route replace default via 192.168.{gate}.1"));
    }),
    ("a firewall that rejects what is sent", |site| {
        let host = site.a_host();
        host.filter("reload", "output", "udp dport != 53 drop");
        site.a_while();
        host.nft("delete table inet reload");
    }),
    ("tun deleted", |site| {
        if let Some((host, tun)) = site.a_tun() {
            host.try_ip(&format!("link del {tun}"));
        }
    }),
    ("tun down and up", |site| {
        if let Some((host, tun)) = site.a_tun() {
            host.try_ip(&format!("link set {tun} down"));
            site.a_while();
            host.try_ip(&format!("link set {tun} up"));
        }
    }),
    ("tun renamed", |site| {
        if let Some((host, tun)) = site.a_tun() {
            let name = site.a_new_name();
            host.try_ip(&format!("link set {tun} name {name}"));
        }
    }),
    ("syslogd hangs, stops, and is started", |site| {
        site.hang_logger(|site| {
            for _ in 0..12 {
                // Each answers with a line or more, and ten fill the queue.
                site.server.signal(Signal::SIGUSR1);
                for client in &site.clients {
                    client.signal(Signal::SIGUSR1);
                }
                site.wait_up("a line for syslogd");
            }
        });
    }),
    ("the clock is set", |site| {
        let year = 1971 + site.dice(60);
        site.set_clock(&format!("{year}-01-01 00:00:00"));
    }),
    // The programs.
    ("sender killed", |site| {
        let n = site.a_client();
        for child in proc::twins(site.clients[n].pid()) {
            let _ = kill(child, Signal::SIGKILL);
        }
    }),
    ("process stopped for a while", |site| {
        let pid = site.a_process();
        let _ = kill(pid, Signal::SIGSTOP);
        site.a_while();
        let _ = kill(pid, Signal::SIGCONT);
    }),
    ("server restarted", |site| {
        site.assert_end_sound(0);
        site.server.process().stop();
        site.a_while();
        site.server.restart();
    }),
    ("server killed and started", |site| {
        site.assert_end_sound(0);
        site.server.process().kill();
        site.server.restart();
    }),
    ("client restarted", |site| {
        let n = site.a_client();
        site.assert_end_sound(1 + n);
        site.clients[n].process().stop();
        site.clients[n].restart();
    }),
    ("client forgotten and authorised again", |site| {
        let victim = client_id(1);
        site.server.config.revoke(&victim);
        site.server.signal(Signal::SIGHUP);
        site.a_while();
        site.server.config.authorise(&victim);
    }),
];

/// The router's devices on the usual way.
const DEVICES: [&str; 3] = ["wan", "lan0", "lan1"];
