//! Installs the Debian package of `make deb` into a fresh Debian, runs the programs from its units
//! under the systemd of that, in a container, against a server and a client on another host, and
//! removes the package again.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by a panic"
)]

mod debian;

use std::fs;

use support::config::SERVER_ID;
use support::lab::{Lab, addresses};
use support::traffic::wait_ping;
use support::tree::{example, root};
use support::tunnel::{Client, Server};
use support::wait::{PATIENCE, wait_until};

use crate::debian::Debian;

/// The clients of server-up.
const WORKSHOP: &str = "1f3a5c7e9b2d4f60";
const FARM: &str = "8c0e2a4c6e80a2c4";
const UNITS: [&str; 3] = ["jtunneld", "jtunnel-client", "jtunnel-client@second"];
/// What systemd-analyze may find at most, in tenths; without the units' own lines it is 96.
const EXPOSURE: u32 = 30;
/// CAP_NET_ADMIN and CAP_NET_RAW.
const CAPABILITIES: &str = "0000000000003000";

fn main() {
    let lab = Lab::direct();
    // The addresses of the manual.
    addresses(&lab.server, "eth0", &["192.0.2.1/24"]);
    addresses(lab.client(), "eth0", &["192.0.2.2/24"]);
    let mut debian = Debian::new(lab.client());
    comes_and_goes(&debian);
    debian.sh("dpkg -i /jtunnel.deb");
    debian.boot();
    nothing_is_started(&debian);
    clients(&lab, &debian);
    rules_that_networkd_leaves(&lab, &debian);
    server(&lab, &debian);
    removed_while_it_runs(&debian);
    println!("the package and its units: passed");
}

/// Installed, the programs and manuals are there; removed, /etc/jtunnel is left, and then nothing.
fn comes_and_goes(debian: &Debian) {
    let before = debian.files();
    debian.sh("dpkg -i /jtunnel.deb");
    let version = env!("CARGO_PKG_VERSION");
    for program in ["jtunneld", "jtunnel-client"] {
        let said = debian.sh(&format!("{program} -V"));
        assert_eq!(said.trim(), format!("{program} {version}"));
        assert!(
            debian
                .sh(&format!("man -w 8 {program}"))
                .contains("/usr/share/man")
        );
    }
    debian.sh("man -w 7 jtunnel");
    let page = debian.sh("man jtunneld");
    assert!(page.contains("/usr/share/examples/jtunnel") && !page.contains("local/share"));
    for entry in fs::read_dir(root().join("man/examples")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let directory = match name.ends_with(".service") {
            true => "/usr/lib/systemd/system",
            false => "/usr/share/examples/jtunnel",
        };
        debian.sh(&format!("test -s {directory}/{name}"));
    }
    debian.sh("test -x /usr/share/examples/jtunnel/server-up");
    for unit in UNITS {
        let unit = unit.replace("second", "");
        let verify = format!("systemd-analyze verify /usr/lib/systemd/system/{unit}.service 2>&1");
        assert_eq!(debian.status(&verify), "", "{unit}");
    }
    debian.sh("jtunneld -I");
    debian.sh("dpkg -r jtunnel");
    let left: Vec<_> = debian.files().difference(&before).cloned().collect();
    assert!(left.contains(&"/etc/jtunnel/id".to_owned()), "{left:?}");
    assert!(
        left.iter().all(|file| file.starts_with("/etc/jtunnel")),
        "{left:?}"
    );
    debian.sh("dpkg -P jtunnel");
    let left: Vec<_> = debian.files().difference(&before).cloned().collect();
    assert_eq!(left, Vec::<String>::new());
}

fn nothing_is_started(debian: &Debian) {
    for unit in UNITS {
        assert_eq!(
            debian.status(&format!("systemctl is-active {unit}")),
            "inactive"
        );
        assert_eq!(
            debian.status(&format!("systemctl is-enabled {unit}")),
            "disabled"
        );
        // systemd's own look at each unit.
        let exposure = format!("systemd-analyze security --no-pager {unit}");
        let said = debian.sh(&exposure);
        println!("{unit}: {}", said.trim().lines().last().unwrap());
        debian.sh(&format!("{exposure} --threshold={EXPOSURE}"));
    }
}

