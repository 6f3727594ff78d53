//! A host's files and a snapshot with accounts, in a directory of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use countersign_certificate::{Id, RealmId};
use countersign_snapshot::{
    AccessTables, Account, Accounts, AccountsTables, BlockRef, BootId, Facts, Freshness, Gid, Group, HostState,
    PublishInfo, Salt, Trust, Uid, UserState,
};
use nss_countersign::Places;
use tempfile::TempDir;

/// The files, and who owns them.
pub(crate) struct Host {
    directory: TempDir,
    pub(crate) owner: u32,
}

pub(crate) fn account(login: &str, uid: u32, state: UserState) -> Account {
    Account { uid: Uid(uid), gid: Gid(uid), state, login: login.to_owned(), display_name: "Some: One\n".to_owned() }
}

pub(crate) fn group(name: &str, gid: u32) -> Group {
    Group { gid: Gid(gid), name: name.to_owned() }
}

pub(crate) fn tables(accounts: Vec<Account>, groups: Vec<Group>, members: Vec<(u32, String)>) -> AccountsTables {
    let members = members.into_iter().map(|(gid, login)| (Gid(gid), login)).collect();
    AccountsTables { accounts, groups, members }
}

/// A publication of long ago.
pub(crate) fn info() -> PublishInfo {
    let block = BlockRef { number: 100, time_secs: 1_000_000 };
    PublishInfo {
        facts: Facts {
            realm: RealmId([0x11; 32]),
            host: Id([0x22; 16]),
            host_state: HostState::Active,
            require_logged: true,
            pickup_secs: 600,
            allow_root: false,
            max_ttl_secs: 3600,
            latest_block: block,
            final_block: block,
        },
        freshness: Freshness {
            valid_until_secs: 1_000_300,
            boot_id: BootId([0x33; 16]),
            boottime_secs: 50,
            age_consumed_secs: 10,
            max_staleness_secs: 300,
            highest_wall_secs: 1_000_000,
        },
        salt: Salt([0x44; 16]),
        access_group: None,
        now_unix_secs: 1_000_000,
    }
}

impl Host {
    pub(crate) fn new(accounts: &AccountsTables) -> Self {
        let host = Self::without_snapshot();
        host.publish(accounts);
        host
    }

    pub(crate) fn without_snapshot() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let owner = fs::metadata(directory.path()).unwrap().uid();
        let host = Self { directory, owner };
        fs::write(host.passwd(), "root:x:0:0::/root:/bin/sh\nbob:x:1900000007:100::/:/bin/sh\n").unwrap();
        fs::write(host.group(), "root:x:0:\nlocals:x:50:\nops:x:1900000020:\n").unwrap();
        fs::write(host.settings(), "shell = /bin/sh\n").unwrap();
        fs::create_dir(host.snapshot()).unwrap();
        host
    }

    pub(crate) fn publish(&self, accounts: &AccountsTables) {
        countersign_snapshot::publish(&self.snapshot(), &AccessTables::default(), accounts, &info()).unwrap();
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.directory.path().join("snapshot")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.snapshot().join(name)
    }

    /// The base that the manifest names.
    pub(crate) fn base(&self) -> PathBuf {
        self.file("accounts/base.1")
    }

    pub(crate) fn passwd(&self) -> PathBuf {
        self.directory.path().join("passwd")
    }

    pub(crate) fn group(&self) -> PathBuf {
        self.directory.path().join("group")
    }

    /// Is not there at first.
    pub(crate) fn subuid(&self) -> PathBuf {
        self.directory.path().join("subuid")
    }

    /// Is not there at first.
    pub(crate) fn subgid(&self) -> PathBuf {
        self.directory.path().join("subgid")
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.directory.path().join("nss.conf")
    }

    pub(crate) fn accounts(&self) -> Accounts {
        Accounts::open(&self.snapshot(), Trust::owner(self.owner)).unwrap()
    }

    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Places<'_>) -> T) -> T {
        let (snapshot, passwd, group, settings) = (self.snapshot(), self.passwd(), self.group(), self.settings());
        let (subuid, subgid) = (self.subuid(), self.subgid());
        question(&Places {
            snapshot: &snapshot,
            passwd: &passwd,
            group: &group,
            subuid: &subuid,
            subgid: &subgid,
            settings: &settings,
            owner: self.owner,
        })
    }
}
