//! Random sequences of publications, and between them whatever may happen to files: after each one readers say what its tables say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZeroU64;
use std::path::Path;

use countersign_certificate::{Fingerprint20, Id, RealmId, Serial};
use countersign_snapshot::{
    AccessTables, Account, Accounts, AccountsTables, Batch, BatchState, Ca, CaState, Denial, Gid, Group, Key, KeyGrant,
    KeyState, Login, PublishError, PublishInfo, Request, Snapshot, Uid, User, UserState, publish, publish_base,
    publish_delta,
};
use sha2::{Digest as _, Sha256};

use crate::support::{access, full_grant, id, info, plain_grant, quick_directory, trust};

/// Records of each table are drawn from so many keys.
const KEYS: u8 = 14;

/// Numbers from a seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    fn text(&mut self) -> String {
        // Some longer than a page.
        let length = [0, 1, 9, 300, 5_000][usize::try_from(self.below(5)).unwrap()];
        (0..length).map(|_| char::from(b'a' + self.byte() % 26)).collect()
    }

    /// Some of the keys: mostly those that were there, each with a new or the old value.
    fn vary<V: Clone>(&mut self, table: &mut Vec<V>, make: impl Fn(&mut Self, u8) -> V, key: impl Fn(&V) -> u8) {
        let mut by_key: BTreeMap<u8, V> = table.drain(..).map(|value| (key(&value), value)).collect();
        for number in 0..KEYS {
            match self.below(12) {
                0 => drop(by_key.remove(&number)),
                1 => drop(by_key.insert(number, make(self, number))),
                _ => {}
            }
        }
        table.extend(by_key.into_values());
        // Order does not matter.
        let turn = usize::try_from(self.below(u64::try_from(table.len().max(1)).unwrap())).unwrap();
        table.rotate_left(turn);
    }
}

fn name(number: u8) -> String {
    format!("name{number}")
}

fn ca_key(number: u8) -> Vec<u8> {
    vec![number; 40 + usize::from(number) * 300]
}

/// Changes tables a little, each table now and then.
pub(crate) fn change(random: &mut Random, access: &mut AccessTables, accounts: &mut AccountsTables) {
    let byte_of = |id: &Id| id.0[0];
    let user_state = |random: &mut Random| {
        [UserState::Active, UserState::Locked, UserState::Removed][usize::try_from(random.below(3)).unwrap()]
    };
    random.vary(
        &mut access.logins,
        |random, n| (name(n), Login { uid: Uid(u32::from(random.byte())), user: id(n) }),
        |(login, _)| login[4..].parse().unwrap(),
    );
    random.vary(
        &mut access.users,
        |random, n| (id(n), User { state: user_state(random), login: name(random.byte()) }),
        |(id, _)| byte_of(id),
    );
    random.vary(
        &mut access.grants,
        |random, n| {
            let mut grant = if random.below(2) == 0 { plain_grant() } else { full_grant() };
            grant.approvals = random.byte() % 3;
            grant.forced_command = Some(random.text()).filter(|command| command.len() > 1);
            (id(n), grant)
        },
        |(id, _)| byte_of(id),
    );
    random.vary(&mut access.grant_logins, |_, n| (id(n), name(n / 2)), |(id, _)| byte_of(id));
    random.vary(&mut access.memberships, |_, n| (id(n / 3), id(n)), |(_, id)| byte_of(id));
    random.vary(
        &mut access.keys,
        |random, n| {
            let state = if random.below(2) == 0 { KeyState::Active } else { KeyState::Revoked };
            let not_after_secs = NonZeroU64::new(random.below(3));
            (Fingerprint20([n; 20]), Key { user: id(random.byte()), state, purposes: 1, not_after_secs })
        },
        |(key, _)| key.0[0],
    );
    random.vary(
        &mut access.key_grants,
        |random, n| KeyGrant { user: id(n), login: name(n / 2), grant: id(random.byte()) },
        |way| byte_of(&way.user),
    );
    random.vary(
        &mut access.cas,
        |random, n| Ca {
            id: id(n),
            state: [CaState::Active, CaState::Revoked, CaState::Retired { at_secs: 5 }][usize::from(random.byte() % 3)],
            max_ttl_secs: random.below(3),
            logins_restricted: random.below(2) == 0,
            key_blob: ca_key(n),
        },
        |ca| byte_of(&ca.id),
    );
    random.vary(&mut access.ca_logins, |_, n| (id(n), name(n)), |(id, _)| byte_of(id));
    random.vary(
        &mut access.batches,
        |random, n| {
            let state = if random.below(2) == 0 { BatchState::Accepted } else { BatchState::Locked };
            let number = random.below(9);
            let (time_secs, not_after_secs, block) = (number, number, number);
            (id(n), Batch { state, ca: id(1), root: [n; 32], size: 1, time_secs, not_after_secs, block })
        },
        |(id, _)| byte_of(id),
    );
    let mut serials: Vec<Serial> = access.serials.pop().map(|(_, serials)| serials).unwrap_or_default();
    random.vary(&mut serials, |_, n| Serial(u64::from(n)), |serial| u8::try_from(serial.0.min(255)).unwrap());
    access.serials.push((id(1), serials));
    random.vary(&mut access.grants_elsewhere, |_, n| id(n), byte_of);
    random.vary(
        &mut access.revoked_keys,
        |random, n| {
            let denial = if random.below(2) == 0 { Denial::Locked } else { Denial::Revoked };
            (Fingerprint20([n; 20]), denial)
        },
        |(key, _)| key.0[0],
    );
    random.vary(
        &mut access.requests,
        |random, n| (id(n), Request { user: id(random.byte()), approval_hash: [n; 32], time_secs: random.below(9) }),
        |(id, _)| byte_of(id),
    );
    let answers = self::access().approvals.remove(0).1;
    random.vary(
        &mut access.approvals,
        |random, n| (id(n), answers[..usize::try_from(random.below(3)).unwrap()].to_vec()),
        |(id, _)| byte_of(id),
    );
    random.vary(&mut access.labels, |_, n| [n; 32], |label| label[0]);
    random.vary(&mut access.realms, |_, n| RealmId([n; 32]), |realm| realm.0[0]);
    random.vary(&mut access.granted_logins, |_, n| name(n), |login| login[4..].parse().unwrap());

    random.vary(
        &mut accounts.accounts,
        |random, n| Account {
            uid: Uid(u32::from(n)),
            gid: Gid(u32::from(n)),
            state: user_state(random),
            login: name(n),
            display_name: random.text(),
        },
        |account| u8::try_from(account.uid.0).unwrap(),
    );
    random.vary(
        &mut accounts.groups,
        |_, n| Group { gid: Gid(u32::from(n)), name: name(n) },
        |group| u8::try_from(group.gid.0).unwrap(),
    );
    let mut members: BTreeSet<(Gid, String)> = accounts.members.drain(..).collect();
    for _ in 0..3 {
        let member = (Gid(u32::from(random.byte() % 3)), name(random.byte() % KEYS));
        if !members.remove(&member) {
            members.insert(member);
        }
    }
    accounts.members.extend(members);
}

