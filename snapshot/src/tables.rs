//! What is published: typed tables, [`AccessTables`] and [`AccountsTables`]; what a base or a delta has of them is the writer's business.
//!
//! Each table's key fields stand here once. Refuses more answers to one
//! request than an ordinal can number.

use std::collections::BTreeMap;

use countersign_certificate::{Fingerprint20, Id, RealmId, Serial};
use sha2::{Digest as _, Sha256};

use crate::codec::{MemberName, WriteRecord};
use crate::layout::{Digest, Table};
use crate::records::{Account, Approval, Batch, Ca, Denial, Gid, Grant, Group, Key, Login, Request, User};
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

impl AccessTables {
    pub(crate) fn write(&self, file: &mut FileWriter<'_>) -> Result<(), WriteError> {
        let mut writer = AccessWriter { file };
        writer
            .table(Table::Login, self.logins.iter().map(|(login, value)| (AccessKey::Login(login.clone()), value)))?;
        writer.table(Table::User, self.users.iter().map(|(id, user)| (AccessKey::User(*id), user)))?;
        writer.table(Table::Grant, self.grants.iter().map(|(id, grant)| (AccessKey::Grant(*id), grant)))?;
        writer.table(
            Table::GrantLogin,
            self.grant_logins.iter().map(|(grant, login)| (AccessKey::GrantLogin(*grant, login.clone()), ())),
        )?;
        writer.table(
            Table::Membership,
            self.memberships.iter().map(|(group, user)| (AccessKey::Membership(*group, *user), ())),
        )?;
        writer.table(Table::Key, self.keys.iter().map(|(fingerprint, key)| (AccessKey::Key(*fingerprint), key)))?;
        writer.table(
            Table::KeyGrant,
            self.key_grants.iter().map(|way| (AccessKey::KeyGrant(way.user, way.login.clone()), &way.grant)),
        )?;
        writer.table(Table::Ca, self.cas.iter().map(|ca| (AccessKey::Ca(sha256(&ca.key_blob)), ca)))?;
        writer.table(
            Table::CaLogin,
            self.ca_logins.iter().map(|(ca, login)| (AccessKey::CaLogin(*ca, login.clone()), ())),
        )?;
        writer.table(Table::Batch, self.batches.iter().map(|(id, batch)| (AccessKey::Batch(*id), batch)))?;
        let serials = self.serials.iter().flat_map(|(ca, serials)| serials.iter().map(move |serial| (ca, serial)));
        writer.table(Table::Serial, serials.map(|(ca, serial)| (AccessKey::Serial(*ca, *serial), ())))?;
        writer.table(
            Table::GrantElsewhere,
            self.grants_elsewhere.iter().map(|id| (AccessKey::GrantElsewhere(*id), ())),
        )?;
        writer.table(
            Table::RevokedKey,
            self.revoked_keys.iter().map(|(fingerprint, denial)| (AccessKey::RevokedKey(*fingerprint), denial)),
        )?;
        writer.table(Table::Request, self.requests.iter().map(|(id, request)| (AccessKey::Request(*id), request)))?;
        if self.approvals.iter().any(|(_, answers)| answers.len() > MAX_ANSWERS) {
            return Err(WriteError::TooLong { table: Table::Approval.name(), field: "ordinal" });
        }
        let answers = self.approvals.iter().flat_map(|(request, answers)| {
            (0..=u8::MAX).zip(answers).map(|(ordinal, answer)| (AccessKey::Approval(*request, ordinal), answer))
        });
        writer.table(Table::Approval, answers)?;
        writer.table(Table::Label, self.labels.iter().map(|label| (AccessKey::Label(*label), ())))?;
        writer.table(Table::Realm, self.realms.iter().map(|realm| (AccessKey::Realm(*realm), ())))?;
        writer.table(
            Table::GrantedLogin,
            self.granted_logins.iter().map(|login| (AccessKey::GrantedLogin(login.clone()), ())),
        )
    }
}

struct AccessWriter<'a, 'b> {
    file: &'a mut FileWriter<'b>,
}

impl AccessWriter<'_, '_> {
    fn table<V: WriteRecord>(
        &mut self,
        table: Table,
        put: impl Iterator<Item = (AccessKey, V)>,
    ) -> Result<(), WriteError> {
        let rows: Rows<V> = put.map(|(key, value)| (key.digest(self.file), value)).collect();
        self.file.table(table, rows)
    }
}

impl AccountsTables {
    pub(crate) fn write(&self, file: &mut FileWriter<'_>) -> Result<(), WriteError> {
        let rows =
            self.accounts.iter().map(|account| (file.digest(Table::AccountName, &[account.login.as_bytes()]), account));
        let rows: Rows<_> = rows.collect();
        file.table(Table::AccountName, rows)?;
        let rows: Rows<_> = self
            .accounts
            .iter()
            .map(|account| (file.digest(Table::AccountUid, &[&account.uid.0.to_be_bytes()]), account))
            .collect();
        file.table(Table::AccountUid, rows)?;
        let rows: Rows<_> =
            self.groups.iter().map(|group| (file.digest(Table::GroupName, &[group.name.as_bytes()]), group)).collect();
        file.table(Table::GroupName, rows)?;
        let rows: Rows<_> = self
            .groups
            .iter()
            .map(|group| (file.digest(Table::GroupGid, &[&group.gid.0.to_be_bytes()]), group))
            .collect();
        file.table(Table::GroupGid, rows)?;

        let mut of_login: BTreeMap<&str, u32> = BTreeMap::new();
        let mut of_group: BTreeMap<Gid, u32> = BTreeMap::new();
        let mut groups: Rows<&Gid> = Vec::with_capacity(self.members.len());
        let mut members: Rows<MemberName> = Vec::with_capacity(self.members.len());
        for (gid, login) in &self.members {
            let ordinal = next(of_login.entry(login).or_default())?.to_be_bytes();
            groups.push((file.digest(Table::GroupOf, &[&ordinal, login.as_bytes()]), gid));
            let ordinal = next(of_group.entry(*gid).or_default())?.to_be_bytes();
            let digest = file.digest(Table::GroupMember, &[&gid.0.to_be_bytes(), &ordinal]);
            members.push((digest, MemberName(login.clone())));
        }
        file.table(Table::GroupOf, groups)?;
        file.table(Table::GroupMember, members)
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
