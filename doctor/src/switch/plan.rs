//! What switching Countersign on changes on a host: each file with the text that it gets.

use std::io;
use std::path::{Path, PathBuf};

use ssh_key::authorized_keys::Entry;

use super::change::{Change, keep};
use super::earlier::{self, Earlier};
use super::recovery::{self, Recovery};
use crate::code::Code;
use crate::finding::Finding;
use crate::host::Host;
use crate::login::{Cover, Credential};
use crate::matches::Local;
use crate::sshd::Effective;

/// What sshd is told: the one place where it stands. Quickstart writes it, and docs/operations.md quotes it.
pub const SETTINGS: &str = include_str!("../../sshd_config.d/00-countersign.conf");
/// The hook that tells of sessions; it has to stand before any module that reads users' files.
pub const SESSION_LINE: &str = "session optional pam_exec.so quiet /usr/lib/countersign/countersign-sshd-session";
/// The file, beside sshd's configuration: before others in the order of the folder, since the first value of a setting counts.
const DROP_IN: &str = "sshd_config.d/00-countersign.conf";
const EMPTY: &str = "/etc/countersign/empty";
const BREAK_GLASS_KEYS: &str = "/etc/countersign/breakglass.keys";
const MARK: &str = "# Written by `countersign doctor --enable`, which proved it by a login; `countersign doctor --disable` takes it back.\n";

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    /// What has to get in, before and after.
    pub credential: Credential,
    /// The port of the running sshd, where it is not the configuration's.
    pub port: Option<u16>,
    /// Whether the name service is to know the ledger's users.
    pub accounts: bool,
    /// Whether PAM is to tell of sessions, so that they can end.
    pub sessions: bool,
    /// A local login that a file of root's opens, whatever the ledger says.
    pub break_glass: Option<String>,
    /// What becomes of another AuthorizedKeysCommand that sshd asks so far; not said, such a host is left alone.
    pub earlier: Option<Earlier>,
}

/// What will be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) changes: Vec<Change>,
    /// What sshd will have, for all that no `Match` means.
    pub(crate) settings: String,
    /// What people have to know beside the files.
    notes: Vec<String>,
}

impl Plan {
    /// Looks at the files.
    ///
    /// # Errors
    /// Findings: why they cannot be written, or must not be.
    pub fn make(host: &Host, wishes: &Wishes) -> Result<Self, Finding> {
        let recorded = recorded()?;
        if let Some(unfinished) = recorded.as_ref().and_then(Recovery::unfinished) {
            return Err(unfinished);
        }
        let folder = host.sshd_config.parent().unwrap_or(Path::new("/"));
        let drop_in = folder.join(DROP_IN);
        let mut changes = vec![change(Path::new(EMPTY), |old| {
            if old.is_none_or(str::is_empty) { Ok(String::new()) } else { refuse("expected an empty file") }
        })?];
        // sshd reads it, too: first that it is ours, then what sshd says.
        let mut told = change(&drop_in, |old| {
            let is_ours = |old: &str| old.starts_with(MARK) || old == SETTINGS;
            if old.is_none_or(is_ours) {
                Ok(String::new())
            } else {
                refuse("a file of this name is there, and not ours")
            }
        })?;
        let now = Effective::ask(host, None)
            .map_err(|error| Finding::new(Code::SshdRefuses, host.sshd_config.display().to_string(), error))?;
        let earlier = earlier::settle(&now, wishes.earlier)?;
        told.after = format!("{MARK}{}{}", earlier.settings, break_glass_text(host, wishes.break_glass.as_deref())?);
        changes.push(told);
        if wishes.accounts {
            let with = change(&host.nsswitch, |old| with_accounts(old.unwrap_or_default()));
            changes.push(with.map_err(|finding| {
                finding.change("put `countersign` there yourself, after the host's own names, and leave --accounts out")
            })?);
        }
        if wishes.sessions {
            changes.push(change(&host.pam.join("sshd"), |old| with_sessions(old.unwrap_or_default()))?);
        }
        changes.retain(Change::is_needed);
        if recorded.is_some() && !changes.is_empty() {
            let about = recovery::path().display().to_string();
            let finding = Finding::new(Code::SwitchWithoutEffect, about, "it is switched on already, in another way");
            return Err(finding.change("countersign doctor --disable"));
        }
        Ok(Self { changes, settings: earlier.settings, notes: earlier.notes })
    }

