//! Countersign switched on and off on a host: `countersign doctor --enable` and `--disable`.
//!
//! On comes only what a real login has gone through: first through an sshd for one connection that has the planned files in their
//! places and nobody else sees, then, with them written and sshd reloaded, through the one that runs. If that last login fails, or the
//! program is told to end, everything goes back to the bytes that were there. What was there is on the disk before anything is written
//! ([`Recovery`]), for a run that is killed.
//!
//! Until the last login has gone through, sshd's new file holds one line, which includes the settings from `/run`: a machine that loses its
//! power in that moment comes up as it was before, for there `/run` is empty. No session is ended, and no sshd is stopped.

mod change;
mod earlier;
mod plan;
mod recovery;
mod service;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub use change::Change;
use change::{Restored, put};
pub use earlier::Earlier;
pub use plan::{Plan, SESSION_LINE, SETTINGS, Wishes};
use plan::{check_effect, drop_in};
use recovery::{FOLDER as RECOVERY_FOLDER, State, lock};
pub use recovery::{Recovery, path as recovery_path};
pub use service::Service;

use crate::code::Code;
use crate::finding::{Finding, Report, Severity};
use crate::host::Host;
use crate::login::{self, Credential, Ended, Running, Trial, Watch, inside};
use crate::run::run;
use crate::sshd::Effective;

/// What sshd's new file includes until the last login: in memory, gone with the next boot.
const TRIAL: &str = "/run/countersign-doctor.sshd_config";
/// How long sshd may take to have its new configuration.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

/// Where the running sshd listens.
///
/// # Errors
/// sshd's own words.
pub fn running(host: &Host, port: Option<u16>) -> Result<SocketAddr, String> {
    let effective = Effective::ask(host, None)?;
    login::address(&effective, port).ok_or_else(|| "sshd's configuration names no address".to_owned())
}

/// Whether a run of `--enable` was killed before its last login.
pub(crate) fn examine(report: &mut Report) {
    let about = recovery_path().display().to_string();
    match Recovery::load() {
        Ok(recovery) => {
            recovery.as_ref().and_then(Recovery::unfinished).into_iter().for_each(|finding| report.find(finding));
        }
        // Not root: said elsewhere.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => report.find(Finding::new(Code::SwitchUntrusted, about, error.to_string())),
    }
}

/// Signals that ask a program to end: held back, and looked at between steps.
struct Interrupt(SignalFd);

impl Interrupt {
    fn hold() -> io::Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            signals.add(signal);
        }
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    fn check(&self) -> Result<(), Finding> {
        match self.0.read_signal() {
            Ok(Some(_)) => Err(Finding::new(Code::SwitchTakenBack, "this program", "it was told to end")),
            _ => Ok(()),
        }
    }
}

