//! Writing one base or delta file: tables sorted by digest, pages with checksums, the header last.
//!
//! One table at a time is sorted in memory as digests and references; records are encoded while they are written. Of a delta only what the
//! base does not say is written, and that the base says what is not there any more. So a publication needs, beside the tables,
//! some 24 bytes for each record of the largest table.
//! Where the publisher knows which rows have changed since the delta in place, only their digests are computed ([`FileWriter::touched`]).
//! It refuses two records with one key, values that do not fit, more than the format can count, and a delta over its limit.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use countersign_certificate::{Id, RealmId};

use crate::changes::{BaseBlobs, OneBlob, Records};
use crate::codec::{BlobRef, BlobSink, BlobSource as _, WriteRecord, record_digest};
use crate::error::ReadError;
use crate::file::{Found, TableFile};
use crate::layout::{
    Audience, Digest, Fields, FileKind, Header, MAX_BLOB_BYTES, PAGE_BYTES, PAYLOAD_BYTES, Table, TableEntry,
    page_checksum,
};
use crate::manifest::FileRef;
use crate::records::Salt;

/// Why a file could not be written.
#[derive(Debug)]
pub(crate) enum WriteError {
    Duplicate {
        table: &'static str,
    },
    TooLong {
        table: &'static str,
        field: &'static str,
    },
    TooLarge,
    /// A delta would have more pages than it may.
    OverLimit,
    /// What the delta would change is not whole.
    Base,
    /// What is in place is not what the publisher takes it for: all has to be compared.
    Strange,
    Io(io::Error),
}

impl From<ReadError> for WriteError {
    fn from(_: ReadError) -> Self {
        Self::Base
    }
}

impl From<io::Error> for WriteError {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}

/// What every file of one publication says of itself.
#[derive(Clone, Copy)]
pub(crate) struct FileIdentity {
    pub(crate) audience: Audience,
    pub(crate) kind: FileKind,
    pub(crate) generation: u64,
    pub(crate) base_generation: u64,
    pub(crate) salt: Salt,
    pub(crate) realm: RealmId,
    pub(crate) host: Id,
}

/// The base that a delta changes, the delta in place whose place it takes, and how many pages it may have.
#[derive(Clone, Copy)]
pub(crate) struct Below<'a> {
    pub(crate) base: &'a TableFile,
    pub(crate) delta: Option<&'a TableFile>,
    pub(crate) limit_pages: u64,
}

pub(crate) struct FileWriter<'a> {
    identity: FileIdentity,
    below: Option<Below<'a>>,
    out: BufWriter<File>,
    next_page: u32,
    payload: Vec<u8>,
    blobs: Blobs,
    tables: Vec<TableEntry>,
}

/// Rows of one table, not yet in order.
pub(crate) type Rows<V> = Vec<(Digest, V)>;

impl<'a> FileWriter<'a> {
    /// A base, or a delta of what is `below`.
    pub(crate) fn new(file: File, identity: FileIdentity, below: Option<Below<'a>>) -> Result<Self, WriteError> {
        let mut out = BufWriter::with_capacity(16 * PAGE_BYTES, file);
        out.write_all(&[0; PAGE_BYTES])?;
        Ok(Self {
            identity,
            below,
            out,
            next_page: 1,
            payload: Vec::with_capacity(PAGE_BYTES),
            blobs: Blobs::default(),
            tables: Vec::new(),
        })
    }

    const fn kind(&self) -> FileKind {
        self.identity.kind
    }

