//! The codes: stable words for what can be wrong, listed in `docs/doctor-codes.md`.
//!
//! Codes are added, never renamed or used for something else. Where the helper has a reason for the same thing, it is the same word.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::finding::Severity;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $severity:ident, $consequence:literal;)+) => {
        /// What is wrong, as one stable code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $name),+
        }

        impl Code {
            /// All of them, in the order of the page.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The code, in kebab-case.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code),+
                }
            }

            /// How bad it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity),+
                }
            }

            /// What follows from it.
            #[must_use]
            pub const fn consequence(self) -> &'static str {
                match self {
                    $(Self::$name => $consequence),+
                }
            }
        }
    };
}

codes! {
    /// Not root.
    NotRoot = "not-root", Error,
        "sshd's keys, the snapshot and other users' files cannot be read: not everything was looked at";
    /// There is no sshd.
    SshdMissing = "sshd-missing", Error,
        "nothing else about sshd could be looked at";
    /// `sshd -T` fails.
    SshdRefuses = "sshd-refuses", Error,
        "sshd does not start with this configuration: the one that runs goes on with an older one until it is restarted";
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.code())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_lists_every_code_with_its_severity_and_consequence_in_order_and_no_other() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/doctor-codes.md");
        let page = std::fs::read_to_string(page).unwrap();
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let declared: Vec<String> = Code::ALL
            .iter()
            .map(|code| format!("| `{code}` | {} | {} |", code.severity(), code.consequence()))
            .collect();
        assert_eq!(listed, declared);
        assert_eq!(Code::ALL.iter().map(|code| code.code()).collect::<BTreeSet<_>>().len(), Code::ALL.len());
    }
}
