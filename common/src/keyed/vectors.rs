//! The published bytes of every message, under both words.

use std::time::{Duration, Instant};

use super::HEADER_LEN;
use super::cipher::{Key, hash, public};
use super::client::{self, Client, Due};
use super::derivation::Pair;
use super::secret::Word;
use super::server::{self, Server};
use super::testing::{CLIENT, SERVER, WORDS, all, packet, seal, secret, slot};

const TEXT: &str = include_str!("../../../tests/vectors/keyed.txt");

/// What the client's and the server's private keys are made of.
const EC: u8 = 0x11;
const ES: u8 = 0x22;

/// The bytes behind these words.
fn vector(name: &str) -> Vec<u8> {
    let mut lines = TEXT.lines().filter_map(|line| line.rsplit_once(' '));
    let (_, digits) = lines.find(|(words, _)| *words == name).expect(name);
    hex::decode(digits).expect("hex digits")
}

struct Vectors(Word);

impl Vectors {
    fn get(&self, name: &str) -> Vec<u8> {
        vector(&format!("{} {name}", self.0))
    }
}

#[test]
fn keys() {
    let (ec, es) = (Key::new([EC; 32]), Key::new([ES; 32]));
    let both = (public(&ec), public(&es));
    assert_eq!(both.0[..], vector("Ec"));
    assert_eq!(both.1[..], vector("Es"));
    for word in WORDS {
        let vectors = Vectors(word);
        let check = hex::encode(vectors.get("check"));
        let shown = format!("{word}, check value {check}");
        assert_eq!(secret(word).to_string(), shown);
        let pair = Pair::new(secret(word), CLIENT, SERVER);
        for (own, other) in [(&ec, &both.1), (&es, &both.0)] {
            let session = pair.session(own, other, (&both.0, &both.1));
            let session = session.expect("good points");
            for label in ["data", "ping", "down"] {
                assert_eq!(session.key(label).bytes()[..], vectors.get(label));
            }
            assert_eq!(session.name[..], vectors.get("name"));
        }
    }
}

/// Both sides speak the vectors, from the first OPEN to the nudge.
#[test]
fn messages() {
    for word in WORDS {
        let vectors = Vectors(word);
        let now = Instant::now();
        let mut client = Client::new(CLIENT, vec![(SERVER, secret(word))], None);
        let mut server = Server::new(secret(word), CLIENT, SERVER);

        let Due::Open(mut open) = client.on_deadline(now, &mut all(EC)) else {
            panic!("nothing due")
        };
        assert_eq!(open[..], vectors.get("OPEN-1"));
        let answer = server.on_datagram(&mut open, now, false, &mut all(ES));
        let Ok(server::Decision::Answer(mut answer)) = answer else {
            panic!("no answer")
        };
        assert_eq!(answer, vectors.get("CHAL-1"));
        let answer = client.on_datagram(&mut answer, now, &mut all(0));
        let Ok(client::Decision::Open(mut open)) = answer else {
            panic!("no answer")
        };
        assert_eq!(open[..], vectors.get("OPEN-2"));
        let answer = server.on_datagram(&mut open, now, true, &mut all(0));
        let Ok(server::Decision::Opened(mut answer)) = answer else {
            panic!("no session")
        };
        assert_eq!(answer, vectors.get("DATA-server-1"));
        let up = client.on_datagram(&mut answer, now, &mut all(0));
        let Ok(client::Decision::Up(mut up)) = up else {
            panic!("no session")
        };
        assert_eq!(up.ping[..], vectors.get("PING-1"));
        assert_eq!(up.packet, None);

        let mut data = slot(&packet());
        assert!(up.sealer.seal(&mut data));
        assert_eq!(data, vectors.get("DATA-client-1"));
        let sealed = data.clone();
        let range = HEADER_LEN..HEADER_LEN + packet().len();
        match server.on_datagram(&mut data, now, false, &mut all(0)) {
            Ok(server::Decision::Data {
                packet,
                moves: true,
            }) => assert_eq!(packet, range),
            _ => panic!("no packet"),
        }
        assert_eq!(data[range.clone()], packet());

        up.sealer.counter = 65535;
        let mut data = slot(&packet());
        assert!(up.sealer.seal(&mut data));
        assert_eq!(data, vectors.get("DATA-client-65536"));

        let mut data = slot(&packet());
        assert!(seal(&mut server, &mut data, now));
        assert_eq!(data, vectors.get("DATA-server-2"));
        match client.on_datagram(&mut data, now, &mut all(0)) {
            Ok(client::Decision::Data(packet)) => assert_eq!(packet, range),
            _ => panic!("no packet"),
        }
        assert_eq!(data[range], packet());

        // The server is restarted, with the same private key for the vector's sake.
        let mut server = Server::new(secret(word), CLIENT, SERVER);
        let mut data = sealed;
        let answer = server.on_datagram(&mut data, now, false, &mut all(ES));
        let Ok(server::Decision::Answer(mut answer)) = answer else {
            panic!("no nudge")
        };
        assert_eq!(answer, vectors.get("CHAL-nudge"));
        let later = now + Duration::from_secs(1);
        let open = client.on_datagram(&mut answer, later, &mut all(EC));
        assert!(matches!(open, Ok(client::Decision::Open(_))));
    }
}

/// RFC 7693, appendix B, has no key; this is from the test vectors that BLAKE2's authors publish.
#[test]
fn keyed_hash() {
    let key = Key::new(std::array::from_fn(|n| u8::try_from(n).expect("below 32")));
    let empty = "48a8997da407876b3d79c0d92325ad3b89cbb754d86ab71aee047ad345fd2c49";
    assert_eq!(
        hash(&key, &[]).bytes()[..],
        hex::decode(empty).expect("hex")
    );
}

#[test]
fn built_for_small_packets() {
    let backends = [
        cfg!(chacha20_backend = "soft"),
        cfg!(poly1305_backend = "soft"),
        cfg!(curve25519_dalek_backend = "serial"),
    ];
    assert_eq!(
        backends, [true; 3],
        "RUSTFLAGS replace those of .cargo/config.toml: repeat its --cfg there"
    );
}
