//! One base or delta file: pages by `pread`, records by interpolation search.
//!
//! Refuses a page whose checksum is not that of its place, records out of order between pages, and answers "not there"
//! only between two neighbours that stand in valid pages (a table's ends are known from the header, which is checked too).

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::codec::{BlobRef, BlobSource};
use crate::error::{OpenError, ReadError};
use crate::layout::{
    Audience, DIGEST_BYTES, Digest, FileKind, Header, MAX_BLOB_BYTES, PAGE_BYTES, PAYLOAD_BYTES, Page, Table,
    TableEntry, page_is_whole,
};
use crate::manifest::FileRef;
use crate::open::Directory;

/// Probes by interpolation before the search halves. Salted digests are uniform: two or three are the rule.
const INTERPOLATION_PROBES: u32 = 8;

/// Pages that a lookup in one table of one file reads at most, whatever the keys: even somebody who knows the salt, and has found keys
/// whose digests lie as interpolation likes least, gets no more than the halving of as many pages as a file can have.
#[cfg(test)]
const MAX_PROBES: u32 = INTERPOLATION_PROBES + 32;

pub(crate) struct TableFile {
    file: File,
    pub(crate) header: Header,
}

const MISPLACED_BLOB: &str = "a blob within the blob region";

/// What a file says of a key.
pub(crate) enum Found<'a> {
    Absent,
    /// Only in a delta.
    Deleted,
    Body(&'a [u8]),
}

impl TableFile {
    /// Opens the file that `reference` names. `None`: it is not there any more.
    pub(crate) fn open(
        directory: &Directory,
        audience: Audience,
        kind: FileKind,
        reference: &FileRef,
    ) -> Result<Option<Self>, OpenError> {
        let name = file_name(kind, reference.generation);
        let corrupt = |expected| OpenError::Corrupt { path: directory.path_of(&name), expected };
        let Ok((file, bytes)) = directory.open_file(&name)? else { return Ok(None) };
        if bytes != reference.bytes {
            return Err(corrupt("the length that the manifest names"));
        }
        let mut page = [0; PAGE_BYTES];
        file.read_exact_at(&mut page, 0).map_err(|source| OpenError::Io { path: directory.path_of(&name), source })?;
        if !page_is_whole(reference.generation, 0, &page) {
            return Err(corrupt("the checksum of the header"));
        }
        if page.last_chunk::<4>() != Some(&reference.header_checksum.to_be_bytes()) {
            return Err(corrupt("the header that the manifest names"));
        }
        let header = Header::decode(&page, audience, kind).map_err(corrupt)?;
        if header.generation != reference.generation || header.total_bytes != bytes {
            return Err(corrupt("the generation and length that the manifest names"));
        }
        Ok(Some(Self { file, header }))
    }

    /// Where a table stands.
    pub(crate) fn entry(&self, table: Table) -> Result<TableEntry, ReadError> {
        let entry = self.header.tables.iter().find(|entry| entry.table == table);
        entry.copied().ok_or_else(|| self.corrupt(0, "the tables of this audience"))
    }

    /// The descriptor, for its owner and mode.
    pub(crate) const fn descriptor(&self) -> &File {
        &self.file
    }

