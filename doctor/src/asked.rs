//! One question to sshd: in general, or for somebody to whom a `Match` applies.

use std::path::PathBuf;

use crate::code::Code;
use crate::config::Config;
use crate::finding::Finding;
use crate::host::Host;
use crate::sshd::{Effective, Spec, Version};

/// Where a package puts the helper.
pub(crate) const HELPER: &str = "/usr/lib/countersign/countersign-sshd";

/// What sshd said, and about whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) host: &'a Host,
    pub(crate) config: &'a Config,
    pub(crate) version: Option<Version>,
    pub(crate) effective: &'a Effective,
    /// Who logs in.
    pub(crate) who: Option<&'a Spec>,
    /// The `Match`es that apply, in their order.
    pub(crate) blocks: &'a [usize],
}

impl Asked<'_> {
    /// A setting's value.
    pub(crate) fn get(&self, setting: &str) -> &str {
        self.effective.get(&setting.to_ascii_lowercase())
    }

    /// Whether a setting has a value that is not `none`.
    pub(crate) fn is_set(&self, setting: &str) -> bool {
        !matches!(self.get(setting), "" | "none")
    }

    /// A finding about a setting: where it stands, and for whom it holds.
    pub(crate) fn finding(&self, code: Code, setting: &str, found: impl Into<String>) -> Finding {
        let place = match self.config.block_of(&setting.to_ascii_lowercase(), self.blocks) {
            None if self.is_told(setting) => {
                Some("-o of the sshd that runs, which counts more than the file".to_owned())
            }
            _ => self.config.place(&setting.to_ascii_lowercase(), self.blocks),
        };
        let place = place.unwrap_or_else(|| self.host.sshd_config.display().to_string());
        let about = match self.who {
            Some(spec) => format!("{setting} ({place}), for {} from {}", spec.user, spec.address),
            None => format!("{setting} ({place})"),
        };
        Finding::new(code, about, found)
    }

    /// Whether sshd was started with the setting.
    fn is_told(&self, setting: &str) -> bool {
        let told = |option: &String| {
            option.split([' ', '\t', '=']).next().is_some_and(|key| key.eq_ignore_ascii_case(setting))
        };
        self.host.sshd_options.iter().any(told)
    }

    /// The line that a setting should be, and where.
    pub(crate) fn line(self, setting: &str, value: &str) -> String {
        format!("{setting} {value}")
    }

    /// The helper, as one of the commands names it.
    pub(crate) fn helper(&self) -> PathBuf {
        let named = ["AuthorizedKeysCommand", "AuthorizedPrincipalsCommand"].into_iter().find_map(|setting| {
            let program = PathBuf::from(crate::config::words(self.get(setting)).into_iter().next()?);
            is_helper(&program).then_some(program)
        });
        named.unwrap_or_else(|| PathBuf::from(HELPER))
    }
}

/// Whether a program is named as ours is.
pub(crate) fn is_helper(program: &std::path::Path) -> bool {
    program.file_name().is_some_and(|name| name == "countersign-sshd")
}
