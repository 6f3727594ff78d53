//! What the helper says of a decision, and what that means: its line in syslog, and the row of its reason in `docs/reason-codes.md`.

/// The page; the only place where the words stand.
const PAGE: &str = include_str!("../../../docs/reason-codes.md");

/// One line of the helper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HelperLine {
    /// `reason`
    pub(crate) reason: String,
    /// `key`
    pub(crate) key: String,
    /// `serial`, where it is a certificate.
    pub(crate) serial: Option<u64>,
    /// All of it.
    pub(crate) text: String,
}

impl HelperLine {
    /// Reads what came to `/dev/log`: `<37>countersign-sshd[123]: reason=… user=… key=… serial=…`.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let (program, text) = line.split_once('>')?.1.split_once("]: ")?;
        if program.split_once('[')?.0 != "countersign-sshd" {
            return None;
        }
        let field = |name: &str| {
            text.split(' ').find_map(|field| Some(field.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
        };
        Some(Self {
            reason: field("reason")?,
            key: field("key")?,
            serial: field("serial").and_then(|serial| serial.parse().ok()),
            text: text.to_owned(),
        })
    }

    /// Whether it is about this key, or a certificate of this serial for it. What the helper refuses before it looks at the key, it
    /// says without one.
    pub(crate) fn is_about(&self, fingerprint: &str, serial: Option<u64>) -> bool {
        let is_key = self.key == fingerprint || (self.key == "-" && !self.lets_in());
        is_key && (self.serial.is_none() || self.serial == serial)
    }

    /// Whether the login may go on.
    pub(crate) fn lets_in(&self) -> bool {
        matches!(self.reason.as_str(), "granted" | "chained")
    }
}

/// What a reason means, and what to do.
pub(crate) fn meaning(reason: &str) -> Option<(&'static str, &'static str)> {
    let row = PAGE.lines().find_map(|line| line.strip_prefix("| `")?.strip_prefix(reason)?.strip_prefix("` | "))?;
    row.strip_suffix(" |")?.split_once(" | ")
}

#[cfg(test)]
mod tests {
    use countersign_sshd::Reason;

    use super::*;

    #[test]
    fn every_reason_has_its_meaning_and_what_to_do() {
        for reason in Reason::ALL {
            let (means, change) = meaning(reason.code()).unwrap();
            assert!(!means.is_empty() && !change.is_empty(), "{reason}");
        }
        assert_eq!(meaning("grant"), None);
    }

    #[test]
    fn the_helpers_line_is_read_and_nobody_elses() {
        let text = "reason=ca-unknown user=deploy key=SHA256:AAAA serial=7 ca=SHA256:B batch=- block=9 mode=keys detail=\"x y\"";
        let line = HelperLine::read(&format!("<37>countersign-sshd[12]: {text}")).unwrap();
        assert_eq!((line.reason.as_str(), line.key.as_str(), line.serial), ("ca-unknown", "SHA256:AAAA", Some(7)));
        assert_eq!(line.text, text);
        assert!(!line.lets_in());
        assert!(line.is_about("SHA256:AAAA", Some(7)));
        assert!(!line.is_about("SHA256:BBBB", Some(7)) && !line.is_about("SHA256:AAAA", Some(8)));
        assert!(!line.is_about("SHA256:AAAA", None));
        let read = |text: &str| HelperLine::read(&format!("<37>countersign-sshd[12]: {text}")).unwrap();
        assert!(read("reason=no-snapshot user=a key=- serial=-").is_about("SHA256:AAAA", Some(7)));
        assert!(!read("reason=granted user=a key=- serial=-").is_about("SHA256:AAAA", Some(7)));
        // The plain key beside a certificate.
        assert!(read("reason=granted user=a key=SHA256:AAAA serial=-").is_about("SHA256:AAAA", Some(7)));
        for other in [format!("<37>sshd[12]: {text}"), format!("<37>countersign-sshd: {text}"), text.to_owned()] {
            assert_eq!(HelperLine::read(&other), None);
        }
    }
}
