//! The sshd that runs, as a service: has it read its configuration again, which ends no session, and starts it where it has ended.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::Host;
use crate::login::{listeners, listening};
use crate::run::run;

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
const SYSTEMD: &str = "/run/systemd/system";

/// Who keeps sshd running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// A unit of systemd.
    Unit(String),
    /// A process of its own.
    Process(u32),
    /// Somebody else listens and starts an sshd for each connection, or at the first: it reads its configuration by itself.
    OnDemand,
    /// Nobody listens.
    Absent,
}

impl Service {
    /// Who listens at `address`.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        let pids = listeners(address);
        if pids.is_empty() {
            return Self::Absent;
        }
        let unit = Path::new(SYSTEMD).is_dir().then(|| pids.iter().find_map(|pid| unit_of(*pid))).flatten();
        if let Some(unit) = unit {
            return Self::Unit(unit);
        }
        // A connection that is just beginning holds the socket too, for a moment: as a child of the one that is meant.
        let is_first = |pid: &u32| parent(*pid).is_none_or(|parent| !pids.contains(&parent));
        pids.iter().copied().filter(is_first).find(|pid| is_sshd(*pid)).map_or(Self::OnDemand, Self::Process)
    }

    /// In words, for a plan.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Unit(unit) => format!("reload {unit} (sessions go on)"),
            Self::Process(pid) => format!("have sshd, process {pid}, read its configuration again (sessions go on)"),
            Self::OnDemand => "nothing to reload: sshd is started for each connection".to_owned(),
            Self::Absent => "no sshd listens".to_owned(),
        }
    }

    /// Has it read its configuration again, and waits until it listens anew.
    pub(crate) fn reload(&self, address: SocketAddr) -> Result<(), String> {
        let before = listening(address);
        match self {
            Self::Unit(unit) => systemctl("reload", unit)?,
            Self::Process(pid) if is_sshd(*pid) => {
                let pid = i32::try_from(*pid).map_err(|error| error.to_string())?;
                kill(Pid::from_raw(pid), Signal::SIGHUP).map_err(|error| format!("sshd, process {pid}: {error}"))?;
            }
            Self::Process(pid) => return Err(format!("sshd, process {pid}, has ended")),
            Self::OnDemand => return Ok(()),
            Self::Absent => return Err(format!("no sshd listens at {address}")),
        }
        // It closes its sockets and makes new ones. Where it keeps them (they came from systemd) the login that follows shows it.
        let is_anew = |now: &BTreeSet<String>| !now.is_empty() && now.is_disjoint(&before);
        let begun = Instant::now();
        while !is_anew(&listening(address)) && begun.elapsed() < PATIENCE {
            if matches!(self, Self::Unit(_)) && listeners(address).contains(&1) {
                break;
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Starts it again, where it has ended.
    pub(crate) fn revive(&self, host: &Host, address: SocketAddr) -> Result<(), String> {
        if !listeners(address).is_empty() {
            return Ok(());
        }
        match self {
            Self::Unit(unit) => systemctl("restart", unit),
            Self::Process(_) => {
                let mut sshd = Command::new(&host.sshd);
                sshd.arg("-f").arg(&host.sshd_config);
                // It becomes a service of its own: nothing of this process stays open in it.
                let status = sshd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
                match status {
                    Ok(status) if status.success() => Ok(()),
                    Ok(status) => Err(format!("{}: {status}", host.sshd.display())),
                    Err(error) => Err(format!("{}: {error}", host.sshd.display())),
                }
            }
            Self::OnDemand | Self::Absent => Ok(()),
        }?;
        let begun = Instant::now();
        while listeners(address).is_empty() && begun.elapsed() < PATIENCE {
            thread::sleep(LOOK);
        }
        if listeners(address).is_empty() { Err(format!("no sshd listens at {address}")) } else { Ok(()) }
    }
}

fn systemctl(verb: &str, unit: &str) -> Result<(), String> {
    let ran = run(Command::new("systemctl").args([verb, unit])).map_err(|error| format!("systemctl: {error}"))?;
    if ran.success { Ok(()) } else { Err(format!("systemctl {verb} {unit}: {}", ran.stderr.trim())) }
}

fn unit_of(pid: u32) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    groups.lines().find_map(|line| {
        let unit = line.rsplit('/').next()?;
        matches!(unit, "ssh.service" | "sshd.service").then(|| unit.to_owned())
    })
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn is_sshd(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| {
        // A package may have replaced the file.
        path.file_name().is_some_and(|name| name == "sshd" || name == "sshd (deleted)")
    })
}
