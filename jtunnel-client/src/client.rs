//! The parent process: UDP to tun, keepalives, the server's silence, and the child's keeper.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::authorized::{Authorized, Findings};
use common::backoff::Backoff;
use common::error::{Context, Result, reason};
use common::hook::{self, Hook};
use common::id::PeerId;
use common::packet::{self, HEADER_LEN, MAX_DATAGRAM, Payload};
use common::socket::{Bind, Socket, is_nothing};
use common::sys::{self, Fork, Wake};
use common::throttle::Throttle;
use common::tun::{Trouble, Tun};
use common::{identity, log};
use nix::net::if_::if_indextoname;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::PEERS;
use crate::keepalive::Keepalive;
use crate::options::Config;
use crate::resolver::{Answer, Resolver};
use crate::sender::Sender;
use crate::timeout::ReceiveTimeout;

/// How long PROG may clean up before a new device is made.
const CLEAN_UP: Duration = Duration::from_secs(5);
/// The same when the program ends.
const LAST_CLEAN_UP: Duration = Duration::from_secs(1);
/// A child that lived for this long was lost by accident.
const LONG_LIFE: Duration = Duration::from_secs(60);

const SIGNALS: [Signal; 5] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGCHLD,
];

/// The client: one socket, one tun device, one child that sends.
pub(crate) struct Client {
    config: Config,
    id: PeerId,
    bind: Bind,
    socket: Socket,
    /// `None` after the device was deleted, until there is a new one.
    tun: Option<Tun>,
    rebuild: Option<Instant>,
    rebuild_wait: Backoff,
    authorized: Authorized,
    hook: Hook,
    /// PROG, while it runs.
    prog: Option<Pid>,
    resolver: Resolver,
    /// All addresses of the server.
    addresses: Vec<SocketAddr>,
    /// The one in use; `None` until the name was resolved.
    server: Option<SocketAddr>,
    sender: Option<SenderProcess>,
    /// `None` means at once.
    sender_wait: Option<Backoff>,
    sender_start: Option<Instant>,
    keepalive: Keepalive,
    timeout: ReceiveTimeout,
    started: Instant,
    buffer: Box<[u8]>,
    received: u64,
    received_bytes: u64,
    dropped: u64,
    throttles: Throttles,
}

struct SenderProcess {
    pid: Pid,
    started: Instant,
}

struct Throttles {
    foreign: Throttle,
    unauthorized: Throttle,
    receive: Throttle,
    send: Throttle,
    resolve: Throttle,
    tun: Throttle,
    directory: Throttle,
}

impl Client {
    /// Sets up all that can fail.
    pub(crate) fn new(config: Config) -> Result<Self> {
        let options = &config.common;
        let hook = Hook::new(&config.prog, options.foreground)?;
        let id = match options.id {
            Some(id) => id,
            None => identity::load(&options.directory, PEERS)?,
        };
        let bind = Bind {
            address: options.bind_address,
            port: options.bind_port.unwrap_or(0),
            mark: options.mark,
            nonblocking: false,
            report_source: false,
        };
        let socket = Socket::bind(&bind)?;
        let tun = Tun::open(options.mtu, false)?;
        catch_signals(&socket).context(|| "catch signals".into())?;
        let now = Instant::now();
        Ok(Self {
            id,
            bind,
            socket,
            tun: Some(tun),
            rebuild: None,
            rebuild_wait: Backoff::default(),
            authorized: Authorized::new(options.directory.join(PEERS), now),
            hook,
            prog: None,
            resolver: Resolver::new(config.address.clone(), config.port),
            addresses: Vec::new(),
            server: None,
            sender: None,
            sender_wait: None,
            sender_start: None,
            keepalive: Keepalive::new(config.keepalive, now),
            timeout: ReceiveTimeout::new(now),
            started: now,
            buffer: vec![0; HEADER_LEN + MAX_DATAGRAM].into(),
            received: 0,
            received_bytes: 0,
            dropped: 0,
            throttles: Throttles {
                foreign: Throttle::per_minute(),
                unauthorized: Throttle::per_minute(),
                receive: Throttle::per_minute(),
                send: Throttle::per_minute(),
                resolve: Throttle::per_minute(),
                tun: Throttle::per_minute(),
                directory: Throttle::per_minute(),
            },
            config,
        })
    }

