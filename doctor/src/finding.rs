//! What was found, and what was not looked at.

use std::fmt;

use serde::Serialize;

use crate::code::Code;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Somebody is let in who should not be, or kept out who should not be, or nothing is known.
    Error,
    /// It works, and not as it is meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// What sort of thing.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// The file or setting.
    pub about: String,
    /// How it is.
    pub found: String,
    /// What follows from that.
    pub consequence: String,
    /// The line or command that mends it.
    pub change: String,
}

impl Finding {
    /// A finding with what always follows from its code, and no change yet.
    #[must_use]
    pub fn new(code: Code, about: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            about: about.into(),
            found: found.into(),
            consequence: code.consequence().to_owned(),
            change: String::new(),
        }
    }

    /// With the line or command that mends it.
    #[must_use]
    pub fn change(self, change: impl Into<String>) -> Self {
        Self { change: change.into(), ..self }
    }
}

/// What could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Unchecked {
    /// What.
    pub check: &'static str,
    /// Why not.
    pub why: String,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What was looked at.
    pub checked: Vec<&'static str>,
    /// What was not.
    pub not_checked: Vec<Unchecked>,
}

impl Report {
    /// Adds a finding; the same one twice is one.
    pub fn find(&mut self, finding: Finding) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Something was looked at.
    pub fn checked(&mut self, check: &'static str) {
        if !self.checked.contains(&check) {
            self.checked.push(check);
        }
    }

    /// Something could not be looked at; the same for the same reason is said once.
    pub fn not_checked(&mut self, check: &'static str, why: impl Into<String>) {
        let unchecked = Unchecked { check, why: why.into() };
        if !self.not_checked.contains(&unchecked) {
            self.not_checked.push(unchecked);
        }
    }
}
