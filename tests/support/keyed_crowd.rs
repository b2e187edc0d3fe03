//! Many clients of keyed links that only keep alive. They hold the client's side of the protocol,
//! and each has a socket of its own.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::keyed::client::{Client, Decision, Due};
use common::keyed::secret::{Content, parse};
use common::sys::try_random;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{SERVER_ID, bytes, client_id, key_line};
use crate::host::Host;
use crate::wait::PATIENCE;

/// Between two tries of one that is not answered.
const PACE: Duration = Duration::from_secs(1);

/// The clients of some numbers.
pub struct KeyedCrowd {
    members: Vec<Member>,
    ready: Epoll,
}

struct Member {
    socket: UdpSocket,
    keyed: Client,
    is_answered: bool,
}

impl KeyedCrowd {
    /// On this host, talking to an address and port, protected by `sign` or `seal`.
    pub fn new(host: &Host, word: &str, numbers: RangeInclusive<u16>, to: (IpAddr, u16)) -> Self {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let ready = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let member = |(place, number)| {
            let socket = host.run(move || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect(to).unwrap();
                socket
            });
            socket.set_nonblocking(true).unwrap();
            let event = EpollEvent::new(EpollFlags::EPOLLIN, place);
            ready.add(&socket, event).unwrap();
            let Ok(Content::Keyed(secret)) = parse(key_line(word).as_bytes()) else {
                panic!("no key");
            };
            let servers = vec![(bytes(SERVER_ID), Rc::new(secret))];
            Member {
                socket,
                keyed: Client::new(bytes(&client_id(number)), servers, None),
                is_answered: false,
            }
        };
        let members = (0..).zip(numbers).map(member).collect();
        Self { members, ready }
    }

    /// All talk: those with a session ping, the others open one. Those that are not answered talk
    /// again after a second, until all are. Returns how long it took.
    #[track_caller]
    pub fn knock(&mut self) -> Duration {
        let since = Instant::now();
        self.members.iter_mut().for_each(Member::forget);
        let (mut left, mut turn) = (self.members.len(), since);
        let mut events = [EpollEvent::empty(); 64];
        while left > 0 {
            assert!(since.elapsed() < PATIENCE, "{left} get no answer");
            if Instant::now() >= turn {
                turn += PACE;
                for member in self.members.iter_mut().filter(|m| !m.is_answered) {
                    member.talk();
                    // Not all in one moment: they are hosts of their own.
                    std::thread::sleep(Duration::from_micros(20));
                }
            }
            let count = self.ready.wait(&mut events, 10u8).unwrap();
            for event in &events[..count] {
                let place = usize::try_from(event.data()).unwrap();
                left -= usize::from(self.members[place].receive());
            }
        }
        since.elapsed()
    }

    /// All want another session the next time they talk.
    pub fn renew(&mut self) {
        self.members.iter_mut().for_each(|m| m.keyed.renew());
    }
}

impl Member {
    /// What has come so far is not an answer to what is asked from now on.
    fn forget(&mut self) {
        let is_over = |error: io::Error| error.kind() == ErrorKind::WouldBlock;
        while !self.socket.recv(&mut [0; 256]).is_err_and(is_over) {}
        self.is_answered = false;
    }

    fn send(&self, datagram: &[u8]) {
        // Before the server is there the port is unreachable.
        let _ = self.socket.send(datagram);
    }

    fn talk(&mut self) {
        if let Due::Open(open) = self.keyed.on_deadline(Instant::now(), &mut try_random) {
            self.send(&open);
        } else if let Some(ping) = self.keyed.ping() {
            self.send(&ping);
        }
    }

    /// Takes a datagram. Returns whether it is the first that shows that the server has a session.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; 256];
        let Ok(len) = self.socket.recv(&mut buffer) else {
            return false;
        };
        let datagram = &mut buffer[..len];
        match self
            .keyed
            .on_datagram(datagram, Instant::now(), &mut try_random)
        {
            Ok(Decision::Open(open)) => self.send(&open),
            Ok(Decision::Up(up)) => {
                self.send(&up.ping);
                return !std::mem::replace(&mut self.is_answered, true);
            }
            Ok(Decision::Heard) => return !std::mem::replace(&mut self.is_answered, true),
            Ok(Decision::Data(_)) | Err(_) => {}
        }
        false
    }
}