/// Switches it on, as planned; tells each step before it is made.
///
/// # Errors
/// Findings; the host is as it was before, but where one says [`Code::SwitchStuck`].
pub fn enable(host: &Host, wishes: &Wishes, plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<(), Vec<Finding>> {
    let one = |finding: Finding| vec![finding];
    let _lock = lock(Path::new(RECOVERY_FOLDER)).map_err(|error| one(busy(&error)))?;
    match Recovery::load() {
        Ok(None) => {}
        Ok(Some(_)) => {
            let finding = Finding::new(
                Code::SwitchWithoutEffect,
                recovery_path().display().to_string(),
                "it is switched on already, or half so",
            );
            return Err(one(finding.change("countersign doctor --disable")));
        }
        Err(error) => {
            let about = recovery_path().display().to_string();
            return Err(one(Finding::new(Code::SwitchUntrusted, about, error.to_string())));
        }
    }
    let interrupt = Interrupt::hold().map_err(|error| one(failed(Path::new("signals"), &error)))?;
    let address = running(host, wishes.port)
        .map_err(|error| one(Finding::new(Code::SshdRefuses, host.sshd_config.display().to_string(), error)))?;
    tell("trying a stranger's login and yours through an sshd of its own, with the new files in their places");
    let planned = inside(&plan.covers(), |room| trial(host, wishes, plan, room)).unwrap_or_else(|error| {
        Err(vec![Finding::new(Code::LoginBroken, "the trial", format!("no place for it: {error}"))])
    })?;
    interrupt.check().map_err(one)?;
    let service = Service::at(address);
    let attempt = Attempt { host, wishes, plan, address, service: &service, interrupt: &interrupt };
    let mut recovery = Recovery::of(plan.changes.clone(), wishes.port);
    recovery.save().map_err(|error| one(failed(&recovery_path(), &error)))?;
    match attempt.make(&planned, tell) {
        Ok(()) => {
            recovery.state = State::Enabled;
            recovery.save().map_err(|error| one(stuck(&recovery_path(), &error)))?;
            let _ = fs::remove_file(TRIAL);
            Ok(())
        }
        Err(mut findings) => {
            tell("taking everything back");
            let left = take_back(host, &recovery, &service, address, Vec::new());
            if left.is_empty() && !findings.iter().any(|finding| finding.code == Code::SwitchTakenBack) {
                let finding = Finding::new(Code::SwitchTakenBack, "this host", "the new settings did not hold");
                findings.push(
                    finding.change("mend what the other findings name, then `countersign doctor --enable` again"),
                );
            }
            findings.extend(left);
            Err(findings)
        }
    }
}

/// In the room with the planned files: the checks, sshd's own, a stranger's login, and the one that has to get in.
fn trial(host: &Host, wishes: &Wishes, plan: &Plan, room: &login::Room) -> Result<Effective, Vec<Finding>> {
    let broken = |why: String| vec![Finding::new(Code::LoginBroken, "the trial", why)];
    let effective = Effective::ask(host, None)
        .map_err(|error| vec![Finding::new(Code::SshdRefuses, host.sshd_config.display().to_string(), error)])?;
    check_effect(host, &plan.settings, &effective).map_err(|finding| vec![finding])?;
    let checks = crate::examine(host).findings;
    let in_the_way: Vec<Finding> = checks.into_iter().filter(is_in_the_way).collect();
    if !in_the_way.is_empty() {
        return Err(in_the_way);
    }
    let trial = Trial::begin(host, room).map_err(broken)?;
    let mut found = trial.stranger(&wishes.credential.login).map_err(broken)?;
    found.extend(trial.friend(&wishes.credential).map_err(broken)?);
    if found.is_empty() { Ok(effective) } else { Err(found) }
}

/// What somebody may live with is in the way where it opens the host beside the ledger: that nothing does is what is said after.
fn is_in_the_way(finding: &Finding) -> bool {
    finding.severity == Severity::Error || matches!(finding.code, Code::OtherMethods | Code::KeysFileForAll)
}

struct Attempt<'a> {
    host: &'a Host,
    wishes: &'a Wishes,
    plan: &'a Plan,
    address: SocketAddr,
    service: &'a Service,
    interrupt: &'a Interrupt,
}

