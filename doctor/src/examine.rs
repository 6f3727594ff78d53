//! All checks, in their order.

use std::path::Path;

use countersign_snapshot::Snapshot;

use crate::asked::Asked;
use crate::code::Code;
use crate::commands::{KEYS, PRINCIPALS, keys_helper, principals_helper, runs_as};
use crate::config::Config;
use crate::finding::{Finding, Report};
use crate::host::Host;
use crate::matches::{Local, kinds, unseen};
use crate::running::Listener;
use crate::sshd::{Effective, Version};
use crate::{accounts, admission, commands, lists, names, pam, programs, running, selinux, settings, state, switch};

/// What is looked at on every host; the others (`match`, `running-sshd`, `name-service-answers`, `selinux`) where there is such a thing.
const EVERYWHERE: &[&str] =
    &["agent", "snapshot", "clock", "sshd", "commands", "programs", "lists", "name-service", "pam", "accounts"];

/// Looks at everything.
#[must_use]
pub fn examine(host: &Host) -> Report {
    let mut report = Report::default();
    let local = Local::read(host);
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        let snapshot = state::examine(host, &mut report);
        sshd(host, &local, snapshot.as_ref(), &mut report);
    } else {
        report.find(
            Finding::new(Code::NotRoot, "this program", "it does not run as root").change("sudo countersign doctor"),
        );
        let agent = host.agent.as_ref().ok();
        names::examine(host, &local, agent.map(|agent| agent.snapshot.as_path()), &mut report);
    }
    for check in EVERYWHERE.iter().filter(|check| !report.checked.contains(check)).copied().collect::<Vec<_>>() {
        report
            .not_checked(check, if is_root { "see the findings: what it takes is not there" } else { "only root can" });
    }
    switch::examine(&mut report);
    report.findings.sort_by_key(|finding| finding.severity);
    report
}

fn sshd(host: &Host, local: &Local, snapshot: Option<&Snapshot>, report: &mut Report) {
    if !host.sshd.is_file() {
        let change = "apt-get install openssh-server, or say where it is: --sshd PATH";
        report.find(
            Finding::new(Code::SshdMissing, host.sshd.display().to_string(), "there is no such program").change(change),
        );
        return;
    }
    report.checked("sshd");
    let listeners = running::listeners(&host.sshd);
    for sshd_options in running::options(host, &listeners) {
        sshd_with(&Host { sshd_options, ..host.clone() }, &listeners, local, snapshot, report);
    }
}

/// Looks at sshd as it was started, or would be.
fn sshd_with(host: &Host, listeners: &[Listener], local: &Local, snapshot: Option<&Snapshot>, report: &mut Report) {
    let shown = host.sshd_config.display();
    if host.sshd_options.iter().any(|option| option.to_ascii_lowercase().starts_with("include")) {
        report.not_checked("match", "the sshd that runs was started with -o Include: the Matches in there");
    }
    let effective = match Effective::ask(host, None) {
        Ok(effective) => effective,
        Err(message) => {
            let change = if message.contains("privilege separation directory") {
                "install -d -m 0755 /run/sshd   (the service makes it when it starts)".to_owned()
            } else {
                format!("the line that is named; then {} -t -f {shown}", host.sshd.display())
            };
            report.find(Finding::new(Code::SshdRefuses, shown.to_string(), message).change(change));
            return;
        }
    };
    let version = Version::of(host);
    if version.is_none() {
        report.not_checked("sshd-version", format!("{} does not tell its version", host.sshd.display()));
    }
    let config = Config::read(&host.sshd_config);
    let asked = Asked { host, config: &config, version, effective: &effective, who: None, blocks: &[] };
    let general = judge(&asked, snapshot);
    for check in ["commands", "programs", "lists"] {
        report.checked(check);
    }
    somebody(&asked, local, snapshot, &general, report);
    for finding in general.into_iter().chain(lists::unused(&asked)) {
        report.find(finding);
    }
    root_login(&asked, snapshot, report);
    running::examine(host, listeners, &config, &effective, report);
    around(&asked, local, snapshot, report);
}

/// All that depends on what sshd makes of its configuration for whoever logs in.
fn judge(asked: &Asked<'_>, snapshot: Option<&Snapshot>) -> Vec<Finding> {
    let mut found = commands::judge(asked);
    found.extend(settings::judge(asked));
    found.extend(lists::judge(asked, snapshot));
    let (keys, principals) = (keys_helper(asked), principals_helper(asked));
    let has_keys = keys.as_ref().map(|helper| helper.program.clone());
    if let Some(helper) = keys {
        found.extend(programs::judge(asked, KEYS, &helper, runs_as(asked, KEYS).as_ref()));
    }
    if let Some(helper) = principals.filter(|helper| Some(&helper.program) != has_keys.as_ref()) {
        found.extend(programs::judge(asked, PRINCIPALS, &helper, runs_as(asked, PRINCIPALS).as_ref()));
    }
    found.extend(same_snapshot(asked));
    found
}

