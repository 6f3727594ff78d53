//! The two commands: that there are both, both the helper, with its arguments, in the right order, and as whom they run.

use std::ffi::OsString;
use std::path::PathBuf;

use countersign_sshd::program::Options;
use nix::unistd::User;

use crate::asked::{Asked, is_helper};
use crate::code::Code;
use crate::config::words;
use crate::finding::Finding;
use crate::sshd::Version;
use crate::trust::Who;

pub(crate) const KEYS: &str = "AuthorizedKeysCommand";
pub(crate) const PRINCIPALS: &str = "AuthorizedPrincipalsCommand";
const KEYS_ARGUMENTS: &[&str] = &["keys", "%u", "%U", "%t", "%k"];
const PRINCIPALS_ARGUMENTS: &[&str] = &["principals", "%u", "%U", "%t", "%k", "%i", "%s", "%K"];
const KEYS_TOKENS: &str = "%fhktUu";
const PRINCIPALS_TOKENS: &str = "%fhktUuFiKsT";
/// Both commands know these from OpenSSH 9.4 on.
const LATER_TOKENS: &str = "CD";

/// The helper, as sshd is told to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Helper {
    pub(crate) program: PathBuf,
    /// The snapshot that it is to read.
    pub(crate) snapshot: PathBuf,
    /// An earlier command with its arguments.
    pub(crate) chain: Option<Vec<String>>,
    pub(crate) chain_secs: u64,
}

/// The helper in a command's words; none where it is another program. `Err` where it would refuse its arguments.
pub(crate) fn helper(command: &str, expected: &[&str]) -> Option<Result<Helper, String>> {
    let mut command = words(command).into_iter();
    let program = PathBuf::from(command.next()?);
    if !is_helper(&program) {
        return None;
    }
    let mut arguments: Vec<OsString> = command.map(OsString::from).collect();
    let options = Options::take(&mut arguments);
    let arguments: Vec<String> = arguments.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let (own, rest) = arguments.split_at(expected.len().min(arguments.len()));
    let chain = match rest {
        [] => None,
        [option, program @ ..] if option == "--chain" && !program.is_empty() && expected == KEYS_ARGUMENTS => {
            Some(program.to_vec())
        }
        _ => return Some(Err(arguments.join(" "))),
    };
    if own != expected {
        return Some(Err(arguments.join(" ")));
    }
    let chain_secs = options.chain_limit.as_secs();
    Some(Ok(Helper { program, snapshot: options.directory, chain, chain_secs }))
}

/// The helper of the keys command, where that is right.
pub(crate) fn keys_helper(asked: &Asked<'_>) -> Option<Helper> {
    helper(asked.get(KEYS), KEYS_ARGUMENTS)?.ok()
}

/// What stands behind `--chain` in a keys command that is the helper, as sshd's configuration has it.
pub(crate) fn keys_chain(command: &str) -> Option<&str> {
    helper(command, KEYS_ARGUMENTS)?.ok()?.chain?;
    command.split_once(" --chain ").map(|(_, chain)| chain.trim())
}

/// The helper of the principals command, where that is right.
pub(crate) fn principals_helper(asked: &Asked<'_>) -> Option<Helper> {
    helper(asked.get(PRINCIPALS), PRINCIPALS_ARGUMENTS)?.ok()
}

/// Everything about both.
pub(crate) fn judge(asked: &Asked<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    keys(asked, &mut found);
    principals(asked, &mut found);
    for (setting, tokens) in [(KEYS, KEYS_TOKENS), (PRINCIPALS, PRINCIPALS_TOKENS)] {
        if asked.is_set(setting) {
            unknown_tokens(asked, setting, tokens, &mut found);
            user(asked, setting, &mut found);
        }
    }
    found
}

fn full(asked: &Asked<'_>, arguments: &[&str]) -> String {
    format!("{} {}", asked.helper().display(), arguments.join(" "))
}

fn keys(asked: &Asked<'_>, found: &mut Vec<Finding>) {
    let command = asked.get(KEYS);
    let line = asked.line(KEYS, &full(asked, KEYS_ARGUMENTS));
    if !asked.is_set(KEYS) {
        found.push(asked.finding(Code::KeysCommandNone, KEYS, "none").change(line));
        return;
    }
    match helper(command, KEYS_ARGUMENTS) {
        None => {
            let change = format!("{line} --chain {command}");
            found.push(asked.finding(Code::KeysCommandOther, KEYS, command).change(change));
        }
        Some(Err(arguments)) => {
            found.push(asked.finding(Code::KeysCommandArguments, KEYS, arguments).change(line));
        }
        Some(Ok(_)) => {}
    }
}

fn principals(asked: &Asked<'_>, found: &mut Vec<Finding>) {
    let command = asked.get(PRINCIPALS);
    let line = asked.line(PRINCIPALS, &full(asked, PRINCIPALS_ARGUMENTS));
    let forgets = asked.version.is_some_and(forgets);
    if asked.is_set(PRINCIPALS) {
        match helper(command, PRINCIPALS_ARGUMENTS) {
            None => {
                let finding = asked.finding(Code::PrincipalsCommandOther, PRINCIPALS, command);
                found.push(finding.change(line.clone()));
            }
            Some(Err(arguments)) => {
                let finding = asked.finding(Code::PrincipalsCommandArguments, PRINCIPALS, arguments);
                found.push(finding.change(line.clone()));
            }
            Some(Ok(_)) => {}
        }
        if let Some((keys, principals)) = wrong_order(asked) {
            let text = format!("{principals} stands after {KEYS} ({keys})");
            let change = format!("move the line {line} to before {keys}");
            found.push(asked.finding(Code::CommandOrder, PRINCIPALS, text).change(change));
        }
        return;
    }
    match wrong_order(asked) {
        Some((keys, principals)) if forgets => {
            let text = format!("none, although it stands in {principals}: {KEYS} stands before it, in {keys}");
            let change = format!("move the line {line} to before {keys}");
            found.push(asked.finding(Code::PrincipalsCommandForgotten, PRINCIPALS, text).change(change));
        }
        _ => {
            let change = format!("{line}\nabove the line {KEYS}");
            found.push(asked.finding(Code::PrincipalsCommandNone, PRINCIPALS, "none").change(change));
        }
    }
}

