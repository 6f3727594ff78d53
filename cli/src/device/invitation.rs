//! Invitations: one-time tokens that an admin gave to devices, each in a file of its own, with what the admin promised for it: the
//! name, the owner and the labels that the device gets. A device cannot ask for any of these.
//!
//! Which device has used a token is written down, and synced, before the approval is sent: after a crash between the two, that device
//! is approved again and no other. Files that others can read or write are refused.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use alloy_primitives::B256;
use countersign_registry::Id;
use serde::{Deserialize, Serialize};

use super::claim::Token;
use crate::error::CliError;
use crate::files::{self, Existing};

const VERSION: u64 = 1;
const HEADING: &str =
    "# An invitation of a device into a Countersign realm. The token in it is a secret until it is used.\n";

/// One invitation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    version: u64,
    realm: B256,
    token: String,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Id>,
    #[serde(default)]
    labels: Vec<String>,
    expires: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used_by: Option<B256>,
}

/// What an admin promised to whoever holds the token.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// Its file.
    pub path: PathBuf,
    /// The secret.
    pub token: Token,
    /// The name that the device must ask for.
    pub name: String,
    /// The user who will own it.
    pub owner: Option<Id>,
    /// The labels it will have.
    pub labels: Vec<String>,
    /// The last block time at which it may ask, Unix seconds.
    pub expires: u64,
    /// The [keys](super::claim::Claim::keys) of the device that used it.
    pub used_by: Option<B256>,
}

impl Invitation {
    /// Writes a new invitation into `directory`, which is made, mode 0700, where it is missing.
    ///
    /// # Errors
    /// [`CliError::File`], [`CliError::Refused`].
    pub fn create(
        directory: &Path,
        realm: B256,
        name: &str,
        owner: Option<Id>,
        labels: Vec<String>,
        expires: u64,
    ) -> Result<Self, CliError> {
        match std::fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(CliError::File { path: directory.to_owned(), source });
            }
            _ => private(directory)?,
        }
        let token = Token::generate()?;
        let stem = alloy_primitives::hex::encode(crate::write::random16()?);
        let invitation = Self {
            path: directory.join(format!("{stem}.toml")),
            token,
            name: name.to_owned(),
            owner,
            labels,
            expires,
            used_by: None,
        };
        invitation.save(realm, Existing::Keep)?;
        Ok(invitation)
    }

    /// All invitations in `directory`.
    ///
    /// # Errors
    /// [`CliError::File`]; [`CliError::Content`] names the file that is not one, is one of another realm, or is open to others.
    pub fn load_all(directory: &Path, realm: B256) -> Result<Vec<Self>, CliError> {
        private(directory)?;
        let file_error = |source| CliError::File { path: directory.to_owned(), source };
        let mut invitations = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(file_error)? {
            let path = entry.map_err(file_error)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                invitations.push(Self::load(&path, realm)?);
            }
        }
        invitations.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(invitations)
    }

    fn load(path: &Path, realm: B256) -> Result<Self, CliError> {
        private(path)?;
        let content = |problem: String| CliError::Content { path: path.to_owned(), problem };
        let text = zeroize::Zeroizing::new(files::read_text(path)?);
        // The error of the parser would quote the line, and with it the token.
        let document: Document = toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.lines().count().max(1));
            content(format!("line {}: {}", line.unwrap_or(1), error.message()))
        })?;
        if document.version != VERSION {
            return Err(content(format!("version {}: expected {VERSION}", document.version)));
        }
        if document.realm != realm {
            return Err(content(format!("realm {}: expected {realm}", document.realm)));
        }
        let token = Token::parse(&document.token).map_err(|error| content(error.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            token,
            name: document.name,
            owner: document.owner,
            labels: document.labels,
            expires: document.expires,
            used_by: document.used_by,
        })
    }

    /// Writes down that the device with these keys has used the token.
    ///
    /// # Errors
    /// [`CliError::File`]; then nothing may be sent.
    pub fn use_for(&mut self, realm: B256, keys: B256) -> Result<(), CliError> {
        self.used_by = Some(keys);
        self.save(realm, Existing::Replace)
    }

    fn save(&self, realm: B256, existing: Existing) -> Result<(), CliError> {
        let document = Document {
            version: VERSION,
            realm,
            token: self.token.text().to_string(),
            name: self.name.clone(),
            owner: self.owner,
            labels: self.labels.clone(),
            expires: self.expires,
            used_by: self.used_by,
        };
        let text = toml::to_string(&document).map_err(|error| CliError::Refused(error.to_string()))?;
        files::write(&self.path, format!("{HEADING}{text}").as_bytes(), 0o600, existing)
    }
}

/// Refuses what others can reach: who reads a token may enrol, who writes one decides who may.
fn private(path: &Path) -> Result<(), CliError> {
    let metadata = path.symlink_metadata().map_err(|source| CliError::File { path: path.to_owned(), source })?;
    let content = |problem: String| Err(CliError::Content { path: path.to_owned(), problem });
    if metadata.mode() & 0o077 != 0 {
        return content(format!(
            "mode {:04o} is open to others; expected 0600, or 0700 for a directory",
            metadata.mode() & 0o7777
        ));
    }
    // This process, as the kernel sees it.
    let own = std::fs::metadata("/proc/self").map_err(|source| CliError::File { path: "/proc/self".into(), source })?;
    if metadata.is_symlink() || (metadata.uid() != own.uid() && metadata.uid() != 0) {
        return content("expected a file of one's own, and no link".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const REALM: B256 = B256::repeat_byte(1);

    #[test]
    fn what_was_promised_and_who_used_it_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("invitations");
        let labels = vec!["line-2".to_owned()];
        let made = Invitation::create(&directory, REALM, "press-7", Some(Id([4; 16])), labels, 99).unwrap();
        let mut read = Invitation::load_all(&directory, REALM).unwrap();
        assert_eq!(read.len(), 1);
        let one = &mut read[0];
        assert_eq!((one.token.bytes(), one.expires, one.used_by), (made.token.bytes(), 99, None));
        assert_eq!((one.owner, one.labels.as_slice()), (Some(Id([4; 16])), ["line-2".to_owned()].as_slice()));
        one.use_for(REALM, B256::repeat_byte(8)).unwrap();
        assert_eq!(Invitation::load_all(&directory, REALM).unwrap()[0].used_by, Some(B256::repeat_byte(8)));
    }

    #[test]
    fn what_others_can_reach_and_what_is_of_another_realm_is_refused_without_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("invitations");
        let made = Invitation::create(&directory, REALM, "press-7", None, Vec::new(), 99).unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = |expected: &str| {
            let error = Invitation::load_all(&directory, REALM).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains(&made.token.text()[5..]), "{error}");
        };
        mode(&directory, 0o750);
        refused("mode 0750");
        mode(&directory, 0o700);
        mode(&made.path, 0o640);
        refused("mode 0640");
        mode(&made.path, 0o600);
        assert!(Invitation::load_all(&directory, B256::ZERO).is_err());
        let text = std::fs::read_to_string(&made.path).unwrap();
        for (from, to, expected) in [
            ("version = 1", "version = 2", "version 2"),
            ("expires", "until", "unknown field"),
            ("token = \"", "token = 1 \"", "line 4"),
        ] {
            std::fs::write(&made.path, text.replacen(from, to, 1)).unwrap();
            refused(expected);
        }
        let link = directory.join("link.toml");
        std::fs::rename(&made.path, directory.join("moved")).unwrap();
        std::os::unix::fs::symlink(directory.join("moved"), link).unwrap();
        assert!(Invitation::load_all(&directory, REALM).is_err());
    }
}
