//! The ground the other tests stand on: hosts, cables, routers, NAT.

use std::net::IpAddr;

use support::host::Host;
use support::lab::{Lab, SERVER4, SERVER6};
use support::peer::Peer;
use support::traffic::{assert_pings, ping_works, tcp_both_ways};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn a_cable_carries_both_families() {
    let lab = Lab::direct();
    for address in [SERVER4, SERVER6] {
        assert_pings(lab.client(), ip(address), 3, &[]);
    }
    tcp_both_ways(lab.client(), &lab.server, ip(SERVER6), 1).join();
}

#[test]
#[ignore = "needs root"]
fn nat_hides_the_clients() {
    let lab = Lab::behind_nat(2);
    let server = Peer::bound(&lab.server, "[::]:7");
    for client in &lab.clients {
        assert!(ping_works(client, ip(SERVER4)) && ping_works(client, ip(SERVER6)));
        Peer::new(client).send_raw(b"x", (SERVER4, 7));
        let (content, source) = server.receive();
        assert_eq!((&content[..], source.ip()), (&b"x"[..], ip("198.51.100.2")));
    }
}

#[test]
#[ignore = "needs root"]
fn hosts_have_files_and_devices_of_their_own() {
    let (a, b) = (Host::new("a"), Host::new("b"));
    a.etc("hosts", "192.0.2.7 only-on-a\n");
    assert!(a.sh("getent hosts only-on-a").starts_with("192.0.2.7 "));
    assert!(!b.try_sh("getent hosts only-on-a"));
    a.sh("test -c /dev/net/tun && : >/dev/null && : >/dev/log");
    assert!(!b.try_sh("test -e /dev/log"));
    a.without_device("net/tun");
    assert!(!a.try_sh("test -e /dev/net/tun") && b.try_sh("test -c /dev/net/tun"));
}

#[test]
#[ignore = "needs root"]
fn a_host_goes_with_all_that_is_on_it() {
    let host = Host::new("short");
    let (name, directory) = (host.name().to_owned(), host.path(""));
    host.sh("sleep 1000 >/dev/null 2>&1 & sleep 1001 >/dev/null 2>&1 &");
    let pids = host.pids();
    assert_eq!(pids.len(), 2);
    drop(host);
    assert!(pids.into_iter().all(|pid| !support::proc::runs(pid)));
    assert!(!directory.exists());
    assert!(!std::path::Path::new("/run/netns").join(name).exists());
}

#[test]
#[ignore = "needs root"]
fn a_host_goes_when_the_test_panics() {
    let name = std::thread::spawn(|| {
        let host = Host::new("panic");
        std::panic::panic_any(host.name().to_owned());
    })
    .join()
    .unwrap_err();
    let name = name.downcast::<String>().unwrap();
    assert!(!std::path::Path::new("/run/netns").join(*name).exists());
}
