//! The server: what it holds, and the select() loop. The packet path is in `forward`, the way
//! in for new clients in `admission`, the way out in `closing`; `handshake` has the datagrams of
//! keyed links, `reporting` what SIGUSR1 asks for.

mod admission;
mod closing;
mod forward;
mod handshake;
mod reporting;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::datapath::alone::Alone;
use common::datapath::outbound::Outbound;
use common::datapath::tally::Totals;
use common::datapath::trouble::TroubleLog;
use common::hook::Hook;
use common::io::datagrams::Datagrams;
use common::io::socket::{Bind, Socket};
use common::io::tun::{Mode, Tun};
use common::io::watch::{Watch, Watched};
use common::peers::authorized::Authorized;
use common::report::error::{Context, Result, reason};
use common::report::log;
use common::report::ring::Ring;
use common::report::state::StateFile;
use common::report::throttle::Throttle;
use common::startup::identity;
use common::startup::options::{Action, Common};
use common::startup::program::Program;
use common::sys::{self, Wake};
use common::wire::id::PeerId;
use common::wire::packet::MAX_DATAGRAM;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{pipe2, read, write};

use self::forward::{MAX_READY, ROOMS};
use crate::clients::{Clients, Slot};
use crate::gathering::Gathering;
use crate::link::Waiting;
use crate::losses::Losses;
use crate::options::{self, Config};
use crate::status::{Discards, Report};

/// After select() or epoll_wait() failed, the next try.
const WAIT_RETRY: Duration = Duration::from_millis(10);

/// The server: one socket, one tun device for each client.
pub(crate) struct Server {
    id: PeerId,
    socket: Socket,
    /// The reading end; the signal handler writes to the other.
    wake: OwnedFd,
    wake_by: OwnedFd,
    /// What the server sleeps for.
    watch: Watch,
    watched: Members,
    /// All tun devices. It is a member of the select() set, so that a wake-up costs the same
    /// whatever the number of idle clients, and descriptors may pass 1024.
    tuns: Epoll,
    /// Those of them that have packets.
    ready: [EpollEvent; MAX_READY],
    clients: Clients,
    authorized: Authorized,
    hook: Hook,
    tun_mode: Mode,
    max_descriptor: rlim_t,
    outbound: Outbound,
    /// What the socket has received, on its way to the devices.
    gathering: Gathering,
    /// Whether datagrams come one by one.
    alone: Alone,
    /// How many turns in a row have left datagrams in the socket.
    turns_behind: u32,
    /// Whether each client is kept to its share of a turn.
    is_overloaded: bool,
    /// What the socket receives.
    datagrams: Datagrams,
    /// Clients whose PROG is to be started.
    starts: VecDeque<PeerId>,
    next_start: Instant,
    /// Clients whose PROG was asked to end.
    closing: Vec<Slot>,
    next_tun: Instant,
    losses: Losses,
    /// The links of keyed clients without a device.
    waiting: Waiting,
    /// When to look for sessions that are too old.
    next_erase: Option<Instant>,
    started: Instant,
    /// What those carried that were forgotten.
    past: Totals,
    report: Option<Report>,
    state_file: Option<StateFile>,
    discards: Discards,
    trouble: TroubleLog,
    throttles: Throttles,
}

struct Throttles {
    wait: Throttle,
    malformed: Throttle,
    unknown: Ring<PeerId>,
    keyed: Ring<PeerId>,
    receive: Throttle,
    tun: Ring<PeerId>,
    prog: Ring<PeerId>,
}

/// The members of the select() set.
struct Members {
    signals: Watched,
    /// PROG's.
    words: Watched,
    /// Either of these: for a packet one look is enough.
    seldom: Watched,
    socket: Watched,
    tuns: Watched,
}

impl Program for Server {
    const NAME: &'static str = "jtunneld";
    const USAGE: &'static str = options::USAGE;
    const PEERS: &'static str = "clients";
    type Config = Config;

