//! Reading: [`Snapshot`] (audience `access`) and [`Accounts`].
//!
//! Both open the manifest, then exactly the files it names. A file that went away means that a newer manifest exists: it
//! is read again, three times at most.

use std::path::Path;

use countersign_certificate::{Fingerprint20, Id, RealmId, Serial};

use crate::clock::{Clock, Stale};
use crate::codec::{MemberName, ReadRecord, record_digest};
use crate::error::{OpenError, ReadError};
use crate::file::{Found, TableFile};
use crate::layout::{Audience, Fields, FileKind, PAGE_BYTES, Table};
use crate::manifest::{Facts, MANIFEST_BYTES, Manifest};
use crate::open::{Directory, Gone, Trust};
use crate::records::{Account, Approval, Batch, Ca, Denial, Gid, Grant, Group, Key, Login, Request, Uid, User};

/// Reads of the manifest after the first one found a file missing.
const MANIFEST_READS_MORE: u32 = 3;

pub(crate) const MANIFEST_NAME: &str = "manifest";

/// What a login is decided from. Opening it says nothing about its age: ask [`Snapshot::fresh`] first.
pub struct Snapshot {
    files: Files,
}

impl Snapshot {
    /// Opens `access` below `directory` (by default `/var/lib/countersign/snapshot`).
    ///
    /// # Errors
    /// Where there is none, where another than the trusted owner could have written it, and where manifest or headers
    /// are not as their format says.
    pub fn open(directory: &Path, trust: Trust) -> Result<Self, OpenError> {
        Files::open(directory, trust, Audience::Access).map(|files| Self { files })
    }

    /// The manifest that was read.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.files.manifest
    }

    /// What holds for the whole snapshot.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.files.manifest.facts
    }

    /// Whether it still counts at `clock`.
    ///
    /// # Errors
    /// Why it does not.
    pub fn fresh(&self, clock: &Clock) -> Result<(), Stale> {
        self.files.fresh(clock)
    }

    /// Reads every page of every file: for the publisher and for people, never during a login.
    ///
    /// # Errors
    /// The first page that is not as the format says.
    pub fn verify(&self) -> Result<(), ReadError> {
        self.files.verify()
    }

    /// The ledger user that a login name belongs to.
    ///
    /// # Errors
    /// As all lookups: where the system or a checksum refuses, so that nothing is known.
    pub fn login(&self, login: &[u8]) -> Result<Option<Login>, ReadError> {
        self.files.get(Table::Login, &[login])
    }

    /// A user.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn user(&self, user: Id) -> Result<Option<User>, ReadError> {
        self.files.get(Table::User, &[&user.0])
    }

    /// A live grant that covers this host.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn grant(&self, grant: Id) -> Result<Option<Grant>, ReadError> {
        self.files.get(Table::Grant, &[&grant.0])
    }

    /// Whether a grant lists a login.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn grant_allows_login(&self, grant: Id, login: &[u8]) -> Result<bool, ReadError> {
        self.files.has(Table::GrantLogin, &[&grant.0, login])
    }

    /// Whether a user is in a group.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn is_member(&self, group: Id, user: Id) -> Result<bool, ReadError> {
        self.files.has(Table::Membership, &[&group.0, &user.0])
    }

    /// A registered key.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn key(&self, key: Fingerprint20) -> Result<Option<Key>, ReadError> {
        self.files.get(Table::Key, &[&key.0])
    }

    /// The grant by which a plain key of `user` leads into `login`.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn key_grant(&self, user: Id, login: &[u8]) -> Result<Option<Id>, ReadError> {
        self.files.get(Table::KeyGrant, &[&user.0, login])
    }

    /// A CA, by the SHA-256 of its key blob.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn ca(&self, key_sha256: &[u8; 32]) -> Result<Option<Ca>, ReadError> {
        self.files.get(Table::Ca, &[key_sha256])
    }

    /// Whether a login is listed for a CA; asked only of CAs with `logins_restricted`.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn ca_allows_login(&self, ca: Id, login: &[u8]) -> Result<bool, ReadError> {
        self.files.has(Table::CaLogin, &[&ca.0, login])
    }

    /// A batch.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn batch(&self, batch: Id) -> Result<Option<Batch>, ReadError> {
        self.files.get(Table::Batch, &[&batch.0])
    }

    /// Whether a CA's certificate with this serial is revoked.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn serial_revoked(&self, ca: Id, serial: Serial) -> Result<bool, ReadError> {
        self.files.has(Table::Serial, &[&ca.0, &serial.0.to_be_bytes()])
    }

    /// Whether this is a live grant, but one that does not cover this host.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn grant_elsewhere(&self, grant: Id) -> Result<bool, ReadError> {
        self.files.has(Table::GrantElsewhere, &[&grant.0])
    }

    /// Whether a key is locked or revoked, whatever it is used for.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn key_revoked(&self, key: Fingerprint20) -> Result<Option<Denial>, ReadError> {
        self.files.get(Table::RevokedKey, &[&key.0])
    }

    /// A request.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn request(&self, request: Id) -> Result<Option<Request>, ReadError> {
        self.files.get(Table::Request, &[&request.0])
    }

    /// The answers to a request are numbered from 0 without gaps.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn approval(&self, request: Id, ordinal: u8) -> Result<Option<Approval>, ReadError> {
        self.files.get(Table::Approval, &[&request.0, &[ordinal]])
    }

    /// Whether this host has a label, by its SHA-256.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn has_label(&self, label_sha256: &[u8; 32]) -> Result<bool, ReadError> {
        self.files.has(Table::Label, &[label_sha256])
    }

    /// Whether a certificate's scope may name a realm: this one, or one that it comes from.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn takes_realm(&self, realm: &RealmId) -> Result<bool, ReadError> {
        if *realm == self.facts().realm {
            return Ok(true);
        }
        self.files.has(Table::Realm, &[&realm.0])
    }

    /// Whether a login that is no user's is the realm's business all the same: a grant leads or once led into it on this host.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn is_granted_login(&self, login: &[u8]) -> Result<bool, ReadError> {
        self.files.has(Table::GrantedLogin, &[login])
    }
}

