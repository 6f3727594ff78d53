//! What is published: typed tables, [`AccessTables`] and [`AccountsTables`]; what a base or a delta has of them is the writer's business.
//!
//! Each table's key fields stand here once, for all rows and for those that have changed since the tables published last. Refuses more answers to one
//! request than an ordinal can number.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::once;

use countersign_certificate::{Fingerprint20, Id, RealmId, Serial};
use sha2::{Digest as _, Sha256};

use crate::codec::{MemberName, WriteRecord};
use crate::layout::{Audience, Digest, Table};
use crate::records::{Account, Approval, Batch, Ca, Denial, Gid, Grant, Group, Key, Login, Request, User};
use crate::since::{MOST_CHANGES, unmatched};
use crate::write::{FileWriter, Rows, WriteError};

/// Counts publications in one directory. Never falls.
pub type Generation = u64;

/// A plain key's way in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyGrant {
    /// Whose key.
    pub user: Id,
    /// Into which login.
    pub login: String,
    /// By which grant: the earliest one with `via` plain key that covers this host and login.
    pub grant: Id,
}

/// Everything that a login on one host is decided from. Order does not matter, but no key may stand twice.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AccessTables {
    /// Login names of ledger users.
    pub logins: Vec<(String, Login)>,
    /// Users.
    pub users: Vec<(Id, User)>,
    /// Live grants that cover this host.
    pub grants: Vec<(Id, Grant)>,
    /// Grant, and a login that it lists.
    pub grant_logins: Vec<(Id, String)>,
    /// Group, and a user in it.
    pub memberships: Vec<(Id, Id)>,
    /// Registered keys.
    pub keys: Vec<(Fingerprint20, Key)>,
    /// Where plain keys lead.
    pub key_grants: Vec<KeyGrant>,
    /// CAs for user certificates, found by the SHA-256 of their key blob.
    pub cas: Vec<Ca>,
    /// CA, and a login that it may certify; only of CAs with `logins_restricted`.
    pub ca_logins: Vec<(Id, String)>,
    /// Batches whose certificates may still be valid.
    pub batches: Vec<(Id, Batch)>,
    /// CA, and serials that are revoked.
    pub serials: Vec<(Id, Vec<Serial>)>,
    /// Live grants that do not cover this host.
    pub grants_elsewhere: Vec<Id>,
    /// Keys locked or revoked, registered or not.
    pub revoked_keys: Vec<(Fingerprint20, Denial)>,
    /// Access requests.
    pub requests: Vec<(Id, Request)>,
    /// Request, and the answers to it, read by ordinal from 0. At most 256.
    pub approvals: Vec<(Id, Vec<Approval>)>,
    /// SHA-256 of each label of this host.
    pub labels: Vec<[u8; 32]>,
    /// Realms that this one comes from, and that scopes may still name beside it.
    pub realms: Vec<RealmId>,
    /// Logins, beside those of users, that a grant leads into or once led into on this host.
    pub granted_logins: Vec<String>,
}

/// Everything that name services show. Readable by all.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AccountsTables {
    /// Users; found by name and by uid.
    pub accounts: Vec<Account>,
    /// Groups; found by name and by gid.
    pub groups: Vec<Group>,
    /// Group, and the login of a member.
    pub members: Vec<(Gid, String)>,
}

/// Key of a record in `access`.
enum AccessKey {
    /// A login name of a ledger user.
    Login(String),
    /// A user.
    User(Id),
    /// A grant that covers this host.
    Grant(Id),
    /// A login of a grant.
    GrantLogin(Id, String),
    /// A group's member: group, user.
    Membership(Id, Id),
    /// A registered key.
    Key(Fingerprint20),
    /// A plain key's way in: user, login.
    KeyGrant(Id, String),
    /// A CA, by the SHA-256 of its key blob.
    Ca([u8; 32]),
    /// A login of a CA.
    CaLogin(Id, String),
    /// A batch.
    Batch(Id),
    /// A revoked serial of a CA.
    Serial(Id, Serial),
    /// A grant that does not cover this host.
    GrantElsewhere(Id),
    /// A denied key.
    RevokedKey(Fingerprint20),
    /// A request.
    Request(Id),
    /// An answer to a request, by ordinal.
    Approval(Id, u8),
    /// A label, by its SHA-256.
    Label([u8; 32]),
    /// A realm that a scope may name.
    Realm(RealmId),
    /// A login that a grant leads or led into.
    GrantedLogin(String),
}

