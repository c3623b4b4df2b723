//! A process that cannot become another one while it is looked at.
//!
//! A process id is used again soon after its process has ended. An open folder of `/proc` is not: once the process that
//! it was opened for is gone, everything below it gives `ESRCH`, whoever has the number then.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nv_types::Timestamp;

/// Clock ticks of a second in `/proc/<pid>/stat`; the kernel's `USER_HZ` is 100 on every Linux that nv runs on.
const TICK_NANOS: u64 = 10_000_000;

/// An open process.
#[derive(Debug)]
pub(crate) struct Process {
    folder: OwnedFd,
}

impl Process {
    /// The process that has this id now; an error when there is none.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let folder = open(format!("/proc/{pid}").as_str(), flags, Mode::empty())?;
        Ok(Self { folder })
    }

    /// Its network namespace.
    pub(crate) fn netns(&self) -> io::Result<File> {
        self.file("ns/net")
    }

    /// When it was started, in nanoseconds since the host's start, to a hundredth of a second.
    pub(crate) fn started(&self) -> io::Result<u64> {
        start_of(&self.read("stat")?).ok_or_else(|| io::Error::other("/proc has no start time"))
    }

    /// Its control group: that of version 2 if it is in one below the root, else that of the memory controller, else
    /// the first that is not the root.
    pub(crate) fn cgroup(&self) -> io::Result<String> {
        Ok(cgroup_of(&self.read("cgroup")?))
    }

    fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.folder, name, flags, Mode::empty())?))
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let mut text = String::new();
        self.file(name)?.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// The time of day of a moment after the host's start.
pub(crate) fn wall(boot: Timestamp, after: u64) -> Timestamp {
    Timestamp(boot.0.saturating_add(after))
}

/// Field 22. The second field is the program's name in brackets, which may have blanks and brackets in it.
fn start_of(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    ticks.checked_mul(TICK_NANOS)
}

fn cgroup_of(text: &str) -> String {
    let entries: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?, parts.next()?))
        })
        .filter(|(_, path)| *path != "/")
        .collect();
    let named = |controller: &str| {
        entries
            .iter()
            .find(|(names, _)| names.split(',').any(|name| name == controller))
    };
    let found = named("").or_else(|| named("memory")).or_else(|| entries.first());
    found.map_or_else(String::new, |(_, path)| (*path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn start_times_survive_strange_program_names() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_of(stat), Some(4711 * TICK_NANOS));
        assert_eq!(start_of("7 (a"), None);
    }

    #[test]
    fn control_groups_of_both_versions() {
        let v1 = "5:memory:/docker/ab\n4:cpu,cpuacct:/other\n0::/\n";
        assert_eq!(cgroup_of(v1), "/docker/ab");
        assert_eq!(cgroup_of("0::/kubepods/pod1/ab\n"), "/kubepods/pod1/ab");
        assert_eq!(cgroup_of("3:pids:/x\n2:cpu:/\n"), "/x");
        assert_eq!(cgroup_of(""), "");
    }

    #[test]
    fn an_ended_process_is_no_other_one() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        let started = process.started().unwrap();
        assert!(started > 0 && process.netns().is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        let error = process.netns().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        assert!(process.started().is_err() && process.cgroup().is_err());
        assert!(Process::open(child.id()).is_err());
    }
}