    /// Whether nothing was written: a delta without changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.iter().all(|entry| entry.records == 0)
    }

    pub(crate) fn digest(&self, table: Table, key: &[&[u8]]) -> Digest {
        record_digest(&self.identity.salt, table, key)
    }

    /// Writes the next table; tables come in the order of their audience.
    pub(crate) fn table<V: WriteRecord>(&mut self, table: Table, mut rows: Rows<V>) -> Result<(), WriteError> {
        rows.sort_unstable_by_key(|row| u128::from_be_bytes(row.0));
        if !rows.is_sorted_by(|left, right| left.0 < right.0) {
            return Err(WriteError::Duplicate { table: table.name() });
        }
        let first_page = self.next_page;
        let records = match self.below {
            None => self.all(table, &rows)?,
            Some(below) => self.changes(table, &rows, below.base)?,
        };
        if !self.payload.is_empty() {
            self.finish_page()?;
        }
        let pages = self.next_page.saturating_sub(first_page);
        self.tables.push(TableEntry { table, first_page, pages, records });
        Ok(())
    }

    fn all<V: WriteRecord>(&mut self, table: Table, rows: &Rows<V>) -> Result<u64, WriteError> {
        let mut record = Vec::with_capacity(table.record_bytes(self.kind()));
        for (digest, value) in rows {
            self.put(table, digest, value, &mut record)?;
        }
        u64::try_from(rows.len()).map_err(|_| WriteError::TooLarge)
    }

    /// Goes through rows and base side by side: what only the rows have, or have otherwise, is put; what only the base has is deleted.
    fn changes<V: WriteRecord>(&mut self, table: Table, rows: &Rows<V>, base: &TableFile) -> Result<u64, WriteError> {
        let mut there = Records::begin(base, base.entry(table)?)?;
        let mut blobs = BaseBlobs::new(base);
        let mut record = Vec::with_capacity(table.record_bytes(self.kind()));
        let mut written = 0u64;
        for (digest, value) in rows {
            while let Some(gone) = there.digest().filter(|there| there < digest) {
                self.delete(table, &gone, &mut record)?;
                written = written.saturating_add(1);
                there.advance()?;
            }
            if there.digest().as_ref() == Some(digest) {
                let mut blob = OneBlob::default();
                record.clear();
                value.write(&mut record, &mut blob).map_err(|field| too_long(table, field))?;
                let same = blobs.same(there.body(), &record, &blob)?;
                there.advance()?;
                if same {
                    continue;
                }
            }
            self.put(table, digest, value, &mut record)?;
            written = written.saturating_add(1);
        }
        while let Some(gone) = there.digest() {
            self.delete(table, &gone, &mut record)?;
            written = written.saturating_add(1);
            there.advance()?;
        }
        Ok(written)
    }

    /// Writes the next table of a delta from the one in place: its records of keys that are not touched as they are, and those of touched
    /// keys by what the base says. `removed` are digests that the tables before had, `put` what has come in their place or anew.
    /// The result is, to the byte, what [`FileWriter::table`] makes of all rows.
    pub(crate) fn touched<V: WriteRecord>(
        &mut self,
        table: Table,
        mut removed: Vec<Digest>,
        mut put: Rows<V>,
    ) -> Result<(), WriteError> {
        let below = self.below.ok_or(WriteError::Strange)?;
        removed.sort_unstable();
        put.sort_unstable_by_key(|row| row.0);
        if !removed.is_sorted_by(|left, right| left < right) || !put.is_sorted_by(|left, right| left.0 < right.0) {
            return Err(WriteError::Strange);
        }
        let first_page = self.next_page;
        let mut touched = Touched { removed: &removed, put: &put };
        let mut there = match below.delta {
            None => None,
            Some(delta) => Some(Records::begin(delta, delta.entry(table).map_err(strange)?).map_err(strange)?),
        };
        let mut blobs = BaseBlobs::new(below.base);
        let mut record = Vec::with_capacity(table.record_bytes(self.kind()));
        let mut written = 0u64;
        loop {
            let in_delta = there.as_ref().and_then(Records::digest);
            let next = touched.next();
            let Some(digest) = in_delta.into_iter().chain(next).min() else { break };
            let old = there.as_mut().filter(|_| in_delta == Some(digest));
            let is_written = if next == Some(digest) {
                let (was_there, value) = touched.take(&digest);
                let before = old.as_ref().and_then(|old| old.body().first().copied());
                self.touch(table, &digest, (before, was_there), value, &mut blobs, &mut record)?
            } else {
                let body = old.as_ref().map(|old| old.body()).ok_or(WriteError::Strange)?;
                self.copy(table, &digest, body, below.delta, &mut record)?;
                true
            };
            written = written.saturating_add(u64::from(is_written));
            if let Some(old) = old {
                old.advance().map_err(strange)?;
            }
        }
        if !self.payload.is_empty() {
            self.finish_page()?;
        }
        let pages = self.next_page.saturating_sub(first_page);
        self.tables.push(TableEntry { table, first_page, pages, records: written });
        Ok(())
    }

    /// Writes what there is to say of a touched key; whether there is anything. `before`: what the delta in place does with it, and whether
    /// the tables before had it.
    fn touch<V: WriteRecord>(
        &mut self,
        table: Table,
        digest: &Digest,
        (operation, was_there): (Option<u8>, bool),
        value: Option<&V>,
        blobs: &mut BaseBlobs<'_>,
        record: &mut Vec<u8>,
    ) -> Result<bool, WriteError> {
        let mut page = [0; PAGE_BYTES];
        let base = self.below.ok_or(WriteError::Strange)?.base;
        let in_base = match base.find(table, digest, &mut page)? {
            Found::Body(body) => Some(body),
            Found::Absent | Found::Deleted => None,
        };
        let is_there = operation.map_or(in_base.is_some(), |operation| operation == 1);
        if is_there != was_there {
            return Err(WriteError::Strange);
        }
        match (value, in_base) {
            (None, None) => Ok(false),
            (None, Some(_)) => self.delete(table, digest, record).map(|()| true),
            (Some(value), None) => self.put(table, digest, value, record).map(|()| true),
            (Some(value), Some(body)) => {
                let mut blob = OneBlob::default();
                record.clear();
                value.write(record, &mut blob).map_err(|field| too_long(table, field))?;
                if blobs.same(body, record, &blob)? {
                    return Ok(false);
                }
                self.put(table, digest, value, record).map(|()| true)
            }
        }
    }

    /// Writes a record of the delta in place again; only the place of its blob may be another.
    fn copy(
        &mut self,
        table: Table,
        digest: &Digest,
        body: &[u8],
        delta: Option<&TableFile>,
        record: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        record.clear();
        record.extend_from_slice(digest);
        let is_put = body.first() == Some(&1);
        if is_put && table.has_blob() {
            let (fixed, place) = body
                .len()
                .checked_sub(BlobRef::BYTES)
                .and_then(|at| body.split_at_checked(at))
                .ok_or(WriteError::Strange)?;
            let place = BlobRef::read(&mut Fields::new(place)).ok_or(WriteError::Strange)?;
            let blob = delta.ok_or(WriteError::Strange)?.blob(place).map_err(strange)?;
            record.extend_from_slice(fixed);
            self.blobs.put(&blob).ok_or(WriteError::Strange)?.write(record);
        } else {
            record.extend_from_slice(body);
        }
        self.record(table, record)
    }

    fn put<V: WriteRecord>(
        &mut self,
        table: Table,
        digest: &Digest,
        value: &V,
        record: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        record.clear();
        record.extend_from_slice(digest);
        if self.kind() == FileKind::Delta {
            record.push(1);
        }
        value.write(record, &mut self.blobs).map_err(|field| too_long(table, field))?;
        self.record(table, record)
    }

    fn delete(&mut self, table: Table, digest: &Digest, record: &mut Vec<u8>) -> Result<(), WriteError> {
        record.clear();
        record.extend_from_slice(digest);
        record.push(2);
        record.resize(table.record_bytes(self.kind()), 0);
        self.record(table, record)
    }

    fn record(&mut self, table: Table, record: &[u8]) -> Result<(), WriteError> {
        debug_assert_eq!(record.len(), table.record_bytes(self.kind()), "body of table {}", table.name());
        if self.payload.len().saturating_add(record.len()) > PAYLOAD_BYTES {
            self.finish_page()?;
        }
        self.payload.extend_from_slice(record);
        Ok(())
    }

    fn finish_page(&mut self) -> Result<(), WriteError> {
        self.payload.resize(PAYLOAD_BYTES, 0);
        let checksum = page_checksum(self.identity.generation, self.next_page, &self.payload);
        self.out.write_all(&self.payload)?;
        self.out.write_all(&checksum.to_be_bytes())?;
        self.payload.clear();
        self.next_page = self.next_page.checked_add(1).ok_or(WriteError::TooLarge)?;
        if self.below.is_some_and(|below| u64::from(self.next_page) > below.limit_pages) {
            return Err(WriteError::OverLimit);
        }
        Ok(())
    }

    /// Writes blobs and header and brings all of it to the disk.
    pub(crate) fn finish(mut self) -> Result<FileRef, WriteError> {
        let blob_first_page = self.next_page;
        let blobs = std::mem::take(&mut self.blobs.bytes);
        for chunk in blobs.chunks(PAYLOAD_BYTES) {
            self.payload.extend_from_slice(chunk);
            self.finish_page()?;
        }
        let total_bytes = u64::from(self.next_page).checked_mul(4096).ok_or(WriteError::TooLarge)?;
        let header = Header {
            audience: self.identity.audience,
            kind: self.identity.kind,
            generation: self.identity.generation,
            base_generation: self.identity.base_generation,
            salt: self.identity.salt,
            realm: self.identity.realm,
            host: self.identity.host,
            total_bytes,
            blob_first_page,
            blob_pages: self.next_page.saturating_sub(blob_first_page),
            blob_bytes: u64::try_from(blobs.len()).map_err(|_| WriteError::TooLarge)?,
            tables: self.tables,
        };
        let mut page = header.encode();
        let header_checksum = page_checksum(self.identity.generation, 0, &page);
        page.extend_from_slice(&header_checksum.to_be_bytes());
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.write_all_at(&page, 0)?;
        file.sync_all()?;
        Ok(FileRef { generation: self.identity.generation, bytes: total_bytes, header_checksum })
    }
}

