//! Writing one base or delta file: tables sorted by digest, pages with checksums, the header last.
//!
//! One table at a time is sorted in memory as digests and references; records are encoded while they are written.
//! It refuses two records with one key, values that do not fit, and more than the format can count.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use countersign_certificate::{Id, RealmId};

use crate::codec::{BlobRef, BlobSink, WriteRecord, record_digest};
use crate::layout::{
    Audience, Digest, FileKind, Header, MAX_BLOB_BYTES, PAGE_BYTES, PAYLOAD_BYTES, Table, TableEntry, page_checksum,
};
use crate::manifest::FileRef;
use crate::records::Salt;

/// Why a file could not be written.
#[derive(Debug)]
pub(crate) enum WriteError {
    Duplicate { table: &'static str },
    TooLong { table: &'static str, field: &'static str },
    TooLarge,
    Io(io::Error),
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

pub(crate) struct FileWriter {
    identity: FileIdentity,
    out: BufWriter<File>,
    next_page: u32,
    payload: Vec<u8>,
    blobs: Blobs,
    tables: Vec<TableEntry>,
}

/// Rows of one table, not yet in order: a value to put, or `None` to delete (only in a delta).
pub(crate) type Rows<V> = Vec<(Digest, Option<V>)>;

impl FileWriter {
    pub(crate) fn new(file: File, identity: FileIdentity) -> Result<Self, WriteError> {
        let mut out = BufWriter::with_capacity(16 * PAGE_BYTES, file);
        out.write_all(&[0; PAGE_BYTES])?;
        Ok(Self {
            identity,
            out,
            next_page: 1,
            payload: Vec::with_capacity(PAGE_BYTES),
            blobs: Blobs::default(),
            tables: Vec::new(),
        })
    }

    pub(crate) const fn kind(&self) -> FileKind {
        self.identity.kind
    }

    pub(crate) fn digest(&self, table: Table, key: &[&[u8]]) -> Digest {
        record_digest(&self.identity.salt, table, key)
    }

    /// Writes the next table; tables come in the order of their audience.
    pub(crate) fn table<V: WriteRecord>(&mut self, table: Table, mut rows: Rows<V>) -> Result<(), WriteError> {
        rows.sort_unstable_by_key(|row| row.0);
        if rows.is_sorted_by(|left, right| left.0 < right.0) {
            self.sorted_table(table, &rows)
        } else {
            Err(WriteError::Duplicate { table: table.name() })
        }
    }

    fn sorted_table<V: WriteRecord>(&mut self, table: Table, rows: &Rows<V>) -> Result<(), WriteError> {
        let first_page = self.next_page;
        let record_bytes = table.record_bytes(self.kind());
        let mut record = Vec::with_capacity(record_bytes);
        for (digest, value) in rows {
            record.clear();
            record.extend_from_slice(digest);
            match (self.kind(), value) {
                (FileKind::Base, _) => {}
                (FileKind::Delta, Some(_)) => record.push(1),
                (FileKind::Delta, None) => record.push(2),
            }
            if let Some(value) = value {
                let written = value.write(&mut record, &mut self.blobs);
                written.map_err(|field| WriteError::TooLong { table: table.name(), field })?;
            } else {
                record.resize(record_bytes, 0);
            }
            debug_assert_eq!(record.len(), record_bytes, "body of table {}", table.name());
            if self.payload.len().saturating_add(record.len()) > PAYLOAD_BYTES {
                self.finish_page()?;
            }
            self.payload.extend_from_slice(&record);
        }
        if !self.payload.is_empty() {
            self.finish_page()?;
        }
        let records = u64::try_from(rows.len()).map_err(|_| WriteError::TooLarge)?;
        let pages = self.next_page.saturating_sub(first_page);
        self.tables.push(TableEntry { table, first_page, pages, records });
        Ok(())
    }

    fn finish_page(&mut self) -> Result<(), WriteError> {
        self.payload.resize(PAYLOAD_BYTES, 0);
        let checksum = page_checksum(self.identity.generation, self.next_page, &self.payload);
        self.out.write_all(&self.payload)?;
        self.out.write_all(&checksum.to_be_bytes())?;
        self.payload.clear();
        self.next_page = self.next_page.checked_add(1).ok_or(WriteError::TooLarge)?;
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
