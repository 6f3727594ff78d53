//! Users and groups that exist on the ledger alone: that the name service knows them, after the host's own, and says what the ledger says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_snapshot::{Account, Accounts, Trust, Uid, UserState};

use crate::code::Code;
use crate::elf::Elf;
use crate::finding::{Finding, Report};
use crate::host::Host;
use crate::matches::Local;
use crate::run::run;
use crate::trust::{Fault, Who, fault, is_program};

const SERVICE: &str = "countersign";
const MODULE: &str = "libnss_countersign.so.2";
const SETTINGS: &str = "/etc/countersign/nss.conf";
/// Where realms count users from, unless they say otherwise.
pub(crate) const FIRST_UID: u32 = 1_900_000_000;
/// Among these somebody is found who is active.
pub(crate) const MOST_LOOKS: u32 = 256;

/// A line of nsswitch.conf: services, each with the actions that follow it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sources(Vec<(String, String)>);

impl Sources {
    fn of(text: &str, database: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| {
            let line = line.split('#').next().unwrap_or_default();
            let (name, rest) = line.split_once(':')?;
            (name.trim() == database).then_some(rest)
        })?;
        let mut sources = Self::default();
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            if let Some(actions) = rest.strip_prefix('[') {
                let (actions, after) = actions.split_once(']').unwrap_or((actions, ""));
                if let Some((_, last)) = sources.0.last_mut() {
                    last.push_str(&actions.to_ascii_uppercase());
                    last.push(' ');
                }
                rest = after.trim_start();
                continue;
            }
            let end = rest.find(|character: char| character.is_whitespace() || character == '[').unwrap_or(rest.len());
            let (name, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
            sources.0.push((name.to_owned(), String::new()));
            rest = after.trim_start();
        }
        Some(sources)
    }

    fn position(&self, service: &str) -> Option<usize> {
        self.0.iter().position(|(name, _)| name == service)
    }

    /// The service before ours whose "not found" ends the search.
    fn barrier(&self) -> Option<&str> {
        let before = self.0.iter().take(self.position(SERVICE)?);
        let ends = |actions: &str| {
            actions.split_whitespace().any(|action| match action.split_once('=') {
                Some((status, "RETURN")) => match status.strip_prefix('!') {
                    Some(other) => other != "NOTFOUND",
                    None => status == "NOTFOUND",
                },
                _ => false,
            })
        };
        before.into_iter().find(|(_, actions)| ends(actions)).map(|(name, _)| name.as_str())
    }
}

/// Looks at all of it. Whether the host has users of the ledger by it.
pub(crate) fn examine(host: &Host, local: &Local, snapshot: Option<&Path>, report: &mut Report) -> bool {
    let text =
        fs::read(&host.nsswitch).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned());
    let about = host.nsswitch.display().to_string();
    let passwd = Sources::of(&text, "passwd").unwrap_or_default();
    let modules = modules(host);
    report.checked("name-service");
    if passwd.position(SERVICE).is_none() {
        if let Some(module) = modules.first() {
            let text = format!("{} is there, and passwd does not name {SERVICE}", module.display());
            let change = "passwd: files countersign\ngroup:  files countersign";
            report.find(Finding::new(Code::NameServiceUnused, about, text).change(change));
        }
        return false;
    }
    order(&text, &about, report);
    if modules.is_empty() {
        let text = format!("passwd names {SERVICE}, and there is no {MODULE}");
        let folder = folders(host).into_iter().next().unwrap_or_default();
        let change = format!("install {MODULE} as {}", folder.join(MODULE).display());
        report.find(Finding::new(Code::NameServiceMissing, about, text).change(change));
        return true;
    }
    let machine = Elf::read(&host.sshd).map(|elf| elf.machine);
    for module in &modules {
        let shown = module.display().to_string();
        if let Some(fault) = fault(module).filter(|fault| !matches!(fault, Fault::RootsGroup(..))) {
            let change = fault.change(module);
            report.find(Finding::new(Code::NameServiceLibrary, shown, fault.to_string()).change(change));
        } else if machine.is_some() && Elf::read(module).map(|elf| elf.machine) != machine {
            let change = format!("install the {MODULE} that was built for this machine");
            report.find(
                Finding::new(Code::NameServiceLibrary, shown, "not a library for the machine that sshd is built for")
                    .change(change),
            );
        }
    }
    if let Some(snapshot) = snapshot {
        readable(snapshot, report);
        answers(&about, local, snapshot, report);
    }
    true
}

fn order(text: &str, about: &str, report: &mut Report) {
    for database in ["passwd", "group", "initgroups"] {
        // Without a line of its own, initgroups is as group.
        let Some(sources) = Sources::of(text, database) else { continue };
        let files = sources.position("files").or_else(|| sources.position("compat"));
        let found = match (sources.position(SERVICE), files) {
            (None, _) => {
                let change = format!("{database}: files {SERVICE}");
                let text = format!("{database} does not name {SERVICE}");
                report.find(Finding::new(Code::NameServiceGroups, about, text).change(change));
                continue;
            }
            (Some(ours), Some(files)) if ours < files => format!("{database} names {SERVICE} before files"),
            (Some(_), None) => format!("{database} does not name files"),
            _ => match sources.barrier() {
                Some(service) => format!(
                    "{database}: what {service} does not find is looked for no further, and {SERVICE} comes after it"
                ),
                None => continue,
            },
        };
        let change = format!("{database}: files {SERVICE}");
        report.find(Finding::new(Code::NameServiceOrder, about, found).change(change));
    }
}

