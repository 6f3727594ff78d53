//! Records as bytes: their keys' digests, and their bodies written and read back (`docs/spec/snapshot.md`).
//!
//! Decoding is strict: unknown tags, non-zero padding and text that is not UTF-8 are errors, never defaults.

use std::num::NonZeroU64;

use countersign_certificate::Id;
use sha2::{Digest as _, Sha256};

use crate::layout::{DIGEST_BYTES, Digest, Fields, Table};
use crate::records::{
    Account, Approval, Batch, BatchState, Ca, CaState, Denial, Gid, Grant, Group, Hours, Key, KeyState, Login, Permits,
    Request, Salt, Subject, Uid, User, UserState, Verdict, Via,
};

/// The digest that a record is found by: SHA-256 over salt, table and key fields, shortened.
pub(crate) fn record_digest(salt: &Salt, table: Table, fields: &[&[u8]]) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(salt.0);
    hasher.update([table.id()]);
    for field in fields {
        hasher.update(field);
    }
    let whole: [u8; 32] = hasher.finalize().into();
    whole.first_chunk::<DIGEST_BYTES>().copied().unwrap_or_default()
}

/// Takes bytes of variable length and says where they stand.
pub(crate) trait BlobSink {
    /// `None` where the blob is longer than the format allows.
    fn put(&mut self, blob: &[u8]) -> Option<BlobRef>;
}

/// Gives them back.
pub(crate) trait BlobSource {
    type Error;
    fn blob(&self, reference: BlobRef) -> Result<Vec<u8>, Self::Error>;
    fn malformed(&self, expected: &'static str) -> Self::Error;
}

/// Place of a blob: offset in the blob region, length. An empty blob is at 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlobRef {
    pub(crate) offset: u64,
    pub(crate) length: u16,
}

impl BlobRef {
    /// How long it is, at the end of a record.
    pub(crate) const BYTES: usize = 10;

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { offset: fields.u64()?, length: fields.u16()? })
    }
}

impl UserState {
    const fn byte(self) -> u8 {
        match self {
            Self::Active => 0,
            Self::Locked => 1,
            Self::Removed => 2,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Active),
            1 => Some(Self::Locked),
            2 => Some(Self::Removed),
            _ => None,
        }
    }
}

impl BatchState {
    const fn byte(self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::WaitingForCountersignatures => 1,
            Self::Locked => 2,
            Self::IssuerLostRole => 3,
            Self::IssuerNotListed => 4,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Accepted),
            1 => Some(Self::WaitingForCountersignatures),
            2 => Some(Self::Locked),
            3 => Some(Self::IssuerLostRole),
            4 => Some(Self::IssuerNotListed),
            _ => None,
        }
    }
}

/// The longest login or group name.
const NAME_BYTES: usize = 32;

/// A name: length, then the name, zeros up to 32 bytes.
fn write_name(out: &mut Vec<u8>, name: &str) -> Result<(), &'static str> {
    let length = u8::try_from(name.len()).ok().filter(|length| usize::from(*length) <= NAME_BYTES).ok_or("name")?;
    out.push(length);
    out.extend_from_slice(name.as_bytes());
    out.resize(out.len().saturating_add(NAME_BYTES.saturating_sub(name.len())), 0);
    Ok(())
}

fn read_name(fields: &mut Fields<'_>) -> Option<String> {
    let length = usize::from(fields.u8()?);
    let name = std::str::from_utf8(fields.bytes(length)?).ok()?.to_owned();
    fields.zeros(NAME_BYTES.checked_sub(length)?).then_some(name)
}

/// A limit in seconds; 0 stands for none.
fn write_limit(out: &mut Vec<u8>, limit: Option<NonZeroU64>) {
    out.extend_from_slice(&limit.map_or(0, NonZeroU64::get).to_be_bytes());
}

fn read_limit(fields: &mut Fields<'_>) -> Option<Option<NonZeroU64>> {
    fields.u64().map(NonZeroU64::new)
}

/// Text in a blob: two bytes of length, then UTF-8.
fn write_text(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Some(())
}

fn read_text(fields: &mut Fields<'_>) -> Option<String> {
    let length = usize::from(fields.u16()?);
    std::str::from_utf8(fields.bytes(length)?).ok().map(str::to_owned)
}

/// A record's body as it is written behind its digest.
pub(crate) trait WriteRecord {
    /// Appends exactly the table's body bytes; the error names the field that is too long.
    fn write(&self, out: &mut Vec<u8>, blobs: &mut dyn BlobSink) -> Result<(), &'static str>;
}