impl AccessKey {
    const fn table(&self) -> Table {
        match self {
            Self::Login(_) => Table::Login,
            Self::User(_) => Table::User,
            Self::Grant(_) => Table::Grant,
            Self::GrantLogin(..) => Table::GrantLogin,
            Self::Membership(..) => Table::Membership,
            Self::Key(_) => Table::Key,
            Self::KeyGrant(..) => Table::KeyGrant,
            Self::Ca(_) => Table::Ca,
            Self::CaLogin(..) => Table::CaLogin,
            Self::Batch(_) => Table::Batch,
            Self::Serial(..) => Table::Serial,
            Self::GrantElsewhere(_) => Table::GrantElsewhere,
            Self::RevokedKey(_) => Table::RevokedKey,
            Self::Request(_) => Table::Request,
            Self::Approval(..) => Table::Approval,
            Self::Label(_) => Table::Label,
            Self::Realm(_) => Table::Realm,
            Self::GrantedLogin(_) => Table::GrantedLogin,
        }
    }

    fn digest(&self, file: &FileWriter<'_>) -> Digest {
        let table = self.table();
        match self {
            Self::Login(login) | Self::GrantedLogin(login) => file.digest(table, &[login.as_bytes()]),
            Self::User(id) | Self::Grant(id) | Self::Batch(id) | Self::GrantElsewhere(id) | Self::Request(id) => {
                file.digest(table, &[&id.0])
            }
            Self::GrantLogin(id, login) | Self::KeyGrant(id, login) | Self::CaLogin(id, login) => {
                file.digest(table, &[&id.0, login.as_bytes()])
            }
            Self::Membership(group, user) => file.digest(table, &[&group.0, &user.0]),
            Self::Key(key) | Self::RevokedKey(key) => file.digest(table, &[&key.0]),
            Self::Ca(sha256) | Self::Label(sha256) => file.digest(table, &[sha256]),
            Self::Realm(realm) => file.digest(table, &[&realm.0]),
            Self::Serial(ca, serial) => file.digest(table, &[&ca.0, &serial.0.to_be_bytes()]),
            Self::Approval(request, ordinal) => file.digest(table, &[&request.0, &[*ordinal]]),
        }
    }
}

/// Tables of one audience.
pub(crate) trait Tables {
    const AUDIENCE: Audience;

    /// Writes all of them: from all rows, or, where the tables of the delta in place are known, from what has changed since.
    fn write(&self, since: Option<&Self>, file: &mut FileWriter<'_>) -> Result<(), WriteError>;
}

impl Tables for AccessTables {
    const AUDIENCE: Audience = Audience::Access;

    fn write(&self, since: Option<&Self>, file: &mut FileWriter<'_>) -> Result<(), WriteError> {
        let mut w = AccessWriter { file };
        let before = since;
        w.table(Table::Login, &self.logins, before.map(|b| &*b.logins), |(login, value)| {
            once((AccessKey::Login(login.clone()), value))
        })?;
        w.table(Table::User, &self.users, before.map(|b| &*b.users), |(id, user)| once((AccessKey::User(*id), user)))?;
        w.table(Table::Grant, &self.grants, before.map(|b| &*b.grants), |(id, grant)| {
            once((AccessKey::Grant(*id), grant))
        })?;
        w.table(Table::GrantLogin, &self.grant_logins, before.map(|b| &*b.grant_logins), |(grant, login)| {
            once((AccessKey::GrantLogin(*grant, login.clone()), ()))
        })?;
        w.table(Table::Membership, &self.memberships, before.map(|b| &*b.memberships), |(group, user)| {
            once((AccessKey::Membership(*group, *user), ()))
        })?;
        w.table(Table::Key, &self.keys, before.map(|b| &*b.keys), |(fingerprint, key)| {
            once((AccessKey::Key(*fingerprint), key))
        })?;
        w.table(Table::KeyGrant, &self.key_grants, before.map(|b| &*b.key_grants), |way| {
            once((AccessKey::KeyGrant(way.user, way.login.clone()), &way.grant))
        })?;
        w.table(Table::Ca, &self.cas, before.map(|b| &*b.cas), |ca| once((AccessKey::Ca(sha256(&ca.key_blob)), ca)))?;
        w.table(Table::CaLogin, &self.ca_logins, before.map(|b| &*b.ca_logins), |(ca, login)| {
            once((AccessKey::CaLogin(*ca, login.clone()), ()))
        })?;
        w.table(Table::Batch, &self.batches, before.map(|b| &*b.batches), |(id, batch)| {
            once((AccessKey::Batch(*id), batch))
        })?;
        w.serials(&self.serials, before.map(|b| &*b.serials))?;
        w.table(Table::GrantElsewhere, &self.grants_elsewhere, before.map(|b| &*b.grants_elsewhere), |id| {
            once((AccessKey::GrantElsewhere(*id), ()))
        })?;
        w.table(Table::RevokedKey, &self.revoked_keys, before.map(|b| &*b.revoked_keys), |(fingerprint, denial)| {
            once((AccessKey::RevokedKey(*fingerprint), denial))
        })?;
        w.table(Table::Request, &self.requests, before.map(|b| &*b.requests), |(id, request)| {
            once((AccessKey::Request(*id), request))
        })?;
        if self.approvals.iter().any(|(_, answers)| answers.len() > MAX_ANSWERS) {
            return Err(WriteError::TooLong { table: Table::Approval.name(), field: "ordinal" });
        }
        w.table(Table::Approval, &self.approvals, before.map(|b| &*b.approvals), |(request, answers)| {
            (0..=u8::MAX).zip(answers).map(|(ordinal, answer)| (AccessKey::Approval(*request, ordinal), answer))
        })?;
        w.table(Table::Label, &self.labels, before.map(|b| &*b.labels), |label| once((AccessKey::Label(*label), ())))?;
        w.table(Table::Realm, &self.realms, before.map(|b| &*b.realms), |realm| once((AccessKey::Realm(*realm), ())))?;
        w.table(Table::GrantedLogin, &self.granted_logins, before.map(|b| &*b.granted_logins), |login| {
            once((AccessKey::GrantedLogin(login.clone()), ()))
        })
    }
}

struct AccessWriter<'a, 'b> {
    file: &'a mut FileWriter<'b>,
}

impl AccessWriter<'_, '_> {
    /// Writes a table whose rows are one record each, or some.
    fn table<'t, T: PartialEq, V: WriteRecord, R: Iterator<Item = (AccessKey, V)>>(
        &mut self,
        table: Table,
        now: &'t [T],
        before: Option<&'t [T]>,
        records: impl Fn(&'t T) -> R,
    ) -> Result<(), WriteError> {
        let file = &mut *self.file;
        let Some((before, changed)) = before.and_then(|before| Some((before, unmatched(before, now)?))) else {
            let mut rows: Rows<V> = Vec::with_capacity(now.len());
            rows.extend(now.iter().flat_map(records).map(|(key, value)| (key.digest(file), value)));
            return file.table(table, rows);
        };
        let gone = changed.before.iter().filter_map(|at| before.get(*at)).flat_map(&records);
        let removed = gone.map(|(key, _)| key.digest(file)).collect();
        let come = changed.now.iter().filter_map(|at| now.get(*at)).flat_map(&records);
        let put = come.map(|(key, value)| (key.digest(file), value)).collect();
        file.touched(table, removed, put)
    }