/// Where the C library of sshd's machine looks.
fn folders(host: &Host) -> Vec<PathBuf> {
    if !host.libraries.is_empty() {
        return host.libraries.clone();
    }
    let multiarch: &[&str] = match Elf::read(&host.sshd).map(|elf| elf.machine) {
        Some((2, _, 62)) => &["/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64"],
        Some((2, _, 183)) => &["/usr/lib/aarch64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib64", "/lib64"],
        Some((2, ..)) => &["/usr/lib64", "/lib64"],
        _ => &[],
    };
    multiarch.iter().chain(&["/usr/lib", "/lib"]).map(PathBuf::from).collect()
}

/// The module, wherever it is; one folder under two names is one.
fn modules(host: &Host) -> Vec<PathBuf> {
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    for path in folders(host).into_iter().map(|folder| folder.join(MODULE)) {
        if let Ok(real) = fs::canonicalize(&path)
            && !found.iter().any(|(_, known)| *known == real)
        {
            found.push((path, real));
        }
    }
    found.into_iter().map(|(path, _)| path).collect()
}

/// What the module reads is for every user.
fn readable(snapshot: &Path, report: &mut Report) {
    let manifest = snapshot.join("accounts/manifest");
    let about = manifest.display().to_string();
    if let Err(error) = Accounts::open(snapshot, Trust::ROOT) {
        let change = "countersign-agent once, and what it says";
        return report.find(Finding::new(Code::NameServiceClosed, about, error.to_string()).change(change));
    }
    let nobody = Who { uid: u32::MAX, gid: u32::MAX };
    if let Some((part, mode)) = nobody.is_kept_from(&manifest, 4) {
        let text = format!("{} has mode {mode:04o}", part.display());
        let change = format!("chmod o+rX {}", part.display());
        report.find(Finding::new(Code::NameServiceClosed, about, text).change(change));
    }
}

/// Asks as every program does, about somebody whom the ledger has.
fn answers(about: &str, local: &Local, snapshot: &Path, report: &mut Report) {
    let Ok(accounts) = Accounts::open(snapshot, Trust::ROOT) else { return };
    let refused = fs::read_to_string(SETTINGS).unwrap_or_default();
    let is_refused = |name: &str| refused.split([' ', '\t', '\n', '=']).any(|word| word == name);
    let is_ours = |account: &Account| {
        account.state == UserState::Active
            && !is_refused(&account.login)
            && !local.users.contains_key(&account.login)
            && !local.users.values().any(|(uid, ..)| *uid == account.uid.0)
            && !local.groups.values().any(|(gid, _)| *gid == account.gid.0)
    };
    let uids = (0..MOST_LOOKS).map(|ordinal| Uid(FIRST_UID.saturating_add(ordinal)));
    let Some(account) = uids.filter_map(|uid| accounts.account_by_uid(uid).ok().flatten()).find(is_ours) else {
        // Nobody of whom it could know.
        return;
    };
    report.checked("name-service-answers");
    let (login, uid) = (&account.login, account.uid.0);
    let found = match run(Command::new("getent").args(["passwd", login])) {
        Ok(ran) if ran.success => {
            let answered = ran.stdout.split(':').nth(2).and_then(|uid| uid.parse::<u32>().ok());
            if answered == Some(uid) {
                return shell(login, &ran.stdout, report);
            }
            format!("getent passwd {login}: {}", ran.stdout.trim_end())
        }
        Ok(_) => format!("getent passwd {login}: nothing"),
        Err(error) => return report.not_checked("name-service-answers", format!("getent: {error}")),
    };
    let found = format!("{found}; the ledger says uid {uid}");
    let change = "the rules are in docs/operations.md, \"Users that exist on the ledger alone\": look at /etc/countersign/nss.conf (root's alone), /etc/subuid and /etc/subgid; with nscd or another cache: restart it";
    report.find(Finding::new(Code::NameServiceSilent, about, found).change(change));
}

/// sshd refuses whose shell is no program.
fn shell(login: &str, answer: &str, report: &mut Report) {
    let shell = answer.trim_end().split(':').nth(6).filter(|shell| !shell.is_empty()).unwrap_or("/bin/sh");
    if !is_program(Path::new(shell)) {
        let text = format!("{login}, and every user of the ledger, has the shell {shell}, which is no program");
        report.find(Finding::new(Code::LoginShell, SETTINGS, text).change("shell = /bin/sh"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn barrier(line: &str) -> Option<String> {
        Sources::of(&format!("# c\npasswd: {line} # c\n"), "passwd").unwrap().barrier().map(str::to_owned)
    }

    #[test]
    fn a_search_that_ends_before_ours_is_seen_in_every_form() {
        for line in [
            "files [NOTFOUND=return] countersign",
            "files [notfound=return] countersign",
            "files[!SUCCESS=return]countersign",
            "files [SUCCESS=return NOTFOUND=return] systemd countersign",
        ] {
            assert_eq!(barrier(line).as_deref(), Some("files"), "{line}");
        }
        for line in [
            "files countersign",
            "files systemd countersign [NOTFOUND=return]",
            "files [SUCCESS=return] countersign",
            "files [UNAVAIL=return] countersign",
            "files [!NOTFOUND=return] countersign",
        ] {
            assert_eq!(barrier(line), None, "{line}");
        }
        assert_eq!(Sources::of("group: files", "passwd"), None);
    }
}