/// What name services show.
pub struct Accounts {
    files: Files,
}

impl Accounts {
    /// Opens `accounts` below `directory`.
    ///
    /// # Errors
    /// See [`Snapshot::open`].
    pub fn open(directory: &Path, trust: Trust) -> Result<Self, OpenError> {
        Files::open(directory, trust, Audience::Accounts).map(|files| Self { files })
    }

    /// The manifest that was read.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.files.manifest
    }

    /// Whether it still counts at `clock`. Names may be shown beyond that; nothing may be granted.
    ///
    /// # Errors
    /// Why it does not.
    pub fn fresh(&self, clock: &Clock) -> Result<(), Stale> {
        self.files.fresh(clock)
    }

    /// As [`Snapshot::verify`].
    ///
    /// # Errors
    /// The first page that is not as the format says.
    pub fn verify(&self) -> Result<(), ReadError> {
        self.files.verify()
    }

    /// A user by name.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn account(&self, login: &[u8]) -> Result<Option<Account>, ReadError> {
        self.files.get(Table::AccountName, &[login])
    }

    /// A user by number.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn account_by_uid(&self, uid: Uid) -> Result<Option<Account>, ReadError> {
        self.files.get(Table::AccountUid, &[&uid.0.to_be_bytes()])
    }

    /// A group by name.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn group(&self, name: &[u8]) -> Result<Option<Group>, ReadError> {
        self.files.get(Table::GroupName, &[name])
    }

    /// A group by number.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn group_by_gid(&self, gid: Gid) -> Result<Option<Group>, ReadError> {
        self.files.get(Table::GroupGid, &[&gid.0.to_be_bytes()])
    }

    /// The groups that a user is in, numbered from 0 without gaps; its own group is not among them.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn group_of(&self, login: &[u8], ordinal: u32) -> Result<Option<Gid>, ReadError> {
        self.files.get(Table::GroupOf, &[&ordinal.to_be_bytes(), login])
    }

    /// The logins of a group's members, numbered from 0 without gaps.
    ///
    /// # Errors
    /// See [`Snapshot::login`].
    pub fn group_member(&self, gid: Gid, ordinal: u32) -> Result<Option<String>, ReadError> {
        let member: Option<MemberName> =
            self.files.get(Table::GroupMember, &[&gid.0.to_be_bytes(), &ordinal.to_be_bytes()])?;
        Ok(member.map(|member| member.0))
    }
}

/// One audience's manifest and open files.
pub(crate) struct Files {
    pub(crate) manifest: Manifest,
    pub(crate) base: TableFile,
    pub(crate) delta: Option<TableFile>,
}

impl Files {
    pub(crate) fn open(directory: &Path, trust: Trust, audience: Audience) -> Result<Self, OpenError> {
        let directory = Directory::open(directory, trust)?.open_child(audience.directory())?;
        until_there(&directory, || match read_manifest(&directory, audience)? {
            Ok(manifest) => Self::open_named(&directory, audience, manifest).map(|found| found.map_err(Missing::Named)),
            Err(gone) => Ok(Err(Missing::Manifest(gone))),
        })
    }