    /// Carries packets until a signal ends it.
    pub(crate) fn run(&mut self) {
        let mut now = Instant::now();
        self.log_start();
        if !self.config.accept_any {
            let findings = self.authorized.reload(now);
            self.log_findings(findings, now);
        }
        match self.resolver.literal() {
            Some(address) => self.use_addresses(vec![address], now),
            None => self.resolver.start(now),
        }
        loop {
            self.on_deadlines(now);
            let (deadline, socket) = (self.next_deadline(), &self.socket);
            self.timeout
                .arm(deadline, now, |limit| socket.set_receive_timeout(limit));
            // After arming: a signal from here on shortens the time-out again.
            if sys::signals_pending() {
                now = Instant::now();
                if let Some(signal) = self.on_signals(now) {
                    log::info(format_args!("stopping: signal {}", &signal.as_str()[3..]));
                    return self.stop(now);
                }
                self.timeout.expired();
                continue;
            }
            now = self.receive();
        }
    }

    fn log_start(&self) {
        log::info(format_args!(
            "started: identifier {}, device {}, server {} port {}",
            self.id,
            self.tun.as_ref().map_or("none", Tun::name),
            self.config.address,
            self.config.port
        ));
    }

    // In: socket -> the server's? -> decapsulate -> authorised? -> tun.

    /// The one place where the parent sleeps. Returns the time at which it woke.
    fn receive(&mut self) -> Instant {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.socket.receive(&mut buffer);
        let now = Instant::now();
        match result {
            Ok(datagram) if datagram.truncated => self.dropped += 1,
            Ok(datagram) => self.on_datagram(datagram.from, &buffer[..datagram.len], now),
            Err(error) if is_nothing(&error) => self.timeout.expired(),
            Err(error) => {
                if let Some(held_back) = self.throttles.receive.pass(now) {
                    let reason = reason(&error);
                    log::warning(format_args!("unable to receive: {reason}{held_back}"));
                }
            }
        }
        self.buffer = buffer;
        now
    }

