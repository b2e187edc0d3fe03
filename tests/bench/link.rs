//! The links that are compared.

use std::fs;
use std::net::IpAddr;
use std::process::Command;

use support::host::Host;
use support::lab::{Lab, SERVER4, addresses, cable};
use support::proc;
use support::process::Process;
use support::traffic::ping_works;
use support::tunnel::{Client, Server, client_prog, server_prog};
use support::wait::wait_until;

use crate::measure::End;
use crate::path::Path;

const CLIENT4: &str = "198.51.100.2";
/// Addresses of tunnels that are not ours.
const INNER: [&str; 2] = ["10.66.0.1", "10.66.0.2"];
/// Behind the client, and the client's and another host's addresses there.
const LAN: &str = "192.168.9.0/24";
const IN_LAN: [&str; 2] = ["192.168.9.1", "192.168.9.2"];
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);

/// A kind of link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The cable itself.
    Veth,
    /// VXLAN in the kernel.
    Vxlan,
    /// jtunnel as it is.
    Offload,
    /// jtunnel with -O.
    Plain,
    /// jtunnel, signed.
    Sign,
    /// jtunnel, sealed.
    Seal,
    /// OpenVPN with a static key, without encryption.
    OpenVpnNone,
    /// OpenVPN with a static key and AES-256-CBC.
    OpenVpnAes,
    /// fastd, method null.
    Fastd,
    /// tinc without encryption.
    Tinc,
    /// vtun without encryption.
    Vtun,
    /// socat, UDP and TUN.
    Socat,
    /// QuickTun, protocol raw.
    QuickTun,
    /// WireGuard in user space.
    WireGuard,
    /// Nebula, with AES-256-GCM.
    Nebula,
}

impl Kind {
    pub(crate) const ALL: [Self; 15] = [
        Self::Veth,
        Self::Vxlan,
        Self::Offload,
        Self::Plain,
        Self::Sign,
        Self::Seal,
        Self::OpenVpnNone,
        Self::OpenVpnAes,
        Self::Fastd,
        Self::Tinc,
        Self::Vtun,
        Self::Socat,
        Self::QuickTun,
        Self::WireGuard,
        Self::Nebula,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Veth => "bare veth",
            Self::Vxlan => "in-kernel VXLAN",
            Self::Offload => "jtunnel",
            Self::Plain => "jtunnel -O",
            Self::Sign => "jtunnel sign",
            Self::Seal => "jtunnel seal",
            Self::OpenVpnNone => "openvpn (plain)",
            Self::OpenVpnAes => "openvpn (AES-256)",
            Self::Fastd => "fastd (null)",
            Self::Tinc => "tinc (plain)",
            Self::Vtun => "vtun (plain)",
            Self::Socat => "socat",
            Self::QuickTun => "quicktun (raw)",
            Self::WireGuard => "wireguard-go",
            Self::Nebula => "nebula",
        }
    }

    /// Whether it is another user-space tunnel.
    pub(crate) fn is_rival(self) -> bool {
        self.program().is_some()
    }

    /// Whether it is one of those that encrypts.
    pub(crate) fn is_encrypting_rival(self) -> bool {
        matches!(self, Self::OpenVpnAes | Self::WireGuard | Self::Nebula)
    }

    fn program(self) -> Option<&'static str> {
        match self {
            Self::Veth | Self::Vxlan => None,
            Self::Offload | Self::Plain | Self::Sign | Self::Seal => None,
            Self::OpenVpnNone | Self::OpenVpnAes => Some("openvpn"),
            Self::Fastd => Some("fastd"),
            Self::Tinc => Some("tincd"),
            Self::Vtun => Some("vtund"),
            Self::Socat => Some("socat"),
            Self::QuickTun => Some("quicktun"),
            Self::WireGuard => Some("wireguard-go"),
            Self::Nebula => Some("nebula"),
        }
    }

    /// What it says of its version.
    pub(crate) fn version(self) -> String {
        let question = match self {
            Self::Veth | Self::Vxlan => "uname -sr",
            Self::Offload | Self::Plain | Self::Sign | Self::Seal => {
                return format!("jtunnel {}", env!("CARGO_PKG_VERSION"));
            }
            Self::OpenVpnNone | Self::OpenVpnAes => "openvpn --version | cut -d' ' -f1,2",
            Self::Fastd => "fastd --version",
            Self::Tinc => "tincd --version",
            Self::Vtun => "vtund -h 2>&1 | grep VTun",
            Self::Socat => "socat -V | sed -n 's/ on .*//; 2p'",
            Self::QuickTun => "quicktun --version 2>&1 | sed 's/ (c).*//'",
            Self::WireGuard => "wireguard-go --version",
            Self::Nebula => "nebula -version | sed 's/Version:/nebula/'",
        };
        let output = Command::new("sh").args(["-c", question]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().next().unwrap_or_default().trim().to_owned()
    }

    /// Whether what it needs is installed.
    pub(crate) fn is_installed(self) -> bool {
        self.program().is_none_or(|program| {
            let question = format!("command -v {program}");
            let answer = Command::new("sh").args(["-c", &question]).output();
            answer.is_ok_and(|output| output.status.success())
        })
    }
}

