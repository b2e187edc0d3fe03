//! The packet path takes no memory from the heap.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![expect(unsafe_code, reason = "an allocator is unsafe by its nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::AsFd;

use common::datapath::exit::{Exit, Wrap};
use common::datapath::inbound::Inbound;
use common::datapath::outbound::Outbound;
use common::datapath::tally::Tally;
use common::io::datagrams::Datagrams;
use common::io::socket::{Bind, Socket};
use common::io::target::Target;
use common::io::tun::{Mode, Tun};
use common::wire::id::PeerId;
use common::wire::packet::{self, MAX_DATAGRAM, Payload};
use nix::poll::{PollFd, PollFlags, poll};
use support::host::Host;
use support::lab::{Lab, SERVER4};
use support::traffic::tcp_both_ways;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts for each thread what it asks for.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator does the work, and counting asks it for nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the promises that this one asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: it came from `alloc`, and so from there.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// One end of a tunnel without a program around it.
struct End {
    tun: Tun,
    socket: Socket,
    target: Target,
    outbound: Outbound,
    inbound: Inbound,
    datagrams: Datagrams,
}

impl End {
    fn new(host: &Host, inner: [&str; 2], far: &str, offload: bool) -> Self {
        let bind = Bind {
            address: None,
            port: 5886,
            mark: None,
            nonblocking: true,
            report_source: true,
            offload,
            mtu: 1420,
        };
        let mode = Mode {
            mtu: 1420,
            nonblocking: true,
            offload,
        };
        let (tun, socket) = host.run(move || (Tun::open(mode), Socket::bind(&bind)));
        let (tun, socket) = (tun.unwrap(), socket.unwrap());
        let (name, [own, other]) = (tun.name(), inner);
        host.ip(&format!("address add {own} peer {other} dev {name}"));
        host.ip(&format!("link set {name} up"));
        Self {
            tun,
            target: socket.target(format!("{far}:5886").parse().unwrap(), None),
            socket,
            outbound: Outbound::new(PeerId::from_bytes([7; PeerId::LEN]), offload),
            inbound: Inbound::default(),
            datagrams: Datagrams::new(MAX_DATAGRAM, 2),
        }
    }

    /// Carries what is there, both ways.
    fn turn(&mut self, tally: &mut Tally) {
        let mut exit = Exit {
            socket: &self.socket,
            wrap: Wrap::Plain,
            target: &mut self.target,
            tally,
        };
        let _ = self.outbound.carry(&self.tun, &mut exit);
        while self.socket.receive(&mut self.datagrams).is_ok() {
            for range in self.datagrams.ranges() {
                let datagram = packet::decapsulate(&self.datagrams.data[range.clone()]);
                if datagram.is_some_and(|(_, payload)| Payload::of(payload) == Payload::Packet) {
                    let at = range.start + packet::HEADER_LEN..range.end;
                    let _ = self
                        .inbound
                        .push(&self.tun, &self.datagrams.data, at, tally);
                }
            }
            let _ = self.inbound.flush(&self.tun, &self.datagrams.data, tally);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn no_packet_takes_memory_from_the_heap() {
    for offload in [true, false] {
        let lab = Lab::direct();
        let (near, far) = ("10.0.1.1", "10.0.1.2");
        let mut ends = [
            End::new(&lab.server, [near, far], "198.51.100.2", offload),
            End::new(lab.client(), [far, near], SERVER4, offload),
        ];
        let address = near.parse().unwrap();
        let transfer = tcp_both_ways(lab.client(), &lab.server, address, 2);
        let transfer = std::thread::spawn(move || transfer.join());
        let mut tally = Tally::default();
        let before = ALLOCATIONS.get();
        while !transfer.is_finished() {
            let [a, b] = &ends;
            let fds = [
                a.tun.as_fd(),
                a.socket.as_fd(),
                b.tun.as_fd(),
                b.socket.as_fd(),
            ];
            let mut wait = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let _ = poll(&mut wait, 10u8);
            ends.iter_mut().for_each(|end| end.turn(&mut tally));
        }
        let allocations = ALLOCATIONS.get() - before;
        transfer.join().unwrap();
        // 2 MiB each way, and each packet out of one device and into the other.
        let packets = tally.count.packets;
        println!("{packets} packets, {allocations} allocations, offload {offload}");
        assert!(packets > 4 * 2 * 1024 * 1024 / 1420);
        assert_eq!(allocations, 0);
        // The counter counts.
        let before = ALLOCATIONS.get();
        drop(std::hint::black_box(vec![0; 1]));
        assert_eq!(ALLOCATIONS.get() - before, 1);
    }
}
