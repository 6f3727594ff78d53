//! What sshd reads by itself: `RevokedKeys`, without which it refuses everybody, and `TrustedUserCAKeys`, which ends at its first bad line.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

use countersign_certificate::fingerprint_sha256;
use countersign_krl::{Revoked, read_key_line};
use countersign_snapshot::{CaState, Snapshot};
use nix::fcntl::OFlag;

use crate::asked::Asked;
use crate::code::Code;
use crate::config::words;
use crate::finding::Finding;
use crate::run::run;
use crate::trust::{Fault, fault};

const REVOKED: &str = "RevokedKeys";
const CAS: &str = "TrustedUserCAKeys";
/// Some 100,000 serials that are not next to each other.
const MANY_BYTES: usize = 1 << 20;
/// Beyond what sshd takes.
const MOST_BYTES: u64 = 130 << 20;
const KRL_MAGIC: &[u8] = b"SSHKRL\n\0";

/// Everything about both lists.
pub(crate) fn judge(asked: &Asked<'_>, snapshot: Option<&Snapshot>) -> Vec<Finding> {
    let mut found = Vec::new();
    if asked.is_set(REVOKED) {
        for file in words(asked.get(REVOKED)) {
            revoked(asked, Path::new(&file), &mut found);
        }
    }
    if asked.is_set(CAS) {
        for file in words(asked.get(CAS)) {
            cas(asked, Path::new(&file), snapshot, &mut found);
        }
    }
    found
}

/// What the agent writes and nobody reads.
pub(crate) fn unused(asked: &Asked<'_>) -> Vec<Finding> {
    let Ok(agent) = &asked.host.agent else { return Vec::new() };
    let lists = [(REVOKED, &agent.revoked_keys, Code::RevokedKeysUnused), (CAS, &agent.ca_keys, Code::CaKeysUnused)];
    let unread = lists.into_iter().filter_map(|(setting, file, code)| {
        let file = file.as_ref()?;
        let read = words(asked.get(setting));
        let is_read = read.iter().any(|read| Path::new(read) == file);
        let text = format!("{}, and the agent writes {}", read.join(" "), file.display());
        (!is_read).then(|| asked.finding(code, setting, text).change(format!("{setting} {}", file.display())))
    });
    unread.collect()
}

/// A list's bytes, whatever lies under its name: no pipe is waited for, and no file without end is read.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let opened = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a file"));
    }
    let mut bytes = Vec::new();
    opened.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A list is chosen by root alone.
fn writable(asked: &Asked<'_>, setting: &str, file: &Path, found: &mut Vec<Finding>) {
    if let Some(fault) =
        fault(file).filter(|fault| !matches!(fault, Fault::Missing(..) | Fault::Type | Fault::RootsGroup(..)))
    {
        let text = format!("{}: {fault}", file.display());
        found.push(asked.finding(Code::ListWritable, setting, text).change(fault.change(file)));
    }
}

fn revoked(asked: &Asked<'_>, file: &Path, found: &mut Vec<Finding>) {
    let is_agents = asked.host.agent.as_ref().is_ok_and(|agent| agent.revoked_keys.as_deref() == Some(file));
    let change = if is_agents {
        "countersign-agent once".to_owned()
    } else {
        format!("ssh-keygen -k -f {}   (an empty list: put back what was revoked)", file.display())
    };
    let bytes = match read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            let text = format!("{}: {error}", file.display());
            found.push(asked.finding(Code::RevokedKeysUnreadable, REVOKED, text).change(change));
            return;
        }
    };
    writable(asked, REVOKED, file, found);
    if bytes.len() > MANY_BYTES {
        let text = format!("{}: {} bytes", file.display(), bytes.len());
        let change =
            "leave serials to the helper, which looks them up in its snapshot: RevokedKeys none, or a shorter list";
        found.push(asked.finding(Code::RevokedKeysLong, REVOKED, text).change(change));
    }
    let problem = if bytes.starts_with(KRL_MAGIC) {
        // sshd takes some lists of others that this program's own reader does not.
        Revoked::read(&bytes).err().map(|error| error.to_string()).filter(|_| !is_taken_by_ssh_keygen(file))
    } else {
        let lines = keys(&bytes).filter_map(|(number, key)| Some((number, key.err()?))).next();
        lines.map(|(number, problem)| format!("neither a key revocation list nor public keys: line {number} {problem}"))
    };
    if let Some(problem) = problem {
        let text = format!("{}: {problem}", file.display());
        found.push(asked.finding(Code::RevokedKeysMalformed, REVOKED, text).change(change));
    }
}