const fn too_long(table: Table, field: &'static str) -> WriteError {
    WriteError::TooLong { table: table.name(), field }
}

fn strange(_: ReadError) -> WriteError {
    WriteError::Strange
}

/// Touched keys that are still to come, both in order.
struct Touched<'a, V> {
    removed: &'a [Digest],
    put: &'a [(Digest, V)],
}

impl<'a, V> Touched<'a, V> {
    fn next(&self) -> Option<Digest> {
        self.removed.first().into_iter().chain(self.put.first().map(|(digest, _)| digest)).min().copied()
    }

    /// Whether it was there before, and what it is now.
    fn take(&mut self, digest: &Digest) -> (bool, Option<&'a V>) {
        let removed = self.removed.split_first().filter(|(first, _)| *first == digest);
        if let Some((_, rest)) = removed {
            self.removed = rest;
        }
        let put = self.put.split_first().filter(|((first, _), _)| first == digest);
        if let Some((_, rest)) = put {
            self.put = rest;
        }
        (removed.is_some(), put.map(|((_, value), _)| value))
    }
}

#[derive(Default)]
struct Blobs {
    bytes: Vec<u8>,
}

impl BlobSink for Blobs {
    fn put(&mut self, blob: &[u8]) -> Option<BlobRef> {
        let length = u16::try_from(blob.len()).ok().filter(|length| *length <= MAX_BLOB_BYTES)?;
        let offset = if length == 0 { 0 } else { u64::try_from(self.bytes.len()).ok()? };
        self.bytes.extend_from_slice(blob);
        Some(BlobRef { offset, length })
    }
}