/// A link that is up. What it holds ends with it.
pub(crate) struct Link {
    pub(crate) server: End,
    pub(crate) client: End,
    /// A host behind the client.
    pub(crate) lan: End,
    _processes: Vec<Process>,
    _path: Option<Path>,
}

impl Link {
    /// Sets a link up between two new hosts.
    pub(crate) fn up(kind: Kind) -> Self {
        Self::over(kind, &Lab::direct(), None)
    }

    /// The same with a long path between them.
    pub(crate) fn far(kind: Kind) -> Self {
        let lab = Lab::direct();
        let path = Path::instead_of_cable(&lab);
        Self::over(kind, &lab, Some(path))
    }

    fn over(kind: Kind, lab: &Lab, path: Option<Path>) -> Self {
        let mut link = match kind {
            Kind::Veth => Self::between(lab, [SERVER4, CLIENT4], Vec::new()),
            Kind::Vxlan => vxlan(lab),
            Kind::Offload => ours(lab, &[], None),
            Kind::Plain => ours(lab, &["-O"], None),
            Kind::Sign => ours(lab, &[], Some("sign")),
            Kind::Seal => ours(lab, &[], Some("seal")),
            Kind::OpenVpnNone => openvpn(lab, &["--cipher", "none", "--auth", "none"]),
            Kind::OpenVpnAes => openvpn(lab, &["--cipher", "AES-256-CBC"]),
            Kind::Fastd => fastd(lab),
            Kind::Tinc => tinc(lab),
            Kind::Vtun => vtun(lab),
            Kind::Socat => socat(lab),
            Kind::QuickTun => quicktun(lab),
            Kind::WireGuard => wireguard(lab),
            Kind::Nebula => nebula(lab),
        };
        wait_until(PATIENCE, &format!("a ping through {}", kind.name()), || {
            ping_works(&link.client.host, link.server.address)
        });
        link._path = path;
        link.server
            .host
            .ip(&format!("route replace {LAN} via {}", link.client.address));
        link
    }

    /// Processes alternate: the server's, the client's.
    fn between(lab: &Lab, addresses: [&str; 2], processes: Vec<Process>) -> Self {
        let end = |host: &Host, n: usize| End {
            host: host.clone(),
            address: addresses[n].parse::<IpAddr>().unwrap(),
            processes: processes
                .iter()
                .skip(n)
                .step_by(2)
                .map(Process::pid)
                .collect(),
        };
        Self {
            server: end(&lab.server, 0),
            client: end(lab.client(), 1),
            lan: lan(lab.client()),
            _processes: processes,
            _path: None,
        }
    }
}

/// The hosts in the order server, client, with the number of each.
fn both(lab: &Lab) -> [(usize, &Host); 2] {
    [(0, &lab.server), (1, lab.client())]
}

/// Puts a host behind the client, whose server is yet to be told of it.
fn lan(client: &Host) -> End {
    let host = Host::new("lan");
    cable(client, "lan0", &host, "eth0");
    for (n, (end, device)) in [(client, "lan0"), (&host, "eth0")].into_iter().enumerate() {
        addresses(end, device, &[&format!("{}/24", IN_LAN[n])]);
    }
    host.ip(&format!("route add default via {}", IN_LAN[0]));
    client.sysctl("net/ipv4/ip_forward", "1");
    End::plain(&host, IN_LAN[1].parse().unwrap())
}