fn is_taken_by_ssh_keygen(file: &Path) -> bool {
    run(Command::new("ssh-keygen").args(["-Q", "-l", "-f"]).arg(file)).is_ok_and(|ran| ran.success)
}

/// The lines with keys by their numbers, as sshd reads such a file: a key's blob, or what stands there instead.
fn keys(bytes: &[u8]) -> impl Iterator<Item = (usize, Result<Vec<u8>, &'static str>)> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    lines.filter_map(|(index, line)| {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let key = if line.contains("PRIVATE KEY") {
            Err("begins a private key")
        } else if line.split([' ', '\t']).next().is_some_and(|kind| kind.contains("-cert-v01@")) {
            Err("is a certificate, which is no CA")
        } else {
            read_key_line(line).ok_or("is no public key that sshd reads")
        };
        Some((index.saturating_add(1), key))
    })
}

/// Whether a file names any CA.
pub(crate) fn names_cas(file: &Path) -> bool {
    read(file).is_ok_and(|bytes| keys(&bytes).any(|(_, key)| key.is_ok()))
}

fn cas(asked: &Asked<'_>, file: &Path, snapshot: Option<&Snapshot>, found: &mut Vec<Finding>) {
    let shown = file.display();
    let bytes = match read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            let change = format!("{CAS} none\nor an empty file of root's: install -m 644 /dev/null {shown}");
            found.push(asked.finding(Code::CaFileUnreadable, CAS, format!("{shown}: {error}")).change(change));
            return;
        }
    };
    writable(asked, CAS, file, found);
    for (number, key) in keys(&bytes) {
        let blob = match key {
            Ok(blob) => blob,
            Err(problem) => {
                let code = if problem.contains("private") { Code::CaPrivateKey } else { Code::CaLine };
                let text = format!("{shown}:{number} {problem}");
                let change = format!("take line {number} out of {shown}");
                found.push(asked.finding(code, CAS, text).change(change));
                // sshd reads no further.
                return;
            }
        };
        let sha256 = fingerprint_sha256(&blob);
        let name = countersign_certificate::fingerprint_text(&sha256);
        let (code, state) = match snapshot.map(|snapshot| snapshot.ca(&sha256)) {
            Some(Ok(None)) => (Code::CaUnknown, "the realm has no such CA".to_owned()),
            Some(Ok(Some(ca))) if matches!(ca.state, CaState::Locked | CaState::Revoked) => (
                Code::CaDenied,
                format!("CA {} is {}", ca.id, if ca.state == CaState::Locked { "locked" } else { "revoked" }),
            ),
            _ => continue,
        };
        let text = format!("{shown}:{number}: {name}: {state}");
        found.push(asked.finding(code, CAS, text).change(format!("take line {number} out of {shown}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";

    #[test]
    fn lines_are_read_as_sshd_reads_them() {
        let text = format!(
            "# a\n\n  {KEY} some comment\n{KEY}\n-----BEGIN OPENSSH PRIVATE KEY-----\nssh-ed25519 AAAA\n{}\n",
            KEY.replace("ed25519 ", "ed25519-cert-v01@openssh.com ")
        );
        let found: Vec<_> = keys(text.as_bytes()).map(|(number, key)| (number, key.err())).collect();
        let expected = [
            (3, None),
            (4, None),
            (5, Some("begins a private key")),
            (6, Some("is no public key that sshd reads")),
            (7, Some("is a certificate, which is no CA")),
        ];
        assert_eq!(found, expected);
    }
}
