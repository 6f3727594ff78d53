//! What sshd said in the journal that it accepted: for hosts where PAM is not asked.
//!
//! Anybody may write a line that reads like sshd's. Whose it is, the journal does not take from the line: the kernel tells it process and user
//! of each message. What counts here was said as root, in this boot, by the very process of a note, which is got hold of and looked at
//! like every other, and after that note was written. What sshd's unprivileged half has it log ends in `[preauth]`, and is none of these
//! lines. A syslog file does not say who wrote a line, and is never read.
//!
//! A client that has not logged in yet can have sshd log as much as it likes. So an answer is read line by line, and kept are only those that
//! say what was accepted; it is bounded in time, and a process about which there is no answer in time keeps no other waiting.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use countersign_certificate::{CertType, Certificate, fingerprint_sha256, fingerprint_text};
use countersign_sshd::{Note, ProcessName};
use serde_json::Value;

/// Where systems have it.
const PROGRAMS: [&str; 2] = ["/usr/bin/journalctl", "/bin/journalctl"];
/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(2);
/// How long a look may go on to ask, in such times.
const LIMITS_PER_LOOK: u32 = 2;
/// How long a program that cannot be started is left in peace, seconds.
const REST_SECS: u64 = 10;
/// How long a process is not asked about after a question without an answer, seconds.
const AGAIN_SECS: u64 = 5;
/// How long a process is asked about by the boot clock: longer than sshd waits for a login, unless it waits forever.
const ASKED_SECS: u64 = 150;
/// After how many answers it is believed that there is nothing about a process: the journal may be a little late.
const ANSWERS: u32 = 3;
/// How many processes are asked about at one look.
const PER_LOOK: usize = 8;
/// How long an entry may be: sshd's own lines are far shorter.
const MAX_ENTRY_BYTES: u64 = 64 * 1024;
/// How many messages of one process may say what was accepted.
const MAX_MESSAGES: usize = 256;

/// What the journal says of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// Its credential let the session in.
    This,
    /// Something else did.
    Another,
    /// Nothing, or nothing that is understood; after several answers, or when it is not asked any more.
    Nothing,
}

/// Asks the journal, with measure.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) limit: Duration,
    asked: BTreeMap<ProcessName, Asked>,
    rests_until_secs: u64,
}

/// What was asked about a process. Times are the boot clock's.
#[derive(Debug)]
struct Asked {
    since_secs: u64,
    next_secs: u64,
    answers: u32,
}

impl Asked {
    const fn new(now_secs: u64) -> Self {
        Self { since_secs: now_secs, next_secs: now_secs, answers: 0 }
    }

    const fn is_over(&self, now_secs: u64) -> bool {
        now_secs >= self.since_secs.saturating_add(ASKED_SECS)
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self { limit: LIMIT, asked: BTreeMap::new(), rests_until_secs: 0 }
    }
}

impl Journal {
    /// What the system's journal is read with, where it has one.
    pub(crate) fn program() -> Option<PathBuf> {
        PROGRAMS.iter().map(PathBuf::from).find(|program| program.is_file())
    }

    /// Asks about the notes of sessions that may be open; those of which it is known what it says. `now_secs` is the boot clock's.
    pub(crate) fn ask(&mut self, program: &Path, notes: &[&Note], now_secs: u64) -> BTreeMap<ProcessName, Said> {
        self.asked.retain(|process, _| notes.iter().any(|note| note.process == *process));
        let mut due: Vec<(u64, &Note)> = Vec::new();
        for note in notes {
            let asked = self.asked.entry(note.process).or_insert(Asked::new(now_secs));
            if now_secs >= asked.next_secs.max(self.rests_until_secs) && !asked.is_over(now_secs) {
                due.push((asked.next_secs, note));
            }
        }
        // Who waits longest comes first, so that nobody waits forever.
        due.sort_by_key(|(next_secs, note)| (*next_secs, note.process));
        let begun = Instant::now();
        let mut found = BTreeMap::new();
        for (_, note) in due.into_iter().take(PER_LOOK) {
            if begun.elapsed() >= self.limit.saturating_mul(LIMITS_PER_LOOK) {
                break;
            }
            let Ok(answer) = read(program, note, self.limit) else {
                self.rests_until_secs = now_secs.saturating_add(REST_SECS);
                break;
            };
            let said = answer.map(|messages| said(messages.iter().map(String::as_str), note));
            if let Some(asked) = self.asked.get_mut(&note.process) {
                asked.next_secs = now_secs.saturating_add(if said.is_some() { 1 } else { AGAIN_SECS });
                asked.answers = asked.answers.saturating_add(u32::from(said.is_some()));
            }
            if let Some(said) = said.filter(|said| *said != Said::Nothing) {
                found.insert(note.process, said);
            }
        }
        for (process, asked) in &self.asked {
            if asked.answers >= ANSWERS || asked.is_over(now_secs) {
                found.entry(*process).or_insert(Said::Nothing);
            }
        }
        found
    }
}