    /// Of a CA that was there before, only the serials that differ are looked at: one of them may have millions.
    fn serials(&mut self, now: &[(Id, Vec<Serial>)], before: Option<&[(Id, Vec<Serial>)]>) -> Result<(), WriteError> {
        let digest = |file: &FileWriter<'_>, ca: &Id, serial: &Serial| AccessKey::Serial(*ca, *serial).digest(file);
        let file = &mut *self.file;
        if let Some((removed, put)) = before.and_then(|before| changed_serials(before, now)) {
            let removed = removed.iter().map(|(ca, serial)| digest(file, ca, serial)).collect();
            let put = put.iter().map(|(ca, serial)| (digest(file, ca, serial), ())).collect();
            return file.touched(Table::Serial, removed, put);
        }
        let all = now.iter().flat_map(|(ca, serials)| serials.iter().map(move |serial| (ca, serial)));
        let rows = all.map(|(ca, serial)| (digest(file, ca, serial), ())).collect();
        file.table(Table::Serial, rows)
    }
}

type Serials = Vec<(Id, Serial)>;

/// None where the CAs are not the same in the same order, or too much differs.
fn changed_serials(before: &[(Id, Vec<Serial>)], now: &[(Id, Vec<Serial>)]) -> Option<(Serials, Serials)> {
    if !before.iter().map(|(ca, _)| ca).eq(now.iter().map(|(ca, _)| ca)) {
        return None;
    }
    let (mut removed, mut put) = (Vec::new(), Vec::new());
    for ((ca, before), (_, now)) in before.iter().zip(now) {
        let changed = unmatched(before, now)?;
        removed.extend(changed.before.iter().filter_map(|at| Some((*ca, *before.get(*at)?))));
        put.extend(changed.now.iter().filter_map(|at| Some((*ca, *now.get(*at)?))));
    }
    (removed.len() <= MOST_CHANGES && put.len() <= MOST_CHANGES).then_some((removed, put))
}

impl Tables for AccountsTables {
    const AUDIENCE: Audience = Audience::Accounts;

