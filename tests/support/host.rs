//! One host: a network namespace with a /dev, a few files of /etc and a directory of its own.

use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;

use crate::wait::{PATIENCE, wait_until};
use crate::{namespace, stale};

/// What the resident thread is to do.
type Job = Box<dyn FnOnce() + Send>;

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "net/tun"];
const FILES: [(&str, &str); 3] = [
    ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("resolv.conf", "nameserver 127.0.0.1\n"),
    ("nsswitch.conf", "hosts: files\n"),
];

/// A host. Its copies are the same host; with the last of them it goes, and all its processes.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    name: String,
    directory: PathBuf,
    /// Lives in the host's namespaces, so what it spawns does too. `None` once it is to end.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    resident: Mutex<Option<JoinHandle<()>>>,
}

impl Host {
    /// Makes a host whose name says what part it plays.
    pub fn new(role: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        stale::sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-{number}-{role}", stale::PREFIX, std::process::id());
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir(&directory).unwrap();
        namespace::add(&name);

        let (jobs, todo) = mpsc::channel::<Job>();
        let resident = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || todo.into_iter().for_each(|job| job()))
            .unwrap();
        let host = Self(Arc::new(Inner {
            name: name.clone(),
            directory: directory.clone(),
            jobs: Mutex::new(Some(jobs)),
            resident: Mutex::new(Some(resident)),
        }));
        host.run(move || move_in(&name, &directory));
        host.ip("link set lo up");
        // An address that goes takes no other along.
        host.sysctl("net/ipv4/conf/all/promote_secondaries", "1");
        for kind in ["all", "default"] {
            // Addresses work at once, and loss is what a test makes of it.
            host.sysctl(&format!("net/ipv6/conf/{kind}/accept_dad"), "0");
            host.sysctl(&format!("net/ipv6/conf/{kind}/accept_ra"), "0");
        }
        host
    }

    /// The name of its network namespace.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A path in the host's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.directory.join(name)
    }

    /// Does something in the host's namespaces. A socket made there stays the host's wherever it
    /// is used.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel::<Result<T, Box<dyn Any + Send>>>();
        self.job(Box::new(move || {
            let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
        }));
        match result.recv().unwrap() {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Starts a thread in the host's namespaces.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.run(move || std::thread::spawn(work))
    }

    fn job(&self, job: Job) {
        let jobs = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref().unwrap().send(job).unwrap();
    }

    /// Starts a command on the host.
    pub fn spawn(&self, mut command: Command) -> Child {
        let what = format!("{command:?}");
        self.run(move || command.spawn())
            .unwrap_or_else(|error| panic!("unable to start {what}: {error}"))
    }

    /// Runs a command on the host until it has ended and nobody can write to its output any more.
    #[track_caller]
    pub fn output(&self, mut command: Command) -> Output {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let what = format!("{command:?}");
        let child = self.spawn(command);
        let (done, output) = mpsc::channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let output = output.recv_timeout(PATIENCE);
        output
            .unwrap_or_else(|_| panic!("no end of {what}"))
            .unwrap()
    }

    /// Runs a shell command on the host, in its directory; it must work. Returns its output.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.output(self.shell(script));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{script}: {}: {errors}",
            output.status
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell command on the host, in its directory, and tells whether it worked.
    pub fn try_sh(&self, script: &str) -> bool {
        self.output(self.shell(script)).status.success()
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(&self.0.directory);
        command
    }

    /// Runs ip(8) on the host; it must work. Returns its output.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        let (worked, text) = self.ip_raw(arguments);
        assert!(worked, "ip {arguments}: {text}");
        text
    }

    /// Runs ip(8) on the host and tells whether it worked.
    pub fn try_ip(&self, arguments: &str) -> bool {
        self.ip_raw(arguments).0
    }

    fn ip_raw(&self, arguments: &str) -> (bool, String) {
        let words: Vec<&str> = ["-n", self.name()]
            .into_iter()
            .chain(arguments.split_whitespace())
            .collect();
        namespace::ip(&words)
    }

    /// Gives nft(8) rules to the host.
    #[track_caller]
    pub fn nft(&self, rules: &str) {
        self.sh(&format!("nft -f - <<'E'\n{rules}\nE"));
    }

    /// Adds a packet filter, or replaces the one of this name, with rules for a hook such as
    /// `output`.
    #[track_caller]
    pub fn filter(&self, name: &str, hook: &str, rules: &str) {
        self.nft(&format!(
            "table inet {name}
             delete table inet {name}
             table inet {name} {{
                 chain only {{
                     type filter hook {hook} priority 0
                     {rules}
                 }}
             }}"
        ));
    }

    /// Sets a value under /proc/sys.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys").join(name);
        let value = value.to_owned();
        self.run(move || fs::write(path, value)).unwrap();
    }

    /// Writes a file that the host sees as /etc/NAME: hosts, resolv.conf or nsswitch.conf.
    pub fn etc(&self, name: &str, content: &str) {
        fs::write(self.path("etc").join(name), content).unwrap();
    }

    /// Writes a shell script and returns its path.
    pub fn script(&self, name: &str, body: &str) -> PathBuf {
        // By another process: a descriptor that is open for writing here gets into whatever
        // another thread forks meanwhile, and as long as it is there the script is busy.
        self.sh(&format!(
            "cat >{name} <<'END OF SCRIPT'\n#!/bin/sh\n{body}\nEND OF SCRIPT\nchmod 755 {name}"
        ));
        self.path(name)
    }

    /// The content of a file in the host's directory, empty if it is not there.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The processes on the host.
    pub fn pids(&self) -> Vec<Pid> {
        namespace::pids(self.name())
    }

    /// The tun devices on the host.
    pub fn tuns(&self) -> Vec<String> {
        let text = self.ip("-o link show type tun");
        let names = text.lines().filter_map(|line| line.split(": ").nth(1));
        names.map(str::to_owned).collect()
    }

    /// Waits until the host has this number of tun devices.
    #[track_caller]
    pub fn wait_tuns(&self, number: usize) -> Vec<String> {
        wait_until(PATIENCE, &format!("{number} tun devices"), || {
            self.tuns().len() == number
        });
        self.tuns()
    }

    /// Takes a device file away from the host, such as `net/tun`.
    pub fn without_device(&self, device: &'static str) {
        self.run(move || {
            let path = Path::new("/dev").join(device);
            umount2(&path, MntFlags::MNT_DETACH).unwrap();
            fs::remove_file(path).unwrap();
        });
    }

    /// Lays an empty file system over a directory.
    pub fn empty_directory(&self, path: &'static str) {
        self.run(move || {
            mount(
                Some("tmpfs"),
                path,
                Some("tmpfs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .unwrap();
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let jobs = self.jobs.get_mut().unwrap_or_else(PoisonError::into_inner);
        jobs.take();
        let resident = self
            .resident
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = resident.take() {
            let _ = thread.join();
        }
        namespace::remove(&self.name);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Takes the calling thread into the host's namespaces and furnishes them.
fn move_in(name: &str, directory: &Path) {
    let file = fs::File::open(namespace::path(name)).unwrap();
    setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let nothing = None::<&str>;
    // Slaves, not private: a namespace that another test removes must not live on here.
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        nothing,
    )
    .unwrap();
    // /sys shows the network namespace of whoever mounted it.
    mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        MsFlags::empty(),
        nothing,
    )
    .unwrap();

    let devices = directory.join("dev");
    fs::create_dir_all(devices.join("net")).unwrap();
    mount(
        Some("tmpfs"),
        &devices,
        Some("tmpfs"),
        MsFlags::empty(),
        nothing,
    )
    .unwrap();
    fs::create_dir(devices.join("net")).unwrap();
    for device in DEVICES {
        let (from, to) = (Path::new("/dev").join(device), devices.join(device));
        fs::write(&to, "").unwrap();
        mount(Some(&from), &to, nothing, MsFlags::MS_BIND, nothing).unwrap();
    }
    mount(Some(&devices), "/dev", nothing, MsFlags::MS_MOVE, nothing).unwrap();

    fs::create_dir(directory.join("etc")).unwrap();
    for (file, content) in FILES {
        let (own, place) = (
            directory.join("etc").join(file),
            Path::new("/etc").join(file),
        );
        fs::write(&own, content).unwrap();
        if place.exists() {
            mount(Some(&own), &place, nothing, MsFlags::MS_BIND, nothing).unwrap();
        }
    }
}
