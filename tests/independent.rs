//! The other implementation of keyed links agrees with the vectors and with itself.

use std::net::IpAddr;

use support::independent::{client, command, ping, server};
use support::lab::{Lab, SERVER6, server_address};
use support::tree;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER: &str = "100102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn line(word: &str, key: &str) -> String {
    format!("{word} {key}")
}

#[test]
#[ignore = "needs root"]
fn it_reproduces_the_vectors() {
    let vectors = tree::root().join("tests/vectors/keyed.txt");
    let output = command().arg("--vectors").arg(vectors).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "all 30 lines reproduced\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
#[ignore = "needs root"]
fn both_ends_of_it_speak_with_each_other() {
    let lab = Lab::direct();
    for (word, address) in [("seal", server_address().0), ("sign", ip(SERVER6))] {
        let (key, at) = (line(word, KEY), (address, 5886));
        let mut server = server(&lab.server, 1, &key, at);
        server.lines.wait("port 5886");
        let mut client = client(lab.client(), 1, &key, at, 1);
        ping(&mut client, "10.0.0.2", "10.0.0.1");
        ping(&mut server, "10.0.0.1", "10.0.0.2");
        // The server restarts: the client's next packet brings it back, by a nudge.
        server.tell("forget");
        ping(&mut client, "10.0.0.2", "10.0.0.1");
        client.lines.wait("nudged");
        // Another session, while the old one goes on.
        client
            .lines
            .clone()
            .wait_next(" up", || client.tell("open"));
        // Another port.
        client.tell("port");
        server.lines.clone().wait_next("address ", || {
            client.tell("ping 10.0.0.2 10.0.0.1");
        });
        ping(&mut server, "10.0.0.1", "10.0.0.2");
        // Others are for what comes late on a busy machine, behind another session for instance.
        for reason in ["wrong tag", "forged", "replayed"] {
            server.lines.exactly(reason, 0);
            client.lines.exactly(reason, 0);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn another_key_or_word_opens_nothing() {
    let lab = Lab::direct();
    for (ours, theirs) in [
        (line("seal", KEY), line("sign", KEY)),
        (line("sign", KEY), line("seal", KEY)),
        (line("seal", KEY), line("seal", OTHER)),
    ] {
        let server = server(&lab.server, 1, &ours, server_address());
        server.lines.wait("port 5886");
        let client = client(lab.client(), 1, &theirs, server_address(), 1);
        server
            .lines
            .wait_nth("dropped: a handshake with a wrong tag", 2);
        assert_eq!(client.lines.count("challenged"), 0);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
