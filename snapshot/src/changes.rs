//! What a delta is made of: the difference between tables and the base that is in place.
//!
//! The base's records are read in the order in which tables are written, so that both are gone through once, side by side: no copy of the
//! base is held, and a delta always tells the difference from the very file that
//! readers will put below it. (Where a publisher knows what has changed since the delta in place, only that is looked up in the base:
//! [`crate::write::FileWriter::touched`].) Refuses a base with a page whose checksum or order is wrong: there is no delta on that.

use crate::codec::{BlobRef, BlobSink};
use crate::error::ReadError;
use crate::file::TableFile;
use crate::layout::{DIGEST_BYTES, Digest, Fields, MAX_BLOB_BYTES, PAGE_BYTES, PAYLOAD_BYTES, Page, TableEntry};

/// A base smaller than this is written anew: that takes hardly longer than a delta, whose two syncs are most of it, and lookups are then
/// spared the second file.
const LEAST_BASE_PAGES: u64 = 128;

/// What a delta may always hold where there is one.
const LEAST_DELTA_PAGES: u64 = 16;

/// Bytes that one change is reckoned to add to a delta: the largest record is 94, a revoked serial 17.
const CHANGE_BYTES: u64 = 64;

/// How many pages a delta may have before another base is written; none: always another base.
///
/// Each publication writes the whole delta again, half of the limit *L* on average; and a base of *B* bytes once in *L* / *c* changes of
/// *c* bytes. *L* / 2 + *B c* / *L* is least at √(2 *B c*): the share falls as the base grows, from an eighth to a thousandth and less.
pub(crate) fn delta_limit_pages(base_bytes: u64) -> Option<u64> {
    let page_bytes = u64::try_from(PAGE_BYTES).unwrap_or(u64::MAX);
    let base_pages = base_bytes.checked_div(page_bytes).unwrap_or(0);
    let best = base_bytes.saturating_mul(CHANGE_BYTES.saturating_mul(2)).isqrt();
    (base_pages >= LEAST_BASE_PAGES).then(|| best.checked_div(page_bytes).unwrap_or(0).max(LEAST_DELTA_PAGES))
}

/// A table of a file that is in place, gone through in order.
pub(crate) struct Records<'a> {
    file: &'a TableFile,
    entry: TableEntry,
    record_bytes: usize,
    /// The page in `page`, counted from the table's first; the table's number of pages once all are read.
    index: u32,
    page: Box<Page>,
    /// Where in the page the current record begins, and where the page's records end.
    at: usize,
    end: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn begin(file: &'a TableFile, entry: TableEntry) -> Result<Self, ReadError> {
        let record_bytes = entry.table.record_bytes(file.header.kind);
        let mut records = Self { file, entry, record_bytes, index: 0, page: Box::new([0; PAGE_BYTES]), at: 0, end: 0 };
        records.read_page(None)?;
        Ok(records)
    }

    /// The current record's digest; none after the last one.
    pub(crate) fn digest(&self) -> Option<Digest> {
        let record = self.page.get(self.at..self.end)?;
        record.first_chunk::<DIGEST_BYTES>().copied()
    }

    /// What follows the current record's digest.
    pub(crate) fn body(&self) -> &[u8] {
        let begin = self.at.saturating_add(DIGEST_BYTES);
        self.page.get(begin..self.at.saturating_add(self.record_bytes)).unwrap_or_default()
    }

    /// Goes to the next record.
    pub(crate) fn advance(&mut self) -> Result<(), ReadError> {
        let before = self.digest();
        self.at = self.at.saturating_add(self.record_bytes);
        if self.at >= self.end {
            self.index = self.index.saturating_add(1);
            return self.read_page(before);
        }
        self.check_order(before)
    }

    fn read_page(&mut self, before: Option<Digest>) -> Result<(), ReadError> {
        (self.at, self.end) = (0, 0);
        if self.index >= self.entry.pages {
            return Ok(());
        }
        self.file.read_page(self.entry.first_page.saturating_add(self.index), &mut self.page)?;
        self.end = self.file.records_in(&self.entry, self.index).saturating_mul(self.record_bytes).min(PAYLOAD_BYTES);
        self.check_order(before)
    }

    fn check_order(&self, before: Option<Digest>) -> Result<(), ReadError> {
        if self.digest() > before {
            return Ok(());
        }
        Err(self
            .file
            .corrupt(self.entry.first_page.saturating_add(self.index), "records in the order of their digests"))
    }
}