/// What is published is what is read, over all keys that there could be.
pub(crate) fn assert_access(directory: &Path, tables: &AccessTables) {
    fn of<K: PartialEq, V: Clone>(table: &[(K, V)], key: &K) -> Option<V> {
        table.iter().find(|(there, _)| there == key).map(|(_, value)| value.clone())
    }
    let snapshot = Snapshot::open(directory, trust()).unwrap();
    snapshot.verify().unwrap();
    for n in 0..KEYS {
        let (record, login, key) = (id(n), name(n), Fingerprint20([n; 20]));
        assert_eq!(snapshot.login(login.as_bytes()).unwrap(), of(&tables.logins, &login));
        assert_eq!(snapshot.user(record).unwrap(), of(&tables.users, &record));
        assert_eq!(snapshot.grant(record).unwrap(), of(&tables.grants, &record));
        assert_eq!(snapshot.key(key).unwrap(), of(&tables.keys, &key));
        let sha256: [u8; 32] = Sha256::digest(ca_key(n)).into();
        assert_eq!(snapshot.ca(&sha256).unwrap().as_ref(), tables.cas.iter().find(|ca| ca.id == record));
        assert_eq!(snapshot.batch(record).unwrap(), of(&tables.batches, &record));
        let revoked = of(&tables.serials, &id(1)).unwrap_or_default().contains(&Serial(u64::from(n)));
        assert_eq!(snapshot.serial_revoked(id(1), Serial(u64::from(n))).unwrap(), revoked);
        assert_eq!(snapshot.grant_elsewhere(record).unwrap(), tables.grants_elsewhere.contains(&record));
        assert_eq!(snapshot.key_revoked(key).unwrap(), of(&tables.revoked_keys, &key));
        assert_eq!(snapshot.request(record).unwrap(), of(&tables.requests, &record));
        let answers = of(&tables.approvals, &record).unwrap_or_default();
        for ordinal in 0..4_u8 {
            let expected = answers.get(usize::from(ordinal)).copied();
            assert_eq!(snapshot.approval(record, ordinal).unwrap(), expected);
        }
        assert_eq!(snapshot.has_label(&[n; 32]).unwrap(), tables.labels.contains(&[n; 32]));
        assert_eq!(snapshot.takes_realm(&RealmId([n; 32])).unwrap(), tables.realms.contains(&RealmId([n; 32])));
        assert_eq!(snapshot.is_granted_login(login.as_bytes()).unwrap(), tables.granted_logins.contains(&login));
        for other in 0..KEYS {
            let login = name(other);
            let pair = (record, login.clone());
            let listed = tables.grant_logins.contains(&pair);
            assert_eq!(snapshot.grant_allows_login(record, login.as_bytes()).unwrap(), listed);
            let listed = tables.ca_logins.contains(&pair);
            assert_eq!(snapshot.ca_allows_login(record, login.as_bytes()).unwrap(), listed);
            let member = tables.memberships.contains(&(record, id(other)));
            assert_eq!(snapshot.is_member(record, id(other)).unwrap(), member);
            let way = tables.key_grants.iter().find(|way| way.user == record && way.login == login);
            assert_eq!(snapshot.key_grant(record, login.as_bytes()).unwrap(), way.map(|way| way.grant));
        }
    }
}

