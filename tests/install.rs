//! `make install` into an empty root, and the start files from there, as they are.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use support::host::Host;
use support::lab::{Lab, addresses};
use support::manual::block;
use support::process::Process;
use support::tree::root;
use support::wait::{PATIENCE, wait_until};
use support::{proc, programs};

/// The first client of server-up.
const WORKSHOP: &str = "1f3a5c7e9b2d4f60";
/// What an init has in its environment.
const PATH: &str = "/sbin:/usr/sbin:/bin:/usr/bin";

/// A root directory with busybox and what `make install` puts there, and nothing else.
struct Root {
    host: Host,
    path: PathBuf,
    prefix: &'static str,
}

impl Root {
    fn new(host: &Host, prefix: &'static str) -> Self {
        let path = host.path("root");
        let root = Self {
            host: host.clone(),
            path: path.clone(),
            prefix,
        };
        for directory in ["bin", "dev", "etc", "proc", "run", "tmp", "var/log"] {
            fs::create_dir_all(path.join(directory)).unwrap();
        }
        symlink("/run", path.join("var/run")).unwrap();
        root.make("install");
        let busybox = which("busybox");
        root.copy_libraries(&busybox);
        root.copy_to(&busybox, &path.join("bin/busybox"));
        host.run(move || {
            let (bind, nothing) = (MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>);
            for directory in ["dev", "proc"] {
                let from = Path::new("/").join(directory);
                mount(Some(&from), &path.join(directory), nothing, bind, nothing).unwrap();
            }
        });
        let output = root.output(&["/bin/busybox", "--install", "-s", "/bin"]);
        assert!(output.status.success(), "{output:?}");
        root
    }

    /// Runs make(1) for a target, with programs that are built already.
    fn make(&self, target: &str) {
        let built = ["jtunneld", "jtunnel-client"].map(|program| self.program(program));
        let mut command = Command::new("make");
        command
            .args(["-s", "-C", root().to_str().unwrap(), target])
            .arg(format!("DESTDIR={}", self.path.display()))
            .arg(format!("PREFIX={}", self.prefix))
            .arg(format!("built={}", built.join(" ")))
            .env_remove("MAKEFLAGS");
        let output = self.host.output(command);
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }

    /// The file to be installed as this program. What it needs to run is put into the root.
    fn program(&self, name: &str) -> String {
        let command = programs::command(name);
        let mut words = vec![which(command.get_program().to_str().unwrap())];
        words.extend(command.get_args().map(|a| a.to_str().unwrap().to_owned()));
        let files = words.iter().filter(|word| word.starts_with('/'));
        files.for_each(|file| self.copy_libraries(file));
        words.extend(programs::flags());
        if words.len() == 1 {
            return words.remove(0);
        }
        // A runner, or flags from outside: a script in the program's place knows them.
        let files = words.iter().filter(|word| word.starts_with('/'));
        files.for_each(|file| self.copy(file));
        let script = format!("exec {} \"$@\"", words.join(" "));
        let script = self.host.script(name, &script);
        script.to_str().unwrap().to_owned()
    }

    /// What a file needs to run that is not linked statically.
    fn copy_libraries(&self, file: &str) {
        let said = Command::new("ldd").arg(file).output().unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        let libraries = said.split_whitespace().filter(|w| w.starts_with('/'));
        libraries.for_each(|library| self.copy(library));
    }

    fn copy(&self, file: &str) {
        let to = self.path.join(&file[1..]);
        if !to.exists() {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            self.copy_to(file, &to);
        }
    }

    /// By another process: what is open for writing here may get into one that another thread
    /// forks, and can't be executed as long as it is there.
    fn copy_to(&self, from: &str, to: &Path) {
        self.host.sh(&format!("cp {from} {}", to.display()));
    }