    fn parse(arguments: &[OsString]) -> Result<Action<Config>> {
        options::parse(arguments)
    }

    fn common(config: &Config) -> &Common {
        &config.common
    }

    fn is_by_files(_: &Config) -> bool {
        true
    }

    fn new(config: Config) -> Result<Self> {
        let options = config.common;
        let hook = Hook::new(&config.prog, options.foreground)?;
        let id = identity::of(&options, Self::PEERS)?;
        let socket = Socket::bind(&Bind {
            address: options.bind_address,
            port: config.port,
            mark: options.mark,
            nonblocking: true,
            report_source: true,
            offload: options.offload,
            mtu: options.mtu,
        })?;
        let tun_mode = Mode {
            mtu: options.mtu,
            nonblocking: true,
            offload: options.offload,
        };
        let max_descriptor = raise_descriptor_limit()?;
        let (wake, wake_by) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .context(|| "create the signal pipe".into())?;
        let tuns = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .context(|| "create the set of tun devices".into())?;
        let mut watch = Watch::default();
        let mut add = |fd: BorrowedFd<'_>| {
            let added = watch.add(fd);
            added.context(|| format!("wait for descriptor {} with select()", fd.as_raw_fd()))
        };
        let (signals, words) = (add(wake.as_fd())?, add(hook.words())?);
        let watched = Members {
            signals,
            words,
            seldom: signals.or(words),
            socket: add(socket.as_fd())?,
            tuns: add(tuns.0.as_fd())?,
        };
        // A device made for a moment shows that devices can be made.
        admission::keep_reserve(&Tun::open(tun_mode)?, max_descriptor)?;
        let state_file = options.state_file.map(StateFile::new).transpose()?;
        let now = Instant::now();
        let server = Self {
            id,
            socket,
            wake,
            wake_by,
            watch,
            watched,
            tuns,
            ready: [EpollEvent::empty(); MAX_READY],
            clients: Clients::default(),
            authorized: Authorized::new(
                options.directory.join(Self::PEERS),
                options.keyed_only,
                now,
            ),
            hook,
            tun_mode,
            max_descriptor,
            outbound: Outbound::new(id, options.offload),
            gathering: Gathering::default(),
            alone: Alone::default(),
            turns_behind: 0,
            is_overloaded: false,
            datagrams: Datagrams::new(MAX_DATAGRAM, ROOMS),
            starts: VecDeque::new(),
            next_start: now,
            closing: Vec::new(),
            next_tun: now,
            losses: Losses::default(),
            waiting: Waiting::default(),
            next_erase: None,
            started: now,
            past: Totals::default(),
            report: None,
            state_file,
            discards: Discards::default(),
            trouble: TroubleLog::default(),
            throttles: Throttles {
                wait: Throttle::per_minute(),
                malformed: Throttle::per_minute(),
                unknown: Ring::new(),
                keyed: Ring::new(),
                receive: Throttle::per_minute(),
                tun: Ring::new(),
                prog: Ring::new(),
            },
        };
        server.catch_signals().context(|| "catch signals".into())?;
        Ok(server)
    }

    fn run(&mut self) {
        self.authorized.reload(Instant::now());
        let address = self.socket.local_address();
        log::info(format_args!(
            "started: identifier {}, listening on {}, {} authorised clients{}",
            self.id,
            address.map_or_else(|e| reason(&e), |a| a.to_string()),
            self.authorized.count(),
            self.authorized.protections()
        ));
        let mut deadline = None;
        loop {
            if let Err(error) = self.watch.wait(deadline) {
                self.wait_failed(error);
            }
            if self.watch.is_ready(self.watched.seldom)
                && let Some(signal) = self.on_seldom()
            {
                return self.stop(signal);
            }
            if self.watch.is_ready(self.watched.tuns) {
                self.drain_tuns();
            }
            if self.watch.is_ready(self.watched.socket) {
                self.drain_socket();
            }
            deadline = self.on_deadlines();
        }
    }
}