fn assert_accounts(directory: &Path, tables: &AccountsTables) {
    let read = Accounts::open(directory, trust()).unwrap();
    read.verify().unwrap();
    for n in 0..KEYS {
        let number = u32::from(n);
        let account = tables.accounts.iter().find(|account| account.uid.0 == number);
        assert_eq!(read.account(name(n).as_bytes()).unwrap().as_ref(), account);
        assert_eq!(read.account_by_uid(Uid(number)).unwrap().as_ref(), account);
        let group = tables.groups.iter().find(|group| group.gid.0 == number);
        assert_eq!(read.group(name(n).as_bytes()).unwrap().as_ref(), group);
        assert_eq!(read.group_by_gid(Gid(number)).unwrap().as_ref(), group);
        let of_user: Vec<Gid> = tables.members.iter().filter(|(_, l)| *l == name(n)).map(|(gid, _)| *gid).collect();
        let of_group: Vec<&String> =
            tables.members.iter().filter(|(gid, _)| gid.0 == number).map(|(_, login)| login).collect();
        for ordinal in 0..=KEYS {
            let index = usize::from(ordinal);
            let ordinal = u32::from(ordinal);
            assert_eq!(read.group_of(name(n).as_bytes(), ordinal).unwrap(), of_user.get(index).copied());
            assert_eq!(read.group_member(Gid(number), ordinal).unwrap().as_ref(), of_group.get(index).copied());
        }
    }
}

/// What may happen to the files between two publications: another process, a crash, an accident, a hand.
pub(crate) fn disturb(random: &mut Random, directory: &Path) {
    let folder = directory.join(["access", "accounts"][usize::try_from(random.below(2)).unwrap()]);
    let files = |stem: &str| {
        let paths = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.file_stem().is_some_and(|name| name == stem)).collect();
        paths.sort();
        paths
    };
    let pick = |random: &mut Random, mut paths: Vec<std::path::PathBuf>| {
        let at = usize::try_from(random.below(u64::try_from(paths.len().max(1)).unwrap())).unwrap();
        (at < paths.len()).then(|| paths.swap_remove(at))
    };
    let stem = ["base", "delta"][usize::try_from(random.below(2)).unwrap()];
    match random.below(6) {
        0 => {
            if let Some(path) = pick(random, files(stem)) {
                fs::remove_file(path).unwrap();
            }
        }
        1 => {
            if let Some(path) = pick(random, files(stem)) {
                let mut bytes = fs::read(&path).unwrap();
                let at = usize::try_from(random.below(u64::try_from(bytes.len()).unwrap())).unwrap();
                bytes[at] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
        }
        2 => fs::write(folder.join("base.99999999.tmp"), b"half a file").unwrap(),
        // A publication that died before its manifest.
        3 => {
            if let Some(path) = pick(random, files(stem)) {
                fs::copy(path, folder.join(format!("{stem}.{}", 1_000_000 + random.below(9)))).unwrap();
            }
        }
        4 => drop(fs::remove_file(folder.join("manifest"))),
        _ => {}
    }
}

#[test]
fn after_any_sequence_of_publications_and_accidents_readers_say_what_was_published_last() {
    let mut deltas = 0;
    for seed in 0..4 {
        let mut random = Random(seed);
        let directory = quick_directory();
        let (mut access, mut accounts) = (AccessTables::default(), AccountsTables::default());
        for step in 0..24_u64 {
            change(&mut random, &mut access, &mut accounts);
            let mut info = PublishInfo { now_unix_secs: [0, u64::MAX][usize::try_from(step % 2).unwrap()], ..info() };
            info.facts.latest_block.number += step;
            let publish_form = [publish, publish_delta, publish_delta, publish_delta, publish_base];
            let form = publish_form[usize::try_from(random.below(5)).unwrap()];
            if step > 0 && random.below(3) == 0 {
                disturb(&mut random, directory.path());
            }
            match form(directory.path(), &access, &accounts, &info) {
                Ok(_) => {}
                // Only where a delta was insisted on, and the accident took its base.
                Err(PublishError::Base { .. } | PublishError::Open(_)) => {
                    publish(directory.path(), &access, &accounts, &info).unwrap();
                }
                Err(error) => panic!("seed {seed}, step {step}: {error}"),
            }
            let snapshot = Snapshot::open(directory.path(), trust()).unwrap();
            assert_eq!(snapshot.facts().latest_block, info.facts.latest_block, "seed {seed}, step {step}");
            deltas += u32::from(snapshot.manifest().delta.is_some());
            assert_access(directory.path(), &access);
            assert_accounts(directory.path(), &accounts);
        }
    }
    assert!(deltas > 20, "{deltas} of 96 publications had a delta");
}