/// A record's body as it is read back.
pub(crate) trait ReadRecord: Sized {
    /// Reads exactly the table's body bytes.
    fn read<S: BlobSource>(fields: &mut Fields<'_>, blobs: &S) -> Result<Self, S::Error>;
}

impl<R: WriteRecord> WriteRecord for &R {
    fn write(&self, out: &mut Vec<u8>, blobs: &mut dyn BlobSink) -> Result<(), &'static str> {
        (*self).write(out, blobs)
    }
}

/// Presence is all it says.
impl WriteRecord for () {
    fn write(&self, _: &mut Vec<u8>, _: &mut dyn BlobSink) -> Result<(), &'static str> {
        Ok(())
    }
}

impl ReadRecord for () {
    fn read<S: BlobSource>(_: &mut Fields<'_>, _: &S) -> Result<Self, S::Error> {
        Ok(())
    }
}

/// A fixed-layout record: written and read without blobs.
macro_rules! plain_record {
    ($type:ty, $expected:literal, |$value:ident, $out:ident| $write:block, |$fields:ident| $read:block) => {
        impl WriteRecord for $type {
            fn write(&self, $out: &mut Vec<u8>, _: &mut dyn BlobSink) -> Result<(), &'static str> {
                let $value = self;
                $write
                Ok(())
            }
        }

        impl ReadRecord for $type {
            fn read<S: BlobSource>(fields: &mut Fields<'_>, blobs: &S) -> Result<Self, S::Error> {
                let read = |$fields: &mut Fields<'_>| -> Option<Self> { $read };
                read(fields).ok_or_else(|| blobs.malformed($expected))
            }
        }
    };
}

plain_record!(
    Login,
    "a login record",
    |login, out| {
        out.extend_from_slice(&login.uid.0.to_be_bytes());
        out.extend_from_slice(&login.user.0);
    },
    |fields| { Some(Self { uid: Uid(fields.u32()?), user: Id(fields.array()?) }) }
);

plain_record!(
    User,
    "a user record",
    |user, out| {
        out.push(user.state.byte());
        write_name(out, &user.login)?;
    },
    |fields| { Some(Self { state: UserState::from_byte(fields.u8()?)?, login: read_name(fields)? }) }
);

plain_record!(
    Id,
    "a record id",
    |id, out| {
        out.extend_from_slice(&id.0);
    },
    |fields| { fields.array().map(Id) }
);

plain_record!(
    Key,
    "a key record",
    |key, out| {
        out.extend_from_slice(&key.user.0);
        out.push(match key.state {
            KeyState::Active => 0,
            KeyState::Locked => 1,
            KeyState::Revoked => 2,
        });
        out.push(key.purposes);
        write_limit(out, key.not_after_secs);
    },
    |fields| {
        let user = Id(fields.array()?);
        let state = match fields.u8()? {
            0 => KeyState::Active,
            1 => KeyState::Locked,
            2 => KeyState::Revoked,
            _ => return None,
        };
        Some(Self { user, state, purposes: fields.u8()?, not_after_secs: read_limit(fields)? })
    }
);

plain_record!(
    Batch,
    "a batch record",
    |batch, out| {
        out.push(batch.state.byte());
        out.extend_from_slice(&batch.ca.0);
        out.extend_from_slice(&batch.root);
        out.extend_from_slice(&batch.size.to_be_bytes());
        out.extend_from_slice(&batch.time_secs.to_be_bytes());
        out.extend_from_slice(&batch.not_after_secs.to_be_bytes());
        out.extend_from_slice(&batch.block.to_be_bytes());
    },
    |fields| {
        Some(Self {
            state: BatchState::from_byte(fields.u8()?)?,
            ca: Id(fields.array()?),
            root: fields.array()?,
            size: fields.u32()?,
            time_secs: fields.u64()?,
            not_after_secs: fields.u64()?,
            block: fields.u64()?,
        })
    }
);

plain_record!(
    Denial,
    "a denial",
    |denial, out| {
        out.push(match denial {
            Self::Locked => 1,
            Self::Revoked => 2,
        });
    },
    |fields| {
        match fields.u8()? {
            1 => Some(Self::Locked),
            2 => Some(Self::Revoked),
            _ => None,
        }
    }
);

