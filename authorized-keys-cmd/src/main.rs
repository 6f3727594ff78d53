//! `countersign-sshd`: what sshd runs as AuthorizedKeysCommand and AuthorizedPrincipalsCommand.
//!
//! Prints one line, or nothing; always one line to syslog. Status 0 also for a refusal: sshd takes any other for a fault of the
//! command and says so. Only where the line could not be written whole is it 1, so that half a line never counts.
//!
//! SIGPIPE stays ignored, as Rust starts with it: no program is run from here that would inherit that, and a reader that has gone is
//! an error of the one write below.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, exit};
use std::time::Duration;

use countersign_snapshot::Trust;
use countersign_sshd::{Deadline, Mode, Query, Reason, Refusal, Verdict, decide_on, log_line, send_to_syslog};

const LIMIT: Duration = Duration::from_millis(200);
const SNAPSHOT: &str = "/var/lib/countersign/snapshot";
const SYSLOG: &str = "/dev/log";

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let directory = take_snapshot_option(&mut arguments);
    let (mode, user) = asked(&arguments);
    let expired_user = user.clone();
    let deadline = Deadline::start(LIMIT, move || {
        log(&refused(Reason::Deadline, "no decision within 200 ms"), &expired_user, mode);
        exit(0);
    });
    let Ok(deadline) = deadline else {
        log(&refused(Reason::Deadline, "the system gives no thread to keep it"), &user, mode);
        return ExitCode::SUCCESS;
    };
    let verdict = match Query::from_arguments(&arguments) {
        Ok(query) => decide_on(&directory, Trust::ROOT, &query),
        Err(refusal) => Verdict::refused(refusal),
    };
    if !deadline.claim() {
        // The other thread is logging, and ends the process.
        loop {
            std::thread::park();
        }
    }
    log(&verdict, &user, mode);
    match verdict {
        Verdict::Accept { line, .. } => print(line),
        Verdict::Refuse { .. } => ExitCode::SUCCESS,
    }
}

/// `--snapshot DIR` before the mode; a directory of one's own only helps where it is root's, too.
fn take_snapshot_option(arguments: &mut Vec<OsString>) -> PathBuf {
    match arguments.as_slice() {
        [option, directory, ..] if option == "--snapshot" => {
            let directory = PathBuf::from(directory);
            arguments.drain(..2);
            directory
        }
        _ => PathBuf::from(SNAPSHOT),
    }
}

/// What the log says of arguments that need not be right.
fn asked(arguments: &[OsString]) -> (Option<Mode>, Vec<u8>) {
    let mode = [Mode::Keys, Mode::Principals]
        .into_iter()
        .find(|mode| arguments.first().is_some_and(|name| name == mode.name()));
    let user = arguments.get(1).filter(|_| mode.is_some()).map(|user| user.as_bytes().to_vec());
    (mode, user.unwrap_or_default())
}

fn refused(reason: Reason, detail: &str) -> Verdict {
    Verdict::refused(Refusal { reason, detail: detail.to_owned() })
}

/// A login does not wait for a log that nobody reads: sshd writes its own lines.
fn log(verdict: &Verdict, user: &[u8], mode: Option<Mode>) {
    let line = log_line(verdict, user, mode);
    let _ = send_to_syslog(Path::new(SYSLOG), verdict.reason().severity(), &line);
}

fn print(mut line: String) -> ExitCode {
    line.push('\n');
    match nix::unistd::write(io::stdout(), line.as_bytes()) {
        Ok(written) if written == line.len() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
