//! A small Debian on top of the cached one, which stays as it is: a root to change into, and once
//! it is booted a container with its own systemd. It shares the network of a host.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use support::host::Host;
use support::proc;
use support::process::Process;
use support::tree::{example, root};
use support::wait::{PATIENCE, wait_for, wait_until};

/// Not ours: dpkg's and systemd's own files, and what is only a cache.
const OTHERS: [&str; 5] = [
    "/run",
    "/var/lib/dpkg",
    "/var/cache",
    "/var/log",
    "/jtunnel.deb",
];

pub(crate) struct Debian {
    host: Host,
    root: PathBuf,
    /// The command that mounts it.
    mount: String,
    container: Option<Process>,
}

impl Debian {
    pub(crate) fn new(host: &Host) -> Self {
        let script = root().join("tests/package/debian.sh");
        let output = Command::new(script).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "no Debian: {said}");
        let lower = String::from_utf8(output.stdout).unwrap();
        let mount = format!(
            "mount -t overlay -o lowerdir={},upperdir=$PWD/upper,workdir=$PWD/work overlay debian",
            lower.trim()
        );
        host.sh(&format!(
            "mkdir debian upper work && {mount} && cp {} debian/jtunnel.deb",
            crate::package()
        ));
        Self {
            host: host.clone(),
            root: host.path("debian"),
            mount,
            container: None,
        }
    }

    /// Starts its systemd. A hierarchy of cgroups of the second version lets it try DeviceAllow.
    pub(crate) fn boot(&mut self) {
        // Among the mounts of this machine: those of the host lack the cgroups. What is mounted goes
        // with the container.
        self.host.sh("umount debian");
        let mounts = format!("--mount=/proc/{}/ns/mnt", std::process::id());
        let script = format!(
            "cd {} && {} && exec systemd-nspawn --quiet --boot -D debian --register=no --keep-unit \
             --console=pipe --capability=all --system-call-filter=bpf \
             --network-namespace-path=/run/netns/{}",
            self.host.path("").display(),
            self.mount,
            self.host.name()
        );
        let mut command = Command::new("nsenter");
        command.args([&mounts, "unshare", "-m", "sh", "-c", &script]);
        command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        command.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network");
        self.container = Some(Process::spawn(&self.host, command));
        wait_until(PATIENCE, "the end of the boot", || {
            matches!(
                &*self.status("systemctl is-system-running"),
                "running" | "degraded"
            )
        });
        assert_eq!(self.sh("systemctl --failed --no-legend"), "");
    }

    /// A shell command in it.
    fn command(&self, script: &str) -> Command {
        let mut command = match &self.container {
            None => {
                let mut command = Command::new("chroot");
                command.arg(&self.root);
                command
            }
            Some(container) => {
                // nspawn's child ends once it has started systemd, which takes its place.
                let init = wait_for(PATIENCE, "systemd", || {
                    proc::children(container.pid()).first().copied()
                });
                let mut command = Command::new("nsenter");
                command.args(["-a", "-t", &init.to_string()]);
                command
            }
        };
        command.args(["/bin/sh", "-c", script]).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LC_ALL", "C").env("MANWIDTH", "80");
        command
    }

    /// Runs a shell command, which must work, and returns its output.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.host.output(self.command(script));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{script}: {}: {said}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The word that a shell command says, whatever its status.
    pub(crate) fn status(&self, script: &str) -> String {
        let output = self.host.output(self.command(script));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// All files, but for those that change with any package.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let all = self.sh("find / -xdev");
        let files = all
            .lines()
            .filter(|file| !OTHERS.iter().any(|other| file.starts_with(other)));
        files.map(str::to_owned).collect()
    }

    pub(crate) fn read(&self, file: &str) -> String {
        self.status(&format!("cat {file}")) + "\n"
    }

    pub(crate) fn write(&self, file: &str, content: &str) {
        self.sh(&format!(
            "mkdir -p $(dirname {file}); cat >{file} <<'END OF FILE'\n{content}END OF FILE"
        ));
    }

    /// Copies an example of the package to its place.
    pub(crate) fn place(&self, name: &str) {
        assert!(example(name).exists());
        self.sh(&format!(
            "install -m 700 /usr/share/examples/jtunnel/{name} /etc/jtunnel/"
        ));
    }

    /// A configuration directory with this identifier and this peer.
    pub(crate) fn configure(&self, directory: &str, id: &str, peer: &str) {
        self.sh(&format!(
            "umask 077; mkdir -p {directory}/servers {directory}/clients; echo {id} >{directory}/id; touch {directory}/{peer}"
        ));
    }

    pub(crate) fn log(&self, unit: &str) -> String {
        self.status(&format!("journalctl --no-pager -u {unit}"))
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        if let Some(container) = &self.container {
            if std::thread::panicking() {
                eprintln!(
                    "{}",
                    self.status(
                        "cat /etc/jtunnel/said /etc/jtunnel/errors; journalctl --no-pager -n 25"
                    )
                );
            }
            container.signal(Signal::SIGKILL);
        }
    }
}
