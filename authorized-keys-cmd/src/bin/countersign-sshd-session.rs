//! `countersign-sshd-session`: what PAM runs when sshd opens a session, as root (`session optional pam_exec.so quiet …`).
//!
//! It refuses nothing: a session of which it makes no record is not ended when its access is, and the log says so.

use std::path::Path;
use std::process::ExitCode;

use countersign_snapshot::Clock;
use countersign_sshd::program::{SYSLOG, close_to_others};
use countersign_sshd::{RUNTIME, Severity, record_session, send_to_syslog};

fn main() -> ExitCode {
    // It is root's, and prints nothing: what others could take of it is worth no session.
    let _ = close_to_others();
    let parent = std::os::unix::process::parent_id();
    let recorded = Clock::now()
        .and_then(|clock| record_session(Path::new(RUNTIME), parent, &clock, &|name| std::env::var_os(name)));
    if let Err(error) = recorded {
        let line = format!("event=session-not-recorded sshd={parent} message=\"{error}\"");
        let _ = send_to_syslog(Path::new(SYSLOG), Severity::Error, &line);
    }
    ExitCode::SUCCESS
}