/// Blobs of the base, which stand in the order of their records: a page is read once.
pub(crate) struct BaseBlobs<'a> {
    file: &'a TableFile,
    page: Box<Page>,
    index: Option<u64>,
}

impl<'a> BaseBlobs<'a> {
    pub(crate) fn new(file: &'a TableFile) -> Self {
        Self { file, page: Box::new([0; PAGE_BYTES]), index: None }
    }

    /// Whether the base has these bytes there.
    fn is(&mut self, reference: BlobRef, expected: &[u8]) -> Result<bool, ReadError> {
        if usize::from(reference.length) != expected.len() {
            return Ok(false);
        }
        let payload = u64::try_from(PAYLOAD_BYTES).unwrap_or(1);
        let (mut offset, mut expected) = (reference.offset, expected);
        while !expected.is_empty() {
            let index = offset.checked_div(payload).unwrap_or(0);
            let skip = usize::try_from(offset.checked_rem(payload).unwrap_or(0)).unwrap_or(0);
            if self.index != Some(index) {
                self.index = None;
                self.file.read_blob_page(index, &mut self.page)?;
                self.index = Some(index);
            }
            let there = self.page.get(skip..PAYLOAD_BYTES).unwrap_or_default();
            let there = there.get(..expected.len()).unwrap_or(there);
            let Some(rest) = expected.strip_prefix(there).filter(|_| !there.is_empty()) else { return Ok(false) };
            offset = offset.saturating_add(u64::try_from(there.len()).unwrap_or(u64::MAX));
            expected = rest;
        }
        Ok(true)
    }

    /// Whether a record of the base says what was encoded with [`OneBlob`].
    pub(crate) fn same(&mut self, body: &[u8], encoded: &[u8], blob: &OneBlob) -> Result<bool, ReadError> {
        let Some(expected) = &blob.bytes else { return Ok(body == encoded) };
        // A record that has a blob ends with its place, which differs from file to file.
        let split = |bytes: &'_ [u8]| bytes.len().checked_sub(BlobRef::BYTES);
        let fixed = split(body).and_then(|at| body.split_at_checked(at));
        let encoded = split(encoded).and_then(|at| encoded.get(..at));
        let (Some((fixed, reference)), Some(encoded)) = (fixed, encoded) else { return Ok(false) };
        match BlobRef::read(&mut Fields::new(reference)) {
            Some(reference) if fixed == encoded => self.is(reference, expected),
            _ => Ok(false),
        }
    }
}

/// Takes the one blob that a record may have, to be compared.
#[derive(Default)]
pub(crate) struct OneBlob {
    bytes: Option<Vec<u8>>,
}

impl BlobSink for OneBlob {
    fn put(&mut self, blob: &[u8]) -> Option<BlobRef> {
        let length = u16::try_from(blob.len()).ok().filter(|length| *length <= MAX_BLOB_BYTES)?;
        self.bytes = Some(blob.to_vec());
        Some(BlobRef { offset: 0, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_delta_falls_from_an_eighth_of_the_base_as_the_base_grows() {
        let page = u64::try_from(PAGE_BYTES).unwrap();
        assert_eq!(delta_limit_pages(0), None);
        assert_eq!(delta_limit_pages(127 * page), None);
        assert_eq!(delta_limit_pages(128 * page), Some(16));
        assert_eq!(delta_limit_pages(8_192 * page), Some(16));
        assert_eq!(delta_limit_pages(400 << 20), Some(56));
        let mut share = f64::INFINITY;
        for power in 7..32 {
            let base = 1_u32 << power;
            let limit = delta_limit_pages(u64::from(base) * page).unwrap();
            let now = f64::from(u32::try_from(limit).unwrap()) / f64::from(base);
            assert!(now < share, "{base} pages");
            share = now;
        }
    }
}
