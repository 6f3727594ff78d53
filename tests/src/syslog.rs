//! The bed's `/dev/log`: takes what sshd, the helper and the agent log, whole lines, in order; by itself, or behind systemd's journal.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixDatagram,
    },
    path::Path,
    process::Command,
    sync::{Arc, Condvar, Mutex},
    thread,
};

use crate::{
    bed, machine,
    process::Background,
    wait::{self, DEADLINE},
};

const PATH: &str = "/dev/log";
const JOURNAL: &str = "/run/systemd/journal";

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Facility × 8 + severity.
    pub priority: u8,
    /// The program's name as it gave it.
    pub program: String,
    /// The text after `program[pid]: `.
    pub message: String,
}

/// Lines as they come, and whoever waits for one.
#[derive(Default)]
struct Lines {
    kept: Mutex<Vec<Line>>,
    came: Condvar,
}

/// The bound socket. Lines are shown when the scenario fails.
pub struct SystemLog {
    lines: Arc<Lines>,
    read: usize,
    marks: u64,
    told: BTreeMap<&'static str, usize>,
    _journal: Option<Background>,
}

impl SystemLog {
    /// Binds `/dev/log`.
    ///
    /// # Panics
    /// Outside a bed.
    #[must_use]
    pub fn bind() -> Self {
        Self::at(Path::new(PATH), None)
    }

    /// Starts systemd's journal at `/dev/log` and takes what it forwards, as a syslog daemon beside it does.
    ///
    /// # Panics
    /// Outside a bed, or where the journal does not start.
    #[must_use]
    pub fn behind_journal() -> Self {
        const CONFIG: &str = "[Journal]\nStorage=volatile\nForwardToSyslog=yes\nRateLimitIntervalSec=0\n";
        assert!(bed::is_inside(), "the machine's own journal is not for scenarios");
        machine::write("/etc/systemd/journald.conf", CONFIG, 0o644);
        let folder = Path::new(JOURNAL);
        fs::create_dir_all(folder).expect("the journal's folder");
        let journal = Background::start("systemd-journald", &mut Command::new("/lib/systemd/systemd-journald"));
        let log = Self::at(&folder.join("syslog"), Some(journal));
        let socket = folder.join("dev-log");
        wait::until("the journal to listen", || socket.exists().then_some(()));
        symlink(socket, PATH).expect("giving /dev/log to the journal");
        log
    }

    fn at(path: &Path, journal: Option<Background>) -> Self {
        assert!(bed::is_inside(), "the machine's own /dev/log is not for scenarios");
        let socket = UnixDatagram::bind(path).expect("binding /dev/log in a bed");
        fs::set_permissions(path, Permissions::from_mode(0o666)).expect("opening /dev/log to everybody");
        let lines: Arc<Lines> = Arc::default();
        let to = Arc::clone(&lines);
        thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                let line = parse(&text).unwrap_or_else(|| panic!("not a syslog line: {text:?}"));
                to.kept.lock().expect("nobody panics while holding lines").push(line);
                to.came.notify_all();
            }
        });
        Self { lines, read: 0, marks: 0, told: BTreeMap::new(), _journal: journal }
    }

    /// Everything that `program` has logged.
    #[must_use]
    pub fn of(&self, program: &str) -> Vec<String> {
        let lines = self.lines.kept.lock().expect("the log's reader does not panic");
        lines.iter().filter(|line| line.program == program).map(|line| line.message.clone()).collect()
    }

    /// Waits for the next line of `program` that begins with `text`, after the one found last, and gives its message.
    ///
    /// # Panics
    /// After the deadline.
    pub fn wait(&mut self, program: &str, text: &str) -> String {
        let found = |lines: &[Line]| {
            let mut lines = lines.iter().enumerate().skip(self.read);
            lines
                .find(|(_, line)| line.program == program && line.message.starts_with(text))
                .map(|(at, line)| (at, line.message.clone()))
        };
        let lines = self.lines.kept.lock().expect("the log's reader does not panic");
        let waited = self.lines.came.wait_timeout_while(lines, DEADLINE, |lines| found(lines).is_none());
        let (lines, _) = waited.expect("the log's reader does not panic");
        let Some((at, message)) = found(&lines) else {
            drop(lines);
            panic!("waited {} s in vain for {program} to log {text:?}", DEADLINE.as_secs());
        };
        drop(lines);
        self.read = at.saturating_add(1);
        message
    }

    /// What each of `programs` has logged since the last call for it, all of it: a line of our own, sent behind theirs, has come.
    ///
    /// # Panics
    /// After the deadline.
    pub fn news<const N: usize>(&mut self, programs: [&'static str; N]) -> [Vec<String>; N] {
        self.catch_up();
        programs.map(|program| {
            let lines = self.of(program);
            let told = self.told.insert(program, lines.len()).unwrap_or(0);
            lines.get(told..).unwrap_or_default().to_vec()
        })
    }

    /// What `program` has logged since the line that was found last, all of it; the next [`SystemLog::wait`] begins after these.
    ///
    /// # Panics
    /// After the deadline.
    pub fn take(&mut self, program: &str) -> Vec<String> {
        let from = self.read;
        self.catch_up();
        let lines = self.all();
        let new = lines.iter().skip(from).filter(|line| line.program == program);
        let new = new.map(|line| line.message.clone()).collect();
        self.read = lines.len();
        new
    }

    /// Waits for a line of our own, which stands behind all that has been sent so far.
    fn catch_up(&mut self) {
        self.marks = self.marks.saturating_add(1);
        let mark = format!("mark {}.", self.marks);
        let line = format!("<38>scenario: {mark}");
        UnixDatagram::unbound().and_then(|socket| socket.send_to(line.as_bytes(), PATH)).expect("logging a mark");
        self.wait("scenario", &mark);
    }

    fn all(&self) -> Vec<Line> {
        self.lines.kept.lock().expect("the log's reader does not panic").clone()
    }
}