impl Server {
    /// Signals are caught, neither blocked nor ignored: PROG would inherit either.
    fn catch_signals(&self) -> io::Result<()> {
        sys::wake_by(Wake::Pipe(self.wake_by.as_fd()));
        sys::catch_signals(&sys::PROGRAM_SIGNALS)?;
        if sys::signals_pending() {
            // It came during the set-up.
            write(&self.wake_by, &[0])?;
        }
        SigSet::empty().thread_set_mask()?;
        Ok(())
    }

    /// It may last, so that the loop must not go round at full speed.
    #[cold]
    fn wait_failed(&mut self, error: Errno) {
        if error == Errno::EINTR {
            // The handler has written to the pipe.
            return;
        }
        if let Some(held_back) = self.throttles.wait.pass(Instant::now()) {
            let reason = reason(&error.into());
            log::warning(format_args!(
                "unable to wait for packets: {reason}{held_back}"
            ));
        }
        sleep(WAIT_RETRY);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let start = (!self.starts.is_empty()).then_some(self.next_start);
        let report = self.report.as_ref().map(Report::next);
        let closing = self
            .closing
            .iter()
            .filter_map(|&slot| self.clients.closing_at(slot))
            .min();
        let hearing = self.hook.next_hearing();
        [start, report, closing, hearing, self.next_erase]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due, and returns when more is.
    fn on_deadlines(&mut self) -> Option<Instant> {
        let hearing = self.hook.next_hearing();
        if self.starts.is_empty()
            && self.report.is_none()
            && self.closing.is_empty()
            && hearing.is_none()
            && self.next_erase.is_none()
        {
            // That is the rule: no wake-up at all, nor a look at the clock.
            return None;
        }
        let now = Instant::now();
        if !self.starts.is_empty() && now >= self.next_start {
            self.start_next(now);
        }
        if self
            .report
            .as_ref()
            .is_some_and(|report| now >= report.next())
        {
            self.go_on_reporting(now);
        }
        if !self.closing.is_empty() {
            self.close_ended(now);
        }
        if hearing.is_some_and(|at| now >= at) {
            self.hear_prog(now);
        }
        if self.next_erase.is_some_and(|at| now >= at) {
            self.erase_sessions(now);
        }
        self.next_deadline()
    }

    /// While PROG speaks it is heard now and then, however much it says.
    fn hear_prog(&mut self, now: Instant) {
        self.hook.hear(now);
        self.wait_for_words();
    }

    /// Words wake the server, unless there is a time for the next hearing.
    fn wait_for_words(&mut self) {
        let is_silent = self.hook.next_hearing().is_none();
        self.watch.set(self.watched.words, is_silent);
    }

    /// Returns the signal that ends the program, if that is what came.
    #[cold]
    fn on_seldom(&mut self) -> Option<Signal> {
        if self.watch.is_ready(self.watched.words) {
            self.hear_prog(Instant::now());
        }
        match self.watch.is_ready(self.watched.signals) {
            true => self.on_signals(),
            false => None,
        }
    }

    /// Returns the signal that ends the program, if that is what came.
    fn on_signals(&mut self) -> Option<Signal> {
        let mut bytes = [0; 64];
        while read(&self.wake, &mut bytes).is_ok_and(|n| n == bytes.len()) {}
        let signals = sys::take_signals();
        if signals.contains(Signal::SIGCHLD) {
            self.reap();
        }
        if signals.contains(Signal::SIGHUP) {
            self.rescan();
        }
        if signals.contains(Signal::SIGUSR1) {
            self.begin_report(Instant::now());
        }
        [Signal::SIGTERM, Signal::SIGINT]
            .into_iter()
            .find(|&s| signals.contains(s))
    }
}

/// Raises the limit on descriptors as far as it goes, since each client takes one. What can't be
/// raised (above fs.nr_open, for one) stays. Returns the limit.
fn raise_descriptor_limit() -> Result<rlim_t> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context(|| "read the limit on descriptors".into())?;
    Ok(match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    })
}