impl Attempt<'_> {
    fn make(&self, planned: &Effective, tell: &mut dyn FnMut(&str)) -> Result<(), Vec<Finding>> {
        let one = |finding: Finding| vec![finding];
        let drop_in = drop_in(self.host);
        for change in &self.plan.changes {
            tell(&format!("writing {}", change.path.display()));
            let text = if change.path == drop_in { trial_text(&change.after) } else { Ok(change.after.clone()) };
            let written = text.and_then(|text| change.write(&text, &[]));
            written.map_err(|error| one(failed(&change.path, &error)))?;
        }
        self.is_as_planned(planned)?;
        self.interrupt.check().map_err(one)?;
        tell(&self.service.text());
        self.service
            .reload(self.address)
            .map_err(|why| one(Finding::new(Code::SshdUnreachable, format!("sshd at {}", self.address), why)))?;
        tell("logging in through the sshd that runs");
        inside(&[], |room| self.prove(room))
            .unwrap_or_else(|error| Err(one(failed(Path::new("a place for the login"), &error))))?;
        self.interrupt.check().map_err(one)?;
        for change in self.plan.changes.iter().filter(|change| change.path == drop_in) {
            let trial = trial_text_of();
            change.write(&change.after, &[&trial, &change.after]).map_err(|error| one(failed(&change.path, &error)))?;
        }
        self.is_as_planned(planned)
    }

    fn is_as_planned(&self, planned: &Effective) -> Result<(), Vec<Finding>> {
        let about = self.host.sshd_config.display().to_string();
        let refused = |found: String| vec![Finding::new(Code::SshdRefuses, about.clone(), found)];
        check_syntax(self.host).map_err(refused)?;
        let now = Effective::ask(self.host, None).map_err(refused)?;
        if now == *planned { Ok(()) } else { Err(refused("sshd reads something else than in the trial".to_owned())) }
    }

    /// The login through the running sshd, once it has its new configuration: then it asks the helper.
    fn prove(&self, room: &login::Room) -> Result<(), Vec<Finding>> {
        let broken = |why: String| vec![Finding::new(Code::LoginBroken, "the last login", why)];
        let trial = Trial::begin(self.host, room).map_err(broken)?;
        let running = Running { host: self.host, room, known_hosts: &trial.known_hosts, address: self.address };
        let helper =
            trial.helper().ok_or_else(|| broken("sshd's configuration does not name the helper".to_owned()))?;
        let watch = Watch::begin(&helper).map_err(|error| broken(format!("{}: {error}", helper.display())))?;
        let credential: &Credential = &self.wishes.credential;
        let begun = Instant::now();
        loop {
            self.interrupt.check().map_err(|finding| vec![finding])?;
            watch.was_opened();
            let ended = running.log_in(credential);
            let was_asked = watch.was_opened();
            match ended {
                Ended::LetIn(Ok(())) if was_asked => break,
                Ended::LetIn(Err(said)) if was_asked => {
                    return Err(broken(format!("it was let in, and `true` did not run: {said}")));
                }
                Ended::Refused(said) if was_asked => {
                    return Err(vec![Finding::new(Code::LoginRefused, "the last login", said)]);
                }
                // Not the new configuration yet, or just in between.
                ended if begun.elapsed() > PATIENCE => {
                    return Err(match ended {
                        Ended::LetIn(_) => vec![Finding::new(
                            Code::SshdOutdated,
                            format!("sshd at {}", self.address),
                            "it let the login in and did not run the helper",
                        )],
                        ended => vec![running.unreachable(ended)],
                    });
                }
                _ => thread::sleep(LOOK),
            }
        }
        let found = running.stranger(&credential.login, Some(helper)).map_err(broken)?;
        if found.is_empty() { Ok(()) } else { Err(found) }
    }
}

/// Switches it off: every file is again what it was, and the sshd reads that which was reached when it was switched on, or that at `port`.
///
/// # Errors
/// Findings: what could not be put back.
pub fn disable(host: &Host, port: Option<u16>, tell: &mut dyn FnMut(&str)) -> Result<(), Vec<Finding>> {
    let one = |finding: Finding| vec![finding];
    let _lock = lock(Path::new(RECOVERY_FOLDER)).map_err(|error| one(busy(&error)))?;
    // Told to end in between, it would leave half of it: it ends by itself.
    let _interrupt = Interrupt::hold().map_err(|error| one(stuck(Path::new("signals"), &error)))?;
    let recovery = Recovery::load().map_err(|error| one(stuck(&recovery_path(), &error)))?;
    let Some(recovery) = recovery else { return Ok(()) };
    let port = port.or(recovery.port);
    let address = running(host, port).unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], port.unwrap_or(22))));
    for path in recovery.paths() {
        tell(&format!("putting {} back", path.display()));
    }
    let service = Service::at(address);
    let left = take_back(host, &recovery, &service, address, unheard(&service, address));
    if left.is_empty() { Ok(()) } else { Err(left) }
}

/// A finding where nobody listens: an sshd that does so elsewhere would go on with files that are gone.
fn unheard(service: &Service, address: SocketAddr) -> Vec<Finding> {
    if *service != Service::Absent {
        return Vec::new();
    }
    let found = "no sshd listens there; one that listens elsewhere goes on as it was switched on";
    let finding = Finding::new(Code::SwitchStuck, format!("sshd at {address}"), found);
    vec![finding.change("start it, or say where it listens: countersign doctor --disable --port PORT")]
}