plain_record!(
    Request,
    "a request record",
    |request, out| {
        out.extend_from_slice(&request.user.0);
        out.extend_from_slice(&request.approval_hash);
        out.extend_from_slice(&request.time_secs.to_be_bytes());
    },
    |fields| { Some(Self { user: Id(fields.array()?), approval_hash: fields.array()?, time_secs: fields.u64()? }) }
);

plain_record!(
    Approval,
    "an approval record",
    |approval, out| {
        out.push(match approval.verdict {
            Verdict::Approve => 1,
            Verdict::Deny => 2,
        });
        out.extend_from_slice(&approval.approver.unwrap_or_default().0);
        out.extend_from_slice(&approval.time_secs.to_be_bytes());
        out.extend_from_slice(&approval.approval_hash);
    },
    |fields| {
        let verdict = match fields.u8()? {
            1 => Verdict::Approve,
            2 => Verdict::Deny,
            _ => return None,
        };
        let approver = Some(Id(fields.array()?)).filter(|id| !id.is_zero());
        Some(Self { verdict, approver, time_secs: fields.u64()?, approval_hash: fields.array()? })
    }
);

plain_record!(
    Group,
    "a group record",
    |group, out| {
        out.extend_from_slice(&group.gid.0.to_be_bytes());
        write_name(out, &group.name)?;
    },
    |fields| { Some(Self { gid: Gid(fields.u32()?), name: read_name(fields)? }) }
);

plain_record!(
    Gid,
    "a group number",
    |gid, out| {
        out.extend_from_slice(&gid.0.to_be_bytes());
    },
    |fields| { fields.u32().map(Gid) }
);

/// A group's member, by name.
pub(crate) struct MemberName(pub(crate) String);

plain_record!(
    MemberName,
    "a member's name",
    |member, out| {
        write_name(out, &member.0)?;
    },
    |fields| { read_name(fields).map(Self) }
);

impl WriteRecord for Grant {
    fn write(&self, out: &mut Vec<u8>, blobs: &mut dyn BlobSink) -> Result<(), &'static str> {
        let (tag, subject) = match self.subject {
            Subject::User(id) => (0, id),
            Subject::Group(id) => (1, id),
        };
        out.push(tag);
        out.extend_from_slice(&subject.0);
        out.push(u8::from(self.via.certificate) | (u8::from(self.via.plain_key) << 1));
        out.push(self.approvals);
        out.push(self.permits.0);
        write_limit(out, self.max_ttl_secs);
        write_limit(out, self.not_after_secs);
        let options = self.options()?;
        blobs.put(&options).ok_or("options")?.write(out);
        Ok(())
    }
}

impl ReadRecord for Grant {
    fn read<S: BlobSource>(fields: &mut Fields<'_>, blobs: &S) -> Result<Self, S::Error> {
        let fixed = |fields: &mut Fields<'_>| -> Option<(Self, BlobRef)> {
            let tag = fields.u8()?;
            let id = Id(fields.array()?);
            let subject = match tag {
                0 => Subject::User(id),
                1 => Subject::Group(id),
                _ => return None,
            };
            let via = fields.u8().filter(|bits| *bits <= 3)?;
            let grant = Self {
                subject,
                via: Via { certificate: via & 1 != 0, plain_key: via & 2 != 0 },
                approvals: fields.u8()?,
                permits: Permits(fields.u8()?),
                max_ttl_secs: read_limit(fields)?,
                not_after_secs: read_limit(fields)?,
                forced_command: None,
                source_addresses: Vec::new(),
                hours: Vec::new(),
            };
            Some((grant, BlobRef::read(fields)?))
        };
        let (mut grant, options) = fixed(fields).ok_or_else(|| blobs.malformed("a grant record"))?;
        if options.length > 0 {
            let bytes = blobs.blob(options)?;
            grant.read_options(&mut Fields::new(&bytes)).ok_or_else(|| blobs.malformed("the options of a grant"))?;
        }
        Ok(grant)
    }
}

