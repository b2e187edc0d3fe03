//! The select() loop and both packet directions.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use common::authorized::{Authorized, Findings};
use common::error::{Context, Result, reason};
use common::hook::{self, Hook};
use common::id::PeerId;
use common::packet::{self, HEADER_LEN, MAX_DATAGRAM, Payload};
use common::socket::{Bind, Datagram, Socket, is_congestion, is_nothing};
use common::sys::{self, Wake};
use common::throttle::Throttle;
use common::tun::{Trouble, Tun};
use common::{identity, log};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::select::{FD_SETSIZE, FdSet, select};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::time::TimeVal;
use nix::unistd::{pipe2, read};

use crate::PEERS;
use crate::clients::{Client, Clients, Prog, Slot};
use crate::closer;
use crate::options::Config;
use crate::status::{Discards, Report};

/// How many packets one ready descriptor may hand over before the next one's turn.
const DRAIN: usize = 64;
/// Between two starts of PROG: 500 a second.
const START_INTERVAL: Duration = Duration::from_millis(2);
/// How long a PROG may clean up before its device goes.
const CLEAN_UP: Duration = Duration::from_secs(5);
/// The same when the program ends.
const LAST_CLEAN_UP: Duration = Duration::from_secs(1);
/// After a device could not be made, the next try.
const TUN_RETRY: Duration = Duration::from_secs(1);
/// Descriptors that are kept for PROG, the log and the configuration directory.
const RESERVED_DESCRIPTORS: u64 = 16;

const SIGNALS: [Signal; 5] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGCHLD,
];

/// The server: one socket, one tun device for each client.
pub(crate) struct Server {
    id: PeerId,
    socket: Socket,
    /// The reading end; the signal handler writes to the other.
    wake: OwnedFd,
    _wake_by: OwnedFd,
    /// All tun devices. It is a member of the select() set, so that a wake-up costs the same
    /// whatever the number of idle clients, and descriptors may pass 1024.
    tuns: Epoll,
    clients: Clients,
    authorized: Authorized,
    hook: Hook,
    mtu: u16,
    max_descriptor: u64,
    buffer: Box<[u8]>,
    /// Clients whose PROG is to be started.
    starts: VecDeque<PeerId>,
    next_start: Instant,
    /// Clients whose PROG was asked to end.
    closing: Vec<Slot>,
    next_tun: Instant,
    report: Option<Report>,
    discards: Discards,
    throttles: Throttles,
}

struct Throttles {
    unknown: Throttle,
    send: Throttle,
    receive: Throttle,
    tun: Throttle,
    looped: Throttle,
    directory: Throttle,
}

/// What select() found ready.
#[derive(Default)]
struct Ready {
    signals: bool,
    socket: bool,
    tuns: bool,
}

impl Server {
    /// Sets up all that can fail.
    pub(crate) fn new(config: Config) -> Result<Self> {
        let options = config.common;
        let hook = Hook::new(&config.prog, options.foreground)?;
        let id = match options.id {
            Some(id) => id,
            None => identity::load(&options.directory, PEERS)?,
        };
        let socket = Socket::bind(&Bind {
            address: options.bind_address,
            port: config.port,
            mark: options.mark,
            nonblocking: true,
            report_source: true,
        })?;
        let max_descriptor = raise_descriptor_limit()?;
        // A device made for a moment shows that devices can be made.
        drop(Tun::open(options.mtu, true)?);
        let (wake, wake_by) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .context(|| "create the signal pipe".into())?;
        let tuns = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .context(|| "create the set of tun devices".into())?;
        for fd in [socket.as_fd(), wake.as_fd(), tuns.0.as_fd()] {
            if !usize::try_from(fd.as_raw_fd()).is_ok_and(|fd| fd < FD_SETSIZE) {
                return Err(Errno::EMFILE)
                    .context(|| "put descriptors below 1024 in select()".into());
            }
        }
        let now = Instant::now();
        let mut server = Self {
            id,
            socket,
            wake,
            _wake_by: wake_by,
            tuns,
            clients: Clients::default(),
            authorized: Authorized::new(options.directory.join(PEERS), now),
            hook,
            mtu: options.mtu,
            max_descriptor,
            buffer: vec![0; HEADER_LEN + MAX_DATAGRAM].into(),
            starts: VecDeque::new(),
            next_start: now,
            closing: Vec::new(),
            next_tun: now,
            report: None,
            discards: Discards::default(),
            throttles: Throttles {
                unknown: Throttle::per_minute(),
                send: Throttle::per_minute(),
                receive: Throttle::per_minute(),
                tun: Throttle::per_minute(),
                looped: Throttle::per_minute(),
                directory: Throttle::per_minute(),
            },
        };
        server.catch_signals().context(|| "catch signals".into())?;
        Ok(server)
    }

