//! The files that readers open now, and whether they are still those that somebody has seen.
//!
//! What readers would refuse is not looked at.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::layout::Audience;
use crate::manifest::{FileRef, Manifest};
use crate::open::Trust;
use crate::read::Files;

/// Bases and deltas of both audiences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InPlace {
    /// Base and delta of `access`.
    pub access: (FileRef, Option<FileRef>),
    /// Base and delta of `accounts`.
    pub accounts: (FileRef, Option<FileRef>),
    stamps: Vec<Stamp>,
}

/// Differs once somebody has changed a file, or put another in its place: nothing sets the time of the last change of an inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// None where nothing is there.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
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
    #[must_use]
    pub fn look(directory: &Path, trust: Trust) -> Option<Self> {
        let access = Files::open(directory, trust, Audience::Access).ok()?.manifest;
        let accounts = Files::open(directory, trust, Audience::Accounts).ok()?.manifest;
        let mut stamps = stamps(&directory.join(Audience::Access.directory()), &access)?;
        stamps.append(&mut self::stamps(&directory.join(Audience::Accounts.directory()), &accounts)?);
        Some(Self { access: (access.base, access.delta), accounts: (accounts.base, accounts.delta), stamps })
    }
}

fn stamps(folder: &Path, manifest: &Manifest) -> Option<Vec<Stamp>> {
    let base = Some(("base", manifest.base));
    let named = base.into_iter().chain(manifest.delta.map(|delta| ("delta", delta)));
    named.map(|(stem, file)| Stamp::of(&folder.join(format!("{stem}.{}", file.generation)))).collect()
}

#[cfg(test)]
mod tests {
    use countersign_certificate::{Id, RealmId, Serial};

    use super::*;
    use crate::clock::{BootId, Freshness};
    use crate::manifest::{BlockRef, Facts, HostState};
    use crate::publish::{Before, PublishInfo, publish_since};
    use crate::read::Snapshot;
    use crate::records::Salt;
    use crate::synthetic::{Synthetic, synthetic};

    fn info() -> PublishInfo {
        let block = BlockRef { number: 1, time_secs: 1 };
        let facts = Facts {
            realm: RealmId([1; 32]),
            host: Id([2; 16]),
            host_state: HostState::Active,
            require_logged: false,
            allow_root: false,
            pickup_secs: 1,
            max_ttl_secs: 1,
            latest_block: block,
            final_block: block,
        };
        let freshness = Freshness {
            valid_until_secs: 1,
            boot_id: BootId([3; 16]),
            boottime_secs: 1,
            age_consumed_secs: 0,
            max_staleness_secs: 1,
            highest_wall_secs: 1,
        };
        PublishInfo { facts, freshness, salt: Salt([4; 16]), access_group: None, now_unix_secs: 1 }
    }

    /// No stamp tells of what a disk loses by itself.
    #[test]
    fn a_base_whose_pages_are_lost_where_a_change_is_looked_up_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let trust = Trust::owner(nix::unistd::geteuid().as_raw());
        let (access, accounts) = synthetic(&Synthetic { users: 10, revoked_serials: 40_000, uid_base: 5_000 });
        let mut published = publish_since(None, directory, &access, &accounts, &info()).unwrap();
        let base = directory.join("access/base.1");
        let mut bytes = fs::read(&base).unwrap();
        for page in bytes.chunks_mut(4096).skip(1) {
            page[100] ^= 1;
        }
        fs::write(&base, bytes).unwrap();
        published.files = InPlace::look(directory, trust);
        let mut now = access.clone();
        now.serials[0].1.push(Serial(5));
        let before = Before { access: &access, accounts: &accounts, published: &published };
        publish_since(Some(before), directory, &now, &accounts, &info()).unwrap();
        let snapshot = Snapshot::open(directory, trust).unwrap();
        snapshot.verify().unwrap();
        assert!(snapshot.serial_revoked(now.serials[0].0, Serial(5)).unwrap());
        assert_eq!((snapshot.manifest().base.generation, snapshot.manifest().delta), (2, None));
    }
}
