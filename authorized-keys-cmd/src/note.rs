//! Notes of which sshd process was granted which credential, and records of what a session was let in by (`docs/spec/sessions.md`).
//!
//! A note is a hint: the helper's user writes it, for whoever offers a key or certificate that would do. A record is root's, made
//! where sshd said what it accepted. Both are text, a field a line, always the same fields in the same order; anything else, or
//! less, is not read. No more than [`MAX_NOTES`] notes are kept: those of processes that have ended go first.

use std::io;
use std::path::Path;

use countersign_certificate::{MAX_CERTIFICATE_BYTES, decode_base64, encode_base64};
use countersign_snapshot::{BootId, Clock, Uid};

use crate::folder::Folder;
use crate::process::{ProcessName, boot_text};
use crate::query::{Query, is_certificate};

/// Where notes and records lie: gone with the boot.
pub const RUNTIME: &str = "/run/countersign";
/// The folder of notes below it, the helper's user's.
pub const OFFERS: &str = "offers";
/// The folder of records below it, root's.
pub const SESSIONS: &str = "sessions";
/// How many notes there may be.
pub const MAX_NOTES: usize = 1024;
/// How long a note or record may be.
pub const MAX_NOTE_BYTES: u64 = 48 * 1024;

const NOTE: &str = "countersign-note 1";
const RECORD: &str = "countersign-session 1";
const END: &str = "end";
const MAX_TEXT_BYTES: usize = 1024;

/// That the text is no note or record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoteError;

/// Whose word let a credential pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granter {
    /// The realm's: the session lasts as long as its access.
    Realm,
    /// An earlier AuthorizedKeysCommand's, which the realm has nothing to do with but to deny.
    Earlier,
}

impl Granter {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Realm => "realm",
            Self::Earlier => "earlier",
        }
    }
}

/// What the helper granted to whom last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The sshd process that asked: the privileged one of that connection.
    pub process: ProcessName,
    /// Its boot.
    pub boot_id: BootId,
    /// The login asked for.
    pub login: String,
    /// Its uid.
    pub uid: Uid,
    /// Who granted it. Certificates are granted by the realm alone.
    pub by: Granter,
    /// The key or certificate in SSH wire form.
    pub blob: Vec<u8>,
    /// How often it was asked about in a row: twice where the client asks whether it would do, and then signs.
    pub asked: u32,
    /// Whether nothing else was granted to that process.
    pub alone: bool,
    /// When: Unix time.
    pub unix_secs: u64,
    /// When: `CLOCK_BOOTTIME`, seconds.
    pub boottime_secs: u64,
}

/// How it is known that sshd let the session in by this credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// sshd said so to PAM.
    Pam,
    /// sshd said so to the journal, which knows who speaks.
    Journal,
    /// Nothing else was granted, and it was asked about twice.
    Alone,
}

impl Accepted {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pam => "pam",
            Self::Journal => "journal",
            Self::Alone => "alone",
        }
    }
}

/// A session, and what let it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The process, the login and the credential.
    pub note: Note,
    /// How that is known.
    pub accepted: Accepted,
    /// `SSH_CONNECTION`: the client's address and port, the server's address and port.
    pub connection: Option<String>,
    /// The audit session that the process was in before PAM opened one for it; [`u32::MAX`]: in none.
    pub audit_before: u32,
    /// The audit session that PAM opened for it, once it has been seen.
    pub audit: Option<u32>,
    /// Its scope among control groups, once it has been seen.
    pub scope: Option<String>,
}

impl Note {
    /// As it stands in the file.
    #[must_use]
    pub fn encode(&self) -> String {
        format!("{NOTE}\n{}{END}\n", self.fields())
    }

    /// Reads a note.
    ///
    /// # Errors
    /// It is not one, whole.
    pub fn decode(text: &[u8]) -> Result<Self, NoteError> {
        let mut lines = Lines::of(text)?;
        lines.exactly(NOTE)?;
        let note = Self::read(&mut lines)?;
        lines.end()?;
        Ok(note)
    }

