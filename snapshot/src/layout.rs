//! Bytes: pages and their checksums, the header page, fields read and written in order. Numbers are big-endian.
//!
//! Refuses a header whose tables are not exactly those of its audience, in order, back to back, and as long as they say.

use crate::records::Salt;
use countersign_certificate::{Id, RealmId};

pub(crate) const PAGE_BYTES: usize = 4096;
/// A page's payload; the CRC-32 follows it.
pub(crate) const PAYLOAD_BYTES: usize = 4092;
pub(crate) const DIGEST_BYTES: usize = 16;
/// The longest blob: longer than any entry of the log can make it.
pub(crate) const MAX_BLOB_BYTES: u16 = 16_384;
pub(crate) const FORMAT_VERSION: u16 = 1;

const HEADER_MAGIC: &[u8; 8] = b"CSIGNSNP";
const TABLE_DIRECTORY_OFFSET: usize = 128;

pub(crate) type Page = [u8; PAGE_BYTES];
pub(crate) type Digest = [u8; DIGEST_BYTES];

/// Which of the two trees a file belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Audience {
    Access,
    Accounts,
}

impl Audience {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Access => 1,
            Self::Accounts => 2,
        }
    }

    pub(crate) const fn directory(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Accounts => "accounts",
        }
    }

    pub(crate) const fn tables(self) -> &'static [Table] {
        match self {
            Self::Access => &Table::ACCESS,
            Self::Accounts => &Table::ACCOUNTS,
        }
    }
}

/// A base stands alone; a delta changes one base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileKind {
    Base,
    Delta,
}

impl FileKind {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Base => 1,
            Self::Delta => 2,
        }
    }

    pub(crate) const fn stem(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Delta => "delta",
        }
    }

    /// Bytes between the digest and the body: a delta says whether it puts or deletes.
    pub(crate) const fn operation_bytes(self) -> usize {
        match self {
            Self::Base => 0,
            Self::Delta => 1,
        }
    }
}

