//! One line per decision, to syslog's socket.
//!
//! `reason=… user=… key=… serial=… ca=… batch=… block=… mode=…`, always these fields in this order, `-` where there is nothing to
//! say, then `detail="…"` for some refusals. Whatever came from outside is escaped and shortened: a client chooses key ids, and
//! a forged line in a log is an attack.
//!
//! The writer is our own. The `syslog` crate brings `time`, `log` and `hostname` into every login for what is one `sendto`; the time is
//! left to the receiver (journald and rsyslog both stamp lines that have none).

use std::io::{self, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use countersign_certificate::fingerprint_text;

use crate::decide::{CaName, Verdict, VerdictFacts};
use crate::query::Mode;
use crate::reason::{Reason, Severity};

const MAX_FIELD_BYTES: usize = 64;
const MAX_DETAIL_BYTES: usize = 200;
/// LOG_AUTH.
const FACILITY: u8 = 4;
const PATIENCE: Duration = Duration::from_millis(50);
const STACK_BYTES: usize = 64 * 1024;

/// The line for `verdict` on the login `user` as it was asked for, parsed or not.
#[must_use]
pub fn log_line(verdict: &Verdict, user: &[u8], mode: Option<Mode>) -> String {
    let mut line = fields(verdict.reason(), verdict.facts(), user, mode);
    if let Verdict::Refuse { detail, .. } = verdict
        && !detail.is_empty()
    {
        line.push_str(" detail=\"");
        line.push_str(&escape(detail.as_bytes(), MAX_DETAIL_BYTES, b" ="));
        line.push('"');
    }
    line
}

/// The line for a login that an earlier command had the key of.
#[must_use]
pub fn log_line_of_earlier(facts: &VerdictFacts, user: &[u8]) -> String {
    fields(Reason::Chained, facts, user, Some(Mode::Keys))
}

fn fields(reason: Reason, facts: &VerdictFacts, user: &[u8], mode: Option<Mode>) -> String {
    let none = || "-".to_owned();
    format!(
        "reason={} user={} key={} serial={} ca={} batch={} block={} mode={}",
        reason,
        escaped(user),
        facts.key.as_ref().map_or_else(none, fingerprint_text),
        facts.serial.map_or_else(none, |serial| serial.to_string()),
        facts.ca.as_ref().map_or_else(none, CaName::to_string),
        facts.batch.map_or_else(none, |batch| batch.to_string()),
        facts.block.map_or_else(none, |block| block.to_string()),
        mode.map_or("-", Mode::name),
    )
}

/// Sends `line` to the syslog socket at `socket`, as `countersign-sshd[pid]`, facility auth.
///
/// # Errors
/// If nobody listens there, or takes it in time.
pub fn send_to_syslog(socket: &Path, severity: Severity, line: &str) -> io::Result<()> {
    let level = match severity {
        Severity::Error => 3,
        Severity::Notice => 5,
        Severity::Info => 6,
    };
    let priority = FACILITY.saturating_mul(8).saturating_add(level);
    let message = format!("<{priority}>countersign-sshd[{}]: {line}", std::process::id());
    let datagram = UnixDatagram::unbound()?;
    datagram.set_write_timeout(Some(PATIENCE))?;
    match datagram.send_to(message.as_bytes(), socket) {
        // Some daemons listen on a stream instead (EPROTOTYPE); there, NUL ends a message.
        Err(error) if error.raw_os_error() == Some(nix::libc::EPROTOTYPE) => {
            send_to_stream(socket.to_owned(), format!("{message}\0"))
        }
        sent => sent.map(drop),
    }
}

/// On a thread: connecting waits for a daemon that has stopped accepting, without a limit of its own, and whoever fills its queue
/// would hold every login. What is left of the thread ends with the process.
fn send_to_stream(socket: PathBuf, message: String) -> io::Result<()> {
    let (done, waits) = mpsc::channel();
    thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let sent = UnixStream::connect(socket).and_then(|mut stream| {
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(message.as_bytes())
        });
        // Nobody waits any more if it took too long.
        let _ = done.send(sent);
    })?;
    waits.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A field: printable ASCII without space, quote, backslash and `=`; everything else as `\xNN`.