/// The plain unit and one of the template, to two servers with an identifier for each.
fn clients(lab: &Lab, debian: &Debian) {
    let server = Server::new(&lab.server, []);
    server.config.authorise(WORKSHOP);
    server.config.authorise(FARM);
    let server = server.start_with(&[example("server-up")]);
    debian.configure("/etc/jtunnel", WORKSHOP, &format!("servers/{SERVER_ID}"));
    debian.configure("/etc/jtunnel/second", FARM, &format!("servers/{SERVER_ID}"));
    debian.place("client-up");
    // PROG tells what it may not do.
    debian.write(
        "/etc/jtunnel/second-up",
        "#!/bin/sh\n/etc/jtunnel/client-up \"$@\" || exit\n{\n\
         for place in /usr /root /home /var /run /boot /etc; do touch $place/breach && echo $place; done\n\
         mknod /tmp/breach c 1 1 && echo a device\n\
         unshare -m true && echo a namespace\n\
         touch /tmp/breach /run/jtunnel-client@second/breach && echo fine\n\
         } >/etc/jtunnel/said 2>/etc/jtunnel/errors\n",
    );
    debian.write(
        "/etc/jtunnel/second.conf",
        "ARGUMENTS=-d /etc/jtunnel/second 192.0.2.1 5886 /etc/jtunnel/second-up 10.99.0.12 fd00:99::12\n",
    );
    debian.sh("chmod 700 /etc/jtunnel/*-up; systemctl enable --now jtunnel-client");
    server.lines.wait("client 1f3a... admitted from 192.0.2.2:");
    wait_ping(lab.client(), "10.99.0.1".parse().unwrap());
    debian.sh("systemctl enable --now jtunnel-client@second");
    server.lines.wait("client 8c0e... admitted from 192.0.2.2:");
    wait_until(PATIENCE, "what PROG says", || {
        debian.read("/etc/jtunnel/said") == "fine\n"
    });
    for unit in ["jtunnel-client", "jtunnel-client@second"] {
        assert_confined(debian, unit);
        debian.sh(&format!("systemctl reload {unit}"));
        debian.sh(&format!("systemctl kill --kill-who=main -s USR1 {unit}"));
        for line in ["authorised servers: 1", "status: device tun"] {
            wait_until(PATIENCE, line, || debian.log(unit).contains(line));
        }
    }
    debian.sh("systemctl restart jtunnel-client");
    wait_ping(lab.client(), "10.99.0.1".parse().unwrap());
    debian.sh("systemctl disable --now jtunnel-client@second jtunnel-client");
    assert_eq!(lab.client().tuns(), Vec::<String>::new());
    // The prefix alone: systemd's own directories may be there.
    assert_eq!(
        debian.sh("find /run -name '*jtunnel*' -not -path '/run/systemd/*'"),
        ""
    );
}

/// Few rights, and as the manual says.
fn assert_confined(debian: &Debian, unit: &str) {
    let status = debian.sh(&format!(
        "cat /proc/$(systemctl show -P MainPID {unit})/status"
    ));
    for line in [format!("CapBnd:\t{CAPABILITIES}"), "NoNewPrivs:\t1".into()] {
        assert!(status.contains(&line), "{unit}: {status}");
    }
}