    /// The files that a manifest names, or the name of one that is missing.
    pub(crate) fn open_named(
        directory: &Directory,
        audience: Audience,
        manifest: Manifest,
    ) -> Result<Result<Self, String>, OpenError> {
        let Some(base) = TableFile::open(directory, audience, FileKind::Base, &manifest.base)? else {
            return Ok(Err(crate::file::file_name(FileKind::Base, manifest.base.generation)));
        };
        let delta = match &manifest.delta {
            None => None,
            Some(reference) => match TableFile::open(directory, audience, FileKind::Delta, reference)? {
                None => return Ok(Err(crate::file::file_name(FileKind::Delta, reference.generation))),
                delta => delta,
            },
        };
        for file in [Some(&base), delta.as_ref()].into_iter().flatten() {
            let header = &file.header;
            let same = header.salt == manifest.salt
                && header.realm == manifest.facts.realm
                && header.host == manifest.facts.host
                && header.base_generation == manifest.base.generation;
            if !same {
                return Err(OpenError::Corrupt {
                    path: directory.path_of(&crate::file::file_name(header.kind, header.generation)),
                    expected: "the salt, realm, host and base that the manifest names",
                });
            }
        }
        Ok(Ok(Self { manifest, base, delta }))
    }

    fn verify(&self) -> Result<(), ReadError> {
        self.base.verify()?;
        self.delta.as_ref().map_or(Ok(()), TableFile::verify)
    }

    fn fresh(&self, clock: &Clock) -> Result<(), Stale> {
        self.manifest.freshness.check(self.manifest.facts.latest_block.time_secs, clock)
    }

    fn has(&self, table: Table, key: &[&[u8]]) -> Result<bool, ReadError> {
        self.get::<()>(table, key).map(|found| found.is_some())
    }

    fn get<R: ReadRecord>(&self, table: Table, key: &[&[u8]]) -> Result<Option<R>, ReadError> {
        let digest = record_digest(&self.manifest.salt, table, key);
        let mut page = [0; PAGE_BYTES];
        for file in [self.delta.as_ref(), Some(&self.base)].into_iter().flatten() {
            match file.find(table, &digest, &mut page)? {
                Found::Absent => {}
                Found::Deleted => return Ok(None),
                Found::Body(body) => return R::read(&mut Fields::new(body), file).map(Some),
            }
        }
        Ok(None)
    }
}

/// What was not there when it was wanted.
enum Missing {
    Manifest(Gone),
    /// A file that the manifest names.
    Named(String),
}

/// Tries until everything is there, some times. Where only manifests were missed, and none was just being replaced, there is none.
fn until_there<T>(
    directory: &Directory,
    mut attempt: impl FnMut() -> Result<Result<T, Missing>, OpenError>,
) -> Result<T, OpenError> {
    let mut missed = None;
    for _ in 0..=MANIFEST_READS_MORE {
        match attempt()? {
            Ok(found) => return Ok(found),
            Err(Missing::Manifest(Gone::Missing)) => {}
            Err(Missing::Manifest(Gone::Replaced)) => missed = Some(MANIFEST_NAME.to_owned()),
            Err(Missing::Named(name)) => missed = Some(name),
        }
    }
    Err(match missed {
        None => OpenError::Absent { path: directory.path_of(MANIFEST_NAME) },
        Some(name) => OpenError::Vanished { path: directory.path_of(&name) },
    })
}

fn read_manifest(directory: &Directory, audience: Audience) -> Result<Result<Manifest, Gone>, OpenError> {
    use std::os::unix::fs::FileExt;

    let (file, bytes) = match directory.open_file(MANIFEST_NAME)? {
        Ok(opened) => opened,
        Err(gone) => return Ok(Err(gone)),
    };
    let path = || directory.path_of(MANIFEST_NAME);
    let mut content = [0; MANIFEST_BYTES];
    if u64::try_from(MANIFEST_BYTES) != Ok(bytes) {
        return Err(OpenError::Corrupt { path: path(), expected: "512 bytes" });
    }
    file.read_exact_at(&mut content, 0).map_err(|source| OpenError::Io { path: path(), source })?;
    Manifest::decode(&content, audience).map(Ok).map_err(|expected| OpenError::Corrupt { path: path(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_is_replaced_each_time_it_is_opened_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path(), Trust::owner(nix::unistd::geteuid().as_raw())).unwrap();
        let tried = |outcomes: Vec<Result<u8, Missing>>| {
            let mut outcomes = outcomes.into_iter();
            until_there(&directory, || Ok(outcomes.next().unwrap()))
        };
        let none = || Err(Missing::Manifest(Gone::Missing));
        let replaced = || Err(Missing::Manifest(Gone::Replaced));
        let gone = || Err(Missing::Named("base.7".to_owned()));
        assert!(matches!(tried(vec![none(), none(), none(), none()]), Err(OpenError::Absent { .. })));
        let vanished = |outcomes, file: &str| {
            let Err(OpenError::Vanished { path }) = tried(outcomes) else { panic!("{file} expected to be named") };
            assert_eq!(path, folder.path().join(file));
        };
        vanished(vec![replaced(), replaced(), replaced(), replaced()], "manifest");
        vanished(vec![gone(), gone(), gone(), none()], "base.7");
        assert_eq!(tried(vec![gone(), replaced(), none(), Ok(1)]).unwrap(), 1);
    }
}
