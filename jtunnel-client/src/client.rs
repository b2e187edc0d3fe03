//! The parent process: what it holds, and its loop. The packet path is in `receive`; `endpoint`,
//! `child` and `device` keep what may change: the server's address, the sender, the tun; `session` is
//! the link to keyed servers, `signals` what signals ask for, and `report` what SIGUSR1 asks for.

mod child;
mod device;
mod endpoint;
mod receive;
mod report;
mod session;
mod signals;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Instant;

use common::backoff::Restart;
use common::datapath::alone::Alone;
use common::datapath::inbound::Inbound;
use common::datapath::outbound::Outbound;
use common::datapath::tally::{Count, Tally};
use common::datapath::trouble::TroubleLog;
use common::hook::Hook;
use common::io::datagrams::Datagrams;
use common::io::socket::{Bind, Socket, would_block};
use common::io::target::Target;
use common::io::tun::{Mode, Tun};
use common::keyed::Sealer;
use common::keyed::secret::Word;
use common::peers::authorized::Authorized;
use common::report::error::{Context, Error, Result, reason};
use common::report::log;
use common::report::throttle::Throttle;
use common::startup::identity;
use common::startup::options::{Action, Common};
use common::startup::program::Program;
use common::sys;
use common::wire::id::PeerId;
use common::wire::packet::MAX_DATAGRAM;
use nix::errno::Errno;
use nix::unistd::Pid;

use self::report::State;
use self::session::Link;
use crate::counts::Counts;
use crate::keepalive::Keepalive;
use crate::options::{self, Config};
use crate::resolver::Resolver;
use crate::timeout::ReceiveTimeout;

/// The client: one socket, one tun device, one child that sends.
pub(crate) struct Client {
    config: Config,
    id: PeerId,
    bind: Bind,
    socket: Socket,
    tun_mode: Mode,
    /// `None` after the device was deleted, until there is a new one.
    tun: Option<Tun>,
    /// The one before, while PROG cleans up.
    closing: Option<Tun>,
    rebuild: Option<Instant>,
    rebuilds: Restart,
    authorized: Authorized,
    /// With keyed servers.
    link: Option<Box<Link>>,
    /// The strongest word that was ever found, and the least that is spoken.
    word: Option<Word>,
    /// Of the session, for the child that is about to start.
    sealer: Option<Box<Sealer>>,
    /// A file with a key was found in passing.
    choose: bool,
    /// While no file can be used: when to look for new ones.
    next_look: Option<Instant>,
    /// With `-A`: the one that has answered.
    trusted: Option<PeerId>,
    hook: Hook,
    /// PROG, while it runs.
    prog: Option<Pid>,
    /// How it ended last.
    prog_status: Option<ExitStatus>,
    /// After it could not be started.
    prog_start: Option<Instant>,
    resolver: Resolver,
    /// All addresses of the server.
    addresses: Vec<SocketAddr>,
    /// The one in use; `None` until the name was resolved.
    server: Option<Target>,
    /// The one that the log named last.
    told: Option<SocketAddr>,
    /// The one that the last keepalive of a search went to.
    asked: Option<SocketAddr>,
    /// Those that a search has tried since it had a line.
    tried: Vec<SocketAddr>,
    /// The child, while it runs.
    sender: Option<Pid>,
    /// Where it tells what it has sent.
    counts: Option<Counts>,
    /// What it and those before it have sent, as far as they could tell.
    sent: Count,
    sender_start: Option<Instant>,
    sender_restarts: Restart,
    /// Since when the senders' lines are counted against their rate.
    sender_logs: Option<Instant>,
    keepalive: Keepalive,
    timeout: ReceiveTimeout,
    started: Instant,
    outbound: Outbound,
    inbound: Inbound,
    /// Whether datagrams come one by one.
    alone: Alone,
    /// What the socket receives.
    datagrams: Datagrams,
    received: Tally,
    /// With `-S`.
    state: Option<State>,
    trouble: TroubleLog,
    throttles: Throttles,
}

struct Throttles {
    foreign: Throttle,
    unauthorized: Throttle,
    receive: Throttle,
    socket: Throttle,
    tun: Throttle,
    prog: Throttle,
}

impl Program for Client {
    const NAME: &'static str = "jtunnel-client";
    const USAGE: &'static str = options::USAGE;
    const PEERS: &'static str = "servers";
    type Config = Config;

    fn parse(arguments: &[OsString]) -> Result<Action<Config>> {
        options::parse(arguments)
    }

    fn common(config: &Config) -> &Common {
        &config.common
    }

    fn is_by_files(config: &Config) -> bool {
        !config.accept_any
    }

