//! What both programs do alike: options, the deadline of a decision, the log, and the one write to sshd.
//!
//! Refuses to print anything after the deadline, and to say that half a line was a whole one.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::time::Duration;

use countersign_snapshot::Clock;
use nix::sys::signal::{SigSet, Signal};

use crate::deadline::Deadline;
use crate::decide::{Refusal, Verdict};
use crate::log::{log_line, send_to_syslog};
use crate::note::{Granter, RUNTIME, leave};
use crate::query::{Mode, Query};
use crate::reason::Reason;

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

/// Starts the decision's deadline, which logs and ends the process.
///
/// # Errors
/// The refusal, where there can be no deadline.
pub fn deadline(user: &[u8], mode: Option<Mode>) -> Result<Deadline, Refusal> {
    let user = user.to_vec();
    let expire = move || {
        log(&refused(Reason::Deadline, "no decision within 200 ms"), &user, mode);
        exit(0);
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
pub fn end_noted(verdict: &Verdict, query: &Query, clock: Option<&Clock>, deadline: &Deadline) -> u8 {
    let status = end(verdict, query.login().as_bytes(), Some(query.mode()));
    if matches!(verdict, Verdict::Accept { .. }) {
        note(query, Granter::Realm, clock, deadline, status);
    }
    status
}

/// Leaves a note of what was granted as of `clock`, and by whom, before the process ends with `status`. `deadline`, which is claimed, ends
/// a process that cannot: whatever becomes of the note, the login goes on.
pub fn note(query: &Query, by: Granter, clock: Option<&Clock>, deadline: &Deadline, status: u8) {
    if let Some(clock) = clock {
        deadline.end_soon(status);
        let _ = leave(Path::new(RUNTIME), std::os::unix::process::parent_id(), query, by, clock);
    }
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