impl Grant {
    /// Forced command, source addresses and hours as one blob; empty where there is none of them.
    fn options(&self) -> Result<Vec<u8>, &'static str> {
        let mut out = Vec::new();
        if self.forced_command.is_none() && self.source_addresses.is_empty() && self.hours.is_empty() {
            return Ok(out);
        }
        let command = self.forced_command.as_deref().unwrap_or_default();
        out.push(u8::from(self.forced_command.is_some()));
        write_text(&mut out, command).ok_or("forced command")?;
        let count = u16::try_from(self.source_addresses.len()).map_err(|_| "source addresses")?;
        out.extend_from_slice(&count.to_be_bytes());
        for address in &self.source_addresses {
            write_text(&mut out, address).ok_or("source addresses")?;
        }
        let count = u16::try_from(self.hours.len()).map_err(|_| "hours")?;
        out.extend_from_slice(&count.to_be_bytes());
        for hours in &self.hours {
            out.push(hours.weekday);
            out.extend_from_slice(&hours.from_minute.to_be_bytes());
            out.extend_from_slice(&hours.to_minute.to_be_bytes());
        }
        Ok(out)
    }

    fn read_options(&mut self, fields: &mut Fields<'_>) -> Option<()> {
        let forced = fields.flag()?;
        let command = read_text(fields)?;
        self.forced_command = match (forced, command.is_empty()) {
            (true, _) => Some(command),
            (false, true) => None,
            (false, false) => return None,
        };
        for _ in 0..fields.u16()? {
            self.source_addresses.push(read_text(fields)?);
        }
        for _ in 0..fields.u16()? {
            let hours = Hours { weekday: fields.u8()?, from_minute: fields.u16()?, to_minute: fields.u16()? };
            if hours.weekday > 6 || hours.from_minute >= hours.to_minute || hours.to_minute > 1440 {
                return None;
            }
            self.hours.push(hours);
        }
        (fields.remaining() == 0).then_some(())
    }
}

impl WriteRecord for Ca {
    fn write(&self, out: &mut Vec<u8>, blobs: &mut dyn BlobSink) -> Result<(), &'static str> {
        let (state, retired_at_secs) = match self.state {
            CaState::Active => (0, 0),
            CaState::Locked => (1, 0),
            CaState::Retired { at_secs } => (2, at_secs),
            CaState::Revoked => (3, 0),
        };
        out.extend_from_slice(&self.id.0);
        out.push(state);
        out.extend_from_slice(&u64::to_be_bytes(retired_at_secs));
        out.extend_from_slice(&self.max_ttl_secs.to_be_bytes());
        out.push(u8::from(self.logins_restricted));
        blobs.put(&self.key_blob).ok_or("public key")?.write(out);
        Ok(())
    }
}

impl ReadRecord for Ca {
    fn read<S: BlobSource>(fields: &mut Fields<'_>, blobs: &S) -> Result<Self, S::Error> {
        let fixed = |fields: &mut Fields<'_>| -> Option<(Self, BlobRef)> {
            let id = Id(fields.array()?);
            let state = fields.u8()?;
            let at_secs = fields.u64()?;
            let state = match (state, at_secs) {
                (0, 0) => CaState::Active,
                (1, 0) => CaState::Locked,
                (2, at_secs) => CaState::Retired { at_secs },
                (3, 0) => CaState::Revoked,
                _ => return None,
            };
            let max_ttl_secs = fields.u64()?;
            let logins_restricted = fields.flag()?;
            let reference = BlobRef::read(fields)?;
            Some((Self { id, state, max_ttl_secs, logins_restricted, key_blob: Vec::new() }, reference))
        };
        let (mut ca, key) = fixed(fields).ok_or_else(|| blobs.malformed("a CA record"))?;
        ca.key_blob = blobs.blob(key)?;
        Ok(ca)
    }
}

impl WriteRecord for Account {
    fn write(&self, out: &mut Vec<u8>, blobs: &mut dyn BlobSink) -> Result<(), &'static str> {
        out.extend_from_slice(&self.uid.0.to_be_bytes());
        out.extend_from_slice(&self.gid.0.to_be_bytes());
        out.push(self.state.byte());
        write_name(out, &self.login)?;
        blobs.put(self.display_name.as_bytes()).ok_or("display name")?.write(out);
        Ok(())
    }
}

impl ReadRecord for Account {
    fn read<S: BlobSource>(fields: &mut Fields<'_>, blobs: &S) -> Result<Self, S::Error> {
        let fixed = |fields: &mut Fields<'_>| -> Option<(Self, BlobRef)> {
            let account = Self {
                uid: Uid(fields.u32()?),
                gid: Gid(fields.u32()?),
                state: UserState::from_byte(fields.u8()?)?,
                login: read_name(fields)?,
                display_name: String::new(),
            };
            Some((account, BlobRef::read(fields)?))
        };
        let (mut account, name) = fixed(fields).ok_or_else(|| blobs.malformed("an account record"))?;
        account.display_name =
            String::from_utf8(blobs.blob(name)?).map_err(|_| blobs.malformed("a display name in UTF-8"))?;
        Ok(account)
    }
}
