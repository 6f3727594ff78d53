//! Where the agent's log lines go: a terminal, the journal (with `<N>` priorities on standard error) or syslog. A line is a
//! sequence of `key=value` fields; values from outside are escaped, so that one event is always one line. JSON never appears
//! here, and a log that cannot be written never stops the agent.

use std::fmt::{Display, Write as _};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;

use syslog::{LogFormat, Logger, LoggerBackend};

use crate::reason::Reason;

/// Where syslog listens.
const SYSLOG_SOCKETS: [&str; 2] = ["/dev/log", "/var/run/syslog"];

/// How loud a line is; the numbers are syslog's severities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something failed and stays so until somebody or something changes it.
    Error,
    /// Something is not as it should be.
    Warning,
    /// Something worth knowing happened.
    Notice,
    /// Progress.
    Info,
}

impl Level {
    fn severity(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Notice => 5,
            Self::Info => 6,
        }
    }
}

/// RFC 3164 without a timestamp: the receiving daemon stamps the line by its own clock and zone.
struct Undated {
    process: &'static str,
    pid: u32,
}

impl LogFormat<(Level, &str)> for Undated {
    fn format<W: Write>(&self, out: &mut W, _: syslog::Severity, line: (Level, &str)) -> syslog::Result<()> {
        // LOG_DAEMON is facility 3.
        let priority = 24 | line.0.severity();
        write!(out, "<{priority}>{}[{}]: {}", self.process, self.pid, line.1).map_err(syslog::Error::Write)
    }
}

enum Sink {
    Plain(Box<dyn Write + Send>),
    Journal(Box<dyn Write + Send>),
    Syslog(Box<Logger<LoggerBackend, Undated>>),
}

impl Sink {
    fn syslog(process: &'static str, socket: &Path) -> Option<Self> {
        let undated = Undated { process, pid: std::process::id() };
        syslog::unix_custom(undated, socket).ok().map(|logger| Self::Syslog(Box::new(logger)))
    }
}

/// The agent's log.
pub struct Log {
    sink: Mutex<Sink>,
}

impl Log {
    /// The log that fits where the process runs: the terminal or the journal when standard error leads there, syslog
    /// otherwise, and standard error where there is no syslog.
    pub fn for_process(process: &'static str) -> Self {
        let stderr = std::io::stderr();
        let sink = if stderr.is_terminal() {
            Sink::Plain(Box::new(stderr))
        } else if std::env::var_os("JOURNAL_STREAM").is_some() {
            Sink::Journal(Box::new(stderr))
        } else {
            match SYSLOG_SOCKETS.iter().find_map(|socket| Sink::syslog(process, Path::new(socket))) {
                Some(sink) => sink,
                None => Sink::Plain(Box::new(stderr)),
            }
        };
        Self { sink: Mutex::new(sink) }
    }

    /// Plain lines to standard error: for `once` and the other commands that a person starts.
    pub fn stderr() -> Self {
        Self::plain(Box::new(std::io::stderr()))
    }

    /// Plain lines to any writer.
    pub fn plain(out: Box<dyn Write + Send>) -> Self {
        Self { sink: Mutex::new(Sink::Plain(out)) }
    }

    /// Writes one line.
    pub fn line(&self, level: Level, line: &Line) {
        let Ok(mut sink) = self.sink.lock() else { return };
        // A full or absent log must not stop revocations from being published, so failures to write are dropped here.
        match &mut *sink {
            Sink::Plain(out) => drop(writeln!(out, "{}", line.text)),
            Sink::Journal(out) => drop(writeln!(out, "<{}>{}", level.severity(), line.text)),
            Sink::Syslog(logger) => drop(logger.info((level, line.text.as_str()))),
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

/// One log line under construction.
#[derive(Debug, Clone)]
pub struct Line {
    text: String,
}

impl Line {
    /// A line that reports a failure or something noticed.
    pub fn reason(reason: Reason) -> Self {
        Self { text: format!("reason={reason}") }
    }

    /// A line that reports an event: a fixed word.
    pub fn event(event: &'static str) -> Self {
        Self { text: format!("event={event}") }
    }

    /// Adds a field; the value is quoted and escaped where it is not a plain word.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: impl Display) -> Self {
        let value = value.to_string();
        self.text.push(' ');
        self.text.push_str(name);
        self.text.push('=');
        escape_into(&mut self.text, &value);
        self
    }

    /// The text of the line, without a line end.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Appends `value`, as it is when it is a plain word, else in double quotes with everything but printable ASCII escaped.
fn escape_into(out: &mut String, value: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+-,".contains(&byte);
    if !value.is_empty() && value.bytes().all(plain) {
        out.push_str(value);
        return;
    }
    out.push('"');
    for character in value.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            ' '..='~' => out.push(character),
            // Writing to a String cannot fail.
            other => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(other));
            }
        }
    }
    out.push('"');
}

/// An error and all its sources on one line, joined by `: `, without repeating a source that its parent already printed.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_from_outside_cannot_start_a_second_line_or_forge_a_field() {
        let line = Line::reason(Reason::DeliveryName).field("name", "x\nreason=granted user=\"root\"\u{1b}[2J");
        assert_eq!(line.as_str(), "reason=delivery-name name=\"x\\u{a}reason=granted user=\\\"root\\\"\\u{1b}[2J\"");
    }

    #[test]
    fn plain_words_are_not_quoted_and_the_empty_value_is_visible() {
        let line = Line::event("published").field("generation", 7).field("path", "/var/lib/x.y").field("empty", "");
        assert_eq!(line.as_str(), "event=published generation=7 path=/var/lib/x.y empty=\"\"");
    }

    #[test]
    fn a_line_arrives_at_the_syslog_socket_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let sink = Sink::syslog("countersign-agent", &path).unwrap();
        let log = Log { sink: Mutex::new(sink) };
        log.line(Level::Warning, &Line::reason(Reason::ClockBack).field("message", "a b"));
        let mut bytes = [0; 200];
        let length = socket.recv(&mut bytes).unwrap();
        let expected = format!("<28>countersign-agent[{}]: reason=clock-back message=\"a b\"", std::process::id());
        assert_eq!(std::str::from_utf8(&bytes[..length]).unwrap(), expected);
        assert!(Sink::syslog("countersign-agent", &directory.path().join("none")).is_none());
    }

    #[test]
    fn syslog_lines_carry_facility_daemon_and_the_levels_severity() {
        let mut out = Vec::new();
        let format = Undated { process: "countersign-agent", pid: 42 };
        format.format(&mut out, syslog::Severity::LOG_INFO, (Level::Error, "reason=clock-back")).unwrap();
        assert_eq!(out, b"<27>countersign-agent[42]: reason=clock-back");
    }
}