    /// What is left to do.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The files as they will be, for a trial.
    pub(crate) fn covers(&self) -> Vec<Cover> {
        let cover =
            |change: &Change| Cover { path: change.path.clone(), text: change.after.clone(), mode: change.mode() };
        self.changes.iter().map(cover).collect()
    }

    /// For people: each file, and what is new in it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for change in &self.changes {
            let old = change.before.as_ref().map(|kept| String::from_utf8_lossy(&kept.bytes).into_owned());
            let verb = if old.is_some() { "change" } else { "write" };
            text.push_str(&format!("{verb} {}\n", change.path.display()));
            let old = old.unwrap_or_default();
            let lines = |text: &str, other: &str, sign: &str| -> String {
                let gone = text.lines().filter(|line| !other.lines().any(|kept| kept == *line));
                gone.map(|line| format!("    {sign} {line}\n")).collect()
            };
            text.push_str(&lines(&old, &change.after, "-"));
            text.push_str(&lines(&change.after, &old, "+"));
        }
        self.notes.iter().for_each(|note| text.push_str(&format!("{note}\n")));
        text
    }
}

fn recorded() -> Result<Option<Recovery>, Finding> {
    Recovery::load().map_err(|error| untrusted(&recovery::path(), &error))
}

/// Where the file lies that sshd reads.
pub(crate) fn drop_in(host: &Host) -> PathBuf {
    host.sshd_config.parent().unwrap_or(Path::new("/")).join(DROP_IN)
}

/// Whether sshd takes every setting as it is meant: one that stands earlier would win, and a file that nobody includes says nothing.
///
/// # Errors
/// A finding for the first that differs.
pub(crate) fn check_effect(host: &Host, settings: &str, effective: &Effective) -> Result<(), Finding> {
    for line in settings.lines() {
        let Some((name, value)) = line.split_once(' ') else { continue };
        let found = effective.get(&name.to_ascii_lowercase());
        if found != value {
            let about = format!("{name} in {}", host.sshd_config.display());
            let found = format!("with the new file in place sshd would have `{name} {found}`");
            let folder = host.sshd_config.parent().unwrap_or(Path::new("/")).display();
            let change = format!(
                "`Include {folder}/sshd_config.d/*.conf` as the first line of {}, and no `{name}` in a file that comes before {DROP_IN}",
                host.sshd_config.display()
            );
            return Err(Finding::new(Code::SwitchWithoutEffect, about, found).change(change));
        }
    }
    Ok(())
}

fn change(path: &Path, after: impl FnOnce(Option<&str>) -> io::Result<String>) -> Result<Change, Finding> {
    Change::of(path, after).map_err(|error| untrusted(path, &error))
}

fn untrusted(path: &Path, error: &io::Error) -> Finding {
    let shown = path.display();
    let change = format!("ls -ld {shown} and the folders above it; move away what is not yours");
    Finding::new(Code::SwitchUntrusted, shown.to_string(), error.to_string()).change(change)
}

fn refuse(why: &str) -> io::Result<String> {
    Err(io::Error::other(why.to_owned()))
}