/// Helper and agent mean the same snapshot, and the helper may read it.
fn same_snapshot(asked: &Asked<'_>) -> Vec<Finding> {
    let Ok(agent) = &asked.host.agent else { return Vec::new() };
    let mut report = Report::default();
    for (setting, helper) in [(KEYS, keys_helper(asked)), (PRINCIPALS, principals_helper(asked))] {
        let Some(helper) = helper else { continue };
        if helper.snapshot != agent.snapshot {
            let text = format!(
                "the helper reads {}, and the agent publishes in {}",
                helper.snapshot.display(),
                agent.snapshot.display()
            );
            let change = format!(
                "snapshot-dir in {}, or --snapshot {} in {setting}",
                asked.host.agent_config.display(),
                agent.snapshot.display()
            );
            report.find(asked.finding(Code::SnapshotElsewhere, setting, text).change(change));
        } else if let Some((name, who)) = runs_as(asked, setting) {
            state::readable(&agent.snapshot, &name, who, &mut report);
        }
    }
    report.findings
}

/// Asks about somebody for every combination of `Match`es. What holds for all is said once.
fn somebody(general: &Asked<'_>, local: &Local, snapshot: Option<&Snapshot>, known: &[Finding], report: &mut Report) {
    let kinds = kinds(general.host, general.config, local, report);
    if !general.config.blocks.is_empty() {
        report.checked("match");
    }
    let mut answers = Vec::new();
    for mut kind in kinds {
        if kind.blocks.is_empty() {
            kind.users.extend(admission::of_ledger(general));
            let kept_out = snapshot.map(|snapshot| admission::judge(general, snapshot, &kind.users));
            kept_out.into_iter().flatten().for_each(|finding| report.find(finding));
            continue;
        }
        let spec = &kind.spec;
        match Effective::ask(general.host, Some(spec)) {
            Ok(effective) => answers.push((kind, effective)),
            Err(message) => {
                let about = format!("{}, for {} from {}", general.host.sshd_config.display(), spec.user, spec.address);
                let change = "the line that is named: sshd refuses whoever it applies to";
                let finding = Finding::new(Code::SshdRefuses, about, message).change(change);
                if !report.findings.iter().any(|other| is_same(other, &finding)) {
                    report.find(finding);
                }
            }
        }
    }
    unseen(general.config, general.effective, &answers, report);
    for (kind, effective) in &answers {
        let asked = Asked { effective, who: Some(&kind.spec), blocks: &kind.blocks, ..*general };
        let kept_out = snapshot.map(|snapshot| admission::judge(&asked, snapshot, &kind.users));
        for finding in judge(&asked, snapshot).into_iter().chain(kept_out.into_iter().flatten()) {
            if !known.iter().chain(&report.findings).any(|other| is_same(other, &finding)) {
                report.find(finding);
            }
        }
    }
}

fn is_same(one: &Finding, other: &Finding) -> bool {
    one.code == other.code && one.found == other.found
}

fn root_login(asked: &Asked<'_>, snapshot: Option<&Snapshot>, report: &mut Report) {
    let setting = "PermitRootLogin";
    let found = asked.get(setting);
    if matches!(found, "no" | "forced-commands-only") && snapshot.is_some_and(|snapshot| snapshot.facts().allow_root) {
        let change = "PermitRootLogin prohibit-password, or allow-root = false in agent.toml";
        report.find(asked.finding(Code::RootLoginOff, setting, found).change(change));
    }
}

/// What stands around sshd: PAM, names, accounts, labels; and that helper, agent and lists mean the same snapshot.
fn around(asked: &Asked<'_>, local: &Local, snapshot: Option<&Snapshot>, report: &mut Report) {
    let host = asked.host;
    let agent = host.agent.as_ref().ok();
    let program = asked.helper();
    let has_users = names::examine(host, local, agent.map(|agent| agent.snapshot.as_path()), report);
    match asked.get("UsePAM") {
        "yes" => pam::examine(host, &program, has_users, report),
        found if has_users => {
            let change = "UsePAM yes, and session required pam_mkhomedir.so umask=0077 in /etc/pam.d/sshd; or make them: install -d -m 700 -o LOGIN -g LOGIN /home/LOGIN";
            report.find(asked.finding(Code::HomeNotMade, "UsePAM", found).change(change));
        }
        _ => report.checked("pam"),
    }
    if let Some(snapshot) = snapshot {
        accounts::examine(host, local, snapshot, asked.get("UsePAM"), report);
    }
    let Some(agent) = agent else { return };
    let chain = program.with_file_name("countersign-sshd-chain");
    let session = program.with_file_name("countersign-sshd-session");
    selinux::examine(host, &[&program, &chain, &session], &agent.snapshot, report);
    let is_stopped = report.findings.iter().any(|finding| finding.code == Code::AgentStopped);
    if let Some(list) =
        agent.ca_keys.as_deref().filter(|list| is_stopped && is_read(asked, list) && lists::names_cas(list))
    {
        let text = format!("{} names CAs", list.display());
        let change = format!("start countersign-agent; until then: : >{}", list.display());
        report.find(asked.finding(Code::CaListStale, "TrustedUserCAKeys", text).change(change));
    }
}

fn is_read(asked: &Asked<'_>, list: &Path) -> bool {
    crate::config::words(asked.get("TrustedUserCAKeys")).iter().any(|file| Path::new(file) == list)
}