    fn fields(&self) -> String {
        format!(
            "process {}\nboot {}\nlogin {}\nuid {}\nby {}\nasked {}\nalone {}\nat {} {}\ncredential {}\n",
            self.process,
            boot_text(self.boot_id),
            self.login,
            self.uid.0,
            self.by.name(),
            self.asked,
            u8::from(self.alone),
            self.unix_secs,
            self.boottime_secs,
            encode_base64(&self.blob)
        )
    }

    fn read(lines: &mut Lines<'_>) -> Result<Self, NoteError> {
        let process = lines.field("process")?.parse().map_err(|()| NoteError)?;
        let boot = lines.field("boot")?;
        let boot_id = BootId::parse(boot).filter(|found| boot_text(*found) == boot).ok_or(NoteError)?;
        let login = lines.text("login")?;
        let uid = Uid(lines.number("uid")?);
        let word = lines.field("by")?;
        let by = [Granter::Realm, Granter::Earlier].into_iter().find(|by| by.name() == word).ok_or(NoteError)?;
        let asked = lines.number("asked")?;
        let alone = match lines.field("alone")? {
            "0" => false,
            "1" => true,
            _ => return Err(NoteError),
        };
        let (unix, boottime) = lines.field("at")?.split_once(' ').ok_or(NoteError)?;
        let (unix_secs, boottime_secs) = (parse(unix)?, parse(boottime)?);
        let text = lines.field("credential")?.as_bytes();
        let blob = decode_base64(text, MAX_CERTIFICATE_BYTES, "credential").map_err(|_| NoteError)?;
        // Else whoever writes notes would have a certificate judged as what only denials end.
        if by == Granter::Earlier && is_certificate(&blob) {
            return Err(NoteError);
        }
        Ok(Self { process, boot_id, login, uid, by, blob, asked, alone, unix_secs, boottime_secs })
    }
}

impl Record {
    /// As it stands in the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
        format!(
            "{RECORD}\n{}accepted {}\nconnection {}\naudit {} {}\nscope {}\n{END}\n",
            self.note.fields(),
            self.accepted.name(),
            or_dash(self.connection.as_deref()),
            self.audit_before,
            or_dash(self.audit.map(|audit| audit.to_string()).as_deref()),
            or_dash(self.scope.as_deref())
        )
    }

    /// Reads a record.
    ///
    /// # Errors
    /// It is not one, whole.
    pub fn decode(text: &[u8]) -> Result<Self, NoteError> {
        let mut lines = Lines::of(text)?;
        lines.exactly(RECORD)?;
        let note = Note::read(&mut lines)?;
        let word = lines.field("accepted")?;
        let all = [Accepted::Pam, Accepted::Journal, Accepted::Alone];
        let accepted = all.into_iter().find(|accepted| accepted.name() == word).ok_or(NoteError)?;
        let connection = Some(lines.text("connection")?).filter(|text| text != "-");
        let (before, own) = lines.field("audit")?.split_once(' ').ok_or(NoteError)?;
        let audit_before = parse(before)?;
        let audit = if own == "-" { None } else { Some(parse(own)?) };
        let scope = Some(lines.text("scope")?).filter(|text| text != "-");
        lines.end()?;
        Ok(Self { note, accepted, connection, audit_before, audit, scope })
    }
}