fn break_glass_text(host: &Host, login: Option<&str>) -> Result<String, Finding> {
    let Some(login) = login else { return Ok(String::new()) };
    let is_plain = !login.is_empty()
        && login.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        && !login.starts_with('-');
    if !is_plain || !Local::read(host).users.contains_key(login) {
        let found = format!("`{login}` is no plain login of this host's own");
        let change = "a login of the first column there: it has to be one when nothing else answers";
        return Err(Finding::new(Code::SwitchUntrusted, host.passwd.display().to_string(), found).change(change));
    }
    let found = match keep(Path::new(BREAK_GLASS_KEYS)) {
        Err(error) => Err(error.to_string()),
        Ok(None) => Err("there is no such file".to_owned()),
        Ok(Some(kept)) if !has_key(&kept.bytes) => Err("it has no key in it that could be read".to_owned()),
        Ok(Some(_)) => Ok(()),
    };
    if let Err(why) = found {
        let change = format!("install -o root -g root -m 644 KEYS {BREAK_GLASS_KEYS}");
        return Err(Finding::new(Code::SwitchUntrusted, BREAK_GLASS_KEYS, why).change(change));
    }
    Ok(format!("Match User {login}\n    AuthorizedKeysFile {BREAK_GLASS_KEYS}\n"))
}

/// Whether a line of it opens a login.
fn has_key(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).lines().any(|line| line.trim().parse::<Entry>().is_ok())
}

/// `countersign` after `files`, for users and groups.
fn with_accounts(old: &str) -> io::Result<String> {
    let (mut seen, mut has_action) = (0_u32, false);
    let text = lines_of(old, |line| {
        let is_meant = ["passwd:", "group:"].iter().any(|name| line.trim_start().starts_with(name));
        if !is_meant {
            return line.to_owned();
        }
        seen = seen.saturating_add(1);
        let code = line.split('#').next().unwrap_or_default();
        if code.split_ascii_whitespace().any(|word| word == "countersign") {
            return line.to_owned();
        }
        match after_files(code).and_then(|at| line.split_at_checked(at)) {
            Some((_, after)) if after.trim_start().starts_with('[') => {
                has_action = true;
                line.to_owned()
            }
            Some((before, after)) => format!("{before} countersign{after}"),
            None => {
                seen = u32::MAX;
                line.to_owned()
            }
        }
    });
    match seen {
        2 if has_action => refuse("what follows `files` is an action (`[…]`): what it means would change"),
        2 => Ok(text),
        _ => refuse("expected one line `passwd: files …` and one `group: files …`"),
    }
}

/// Where the word `files` ends, which names a service and is no part of another.
fn after_files(code: &str) -> Option<usize> {
    const WORD: &str = "files";
    let is_end = |byte: Option<&u8>| byte.is_none_or(|byte| byte.is_ascii_whitespace() || b":[]".contains(byte));
    code.match_indices(WORD).find_map(|(at, _)| {
        let end = at.saturating_add(WORD.len());
        let before = at.checked_sub(1).and_then(|at| code.as_bytes().get(at));
        (is_end(before) && is_end(code.as_bytes().get(end))).then_some(end)
    })
}

/// The hook as the first line.
fn with_sessions(old: &str) -> io::Result<String> {
    let is_session = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("session") || line.starts_with("-session")
    };
    match old.lines().find(is_session) {
        Some(line) if line.split_ascii_whitespace().eq(SESSION_LINE.split_ascii_whitespace()) => Ok(old.to_owned()),
        _ if old.is_empty() => refuse("there is no such service of PAM"),
        _ => Ok(format!("{SESSION_LINE}\n{old}")),
    }
}

