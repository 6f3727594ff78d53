//! What sshd said in the journal that it accepted: for hosts where PAM is not asked.
//!
//! Anybody may write a line that reads like sshd's. Whose it is, the journal does not take from the line: the kernel tells it process and user
//! of each message. What counts here was said as root, in this boot, by the very process of a note, which is got hold of and looked at
//! like every other, and after that note was written. What sshd's unprivileged half has it log ends in `[preauth]`, and is none of these
//! lines. A syslog file does not say who wrote a line, and is never read.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use countersign_certificate::{CertType, Certificate, fingerprint_sha256, fingerprint_text};
use countersign_sshd::{Note, ProcessName};
use serde_json::Value;

/// Where systems have it.
const PROGRAMS: [&str; 2] = ["/usr/bin/journalctl", "/bin/journalctl"];
/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(2);
/// How long a journal that did not answer is not asked, seconds.
const REST_SECS: u64 = 10;
/// How many looks a process is asked about: longer than sshd waits for a login, unless it waits forever.
const MAX_LOOKS: u32 = 150;
/// How many processes are asked about at one look.
const PER_LOOK: usize = 8;
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

/// What the journal says of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// Its credential let the session in.
    This,
    /// Something else did.
    Another,
    /// Nothing, or nothing that is understood.
    Nothing,
}

/// Asks the journal, with measure.
#[derive(Debug)]
pub(crate) struct Journal {
    limit: Duration,
    looks: BTreeMap<ProcessName, u32>,
    rests_until_secs: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self { limit: LIMIT, looks: BTreeMap::new(), rests_until_secs: 0 }
    }
}

impl Journal {
    /// What the system's journal is read with, where it has one.
    pub(crate) fn program() -> Option<PathBuf> {
        PROGRAMS.iter().map(PathBuf::from).find(|program| program.is_file())
    }

    /// Asks about the notes of sessions that may be open; those of which it says something. `now_secs` is the boot clock's.
    pub(crate) fn ask(&mut self, program: &Path, notes: &[&Note], now_secs: u64) -> BTreeMap<ProcessName, Said> {
        self.looks.retain(|process, _| notes.iter().any(|note| note.process == *process));
        if now_secs < self.rests_until_secs {
            return BTreeMap::new();
        }
        let mut due: Vec<(u32, &Note)> = notes
            .iter()
            .map(|note| (self.looks.get(&note.process).copied().unwrap_or(0), *note))
            .filter(|(looks, _)| *looks < MAX_LOOKS)
            .collect();
        due.sort_by_key(|(looks, note)| (*looks, note.process));
        let mut found = BTreeMap::new();
        for (looks, note) in due.into_iter().take(PER_LOOK) {
            let Some(answer) = read(program, note, self.limit) else {
                self.rests_until_secs = now_secs.saturating_add(REST_SECS);
                break;
            };
            self.looks.insert(note.process, looks.saturating_add(1));
            let messages: Vec<String> = answer.lines().filter_map(|line| message(line, note)).collect();
            found.insert(note.process, said(messages.iter().map(String::as_str), note));
        }
        found
    }
}

/// What the journal has of the note's process; none where it does not answer.
fn read(program: &Path, note: &Note, limit: Duration) -> Option<String> {
    let boot: String = note.boot_id.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut child = Command::new(program)
        .args(["--quiet", "--no-pager", "--output=json", "_TRANSPORT=syslog", "_UID=0"])
        .arg(format!("_BOOT_ID={boot}"))
        .arg(format!("_PID={}", note.process.pid))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let answer = answer(&mut child, limit);
    // Where it has ended, this does nothing.
    let _ = child.kill();
    let is_whole = child.wait().is_ok_and(|status| status.success());
    answer.filter(|_| is_whole).and_then(|answer| String::from_utf8(answer).ok())
}

