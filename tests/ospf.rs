//! Two servers, two clients with a tunnel to each, and BIRD with the configuration files of the
//! manual on all four: the routes are OSPF's.

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use support::heartbeat::Heartbeat;
use support::host::Host;
use support::lab::{Lab, SERVER4, addresses, cable};
use support::process::Process;
use support::traffic::{ping_works, tcp_both_ways};
use support::tree::example;
use support::tunnel::{Client, Server};
use support::wait::{PATIENCE, report_recovery, wait_until};

/// `dead count 4` with `hello 1`, and a second for the routes to be computed anew.
const DEAD_INTERVAL: Duration = Duration::from_secs(4);

const SERVERS: [(&str, &str); 2] = [(SERVER4, "10.99.255.1"), ("203.0.113.1", "10.99.255.2")];
/// Identifier, own address and the number of the network of each client; the first two are those
/// of the examples.
const CLIENTS: [(&str, &str, usize); 2] = [
    ("1f3a5c7e9b2d4f60", "10.99.255.11", 11),
    ("8c0e2a4c6e80a2c4", "10.99.255.12", 12),
];

/// The clients' devices, to the first and the second server.
const DEVICES: [&str; 2] = ["jt-first", "jt-second"];

/// A router that runs BIRD. What it knows goes with it.
struct Router {
    host: Host,
    _bird: Process,
}

impl Router {
    fn new(host: &Host, own: &str, config: &str) -> Self {
        host.ip(&format!("address add {own}/32 dev lo"));
        host.sysctl("net/ipv4/ip_forward", "1");
        // A way out and another way back are what OSPF is for.
        for kind in ["all", "default"] {
            host.sysctl(&format!("net/ipv4/conf/{kind}/rp_filter"), "0");
        }
        let file = host.path("bird.conf");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("bird");
        command.args(["-f", "-c"]).arg(&file);
        command.arg("-s").arg(host.path("bird.ctl"));
        Self {
            host: host.clone(),
            _bird: Process::spawn(host, command),
        }
    }

    fn neighbours(&self) -> usize {
        let control = self.host.path("bird.ctl");
        let command = format!("birdc -s {} show ospf neighbors", control.display());
        match self.host.try_sh(&format!("{command} >neighbours")) {
            true => self.host.read("neighbours").matches("Full/PtP").count(),
            false => 0,
        }
    }

    /// The device by which packets to an address leave.
    fn way(&self, to: IpAddr) -> String {
        match self.host.try_sh(&format!("ip route get {to} >way")) {
            true => {
                let text = self.host.read("way");
                let mut words = text.split_whitespace().skip_while(|word| *word != "dev");
                words.nth(1).unwrap_or_default().to_owned()
            }
            false => String::new(),
        }
    }
}

/// The internet, the servers and clients on it, and a host behind each client.
struct Net {
    servers: Vec<Server>,
    backbone: Vec<Router>,
    routers: Vec<Router>,
    lans: Vec<Host>,
    _clients: Vec<Client>,
    _lab: Lab,
}

/// A host behind a client.
fn address(network: usize, host: usize) -> IpAddr {
    format!("10.{network}.0.{host}").parse().unwrap()
}

impl Net {
    fn up() -> Self {
        let lab = Lab::routed(2);
        let second = Host::new("server");
        cable(&second, "eth0", lab.router(), "wan2");
        addresses(&second, "eth0", &["203.0.113.1/24"]);
        addresses(lab.router(), "wan2", &["203.0.113.2/24"]);
        second.ip("route add default via 203.0.113.2");
        lab.nat("masquerade");

        let hosts = [lab.server.clone(), second];
        let server_config = fs::read_to_string(example("bird-server.conf")).unwrap();
        let (mut servers, mut backbone) = (Vec::new(), Vec::new());
        for (host, (_, own)) in hosts.iter().zip(SERVERS) {
            backbone.push(Router::new(host, own, &server_config));
            let server = Server::new(host, []);
            for (id, ..) in CLIENTS {
                server.config.authorise(id);
            }
            let prog = example("ospf-server-up");
            servers.push(server.start_with(&[prog.as_os_str(), own.as_ref()]));
        }

        let client_config = fs::read_to_string(example("bird-client.conf")).unwrap();
        let (mut clients, mut routers, mut lans) = (Vec::new(), Vec::new(), Vec::new());
        for (host, (id, own, network)) in lab.clients.iter().zip(CLIENTS) {
            let lan = Host::new("lan");
            cable(host, "lan0", &lan, "eth0");
            addresses(host, "lan0", &[&format!("{}/24", address(network, 1))]);
            addresses(&lan, "eth0", &[&format!("{}/24", address(network, 2))]);
            lan.ip(&format!("route add default via {}", address(network, 1)));
            lans.push(lan);
            for (number, (outer, far)) in (1..).zip(SERVERS) {
                let (prog, name) = (example("ospf-client-up"), DEVICES[usize::from(number) - 1]);
                let words = [prog.as_os_str(), name.as_ref(), own.as_ref(), far.as_ref()];
                let client = Client::new(host, number).to(outer).options(&["-i", id]);
                clients.push(client.options(&["-k", "1"]).start_with(&words));
            }
            let config = client_config.replace("area 11", &format!("area {network}"));
            routers.push(Router::new(host, own, &config));
        }
        let net = Self {
            servers,
            backbone,
            routers,
            lans,
            _clients: clients,
            _lab: lab,
        };
        net.wait_for(2);
        net
    }