    fn write(&self, since: Option<&Self>, file: &mut FileWriter<'_>) -> Result<(), WriteError> {
        let accounts = since.map(|before| &*before.accounts);
        rows(file, Table::AccountName, &self.accounts, accounts, |file, account| {
            file.digest(Table::AccountName, &[account.login.as_bytes()])
        })?;
        rows(file, Table::AccountUid, &self.accounts, accounts, |file, account| {
            file.digest(Table::AccountUid, &[&account.uid.0.to_be_bytes()])
        })?;
        let groups = since.map(|before| &*before.groups);
        rows(file, Table::GroupName, &self.groups, groups, |file, group| {
            file.digest(Table::GroupName, &[group.name.as_bytes()])
        })?;
        rows(file, Table::GroupGid, &self.groups, groups, |file, group| {
            file.digest(Table::GroupGid, &[&group.gid.0.to_be_bytes()])
        })?;
        let Some((before, whose)) = since.and_then(|before| Some((before, Whose::differ(before, self)?))) else {
            let (groups, members) = self.memberships(&Whose::All, file)?;
            file.table(Table::GroupOf, groups)?;
            return file.table(Table::GroupMember, members);
        };
        let (groups_before, members_before) = before.memberships(&whose, file)?;
        let (groups, members) = self.memberships(&whose, file)?;
        file.touched(Table::GroupOf, groups_before.into_iter().map(|(digest, _)| digest).collect(), groups)?;
        file.touched(Table::GroupMember, members_before.into_iter().map(|(digest, _)| digest).collect(), members)
    }
}

/// Writes a table whose rows are one record each.
fn rows<'t, T: PartialEq + WriteRecord>(
    file: &mut FileWriter<'_>,
    table: Table,
    now: &'t [T],
    before: Option<&'t [T]>,
    digest: impl Fn(&FileWriter<'_>, &'t T) -> Digest,
) -> Result<(), WriteError> {
    let Some((before, changed)) = before.and_then(|before| Some((before, unmatched(before, now)?))) else {
        let rows: Rows<&T> = now.iter().map(|row| (digest(file, row), row)).collect();
        return file.table(table, rows);
    };
    let removed = changed.before.iter().filter_map(|at| before.get(*at)).map(|row| digest(file, row)).collect();
    let put = changed.now.iter().filter_map(|at| now.get(*at)).map(|row| (digest(file, row), row)).collect();
    file.touched(table, removed, put)
}

/// Whose memberships are looked at. One that comes or goes moves the ordinals of those after it, of the same login and of the same group.
enum Whose<'a> {
    All,
    Of { logins: BTreeSet<&'a str>, groups: BTreeSet<Gid> },
}

impl<'a> Whose<'a> {
    /// Those of which any differs; none where that is too much.
    fn differ(before: &'a AccountsTables, now: &'a AccountsTables) -> Option<Self> {
        let changed = unmatched(&before.members, &now.members)?;
        let (mut logins, mut groups) = (BTreeSet::new(), BTreeSet::new());
        let gone = changed.before.iter().filter_map(|at| before.members.get(*at));
        let come = changed.now.iter().filter_map(|at| now.members.get(*at));
        for (gid, login) in gone.chain(come) {
            logins.insert(login.as_str());
            groups.insert(*gid);
        }
        let whose = Whose::Of { logins, groups };
        let count = |tables: &AccountsTables| {
            tables.members.iter().filter(|(gid, login)| whose.has_login(login) || whose.has_group(*gid)).count()
        };
        (count(before) <= MOST_CHANGES && count(now) <= MOST_CHANGES).then_some(whose)
    }

    fn has_login(&self, login: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of { logins, .. } => logins.contains(login),
        }
    }

    fn has_group(&self, gid: Gid) -> bool {
        match self {
            Self::All => true,
            Self::Of { groups, .. } => groups.contains(&gid),
        }
    }
}

impl AccountsTables {
    /// The groups of logins and the members of groups, each with its ordinal in the key.
    fn memberships(
        &self,
        whose: &Whose<'_>,
        file: &FileWriter<'_>,
    ) -> Result<(Rows<&Gid>, Rows<MemberName>), WriteError> {
        let mut of_login: BTreeMap<&str, u32> = BTreeMap::new();
        let mut of_group: BTreeMap<Gid, u32> = BTreeMap::new();
        let (mut groups, mut members): (Rows<&Gid>, Rows<MemberName>) = (Vec::new(), Vec::new());
        for (gid, login) in &self.members {
            if whose.has_login(login) {
                let ordinal = next(of_login.entry(login).or_default())?.to_be_bytes();
                groups.push((file.digest(Table::GroupOf, &[&ordinal, login.as_bytes()]), gid));
            }
            if whose.has_group(*gid) {
                let ordinal = next(of_group.entry(*gid).or_default())?.to_be_bytes();
                let digest = file.digest(Table::GroupMember, &[&gid.0.to_be_bytes(), &ordinal]);
                members.push((digest, MemberName(login.clone())));
            }
        }
        Ok((groups, members))
    }
}

/// Answers to one request that a byte can number.
const MAX_ANSWERS: usize = 256;

fn next(counter: &mut u32) -> Result<u32, WriteError> {
    let ordinal = *counter;
    *counter = ordinal.checked_add(1).ok_or(WriteError::TooLarge)?;
    Ok(ordinal)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
