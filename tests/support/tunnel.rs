//! The two programs at work: a jtunneld and a jtunnel-client with configuration and PROG.
//!
//! Client `n` has the inner addresses 10.H.L.2 and fd00:0:0:N::2, the server 10.H.L.1 and
//! fd00:0:0:N::1 on that client's device, where H and L are the bytes of n.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::config::{Config, SERVER_ID, client_id, key_line};
use crate::host::Host;
use crate::lab::{Lab, SERVER4};
use crate::launch::Launch;
use crate::process::Process;
use crate::traffic::wait_ping;
use crate::wait::{PATIENCE, wait_until};

/// The addresses inside the tunnel of one client.
#[derive(Clone, Copy, Debug)]
pub struct Inner(pub u16);

impl Inner {
    /// The server's end, IPv4.
    pub fn server4(self) -> IpAddr {
        self.ipv4(1)
    }

    /// The client's end, IPv4.
    pub fn client4(self) -> IpAddr {
        self.ipv4(2)
    }

    /// The server's end, IPv6.
    pub fn server6(self) -> IpAddr {
        self.ipv6(1)
    }

    /// The client's end, IPv6.
    pub fn client6(self) -> IpAddr {
        self.ipv6(2)
    }

    fn ipv4(self, end: u8) -> IpAddr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(10, high, low, end).into()
    }

    fn ipv6(self, end: u16) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0, 0, self.0, 0, 0, 0, end).into()
    }
}

/// What PROG of either side does to the device of client `$n`; the arguments are the own and the
/// other end.
const UP: &str = r#"
up() {
    inner=10.$((n / 256)).$((n % 256))
    ip -batch - <<E
address add $inner.$1 peer $inner.$2 dev $TUN_DEV_NAME
address add fd00:0:0:$(printf %x "$n")::$1/64 dev $TUN_DEV_NAME nodad
link set $TUN_DEV_NAME up
E
}
"#;

/// A PROG for jtunneld: gives each client its addresses, then does what `more` says.
pub fn server_prog(host: &Host, name: &str, more: &str) -> PathBuf {
    let body = format!("{UP}n=$((0x${{TUN_CLIENT_ID%????????????}}))\nup 1 2\n{more}");
    host.script(name, &body)
}

/// A PROG for jtunnel-client `number`, which then does what `more` says.
pub fn client_prog(host: &Host, name: &str, number: u16, more: &str) -> PathBuf {
    host.script(name, &format!("{UP}n={number}\nup 2 1\n{more}"))
}

/// One of the two programs, which runs or is about to.
pub struct End<I> {
    /// Where it runs.
    pub host: Host,
    /// Its configuration directory.
    pub config: Config,
    /// The addresses inside a client's tunnel.
    pub inner: I,
    launch: Launch,
    /// What comes before PROG.
    operands: Vec<String>,
    process: Option<Process>,
}

/// A jtunneld.
pub type Server = End<()>;

/// A jtunnel-client.
pub type Client = End<Inner>;

impl<I> End<I> {
    fn on(host: &Host, config: Config, inner: I, launch: Launch, operands: &[&str]) -> Self {
        let directory = ["-d".as_ref(), config.path.as_os_str()];
        Self {
            host: host.clone(),
            launch: launch.options(directory),
            config,
            inner,
            operands: operands.iter().map(|&word| word.into()).collect(),
            process: None,
        }
    }

    /// Adds options.
    #[must_use]
    pub fn options(mut self, words: &[&str]) -> Self {
        self.launch = self.launch.options(words);
        self
    }

    /// Changes the command line.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(Launch) -> Launch) -> Self {
        self.launch = change(self.launch);
        self
    }

    /// Starts it with this PROG.
    #[must_use]
    pub fn start_with(mut self, prog: &[impl AsRef<OsStr>]) -> Self {
        self.launch = self.launch.operands(&self.operands).operands(prog);
        self.restart();
        self
    }

    /// Starts it, again if it has run before.
    pub fn restart(&mut self) {
        self.process = None;
        let process = self.launch.start();
        process.lines.wait("started: ");
        self.process = Some(process);
    }

    /// Its command line.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Its process, to be ended.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }
}

impl<I> Deref for End<I> {
    type Target = Process;

    fn deref(&self) -> &Process {
        self.process.as_ref().unwrap()
    }
}