fn answer(child: &mut Child, limit: Duration) -> Option<Vec<u8>> {
    let output = child.stdout.take()?;
    let (done, waits) = mpsc::channel();
    let read = move || {
        let mut answer = Vec::new();
        let read = output.take(MAX_ANSWER_BYTES.saturating_add(1)).read_to_end(&mut answer);
        let is_whole = u64::try_from(answer.len()).is_ok_and(|length| length <= MAX_ANSWER_BYTES);
        // Nobody waits any more where it took too long.
        let _ = done.send((read.is_ok() && is_whole).then_some(answer));
    };
    thread::Builder::new().spawn(read).ok()?;
    let answer = waits.recv_timeout(limit).ok()??;
    // All was said; what is left is its status.
    for _ in 0..100 {
        if child.try_wait().ok()?.is_some() {
            return Some(answer);
        }
        thread::sleep(Duration::from_millis(10));
    }
    None
}

/// The message of an entry, if it is by the note's process as root and not from before the note.
fn message(entry: &str, note: &Note) -> Option<String> {
    let entry: Value = serde_json::from_str(entry).ok()?;
    // A field that somebody has given twice is a list, and so is text that is not all printable.
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let is_its = text("_PID") == Some(note.process.pid.to_string().as_str())
        && text("_UID") == Some("0")
        && text("_TRANSPORT") == Some("syslog");
    // Its number may have been another's before, never since.
    let since_micros = note.unix_secs.saturating_mul(1_000_000);
    let is_since = text("__REALTIME_TIMESTAMP")?.parse::<u64>().is_ok_and(|micros| micros >= since_micros);
    (is_its && is_since).then(|| text("MESSAGE").map(str::to_owned))?
}

/// What sshd's lines say of what let the session of `note` in. One of several steps (`AuthenticationMethods`) counts.
fn said<'a>(messages: impl Iterator<Item = &'a str>, note: &Note) -> Said {
    let (mut is_accepted, mut found) = (false, Said::Another);
    for step in messages.filter_map(|line| Step::of(line, &note.login)) {
        is_accepted |= step.is_last;
        match step.compare(note) {
            Said::This => found = Said::This,
            Said::Nothing if found == Said::Another => found = Said::Nothing,
            _ => {}
        }
    }
    if is_accepted { found } else { Said::Nothing }
}

/// `Accepted METHOD for LOGIN from ADDRESS port PORT ssh2[: CREDENTIAL]`, and the same with `Partial` for all but the last.
struct Step<'a> {
    is_last: bool,
    method: &'a str,
    credential: &'a str,
}

impl<'a> Step<'a> {
    fn of(line: &'a str, login: &str) -> Option<Self> {
        let (word, line) = line.split_once(' ')?;
        let is_last = match word {
            "Accepted" => true,
            "Partial" => false,
            _ => return None,
        };
        let (method, line) = line.split_once(" for ")?;
        let line = line.strip_prefix(login)?.strip_prefix(" from ")?;
        let (address, line) = line.split_once(" port ")?;
        let (port, line) = line.split_once(" ssh2")?;
        let is_formed = !method.contains(' ') && !address.contains(' ') && port.parse::<u16>().is_ok();
        let credential = if line.is_empty() { "" } else { line.strip_prefix(": ")? };
        is_formed.then_some(Self { is_last, method, credential })
    }

