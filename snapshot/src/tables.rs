//! What is published: typed tables, complete ([`AccessTables`], [`AccountsTables`]) or as changes ([`AccessDelta`]).

use countersign_certificate::{Fingerprint20, Id, Serial};

use crate::records::{Account, Approval, Batch, Ca, Denial, Gid, Grant, Group, Key, Login, Request, User};

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
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AccessKey {
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
}

/// How `access` differs from its base: all of it, since a new delta takes the place of the one before.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AccessDelta {
    /// Records that are there, whatever the base says.
    pub put: AccessTables,
    /// Records that are not there, whatever the base says.
    pub delete: Vec<AccessKey>,
}
