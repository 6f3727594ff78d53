//! Processes: got hold of before they are looked at, looked at before they are signalled.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use countersign_sshd::{ProcessName, Stat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::SessionsError;

/// The programs that hold a session: one process up to OpenSSH 9.7, a program of its own from 9.8.
const SSHD: [&str; 2] = ["sshd", "sshd-session"];

/// A process that is got hold of: its number cannot become another's meanwhile.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) name: ProcessName,
    descriptor: OwnedFd,
}

impl Handle {
    /// Gets hold of a process; none where it has ended, or its number is another's now.
    pub(crate) fn open(name: ProcessName) -> Result<Option<Self>, SessionsError> {
        let failed = |source| SessionsError::Handle { pid: name.pid, source };
        let Some(pid) = i32::try_from(name.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(failed(io::Error::from(error))),
        };
        // Whoever has the number now and had started at that time had it when it was opened, too.
        Ok(name.is_alive().then_some(Self { name, descriptor }))
    }

    /// Sends a signal; nothing happens where it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        // Root may signal everybody: what is left is that it is gone.
        let _ = pidfd_send_signal(&self.descriptor, signal);
    }

    /// Whether this is the privileged sshd process of a connection.
    pub(crate) fn is_monitor(&self) -> bool {
        is_roots_sshd(self.name.pid) && self.name.is_alive()
    }
}

/// Whether its program is named as sshd's; one that was replaced by an upgrade meanwhile counts.
pub(crate) fn is_sshd(pid: u32) -> bool {
    let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    SSHD.contains(&name.strip_suffix(" (deleted)").unwrap_or(name))
}

fn is_roots_sshd(pid: u32) -> bool {
    is_sshd(pid) && user_ids(pid).is_some_and(|ids| ids == [0; 3])
}

/// Real, effective and saved user id.
fn user_ids(pid: u32) -> Option<[u32; 3]> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut ids = line.split_ascii_whitespace().map(str::parse);
    Some([ids.next()?.ok()?, ids.next()?.ok()?, ids.next()?.ok()?])
}

/// A process as it was seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) name: ProcessName,
    pub(crate) parent: u32,
    pub(crate) terminal: u32,
    /// Its real user id.
    pub(crate) uid: u32,
}

/// All processes that are alive, by number.
pub(crate) fn scan() -> BTreeMap<u32, Seen> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, seen(pid)?))).collect()
}

fn seen(pid: u32) -> Option<Seen> {
    let stat = Stat::read(pid).ok().filter(Stat::is_alive)?;
    let [uid, ..] = user_ids(pid)?;
    let name = ProcessName { pid, start_ticks: stat.start_ticks };
    Some(Seen { name, parent: stat.parent, terminal: stat.terminal, uid })
}

/// The audit session of a process; [`u32::MAX`]: none. None here: not told.
pub(crate) fn audit_session(pid: u32) -> Option<u32> {
    fs::read_to_string(format!("/proc/{pid}/sessionid")).ok()?.trim().parse().ok()
}

/// Whether it was started with `SSH_CONNECTION` as given.
pub(crate) fn has_connection(pid: u32, connection: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|variable| variable.strip_prefix(b"SSH_CONNECTION=") == Some(connection.as_bytes()))
}

