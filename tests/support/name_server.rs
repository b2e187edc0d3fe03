//! A name server (RFC 1035) that knows one name, or says it does.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::host::Host;
use crate::worker::Worker;

/// Answers every question for an IPv4 address with the same one, until it is dropped.
pub struct NameServer {
    address: Arc<Mutex<Ipv4Addr>>,
    _worker: Worker,
}

impl NameServer {
    /// On port 53 of this host.
    pub fn start(host: &Host, address: Ipv4Addr) -> Self {
        let socket = host.run(|| UdpSocket::bind("0.0.0.0:53")).unwrap();
        let limit = Some(Duration::from_millis(50));
        socket.set_read_timeout(limit).unwrap();
        let address = Arc::new(Mutex::new(address));
        let (say, mut buffer) = (address.clone(), [0; 512]);
        let worker = Worker::start(move || {
            if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let address = *say.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = socket.send_to(&answer(&buffer[..len], address), from);
            }
        });
        Self {
            address,
            _worker: worker,
        }
    }

    /// Says something else from now on.
    pub fn say(&self, address: Ipv4Addr) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
}

/// The question again, and for type A (1) one record; nothing for any other.
fn answer(question: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let name = 12 + question[12..].iter().position(|&byte| byte == 0).unwrap();
    let end = name + 5;
    let is_a = question[name + 2] == 1;
    let mut answer = question[..2].to_vec();
    // A response, recursion available; one question, one answer or none.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    if is_a {
        // The name is that of the question; type A, class IN, lifetime 0, length 4.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}
