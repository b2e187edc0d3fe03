//! A small router: a virtual machine with Debian's kernel for its processor, and its console.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use support::host::Host;
use support::lines::Lines;
use support::tree;
use support::wait::wait_for;

/// For whatever an emulated processor does beside others on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A kind of machine.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    /// Its name, as Debian spells the processor.
    pub(crate) architecture: &'static str,
    qemu: &'static str,
    options: &'static str,
    console: &'static str,
    /// Memory in MB, the least in which the kernel boots.
    pub(crate) memory: u32,
}

/// Little-endian MIPS: an old router. Its network device finishes checksums, as those of routers
/// do: without that the kernel takes no segments.
pub(crate) const MIPSEL: Machine = Machine {
    architecture: "mipsel",
    qemu: "qemu-system-mipsel",
    options: "-M malta -cpu 24Kf -device e1000,netdev=n0,romfile=",
    console: "ttyS0",
    memory: 48,
};
/// Big-endian MIPS, with a kernel of our own.
pub(crate) const MIPS: Machine = Machine {
    architecture: "mips",
    qemu: "qemu-system-mips",
    options: "-M malta -cpu 24Kf -device e1000,netdev=n0,romfile=",
    console: "ttyS0",
    memory: 16,
};
/// 64-bit ARM: a new router.
pub(crate) const ARM64: Machine = Machine {
    architecture: "arm64",
    qemu: "qemu-system-aarch64",
    options: "-M virt -cpu cortex-a53 -device virtio-net-device,netdev=n0",
    console: "ttyAMA0",
    memory: 64,
};
/// A PC.
pub(crate) const AMD64: Machine = Machine {
    architecture: "amd64",
    qemu: "qemu-system-x86_64",
    options: "-M q35 -cpu qemu64 -device virtio-net-pci,netdev=n0,romfile=",
    console: "ttyS0",
    memory: 96,
};

/// A machine that runs, until it is dropped.
pub(crate) struct Guest {
    child: Child,
    console: ChildStdin,
    lines: Lines,
    commands: usize,
}

/// What a process of a guest uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Resident memory, KiB.
    pub(crate) resident: u64,
    /// That part of it which no file backs, KiB.
    pub(crate) anonymous: u64,
    /// Processor time, ms.
    pub(crate) cpu: u64,
    /// How often it was put to sleep and awoke.
    pub(crate) wakes: u64,
}

impl Guest {
    /// Boots a machine with these files in its /etc, `network` and `rc.local` among them. Its one
    /// cable leads to the device tap0 of the host.
    pub(crate) fn boot(host: &Host, machine: &Machine, etc: &Path, options: &[&str]) -> Self {
        let directory = host.path(machine.architecture);
        let status = Command::new(tree::root().join("tests/embedded/guest.sh"))
            .arg(machine.architecture)
            .args([&directory, etc])
            .status()
            .unwrap();
        assert!(status.success(), "no guest for {}", machine.architecture);

        host.ip("tuntap add tap0 mode tap");
        host.ip("address add 192.0.2.1/24 dev tap0");
        host.ip("link set tap0 up");
        let mut command = Command::new(machine.qemu);
        command
            .args(machine.options.split(' '))
            .args("-nodefaults -nographic -monitor none -serial stdio -no-reboot".split(' '))
            .args(["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no"])
            // A router without a clock starts in 1970.
            .args(["-rtc", "base=1970-01-01T00:00:00"])
            .args(["-m", &machine.memory.to_string()])
            // loglevel: what drivers report would stand amid what commands print.
            // nokaslr: a kernel for MIPS that moves itself to a random place does so without a look at
            // where qemu put the initramfs, and one start in five runs into it.
            .args([
                "-append",
                &format!("console={} panic=-1 loglevel=1 nokaslr", machine.console),
            ])
            .arg("-kernel")
            .arg(directory.join("kernel"))
            .arg("-initrd")
            .arg(directory.join("initramfs"))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = host.spawn(command);
        let (console, output) = (child.stdin.take(), child.stdout.take());
        Self {
            child,
            console: console.unwrap(),
            lines: Lines::follow(output.unwrap()),
            commands: 0,
        }
    }