    /// Signals are caught, neither blocked nor ignored: PROG would inherit either.
    fn catch_signals(&mut self) -> io::Result<()> {
        sys::wake_by(Wake::Pipe(self._wake_by.as_fd()));
        sys::catch_signals(&SIGNALS)?;
        SigSet::empty().thread_set_mask()?;
        Ok(())
    }

    /// Carries packets until a signal ends it.
    pub(crate) fn run(&mut self) {
        let findings = self.authorized.reload(Instant::now());
        self.log_findings(findings, Instant::now());
        let address = self.socket.local_address();
        log::info(format_args!(
            "started: identifier {}, listening on {}, {} authorised clients",
            self.id,
            address.map_or_else(|e| reason(&e), |a| a.to_string()),
            self.authorized.len()
        ));
        let mut now = Instant::now();
        loop {
            let ready = self.wait(self.next_deadline(), now);
            now = Instant::now();
            if ready.signals
                && let Some(signal) = self.on_signals(now)
            {
                log::info(format_args!("stopping: signal {}", &signal.as_str()[3..]));
                return self.stop(now);
            }
            if ready.tuns {
                self.drain_tuns(now);
            }
            if ready.socket {
                self.drain_socket(now);
            }
            self.on_deadlines(now);
        }
    }

    /// The one place where the server sleeps.
    fn wait(&self, deadline: Option<Instant>, now: Instant) -> Ready {
        let mut set = FdSet::new();
        let (wake, socket, tuns) = (self.wake.as_fd(), self.socket.as_fd(), self.tuns.0.as_fd());
        let mut highest = 0;
        for fd in [wake, socket, tuns] {
            set.insert(fd);
            highest = highest.max(fd.as_raw_fd());
        }
        let mut timeout = deadline.map(|at| time_val(at.saturating_duration_since(now)));
        match select(highest + 1, &mut set, None, None, &mut timeout) {
            Ok(_) => Ready {
                signals: set.contains(wake),
                socket: set.contains(socket),
                tuns: set.contains(tuns),
            },
            // EINTR: the handler has written to the pipe.
            Err(_) => Ready::default(),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        // Nothing to do on time is the rule; then there is no wake-up at all.
        let start = (!self.starts.is_empty()).then_some(self.next_start);
        let report = self.report.as_ref().map(Report::next);
        let closing = self
            .closing
            .iter()
            .filter_map(|&slot| self.clients.closing_at(slot))
            .min();
        [start, report, closing].into_iter().flatten().min()
    }

    fn on_deadlines(&mut self, now: Instant) {
        if !self.starts.is_empty() && now >= self.next_start {
            self.start_next(now);
        }
        if let Some(report) = &mut self.report
            && now >= report.next()
            && !report.go_on(&mut self.clients, self.authorized.len(), self.discards, now)
        {
            self.report = None;
        }
        if !self.closing.is_empty() {
            self.close_ended(now);
        }
    }

    /// Returns the signal that ends the program, if that is what came.
    fn on_signals(&mut self, now: Instant) -> Option<Signal> {
        let mut bytes = [0; 64];
        while read(&self.wake, &mut bytes).is_ok_and(|n| n == bytes.len()) {}
        let signals = sys::take_signals();
        if signals.contains(Signal::SIGCHLD) {
            self.reap();
        }
        if signals.contains(Signal::SIGHUP) {
            self.rescan(now);
        }
        if signals.contains(Signal::SIGUSR1) {
            self.report = Some(Report::new(&self.clients, now));
        }
        [Signal::SIGTERM, Signal::SIGINT]
            .into_iter()
            .find(|&s| signals.contains(s))
    }

    // Out: tun -> encapsulate -> endpoint.

    fn drain_tuns(&mut self, now: Instant) {
        let mut ready = [EpollEvent::empty(); DRAIN];
        let count = self.tuns.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
        for event in &ready[..count] {
            if let Ok(slot) = Slot::try_from(event.data()) {
                self.drain_tun(slot, now);
            }
        }
    }

    fn drain_tun(&mut self, slot: Slot, now: Instant) {
        let Some(client) = self.clients.get(slot) else {
            return;
        };
        self.buffer[..HEADER_LEN].copy_from_slice(self.id.as_bytes());
        for _ in 0..DRAIN {
            let len = match client.tun.receive(&mut self.buffer[HEADER_LEN..]) {
                Ok(len) => len,
                Err(Trouble::Nothing | Trouble::Lost) => return,
                Err(Trouble::Gone) => return self.device_gone(slot, now),
            };
            let datagram = &self.buffer[..HEADER_LEN + len];
            if packet::is_addressed_to(&datagram[HEADER_LEN..], client.endpoint) {
                client.dropped += 1;
                if let Some(held_back) = self.throttles.looped.pass(now) {
                    log::warning(format_args!(
                        "client {}: dropped a packet for its own address and port: the tunnel \
                         is routed into itself{held_back}",
                        client.id
                    ));
                }
                continue;
            }
            match self.socket.send(&[IoSlice::new(datagram)], &client.target) {
                Ok(()) => client.sent.add(len),
                Err(error) => {
                    client.dropped += 1;
                    log_lost(&mut self.throttles.send, &error, client.endpoint, now);
                }
            }
        }
    }

    // In: socket -> decapsulate -> authorised? -> roam -> tun.

    fn drain_socket(&mut self, now: Instant) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..DRAIN {
            match self.socket.receive(&mut buffer) {
                Ok(datagram) => self.on_datagram(&datagram, &buffer[..datagram.len], now),
                Err(error) if is_nothing(&error) => break,
                Err(error) => {
                    if let Some(held_back) = self.throttles.receive.pass(now) {
                        let reason = reason(&error);
                        log::warning(format_args!("unable to receive: {reason}{held_back}"));
                    }
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    fn on_datagram(&mut self, datagram: &Datagram, data: &[u8], now: Instant) {
        if datagram.truncated {
            self.discards.truncated += 1;
            return;
        }
        if datagram.from.port() == 0 {
            self.discards.port_zero += 1;
            return;
        }
        let Some((id, payload)) = packet::decapsulate(data) else {
            self.discards.short += 1;
            return;
        };
        let Some(slot) = self.admit(id, datagram, now) else {
            return;
        };
        let Some(client) = self.clients.get(slot) else {
            return;
        };
        client.heard = now;
        if client.endpoint != datagram.from || client.source != datagram.source {
            roam(client, datagram, &self.socket, now);
        }
        match payload {
            Payload::Packet(packet) => match client.tun.send(packet) {
                Ok(()) => client.received.add(packet.len()),
                Err(Trouble::Gone) => self.device_gone(slot, now),
                Err(Trouble::Lost | Trouble::Nothing) => client.dropped += 1,
            },
            Payload::Keepalive(counter) => {
                let answer = packet::answer(self.id, counter);
                if let Err(error) = self.socket.try_send(&answer, &client.target) {
                    log_lost(&mut self.throttles.send, &error, client.endpoint, now);
                }
            }
            Payload::Alive | Payload::Answer(_) | Payload::Other => {}
        }
    }

    /// The slot of the client that sent this, which is made if the client is authorised.
    fn admit(&mut self, id: PeerId, datagram: &Datagram, now: Instant) -> Option<Slot> {
        if let Some(slot) = self.clients.find(id) {
            // While it is being closed PROG still cleans up; a new tunnel comes after.
            return self.clients.closing_at(slot).is_none().then_some(slot);
        }
        if !self.is_authorized(id, now) {
            self.discards.unknown += 1;
            if let Some(held_back) = self.throttles.unknown.pass(now) {
                log::warning(format_args!(
                    "dropped a datagram of client {id} from {}: not authorised{held_back}",
                    datagram.from
                ));
            }
            return None;
        }
        if now < self.next_tun {
            return None;
        }
        match self.open_tun() {
            Ok(tun) => self.insert(id, tun, datagram, now),
            Err(error) => {
                self.next_tun = now + TUN_RETRY;
                if let Some(held_back) = self.throttles.tun.pass(now) {
                    log::warning(format_args!("client {id}: {error}{held_back}"));
                }
                None
            }
        }
    }

    fn is_authorized(&mut self, id: PeerId, now: Instant) -> bool {
        if self.authorized.contains(id) {
            return true;
        }
        let Some(findings) = self.authorized.rescan(now) else {
            return false;
        };
        self.log_findings(findings, now);
        self.authorized.contains(id)
    }

    fn open_tun(&mut self) -> Result<Tun> {
        let tun = Tun::open(self.mtu, true)?;
        let number = u64::try_from(tun.as_fd().as_raw_fd()).unwrap_or_default();
        if number + RESERVED_DESCRIPTORS >= self.max_descriptor {
            return Err(Errno::EMFILE).context(|| "create a tun device".into());
        }
        // A deleted device leaves its name to the next one, while PROG still cleans up after it.
        for &slot in &self.closing {
            if self
                .clients
                .get(slot)
                .is_some_and(|c| c.tun.name() == tun.name())
            {
                return Err(Errno::EBUSY).context(|| format!("use {} again", tun.name()));
            }
        }
        Ok(tun)
    }

    fn insert(&mut self, id: PeerId, tun: Tun, datagram: &Datagram, now: Instant) -> Option<Slot> {
        let slot = self.clients.next_slot();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, slot as u64);
        if let Err(errno) = self.tuns.add(&tun, event) {
            log::warning(format_args!(
                "unable to watch {}: {}",
                tun.name(),
                errno.desc()
            ));
            return None;
        }
        log::info(format_args!(
            "client {id} admitted from {} on {}",
            datagram.from,
            tun.name()
        ));
        let target = self.socket.target(datagram.from, datagram.source);
        let (from, source) = (datagram.from, datagram.source);
        self.clients
            .insert(Client::new(id, tun, from, source, target, now));
        self.starts.push_back(id);
        Some(slot)
    }

    // PROG.

    fn start_next(&mut self, now: Instant) {
        self.next_start = now + START_INTERVAL;
        let slot = self.starts.pop_front().and_then(|id| self.clients.find(id));
        let Some(client) = slot.and_then(|slot| self.clients.get(slot)) else {
            return;
        };
        if client.prog != Prog::Waiting || client.closing.is_some() {
            return;
        }
        let name = client.tun.current_name();
        let environment = [
            (
                "TUN_DEV_NAME",
                name.unwrap_or_else(|| client.tun.name().into()),
            ),
            ("TUN_CLIENT_ID", client.id.hex()),
            ("TUN_MTU", self.mtu.to_string()),
        ];
        client.prog = match self.hook.spawn(&environment) {
            Ok(pid) => Prog::Running(pid),
            Err(error) => {
                let (prog, reason) = (self.hook.program().display(), reason(&error));
                log::warning(format_args!(
                    "client {}: unable to run {prog}: {reason}",
                    client.id
                ));
                Prog::Ended
            }
        };
    }

    fn reap(&mut self) {
        while let Some((pid, status)) = sys::reap() {
            // Others are helpers that closed devices.
            let Some((_, client)) = self.clients.by_prog(pid) else {
                continue;
            };
            client.prog = Prog::Ended;
            if client.closing.is_none() && !status.success() {
                let ending = hook::describe(status);
                let prog = self.hook.program().display();
                log::warning(format_args!("client {}: {prog} {ending}", client.id));
            }
        }
    }

    // Closing.

    /// Re-reads authorisation and forgets every client that is gone from the directory.
    fn rescan(&mut self, now: Instant) {
        let findings = self.authorized.reload(now);
        self.log_findings(findings, now);
        let (clients, authorized) = (&mut self.clients, &self.authorized);
        let gone: Vec<Slot> = clients
            .iter()
            .filter(|(_, c)| c.closing.is_none() && !authorized.contains(c.id))
            .map(|(slot, _)| slot)
            .collect();
        for slot in gone {
            self.forget(slot, now);
        }
        log::info(format_args!(
            "{} clients are authorised",
            self.authorized.len()
        ));
    }

    fn device_gone(&mut self, slot: Slot, now: Instant) {
        if let Some(client) = self.clients.get(slot) {
            let (id, name) = (client.id, client.tun.name());
            log::warning(format_args!("client {id}: device {name} is gone"));
        }
        self.forget(slot, now);
    }

    /// Asks PROG to clean up. The device is closed when that has ended, or after a while.
    fn forget(&mut self, slot: Slot, now: Instant) {
        let Some(client) = self.clients.get(slot) else {
            return;
        };
        // At once: the set reports a deleted device for ever.
        let _ = self.tuns.delete(&client.tun);
        if let Prog::Running(pid) = client.prog {
            hook::terminate(pid);
        }
        client.closing = Some(now + CLEAN_UP);
        self.closing.push(slot);
    }

    fn close_ended(&mut self, now: Instant) {
        let clients = &mut self.clients;
        let mut tuns = Vec::new();
        self.closing.retain(|&slot| {
            let Some(client) = clients.get(slot) else {
                return false;
            };
            let runs = matches!(client.prog, Prog::Running(_));
            if runs && client.closing.is_some_and(|at| now < at) {
                return true;
            }
            if let Some(client) = clients.remove(slot) {
                let (id, name) = (client.id, client.tun.name());
                log::info(format_args!("client {id} forgotten, {name} closed"));
                tuns.push(client.tun);
            }
            false
        });
        closer::close_all(tuns, self.socket.as_fd());
    }

    /// Gives every PROG that still runs a moment to clean up while its device is there.
    fn stop(&mut self, now: Instant) {
        let running = |clients: &mut Clients| -> Vec<_> {
            let progs = clients.iter().map(|(_, client)| client.prog);
            progs
                .filter_map(|p| {
                    if let Prog::Running(pid) = p {
                        Some(pid)
                    } else {
                        None
                    }
                })
                .collect()
        };
        for pid in running(&mut self.clients) {
            hook::terminate(pid);
        }
        for (_, client) in self.clients.iter() {
            client.closing = Some(now);
        }
        let end = now + LAST_CLEAN_UP;
        let mut now = now;
        while now < end && !running(&mut self.clients).is_empty() {
            let mut set = FdSet::new();
            set.insert(self.wake.as_fd());
            let mut timeout = time_val(end.saturating_duration_since(now));
            if select(
                self.wake.as_raw_fd() + 1,
                &mut set,
                None,
                None,
                &mut timeout,
            )
            .is_ok_and(|n| n > 0)
            {
                let _ = self.on_signals(now);
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

/// Follows a client to the address that its last packet came from, address and port together.
fn roam(client: &mut Client, datagram: &Datagram, socket: &Socket, now: Instant) {
    let from = std::mem::replace(&mut client.endpoint, datagram.from);
    client.source = datagram.source;
    client.target = socket.target(datagram.from, datagram.source);
    if from != datagram.from
        && let Some(held_back) = client.moves.pass(now)
    {
        let (id, to) = (client.id, client.endpoint);
        log::info(format_args!(
            "client {id} moved from {from} to {to}{held_back}"
        ));
    }
}

/// A packet is lost and the next one may pass: a line now and then, and on.
fn log_lost(throttle: &mut Throttle, error: &io::Error, to: SocketAddr, now: Instant) {
    if is_congestion(error) {
        return;
    }
    if let Some(held_back) = throttle.pass(now) {
        let reason = reason(error);
        log::warning(format_args!("unable to send to {to}: {reason}{held_back}"));
    }
}

/// Raises the limit on descriptors as far as it goes, since each client takes one.
fn raise_descriptor_limit() -> Result<u64> {
    let doing = || "raise the limit on descriptors".to_owned();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context(doing)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context(doing)?;
    Ok(hard)
}

/// Rounded up, so that the deadline has come when select() returns.
fn time_val(duration: Duration) -> TimeVal {
    let micros = duration.as_nanos().div_ceil(1000);
    TimeVal::new(
        (micros / 1_000_000).try_into().unwrap_or(1),
        (micros % 1_000_000).try_into().unwrap_or(0),
    )
}
