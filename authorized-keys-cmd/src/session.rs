//! What PAM runs when sshd opens a session (`session optional pam_exec.so quiet …/countersign-sshd-session`, first of its kind): sshd
//! says there what it accepted, and where the helper granted exactly that to the same process, a record of it is made for the agent.
//!
//! Runs as root, before any module that lets a user set PAM's environment. It refuses no login, and knows nothing of a login that the
//! helper did not let pass: one by a password, or by a key of the host's own, is never recorded and so never ended.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use countersign_certificate::{MAX_CERTIFICATE_BYTES, decode_base64};
use countersign_snapshot::Clock;

use crate::folder::Folder;
use crate::note::{Accepted, MAX_NOTE_BYTES, Note, OFFERS, Record, SESSIONS, is_plain};
use crate::process::ProcessName;

/// What came of a session that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It was let in by what the helper granted.
    Recorded(ProcessName),
    /// By something else; or PAM asked something else.
    NotOurs,
}

/// Records the session that the process `parent` opens; `variable` looks into PAM's environment.
///
/// # Errors
/// The record cannot be written: the session is not ended when its access is.
pub fn record_session(
    runtime: &Path,
    parent: u32,
    clock: &Clock,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> io::Result<Opened> {
    let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
    if text("PAM_TYPE").as_deref() != Some("open_session") {
        return Ok(Opened::NotOurs);
    }
    let process = ProcessName::of(parent)?;
    let name = process.to_string();
    let offers = Folder::open(runtime, OFFERS, 0)?;
    let note = offers.read(&name, MAX_NOTE_BYTES)?;
    let Some(note) = note.and_then(|text| Note::decode(&text).ok()) else { return Ok(Opened::NotOurs) };
    let said = variable("SSH_AUTH_INFO_0").map(OsString::into_vec).unwrap_or_default();
    let is_it = note.process == process
        && note.boot_id == clock.boot_id
        && text("PAM_USER").is_some_and(|user| user == note.login)
        && accepted(&said).any(|blob| blob == note.blob);
    if !is_it {
        // Nobody shall take it for more than what sshd says now.
        offers.remove(&name)?;
        return Ok(Opened::NotOurs);
    }
    let audit_before = std::fs::read_to_string(format!("/proc/{parent}/sessionid"));
    let record = Record {
        note,
        accepted: Accepted::Pam,
        connection: text("SSH_CONNECTION").filter(|connection| is_plain(connection)),
        audit_before: audit_before.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(u32::MAX),
        audit: None,
        scope: None,
    };
    Folder::open(runtime, SESSIONS, 0)?.write(&name, record.encode().as_bytes())?;
    // After it: where there is no room for the record, the note still tells the agent as much as it may.
    offers.remove(&name)?;
    Ok(Opened::Recorded(process))
}

/// The keys and certificates among what sshd says that it accepted (`SSH_AUTH_INFO_0`): lines of `publickey TYPE BASE64`.
pub fn accepted(said: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    said.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut words = line.split(|byte| *byte == b' ');
        if words.next() != Some(b"publickey") {
            return None;
        }
        decode_base64(words.nth(1)?, MAX_CERTIFICATE_BYTES, "SSH_AUTH_INFO_0").ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sshd_accepted_is_read_from_lines_of_public_keys_only() {
        let found = |said: &[u8]| accepted(said).collect::<Vec<_>>();
        assert_eq!(found(b"publickey ssh-ed25519 AAAA\npassword\n"), [vec![0, 0, 0]]);
        assert_eq!(found(b"password AAAA AAAA\nhostbased ssh-ed25519 AAAA\npublickey ssh-ed25519\n").len(), 0);
        assert_eq!(found(b"").len(), 0);
        assert_eq!(found(b"publickey a AAAA b\npublickey a AAA\npublickey a BBBB"), [vec![0, 0, 0], vec![4, 16, 65]]);
    }
}