    /// A command in the root.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.path).args(words).env_clear();
        command.env("PATH", PATH);
        command
    }

    fn output(&self, words: &[&str]) -> Output {
        self.host.output(self.command(words))
    }

    /// Runs a shell command in the root, which must work and have nothing to complain about.
    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let output = self.output(&["/bin/sh", "-c", script]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{script}: {}: {said}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(&file[1..])).unwrap_or_default()
    }

    #[track_caller]
    fn wait_log(&self, text: &str) {
        wait_until(PATIENCE, &format!("{text:?} in the log"), || {
            self.read("/var/log/messages").contains(text)
        });
    }

    /// Copies an installed example to its place.
    fn place(&self, example: &str, to: &str) {
        let directory = format!("{}/share/examples/jtunnel", self.prefix);
        self.sh(&format!(
            "mkdir -p $(dirname {to}); cp {directory}/{example} {to}; chmod 700 {to}"
        ));
    }

    /// The daemon that wrote this file.
    fn daemon(&self, pid_file: &str) -> Pid {
        Pid::from_raw(self.read(pid_file).trim().parse().unwrap())
    }

    /// Ends a daemon by its pid file, and expects nothing of it to be left.
    fn end(&self, pid_file: &str) {
        let pid = self.daemon(pid_file);
        self.sh(&format!("kill $(cat {pid_file})"));
        wait_until(PATIENCE, "the end of a daemon", || !proc::runs(pid));
        self.wait_log("stopping: signal TERM");
        assert!(!self.path.join(&pid_file[1..]).exists());
        assert_eq!(self.host.tuns(), Vec::<String>::new());
    }
}

fn which(program: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", "command -v \"$1\"", "sh", program]);
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(output.starts_with('/'), "{program}: {output}");
    output.trim().to_owned()
}

/// Two roots whose identifiers know each other, each with its PROG and a syslogd.
struct Sites {
    server: Root,
    client: Root,
    _logs: [Process; 2],
    _lab: Lab,
}

impl Sites {
    fn new(prefix: &'static str) -> Self {
        let lab = Lab::direct();
        // The addresses of the manual.
        addresses(&lab.server, "eth0", &["192.0.2.1/24"]);
        addresses(lab.client(), "eth0", &["192.0.2.2/24"]);
        let server = Root::new(&lab.server, prefix);
        let client = Root::new(lab.client(), prefix);
        let own = server.sh(&format!("{prefix}/sbin/jtunneld -I"));
        let other = client.sh(&format!("{prefix}/sbin/jtunnel-client -I"));
        server.sh(&format!("touch /etc/jtunnel/clients/{other}"));
        client.sh(&format!("touch /etc/jtunnel/servers/{own}"));
        server.place("server-up", "/etc/jtunnel/server-up");
        server.sh(&format!(
            "sed -i s/{WORKSHOP}/{other}/ /etc/jtunnel/server-up"
        ));
        client.place("client-up", "/etc/jtunnel/client-up");
        let logs = [&server, &client].map(|root| {
            let process = Process::spawn(&root.host, root.command(&["/bin/syslogd", "-n"]));
            wait_until(PATIENCE, "syslogd", || {
                root.host.run(|| Path::new("/dev/log").exists())
            });
            process
        });
        Self {
            server,
            client,
            _logs: logs,
            _lab: lab,
        }
    }

    #[track_caller]
    fn wait_ping(&self) {
        let words = ["/bin/ping", "-c", "1", "-W", "1", "10.99.0.1"];
        wait_until(PATIENCE, "a ping", || {
            self.client.output(&words).status.success()
        });
    }
}

