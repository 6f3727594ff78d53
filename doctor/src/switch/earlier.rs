//! A command that sshd asked before Countersign was switched on: goes on behind ours (`--chain`), or is asked no more. Which of both is
//! the administrator's to say: whoever gets in by it would be kept out without a word.

use std::path::Path;

use crate::asked::is_helper;
use crate::code::Code;
use crate::commands::{KEYS, PRINCIPALS, keys_chain};
use crate::config::words;
use crate::finding::Finding;
use crate::sshd::Effective;

use super::plan::SETTINGS;

/// What becomes of an earlier AuthorizedKeysCommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// The helper asks it about logins that are none of the realm's business.
    Keep,
    /// Nobody asks it any more.
    Replace,
}

/// What it comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// What sshd is told.
    pub(crate) settings: String,
    /// For people.
    pub(crate) notes: Vec<String>,
}

/// # Errors
/// A finding that names the earlier command, where nobody has said what becomes of it.
pub(crate) fn settle(now: &Effective, wish: Option<Earlier>) -> Result<Settled, Finding> {
    let mut settings = SETTINGS.to_owned();
    let mut notes = Vec::new();
    if let Some(command) = of_principals(now) {
        notes.push(format!("sshd asks {command} no more: as {PRINCIPALS} it knows one, too"));
    }
    let Some(command) = of_keys(now) else { return Ok(Settled { settings, notes }) };
    let user = now.get("authorizedkeyscommanduser");
    match wish {
        None => {
            let found = format!("sshd asks {command} so far (as {user})");
            let change = "--keep-earlier: it goes on behind ours, as the user countersign (docs/operations.md); or --replace-earlier: nobody asks it any more";
            return Err(Finding::new(Code::SwitchEarlier, KEYS, found).change(change));
        }
        Some(Earlier::Replace) => {
            notes.push(format!("nobody asks {command} any more: whoever gets in by it alone is kept out"))
        }
        Some(Earlier::Keep) => {
            let chained = |line: &str| {
                let chain =
                    if line.starts_with(&format!("{KEYS} ")) { format!(" --chain {command}") } else { String::new() };
                format!("{line}{chain}\n")
            };
            settings = SETTINGS.lines().map(chained).collect();
            notes.push(format!("{command} runs as the user countersign from then on; so far as {user}"));
        }
    }
    Ok(Settled { settings, notes })
}

/// The words of sshd's configuration; those behind `--chain`, where the command is ours by now.
fn of_keys(now: &Effective) -> Option<String> {
    let command = other(now, KEYS);
    command.or_else(|| keys_chain(now.get(&KEYS.to_ascii_lowercase())).map(str::to_owned))
}

fn of_principals(now: &Effective) -> Option<String> {
    other(now, PRINCIPALS)
}

fn other(now: &Effective, setting: &str) -> Option<String> {
    let command = now.get(&setting.to_ascii_lowercase()).trim();
    let is_ours = || words(command).first().is_some_and(|program| is_helper(Path::new(program)));
    (!matches!(command, "" | "none") && !is_ours()).then(|| command.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "/usr/lib/countersign/countersign-sshd keys %u %U %t %k";

    fn with(command: &str, wish: Option<Earlier>) -> Result<Settled, Finding> {
        let text = format!("authorizedkeyscommand {command}\nauthorizedkeyscommanduser nobody\n");
        settle(&Effective::parse(&text), wish)
    }

    #[test]
    fn a_host_that_asks_nobody_or_us_gets_the_settings_as_they_are() {
        for wish in [None, Some(Earlier::Keep), Some(Earlier::Replace)] {
            for command in ["none", "", OURS] {
                let expected = Settled { settings: SETTINGS.to_owned(), notes: Vec::new() };
                assert_eq!(with(command, wish).unwrap(), expected, "{command}");
            }
        }
    }

    #[test]
    fn an_earlier_command_is_neither_kept_nor_dropped_without_a_word() {
        // Also one that is behind ours already, by somebody else's hand.
        for command in
            ["/usr/bin/sss_ssh_authorizedkeys %u", &format!("{OURS} --chain /usr/bin/sss_ssh_authorizedkeys %u")]
        {
            let finding = with(command, None).unwrap_err();
            assert_eq!(finding.code, Code::SwitchEarlier);
            assert_eq!(finding.found, "sshd asks /usr/bin/sss_ssh_authorizedkeys %u so far (as nobody)");
            for option in ["--keep-earlier", "--replace-earlier"] {
                assert!(finding.change.contains(option), "{}", finding.change);
            }

            let kept = with(command, Some(Earlier::Keep)).unwrap();
            let line = format!("\nAuthorizedKeysCommand {OURS} --chain /usr/bin/sss_ssh_authorizedkeys %u\n");
            assert_eq!(kept.settings, SETTINGS.replace(&format!("\nAuthorizedKeysCommand {OURS}\n"), &line));
            assert!(kept.settings.contains(&line) && kept.notes.len() == 1, "{kept:?}");

            let replaced = with(command, Some(Earlier::Replace)).unwrap();
            assert_eq!(replaced.settings, SETTINGS);
            assert!(
                replaced
                    .notes
                    .iter()
                    .any(|note| note.contains("nobody asks /usr/bin/sss_ssh_authorizedkeys %u any more")),
                "{replaced:?}"
            );
        }
    }

    #[test]
    fn an_earlier_command_keeps_its_words_as_sshd_reads_them() {
        for command in
            ["/opt/keys", "\"/opt/a b/keys\" --for '%u of %h'", "/opt/countersign-sshd.sh %u", "/opt/keys --chain %u"]
        {
            let kept = with(command, Some(Earlier::Keep)).unwrap();
            assert!(kept.settings.contains(&format!("{OURS} --chain {command}\n")), "{}", kept.settings);
        }
    }

    #[test]
    fn an_earlier_principals_command_is_named() {
        let text = "authorizedprincipalscommand /opt/principals %i\nauthorizedkeyscommand none\n";
        let settled = settle(&Effective::parse(text), None).unwrap();
        assert!(settled.notes.iter().any(|note| note.contains("/opt/principals %i")), "{settled:?}");
    }
}