/// Lines of `name value`.
struct Lines<'a> {
    lines: std::str::Split<'a, char>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a [u8]) -> Result<Self, NoteError> {
        let text = std::str::from_utf8(text).map_err(|_| NoteError)?;
        Ok(Self { lines: text.split('\n') })
    }

    fn exactly(&mut self, expected: &str) -> Result<(), NoteError> {
        if self.lines.next() == Some(expected) { Ok(()) } else { Err(NoteError) }
    }

    fn end(&mut self) -> Result<(), NoteError> {
        self.exactly(END)?;
        self.exactly("")?;
        if self.lines.next().is_none() { Ok(()) } else { Err(NoteError) }
    }

    fn field(&mut self, name: &str) -> Result<&'a str, NoteError> {
        let (found, value) = self.lines.next().and_then(|line| line.split_once(' ')).ok_or(NoteError)?;
        if found == name { Ok(value) } else { Err(NoteError) }
    }

    fn text(&mut self, name: &str) -> Result<String, NoteError> {
        let value = self.field(name)?;
        if is_plain(value) { Ok(value.to_owned()) } else { Err(NoteError) }
    }

    fn number<N: std::str::FromStr + ToString>(&mut self, name: &str) -> Result<N, NoteError> {
        self.field(name).and_then(parse)
    }
}

/// In its one form: no sign, no leading zero.
fn parse<N: std::str::FromStr + ToString>(text: &str) -> Result<N, NoteError> {
    let number: N = text.parse().map_err(|_| NoteError)?;
    if number.to_string() == text { Ok(number) } else { Err(NoteError) }
}