#[test]
#[ignore = "needs root"]
fn from_rc_local_in_a_root_of_busybox() {
    let sites = Sites::new("/usr/local");
    let (server, client) = (&sites.server, &sites.client);
    for (root, example, pid_file) in [
        (server, "rc.local.server", "/run/jtunneld.pid"),
        (client, "rc.local.client", "/run/jtunnel-client.pid"),
    ] {
        root.place(example, "/etc/rc.local");
        assert_eq!(root.sh("/etc/rc.local"), "");
        assert!(proc::runs(root.daemon(pid_file)));
    }
    sites.wait_ping();
    server.wait_log(" admitted from 192.0.2.2:");
    client.wait_log(" answers from 192.0.2.1:5886");
    let log = server.read("/var/log/messages");
    let line = log.lines().find(|line| line.contains("listening on"));
    assert!(line.unwrap().contains(" daemon.info jtunneld["), "{log}");
    // With few rights, by setpriv of util-linux.
    client.end("/run/jtunnel-client.pid");
    let setpriv = which("setpriv");
    client.copy_libraries(&setpriv);
    client.copy(&setpriv);
    let command = block("jtunnel-client.8", "does the same for the rights");
    client.sh(&format!(
        "rm -f /bin/setpriv; PATH=$PATH:/usr/local/sbin; {}",
        command.replace("setpriv", &setpriv)
    ));
    sites.wait_ping();
    let daemon = client.daemon("/run/jtunnel-client.pid");
    // CAP_NET_ADMIN and CAP_NET_RAW.
    let rights = |field| proc::status(daemon, field).unwrap();
    assert_eq!(rights("CapBnd"), "0000000000003000");
    assert_eq!(rights("NoNewPrivs"), "1");
    // Taking the client out, but for the editor.
    let own = client.read("/etc/jtunnel/id");
    let script = block("jtunnel.7", "To take a client out again").replace(WORKSHOP, own.trim());
    let (commands, editor) = script.rsplit_once('\n').unwrap();
    assert_eq!(editor, "vi /etc/jtunnel/server-up");
    server.sh(commands);
    server.wait_log(" forgotten, tun0 closed");
    client.end("/run/jtunnel-client.pid");
    // Stopping ends when the server has, and when there is none.
    let pid_file = server.path.join("run/jtunneld.pid");
    let number = fs::read(&pid_file).unwrap();
    let stop = block("jtunnel.7", "Stopping, upgrading, removing");
    server.sh(&stop);
    assert!(!pid_file.exists());
    fs::write(&pid_file, number).unwrap();
    let output = server.output(&["/bin/sh", "-c", &stop]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("No such process"),
        "{said}"
    );
    for root in [server, client] {
        root.make("uninstall");
        let left = root
            .host
            .sh("find root/usr/local ! -type d -o -name '*jtunnel*'");
        assert_eq!(left, "");
    }
}

/// What OpenWrt's rc.common and procd are to a service: each call becomes a line.
const RC_COMMON: &str = r#"
for name in open_instance set_param close_instance add_reload_interface_trigger send_signal; do
    eval "procd_$name() { echo $name \"\$@\" >>/tmp/procd; }"
done
# OpenWrt has one of its own, too.
logread() { [ "$1" = -e ] && grep "$2" /var/log/messages; }
. "$1"
[ "$USE_PROCD" = 1 ] || exit
case $2 in
start) start_service && service_triggers ;;
reload) reload_service ;;
status) status_service ;;
esac
"#;

#[test]
#[ignore = "needs root"]
fn the_service_of_procd() {
    let sites = Sites::new("/usr");
    let (server, client) = (&sites.server, &sites.client);
    server.place("rc.local.server", "/etc/rc.local");
    server.sh("/etc/rc.local");
    client.place("jtunnel.init", "/etc/init.d/jtunnel");
    fs::write(client.path.join("etc/rc.common"), RC_COMMON).unwrap();
    // Manuals and units name the places that were chosen.
    let elsewhere = "grep -rlE '/usr/local/(share/examples|sbin/jtunnel)' /usr/share";
    assert_eq!(client.output(&["/bin/sh", "-c", elsewhere]).stdout, b"");
    client.sh("/etc/init.d/jtunnel start && /etc/init.d/jtunnel reload");
    let calls = client.read("/tmp/procd");
    let calls: Vec<&str> = calls.lines().collect();
    let [open, command, respawn, close, trigger, signal] = calls[..] else {
        panic!("{calls:?}");
    };
    assert_eq!((open, close), ("open_instance", "close_instance"));
    assert_eq!(respawn, "set_param respawn 3600 5 0");
    assert_eq!(trigger, "add_reload_interface_trigger wan");
    assert_eq!(signal, "send_signal jtunnel * HUP");
    // Then what procd would do.
    let command = command.strip_prefix("set_param command ").unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    let status = ["/etc/init.d/jtunnel", "status"];
    assert_eq!(client.output(&status).status.code(), Some(3));
    let mut process = Process::spawn(&client.host, client.command(&words));
    sites.wait_ping();
    let said = client.sh(&status.join(" "));
    let (device, sent) = said.split_once('\n').unwrap();
    assert!(device.contains("status: device tun0"), "{said}");
    assert!(sent.contains("status: sent "), "{said}");
    process.signal(Signal::SIGHUP);
    client.wait_log("authorised servers: 1");
    process.stop();
    assert_eq!(client.sh("ls /run"), "syslogd.pid");
    assert_eq!(client.host.tuns(), Vec::<String>::new());
    server.end("/run/jtunneld.pid");
}