    /// Looks a digest up; `page` is scratch space that the answer borrows from.
    pub(crate) fn find<'a>(&self, table: Table, wanted: &Digest, page: &'a mut Page) -> Result<Found<'a>, ReadError> {
        let entry = self.entry(table)?;
        let record_bytes = table.record_bytes(self.header.kind);
        let Some(offset) = self.search(&entry, wanted, page)? else { return Ok(Found::Absent) };
        let page_number = entry.first_page;
        let record = offset.checked_add(record_bytes).and_then(|end| page.get(offset..end));
        let after_digest = record.and_then(|record| record.get(DIGEST_BYTES..));
        let after_digest = after_digest.ok_or_else(|| self.corrupt(page_number, "a whole record"))?;
        match (self.header.kind, after_digest.split_first()) {
            (FileKind::Base, _) => Ok(Found::Body(after_digest)),
            (FileKind::Delta, Some((1, body))) => Ok(Found::Body(body)),
            (FileKind::Delta, Some((2, _))) => Ok(Found::Deleted),
            (FileKind::Delta, _) => Err(self.corrupt(page_number, "an operation of put or delete")),
        }
    }

    /// Offset in `page` of the record with this digest.
    fn search(&self, entry: &TableEntry, wanted: &Digest, page: &mut Page) -> Result<Option<usize>, ReadError> {
        let record_bytes = entry.table.record_bytes(self.header.kind);
        let (mut low, mut high) = (0u32, entry.pages);
        let (mut below, mut above): (Option<Digest>, Option<Digest>) = (None, None);
        let mut probes = 0u32;
        while low < high {
            let probe = next_probe(probes, low..high, below.as_ref(), above.as_ref(), wanted);
            probes = probes.saturating_add(1);
            let page_number = entry.first_page.saturating_add(probe);
            self.read_page(page_number, page)?;
            let count = self.records_in(entry, probe);
            let ends = (
                record_digest_at(page, 0, record_bytes),
                record_digest_at(page, count.saturating_sub(1), record_bytes),
            );
            let (Some(first), Some(last)) = ends else {
                return Err(self.corrupt(page_number, "as many records as the header says"));
            };
            let in_order =
                first <= last && below.is_none_or(|below| below < first) && above.is_none_or(|above| last < above);
            if !in_order {
                return Err(self.corrupt(page_number, "records in the order of their digests"));
            }
            if *wanted < first {
                (high, above) = (probe, Some(first));
            } else if *wanted > last {
                (low, below) = (probe.saturating_add(1), Some(last));
            } else {
                return Ok(search_page(page, count, record_bytes, wanted));
            }
        }
        Ok(None)
    }

    /// Reads every page and checks checksums, order, padding and operations. For the publisher and for `verify`, not for
    /// a login.
    pub(crate) fn verify(&self) -> Result<(), ReadError> {
        let mut page = [0; PAGE_BYTES];
        for entry in &self.header.tables {
            let mut before: Option<Digest> = None;
            for index in 0..entry.pages {
                let page_number = entry.first_page.saturating_add(index);
                self.read_page(page_number, &mut page)?;
                before = Some(self.verify_page(entry, index, &page, before)?);
            }
        }
        let blob_end = self.header.blob_first_page.saturating_add(self.header.blob_pages);
        for page_number in self.header.blob_first_page..blob_end {
            self.read_page(page_number, &mut page)?;
        }
        Ok(())
    }

    /// Returns the digest of the page's last record.
    fn verify_page(
        &self,
        entry: &TableEntry,
        index: u32,
        page: &Page,
        mut before: Option<Digest>,
    ) -> Result<Digest, ReadError> {
        let corrupt = |expected| self.corrupt(entry.first_page.saturating_add(index), expected);
        let record_bytes = entry.table.record_bytes(self.header.kind);
        let used = self.records_in(entry, index).saturating_mul(record_bytes);
        let (records, padding) = page
            .get(..PAYLOAD_BYTES)
            .and_then(|payload| payload.split_at_checked(used))
            .ok_or_else(|| corrupt("as many records as the header says"))?;
        for record in records.chunks(record_bytes) {
            let digest = record.first_chunk::<DIGEST_BYTES>().copied();
            if digest.is_none() || before >= digest {
                return Err(corrupt("records in the order of their digests"));
            }
            before = digest;
            let operation = record.get(DIGEST_BYTES);
            if self.header.kind == FileKind::Delta && !matches!(operation, Some(1 | 2)) {
                return Err(corrupt("an operation of put or delete"));
            }
        }
        if padding.iter().any(|byte| *byte != 0) {
            return Err(corrupt("zeros after the records"));
        }
        before.ok_or_else(|| corrupt("at least one record in a page"))
    }

    pub(crate) fn records_in(&self, entry: &TableEntry, page_index: u32) -> usize {
        let per_page = entry.table.records_per_page(self.header.kind);
        let before = u64::from(page_index).saturating_mul(u64::try_from(per_page).unwrap_or(u64::MAX));
        let rest = entry.records.saturating_sub(before);
        usize::try_from(rest).unwrap_or(usize::MAX).min(per_page)
    }

    pub(crate) fn read_page(&self, page_number: u32, page: &mut Page) -> Result<(), ReadError> {
        let offset = u64::from(page_number).saturating_mul(4096);
        self.file.read_exact_at(page, offset).map_err(|source| self.io(source))?;
        if page_is_whole(self.header.generation, page_number, page) {
            Ok(())
        } else {
            Err(self.corrupt(page_number, "the checksum of the page"))
        }
    }

    /// Reads a page of the blobs, counted from their first.
    pub(crate) fn read_blob_page(&self, index: u64, page: &mut Page) -> Result<(), ReadError> {
        let index = u32::try_from(index).ok().filter(|index| *index < self.header.blob_pages);
        let number = index.and_then(|index| self.header.blob_first_page.checked_add(index));
        self.read_page(number.ok_or_else(|| self.corrupt(self.header.blob_first_page, MISPLACED_BLOB))?, page)
    }

    pub(crate) fn corrupt(&self, page: u32, expected: &'static str) -> ReadError {
        ReadError::Corrupt { file: self.header.kind.stem(), generation: self.header.generation, page, expected }
    }

    fn io(&self, source: std::io::Error) -> ReadError {
        ReadError::Io { file: self.header.kind.stem(), generation: self.header.generation, source }
    }
}