/// Whether `text` may stand in a note as it is.
pub(crate) fn is_plain(text: &str) -> bool {
    let fits = !text.is_empty() && text.len() <= MAX_TEXT_BYTES;
    fits && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// Notes that `process` was granted `query` at `clock`, and by whom. What is asked about twice was granted by whoever did so
/// last: sshd believes that answer.
///
/// # Errors
/// The folder is not there or full, or the system refuses. A login never depends on it.
pub fn leave(runtime: &Path, process: ProcessName, query: &Query, by: Granter, clock: &Clock) -> io::Result<()> {
    let folder = Folder::open(runtime, OFFERS, 0)?;
    let name = process.to_string();
    let before = folder.read(&name, MAX_NOTE_BYTES)?;
    if before.is_none() {
        make_room(&folder)?;
    }
    let before = before.and_then(|text| Note::decode(&text).ok());
    let (asked, alone) = match before {
        Some(before) if before.blob == query.blob() => (before.asked.saturating_add(1), before.alone),
        Some(_) => (1, false),
        None => (1, true),
    };
    let note = Note {
        process,
        boot_id: clock.boot_id,
        login: query.login().to_owned(),
        uid: query.uid(),
        by,
        blob: query.blob().to_vec(),
        asked,
        alone,
        unix_secs: clock.unix_secs,
        boottime_secs: clock.boottime_secs,
    };
    folder.write(&name, note.encode().as_bytes())
}

fn make_room(folder: &Folder) -> io::Result<()> {
    let names = folder.names()?;
    if names.len() < MAX_NOTES {
        return Ok(());
    }
    let mut kept = names.len();
    for name in names {
        // With a dot before it: being written, or left of a write that was cut off.
        let process = name.strip_prefix('.').unwrap_or(&name).parse::<ProcessName>();
        if !process.is_ok_and(|process| process.is_alive()) {
            folder.remove(&name)?;
            kept = kept.saturating_sub(1);
        }
    }
    if kept < MAX_NOTES { Ok(()) } else { Err(io::Error::new(io::ErrorKind::StorageFull, "too many notes")) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn note() -> Note {
        Note {
            process: ProcessName { pid: 77, start_ticks: 1234 },
            boot_id: BootId([0xab; 16]),
            login: "deploy".to_owned(),
            uid: Uid(2001),
            by: Granter::Realm,
            blob: b"a key or certificate".to_vec(),
            asked: 2,
            alone: true,
            unix_secs: 1_800_000_000,
            boottime_secs: 100,
        }
    }

    fn record() -> Record {
        Record {
            note: note(),
            accepted: Accepted::Pam,
            connection: Some("192.0.2.1 50000 192.0.2.2 22".to_owned()),
            audit_before: u32::MAX,
            audit: Some(26),
            scope: None,
        }
    }

    #[test]
    fn notes_and_records_are_read_back_as_they_were_written() {
        let earlier = Note { by: Granter::Earlier, ..note() };
        for note in [note(), earlier.clone()] {
            assert_eq!(Note::decode(note.encode().as_bytes()), Ok(note));
        }
        let earlier = Record { note: earlier, accepted: Accepted::Journal, ..record() };
        assert_eq!(Record::decode(earlier.encode().as_bytes()), Ok(earlier));
        for record in [record(), Record { connection: None, audit: None, scope: Some("/a b".to_owned()), ..record() }] {
            assert_eq!(Record::decode(record.encode().as_bytes()), Ok(record));
        }
    }

    #[test]
    fn what_is_cut_off_anywhere_or_goes_on_is_not_read() {
        let text = record().encode();
        for end in 0..text.len() {
            assert_eq!(Record::decode(&text.as_bytes()[..end]), Err(NoteError), "{end}");
        }
        assert_eq!(Record::decode(format!("{text}\n").as_bytes()), Err(NoteError));
        assert_eq!(Record::decode(note().encode().as_bytes()), Err(NoteError));
        assert_eq!(Note::decode(text.as_bytes()), Err(NoteError));
    }

    #[test]
    fn other_forms_of_the_same_are_not_read() {
        let text = note().encode();
        for (from, to) in [
            ("uid 2001", "uid 02001"),
            ("uid 2001", "uid +2001"),
            ("uid 2001", "uid 2001\nuid 2001"),
            ("by realm", "by Realm"),
            ("by realm", "by realm\nby earlier"),
            ("by realm\n", ""),
            ("login deploy", "login \x1b[2J"),
            ("login deploy", "login "),
            ("alone 1", "alone 2"),
            ("process 77-1234", "process 77"),
            ("asked 2", "Asked 2"),
            ("boot abab", "boot ABab"),
            ("boot abab", "boot ab-ab"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            assert_eq!(Note::decode(changed.as_bytes()), Err(NoteError), "{to}");
        }
    }

    #[test]
    fn a_certificate_that_an_earlier_command_is_said_to_have_granted_is_not_read() {
        let certificate = [&[0, 0, 0, 32][..], b"ssh-ed25519-cert-v01@openssh.com", b"and more"].concat();
        let of = |by| Note { by, blob: certificate.clone(), ..note() };
        assert_eq!(Note::decode(of(Granter::Realm).encode().as_bytes()), Ok(of(Granter::Realm)));
        assert_eq!(Note::decode(of(Granter::Earlier).encode().as_bytes()), Err(NoteError));
    }

    fn folder(parent: &Path) -> Folder {
        fs::create_dir(parent.join(OFFERS)).unwrap();
        Folder::open(parent, OFFERS, nix::unistd::geteuid().as_raw()).unwrap()
    }

    #[test]
    fn a_link_a_second_name_and_what_is_too_long_are_not_read() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        let at = |name: &str| root.path().join(OFFERS).join(name);
        folder.write("1-1", b"one").unwrap();
        assert_eq!(folder.read("1-1", 3).unwrap().as_deref(), Some(&b"one"[..]));
        assert!(folder.read("1-1", 2).is_err());
        symlink(at("1-1"), at("2-2")).unwrap();
        assert_eq!(folder.read("2-2", 9).unwrap(), None);
        fs::hard_link(at("1-1"), at("3-3")).unwrap();
        assert_eq!(folder.read("1-1", 9).unwrap(), None);
        nix::unistd::mkfifo(&at("4-4"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(folder.read("4-4", 9).unwrap(), None);
        assert_eq!(folder.read("5-5", 9).unwrap(), None);
    }

    #[test]
    fn notes_of_processes_that_have_ended_make_room_and_those_of_live_ones_stay() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        let own = ProcessName::of(std::process::id()).unwrap().to_string();
        folder.write(&own, b"mine").unwrap();
        for ordinal in 1..MAX_NOTES {
            folder.write(&format!("{}-1", 4_000_000_000 + ordinal), b"dead").unwrap();
        }
        make_room(&folder).unwrap();
        assert_eq!(folder.names().unwrap(), [own]);
    }
}