/// Puts every file back, has sshd read that, and forgets; what could not be done (`left` already) stays recorded.
fn take_back(
    host: &Host,
    recovery: &Recovery,
    service: &Service,
    address: SocketAddr,
    mut left: Vec<Finding>,
) -> Vec<Finding> {
    let trial = trial_text_of();
    for change in recovery.changes.iter().rev() {
        match change.restore(&[&change.after, &trial]) {
            Ok(Restored::Exactly | Restored::NothingOfOurs) => {}
            Ok(Restored::ChangedSince) => {
                let about = change.path.display().to_string();
                let finding =
                    Finding::new(Code::SwitchStuck, about, "somebody has changed it since: it was left as it is");
                left.push(finding.change(
                    "take the lines with `countersign` in them out, then `countersign doctor --disable` again",
                ));
            }
            Err(error) => left.push(stuck(&change.path, &error)),
        }
    }
    let _ = fs::remove_file(TRIAL);
    let about = format!("sshd at {address}");
    let unreachable = |why: String| Finding::new(Code::SwitchStuck, about.clone(), why).change("systemctl restart ssh");
    // A configuration that sshd refuses must not be given to one that runs: it would end.
    match check_syntax(host) {
        Err(said) => left.push(Finding::new(Code::SshdRefuses, host.sshd_config.display().to_string(), said)),
        Ok(()) if *service == Service::Absent => {}
        Ok(()) => {
            let alive = service.revive(host, address);
            let reloaded = alive.and_then(|()| Service::at(address).reload(address));
            if let Err(why) = reloaded {
                left.push(unreachable(why));
            }
        }
    }
    if left.is_empty()
        && let Err(error) = Recovery::forget()
    {
        left.push(stuck(&recovery_path(), &error));
    }
    left
}

fn check_syntax(host: &Host) -> Result<(), String> {
    let ran =
        run(Command::new(&host.sshd).arg("-t").arg("-f").arg(&host.sshd_config)).map_err(|error| error.to_string())?;
    if ran.success { Ok(()) } else { Err(ran.stderr.trim().to_owned()) }
}

fn trial_text_of() -> String {
    format!(
        "# A trial by `countersign doctor --enable`; where it stays, `countersign doctor --disable` takes it back.\nInclude {TRIAL}\n"
    )
}

/// Puts the settings where they end with the next boot, and gives the line that includes them. A policy of SELinux may keep sshd from
/// reading files there, which would end it: under one, the settings themselves.
fn trial_text(settings: &str) -> io::Result<String> {
    if fs::read("/sys/fs/selinux/enforce").is_ok_and(|enforces| enforces.starts_with(b"1")) {
        return Ok(settings.to_owned());
    }
    put(Path::new(TRIAL), settings.as_bytes(), 0o600, (0, 0))?;
    Ok(trial_text_of())
}

fn stuck(path: &Path, error: &io::Error) -> Finding {
    Finding::new(Code::SwitchStuck, path.display().to_string(), error.to_string())
}

/// Nothing was looked at yet.
fn busy(error: &io::Error) -> Finding {
    Finding::new(Code::SwitchBusy, RECOVERY_FOLDER, error.to_string())
        .change("wait until the other one has ended, then again")
}

fn failed(path: &Path, error: &io::Error) -> Finding {
    Finding::new(Code::SwitchTakenBack, path.display().to_string(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_the_host_beside_the_ledger_is_in_the_way_and_other_warnings_are_not() {
        for (code, expected) in [
            (Code::KeysFileUsers, true),
            (Code::OtherMethods, true),
            (Code::KeysFileForAll, true),
            (Code::LogLevel, false),
            (Code::MatchGroup, false),
        ] {
            assert_eq!(is_in_the_way(&Finding::new(code, "x", "y")), expected, "{code}");
        }
    }

    #[test]
    fn an_sshd_that_nobody_finds_is_not_switched_off() {
        let address = SocketAddr::from(([127, 0, 0, 1], 4022));
        let found = unheard(&Service::Absent, address);
        assert!(matches!(found.as_slice(), [only] if only.code == Code::SwitchStuck), "{found:?}");
        assert_eq!(unheard(&Service::OnDemand, address), []);
    }
}
