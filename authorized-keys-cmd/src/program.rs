//! What both programs do alike: options, the deadline of a decision, the log, and the one write to sshd.
//!
//! Refuses to print anything after the deadline, and to say that half a line was a whole one.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::time::Duration;

use countersign_snapshot::Clock;
use nix::sys::signal::{SigSet, Signal};

use crate::deadline::{Deadline, GRACE, Late};
use crate::decide::{Refusal, Verdict};
use crate::log::{log_line, send_to_syslog};
use crate::note::{Granter, RUNTIME, leave};
use crate::process::ProcessName;
use crate::query::{Mode, Query};
use crate::reason::{Reason, Severity};

const LIMIT: Duration = Duration::from_millis(200);
/// What an earlier command may take, and the most that may be asked for: sshd's own limit, `LoginGraceTime`, is 120 s.
const CHAIN_SECS: u64 = 5;
const MAX_CHAIN_SECS: u64 = 60;
const SNAPSHOT: &str = "/var/lib/countersign/snapshot";
/// Where syslog listens.
pub const SYSLOG: &str = "/dev/log";
/// The status of a program that has said all that it had to say, be it nothing.
pub const SUCCESS: u8 = 0;
/// The status of one that has not.
pub const FAILURE: u8 = 1;

/// Closes this process to others of its user: they cannot trace it, read its memory or take its descriptors. On a host with an earlier
/// command that user is not ours alone, and standard output is what sshd believes. Until here the kernel does it, where the user may
/// run the program and not read it (mode 0711).
///
/// # Errors
/// The system refuses; then nothing may be printed.
pub fn close_to_others() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Makes a reader that has gone an error of the one write, and not the program's end by a signal.
///
/// # Errors
/// The system refuses.
pub fn hold_sigpipe_back() -> io::Result<()> {
    Ok(SigSet::from(Signal::SIGPIPE).thread_block()?)
}

/// What stands before the mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where the snapshot is.
    pub directory: PathBuf,
    /// How long an earlier command may take.
    pub chain_limit: Duration,
}

impl Options {
    /// Cuts `--snapshot DIR` and `--chain-timeout SECONDS` off the front. A directory of one's own only helps where it is root's, too.
    /// Whatever is not right stays, and is refused with the arguments.
    pub fn take(arguments: &mut Vec<OsString>) -> Self {
        let (mut directory, mut limit_secs) = (PathBuf::from(SNAPSHOT), CHAIN_SECS);
        loop {
            match arguments.as_slice() {
                [option, value, ..] if option == "--snapshot" => directory = PathBuf::from(value),
                [option, value, ..] if option == "--chain-timeout" => {
                    let secs = value.to_str().and_then(|value| value.parse().ok());
                    let Some(secs) = secs.filter(|secs| (1..=MAX_CHAIN_SECS).contains(secs)) else { break };
                    limit_secs = secs;
                }
                _ => break,
            }
            arguments.drain(..2);
        }
        Self { directory, chain_limit: Duration::from_secs(limit_secs) }
    }
}

/// What the log says of arguments that need not be right.
#[must_use]
pub fn asked(arguments: &[OsString]) -> (Option<Mode>, Vec<u8>) {
    let mode = [Mode::Keys, Mode::Principals]
        .into_iter()
        .find(|mode| arguments.first().is_some_and(|name| name == mode.name()));
    let user = arguments.get(1).filter(|_| mode.is_some()).map(|user| user.as_bytes().to_vec());
    (mode, user.unwrap_or_default())
}

/// A refusal before anything was looked up.
#[must_use]
pub fn refused(reason: Reason, detail: &str) -> Verdict {
    Verdict::refused(Refusal { reason, detail: detail.to_owned() })
}

/// The process that asks: sshd's privileged one of that connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker(u32);

impl Asker {
    /// This process's parent. To be called at the start, before there is time for it to end: its number then says nothing any more.
    #[must_use]
    pub fn now() -> Self {
        Self(parent_id())
    }