fn run(host: &Host, words: &[&str]) -> Process {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    Process::spawn(host, command)
}

/// Gives a device its address once it is there.
fn address(host: &Host, device: &str, own: &str, other: &str) {
    wait_until(PATIENCE, device, || {
        host.try_ip(&format!("link show dev {device}"))
    });
    host.ip(&format!("address replace {own} peer {other} dev {device}"));
    host.ip(&format!("link set {device} mtu 1420 up"));
}

fn path(host: &Host, name: &str) -> String {
    host.path(name).to_string_lossy().into_owned()
}

/// Both programs in the background, as /etc/rc.local starts them, plain or protected by a word.
fn ours(lab: &Lab, options: &[&str], word: Option<&str>) -> Link {
    let mut server = Server::new(&lab.server, [1]).options(options);
    let mut client = Client::new(lab.client(), 1).options(options);
    if let Some(word) = word {
        server = server.keyed(word, [1]);
        client = client.keyed(word);
    }
    let prog = server_prog(&lab.server, "server-up", "");
    let jtunneld = server.launch().clone().operands([prog]).background("pid");
    let prog = client_prog(lab.client(), "client-up", 1, "");
    let launch = client.launch().clone().operands([SERVER4, "5886"]);
    let parent = launch.operands([prog]).background("pid");
    client.wait_up();
    let mut pair = proc::twins(parent);
    pair.push(parent);
    Link {
        server: End {
            host: lab.server.clone(),
            address: client.inner.server4(),
            processes: vec![jtunneld],
        },
        client: End {
            host: lab.client().clone(),
            address: client.inner.client4(),
            processes: pair,
        },
        lan: lan(lab.client()),
        _processes: Vec::new(),
        _path: None,
    }
}

fn vxlan(lab: &Lab) -> Link {
    let outer = [SERVER4, CLIENT4];
    for (n, host) in both(lab) {
        let (local, remote) = (outer[n], outer[1 - n]);
        host.ip(&format!(
            "link add vxlan0 type vxlan id 7 dstport 4789 local {local} remote {remote} dev eth0"
        ));
        host.ip(&format!("address add {}/24 dev vxlan0", INNER[n]));
        host.ip("link set vxlan0 mtu 1420 up");
    }
    Link::between(lab, INNER, Vec::new())
}

fn openvpn(lab: &Lab, options: &[&str]) -> Link {
    let key = path(&lab.server, "static.key");
    lab.server.sh(&format!("openvpn --genkey secret {key}"));
    let processes = both(lab).map(|(n, host)| {
        let remote = [CLIENT4, SERVER4][n];
        let mut words = vec![
            "openvpn", "--dev", "tun9", "--remote", remote, "--proto", "udp",
        ];
        words.extend(["--secret", &key]);
        words.extend(["--ifconfig", INNER[n], INNER[1 - n], "--tun-mtu", "1420"]);
        words.extend(["--sndbuf", "1048576", "--rcvbuf", "1048576"]);
        words.extend_from_slice(options);
        run(host, &words)
    });
    Link::between(lab, INNER, processes.into())
}

fn fastd(lab: &Lab) -> Link {
    let key = |host: &Host| {
        let text = host.sh("fastd --generate-key 2>/dev/null");
        let field = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap()
                .to_owned();
            line.split_whitespace().last().unwrap().to_owned()
        };
        (field("Secret:"), field("Public:"))
    };
    let keys = [key(&lab.server), key(lab.client())];
    let processes = both(lab).map(|(n, host)| {
        let remote = if n == 1 {
            format!("remote {SERVER4}:10000;")
        } else {
            String::new()
        };
        let config = format!(
            "log level error; mode tun; interface \"fastd9\"; method \"null\"; mtu 1420;\n\
             bind 0.0.0.0:10000; secret \"{}\";\n\
             peer \"other\" {{ key \"{}\"; {remote} }}\n",
            keys[n].0,
            keys[1 - n].1
        );
        let file = host.path("fastd.conf");
        fs::write(&file, config).unwrap();
        run(host, &["fastd", "--config", &file.to_string_lossy()])
    });
    for (n, host) in both(lab) {
        address(host, "fastd9", INNER[n], INNER[1 - n]);
    }
    Link::between(lab, INNER, processes.into())
}