impl Server {
    /// To run on this host, and authorise these clients.
    pub fn new(host: &Host, clients: impl IntoIterator<Item = u16>) -> Self {
        let config = Config::server(host, "jtunneld", SERVER_ID);
        for number in clients {
            config.authorise(&client_id(number));
        }
        Self::on(host, config, (), Launch::server(host), &[])
    }

    /// Authorises these clients, with links that are protected by `sign` or `seal`.
    #[must_use]
    pub fn keyed(self, word: &str, clients: impl IntoIterator<Item = u16>) -> Self {
        for number in clients {
            self.config.key(&client_id(number), &key_line(word));
        }
        self
    }

    /// Starts it with a PROG that gives addresses.
    #[must_use]
    pub fn start(self) -> Self {
        let prog = server_prog(&self.host, "server-up", "");
        self.start_with(&[prog])
    }

    /// Waits until PROG has given this many devices their addresses.
    #[track_caller]
    pub fn wait_progs(&self, count: u16) {
        wait_until(PATIENCE, "the addresses of all", || {
            let text = self.host.ip("-o -4 address show");
            text.matches("inet 10.").count() == usize::from(count)
        });
    }

    /// Sends HUP and waits until it was heeded: the report that is asked for then comes later.
    /// Returns the first line of that report.
    #[track_caller]
    pub fn reload(&self) -> String {
        self.signal(Signal::SIGHUP);
        self.report("status: ")
    }
}

impl Client {
    /// Client `number`, to run on this host and go to the server of the lab.
    pub fn new(host: &Host, number: u16) -> Self {
        let config = Config::client(host, &format!("client-{number}"), &client_id(number));
        config.authorise(SERVER_ID);
        let operands = [SERVER4, "5886"];
        Self::on(host, config, Inner(number), Launch::client(host), &operands)
    }

    /// One on each host of a lab, in the order of their numbers, with tunnels that are up.
    #[track_caller]
    pub fn on_each(lab: &Lab, options: &[&str]) -> Vec<Self> {
        let clients: Vec<Self> = (1..)
            .zip(&lab.clients)
            .map(|(number, host)| Self::new(host, number).options(options).start())
            .collect();
        clients.iter().for_each(Self::wait_up);
        clients
    }

    /// Protects the link by `sign` or `seal`.
    #[must_use]
    pub fn keyed(self, word: &str) -> Self {
        self.config.key(SERVER_ID, &key_line(word));
        self
    }

    /// Goes to another address or name.
    #[must_use]
    pub fn to(mut self, address: &str) -> Self {
        self.operands[0] = address.into();
        self
    }

    /// Starts it with a PROG that gives addresses.
    #[must_use]
    pub fn start(self) -> Self {
        let name = format!("client-{}-up", self.inner.0);
        let prog = client_prog(&self.host, &name, self.inner.0, "");
        self.start_with(&[prog])
    }

    /// Sends HUP and waits until it was heeded, as for the server.
    #[track_caller]
    pub fn reload(&self) -> String {
        self.signal(Signal::SIGHUP);
        self.report("status: device")
    }

    /// Waits until the server's end answers a ping.
    #[track_caller]
    pub fn wait_up(&self) {
        wait_ping(&self.host, self.inner.server4());
    }
}

/// A lab with a server and one client, number 1, whose tunnel is up.
pub struct Tunnel {
    /// The client.
    pub client: Client,
    /// The server.
    pub server: Server,
    /// The hosts.
    pub lab: Lab,
}

impl Tunnel {
    /// Starts both with options of their own and waits for the first ping. Keepalives go out every
    /// second, unless the client's options say otherwise.
    #[track_caller]
    pub fn up(lab: Lab, server: &[&str], client: &[&str]) -> Self {
        let server = Server::new(&lab.server, [1]).options(server).start();
        let keepalive: &[&str] = match client.contains(&"-k") {
            true => &[],
            false => &["-k", "1"],
        };
        let client = Client::new(lab.client(), 1)
            .options(keepalive)
            .options(client)
            .start();
        client.wait_up();
        Self {
            client,
            server,
            lab,
        }
    }

    /// Without options of their own.
    #[track_caller]
    pub fn plain(lab: Lab) -> Self {
        Self::up(lab, &[], &[])
    }
}
