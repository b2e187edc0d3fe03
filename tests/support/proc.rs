//! What /proc tells of processes.

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;

/// All processes.
pub fn all() -> Vec<Pid> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

/// The fields of /proc/PID/stat behind the name: the first is the state.
fn stat(pid: Pid) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Whether the process is there and no zombie.
pub fn runs(pid: Pid) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z")
}

/// Whether the process was halted by a signal.
pub fn halted(pid: Pid) -> bool {
    stat(pid).is_some_and(|fields| fields[0] == "T")
}

/// Whether the process sleeps.
pub fn rests(pid: Pid) -> bool {
    stat(pid).is_some_and(|fields| fields[0] == "S")
}

/// The name of the program that the process runs.
pub fn name(pid: Pid) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// The children of a process that run.
pub fn children(parent: Pid) -> Vec<Pid> {
    let mut pids = all();
    pids.retain(|&pid| {
        stat(pid).is_some_and(|fields| fields[0] != "Z" && fields[1] == parent.to_string())
    });
    pids
}

/// The children that run the same program as their parent.
pub fn twins(parent: Pid) -> Vec<Pid> {
    let own = name(parent);
    let mut pids = children(parent);
    pids.retain(|&pid| name(pid) == own);
    pids
}

/// The processor time that a process has used; none if it has gone.
pub fn cpu_time(pid: Pid) -> Duration {
    let Some(fields) = stat(pid) else {
        return Duration::ZERO;
    };
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|f| f.parse::<u64>().unwrap())
        .sum();
    // USER_HZ is 100 everywhere.
    Duration::from_millis(ticks * 10)
}

/// A field of /proc/PID/status.
pub fn status(pid: Pid, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
}

/// How often a process went to sleep of its own accord.
pub fn sleeps(pid: Pid) -> u64 {
    status(pid, "voluntary_ctxt_switches")
        .unwrap()
        .parse()
        .unwrap()
}

/// Resident memory in KiB.
pub fn resident(pid: Pid) -> u64 {
    kibibytes(pid, "VmRSS")
}

/// Resident memory in KiB, without what is mapped from files: programs and libraries come in as
/// they are used.
pub fn anonymous(pid: Pid) -> u64 {
    kibibytes(pid, "RssAnon")
}

fn kibibytes(pid: Pid, field: &str) -> u64 {
    let size = status(pid, field).unwrap();
    size.trim_end_matches("kB").trim().parse().unwrap()
}

/// A sum of /proc/PID/smaps_rollup, in KiB.
pub fn memory(pid: Pid, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.unwrap().trim_end_matches("kB").trim();
    number.parse().unwrap()
}
