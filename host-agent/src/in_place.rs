//! The files that readers open now: how large they are, and whether they are still those that this process has seen.
//!
//! What readers would refuse is not looked at.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use countersign_snapshot::{Accounts, Manifest, Snapshot, Trust};
use nix::unistd::geteuid;

use crate::status::{FileBytes, SnapshotFiles};

/// Bases and deltas of both audiences.
#[derive(PartialEq, Eq)]
pub(crate) struct InPlace {
    pub(crate) bytes: SnapshotFiles,
    stamps: Vec<Stamp>,
}

/// Differs once somebody has changed a file, or put another in its place: nothing sets the time of the last change of an inode.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// None where nothing is there.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl InPlace {
    /// None where a reader would not open them.
    pub(crate) fn look(directory: &Path) -> Option<Self> {
        let trust = Trust::owner(geteuid().as_raw());
        let access = Snapshot::open(directory, trust).ok()?.manifest().clone();
        let accounts = Accounts::open(directory, trust).ok()?.manifest().clone();
        let mut stamps = stamps(&directory.join("access"), &access)?;
        stamps.append(&mut self::stamps(&directory.join("accounts"), &accounts)?);
        let bytes = SnapshotFiles { access: bytes(&access), accounts: bytes(&accounts) };
        Some(Self { bytes, stamps })
    }
}

fn bytes(manifest: &Manifest) -> FileBytes {
    FileBytes { base: manifest.base.bytes, delta: manifest.delta.map(|delta| delta.bytes) }
}

fn stamps(folder: &Path, manifest: &Manifest) -> Option<Vec<Stamp>> {
    let base = Some(("base", manifest.base));
    let named = base.into_iter().chain(manifest.delta.map(|delta| ("delta", delta)));
    named.map(|(stem, file)| Stamp::of(&folder.join(format!("{stem}.{}", file.generation)))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use countersign_certificate::{Id, RealmId};
    use countersign_snapshot::{
        AccessTables, AccountsTables, BlockRef, BootId, Facts, Freshness, HostState, PublishInfo, Salt, publish,
        refresh,
    };

    use super::*;

    fn info() -> PublishInfo {
        let block = BlockRef { number: 1, time_secs: 1 };
        PublishInfo {
            facts: Facts {
                realm: RealmId([1; 32]),
                host: Id([2; 16]),
                host_state: HostState::Active,
                require_logged: false,
                allow_root: false,
                pickup_secs: 1,
                max_ttl_secs: 1,
                latest_block: block,
                final_block: block,
            },
            freshness: Freshness {
                valid_until_secs: 1,
                boot_id: BootId([3; 16]),
                boottime_secs: 1,
                age_consumed_secs: 0,
                max_staleness_secs: 1,
                highest_wall_secs: 1,
            },
            salt: Salt([4; 16]),
            access_group: None,
            now_unix_secs: 1,
        }
    }

    #[test]
    fn a_file_that_somebody_has_touched_is_told_from_the_one_that_was_published() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("snapshot");
        assert!(InPlace::look(&directory).is_none());
        publish(&directory, &AccessTables::default(), &AccountsTables::default(), &info()).unwrap();
        let look = || InPlace::look(&directory).unwrap();
        let published = look();
        assert_eq!(published.bytes.access, FileBytes { base: 4096, delta: None });
        refresh(&directory, 1, &info()).unwrap();
        assert!(published == look(), "declaring it fresh touches neither base nor delta");
        let base = directory.join("accounts/base.1");
        let content = fs::read(&base).unwrap();
        let copy = directory.join("copy");
        fs::write(&copy, &content).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(&copy, &base).unwrap();
        assert!(published != look(), "the same bytes in another file");
        fs::remove_file(&base).unwrap();
        assert!(InPlace::look(&directory).is_none());
    }
}