    /// Waits for a line on the console.
    #[track_caller]
    pub(crate) fn wait(&mut self, text: &str) -> String {
        let (lines, child) = (&self.lines, &mut self.child);
        wait_for(PATIENCE, &format!("{text:?} on the console"), || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "the machine is off: {:?}", lines.all());
            lines.matching(text).into_iter().next()
        })
    }

    /// Types a command on the console. Returns its output and its exit status.
    #[track_caller]
    pub(crate) fn try_sh(&mut self, command: &str) -> (String, u32) {
        self.commands += 1;
        // The line typed must not look like the one awaited.
        let n = self.commands;
        writeln!(
            self.console,
            "echo begin-''{n}; {command}\necho end-''{n} $?"
        )
        .unwrap();
        let end = self.wait(&format!("end-{n} "));
        let status = end.rsplit(' ').next().unwrap().trim().parse().unwrap();
        let lines = self.lines.all();
        let place = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
        let between = place(&format!("begin-{n}")) + 1..place(&format!("end-{n} "));
        let output = lines[between]
            .iter()
            .map(|line| line.trim_end_matches('\r'));
        (output.collect::<Vec<_>>().join("\n"), status)
    }

    /// Types a command on the console; it must work. Returns its output.
    #[track_caller]
    pub(crate) fn sh(&mut self, command: &str) -> String {
        let (output, status) = self.try_sh(command);
        assert_eq!(status, 0, "{command}: {output}");
        output
    }

    /// The processes of a program, the oldest first.
    pub(crate) fn pids(&mut self, program: &str) -> Vec<u32> {
        let text = self.sh(&format!("pidof {program}"));
        let mut pids: Vec<u32> = text
            .split_whitespace()
            .map(|w| w.parse().unwrap())
            .collect();
        pids.sort_unstable();
        pids
    }

    /// What a process uses.
    pub(crate) fn usage(&mut self, pid: u32) -> Usage {
        let text = self.sh(&format!(
            "cd /proc/{pid}; cat smaps_rollup status stat; cd /"
        ));
        let field = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            line.split_whitespace()
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let (_, stat) = text.rsplit_once(')').unwrap();
        let mut ticks = stat.split_whitespace().skip(11);
        let mut tick = || ticks.next().unwrap().parse::<u64>().unwrap();
        Usage {
            resident: field("Rss:"),
            anonymous: field("Anonymous:"),
            // USER_HZ is 100 everywhere.
            cpu: 10 * (tick() + tick()),
            wakes: field("voluntary_ctxt_switches:"),
        }
    }

    /// Seconds since the kernel's start.
    pub(crate) fn uptime(&mut self) -> f64 {
        let text = self.sh("cat /proc/uptime");
        text.split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- console of the guest:");
            for line in self.lines.all() {
                eprintln!("    {}", line.trim_end());
            }
        }
    }
}

/// Files for a guest's /etc.
pub(crate) struct Etc<'a>(pub(crate) &'a Path);

impl Etc<'_> {
    /// The address on the cable.
    pub(crate) fn network(&self) -> &Self {
        self.file(
            "network",
            "ip addr add 192.0.2.11/24 dev eth0\nip link set eth0 up\n\
             until grep -q 1 /sys/class/net/eth0/carrier; do sleep 0.1; done\n",
        )
    }

    /// Writes a file into a directory that is private, as that of identifiers must be.
    pub(crate) fn file(&self, name: &str, content: &str) -> &Self {
        let path = self.0.join(name);
        let parent = path.parent().unwrap();
        fs::create_dir_all(parent).unwrap();
        fs::set_permissions(parent, Permissions::from_mode(0o700)).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Copies an example of the manual.
    pub(crate) fn example(&self, example: &str, name: &str) -> &Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(tree::example(example), path).unwrap();
        self
    }
}
