//! Links that are signed or sealed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use support::config::{SERVER_ID, client_id};
use support::lab::Lab;
use support::tunnel::{Client, Server};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Both ends of client 1 with this line in their files.
fn up(lab: &Lab, line: &str) -> (Server, Client) {
    let server = Server::new(&lab.server, []);
    server.config.key(&client_id(1), line);
    let client = Client::new(lab.client(), 1).options(&["-k", "1"]);
    client.config.key(SERVER_ID, line);
    (server.start(), client.start())
}

#[test]
#[ignore = "needs root"]
fn a_sealed_and_a_signed_ping() {
    for word in ["seal", "sign"] {
        let lab = Lab::direct();
        let (server, client) = up(&lab, &format!("{word} {KEY}\n"));
        client.wait_up();
        server.lines.wait(&format!("{word}, check value"));
        client.lines.wait(&format!("{word} session up"));
    }
}