impl BlobSource for TableFile {
    type Error = ReadError;

    fn blob(&self, reference: BlobRef) -> Result<Vec<u8>, ReadError> {
        let misplaced = || self.corrupt(self.header.blob_first_page, MISPLACED_BLOB);
        if reference.length == 0 {
            return Ok(Vec::new());
        }
        let end = reference.offset.checked_add(u64::from(reference.length)).ok_or_else(misplaced)?;
        if reference.length > MAX_BLOB_BYTES || end > self.header.blob_bytes {
            return Err(misplaced());
        }
        let payload = u64::try_from(PAYLOAD_BYTES).unwrap_or(1);
        let mut page_index = reference.offset.checked_div(payload).unwrap_or(0);
        let mut skip = usize::try_from(reference.offset.checked_rem(payload).unwrap_or(0)).unwrap_or(0);
        let mut missing = usize::from(reference.length);
        let mut blob = Vec::with_capacity(missing);
        let mut page = [0; PAGE_BYTES];
        while missing > 0 {
            self.read_blob_page(page_index, &mut page)?;
            let available = page.get(skip..PAYLOAD_BYTES).unwrap_or_default();
            let taken = available.get(..missing).unwrap_or(available);
            blob.extend_from_slice(taken);
            missing = missing.saturating_sub(taken.len());
            (page_index, skip) = (page_index.saturating_add(1), 0);
        }
        Ok(blob)
    }

    fn malformed(&self, expected: &'static str) -> ReadError {
        self.corrupt(0, expected)
    }
}

pub(crate) fn file_name(kind: FileKind, generation: u64) -> String {
    format!("{}.{generation}", kind.stem())
}

/// The page to read next, after so many probes: by interpolation first, by halving what is left then.
fn next_probe(probes: u32, range: Range<u32>, below: Option<&Digest>, above: Option<&Digest>, wanted: &Digest) -> u32 {
    if probes < INTERPOLATION_PROBES {
        interpolate(range.start, range.end, below, above, wanted)
    } else {
        range.start.midpoint(range.end)
    }
}

/// Where in `low..high` a digest would stand if digests between the known bounds were spread evenly.
fn interpolate(low: u32, high: u32, below: Option<&Digest>, above: Option<&Digest>, wanted: &Digest) -> u32 {
    let start = below.map_or(0, leading_number);
    let end = above.map_or(u64::MAX, leading_number);
    let span = u128::from(end.saturating_sub(start)).max(1);
    let distance = u128::from(leading_number(wanted).saturating_sub(start)).min(span);
    let pages = u128::from(high.saturating_sub(low));
    let step = pages.saturating_mul(distance).checked_div(span).unwrap_or(0);
    let probe = low.saturating_add(u32::try_from(step).unwrap_or(u32::MAX));
    probe.min(high.saturating_sub(1)).max(low)
}

fn leading_number(digest: &Digest) -> u64 {
    digest.first_chunk::<8>().copied().map_or(0, u64::from_be_bytes)
}

fn record_digest_at(page: &Page, index: usize, record_bytes: usize) -> Option<Digest> {
    let offset = index.checked_mul(record_bytes)?;
    page.get(..PAYLOAD_BYTES)?.get(offset..)?.first_chunk::<DIGEST_BYTES>().copied()
}

