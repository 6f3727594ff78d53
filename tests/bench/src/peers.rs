//! What others answer the same questions with: their programs as Debian packs them (`.ci/peers`), unpacked in a bed and set up so that
//! they truly answer, about the same people each.
//!
//! Nothing here leaves the bed: a directory server, sssd before it, and the part of Google's metadata server that OS Login asks, all on
//! the bed's loopback. Real ones are further away.

pub mod directory;
pub mod lookups;
pub mod metadata;
pub mod people;

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::bed::{inside, succeed};

/// The peers' programs, in the bed's own copy of the system.
pub struct Programs {
    versions: BTreeMap<String, String>,
}

impl Programs {
    /// Unpacks them from the folder that `.ci/peers` makes.
    ///
    /// # Errors
    /// Outside a bed, or where they cannot be unpacked.
    pub fn unpack(folder: &Path) -> Result<Self, Box<dyn Error>> {
        inside()?;
        let mut unpack = Command::new("tar");
        unpack.arg("-xf").arg(folder.join("root.tar"));
        succeed(unpack.args(["-C", "/", "--keep-directory-symlink", "--no-overwrite-dir"]))?;
        succeed(Command::new("ldconfig").stderr(Stdio::null()))?;
        let versions = fs::read_to_string(folder.join("versions"))?;
        let versions = versions.lines().filter_map(|line| line.split_once('\t'));
        Ok(Self { versions: versions.map(|(package, version)| (package.to_owned(), version.to_owned())).collect() })
    }

    /// The version of a package; none where the release has no such package.
    #[must_use]
    pub fn version(&self, package: &str) -> Option<&str> {
        self.versions.get(package).map(String::as_str).filter(|version| *version != "-")
    }
}
