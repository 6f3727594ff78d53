//! Real logins by real programs: with a certificate that nobody made, which has to be refused by the helper's word, and, where one is
//! given, with a credential that has to get in.
//!
//! Each goes two ways. Through an sshd for one connection ([`sshd_once`]), which shows why; and through the one that runs, which shows
//! that it is there, is the host's, and decides by the same configuration. No key of anybody is used that was not named, the plain text
//! of none is printed, and nothing of a trial stays ([`room`]).

mod client;
mod helper_line;
mod room;
mod running;
mod socket;
mod sshd_once;
mod throwaway;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use client::Credential;
pub(crate) use client::Ended;
use client::{ALIAS, KEYGEN, SSH};
use helper_line::{HelperLine, meaning};
pub(crate) use room::Room;
pub(crate) use room::{Cover, inside};
pub(crate) use running::{Running, Watch, address};
pub(crate) use socket::{listeners, listening};
use sshd_once::{Tried, try_login};
use throwaway::Throwaway;

use crate::code::Code;
use crate::finding::{Finding, Report};
use crate::host::Host;
use crate::run::run;
use crate::sshd::{Effective, Spec};

/// The check, as the report names it.
const CHECK: &str = "logins";
const HELPER: &str = "countersign-sshd";

/// Which logins to try.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logins {
    /// What has to get in.
    pub credential: Option<Credential>,
    /// The port of the running sshd, where it is not the configuration's.
    pub port: Option<u16>,
}

/// Tries them.
pub fn examine_logins(host: &Host, logins: &Logins, report: &mut Report) {
    if !nix::unistd::geteuid().is_root() {
        return report.not_checked(CHECK, "trying them takes root");
    }
    match inside(&[], |room| try_all(host, logins, room)) {
        Ok(Ok(tried)) => {
            report.checked(CHECK);
            tried.into_iter().for_each(|finding| report.find(finding));
        }
        Ok(Err(why)) => report.not_checked(CHECK, why),
        Err(error) => report.not_checked(CHECK, format!("no place to try them in: {error}")),
    }
}

fn try_all(host: &Host, logins: &Logins, room: &Room) -> Result<Vec<Finding>, String> {
    let trial = Trial::begin(host, room)?;
    let mut found = Vec::new();
    for login in candidates(host, logins) {
        found.extend(trial.stranger(&login)?);
    }
    if let Some(credential) = &logins.credential {
        found.extend(trial.friend(credential)?);
    }
    let Some(address) = address(&trial.effective, logins.port) else {
        return Err("sshd's configuration names no address to try".to_owned());
    };
    let running = Running { host, room, known_hosts: &trial.known_hosts, address };
    // One stranger's login is enough here: sshd makes an address wait that is refused often.
    if let Some(login) = candidates(host, logins).first() {
        let asks = trial.asks_helper(login);
        found.extend(running.stranger(login, asks.then(|| trial.helper()).flatten())?);
    }
    if let Some(credential) = &logins.credential {
        found.extend(running.friend(credential));
    }
    Ok(found)
}

/// Whose logins a stranger tries: the one that was named, the first of people's accounts, and root.
fn candidates(host: &Host, logins: &Logins) -> Vec<String> {
    const FIRST: u32 = 1000;
    const NOBODY: u32 = 65_534;
    let passwd = fs::read_to_string(&host.passwd).unwrap_or_default();
    let person = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, _, _, _, shell] = fields.as_slice() else { return None };
        let uid: u32 = uid.parse().ok()?;
        let is_person = (FIRST..NOBODY).contains(&uid) && !shell.ends_with("/nologin") && Path::new(shell).is_file();
        is_person.then(|| (*name).to_owned())
    });
    let named = logins.credential.as_ref().map(|credential| credential.login.clone()).or_else(|| host.login.clone());
    let mut all: Vec<String> = Vec::new();
    for login in [named, person, Some("root".to_owned())].into_iter().flatten() {
        if !all.contains(&login) {
            all.push(login);
        }
    }
    all
}

