//! `countersign-sshd`: what sshd runs as AuthorizedKeysCommand and AuthorizedPrincipalsCommand.
//!
//! Prints one line, or nothing; always one line to syslog. Status 0 also for a refusal: sshd takes any other for a fault of the
//! command and says so. It is 1 where the line could not be written whole, so that half a line never counts, and where the program
//! cannot close itself to other processes of its user.
//!
//! Nothing here starts a process. Where an earlier command is named (`--chain`), `countersign-sshd-chain`, the program beside this
//! one, takes its place: logins on hosts without one carry none of that.
//!
//! Begins without the Rust runtime's preparations, which would cost as much as a third of a decision: reading `/proc/self/maps` for a
//! message about a full stack, with which the process would die as without it; `/dev/null` for descriptors that sshd always gives; and
//! SIGPIPE, which is held back here: a reader that has gone is an error of the one write.

#![no_main]

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
compile_error!("countersign-sshd begins where the C library calls it; only glibc has told std the arguments by then");

use std::ffi::{CString, OsString, c_char, c_int};
use std::os::unix::ffi::OsStringExt as _;

use countersign_snapshot::Trust;
use countersign_sshd::program::{
    Asker, FAILURE, Options, asked, close_to_others, deadline, end, end_noted, hold_sigpipe_back, refused,
};
use countersign_sshd::{Earlier, Query, Reason, Verdict, decide_on};

const WITH_CHAIN: &str = "countersign-sshd-chain";

/// What the C library calls. glibc has told the standard library the arguments already, and no other one does.
#[expect(unsafe_code, reason = "the name that the C library looks for")]
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    c_int::from(status())
}

fn status() -> u8 {
    let asker = Asker::now();
    if close_to_others().is_err() {
        return FAILURE;
    }
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let options = Options::take(&mut arguments);
    let (mode, user) = asked(&arguments);
    if Earlier::is_named(&arguments) {
        return end(&refused(Reason::ChainFailed, become_chain()), &user, mode);
    }
    if hold_sigpipe_back().is_err() {
        return FAILURE;
    }
    let deadline = match deadline(&user, mode, asker) {
        Ok(deadline) => deadline,
        Err(refusal) => return end(&Verdict::refused(refusal), &user, mode),
    };
    match Query::from_arguments(&arguments) {
        Ok(query) => {
            let (verdict, clock) = decide_on(&options.directory, Trust::ROOT, &query);
            deadline.wait_or_claim();
            end_noted(&verdict, &query, asker, clock.as_ref(), &deadline)
        }
        Err(refusal) => {
            deadline.wait_or_claim();
            end(&Verdict::refused(refusal), &user, mode)
        }
    }
}

/// Returns only where it fails. Nobody but root can have put a program beside this one: sshd has looked.
fn become_chain() -> &'static str {
    let program = std::env::current_exe().map(|path| path.with_file_name(WITH_CHAIN).into_os_string());
    let program = program.ok().and_then(|path| CString::new(path.into_vec()).ok());
    let arguments: Option<Vec<CString>> = std::env::args_os().map(|text| CString::new(text.into_vec()).ok()).collect();
    if let (Some(program), Some(arguments)) = (program, arguments) {
        let _ = nix::unistd::execv(&program, &arguments);
    }
    "countersign-sshd-chain, beside this program, cannot be run"
}