/// OpenSSH 8.7 to 9.3.
fn forgets(version: Version) -> bool {
    (Version { major: 8, minor: 7 }..=Version { major: 9, minor: 3 }).contains(&version)
}

/// Where the commands stand: in the first `Match` that has either, if one has.
fn block(asked: &Asked<'_>) -> Option<usize> {
    let names = ["authorizedkeyscommand", "authorizedprincipalscommand"];
    names.iter().filter_map(|name| asked.config.block_of(name, asked.blocks)).min()
}

/// The places of both, where the keys command stands first in this block.
fn wrong_order(asked: &Asked<'_>) -> Option<(String, String)> {
    let (lines, block) = (&asked.config.lines, block(asked));
    let position = |keyword: &str| {
        lines.iter().position(|line| line.keyword == keyword && line.block == block && line.argument != "none")
    };
    let (keys, principals) = (position("authorizedkeyscommand")?, position("authorizedprincipalscommand")?);
    let place = |index: usize| lines.get(index).map(|line| format!("{}:{}", line.file.display(), line.number));
    if keys < principals { Some((place(keys)?, place(principals)?)) } else { None }
}

fn unknown_tokens(asked: &Asked<'_>, setting: &str, known: &str, found: &mut Vec<Finding>) {
    let command = asked.get(setting);
    let later = asked.version.is_none_or(|version| version >= Version { major: 9, minor: 4 });
    // The program itself is not expanded.
    for word in words(command).iter().skip(1) {
        let mut characters = word.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                continue;
            }
            let token = characters.next();
            if token.is_some_and(|token| known.contains(token) || (later && LATER_TOKENS.contains(token))) {
                continue;
            }
            let token = token.map_or_else(|| "% at the end".to_owned(), |token| format!("%{token}"));
            let change = format!("{setting} without {token}: sshd_config(5), TOKENS; a percent sign is %%");
            found.push(asked.finding(Code::TokenUnknown, setting, format!("{token} in {command}")).change(change));
        }
    }
}

fn user(asked: &Asked<'_>, command: &str, found: &mut Vec<Finding>) {
    let setting = format!("{command}User");
    let name = asked.get(&setting);
    let wanted = asked.host.agent.as_ref().map_or("countersign", |agent| agent.helper_user.as_str());
    let line = asked.line(&setting, wanted);
    if !asked.is_set(&setting) {
        found.push(asked.finding(Code::CommandUserMissing, &setting, "none").change(line));
        return;
    }
    match User::from_name(name) {
        Ok(Some(user)) if user.uid.is_root() => {
            found.push(asked.finding(Code::CommandUserRoot, &setting, name).change(line));
        }
        Ok(Some(_)) => {}
        _ => {
            let change = format!(
                "{line}\nand, where that user is not there: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {wanted}"
            );
            found.push(
                asked
                    .finding(Code::CommandUserMissing, &setting, format!("{name}: there is no such user"))
                    .change(change),
            );
        }
    }
}

/// Whom the commands run as.
pub(crate) fn runs_as(asked: &Asked<'_>, command: &str) -> Option<(String, Who)> {
    let name = asked.get(&format!("{command}User"));
    let user = User::from_name(name).ok().flatten()?;
    Some((name.to_owned(), Who { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_is_known_by_its_name_and_its_arguments_are_its_own_words() {
        let keys = |command: &str| helper(command, KEYS_ARGUMENTS);
        let plain = keys("/x/countersign-sshd keys %u %U %t %k").unwrap().unwrap();
        assert_eq!((plain.chain, plain.chain_secs), (None, 5));
        let chained = keys("/x/countersign-sshd --snapshot /s --chain-timeout 30 keys %u %U %t %k --chain /bin/a %u")
            .unwrap()
            .unwrap();
        assert_eq!(chained.chain, Some(vec!["/bin/a".to_owned(), "%u".to_owned()]));
        assert_eq!((chained.snapshot, chained.chain_secs), (PathBuf::from("/s"), 30));
        for wrong in [
            "",
            "keys",
            "keys %u",
            "keys %u %U %k %t",
            "keys %u %U %t %k extra",
            "keys %u %U %t %k --chain",
            "principals %u %U %t %k %i %s %K",
            "--chain-timeout 0 keys %u %U %t %k",
        ] {
            assert!(keys(&format!("/x/countersign-sshd {wrong}")).unwrap().is_err(), "{wrong}");
        }
        assert_eq!(keys("/usr/bin/sss_ssh_authorizedkeys %u"), None);
        let principals = |command: &str| helper(command, PRINCIPALS_ARGUMENTS).unwrap().is_ok();
        assert!(principals("/x/countersign-sshd principals %u %U %t %k %i %s %K"));
        assert!(!principals("/x/countersign-sshd principals %u %U %t %k %i %s %K --chain /bin/a"));
    }

    #[test]
    fn only_the_versions_that_forget_are_said_to() {
        let version = |major, minor| Version { major, minor };
        assert!(forgets(version(8, 7)) && forgets(version(9, 2)) && forgets(version(9, 3)));
        assert!(!forgets(version(8, 6)) && !forgets(version(9, 4)) && !forgets(version(10, 0)));
    }
}