/// What trials need of a host.
pub(crate) struct Trial<'a> {
    host: &'a Host,
    room: &'a Room,
    /// sshd's configuration.
    pub(crate) effective: Effective,
    /// The host's own keys.
    pub(crate) known_hosts: PathBuf,
}

impl<'a> Trial<'a> {
    /// # Errors
    /// Why nothing can be tried.
    pub(crate) fn begin(host: &'a Host, room: &'a Room) -> Result<Self, String> {
        if !Path::new(SSH).is_file() {
            return Err(format!("there is no {SSH} to log in with"));
        }
        let effective =
            Effective::ask(host, None).map_err(|error| format!("sshd refuses its configuration: {error}"))?;
        let known_hosts = room.path("known_hosts");
        let keys = host_keys(&effective);
        if keys.is_empty() {
            return Err("sshd's configuration names no host key that can be read".to_owned());
        }
        let lines: String = keys.iter().map(|key| format!("{ALIAS} {key}\n")).collect();
        fs::write(&known_hosts, lines).map_err(|error| error.to_string())?;
        Ok(Self { host, room, effective, known_hosts })
    }

    fn asks_helper(&self, login: &str) -> bool {
        Effective::ask(self.host, Some(&Spec::of_login(login)))
            .is_ok_and(|effective| effective.get("authorizedkeyscommand").contains(HELPER))
    }

    /// The helper's file.
    pub(crate) fn helper(&self) -> Option<PathBuf> {
        let command = self.effective.get("authorizedkeyscommand").split(' ').next()?;
        command.contains(HELPER).then(|| PathBuf::from(command))
    }

    fn once(&self, credential: &Credential) -> Result<Tried, String> {
        try_login(self.host, self.room, credential, &self.known_hosts)
            .map_err(|error| format!("no login could be tried: {error}"))
    }

    /// Tries to get in by a certificate that nobody made.
    ///
    /// # Errors
    /// It could not be tried.
    pub(crate) fn stranger(&self, login: &str) -> Result<Vec<Finding>, String> {
        let throwaway = make(self.room, login)?;
        let tried = self.once(&throwaway.credential)?;
        let about = format!("login {login}");
        match tried.ended {
            Ended::LetIn(_) => Ok(vec![accepted(login, &self.lines(&tried))]),
            Ended::Refused(_) if !self.asks_helper(login) => Ok(Vec::new()),
            Ended::Refused(_) => {
                let answers = |line: &HelperLine| line.is_about(&throwaway.fingerprint, Some(throwaway.serial));
                let was_asked = self.lines(&tried).iter().any(answers);
                if was_asked || !self.room.hears() || is_not_admitted(&tried.sshd) {
                    return Ok(Vec::new());
                }
                let finding = Finding::new(Code::HelperNoAnswer, about, words(&tried.sshd));
                Ok(vec![finding.change(format!("sudo -u {} {} keys", self.user(), self.command()))])
            }
            Ended::OtherHost(said) | Ended::NoAnswer(said) => Ok(vec![
                Finding::new(Code::LoginBroken, about, format!("{said}\n{}", words(&tried.sshd))).change(format!(
                    "{} -t -f {}",
                    self.host.sshd.display(),
                    self.host.sshd_config.display()
                )),
            ]),
        }
    }