/// What the note's process has told the journal that it accepted; none where there is no whole answer in time.
///
/// # Errors
/// The program cannot be started.
fn read(program: &Path, note: &Note, limit: Duration) -> io::Result<Option<Vec<String>>> {
    let boot: String = note.boot_id.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut child = Command::new(program)
        .args(["--quiet", "--no-pager", "--output=json", "--output-fields=MESSAGE,_PID,_UID,_TRANSPORT"])
        .arg(format!("--since=@{}", note.unix_secs))
        .args(["_TRANSPORT=syslog", "_UID=0"])
        .arg(format!("_BOOT_ID={boot}"))
        .arg(format!("_PID={}", note.process.pid))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let answer = answer(&mut child, note, limit);
    // Where it has ended, this does nothing.
    let _ = child.kill();
    let is_whole = child.wait().is_ok_and(|status| status.success());
    Ok(answer.filter(|_| is_whole))
}

fn answer(child: &mut Child, note: &Note, limit: Duration) -> Option<Vec<String>> {
    let output = child.stdout.take()?;
    let (done, waits) = mpsc::channel();
    let note = note.clone();
    // Nobody waits any more where it took too long.
    thread::Builder::new().spawn(move || done.send(accepting(output, &note))).ok()?;
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

/// The messages among these entries by which the note's process says that it accepted something; none where they are too many.
fn accepting(output: impl Read, note: &Note) -> Option<Vec<String>> {
    let (mut output, mut messages) = (BufReader::new(output), Vec::new());
    let (mut entry, mut is_cut) = (Vec::new(), false);
    loop {
        entry.clear();
        if output.by_ref().take(MAX_ENTRY_BYTES).read_until(b'\n', &mut entry).ok()? == 0 {
            return Some(messages);
        }
        let is_rest = is_cut;
        is_cut = entry.last() != Some(&b'\n');
        if is_rest || is_cut {
            continue;
        }
        // Most entries of a flood are none: looked at before they are taken apart.
        let Some(entry) =
            std::str::from_utf8(&entry).ok().filter(|entry| STEPS.iter().any(|step| entry.contains(step)))
        else {
            continue;
        };
        let says =
            |message: &String| STEPS.iter().any(|step| message.starts_with(step)) && !message.ends_with("[preauth]");
        messages.extend(message(entry, note).filter(says));
        if messages.len() > MAX_MESSAGES {
            return None;
        }
    }
}

/// What the messages begin with that count.
const STEPS: [&str; 2] = ["Accepted ", "Partial "];

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
pub(crate) mod tests {
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

    /// A journal that says what `script` does. The shell writes it: a program that is open for writing is not started, and what this process has
    /// open is open for a moment in whatever another test starts.
    pub(crate) fn program(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("journal");
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" >"$2.new" && chmod 755 "$2.new" && mv "$2.new" "$2""#;
        assert!(Command::new("sh").args(["-c", write, "sh", script]).arg(&path).status().unwrap().success());
        path
    }

    fn entry(pid: u32, message: &str) -> String {
        format!(
            r#"{{"_PID":"{pid}","_UID":"0","_TRANSPORT":"syslog","__REALTIME_TIMESTAMP":"1800000000000000","MESSAGE":"{message}"}}"#
        )
    }

    fn accepted() -> String {
        line(&format!("ED25519 {}", fingerprint_text(&fingerprint_sha256(&key(2)))))
    }

    fn of(pid: u32) -> Note {
        Note { process: ProcessName { pid, start_ticks: 1234 }, ..note(key(2)) }
    }

    #[test]
    fn a_journal_that_fails_hangs_or_never_ends_says_nothing_and_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let (note, entry) = (of(77), entry(77, &accepted()));
        let right = format!("printf '%s\\n' '{entry}'");
        let mut journal = Journal::default();
        for (name, text) in [
            ("failing", format!("{right}; exit 1")),
            ("hanging", format!("{right}; exec sleep 1000")),
            ("endless", format!("exec yes '{entry}'")),
        ] {
            journal.asked.clear();
            // The first and the last are over by themselves.
            journal.limit = Duration::from_secs(if name == "hanging" { 1 } else { 60 });
            assert_eq!(journal.ask(&program(folder.path(), &text), &[&note], 100), BTreeMap::new(), "{name}");
            journal.limit = Duration::from_secs(60);
            let right = program(folder.path(), &right);
            assert_eq!(journal.ask(&right, &[&note], 104), BTreeMap::new(), "{name}");
            assert_eq!(journal.ask(&right, &[&note], 105), BTreeMap::from([(note.process, Said::This)]), "{name}");
        }
        assert_eq!(journal.ask(&folder.path().join("none"), &[&note], 106), BTreeMap::new());
        let right = program(folder.path(), &right);
        assert_eq!(journal.ask(&right, &[&note], 115), BTreeMap::new(), "what cannot be started has a rest");
        assert_eq!(journal.ask(&right, &[&note], 116), BTreeMap::from([(note.process, Said::This)]));
    }

    #[test]
    fn what_one_client_has_sshd_log_keeps_nobody_else_waiting_nor_itself() {
        let folder = tempfile::tempdir().unwrap();
        let (flooding, failing, other) = (of(76), of(77), of(78));
        let flood = entry(76, "dispatch_protocol_error: type 150 seq 3 [preauth]");
        let disguised = entry(76, &format!("{} [preauth]", accepted().replace("publickey", "password")));
        let long = entry(76, &"Accepted ".repeat(10_000));
        let script = format!(
            "case \"$*\" in\n*_PID=76) yes '{flood}\n{disguised}' | head -n 20000; echo '{long}'; echo '{}';;\n*_PID=77) exit 1;;\n*) echo '{}';;\nesac",
            entry(76, &accepted()),
            entry(78, &accepted())
        );
        let mut journal = Journal { limit: Duration::from_secs(60), ..Journal::default() };
        let all = journal.ask(&program(folder.path(), &script), &[&flooding, &failing, &other], 100);
        assert_eq!(all, BTreeMap::from([(flooding.process, Said::This), (other.process, Said::This)]));
    }

    #[test]
    fn that_there_is_nothing_is_believed_after_several_answers_or_when_its_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let note = of(77);
        let mut journal = Journal { limit: Duration::from_secs(60), ..Journal::default() };
        let nothing = BTreeMap::from([(note.process, Said::Nothing)]);
        let silent = program(folder.path(), "exit 0");
        // Often within one second counts once: looks come quickly while something ends.
        for now_secs in [100, 100, 100, 100, 101, 101] {
            assert_eq!(journal.ask(&silent, &[&note], now_secs), BTreeMap::new(), "{now_secs}");
        }
        assert_eq!(journal.ask(&silent, &[&note], 102), nothing);
        let right = program(folder.path(), &format!("echo '{}'", entry(77, &accepted())));
        let this = BTreeMap::from([(note.process, Said::This)]);
        assert_eq!(journal.ask(&right, &[&note], 100 + ASKED_SECS - 1), this, "it may still come");
        assert_eq!(journal.ask(&right, &[&note], 100 + ASKED_SECS), nothing, "it is not asked any more");
        // The same where there was never an answer.
        let failing = program(folder.path(), "exit 1");
        journal.asked.clear();
        assert_eq!(journal.ask(&failing, &[&note], 100), BTreeMap::new());
        assert_eq!(journal.ask(&failing, &[&note], 100 + ASKED_SECS - 1), BTreeMap::new());
        assert_eq!(journal.ask(&failing, &[&note], 100 + ASKED_SECS), nothing);
    }
}