    /// Its name, as long as it is there. Nobody's where this process has been left to another one: to the first of all (1), to one
    /// outside (0), or to whoever looks after orphans. Sessions end by that name.
    fn name(self) -> Option<ProcessName> {
        let name = ProcessName::of(self.0).ok()?;
        // Asked last: until it ends the number is its own.
        (self.0 > 1 && parent_id() == self.0).then_some(name)
    }
}

/// Starts the decision's deadline, which logs and ends the process.
///
/// # Errors
/// The refusal, where there can be no deadline.
pub fn deadline(user: &[u8], mode: Option<Mode>, asker: Asker) -> Result<Deadline, Refusal> {
    let user = user.to_vec();
    let expire = move |late| match late {
        Late::Decision => {
            log(&refused(Reason::Deadline, "no decision within 200 ms"), &user, mode);
            exit(0);
        }
        Late::Rest => log_no_note(asker, &format_args!("not done within {} ms", GRACE.as_millis())),
    };
    Deadline::start(LIMIT, expire).map_err(|_| Refusal::new(Reason::Deadline, "the system gives no thread to keep it"))
}

/// Logs `verdict` and says to sshd what it has to say; the status to end with.
#[must_use]
pub fn end(verdict: &Verdict, user: &[u8], mode: Option<Mode>) -> u8 {
    log(verdict, user, mode);
    match verdict {
        Verdict::Accept { line, .. } => print(format!("{line}\n").as_bytes()),
        Verdict::Refuse { .. } => SUCCESS,
    }
}

/// As [`end`], and leaves a note of what was granted ([`note`]), after sshd has its line.
#[must_use]
pub fn end_noted(verdict: &Verdict, query: &Query, asker: Asker, clock: Option<&Clock>, deadline: &Deadline) -> u8 {
    let status = end(verdict, query.login().as_bytes(), Some(query.mode()));
    if status == SUCCESS && matches!(verdict, Verdict::Accept { .. }) {
        note(query, Granter::Realm, asker, clock, deadline);
    }
    status
}

/// Leaves a note of what was granted as of `clock`, and by whom, where `asker` has the answer whole and is still there. `deadline`, which is
/// claimed, ends a process that cannot, with [`SUCCESS`]: whatever becomes of the note, the login goes on. The log says so where there is
/// none, since nobody ends that session.
pub fn note(query: &Query, by: Granter, asker: Asker, clock: Option<&Clock>, deadline: &Deadline) {
    let Some(clock) = clock else { return };
    deadline.end_soon(SUCCESS);
    let Some(name) = asker.name() else { return };
    match leave(Path::new(RUNTIME), name, query, by, clock) {
        // A host without that folder ends no sessions.
        Err(error) if error.kind() != io::ErrorKind::NotFound => log_no_note(asker, &error),
        _ => (),
    }
}

fn log_no_note(asker: Asker, why: &dyn std::fmt::Display) {
    let line = format!("event=session-not-noted sshd={} message=\"{why}\"", asker.0);
    let _ = send_to_syslog(Path::new(SYSLOG), Severity::Error, &line);
}

/// Logs `verdict`. A login does not wait for a log that nobody reads: sshd writes its own lines.
pub fn log(verdict: &Verdict, user: &[u8], mode: Option<Mode>) {
    send(verdict.reason(), &log_line(verdict, user, mode));
}

/// Logs a line as loud as `reason` is.
pub fn send(reason: Reason, line: &str) {
    let _ = send_to_syslog(Path::new(SYSLOG), reason.severity(), line);
}

/// One write; [`FAILURE`] where it was not whole.
#[must_use]
pub fn print(lines: &[u8]) -> u8 {
    match nix::unistd::write(io::stdout(), lines) {
        Ok(written) if written == lines.len() => SUCCESS,
        _ => FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_is_still_there_and_not_the_first_of_all_has_a_name() {
        let asker = Asker::now();
        // A container's first process may be the test's parent.
        let expected = (asker.0 > 1).then(|| ProcessName::of(asker.0).unwrap());
        assert_eq!(asker.name(), expected);
        for other in [0, 1, std::process::id(), u32::MAX] {
            assert_eq!(Asker(other).name(), None, "{other}");
        }
    }
}