    /// `TYPE SHA256:…`, for a certificate with ` ID … (serial …) CA TYPE SHA256:…` after it.
    fn compare(&self, note: &Note) -> Said {
        if self.method != "publickey" {
            return Said::Another;
        }
        let certificate = Certificate::parse(&note.blob).ok().filter(|found| found.cert_type == CertType::User);
        let key = certificate.as_ref().map_or(note.blob.as_slice(), |certificate| &certificate.public_key);
        let Some((kind, rest)) = self.credential.split_once(' ') else { return Said::Nothing };
        let (key_said, about) = rest.split_once(' ').map_or((rest, None), |(key, about)| (key, Some(about)));
        if !key_said.starts_with("SHA256:") {
            return Said::Nothing;
        }
        if key_said != fingerprint_text(&fingerprint_sha256(key)) || kind.ends_with("-CERT") != certificate.is_some() {
            return Said::Another;
        }
        let is_it = match (certificate, about) {
            (None, None) => true,
            (Some(certificate), Some(about)) => {
                let ca = fingerprint_text(&fingerprint_sha256(certificate.signature_key));
                about
                    .strip_prefix(&format!("ID {} (serial {}) CA ", certificate.key_id, certificate.serial))
                    .and_then(|ca| ca.split_once(' '))
                    .is_some_and(|(_, found)| found == ca)
            }
            _ => false,
        };
        // Another certificate of this key, or one whose text sshd had to cut or to write in other words.
        if is_it { Said::This } else { Said::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use countersign_snapshot::{BootId, Uid};
    use countersign_sshd::Granter;

    use super::*;

    fn string(content: &[u8]) -> Vec<u8> {
        [&u32::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
    }

    fn key(byte: u8) -> Vec<u8> {
        [string(b"ssh-ed25519"), string(&[byte; 32])].concat()
    }

    fn certificate(serial: u64) -> Vec<u8> {
        let blob = [
            string(b"ssh-ed25519-cert-v01@openssh.com"),
            string(&[1; 32]),
            string(&[2; 32]),
            serial.to_be_bytes().to_vec(),
            1_u32.to_be_bytes().to_vec(),
            string(b"an id (serial 9)"),
            string(&string(b"deploy")),
            1_u64.to_be_bytes().to_vec(),
            2_u64.to_be_bytes().to_vec(),
            string(b""),
            string(b""),
            string(b""),
            string(&key(3)),
            string(&[string(b"ssh-ed25519"), string(&[4; 64])].concat()),
        ];
        let blob = blob.concat();
        assert!(Certificate::parse(&blob).is_ok());
        blob
    }

    fn note(blob: Vec<u8>) -> Note {
        Note {
            process: ProcessName { pid: 77, start_ticks: 1234 },
            boot_id: BootId([0xab; 16]),
            login: "deploy".to_owned(),
            uid: Uid(2001),
            by: Granter::Realm,
            blob,
            asked: 1,
            alone: false,
            unix_secs: 1_800_000_000,
            boottime_secs: 100,
        }
    }

    fn line(credential: &str) -> String {
        format!("Accepted publickey for deploy from 192.0.2.1 port 50000 ssh2: {credential}")
    }

    #[test]
    fn only_the_very_certificate_or_key_of_the_note_is_taken_for_it() {
        let print = |byte| fingerprint_text(&fingerprint_sha256(&key(byte)));
        let (own, other, ca) = (print(2), print(5), print(3));
        let id = "ID an id (serial 9) (serial 7) CA ED25519";
        let of_certificate = |credential: &str| said([line(credential).as_str()].into_iter(), &note(certificate(7)));
        assert_eq!(of_certificate(&format!("ED25519-CERT {own} {id} {ca}")), Said::This);
        for another in [format!("ED25519 {own}"), format!("ED25519 {other}"), format!("RSA-CERT {other} {id} {ca}")] {
            assert_eq!(of_certificate(&another), Said::Another, "{another}");
        }
        for unclear in [
            format!("ED25519-CERT {own} ID an id (serial 9) (serial 8) CA ED25519 {ca}"),
            format!("ED25519-CERT {own} {id} {other}"),
            format!("ED25519-CERT {own} {id} {ca} [preauth]"),
            format!("ED25519-CERT {own} {id}"),
            format!("ED25519-CERT {own}"),
            "ED25519-CERT MD5:00:11".to_owned(),
            String::new(),
        ] {
            assert_eq!(of_certificate(&unclear), Said::Nothing, "{unclear}");
        }
        let of_key = |credential: &str| said([line(credential).as_str()].into_iter(), &note(key(2)));
        assert_eq!(of_key(&format!("ED25519 {own}")), Said::This);
        assert_eq!(of_key(&format!("ED25519-CERT {own} {id} {ca}")), Said::Another);
        assert_eq!(of_key(&format!("ED25519 {own}, more")), Said::Another);
        assert_eq!(of_key(&format!("ED25519 {own} [preauth]")), Said::Nothing);
    }

    #[test]
    fn what_let_a_session_in_is_said_once_it_is_accepted_and_every_step_counts() {
        let own = format!("ED25519 {}", fingerprint_text(&fingerprint_sha256(&key(2))));
        let of = |lines: &[&str]| said(lines.iter().copied(), &note(key(2)));
        let partial = line(&own).replace("Accepted", "Partial");
        let password = "Accepted password for deploy from 192.0.2.1 port 50000 ssh2";
        assert_eq!(of(&[&partial, password]), Said::This);
        assert_eq!(of(&[password]), Said::Another);
        assert_eq!(of(&["Accepted keyboard-interactive/pam for deploy from ::1 port 1 ssh2"]), Said::Another);
        for nothing in [
            partial.as_str(),
            &line(&own).replace("Accepted", "Failed"),
            &line(&own).replace("deploy", "deploy2"),
            &line(&own).replace("deploy", "invalid user deploy"),
            &format!(" {}", line(&own)),
            &format!("x\n{}", line(&own)),
            "Accepted publickey for deploy from 192.0.2.1 port many ssh2: x",
            "Accepted password for deploy from 192.0.2.1 port 50000 ssh2 x",
        ] {
            assert_eq!(of(&[nothing]), Said::Nothing, "{nothing}");
        }
    }

    #[test]
    fn a_message_counts_if_root_said_it_by_that_process_and_since_the_note() {
        let entry =
            r#"{"_PID":"77","_UID":"0","_TRANSPORT":"syslog","__REALTIME_TIMESTAMP":"1800000000000000","MESSAGE":"x"}"#;
        let note = note(key(2));
        assert_eq!(message(entry, &note).as_deref(), Some("x"));
        for (from, to) in [
            (r#""77""#, r#""78""#),
            (r#""77""#, r#"["77","78"]"#),
            (r#""_UID":"0""#, r#""_UID":"1000""#),
            (r#""_UID":"0","#, ""),
            (r#""syslog""#, r#""stdout""#),
            ("18000", "17999"),
            (r#""x""#, "[120]"),
            ("}", ""),
        ] {
            let changed = entry.replace(from, to);
            assert_ne!(changed, entry);
            assert_eq!(message(&changed, &note), None, "{changed}");
        }
    }

    #[test]
    fn a_journal_that_fails_hangs_or_never_ends_is_not_asked_again_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let note = note(key(2));
        let accepted = line(&format!("ED25519 {}", fingerprint_text(&fingerprint_sha256(&key(2)))));
        let entry = format!(
            r#"{{"_PID":"77","_UID":"0","_TRANSPORT":"syslog","__REALTIME_TIMESTAMP":"1800000000000000","MESSAGE":"{accepted}"}}"#
        );
        let right = program("right", &format!("printf '%s\\n' '{entry}'"));
        let mut journal = Journal::default();
        for (name, text) in [
            ("failing", format!("printf '%s\\n' '{entry}'; exit 1")),
            ("hanging", format!("printf '%s\\n' '{entry}'; exec sleep 1000")),
            ("endless", format!("exec yes '{entry}'")),
        ] {
            journal.rests_until_secs = 0;
            // The first and the last are over by themselves.
            journal.limit = Duration::from_secs(if name == "hanging" { 1 } else { 60 });
            assert_eq!(journal.ask(&program(name, &text), &[&note], 100), BTreeMap::new(), "{name}");
            assert_eq!(journal.ask(&right, &[&note], 109), BTreeMap::new(), "{name}");
        }
        journal.limit = Duration::from_secs(60);
        assert_eq!(journal.ask(&folder.path().join("none"), &[&note], 110), BTreeMap::new());
        assert_eq!(journal.ask(&right, &[&note], 120), BTreeMap::from([(note.process, Said::This)]));
        let silent = program("silent", "exit 0");
        for _ in 1..MAX_LOOKS {
            journal.looks.entry(note.process).and_modify(|looks| *looks += 1);
        }
        assert_eq!(journal.ask(&silent, &[&note], 120), BTreeMap::new(), "it has been asked often enough");
    }
}