/// logind's scope of a process, as a path among control groups.
fn session_scope(pid: u32) -> Option<String> {
    scope_of(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

fn scope_of(groups: &str) -> Option<String> {
    groups.lines().find_map(|line| {
        let (hierarchy, path) = line.split_once(':')?.1.split_once(':')?;
        let last = path.rsplit('/').next()?;
        let is_scope = last.starts_with("session-") && last.ends_with(".scope");
        let is_systemd = hierarchy.is_empty() || hierarchy == "name=systemd";
        (is_scope && is_systemd && path.starts_with('/') && !path.contains("/../")).then(|| path.to_owned())
    })
}

/// The processes of a control group and those below it, wherever its hierarchy is mounted below `root`.
fn in_scope(root: &Path, scope: &str) -> Vec<u32> {
    const DEPTH: usize = 4;
    let mut found = Vec::new();
    for hierarchy in ["", "unified", "systemd"] {
        let mut level = vec![root.join(hierarchy).join(scope.trim_start_matches('/'))];
        for _ in 0..DEPTH {
            let mut below = Vec::new();
            for group in &level {
                let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                found.extend(pids.lines().filter_map(|line| line.parse::<u32>().ok()));
                let entries = fs::read_dir(group).into_iter().flatten().filter_map(Result::ok);
                below.extend(
                    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()),
                );
            }
            level = below;
        }
    }
    found
}

/// The processes of a scope; none where it is not the session's of `monitor`, since something older lives in it: an sshd that somebody has
/// started from a shell is in the scope of that shell, and so is everybody whom it lets in.
pub(crate) fn in_own_scope(root: &Path, scope: &str, monitor: ProcessName) -> Option<Vec<u32>> {
    let found = in_scope(root, scope);
    // 0: one that cannot be seen from here.
    let is_older = |pid: &u32| {
        let is_before = |stat: Stat| stat.is_alive() && stat.start_ticks < monitor.start_ticks;
        *pid == 0 || Stat::read(*pid).is_ok_and(is_before)
    };
    (!found.iter().any(is_older)).then_some(found)
}

/// logind's scope of a session that has just begun, where it is this session's alone: what is in it is neither older nor another sshd,
/// which the listener leaves there when it has ended.
pub(crate) fn own_scope(root: &Path, monitor: ProcessName) -> Option<String> {
    let scope = session_scope(monitor.pid)?;
    let found = in_own_scope(root, &scope, monitor)?;
    let is_anothers = |pid: &u32| is_roots_sshd(*pid) && !is_below(*pid, monitor.pid);
    (found.contains(&monitor.pid) && !found.iter().any(is_anothers)).then_some(scope)
}

/// Whether `pid` is `above`, or was started by it or by what it started.
fn is_below(mut pid: u32, above: u32) -> bool {
    const DEPTH: usize = 64;
    for _ in 0..DEPTH {
        if pid == above {
            return true;
        }
        match Stat::read(pid) {
            Ok(stat) if stat.parent > 1 => pid = stat.parent,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_signalled_by_its_start_as_well_as_its_number() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let name = ProcessName::of(child.id()).unwrap();
        let earlier = ProcessName { start_ticks: name.start_ticks - 1, ..name };
        assert!(Handle::open(earlier).unwrap().is_none(), "the number was another's before");
        let handle = Handle::open(name).unwrap().unwrap();
        assert!(!handle.is_monitor(), "it is no sshd");
        handle.signal(Signal::KILL);
        child.wait().unwrap();
        assert!(Handle::open(name).unwrap().is_none());
        handle.signal(Signal::KILL);
    }

    #[test]
    fn scopes_are_those_of_sessions_and_no_others() {
        let path = "/user.slice/user-2001.slice/session-7.scope";
        for groups in [format!("0::{path}\n"), format!("9:pids:/x\n1:name=systemd:{path}\n0::/\n")] {
            assert_eq!(scope_of(&groups).as_deref(), Some(path));
        }
        for other in ["/", "/system.slice/ssh.service", "/user.slice/user-1.slice/user@1.service/session-x.slice"] {
            assert_eq!(scope_of(&format!("0::{other}\n4:memory:{path}\n")), None);
        }
    }

    #[test]
    fn the_processes_of_a_scope_are_those_of_it_and_below_it_in_any_layout() {
        let root = tempfile::tempdir().unwrap();
        let scope = "/user.slice/session-7.scope";
        for (hierarchy, pids) in [("", "11\n12\n"), ("systemd", "13\n"), ("unified", "")] {
            let group = root.path().join(hierarchy).join(&scope[1..]);
            fs::create_dir_all(group.join("below")).unwrap();
            fs::write(group.join("cgroup.procs"), pids).unwrap();
            fs::write(group.join("below/cgroup.procs"), if pids.is_empty() { "14\n" } else { "" }).unwrap();
        }
        let mut found = in_scope(root.path(), scope);
        found.sort_unstable();
        assert_eq!(found, [11, 12, 13, 14]);
        assert_eq!(in_scope(root.path(), "/user.slice/session-8.scope"), [0_u32; 0]);
    }

    #[test]
    fn a_scope_in_which_something_older_lives_or_what_cannot_be_seen_is_not_the_sessions() {
        let root = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let older = ProcessName::of(std::process::id()).unwrap();
        let later = ProcessName { pid: child.id(), start_ticks: older.start_ticks + 1 };
        fs::create_dir(root.path().join("session-7.scope")).unwrap();
        let in_it = |pids: String, monitor| {
            fs::write(root.path().join("session-7.scope/cgroup.procs"), pids).unwrap();
            in_own_scope(root.path(), "/session-7.scope", monitor)
        };
        let both = format!("{}\n{}\n", older.pid, later.pid);
        assert_eq!(in_it(both.clone(), older), Some(vec![older.pid, later.pid]));
        assert_eq!(in_it(both, later), None);
        assert_eq!(in_it(format!("{}\n0\n", older.pid), older), None);
        assert!(is_below(child.id(), older.pid) && is_below(older.pid, older.pid));
        assert!(!is_below(older.pid, child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(in_it(format!("{}\n", child.id()), later), Some(vec![child.id()]), "what has ended says nothing");
    }
}