/// Each line anew, with the same ends.
fn lines_of(text: &str, mut anew: impl FnMut(&str) -> String) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => format!("{}\n", anew(line)),
            None => anew(line),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_and_quickstart_have_the_same_settings() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = std::fs::read_to_string(root.join("docs/operations.md")).unwrap();
        let quoted: String = SETTINGS.lines().map(|line| format!("    {line}\n")).collect();
        assert!(page.contains(&quoted), "docs/operations.md does not quote the settings");
        let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
        assert!(readme.contains(&quoted), "the README does not quote the settings");
        assert!(page.contains(&format!("    {SESSION_LINE}\n")), "docs/operations.md does not quote the hook");
        for story in ["quickstart", "tests/two-hosts"] {
            let story = std::fs::read_to_string(root.join(story)).unwrap();
            assert!(story.contains("doctor/sshd_config.d/00-countersign.conf"), "a story has settings of its own");
            assert!(!story.contains("AuthorizedKeysCommand "), "a story has settings of its own");
        }
        let quickstart = std::fs::read_to_string(root.join("quickstart")).unwrap();
        assert!(quickstart.contains(SESSION_LINE), "quickstart has a hook of its own");
        // The other order makes sshd 8.7 to 9.3 forget the second.
        let at = |name: &str| SETTINGS.lines().position(|line| line.starts_with(name)).unwrap();
        assert!(at("AuthorizedPrincipalsCommand ") < at("AuthorizedKeysCommand "));
    }

    #[test]
    fn a_way_in_for_emergencies_is_a_key_and_a_login_of_the_hosts_own() {
        const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ somebody";
        for text in [KEY.to_owned(), format!("# of the safe\n\n from=\"10.0.0.0/8\",restrict {KEY}\n")] {
            assert!(has_key(text.as_bytes()), "{text}");
        }
        for text in ["", "\n", "# ssh-ed25519 AAAA\n", &format!("#{KEY}\n"), "ssh-ed25519 AAAA x\n", &KEY[12..]] {
            assert!(!has_key(text.as_bytes()), "{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        let passwd = folder.path().join("passwd");
        std::fs::write(&passwd, "rescue:x:2003:2003::/home/rescue:/bin/sh\n-x:x:1:1::/:/bin/sh\n").unwrap();
        let host = Host { passwd, ..Host::default() };
        for login in ["", "rescu", "-x", "rescue,root", "*", "rescue root"] {
            let refused = break_glass_text(&host, Some(login)).unwrap_err();
            assert!(refused.found.contains("is no plain login of this host's own"), "{login}: {refused:?}");
        }
        assert_eq!(break_glass_text(&host, None).unwrap(), "");
    }

    #[test]
    fn names_are_asked_for_after_the_hosts_own_and_nothing_else_changes() {
        let old = "# passwd: x\npasswd:         files systemd\ngroup: files\nshadow: files\nhosts: files dns";
        let new = "# passwd: x\npasswd:         files countersign systemd\ngroup: files countersign\nshadow: files\nhosts: files dns";
        assert_eq!(with_accounts(old).unwrap(), new);
        assert_eq!(with_accounts(new).unwrap(), new);
        for wrong in
            ["", "passwd: files\n", "passwd: sss\ngroup: files\n", "passwd: files\npasswd: files\ngroup: files\n"]
        {
            assert!(with_accounts(wrong).is_err(), "{wrong:?}");
        }
        // An action belongs to what stands before it: a name in between would take it, or the lookup end there.
        for group in ["files [SUCCESS=merge] sss", "files[NOTFOUND=return] sss", "files\t[!UNAVAIL=return]", "myfiles"]
        {
            assert!(with_accounts(&format!("passwd: files\ngroup: {group}\n")).is_err(), "{group}");
        }
        let old = "passwd: files sss [NOTFOUND=return]\ngroup: myfiles files # [x]\n";
        let new = "passwd: files countersign sss [NOTFOUND=return]\ngroup: myfiles files countersign # [x]\n";
        assert_eq!(with_accounts(old).unwrap(), new);
    }

    #[test]
    fn the_hook_stands_before_every_session_module() {
        let old = "@include common-auth\nsession required pam_env.so\n";
        let new = with_sessions(old).unwrap();
        assert_eq!(new, format!("{SESSION_LINE}\n{old}"));
        assert_eq!(with_sessions(&new).unwrap(), new);
        let late = format!("session required pam_env.so\n{SESSION_LINE}\n");
        assert_eq!(with_sessions(&late).unwrap(), format!("{SESSION_LINE}\n{late}"));
        assert!(with_sessions("").is_err());
    }
}