fn tinc(lab: &Lab) -> Link {
    const NAMES: [&str; 2] = ["server", "client"];
    for (n, host) in both(lab) {
        let directory = host.path("tinc");
        fs::create_dir_all(directory.join("hosts")).unwrap();
        let config = format!(
            "Name = {}\nInterface = tinc9\nConnectTo = {}\nUDPRcvBuf = 1048576\nUDPSndBuf = 1048576\n",
            NAMES[n],
            NAMES[1 - n]
        );
        fs::write(directory.join("tinc.conf"), config).unwrap();
        let behind = match n {
            0 => String::new(),
            _ => format!("Subnet = {LAN}\n"),
        };
        let about = format!(
            "Address = {}\nSubnet = {}/32\n{behind}Cipher = none\nDigest = none\nCompression = 0\n",
            [SERVER4, CLIENT4][n],
            INNER[n]
        );
        fs::write(directory.join("hosts").join(NAMES[n]), about).unwrap();
        host.sh(&format!(
            "tincd -c {} -K 2048 </dev/null >/dev/null 2>&1",
            path(host, "tinc")
        ));
    }
    for (n, host) in both(lab) {
        let other = both(lab)[1 - n]
            .1
            .path("tinc")
            .join("hosts")
            .join(NAMES[1 - n]);
        fs::copy(other, host.path("tinc").join("hosts").join(NAMES[1 - n])).unwrap();
    }
    let processes = both(lab).map(|(_, host)| {
        let pid_file = format!("--pidfile={}", path(host, "tinc.pid"));
        run(host, &["tincd", "-c", &path(host, "tinc"), "-D", &pid_file])
    });
    for (n, host) in both(lab) {
        address(host, "tinc9", INNER[n], INNER[1 - n]);
    }
    Link::between(lab, INNER, processes.into())
}

fn vtun(lab: &Lab) -> Link {
    let config = "options { port 5000; syslog daemon; }\n\
        default { type tun; proto udp; compress no; encrypt no; keepalive no; stat no; speed 0; }\n\
        bench { passwd bench; device tun9; multi killold; }\n";
    for (_, host) in both(lab) {
        fs::write(host.path("vtund.conf"), config).unwrap();
        host.empty_directory("/var/lock");
        host.run(|| fs::create_dir("/var/lock/vtund").unwrap());
    }
    let file = path(&lab.server, "vtund.conf");
    let server = run(&lab.server, &["vtund", "-n", "-s", "-f", &file]);
    wait_until(PATIENCE, "vtund", || {
        lab.server.try_sh("ss -Hltn 'sport = :5000' | grep -q .")
    });
    let file = path(lab.client(), "vtund.conf");
    let client = run(
        lab.client(),
        &["vtund", "-n", "-f", &file, "bench", SERVER4],
    );
    for (n, host) in both(lab) {
        address(host, "tun9", INNER[n], INNER[1 - n]);
    }
    let mut link = Link::between(lab, INNER, vec![server, client]);
    // Its server has a process for each session.
    let session = proc::children(link.server.processes[0]);
    link.server.processes.extend(session);
    link
}

fn socat(lab: &Lab) -> Link {
    let processes = both(lab).map(|(n, host)| {
        let remote = [CLIENT4, SERVER4][n];
        let outer = format!("UDP4-DATAGRAM:{remote}:7000,bind=:7000,rcvbuf=1048576");
        let inner = format!("TUN:{}/24,tun-name=tun9,iff-no-pi,iff-up", INNER[n]);
        run(host, &["socat", "-b", "65536", &outer, &inner])
    });
    for (_, host) in both(lab) {
        wait_until(PATIENCE, "tun9", || {
            host.try_ip("link set tun9 mtu 1420 up")
        });
    }
    Link::between(lab, INNER, processes.into())
}

