//! The bed's `/dev/log`: takes what sshd, the helper and the agent log, whole lines, in order.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use crate::{bed, wait};

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

/// The bound socket. Lines are shown when the scenario fails.
pub struct SystemLog {
    lines: Arc<Mutex<Vec<Line>>>,
    read: usize,
}

impl SystemLog {
    /// Binds `/dev/log`.
    ///
    /// # Panics
    /// Outside a bed.
    #[must_use]
    pub fn bind() -> Self {
        assert!(bed::is_inside(), "the machine's own /dev/log is not for scenarios");
        let path = Path::new("/dev/log");
        let socket = UnixDatagram::bind(path).expect("binding /dev/log in a bed");
        fs::set_permissions(path, Permissions::from_mode(0o666)).expect("opening /dev/log to everybody");
        let lines: Arc<Mutex<Vec<Line>>> = Arc::default();
        let kept = Arc::clone(&lines);
        thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                let line = parse(&text).unwrap_or_else(|| panic!("not a syslog line: {text:?}"));
                kept.lock().expect("nobody panics while holding lines").push(line);
            }
        });
        Self { lines, read: 0 }
    }

    /// Everything that `program` has logged.
    #[must_use]
    pub fn of(&self, program: &str) -> Vec<String> {
        self.all().into_iter().filter(|line| line.program == program).map(|line| line.message).collect()
    }

    /// Waits for the next line of `program` that begins with `text`, after the one found last, and gives its message.
    ///
    /// # Panics
    /// After the deadline.
    pub fn wait(&mut self, program: &str, text: &str) -> String {
        let read = self.read;
        let (at, message) = wait::until(&format!("{program} to log {text:?}"), || {
            let mut lines = self.all().into_iter().enumerate().skip(read);
            lines
                .find(|(_, line)| line.program == program && line.message.starts_with(text))
                .map(|(at, line)| (at, line.message))
        });
        self.read = at.saturating_add(1);
        message
    }

    /// What `program` has logged since the line that was found last; the next [`SystemLog::wait`] begins after these.
    pub fn take(&mut self, program: &str) -> Vec<String> {
        let lines = self.all();
        let new = lines.iter().skip(self.read).filter(|line| line.program == program);
        let new = new.map(|line| line.message.clone()).collect();
        self.read = lines.len();
        new
    }

    fn all(&self) -> Vec<Line> {
        self.lines.lock().expect("the log's reader does not panic").clone()
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
