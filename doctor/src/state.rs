//! What logins are answered from: the agent, its snapshot as the helper reads it, its age, and the clock.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use countersign_snapshot::{Clock, HostState, Snapshot, Stale, Trust};
use countersign_sshd::{Folder, OFFERS, Reason, Refusal};
use nix::unistd::{Group, User};

use crate::code::Code;
use crate::finding::{Finding, Report};
use crate::host::{Agent, Host};
use crate::trust::Who;

const LOCK: &str = "agent.lock";
const ACCESS: &str = "access";
const READ_BY_OTHERS: u32 = 0o007;

/// Looks at the agent and the snapshot. The snapshot, where it is one.
pub(crate) fn examine(host: &Host, report: &mut Report) -> Option<Snapshot> {
    report.checked("agent");
    let agent = match &host.agent {
        Ok(agent) => agent,
        Err(problem) => {
            let about = host.agent_config.display().to_string();
            let change = "countersign-agent check-config; docs/examples/agent.toml shows every field";
            report.find(Finding::new(Code::AgentConfig, about, problem.clone()).change(change));
            return None;
        }
    };
    running(agent, report);
    notes(host, agent, report);
    snapshot(agent, report)
}

fn running(agent: &Agent, report: &mut Report) {
    let lock = agent.state.join(LOCK);
    let holder = fs::read_to_string(&lock).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let is_held = holder.is_some_and(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(Result::ok);
        let same = |held: fs::Metadata| {
            fs::metadata(&lock).is_ok_and(|lock| (lock.dev(), lock.ino()) == (held.dev(), held.ino()))
        };
        descriptors.filter_map(|entry| fs::metadata(entry.path()).ok()).any(same)
    });
    if !is_held {
        let text = "no process holds the agent's lock";
        let change = "systemctl enable --now countersign-agent, or: countersign-agent run";
        report.find(Finding::new(Code::AgentStopped, lock.display().to_string(), text).change(change));
    }
    if let Some(problem) = &agent.problem {
        let change = "countersign-agent status; docs/agent-reason-codes.md says what to do about each reason";
        report.find(Finding::new(Code::AgentFailing, "countersign-agent status", problem.clone()).change(change));
    }
}

fn notes(host: &Host, agent: &Agent, report: &mut Report) {
    if !agent.ends_sessions {
        return;
    }
    let Ok(Some(user)) = User::from_name(&agent.helper_user) else {
        let change = format!(
            "helper-user in [sessions] of {}: the user that sshd runs the helper as",
            host.agent_config.display()
        );
        let text = format!("user {} is not there", agent.helper_user);
        report.find(Finding::new(Code::SessionNotes, host.agent_config.display().to_string(), text).change(change));
        return;
    };
    let folder = host.runtime.join(OFFERS);
    let problem = match Folder::open(&host.runtime, OFFERS, 0) {
        Ok(folder) if folder.owner() == user.uid.as_raw() => return,
        Ok(folder) => format!("it is owned by uid {}", folder.owner()),
        Err(error) => error.to_string(),
    };
    let change = format!("rm -r {}, then restart countersign-agent, which makes it", host.runtime.display());
    report.find(Finding::new(Code::SessionNotes, folder.display().to_string(), problem).change(change));
}