    /// Waits until every client has this number of neighbours, and the network behind the other
    /// client is reached by the first server that is up.
    #[track_caller]
    fn wait_for(&self, servers: usize) {
        for router in &self.routers {
            wait_until(PATIENCE, "neighbours", || router.neighbours() == servers);
        }
        self.wait_way(DEVICES[2 - servers]);
    }

    /// Waits until both clients send to each other by this device.
    #[track_caller]
    fn wait_way(&self, device: &str) {
        for (router, other) in self.routers.iter().zip([1, 0]) {
            let to = address(CLIENTS[other].2, 2);
            wait_until(PATIENCE, device, || router.way(to) == device);
        }
    }

    /// Waits until beats and answers go by the first server, and nothing by the second.
    #[track_caller]
    fn wait_first(&self, beat: &Heartbeat) {
        wait_until(PATIENCE, "the way by the first server", || {
            let before = [0, 1].map(|server| self.forwarded(server));
            beat.wait_beats(50);
            // Some were on their way before.
            self.forwarded(0) >= before[0] + 80 && self.forwarded(1) == before[1]
        });
    }

    /// Packets between the clients' networks that a server has forwarded.
    fn forwarded(&self, server: usize) -> u64 {
        let text = self.backbone[server].host.sh("cat /proc/net/snmp");
        let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
        let fields = lines.next().unwrap().split_whitespace();
        let values = lines.next().unwrap().split_whitespace();
        let mut pairs = fields.zip(values);
        let (_, value) = pairs.find(|(field, _)| *field == "ForwDatagrams").unwrap();
        value.parse().unwrap()
    }
}

#[test]
#[ignore = "needs root"]
fn a_server_is_killed_and_comes_back() {
    let mut net = Net::up();
    let (near, far) = (net.lans[0].clone(), net.lans[1].clone());
    let to = address(CLIENTS[1].2, 2);
    wait_until(PATIENCE, "a ping between the networks", || {
        ping_works(&near, to)
    });
    tcp_both_ways(&near, &far, to, 4).join();
    // The servers know the networks of all clients, and each other's address by a client.
    for (n, router) in net.backbone.iter().enumerate() {
        let way = |to| Some(router.way(to)).filter(|device| device.starts_with("tun"));
        wait_until(PATIENCE, "both clients", || router.neighbours() == 2);
        for (_, own, network) in CLIENTS {
            wait_until(PATIENCE, "one way to a client and its network", || {
                let device = way(own.parse().unwrap());
                device.is_some() && way(address(network, 2)) == device
            });
        }
        let other = SERVERS[1 - n].1.parse().unwrap();
        wait_until(PATIENCE, "the other server", || way(other).is_some());
    }

    let beat = Heartbeat::start(&near, &far, to);
    net.wait_first(&beat);
    let second = net.forwarded(1);

    let killed = Instant::now();
    net.servers[0].process().kill();
    let time = beat.recovery(Instant::now());
    report_recovery("OSPF, a server killed", killed.elapsed());
    assert!(time <= DEAD_INTERVAL + Duration::from_secs(1), "{time:?}");
    net.wait_for(1);
    assert!(net.forwarded(1) > second);

    net.servers[0].restart();
    net.wait_for(2);
    net.wait_first(&beat);
    let lost = beat.tally().lost;
    let limit = 100 * usize::try_from(DEAD_INTERVAL.as_secs() + 2).unwrap();
    assert!(lost <= limit, "{lost} beats lost in all");
    for server in &net.servers {
        server.lines.assert_discreet();
    }
}