/// networkd, real and of this Debian, deletes the rules of others, and leaves these.
fn rules_that_networkd_leaves(lab: &Lab, debian: &Debian) {
    let server = Server::new(&lab.server, []);
    server.config.authorise(FARM);
    let _server = server.start_with(&[example("server-up")]);
    for name in ["clamp-mss", "client-policy-route", "stay-and-clean"] {
        debian.place(name);
    }
    debian.write(
        "/etc/systemd/network/eth0.network",
        "[Match]\nName=eth0\n[Network]\nAddress=192.0.2.2/24\nGateway=192.0.2.254\n",
    );
    debian.sh("ip address flush dev eth0; systemctl start systemd-networkd");
    debian.write(
        "/etc/jtunnel/second.conf",
        "ARGUMENTS=-d /etc/jtunnel/second -M 5886 192.0.2.1 5886 /etc/jtunnel/stay-and-clean \
         /etc/jtunnel/client-policy-route 10.99.0.12 fd00:99::12\n",
    );
    debian.sh("systemctl start jtunnel-client@second");
    let rules = || debian.sh("ip rule; ip -6 rule");
    wait_until(PATIENCE, "the rules", || {
        rules().matches("588").count() >= 8
    });
    let before = rules();
    debian.sh("ip rule add pref 7777 lookup main; networkctl reconfigure eth0");
    wait_until(PATIENCE, "the end of a rule that is not its own", || {
        !rules().contains("7777:")
    });
    assert_eq!(rules(), before);
    wait_ping(lab.client(), "10.99.0.1".parse().unwrap());
    debian.sh("systemctl stop jtunnel-client@second");
    assert!(!rules().contains("588"), "{}", rules());
    assert!(!debian.log("jtunnel-client@second").contains("Terminated"));
    debian.sh("systemctl stop systemd-networkd.socket systemd-networkd");
}

/// The server's unit; a port below 1024 needs a drop-in, and so a new start after an upgrade.
fn server(lab: &Lab, debian: &Debian) {
    debian.sh("rm -r /etc/jtunnel/*");
    debian.configure("/etc/jtunnel", SERVER_ID, &format!("clients/{WORKSHOP}"));
    debian.place("server-up");
    let drop_in = "[Service]\nExecStart=\nExecStart=/usr/sbin/jtunneld -p 500 -P /run/%N/pid /etc/jtunnel/server-up\n";
    let file = "/etc/systemd/system/jtunneld.service.d/port.conf";
    debian.write(file, drop_in);
    assert_eq!(debian.status("systemctl daemon-reload; systemctl start jtunneld 2>/dev/null || echo refused; systemctl stop jtunneld"), "refused");
    debian.write(
        file,
        &format!("{drop_in}CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n"),
    );
    debian.sh("systemctl daemon-reload; systemctl reset-failed jtunneld; systemctl start jtunneld; systemctl stop jtunneld");
    debian.sh(&format!(
        "rm -r $(dirname {file}); systemctl daemon-reload; systemctl enable --now jtunneld"
    ));
    assert_confined(debian, "jtunneld");
    let client = Client::new(&lab.server, 1);
    let _client = client
        .to("192.0.2.2")
        .options(&["-i", WORKSHOP, "-k", "1"])
        .start_with(&[example("client-up")]);
    wait_ping(&lab.server, "10.99.0.1".parse().unwrap());
    debian.sh("systemctl reload jtunneld");
    wait_until(PATIENCE, "a line", || {
        debian.log("jtunneld").contains("authorised clients: 1")
    });
    let main = || debian.sh("systemctl show -P MainPID jtunneld");
    let before = main();
    debian.sh("dpkg -i /jtunnel.deb");
    assert_ne!(main(), before);
    wait_ping(&lab.server, "10.99.0.1".parse().unwrap());
}

fn removed_while_it_runs(debian: &Debian) {
    debian.sh("dpkg -r jtunnel");
    assert_eq!(debian.status("systemctl is-active jtunneld"), "inactive");
    let find = "find /etc /usr /run /var/lib -name '*jtunnel*' -not -path '/var/lib/dpkg/*' -not -path '/usr/share/doc/*'";
    assert_eq!(debian.sh(find).trim(), "/etc/jtunnel");
    debian.sh("dpkg -P jtunnel");
    debian.sh("test ! -e /etc/jtunnel");
}

/// The package of `make deb`.
fn package() -> String {
    let directory = root().join("target/debian");
    let files = fs::read_dir(&directory).unwrap().flatten();
    let mut packages = files.map(|entry| entry.path().display().to_string());
    packages.find(|path| path.ends_with(".deb")).unwrap()
}
