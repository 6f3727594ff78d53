//! One write of a file, as its bytes and as what they say. The author's remark is never taken for what is signed.

use alloy_primitives::Bytes;
use countersign_registry::entries::{Entry, Kind};
use countersign_registry::shard;
use countersign_registry::sign::Write;
use serde::{Deserialize, Serialize};

use super::ProposalError;
use crate::decode;

/// One entry to be written, in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WriteText {
    /// The author's remark; decides nothing.
    pub about: String,
    /// The kind's name or number.
    pub kind: String,
    /// Shard number.
    pub shard: u64,
    /// Encoding byte and payload.
    pub data: Bytes,
}

impl WriteText {
    /// From a write and a remark.
    pub fn new(write: &Write, about: &str) -> Self {
        Self {
            about: about.to_owned(),
            kind: Kind(write.kind).to_string(),
            shard: write.shard,
            data: write.data.clone(),
        }
    }

    /// The write, as it is signed.
    ///
    /// # Errors
    /// [`ProposalError::Syntax`] for a kind that is neither a name nor a number.
    pub fn write(&self, path: &str) -> Result<Write, ProposalError> {
        let named = Kind::NAMED.iter().find(|(name, _)| *name == self.kind).map(|(_, kind)| kind.0);
        let four = |digits: &&str| digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let digits = || self.kind.strip_prefix("0x").filter(four);
        let numbered = || digits().and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let kind = named.or_else(numbered).ok_or_else(|| ProposalError::Syntax {
            path: path.to_owned(),
            problem: format!("kind `{}`: expected a name such as ROLE_SET, or 0x and four digits", self.kind),
        })?;
        Ok(Write { shard: self.shard, kind, data: self.data.clone() })
    }

    /// Refuses a write whose meaning cannot be shown.
    pub(super) fn check_readable(&self, path: &str) -> Result<(), ProposalError> {
        let write = self.write(path)?;
        let kind = Kind(write.kind);
        Entry::decode(kind, &write.data).map(|_| ()).map_err(|error| ProposalError::Unreadable {
            path: path.to_owned(),
            kind: kind.to_string(),
            problem: error.to_string(),
        })
    }

    /// What the bytes say, for a signer; and the shard, where the kind does not decide it.
    ///
    /// # Errors
    /// As [`WriteText::write`].
    pub fn shown(&self, path: &str) -> Result<String, ProposalError> {
        let write = self.write(path)?;
        let kind = Kind(write.kind);
        let shard = match shard::write_shard(kind) {
            Some(usual) if usual == write.shard => String::new(),
            _ => format!(" shard={}/{}", shard::class_of(write.shard), shard::epoch_of(write.shard)),
        };
        let text = match Entry::decode(kind, &write.data) {
            Ok(entry) => decode::one_line(&entry),
            Err(error) => format!("UNREADABLE ({error}): {}", write.data),
        };
        Ok(format!("{kind}{shard} {text}"))
    }
}