    fn new(config: Config) -> Result<Self> {
        let options = &config.common;
        let hook = Hook::new(&config.prog, options.foreground)?;
        let id = identity::of(options, Self::PEERS)?;
        let bind = Bind {
            address: options.bind_address,
            port: options.bind_port.unwrap_or(0),
            mark: options.mark,
            nonblocking: false,
            report_source: false,
            offload: options.offload,
            mtu: options.mtu,
        };
        let socket = Socket::bind(&bind)?;
        let resolver = Resolver::new(config.address.clone(), config.port);
        // A name may come to mean another address, a literal one never will.
        if let Some(server) = resolver.literal().filter(|&a| !socket.reaches(a)) {
            let local = socket
                .local_address()
                .context(|| "read the address of the UDP socket".into())?;
            return Err(Errno::EAFNOSUPPORT).context(|| format!("send to {server} from {local}"));
        }
        let now = Instant::now();
        let directory = options.directory.join(Self::PEERS);
        let mut authorized = Authorized::new(directory, options.keyed_only, now);
        if config.accept_any && authorized.find_key(now) {
            return Err(Error::Usage(
                "-A accepts any server, but a file here has a key".into(),
            ));
        }
        let tun_mode = Mode {
            mtu: options.mtu,
            nonblocking: false,
            offload: options.offload,
        };
        let tun = Tun::open(tun_mode)?;
        signals::catch_signals(&socket).context(|| "catch signals".into())?;
        // No identifier depends on it but with -A: a start does not fail for it.
        let counter = sys::random_at_once().map_or(0, u32::from_ne_bytes);
        let state_file = options.state_file.clone();
        let state = state_file.map(State::new).transpose()?;
        Ok(Self {
            id,
            bind,
            socket,
            tun_mode,
            tun: Some(tun),
            closing: None,
            rebuild: None,
            rebuilds: Restart::default(),
            authorized,
            link: None,
            word: None,
            sealer: None,
            choose: false,
            next_look: None,
            trusted: None,
            hook,
            prog: None,
            prog_status: None,
            prog_start: None,
            resolver,
            addresses: Vec::new(),
            server: None,
            told: None,
            asked: None,
            tried: Vec::new(),
            sender: None,
            counts: None,
            sent: Count::default(),
            sender_start: None,
            sender_restarts: Restart::default(),
            sender_logs: None,
            keepalive: Keepalive::new(config.keepalive, counter, now),
            timeout: ReceiveTimeout::new(now),
            started: now,
            outbound: Outbound::new(id, options.offload),
            inbound: Inbound::default(),
            alone: Alone::default(),
            datagrams: Datagrams::new(MAX_DATAGRAM, receive::ROOMS),
            received: Tally::default(),
            state,
            trouble: TroubleLog::default(),
            throttles: Throttles {
                foreign: Throttle::per_minute(),
                unauthorized: Throttle::per_minute(),
                receive: Throttle::per_minute(),
                socket: Throttle::per_minute(),
                tun: Throttle::per_minute(),
                prog: Throttle::per_minute(),
            },
            config,
        })
    }

    fn run(&mut self) {
        let mut now = Instant::now();
        self.log_start();
        if !self.config.accept_any {
            self.authorized.reload(now);
            self.choose_servers(now);
        }
        match self.resolver.literal() {
            Some(address) => self.use_addresses(vec![address], now),
            None => self.resolver.start(now),
        }
        loop {
            if !self.timeout.holds(now) {
                self.on_deadlines(now);
                let (deadline, socket) = (self.next_deadline(now), &self.socket);
                self.timeout
                    .arm(deadline, now, |limit| socket.set_receive_timeout(limit));
            }
            // After arming: a signal from here on shortens the time-out again.
            if sys::signals_pending() {
                now = Instant::now();
                if let Some(signal) = self.on_signals(now) {
                    return self.stop(signal, now);
                }
                self.timeout.reset();
                continue;
            }
            now = self.receive();
        }
    }
}

impl Client {
    fn log_start(&self) {
        log::info(format_args!(
            "started: identifier {}, device {}, server {} port {}",
            self.id,
            self.tun.as_ref().map_or("none", Tun::name),
            self.config.address,
            self.config.port
        ));
    }

    /// The one place where the parent sleeps. Returns the time at which it woke.
    fn receive(&mut self) -> Instant {
        // Nothing waits from one turn to the next.
        self.datagrams.clear();
        let result = self.socket.receive(&mut self.datagrams);
        let now = Instant::now();
        match result {
            Ok(()) => self.drain_socket(now),
            Err(error) if would_block(error) => self.timeout.reset(),
            Err(error) => {
                if let Some(held_back) = self.throttles.receive.pass(now) {
                    let reason = reason(&error.into());
                    log::warning(format_args!(
                        "unable to receive from the UDP socket: {reason}{held_back}"
                    ));
                }
            }
        }
        now
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let keepalive = self.keepalive.next().filter(|_| self.server.is_some());
        [
            keepalive,
            self.keepalive.overdue(),
            self.resolver.next(),
            self.sender_start,
            self.prog_start,
            self.hook.next_hearing(),
            self.state_due(),
            self.rebuild,
            self.session_deadline(now),
            self.next_look,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_deadlines(&mut self, now: Instant) {
        if std::mem::take(&mut self.choose) {
            self.choose_servers(now);
        } else if self.next_look.is_some_and(|at| now >= at) {
            self.look_again(now);
        }
        if self.rebuild.is_some_and(|at| now >= at) {
            self.rebuild_tun(now);
        }
        if self.prog_start.is_some_and(|at| now >= at) {
            self.run_prog(now);
        }
        if self.hook.next_hearing().is_some_and(|at| now >= at) {
            self.hook.hear(now);
        }
        if self.state_due().is_some_and(|at| now >= at) {
            self.on_state_due(now);
        }
        self.resolver.on_deadline(now);
        if self.sender_start.is_some_and(|at| now >= at) {
            self.start_sender(now);
        }
        self.on_session_deadline(now);
        if self.server.is_some() && self.keepalive.is_due(now) {
            let was_searching = self.keepalive.is_searching();
            // Who sends nothing hears nothing.
            if self.keepalive.take_silence() && !self.is_mute() {
                self.on_silence(!was_searching, now);
            }
            self.send_keepalive(now);
            // A PROG that stays may have said something.
            self.hook.hear(now);
        }
        if self.keepalive.take_overdue(now) && !self.is_mute() {
            self.log_search(now);
        }
    }
}