fn search_page(page: &Page, count: usize, record_bytes: usize, wanted: &Digest) -> Option<usize> {
    let (mut low, mut high) = (0usize, count);
    while low < high {
        let middle = low.midpoint(high);
        let digest = record_digest_at(page, middle, record_bytes)?;
        match digest.cmp(wanted) {
            std::cmp::Ordering::Equal => return middle.checked_mul(record_bytes),
            std::cmp::Ordering::Less => low = middle.saturating_add(1),
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pages read until `wanted` is found or bracketed among pages with these first and last digests, as [`TableFile::find`] searches.
    fn probes(pages: u32, ends: impl Fn(u32) -> [Digest; 2], wanted: &Digest) -> u32 {
        let (mut low, mut high) = (0u32, pages);
        let (mut below, mut above): (Option<Digest>, Option<Digest>) = (None, None);
        let mut probes = 0;
        while low < high {
            let probe = next_probe(probes, low..high, below.as_ref(), above.as_ref(), wanted);
            probes = probes.saturating_add(1);
            let [first, last] = ends(probe);
            if *wanted < first {
                (high, above) = (probe, Some(first));
            } else if *wanted > last {
                (low, below) = (probe.saturating_add(1), Some(last));
            } else {
                return probes;
            }
        }
        probes
    }

    type DigestOf = fn(u32) -> Digest;

    /// Digests that somebody with the salt, and any number of tries, would have put there.
    fn adversarial() -> Vec<(&'static str, DigestOf)> {
        fn spread(leading: u64, page: u32) -> Digest {
            (u128::from(leading) << 64 | u128::from(page)).to_be_bytes()
        }
        vec![
            ("one cluster at the lower end", |page| spread(0, page)),
            ("one cluster at the upper end", |page| spread(u64::MAX, page)),
            ("all but one in one cluster", |page| spread(if page == 0 { 0 } else { u64::MAX - 1 }, page)),
            ("each half as far as the next", |page| spread(1u64 << (page / 67_108_864), page)),
            ("each twice as far from the end", |page| spread(!(u64::MAX >> (page / 67_108_864)), page)),
            ("growing by squares", |page| spread(u64::from(page).pow(2), page)),
            ("growing by roots", |page| spread(u64::from(page).isqrt() << 48, page)),
        ]
    }

    #[test]
    fn no_choice_of_keys_costs_a_lookup_more_than_the_tested_bound() {
        let mut most = 0;
        for (what, digest_of) in adversarial() {
            for pages in [1, 2, 1_000, 100_000, u32::MAX] {
                let mut wanted: Vec<Digest> = vec![[0; 16], [0xff; 16], [0x7f; 16]];
                for part in 0..200u32 {
                    let page = u32::try_from(u64::from(pages - 1) * u64::from(part) / 199).unwrap();
                    let near = u128::from_be_bytes(digest_of(page));
                    wanted.extend([near, near.saturating_add(1), near.saturating_sub(1)].map(u128::to_be_bytes));
                    wanted.extend(
                        [page.saturating_add(1), page.saturating_mul(3)].map(|page| digest_of(page.min(pages - 1))),
                    );
                }
                for wanted in wanted {
                    let probes = probes(pages, |page| [digest_of(page); 2], &wanted);
                    let halving = INTERPOLATION_PROBES + pages.checked_ilog2().unwrap() + 1;
                    assert!(probes <= halving && halving <= MAX_PROBES, "{what}: {probes} of {pages} pages");
                    most = most.max(probes);
                }
            }
        }
        assert!(most > INTERPOLATION_PROBES + 20, "the keys are not adversarial: {most} probes");
    }

    #[test]
    fn keys_that_somebody_chooses_without_the_salt_cost_two_or_three_pages() {
        use crate::codec::record_digest;
        use crate::records::Salt;
        let choices: [fn(u64) -> [u8; 16]; 3] = [
            |number| u128::from(number).to_be_bytes(),
            |number| (u128::from(number) << 64).to_be_bytes(),
            |number| (u128::MAX - u128::from(number) * u128::from(number)).to_be_bytes(),
        ];
        for choice in choices {
            let digest = |number| record_digest(&Salt([9; 16]), Table::User, &[&choice(number)]);
            let mut digests: Vec<Digest> = (0..60_000).map(digest).collect();
            digests.sort_unstable();
            // As many as a page of login names holds.
            let pages: Vec<[Digest; 2]> = digests.chunks(113).map(|page| [page[0], page[page.len() - 1]]).collect();
            let count = u32::try_from(pages.len()).unwrap();
            let all: u32 = (0..2_000)
                .map(|number| {
                    let probes = probes(count, |page| pages[usize::try_from(page).unwrap()], &digest(number * 59));
                    assert!(probes <= INTERPOLATION_PROBES, "{probes}");
                    probes
                })
                .sum();
            assert!(all < 2_000 * 3, "{all} pages in 2,000 lookups");
        }
    }

    proptest! {
        #[test]
        fn a_probe_lies_within_its_bounds(
            low: u32, length in 1u32.., below: Option<Digest>, above: Option<Digest>, wanted: Digest,
        ) {
            let high = low.saturating_add(length);
            prop_assume!(low < high);
            let probe = interpolate(low, high, below.as_ref(), above.as_ref(), &wanted);
            prop_assert!((low..high).contains(&probe));
        }
    }
}
