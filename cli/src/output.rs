//! Results on stdout, as text or JSON; messages and progress on stderr.
//!
//! Nothing else in this program writes to either stream. Fields that come from the ledger are escaped before a terminal sees them.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use countersign_registry::{EntryRef, migration};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Serialize, Serializer};

use crate::config::Format;
use crate::error::CliError;

/// A result: its JSON is what `Serialize` gives, and it can be told in text.
pub trait Show: Serialize {
    /// The text for people; ends with a newline unless empty.
    fn text(&self) -> String;
}

/// Prints results and messages.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    format: Format,
    quiet: bool,
}

impl Printer {
    /// Prints in `format`; `quiet` leaves notes and progress out.
    pub fn new(format: Format, quiet: bool) -> Self {
        Self { format, quiet }
    }

    /// The format in use.
    pub fn format(self) -> Format {
        self.format
    }

    /// Prints a result on stdout. A closed pipe is not an error.
    ///
    /// # Errors
    /// [`CliError::Stream`].
    pub fn result(self, result: &impl Show) -> Result<(), CliError> {
        let text = match self.format {
            Format::Text => result.text(),
            Format::Json => {
                let mut text = serde_json::to_string_pretty(result)
                    .map_err(|error| CliError::Stream { stream: "output", source: error.into() })?;
                text.push('\n');
                visible_json(&text)
            }
        };
        self.raw(text.as_bytes())
    }

    /// One result of a stream of them: text as it is, JSON on one line.
    ///
    /// # Errors
    /// [`CliError::Stream`].
    pub fn line(self, result: &impl Show) -> Result<(), CliError> {
        match self.format {
            Format::Text => self.raw(result.text().as_bytes()),
            Format::Json => {
                let mut text = serde_json::to_string(result)
                    .map_err(|error| CliError::Stream { stream: "output", source: error.into() })?;
                text.push('\n');
                self.raw(visible_json(&text).as_bytes())
            }
        }
    }

    /// Bytes on stdout as they are.
    ///
    /// # Errors
    /// [`CliError::Stream`].
    pub fn raw(self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(CliError::Stream { stream: "output", source: error })
            }
            _ => Ok(()),
        }
    }

    /// A remark on stderr.
    pub fn note(self, text: &str) {
        if !self.quiet {
            message(text);
        }
    }

    /// Shows that something goes on, from the first second, where stderr is a terminal.
    pub fn progress(self, what: &str) -> Progress {
        if self.quiet || !std::io::stderr().is_terminal() {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress(bar)
    }
}

/// A line that disappears when what it tells of has ended.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Tells of the next step.
    pub fn step(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Lines on stderr, escaped: they may quote the ledger, a node, a file. stderr that is gone is nobody's error.
pub fn message(text: &str) {
    let lines: Vec<String> = text.split('\n').map(escape).collect();
    let _ = writeln!(std::io::stderr().lock(), "{}", lines.join("\n"));
}

/// JSON says the same with these characters escaped, and a terminal that it is printed on does nothing else.
pub fn visible_json(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for character in text.chars() {
        // The line breaks are the printer's own; within strings they are escaped already.
        if character != '\n' && drives_terminals(character) {
            let mut units = [0_u16; 2];
            for unit in character.encode_utf16(&mut units) {
                visible.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            visible.push(character);
        }
    }
    visible
}

/// Aligned columns; the first row is the heading. Cells are escaped.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let all: Vec<Vec<String>> =
        std::iter::once(&heading).chain(rows).map(|row| row.iter().map(|cell| escape(cell)).collect()).collect();
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &all {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            line.push_str(&format!("{cell:<width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `name: value` lines, values aligned and escaped.
pub fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).saturating_add(2);
    pairs
        .iter()
        .map(|(name, value)| {
            let name = if name.is_empty() { String::new() } else { format!("{name}:") };
            format!("{}\n", format!("{name:<width$}{}", escape(value)).trim_end())
        })
        .collect()
}

/// Makes control characters and those without a shape of their own visible, so that a name on the ledger can neither drive a
/// terminal nor look like another.
pub fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let shown: Vec<char> =
                if drives_terminals(character) { character.escape_default().collect() } else { vec![character] };
            shown
        })
        .collect()
}

fn drives_terminals(character: char) -> bool {
    // Direction marks, zero-width characters, line and paragraph separators, tags.
    let unseen = matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' |
        '\u{feff}' | '\u{e0000}'..='\u{e007f}'
    );
    character.is_control() || unseen
}

/// Unix seconds as UTC text; what is beyond the calendar is printed as a number.
pub fn time(unix_secs: u64) -> String {
    i64::try_from(unix_secs)
        .ok()
        .and_then(|secs| jiff::Timestamp::from_second(secs).ok())
        .map_or_else(|| unix_secs.to_string(), |time| time.to_string())
}

/// Like [`time`], 0 being `never`.
pub fn time_or_never(unix_secs: u64) -> String {
    if unix_secs == 0 { "never".to_owned() } else { time(unix_secs) }
}

/// Seconds since 1970 now.
pub fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default()
}

/// A block of a history as people know it: by its number on its own chain, after the leg and a colon where that is not the first.
pub fn block(number: u64) -> String {
    match (migration::leg_of(number), migration::in_chain(number)) {
        (0, number) => number.to_string(),
        (leg, number) => format!("{leg}:{number}"),
    }
}

/// An entry's place: its block by the number on its own chain, and the leg where that is not the first.
///
/// # Errors
/// The serializer's.
pub fn place<S: Serializer>(at: &EntryRef, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Place {
        block: u64,
        shard: u64,
        index: u64,
        time: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        leg: Option<u64>,
    }
    let leg = Some(migration::leg_of(at.block)).filter(|leg| *leg > 0);
    let block = migration::in_chain(at.block);
    Place { block, shard: at.shard, index: at.index, time: at.time, leg }.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_blanks() {
        let rows = vec![vec!["1".to_owned(), "alice".to_owned()], vec!["22".to_owned(), String::new()]];
        assert_eq!(table(&["ID", "LOGIN"], &rows), "ID  LOGIN\n1   alice\n22\n");
    }

    #[test]
    fn a_name_from_the_ledger_cannot_drive_the_terminal() {
        assert_eq!(escape("a\u{1b}[2Jb\nc\u{202e}d"), "a\\u{1b}[2Jb\\nc\\u{202e}d");
        assert_eq!(fields(&[("name", "x\r".to_owned())]), "name: x\\r\n");
    }

    #[test]
    fn json_says_the_same_without_driving_the_terminal() {
        let value = serde_json::json!({ "name": "a\u{9b}2Jb\u{202e}c\u{e0041}\u{7f}d\u{e9}\n" });
        let shown = visible_json(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(shown, "{\n  \"name\": \"a\\u009b2Jb\\u202ec\\udb40\\udc41\\u007fd\u{e9}\\n\"\n}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn times_are_printed_in_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), u64::MAX.to_string());
        assert_eq!(time_or_never(0), "never");
    }
}