    /// Logs in by a credential that has to get in.
    ///
    /// # Errors
    /// It could not be tried.
    pub(crate) fn friend(&self, credential: &Credential) -> Result<Vec<Finding>, String> {
        let (fingerprint, serial) = credential.name().map_err(|error| format!("no name for the key: {error}"))?;
        let tried = self.once(credential)?;
        let about = format!("login {}", credential.login);
        let mut lines = self.lines(&tried);
        lines.retain(|line| line.is_about(&fingerprint, serial));
        Ok(match tried.ended {
            Ended::LetIn(Ok(())) if lines.iter().any(HelperLine::lets_in) || !self.room.hears() => Vec::new(),
            Ended::LetIn(Ok(())) => {
                let change = "AuthorizedKeysFile none, and no TrustedUserCAKeys of another CA";
                vec![Finding::new(Code::LoginWithoutHelper, about, words(&tried.sshd)).change(change)]
            }
            Ended::LetIn(Err(said)) => vec![
                Finding::new(Code::LoginBroken, about, format!("it was let in, and `true` did not run: {said}"))
                    .change("the account's shell and home, PAM's session modules, a forced command"),
            ],
            Ended::Refused(_) => vec![refused(about, lines.last(), &tried.sshd)],
            Ended::OtherHost(said) | Ended::NoAnswer(said) => {
                vec![Finding::new(Code::LoginBroken, about, format!("{said}\n{}", words(&tried.sshd)))]
            }
        })
    }

    fn lines(&self, tried: &Tried) -> Vec<HelperLine> {
        tried.log.iter().filter_map(|line| HelperLine::read(line)).collect()
    }

    fn user(&self) -> &str {
        self.effective.get("authorizedkeyscommanduser")
    }

    fn command(&self) -> &str {
        self.effective.get("authorizedkeyscommand").split(' ').next().unwrap_or_default()
    }
}

fn make(room: &Room, login: &str) -> Result<Throwaway, String> {
    Throwaway::make(room, login).map_err(|error| format!("no certificate to try: {error}"))
}

fn accepted(login: &str, lines: &[HelperLine]) -> Finding {
    let by = lines.iter().find(|line| line.lets_in()).map_or_else(
        || "sshd let in a certificate by a CA that was made a moment ago".to_owned(),
        |line| format!("the helper let in a certificate by a CA that was made a moment ago: {}", line.text),
    );
    let change =
        "take the host off the network; compare `sshd -T` with docs/operations.md, and the helper with the package's";
    Finding::new(Code::ThrowawayAccepted, format!("login {login}"), by).change(change)
}

/// A login that should have got in and did not: by the helper's reason where it gave one, else by sshd's words.
fn refused(about: String, line: Option<&HelperLine>, sshd: &str) -> Finding {
    let Some(line) = line else { return Finding::new(Code::LoginRefused, about, words(sshd)) };
    let (means, change) = meaning(&line.reason).unwrap_or_default();
    Finding::new(Code::LoginRefused, about, format!("{}: {means}\n{}", line.reason, line.text)).change(change)
}

/// sshd does not know the login, or does not want it: it asks nobody then.
fn is_not_admitted(sshd: &str) -> bool {
    sshd.lines().any(|line| line.contains(" not allowed because ") || line.starts_with("Invalid user "))
}

/// What sshd said, without what it says at every login.
fn words(sshd: &str) -> String {
    let usual = ["Connection from ", "Connection closed by ", "Connection reset by ", "Failed publickey for "];
    let usual = [&usual[..], &["Received disconnect from ", "Disconnected from ", "Server listening on "]].concat();
    let said: Vec<&str> = sshd.lines().filter(|line| !usual.iter().any(|usual| line.starts_with(usual))).collect();
    if said.is_empty() { "sshd said nothing about it".to_owned() } else { said.join("\n") }
}

/// The public halves of the host keys: from the files beside them, or made from the private ones.
fn host_keys(effective: &Effective) -> Vec<String> {
    effective.all("hostkey").iter().filter_map(|path| public_line(path).ok()).collect()
}

fn public_line(path: &str) -> io::Result<String> {
    let beside = fs::read_to_string(format!("{path}.pub"));
    let text = match beside {
        Ok(text) => text,
        Err(_) => run(Command::new(KEYGEN).args(["-y", "-P", "", "-f", path]))?.stdout,
    };
    let mut fields = text.split_whitespace();
    match (fields.next(), fields.next()) {
        (Some(kind), Some(key)) => Ok(format!("{kind} {key}")),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