    fn on_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        if self.server != Some(from) {
            self.dropped += 1;
            if let Some(held_back) = self.throttles.foreign.pass(now) {
                log::debug(format_args!(
                    "dropped a datagram from {from}: not the server{held_back}"
                ));
            }
            return;
        }
        let Some((id, payload)) = packet::decapsulate(datagram) else {
            self.dropped += 1;
            return;
        };
        if !self.is_accepted(id, now) {
            self.dropped += 1;
            if let Some(held_back) = self.throttles.unauthorized.pass(now) {
                log::warning(format_args!(
                    "dropped a datagram of server {id} from {from}: not authorised{held_back}"
                ));
            }
            return;
        }
        if self.keepalive.heard(now) {
            log::info(format_args!("server {id} answers from {from}"));
        }
        match payload {
            Payload::Packet(packet) => self.deliver(packet, now),
            Payload::Keepalive(counter) => {
                let target = self.socket.target(from, None);
                let _ = self
                    .socket
                    .try_send(&packet::answer(self.id, counter), &target);
            }
            Payload::Answer(counter) => self.keepalive.answered(counter, now),
            Payload::Alive | Payload::Other => {}
        }
    }

    fn deliver(&mut self, packet: &[u8], now: Instant) {
        match self.tun.as_ref().map(|tun| tun.send(packet)) {
            Some(Ok(())) => {
                self.received += 1;
                self.received_bytes += packet.len() as u64;
            }
            Some(Err(Trouble::Gone)) => self.device_gone(now),
            Some(Err(Trouble::Lost | Trouble::Nothing)) | None => self.dropped += 1,
        }
    }

    fn is_accepted(&mut self, id: PeerId, now: Instant) -> bool {
        if self.config.accept_any || self.authorized.contains(id) {
            return true;
        }
        let Some(findings) = self.authorized.rescan(now) else {
            return false;
        };
        self.log_findings(findings, now);
        self.authorized.contains(id)
    }

    // Time.

    fn next_deadline(&self) -> Option<Instant> {
        let keepalive = self.server.and_then(|_| self.keepalive.next());
        [
            keepalive,
            self.resolver.next(),
            self.sender_start,
            self.rebuild,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_deadlines(&mut self, now: Instant) {
        if self.rebuild.is_some_and(|at| now >= at) {
            self.rebuild_tun(now);
        }
        self.resolver.on_deadline(now);
        if self.sender_start.is_some_and(|at| now >= at) {
            self.start_sender(now);
        }
        if self.server.is_some() && self.keepalive.is_due(now) {
            if self.keepalive.take_silence() {
                self.on_silence(now);
            }
            self.send_keepalive(now);
        }
    }

    /// Sends a keepalive. If it can't leave, the server's other addresses are tried: there may
    /// be a route to one of them.
    fn send_keepalive(&mut self, now: Instant) {
        let counter = self.keepalive.next_counter();
        let datagram = packet::keepalive(self.id, counter);
        let Some(first) = self.server else {
            return;
        };
        let mut address = first;
        loop {
            let target = self.socket.target(address, None);
            let Err(error) = self.socket.try_send(&datagram, &target) else {
                break;
            };
            if let Some(held_back) = self.throttles.send.pass(now) {
                let reason = reason(&error);
                log::warning(format_args!(
                    "unable to send to {address}: {reason}{held_back}"
                ));
            }
            address = self.after(address);
            if address == first {
                return self.keepalive.failed(now);
            }
        }
        self.keepalive.sent(now);
        if address != first {
            self.move_to(address, now);
        }
    }

    /// Three keepalives were not answered: a NAT may hold on to a mapping that leads nowhere, or
    /// the server has moved.
    fn on_silence(&mut self, now: Instant) {
        let Some(server) = self.server else {
            return;
        };
        let since = self.keepalive.last_heard().unwrap_or(self.started);
        let seconds = now.saturating_duration_since(since).as_secs();
        let next = self.after(server);
        let port = match self.bind.port {
            0 => "new source port, ",
            _ => "",
        };
        log::warning(format_args!(
            "no answer from {server} for {seconds} s: {port}trying {next}"
        ));
        self.resolver.start(now);
        self.stop_sender();
        if self.bind.port == 0 {
            self.renew_socket(now);
        }
        self.server = Some(next);
        self.start_sender(now);
    }

    /// A new socket gets a port that differs from the old one's, which is still open.
    fn renew_socket(&mut self, now: Instant) {
        match Socket::bind(&self.bind) {
            Ok(socket) => {
                let old = std::mem::replace(&mut self.socket, socket);
                sys::wake_by(Wake::Receive(self.socket.as_fd()));
                drop(old);
                self.timeout.expired();
            }
            Err(error) => {
                if let Some(held_back) = self.throttles.send.pass(now) {
                    log::warning(format_args!("{error}{held_back}"));
                }
            }
        }
    }

    // The server's address.

    /// The address to try after this one.
    fn after(&self, address: SocketAddr) -> SocketAddr {
        let position = self.addresses.iter().position(|&a| a == address);
        let next = position.map_or(0, |p| (p + 1) % self.addresses.len());
        self.addresses.get(next).copied().unwrap_or(address)
    }

    fn on_answer(&mut self, answer: Answer, now: Instant) {
        let usable = answer.and_then(|mut addresses| {
            addresses.retain(|&address| self.socket.reaches(address));
            match addresses.is_empty() {
                true => Err("no address that the socket can send to".into()),
                false => Ok(addresses),
            }
        });
        match usable {
            Ok(addresses) => self.use_addresses(addresses, now),
            Err(reason) => {
                self.resolver.retry(now);
                if let Some(held_back) = self.throttles.resolve.pass(now) {
                    let name = &self.config.address;
                    log::warning(format_args!(
                        "unable to resolve {name}: {reason}{held_back}"
                    ));
                }
            }
        }
    }

    fn use_addresses(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        let first_time = self.server.is_none();
        if self.addresses != addresses && self.resolver.literal().is_none() {
            let list: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
            let name = &self.config.address;
            log::info(format_args!(
                "server {name} resolved to {}",
                list.join(", ")
            ));
        }
        self.addresses = addresses;
        if self
            .server
            .is_some_and(|server| self.addresses.contains(&server))
        {
            return;
        }
        let Some(&address) = self.addresses.first() else {
            return;
        };
        if first_time {
            self.server = Some(address);
            self.run_prog();
        }
        self.move_to(address, now);
        self.keepalive.hurry(now);
    }

    /// Both directions follow: the child gets the address anew, the parent hears no other.
    fn move_to(&mut self, address: SocketAddr, now: Instant) {
        self.stop_sender();
        self.server = Some(address);
        log::info(format_args!("sending to {address}"));
        self.start_sender(now);
    }

    // The child.

    fn start_sender(&mut self, now: Instant) {
        self.sender_start = None;
        let (Some(tun), Some(server), None) = (&self.tun, self.server, &self.sender) else {
            return;
        };
        let parent = Pid::this();
        match sys::fork() {
            Ok(Fork::Child) => {
                let sender = Sender {
                    id: self.id,
                    tun,
                    socket: &self.socket,
                    server,
                    buffer: &mut self.buffer,
                };
                sender.run(parent);
                sys::exit_child(1)
            }
            Ok(Fork::Parent(pid)) => self.sender = Some(SenderProcess { pid, started: now }),
            Err(error) => {
                log::warning(format_args!(
                    "unable to start the sender: {}",
                    reason(&error)
                ));
                self.delay_sender(now);
            }
        }
    }

    /// Ends the child and waits for it: there are never two readers of one tun.
    fn stop_sender(&mut self) {
        self.sender_start = None;
        if let Some(sender) = self.sender.take() {
            let _ = kill(sender.pid, Signal::SIGKILL);
            sys::wait_for(sender.pid);
        }
    }

    fn sender_lost(&mut self, lived: Duration, ending: &str, now: Instant) {
        if self
            .tun
            .as_ref()
            .is_some_and(|tun| tun.current_name().is_none())
        {
            return self.device_gone(now);
        }
        log::warning(format_args!("the sender {ending}, starting it again"));
        if lived >= LONG_LIFE {
            self.sender_wait = None;
        }
        self.delay_sender(now);
    }

    /// At once for the first time, then after 1, 2, 4 .. 30 s.
    fn delay_sender(&mut self, now: Instant) {
        let wait = match &mut self.sender_wait {
            Some(backoff) => backoff.next_wait(),
            None => Duration::ZERO,
        };
        self.sender_wait.get_or_insert_default();
        self.sender_start = Some(now + wait);
    }

    // The device and PROG.

    /// The device was deleted. PROG may clean up before there is a new one, which is likely to
    /// have the same name.
    fn device_gone(&mut self, now: Instant) {
        self.stop_sender();
        let Some(tun) = self.tun.take() else {
            return;
        };
        log::warning(format_args!("device {} is gone", tun.name()));
        if let Some(pid) = self.prog {
            hook::terminate(pid);
            self.rebuild = Some(now + CLEAN_UP);
        } else {
            self.rebuild = Some(now);
        }
    }

    fn rebuild_tun(&mut self, now: Instant) {
        match Tun::open(self.config.common.mtu, false) {
            Ok(tun) => {
                log::info(format_args!("device {} opened", tun.name()));
                self.tun = Some(tun);
                self.rebuild = None;
                self.rebuild_wait = Backoff::default();
                if self.server.is_some() {
                    self.run_prog();
                    self.start_sender(now);
                }
            }
            Err(error) => {
                self.rebuild = Some(now + self.rebuild_wait.next_wait());
                if let Some(held_back) = self.throttles.tun.pass(now) {
                    log::warning(format_args!("{error}{held_back}"));
                }
            }
        }
    }

    fn run_prog(&mut self) {
        let (Some(tun), Some(server)) = (&self.tun, self.server) else {
            return;
        };
        let name = tun.current_name();
        let environment = [
            ("TUN_DEV_NAME", name.unwrap_or_else(|| tun.name().into())),
            ("TUN_MTU", self.config.common.mtu.to_string()),
            ("TUN_SERVER_ADDRESS", host(server)),
            ("TUN_SERVER_PORT", server.port().to_string()),
        ];
        self.prog = match self.hook.spawn(&environment) {
            Ok(pid) => Some(pid),
            Err(error) => {
                let (prog, reason) = (self.hook.program().display(), reason(&error));
                log::warning(format_args!("unable to run {prog}: {reason}"));
                None
            }
        };
    }

    // Signals.

    /// Returns the signal that ends the program, if that is what came.
    fn on_signals(&mut self, now: Instant) -> Option<Signal> {
        let signals = sys::take_signals();
        if signals.contains(Signal::SIGCHLD) {
            self.reap(now);
        }
        if signals.contains(Signal::SIGHUP) {
            let findings = self.authorized.reload(now);
            self.log_findings(findings, now);
            log::info(format_args!(
                "{} servers are authorised",
                self.authorized.len()
            ));
            self.resolver.start(now);
        }
        if signals.contains(Signal::SIGUSR1) {
            self.report(now);
        }
        [Signal::SIGTERM, Signal::SIGINT]
            .into_iter()
            .find(|&s| signals.contains(s))
    }

    fn reap(&mut self, now: Instant) {
        while let Some((pid, status)) = sys::reap() {
            let ending = hook::describe(status);
            if let Some(sender) = self.sender.take_if(|sender| sender.pid == pid) {
                let lived = now.saturating_duration_since(sender.started);
                self.sender_lost(lived, &ending, now);
            } else if let Some(answer) = self.resolver.ended(pid) {
                self.on_answer(answer, now);
            } else if self.prog.take_if(|prog| *prog == pid).is_some() {
                if self.rebuild.is_some() {
                    self.rebuild = Some(now);
                } else if !status.success() {
                    let prog = self.hook.program().display();
                    log::warning(format_args!("{prog} {ending}"));
                }
            }
        }
    }

    fn report(&self, now: Instant) {
        let device = self.tun.as_ref().and_then(Tun::current_name);
        let server = self.server.map_or("unresolved".into(), |a| a.to_string());
        let heard = self
            .keepalive
            .last_heard()
            .map_or("never heard".into(), |at| {
                format!(
                    "heard {} s ago",
                    now.saturating_duration_since(at).as_secs()
                )
            });
        let round_trip = self
            .keepalive
            .round_trip()
            .map_or("unknown".into(), |time| {
                format!(
                    "{}.{} ms",
                    time.as_millis(),
                    time.subsec_micros() % 1000 / 100
                )
            });
        log::info(format_args!(
            "status: device {}, server {server}, {heard}, round trip {round_trip}, received {} \
             packets {} bytes, dropped {}",
            device.as_deref().unwrap_or("none"),
            self.received,
            self.received_bytes,
            self.dropped
        ));
        if let Some(sender) = &self.sender {
            let _ = kill(sender.pid, Signal::SIGUSR1);
        }
    }

    /// Gives a PROG that still runs a moment to clean up while the device is there.
    fn stop(&mut self, now: Instant) {
        self.stop_sender();
        let Some(prog) = self.prog else {
            return;
        };
        hook::terminate(prog);
        let end = now + LAST_CLEAN_UP;
        let mut now = now;
        while now < end && self.prog.is_some() {
            let _ = self
                .socket
                .set_receive_timeout(end.saturating_duration_since(now));
            if !sys::signals_pending() {
                let _ = self.socket.receive(&mut self.buffer);
            }
            if sys::take_signals().contains(Signal::SIGCHLD) {
                while let Some((pid, _)) = sys::reap() {
                    self.prog.take_if(|prog| *prog == pid);
                }
            }
            now = Instant::now();
        }
    }

    fn log_findings(&mut self, findings: io::Result<Findings>, now: Instant) {
        let directory = self.authorized.directory().display();
        let findings = match findings {
            Ok(findings) => findings,
            Err(error) => {
                if let Some(held_back) = self.throttles.directory.pass(now) {
                    let reason = reason(&error);
                    log::warning(format_args!(
                        "unable to read {directory}: {reason}{held_back}"
                    ));
                }
                return;
            }
        };
        for (id, refusal) in &findings.refused {
            log::warning(format_args!("refused {directory}/{id}: {refusal}"));
        }
        if findings.foreign_names > 0 {
            log::warning(format_args!(
                "ignored {} names in {directory} that are not 16 lower-case hex digits",
                findings.foreign_names
            ));
        }
    }
}

/// Signals are caught, neither blocked nor ignored: PROG would inherit either.
fn catch_signals(socket: &Socket) -> io::Result<()> {
    sys::wake_by(Wake::Receive(socket.as_fd()));
    sys::catch_signals(&SIGNALS)?;
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// The address for `ip route`, with the interface of a link-local one.
fn host(server: SocketAddr) -> String {
    match server {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => match if_indextoname(v6.scope_id()) {
            Ok(name) => format!("{}%{}", v6.ip(), name.to_string_lossy()),
            Err(_) => v6.ip().to_string(),
        },
        _ => server.ip().to_string(),
    }
}