fn escaped(field: &[u8]) -> String {
    if field.is_empty() { "-".to_owned() } else { escape(field, MAX_FIELD_BYTES, b"") }
}

fn escape(field: &[u8], max_bytes: usize, also: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    for byte in field.iter().take(max_bytes) {
        if (byte.is_ascii_graphic() && !b"\"\\=".contains(byte)) || also.contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    if field.len() > max_bytes {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixListener;

    use countersign_certificate::{Id, Serial};

    use super::*;

    fn refusal(detail: &str, facts: VerdictFacts) -> Verdict {
        Verdict::Refuse { reason: Reason::BatchLocked, detail: detail.to_owned(), facts }
    }

    #[test]
    fn a_line_has_its_fields_in_order_and_dashes_for_what_is_not_known() {
        let facts = VerdictFacts {
            key: Some([0; 32]),
            serial: Some(Serial(7)),
            ca: Some(CaName::Id(Id([0xca; 16]))),
            batch: Some(Id([0xba; 16])),
            block: Some(99),
            ..VerdictFacts::default()
        };
        let line = log_line(&refusal("", facts), b"deploy", Some(Mode::Principals));
        let expected = concat!(
            "reason=batch-locked user=deploy key=SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA serial=7 ",
            "ca=cacacacacacacacacacacacacacacaca batch=babababababababababababababababa block=99 mode=principals"
        );
        assert_eq!(line, expected);
        let line = log_line(&refusal("", VerdictFacts::default()), b"", None);
        assert_eq!(line, "reason=batch-locked user=- key=- serial=- ca=- batch=- block=- mode=-");
    }

    #[test]
    fn what_comes_from_outside_cannot_forge_a_field_or_a_line() {
        let user = b"x reason=granted\nOct 1 sshd: \"\\\x1b[0m\xc3\xa9\0";
        let line = log_line(&refusal("a \"b\"\n= c", VerdictFacts::default()), user, Some(Mode::Keys));
        let expected = concat!(
            r"reason=batch-locked user=x\x20reason\x3dgranted\x0aOct\x201\x20sshd:\x20\x22\x5c\x1b[0m\xc3\xa9\x00 ",
            r#"key=- serial=- ca=- batch=- block=- mode=keys detail="a \x22b\x22\x0a= c""#
        );
        assert_eq!(line, expected);
        assert!(line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
    }

    #[test]
    fn long_fields_are_cut() {
        let line = log_line(&refusal(&"d".repeat(5000), VerdictFacts::default()), &[b'a'; 5000], None);
        assert!(line.contains(&format!("user={}... ", "a".repeat(64))));
        assert!(line.len() < 400, "{}", line.len());
    }

    #[test]
    fn a_line_reaches_a_datagram_socket_with_facility_and_severity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let socket = UnixDatagram::bind(&path).unwrap();
        for (severity, priority) in [(Severity::Error, 35), (Severity::Notice, 37), (Severity::Info, 38)] {
            send_to_syslog(&path, severity, "reason=granted").unwrap();
            let mut buffer = [0; 200];
            let length = socket.recv(&mut buffer).unwrap();
            let expected = format!("<{priority}>countersign-sshd[{}]: reason=granted", std::process::id());
            assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), expected);
        }
    }

    #[test]
    fn a_line_reaches_a_stream_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let listener = UnixListener::bind(&path).unwrap();
        send_to_syslog(&path, Severity::Info, "reason=granted").unwrap();
        let mut received = String::new();
        listener.accept().unwrap().0.read_to_string(&mut received).unwrap();
        assert_eq!(received, format!("<38>countersign-sshd[{}]: reason=granted\0", std::process::id()));
    }

    #[test]
    fn a_stream_socket_that_nobody_accepts_from_is_an_error_and_not_waited_for() {
        use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        // One connection fills the queue.
        let _first = UnixStream::connect(&path).unwrap();
        let begun = std::time::Instant::now();
        let error = send_to_syslog(&path, Severity::Info, "reason=granted").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_missing_or_full_socket_is_an_error_and_does_not_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(send_to_syslog(&path, Severity::Info, "x").is_err());
        let _full = UnixDatagram::bind(&path).unwrap();
        let begun = std::time::Instant::now();
        let refused = (0..10_000).find_map(|_| send_to_syslog(&path, Severity::Info, "x").err()).unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
