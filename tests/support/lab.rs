//! Hosts and the cables between them.
//!
//! ```text
//! direct:   server 198.51.100.1 -------------- 198.51.100.2 client
//!           2001:db8::1                         2001:db8::2
//! routed:   server 198.51.100.1 -- .2 router -- 192.168.1.2 client 0
//!           2001:db8::1           wan  lan0     2001:db8:1::2
//!                                      lan1     192.168.2.2 client 1 ...
//! ```

use std::net::IpAddr;

use crate::host::Host;

/// The server's outer address, IPv4.
pub const SERVER4: &str = "198.51.100.1";
/// Where the server listens, for those who speak the wire format by hand.
pub const TO: (&str, u16) = (SERVER4, 5886);

/// The same as an address.
pub fn server_address() -> (IpAddr, u16) {
    (SERVER4.parse().unwrap(), 5886)
}
/// The server's outer address, IPv6.
pub const SERVER6: &str = "2001:db8::1";

/// Some hosts with cables between them.
pub struct Lab {
    /// Where jtunneld runs.
    pub server: Host,
    /// Between the server and the clients, if the lab has one.
    pub router: Option<Host>,
    /// Where clients run.
    pub clients: Vec<Host>,
}

/// Lays a cable between two hosts.
pub fn cable(a: &Host, a_device: &str, b: &Host, b_device: &str) {
    let b_name = b.name();
    a.ip(&format!(
        "link add {a_device} type veth peer name {b_device} netns {b_name}"
    ));
    a.ip(&format!("link set {a_device} up"));
    b.ip(&format!("link set {b_device} up"));
}

/// Gives addresses, with prefix lengths, to a device.
pub fn addresses(host: &Host, device: &str, addresses: &[&str]) {
    for address in addresses {
        host.ip(&format!("address add {address} dev {device}"));
    }
}

impl Lab {
    /// A server and a client with one cable.
    pub fn direct() -> Self {
        let (server, client) = (Host::new("server"), Host::new("client"));
        cable(&server, "eth0", &client, "eth0");
        addresses(&server, "eth0", &["198.51.100.1/24", "2001:db8::1/64"]);
        addresses(&client, "eth0", &["198.51.100.2/24", "2001:db8::2/64"]);
        Self {
            server,
            router: None,
            clients: vec![client],
        }
    }

    /// A server and some clients, each on a network of its own, with a router between.
    pub fn routed(clients: usize) -> Self {
        let (server, router) = (Host::new("server"), Host::new("router"));
        cable(&server, "eth0", &router, "wan");
        addresses(&server, "eth0", &["198.51.100.1/24", "2001:db8::1/64"]);
        addresses(&router, "wan", &["198.51.100.2/24", "2001:db8::2/64"]);
        server.ip("route add default via 198.51.100.2");
        server.ip("route add default via 2001:db8::2");
        router.sysctl("net/ipv4/ip_forward", "1");
        router.sysctl("net/ipv6/conf/all/forwarding", "1");
        let mut lab = Self {
            server,
            router: Some(router),
            clients: Vec::new(),
        };
        for _ in 0..clients {
            lab.add_client();
        }
        lab
    }

    /// As `routed`, and the router hides the clients' IPv4 addresses behind its own.
    pub fn behind_nat(clients: usize) -> Self {
        let lab = Self::routed(clients);
        lab.nat("masquerade");
        lab
    }

    fn add_client(&mut self) {
        let (number, client) = (self.clients.len(), Host::new("client"));
        let (lan, net) = (format!("lan{number}"), number + 1);
        cable(&client, "eth0", self.router(), &lan);
        let [own4, own6] = [
            format!("192.168.{net}.2/24"),
            format!("2001:db8:{net}::2/64"),
        ];
        let [gate4, gate6] = [format!("192.168.{net}.1"), format!("2001:db8:{net}::1")];
        addresses(&client, "eth0", &[&own4, &own6]);
        let gates = [format!("{gate4}/24"), format!("{gate6}/64")];
        addresses(self.router(), &lan, &gates.each_ref().map(String::as_str));
        client.ip(&format!("route add default via {gate4}"));
        client.ip(&format!("route add default via {gate6}"));
        self.clients.push(client);
    }

    /// The router, of a lab that has one.
    pub fn router(&self) -> &Host {
        self.router.as_ref().unwrap()
    }

    /// The first client's host.
    pub fn client(&self) -> &Host {
        &self.clients[0]
    }

    /// Makes the router translate source addresses anew: `masquerade`, or `snat to ADDRESS`.
    /// Mappings that exist stay as they are.
    pub fn nat(&self, how: &str) {
        self.router().nft(&format!(
            "table ip nat
             delete table ip nat
             table ip nat {{
                 chain postrouting {{
                     type nat hook postrouting priority 100
                     oifname wan {how}
                 }}
             }}"
        ));
    }

    /// Makes the router forget its mappings, as one that is switched off and on.
    pub fn forget_mappings(&self) {
        self.router().sh("conntrack -F 2>/dev/null");
    }
}