fn snapshot(agent: &Agent, report: &mut Report) -> Option<Snapshot> {
    report.checked("snapshot");
    let about = agent.snapshot.display().to_string();
    let snapshot = match Snapshot::open(&agent.snapshot, Trust::ROOT) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let source = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
            let text = format!("{error}{source}");
            let code = match Refusal::from(error).reason {
                Reason::NoSnapshot => Code::NoSnapshot,
                Reason::SnapshotUntrusted => Code::SnapshotUntrusted,
                Reason::SnapshotUnreadable => Code::SnapshotUnreadable,
                _ => Code::SnapshotCorrupt,
            };
            let change = match code {
                Code::SnapshotUntrusted => {
                    "find out who did that; then: chown -R root, chmod -R go-w on what is named, and countersign-agent once"
                }
                _ => "countersign-agent once, and what it says; countersign-agent status",
            };
            report.find(Finding::new(code, about, text).change(change));
            return None;
        }
    };
    if let Err(error) = snapshot.verify() {
        let change = "restart countersign-agent, which publishes again; if it recurs, look at disk and memory";
        report.find(Finding::new(Code::SnapshotCorrupt, &about, error.to_string()).change(change));
    }
    group(agent, report);
    age(&snapshot, &about, report);
    let change = "enrol the host; compare `host` in agent.toml with countersign host list";
    match snapshot.facts().host_state {
        HostState::Active => {}
        HostState::Unknown => {
            let text = format!("the realm has no host {}", snapshot.facts().host);
            report.find(Finding::new(Code::HostUnknown, about, text).change(change));
        }
        HostState::Locked => {
            let text = format!("host {} is locked or revoked", snapshot.facts().host);
            report.find(
                Finding::new(Code::HostLocked, about, text).change("ask the realm's revokers; the roots unlock it"),
            );
        }
    }
    Some(snapshot)
}

fn age(snapshot: &Snapshot, about: &str, report: &mut Report) {
    report.checked("clock");
    let clock = match Clock::now() {
        Ok(clock) => clock,
        Err(error) => return report.not_checked("clock", error.to_string()),
    };
    let Err(stale) = snapshot.fresh(&clock) else { return };
    let (code, change) = match stale {
        Stale::OtherBoot => (Code::BootChanged, "start countersign-agent, which publishes again from its own state"),
        Stale::BootClockBackwards { .. } | Stale::ClockBackwards { .. } | Stale::ClockBehindBlock { .. } => {
            (Code::Clock, "set the clock; timedatectl tells whether it is synchronised")
        }
        Stale::Expired { .. } | Stale::TooOld { .. } => (
            Code::SnapshotStale,
            "countersign-agent status says why nothing new comes; and see whether the clock is ahead",
        ),
    };
    report.find(Finding::new(code, about, stale.to_string()).change(change));
}

/// Who may read it beside root: the group of the configuration, and nobody else.
fn group(agent: &Agent, report: &mut Report) {
    let access = agent.snapshot.join(ACCESS);
    let Ok(metadata) = fs::metadata(access.join("manifest")) else { return };
    let about = access.join("manifest").display().to_string();
    if metadata.mode() & READ_BY_OTHERS != 0 {
        let change = format!("chmod o= {}/*; the agent writes it so", access.display());
        let text = format!("mode {:04o}", metadata.mode() & 0o7777);
        report.find(Finding::new(Code::SnapshotOpen, &about, text).change(change));
    }
    if let Ok(Some(group)) = Group::from_name(&agent.group)
        && group.gid.as_raw() != metadata.gid()
    {
        let change = format!(
            "chgrp {} {}/*, or restart countersign-agent, which publishes again",
            agent.group,
            access.display()
        );
        let text = format!("its group is {}, expected {}", metadata.gid(), agent.group);
        report.find(Finding::new(Code::SnapshotUnreadable, about, text).change(change));
    }
}

/// What keeps the helper's user from the snapshot.
pub(crate) fn readable(snapshot: &Path, name: &str, who: Who, report: &mut Report) {
    let manifest = snapshot.join(ACCESS).join("manifest");
    if !manifest.exists() {
        return;
    }
    if let Some((part, mode)) = who.is_kept_from(&manifest, 4) {
        let owner =
            fs::metadata(&part).map_or_else(|_| String::new(), |found| format!(", {}:{}", found.uid(), found.gid()));
        let text = format!("{name} (gid {}) may not read it: {} has mode {mode:04o}{owner}", who.gid, part.display());
        let change = format!(
            "usermod -g countersign {name}, where countersign is `group` in agent.toml; directories above the snapshot: chmod a+x"
        );
        report.find(Finding::new(Code::CommandUserGroup, manifest.display().to_string(), text).change(change));
    }
}
