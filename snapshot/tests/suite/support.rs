//! What the tests share: a clock, what is published with it, and small tables.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_certificate::{Fingerprint20, Id, RealmId, Serial};
use countersign_snapshot::{
    AccessTables, Account, AccountsTables, Approval, Batch, BatchState, BlockRef, BootId, Ca, CaState, Clock, Denial,
    Facts, Freshness, Gid, Grant, Group, HostState, Hours, Key, KeyGrant, KeyState, Login, Permits, PublishInfo,
    Request, Salt, Subject, Trust, Uid, User, UserState, Verdict, Via,
};

pub(crate) const NOW: Clock = Clock { unix_secs: 1_800_000_010, boot_id: BootId([0xb0; 16]), boottime_secs: 5_000 };

pub(crate) fn trust() -> Trust {
    Trust::owner(nix::unistd::geteuid().as_raw())
}

/// A directory in memory where there is one: for tests that publish hundreds of times and lose no power.
pub(crate) fn quick_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Ends those who wait for the flag, also where the one who holds this panics.
pub(crate) struct SetOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn id(byte: u8) -> Id {
    Id([byte; 16])
}

pub(crate) fn info() -> PublishInfo {
    PublishInfo {
        facts: Facts {
            realm: RealmId([0xaa; 32]),
            host: id(0xbb),
            host_state: HostState::Active,
            require_logged: true,
            allow_root: false,
            pickup_secs: 600,
            max_ttl_secs: 86_400,
            latest_block: BlockRef { number: 1_234, time_secs: 1_800_000_000 },
            final_block: BlockRef { number: 1_200, time_secs: 1_799_999_600 },
        },
        freshness: Freshness {
            valid_until_secs: 1_800_000_300,
            boot_id: NOW.boot_id,
            boottime_secs: 4_995,
            age_consumed_secs: 3,
            max_staleness_secs: 300,
            highest_wall_secs: 1_800_000_005,
        },
        salt: Salt([0x5a; 16]),
        access_group: None,
        now_unix_secs: NOW.unix_secs,
    }
}

/// One record of everything, two where that makes a difference.
pub(crate) fn access() -> AccessTables {
    AccessTables {
        logins: vec![("alice".to_owned(), Login { uid: Uid(1_900_000_000), user: id(1) })],
        users: vec![
            (id(1), User { state: UserState::Active, login: "alice".to_owned() }),
            (id(2), User { state: UserState::Locked, login: "bob".to_owned() }),
        ],
        grants: vec![(id(10), plain_grant()), (id(11), full_grant())],
        grant_logins: vec![(id(10), "deploy".to_owned()), (id(11), "root".to_owned())],
        memberships: vec![(id(20), id(1))],
        keys: vec![(
            Fingerprint20([30; 20]),
            Key { user: id(1), state: KeyState::Active, purposes: 1, not_after_secs: NonZeroU64::new(1_900_000_000) },
        )],
        key_grants: vec![KeyGrant { user: id(1), login: "deploy".to_owned(), grant: id(10) }],
        cas: vec![
            Ca {
                id: id(40),
                state: CaState::Retired { at_secs: 1_799_000_000 },
                max_ttl_secs: 3_600,
                logins_restricted: true,
                key_blob: b"a CA's key blob".to_vec(),
            },
            Ca {
                id: id(41),
                state: CaState::Active,
                max_ttl_secs: 0,
                logins_restricted: false,
                key_blob: vec![7; 9_000],
            },
        ],
        ca_logins: vec![(id(40), "deploy".to_owned())],
        batches: vec![(
            id(50),
            Batch {
                state: BatchState::Accepted,
                ca: id(40),
                root: [51; 32],
                size: 5,
                time_secs: 1_799_999_900,
                not_after_secs: 1_800_000_900,
                block: 1_230,
            },
        )],
        serials: vec![(id(40), vec![Serial(7), Serial(u64::MAX)])],
        grants_elsewhere: vec![id(12)],
        revoked_keys: vec![(Fingerprint20([31; 20]), Denial::Revoked), (Fingerprint20([32; 20]), Denial::Locked)],
        requests: vec![(id(60), Request { user: id(1), approval_hash: [61; 32], time_secs: 1_799_999_800 })],
        approvals: vec![(
            id(60),
            vec![
                Approval {
                    verdict: Verdict::Approve,
                    approver: Some(id(2)),
                    time_secs: 1_799_999_850,
                    approval_hash: [61; 32],
                },
                Approval { verdict: Verdict::Deny, approver: None, time_secs: 1_799_999_860, approval_hash: [0; 32] },
            ],
        )],
        labels: vec![[70; 32]],
        realms: vec![RealmId([80; 32])],
        granted_logins: vec!["deploy".to_owned(), "root".to_owned()],
    }
}

pub(crate) fn plain_grant() -> Grant {
    Grant {
        subject: Subject::User(id(1)),
        via: Via { certificate: false, plain_key: true },
        max_ttl_secs: None,
        approvals: 0,
        not_after_secs: None,
        permits: Permits(Permits::PTY),
        forced_command: None,
        source_addresses: Vec::new(),
        hours: Vec::new(),
    }
}

pub(crate) fn full_grant() -> Grant {
    Grant {
        subject: Subject::Group(id(20)),
        via: Via { certificate: true, plain_key: false },
        max_ttl_secs: NonZeroU64::new(300),
        approvals: 2,
        not_after_secs: NonZeroU64::new(1_900_000_000),
        permits: Permits(0),
        forced_command: Some("/usr/bin/id \"é\"".to_owned()),
        source_addresses: vec!["10.0.0.0/8".to_owned(), "2001:db8::/32".to_owned()],
        hours: vec![Hours { weekday: 6, from_minute: 0, to_minute: 1_440 }],
    }
}

pub(crate) fn accounts() -> AccountsTables {
    let account = |number: u32, login: &str, state| Account {
        uid: Uid(number),
        gid: Gid(number),
        state,
        login: login.to_owned(),
        display_name: format!("{login} of the tests"),
    };
    AccountsTables {
        accounts: vec![
            account(1_900_000_000, "alice", UserState::Active),
            account(1_900_000_001, "bob", UserState::Locked),
        ],
        groups: vec![Group { gid: Gid(1_900_000_002), name: "engineers".to_owned() }],
        members: vec![(Gid(1_900_000_002), "alice".to_owned()), (Gid(1_900_000_002), "bob".to_owned())],
    }
}
