//! Large snapshots made of nothing, for measuring and for tests: the same plan always gives the same tables.
//!
//! Names and ids are derived from ordinals; nobody's real keys are in it.

use countersign_certificate::{Fingerprint20, Id, Serial};
use sha2::{Digest as _, Sha256};

use crate::records::{
    Account, Ca, CaState, Gid, Grant, Group, Key, KeyState, Login, Permits, Subject, Uid, User, UserState, Via,
};
use crate::tables::{AccessTables, AccountsTables, KeyGrant};

/// How much of everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Synthetic {
    /// Users, each with one key, in one group that may log in as `deploy`.
    pub users: u32,
    /// Revoked serials of the one CA.
    pub revoked_serials: u32,
    /// Makes two plans of one size differ: it is the first user's uid.
    pub uid_base: u32,
}

/// The login that all users of a synthetic snapshot may use.
const LOGIN: &str = "deploy";

/// Makes the tables of a plan.
#[must_use]
pub fn synthetic(plan: &Synthetic) -> (AccessTables, AccountsTables) {
    let mut access = AccessTables::default();
    let mut accounts = AccountsTables::default();
    let (group, grant, ca) = (derived_id("group", 0), derived_id("grant", 0), derived_id("ca", 0));
    let group_gid = Gid(plan.uid_base.saturating_add(plan.users));
    accounts.groups.push(Group { gid: group_gid, name: "engineers".to_owned() });
    for ordinal in 0..plan.users {
        let login = format!("user{ordinal:07}");
        let uid = plan.uid_base.saturating_add(ordinal);
        let user = derived_id("user", ordinal);
        access.logins.push((login.clone(), Login { uid: Uid(uid), user }));
        access.users.push((user, User { state: UserState::Active, login: login.clone() }));
        access.memberships.push((group, user));
        let key = Key { user, state: KeyState::Active, purposes: Key::PURPOSE_LOGIN, not_after_secs: None };
        access.keys.push((derived_key(ordinal), key));
        access.key_grants.push(KeyGrant { user, login: LOGIN.to_owned(), grant });
        accounts.members.push((group_gid, login.clone()));
        accounts.accounts.push(Account {
            uid: Uid(uid),
            gid: Gid(uid),
            state: UserState::Active,
            display_name: format!("User {ordinal}"),
            login,
        });
    }
    access.grants.push((
        grant,
        Grant {
            subject: Subject::Group(group),
            via: Via { certificate: true, plain_key: true },
            max_ttl_secs: None,
            approvals: 0,
            not_after_secs: None,
            permits: Permits(Permits::PTY),
            forced_command: None,
            source_addresses: Vec::new(),
            hours: Vec::new(),
        },
    ));
    access.grant_logins.push((grant, LOGIN.to_owned()));
    access.cas.push(Ca {
        id: ca,
        state: CaState::Active,
        max_ttl_secs: 3600,
        logins_restricted: false,
        key_blob: derived("ca key", 0).to_vec(),
    });
    let serials = (0..plan.revoked_serials).map(|ordinal| {
        let bytes = derived("serial", ordinal);
        Serial(bytes.first_chunk::<8>().copied().map_or(0, u64::from_be_bytes))
    });
    access.serials.push((ca, serials.collect()));
    (access, accounts)
}

fn derived(domain: &str, ordinal: u32) -> [u8; 32] {
    Sha256::new().chain_update(domain).chain_update(ordinal.to_be_bytes()).finalize().into()
}

fn derived_id(domain: &str, ordinal: u32) -> Id {
    Id(derived(domain, ordinal).first_chunk().copied().unwrap_or_default())
}

fn derived_key(ordinal: u32) -> Fingerprint20 {
    Fingerprint20(derived("key", ordinal).first_chunk().copied().unwrap_or_default())
}
