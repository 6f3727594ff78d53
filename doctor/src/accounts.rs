//! Local accounts that keep out whom the ledger lets in: of a ledger user's name, without a shell, locked.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use countersign_snapshot::Snapshot;

use crate::code::Code;
use crate::finding::{Finding, Report};
use crate::host::Host;
use crate::matches::Local;
use crate::trust::is_program;

/// Looks at every local account that the ledger has a word about.
pub(crate) fn examine(host: &Host, local: &Local, snapshot: &Snapshot, pam: &str, report: &mut Report) {
    report.checked("accounts");
    let locked = locked(host);
    let about = host.passwd.display().to_string();
    for (name, (uid, _, shell)) in &local.users {
        if let Ok(Some(login)) = snapshot.login(name.as_bytes())
            && login.uid.0 != *uid
        {
            let text = format!("{name} has uid {uid} here, and {} on the ledger", login.uid.0);
            let change = format!("userdel {name}, or give the local account another name");
            report.find(Finding::new(Code::UidMismatch, &about, text).change(change));
        }
        if !snapshot.is_granted_login(name.as_bytes()).unwrap_or(false) {
            continue;
        }
        let shell = if shell.is_empty() { "/bin/sh" } else { shell };
        if !is_program(Path::new(shell)) {
            let text = format!("{name} has the shell {shell}, which is no program");
            report.find(Finding::new(Code::LoginShell, &about, text).change(format!("chsh -s /bin/bash {name}")));
        }
        if pam == "no" && locked.contains(name) {
            let text = format!("{name} is locked (`!` before its password), and sshd has UsePAM no");
            let change = format!("usermod -p '*' {name}   (no password fits, and it is not locked), or UsePAM yes");
            report.find(Finding::new(Code::AccountLocked, host.shadow.display().to_string(), text).change(change));
        }
    }
}

fn locked(host: &Host) -> BTreeSet<String> {
    let text = fs::read_to_string(&host.shadow).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        rest.starts_with('!').then(|| name.to_owned())
    });
    lines.collect()
}