fn quicktun(lab: &Lab) -> Link {
    let processes = both(lab).map(|(n, host)| {
        let outer = [SERVER4, CLIENT4];
        // Debian's is told by the variables of an interfaces file.
        let mut command = Command::new("quicktun");
        command
            .env("IFACE", "tun9")
            .env("IF_QT_TUN_MODE", "1")
            .env("IF_QT_PROTOCOL", "raw")
            .env("IF_QT_LOCAL_ADDRESS", outer[n])
            .env("IF_QT_REMOTE_ADDRESS", outer[1 - n]);
        Process::spawn(host, command)
    });
    for (n, host) in both(lab) {
        address(host, "tun9", INNER[n], INNER[1 - n]);
    }
    Link::between(lab, INNER, processes.into())
}

fn nebula(lab: &Lab) -> Link {
    let authority = &lab.server;
    authority.sh("nebula-cert ca -name bench");
    let processes = both(lab).map(|(n, host)| {
        let (own, server) = (INNER[n], INNER[0]);
        let (crt, key) = (path(host, "host.crt"), path(host, "host.key"));
        let (behind, routes) = match n {
            0 => ("", format!("{{route: {LAN}, via: {}}}", INNER[1])),
            _ => (LAN, String::new()),
        };
        authority.sh(&format!(
            "nebula-cert sign -name host{n} -ip {own}/24 -subnets '{behind}' -out-crt {crt} -out-key {key}"
        ));
        let config = format!(
            "pki: {{ca: {}, cert: {crt}, key: {key}}}\n\
             static_host_map: {{\"{server}\": [\"{SERVER4}:4242\"]}}\n\
             lighthouse: {{am_lighthouse: {}, hosts: [{}]}}\n\
             listen: {{host: 0.0.0.0, port: 4242, read_buffer: 4194304, write_buffer: 4194304}}\n\
             cipher: aes\n\
             tun: {{dev: tun9, mtu: 1420, tx_queue: 500, unsafe_routes: [{routes}]}}\n\
             logging: {{level: error}}\n\
             firewall: {{outbound: [{{port: any, proto: any, host: any}}], \
             inbound: [{{port: any, proto: any, host: any, local_cidr: 0.0.0.0/0}}]}}\n",
            path(authority, "ca.crt"),
            n == 0,
            if n == 0 {
                String::new()
            } else {
                format!("\"{server}\"")
            }
        );
        let file = host.path("nebula.yml");
        fs::write(&file, config).unwrap();
        run(host, &["nebula", "-config", &file.to_string_lossy()])
    });
    Link::between(lab, INNER, processes.into())
}

fn wireguard(lab: &Lab) -> Link {
    // Both ends share /run, where each device has a socket.
    const DEVICES: [&str; 2] = ["wg8", "wg9"];
    let keys = both(lab).map(|(_, host)| host.sh("wg genkey >key && wg pubkey <key"));
    let processes = both(lab).map(|(n, host)| run(host, &["wireguard-go", "-f", DEVICES[n]]));
    for (n, host) in both(lab) {
        let (device, key, remote) = (DEVICES[n], keys[1 - n].trim(), [CLIENT4, SERVER4][n]);
        let set = format!(
            "wg set {device} listen-port 51820 private-key key \
             peer {key} allowed-ips 0.0.0.0/0 endpoint {remote}:51820"
        );
        wait_until(PATIENCE, device, || host.try_sh(&set));
        address(host, device, INNER[n], INNER[1 - n]);
    }
    Link::between(lab, INNER, processes.into())
}

/// One jtunneld with some clients, each on a host of its own behind one router.
pub(crate) struct Crowd {
    /// Server's and client's end of each tunnel.
    pub(crate) tunnels: Vec<(End, End)>,
    _clients: Vec<Client>,
    _server: Server,
    _lab: Lab,
}

impl Crowd {
    pub(crate) fn up(clients: u16) -> Self {
        let lab = Lab::routed(clients.into());
        let server = Server::new(&lab.server, 1..=clients).start();
        let clients = Client::on_each(&lab, &[]);
        let tunnels = clients
            .iter()
            .map(|client| {
                let (near, far) = (client.inner.client4(), client.inner.server4());
                (End::plain(&lab.server, far), End::plain(&client.host, near))
            })
            .collect();
        Self {
            tunnels,
            _clients: clients,
            _server: server,
            _lab: lab,
        }
    }
}