impl Drop for SystemLog {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- /dev/log");
            for line in self.all() {
                eprintln!("{}: {}", line.program, line.message);
            }
        }
    }
}

/// `<38>Nov 21 11:00:00 program[123]: message`, the form of RFC 3164 without a host name, or the same without a time.
fn parse(text: &str) -> Option<Line> {
    let (priority, rest) = text.strip_prefix('<')?.split_once('>')?;
    let rest = match rest.split_at_checked(16) {
        Some((time, after)) if is_time(time) => after,
        _ => rest,
    };
    let (program, message) = rest.split_once(": ")?;
    let program = program.split_once('[').map_or(program, |(program, _)| program);
    // From 9.8 on, sshd is several programs.
    let program = if matches!(program, "sshd-session" | "sshd-auth") { "sshd" } else { program };
    Some(Line {
        priority: priority.parse().ok()?,
        program: program.to_owned(),
        message: message.trim_end_matches(['\n', '\0']).to_owned(),
    })
}

fn is_time(text: &str) -> bool {
    let form = "Mmm dd hh:mm:ss ";
    text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
        b'M' => byte.is_ascii_uppercase(),
        b'm' => byte.is_ascii_alphanumeric(),
        b' ' | b':' => byte == form,
        _ => byte.is_ascii_digit() || byte == b' ',
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_sshd_is_read_whole() {
        let line = parse("<86>Nov  1 01:02:03 sshd[12]: Accepted publickey: [x]: y").unwrap();
        assert_eq!(line, Line { priority: 86, program: "sshd".into(), message: "Accepted publickey: [x]: y".into() });
    }

    #[test]
    fn a_line_of_one_of_sshds_programs_is_sshds() {
        let line = parse("<86>Nov  1 01:02:03 sshd-session[12]: Accepted publickey").unwrap();
        assert_eq!((line.program.as_str(), line.message.as_str()), ("sshd", "Accepted publickey"));
    }

    #[test]
    fn a_line_without_a_time_is_read_whole() {
        let line = parse("<37>countersign-sshd[123]: reason=key-locked user=alice").unwrap();
        let message = "reason=key-locked user=alice".to_owned();
        assert_eq!(line, Line { priority: 37, program: "countersign-sshd".into(), message });
    }

    #[test]
    fn what_is_no_syslog_line_is_none() {
        for text in ["", "sshd: x", "<86>", "<x>Nov  1 01:02:03 sshd: x", "<86>Nov  1 01:02:03 sshd"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