macro_rules! tables {
    ($($name:ident = $id:literal, $body:literal, $text:literal;)*) => {
        /// The tables of version 1.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Table { $($name,)* }

        impl Table {
            pub(crate) const fn id(self) -> u8 {
                match self { $(Self::$name => $id,)* }
            }

            /// Bytes of a record after its digest (and, in a delta, its operation).
            pub(crate) const fn body_bytes(self) -> usize {
                match self { $(Self::$name => $body,)* }
            }

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

tables! {
    Login = 1, 20, "login";
    User = 2, 34, "user";
    Grant = 3, 46, "grant";
    GrantLogin = 4, 0, "grant-login";
    Membership = 5, 0, "membership";
    Key = 6, 26, "key";
    KeyGrant = 7, 16, "key-grant";
    Ca = 8, 44, "ca";
    CaLogin = 9, 0, "ca-login";
    Batch = 10, 77, "batch";
    Serial = 11, 0, "serial";
    GrantElsewhere = 12, 0, "grant-elsewhere";
    RevokedKey = 13, 1, "revoked-key";
    Request = 14, 56, "request";
    Approval = 15, 57, "approval";
    Label = 16, 0, "label";
    Realm = 17, 0, "realm";
    GrantedLogin = 18, 0, "granted-login";
    AccountName = 32, 52, "account-name";
    AccountUid = 33, 52, "account-uid";
    GroupName = 34, 37, "group-name";
    GroupGid = 35, 37, "group-gid";
    GroupOf = 36, 4, "group-of";
    GroupMember = 37, 33, "group-member";
}

impl Table {
    const ACCESS: [Self; 18] = [
        Self::Login,
        Self::User,
        Self::Grant,
        Self::GrantLogin,
        Self::Membership,
        Self::Key,
        Self::KeyGrant,
        Self::Ca,
        Self::CaLogin,
        Self::Batch,
        Self::Serial,
        Self::GrantElsewhere,
        Self::RevokedKey,
        Self::Request,
        Self::Approval,
        Self::Label,
        Self::Realm,
        Self::GrantedLogin,
    ];
    const ACCOUNTS: [Self; 6] =
        [Self::AccountName, Self::AccountUid, Self::GroupName, Self::GroupGid, Self::GroupOf, Self::GroupMember];

    /// Whether its records end with the place of a blob.
    pub(crate) const fn has_blob(self) -> bool {
        matches!(self, Self::Grant | Self::Ca | Self::AccountName | Self::AccountUid)
    }

    /// Bytes of a record in a file of this kind. At most 94.
    pub(crate) fn record_bytes(self, kind: FileKind) -> usize {
        DIGEST_BYTES.saturating_add(kind.operation_bytes()).saturating_add(self.body_bytes())
    }

    /// Records in a full page; never 0.
    pub(crate) fn records_per_page(self, kind: FileKind) -> usize {
        PAYLOAD_BYTES.checked_div(self.record_bytes(kind)).unwrap_or(1)
    }
}

/// Where a table stands in its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TableEntry {
    pub(crate) table: Table,
    pub(crate) first_page: u32,
    pub(crate) pages: u32,
    pub(crate) records: u64,
}

/// Page 0 of a base or delta file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) audience: Audience,
    pub(crate) kind: FileKind,
    pub(crate) generation: u64,
    /// For a delta, the base it changes; for a base, its own generation.
    pub(crate) base_generation: u64,
    pub(crate) salt: Salt,
    pub(crate) realm: RealmId,
    pub(crate) host: Id,
    /// Length of the whole file.
    pub(crate) total_bytes: u64,
    pub(crate) blob_first_page: u32,
    pub(crate) blob_pages: u32,
    pub(crate) blob_bytes: u64,
    pub(crate) tables: Vec<TableEntry>,
}

impl Header {
    /// The header's page without its checksum.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PAGE_BYTES);
        out.extend_from_slice(HEADER_MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
        out.push(self.audience.byte());
        out.push(self.kind.byte());
        out.extend_from_slice(&4096u32.to_be_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&self.base_generation.to_be_bytes());
        out.extend_from_slice(&self.salt.0);
        out.extend_from_slice(&self.realm.0);
        out.extend_from_slice(&self.host.0);
        out.extend_from_slice(&self.total_bytes.to_be_bytes());
        out.extend_from_slice(&self.blob_first_page.to_be_bytes());
        out.extend_from_slice(&self.blob_pages.to_be_bytes());
        out.extend_from_slice(&self.blob_bytes.to_be_bytes());
        out.extend_from_slice(&u16::try_from(self.tables.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.resize(TABLE_DIRECTORY_OFFSET, 0);
        for entry in &self.tables {
            let record_bytes = u16::try_from(entry.table.record_bytes(self.kind)).unwrap_or(u16::MAX);
            out.push(entry.table.id());
            out.push(0);
            out.extend_from_slice(&record_bytes.to_be_bytes());
            out.extend_from_slice(&entry.first_page.to_be_bytes());
            out.extend_from_slice(&entry.pages.to_be_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&entry.records.to_be_bytes());
        }
        out.resize(PAYLOAD_BYTES, 0);
        out
    }

    /// Reads a page whose checksum is right. The error names what was expected.
    pub(crate) fn decode(page: &Page, audience: Audience, kind: FileKind) -> Result<Self, &'static str> {
        let mut fields = Fields::new(page.get(..PAYLOAD_BYTES).unwrap_or_default());
        let short = "a whole header";
        expect(fields.array::<8>() == Some(*HEADER_MAGIC), "the magic of a snapshot file")?;
        expect(fields.u16() == Some(FORMAT_VERSION), "format version 1")?;
        expect(fields.u8() == Some(audience.byte()), "a file of this audience")?;
        expect(fields.u8() == Some(kind.byte()), "a file of this kind")?;
        expect(fields.u32() == Some(4096), "pages of 4096 bytes")?;
        let generation = fields.u64().ok_or(short)?;
        let base_generation = fields.u64().ok_or(short)?;
        let salt = Salt(fields.array().ok_or(short)?);
        let realm = RealmId(fields.array().ok_or(short)?);
        let host = Id(fields.array().ok_or(short)?);
        let total_bytes = fields.u64().ok_or(short)?;
        let blob_first_page = fields.u32().ok_or(short)?;
        let blob_pages = fields.u32().ok_or(short)?;
        let blob_bytes = fields.u64().ok_or(short)?;
        expect(fields.u16().map(usize::from) == Some(audience.tables().len()), "the tables of this audience")?;
        expect(fields.zeros(6), "reserved bytes to be zero")?;

        let mut tables = Vec::with_capacity(audience.tables().len());
        let mut next_page = 1u32;
        for &table in audience.tables() {
            expect(fields.u8() == Some(table.id()) && fields.zeros(1), "the tables of this audience")?;
            let record_bytes = fields.u16().map(usize::from);
            expect(record_bytes == Some(table.record_bytes(kind)), "the record sizes of version 1")?;
            let first_page = fields.u32().ok_or(short)?;
            let pages = fields.u32().ok_or(short)?;
            expect(fields.zeros(4), "reserved bytes to be zero")?;
            let records = fields.u64().ok_or(short)?;
            let per_page = u64::try_from(table.records_per_page(kind)).unwrap_or(1);
            expect(first_page == next_page && records.div_ceil(per_page) == u64::from(pages), "tables back to back")?;
            next_page = next_page.checked_add(pages).ok_or("tables back to back")?;
            tables.push(TableEntry { table, first_page, pages, records });
        }
        let rest = fields.remaining();
        expect(fields.zeros(rest), "reserved bytes to be zero")?;
        let payload = u64::try_from(PAYLOAD_BYTES).unwrap_or(1);
        expect(
            blob_first_page == next_page && blob_bytes.div_ceil(payload) == u64::from(blob_pages),
            "the blobs after the tables",
        )?;
        let all_pages = next_page.checked_add(blob_pages).ok_or("the blobs after the tables")?;
        expect(u64::from(all_pages).checked_mul(4096) == Some(total_bytes), "the length to match the pages")?;
        Ok(Self {
            audience,
            kind,
            generation,
            base_generation,
            salt,
            realm,
            host,
            total_bytes,
            blob_first_page,
            blob_pages,
            blob_bytes,
            tables,
        })
    }
}

/// CRC-32 (IEEE) of a page's payload, bound to its file and place so that a page out of place is refused.
pub(crate) fn page_checksum(generation: u64, page_number: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&generation.to_be_bytes());
    hasher.update(&page_number.to_be_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Whether a page as read carries the checksum of its place.
pub(crate) fn page_is_whole(generation: u64, page_number: u32, page: &Page) -> bool {
    let Some((payload, checksum)) = page.split_last_chunk::<4>() else { return false };
    page_checksum(generation, page_number, payload) == u32::from_be_bytes(*checksum)
}

pub(crate) fn expect(holds: bool, expected: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(expected) }
}

/// Reads fixed-size fields in order; `None` once the bytes run out.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A strict boolean: 0 or 1.
    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn zeros(&mut self, count: usize) -> bool {
        self.bytes(count).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
    }
}
