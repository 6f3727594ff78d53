//! Where fetched entries wait: in a file without a name, beyond a few megabytes, since a realm's whole log is far larger than the
//! state that it leads to. An entry is written as it comes, is *verified* when its shard has been folded to the proved slot, and is
//! handed out only after that, in pieces of whole blocks over all shards.
//!
//! The file is no more believed than the node was: the fold that reaches the proved slot notes where each segment of the file
//! ends, and a segment that is read again counts only if it leads there again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use alloy_primitives::{Address, Bytes, U256};
use countersign_registry::{
    head::{Fold, LogEntry, PlacedEntry, Tip},
    pin::RealmPin,
    realm::BlockRef,
};
use tempfile::SpooledTempFile;

use crate::{error::ChainError, logs::Want};

/// What stays in memory before there is a file, bytes.
const IN_MEMORY: usize = 4 << 20;
/// A segment is written once it has this many bytes; it is what is read at once of a shard.
const SEGMENT: usize = 32 << 10;
/// Bytes of all segments that are not written yet.
const UNWRITTEN: usize = 4 << 20;
/// A piece ends with the block in which it passes this many bytes.
const PIECE: usize = 1 << 20;
/// Bytes of an entry beside its data: block, actor, meta, length of the data.
const ENTRY_HEAD: usize = 8 + 20 + 32 + 8;

/// Where entries may wait, and how much of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spill {
    /// The directory of the file; nobody else should be able to fill its file system.
    pub directory: PathBuf,
    /// The most bytes of entries of one look; the file system needs twice as much in the worst case.
    pub limit: u64,
}

impl Default for Spill {
    /// The system's directory of temporary files, 1 GiB.
    fn default() -> Self {
        Self { directory: std::env::temp_dir(), limit: 1 << 30 }
    }
}

/// A run of one shard's entries in the file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    length: usize,
    /// Where the fold stands after it; set when the shard was verified.
    end: Tip,
}

/// Entries that came, by shard; nothing in it is to be used before [`Spool::settle`].
#[derive(Debug)]
pub(crate) struct Spool {
    file: SpooledTempFile,
    directory: PathBuf,
    limit: u64,
    length: u64,
    segments: BTreeMap<u64, Vec<Segment>>,
    /// Not in the file yet, by shard.
    unwritten: BTreeMap<u64, Vec<u8>>,
    unwritten_bytes: usize,
}

/// One shard, once it was folded to its proved slot.
#[derive(Clone, Copy, Debug)]
struct Settled {
    from: Tip,
    end: Tip,
    until: u64,
}

/// Verified entries of some shards, waiting to be read.
#[derive(Debug)]
pub struct Entries {
    pin: RealmPin,
    spool: Spool,
    settled: BTreeMap<u64, Settled>,
}

/// Consecutive blocks: every verified entry in them of every shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The last of these blocks that has an entry.
    pub until: BlockRef,
    /// In the order of blocks; within a block by shard and index.
    pub entries: Vec<PlacedEntry>,
}

/// What is left of verified entries.
#[derive(Debug)]
pub struct Pieces {
    entries: Entries,
    shards: BTreeMap<u64, Cursor>,
    /// Block of the next entry, and its shard.
    next: BTreeSet<(u64, u64)>,
}

/// Where a shard is being read.
#[derive(Debug)]
struct Cursor {
    fold: Fold,
    segments: std::vec::IntoIter<Segment>,
    ready: VecDeque<PlacedEntry>,
}

impl Spool {
    /// An empty one that takes `limit` bytes.
    pub(crate) fn new(spill: &Spill, limit: u64) -> Self {
        Self {
            file: tempfile::spooled_tempfile_in(IN_MEMORY, &spill.directory),
            directory: spill.directory.clone(),
            limit,
            length: 0,
            segments: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            unwritten_bytes: 0,
        }
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.length.saturating_add(u64::try_from(self.unwritten_bytes).unwrap_or(u64::MAX))
    }

    /// Adds the next entry of its shard.
    ///
    /// # Errors
    /// `LogTooLarge` beyond the limit, `File`.
    pub(crate) fn push(&mut self, block: u64, entry: &LogEntry) -> Result<(), ChainError> {
        let bytes = self.unwritten.entry(entry.shard).or_default();
        let before = bytes.len();
        encode(bytes, block, entry);
        let filled = bytes.len();
        self.unwritten_bytes = self.unwritten_bytes.saturating_add(filled.saturating_sub(before));
        self.check_limit(entry.shard)?;
        if filled >= SEGMENT {
            self.write(entry.shard)?;
        }
        if self.unwritten_bytes > UNWRITTEN {
            self.write_all()?;
        }
        Ok(())
    }

    /// Adds the last block of a shard before those that are there: one segment, to be put in order by [`Spool::reverse`].
    ///
    /// # Errors
    /// As [`Spool::push`].
    pub(crate) fn push_before<'a>(
        &mut self,
        shard: u64,
        block: u64,
        entries: impl Iterator<Item = &'a LogEntry>,
    ) -> Result<(), ChainError> {
        let mut bytes = Vec::new();
        for entry in entries {
            encode(&mut bytes, block, entry);
        }
        self.append(shard, &bytes, Tip::default())?;
        self.check_limit(shard)
    }

    /// What came of a shard came from its end to its beginning.
    pub(crate) fn reverse(&mut self, shard: u64) {
        if let Some(segments) = self.segments.get_mut(&shard) {
            segments.reverse();
        }
    }

    fn check_limit(&self, shard: u64) -> Result<(), ChainError> {
        if self.bytes() > self.limit {
            return Err(ChainError::LogTooLarge { shard, limit: self.limit });
        }
        Ok(())
    }

    fn write_all(&mut self) -> Result<(), ChainError> {
        while let Some(shard) = self.unwritten.keys().next().copied() {
            self.write(shard)?;
        }
        Ok(())
    }

    fn write(&mut self, shard: u64) -> Result<(), ChainError> {
        let Some(bytes) = self.unwritten.remove(&shard) else { return Ok(()) };
        self.unwritten_bytes = self.unwritten_bytes.saturating_sub(bytes.len());
        self.append(shard, &bytes, Tip::default())
    }

    fn append(&mut self, shard: u64, bytes: &[u8], end: Tip) -> Result<(), ChainError> {
        let offset = self.length;
        let written = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|error| self.failed(error))?;
        self.length = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.segments.entry(shard).or_default().push(Segment { offset, length: bytes.len(), end });
        Ok(())
    }

    fn read(&mut self, segment: &Segment) -> Result<Bytes, ChainError> {
        let mut bytes = vec![0; segment.length];
        let read = self.file.seek(SeekFrom::Start(segment.offset)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|error| self.failed(error))?;
        Ok(bytes.into())
    }

    /// Folds a shard, segment by segment. Its entries count from then on; none where they do not lead to the proved slot.
    ///
    /// # Errors
    /// `File`.
    pub(crate) fn settle(&mut self, pin: &RealmPin, want: &Want) -> Result<Option<Tip>, ChainError> {
        self.write_all()?;
        let mut fold = fold(pin, want.shard, want.from, want.until);
        let mut segments = self.segments.remove(&want.shard).unwrap_or_default();
        for segment in &mut segments {
            let bytes = self.read(segment)?;
            if each(want.shard, &bytes, |block, entry| fold.push(entry, block).ok().map(|_| ())).is_none() {
                return Ok(None);
            }
            segment.end = fold.tip();
        }
        let Ok(tip) = fold.finish(want.slot) else { return Ok(None) };
        self.segments.insert(want.shard, segments);
        Ok(Some(tip))
    }

    fn failed(&self, source: io::Error) -> ChainError {
        ChainError::File { path: self.directory.clone(), source }
    }
}

impl Entries {
    /// None so far.
    pub(crate) fn new(pin: &RealmPin, spill: &Spill) -> Self {
        Self { pin: pin.clone(), spool: Spool::new(spill, spill.limit), settled: BTreeMap::new() }
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// A shard of which nothing more is new.
    pub(crate) fn nothing_new(&mut self, want: &Want) {
        self.settle(want, want.from);
    }

    /// Entries of a shard that were verified before; what is fetched of it begins where they end.
    ///
    /// # Errors
    /// As [`Spool::push`].
    pub(crate) fn known(&mut self, want: &Want, entries: &[PlacedEntry], end: Tip) -> Result<(), ChainError> {
        let mut bytes = Vec::new();
        for placed in entries {
            encode(&mut bytes, placed.at.block, &placed.entry);
        }
        self.spool.append(want.shard, &bytes, end)?;
        self.spool.check_limit(want.shard)?;
        self.settle(want, end);
        Ok(())
    }

    /// A shard may be settled in two steps.
    fn settle(&mut self, want: &Want, end: Tip) {
        let from = self.settled.get(&want.shard).map_or(want.from, |before| before.from);
        self.settled.insert(want.shard, Settled { from, end, until: want.until });
    }

    /// Takes over a shard that `spool` has settled; what else is in `spool` stays there.
    pub(crate) fn absorb(&mut self, spool: &mut Spool, want: &Want, end: Tip) -> Result<(), ChainError> {
        for segment in spool.segments.remove(&want.shard).unwrap_or_default() {
            let bytes = spool.read(&segment)?;
            self.spool.append(want.shard, &bytes, segment.end)?;
        }
        self.settle(want, end);
        Ok(())
    }

    /// Takes over a spool of which every shard is settled, in place of an empty one.
    pub(crate) fn replace(&mut self, spool: Spool, settled: &[(Want, Tip)]) {
        self.spool = spool;
        for (want, end) in settled {
            self.settle(want, *end);
        }
    }

    /// Where each shard that was asked for ends.
    pub fn tips(&self) -> impl Iterator<Item = (u64, Tip)> {
        self.settled.iter().map(|(shard, settled)| (*shard, settled.end))
    }

    /// How many entries there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        let new = |settled: &Settled| settled.end.entries.saturating_sub(settled.from.entries);
        self.settled.values().map(new).fold(0, u64::saturating_add)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// The first entry of a shard that was read from its beginning; none where it is empty.
    ///
    /// # Errors
    /// `File`.
    pub fn first_of(&mut self, shard: u64) -> Result<Option<PlacedEntry>, ChainError> {
        let Some(settled) = self.settled.get(&shard).copied() else { return Ok(None) };
        let Some(segment) = self.spool.segments.get(&shard).and_then(|segments| segments.first().copied()) else {
            return Ok(None);
        };
        let mut fold = fold(&self.pin, shard, settled.from, settled.until);
        let mut first = None;
        let bytes = self.spool.read(&segment)?;
        let whole = each(shard, &bytes, |block, entry| {
            let placed = fold.push(entry, block).ok()?;
            first.get_or_insert(placed);
            Some(())
        });
        if whole.is_none() || fold.tip() != segment.end {
            let changed = io::Error::new(io::ErrorKind::InvalidData, "entries were changed while they waited");
            return Err(self.spool.failed(changed));
        }
        Ok(first.filter(|placed| placed.at.index == 0))
    }

    /// The entries, a bounded piece at a time.
    ///
    /// # Errors
    /// `File`.
    pub fn pieces(mut self) -> Result<Pieces, ChainError> {
        let segments = std::mem::take(&mut self.spool.segments);
        let mut pieces = Pieces { entries: self, shards: BTreeMap::new(), next: BTreeSet::new() };
        for (shard, segments) in segments {
            let Some(settled) = pieces.entries.settled.get(&shard) else { continue };
            let fold = fold(&pieces.entries.pin, shard, settled.from, settled.until);
            pieces.shards.insert(shard, Cursor { fold, segments: segments.into_iter(), ready: VecDeque::new() });
            pieces.look_ahead(shard)?;
        }
        Ok(pieces)
    }

    /// All entries at once, by shard; every shard asked for has a key.
    ///
    /// # Errors
    /// `File`.
    pub fn collect(self) -> Result<BTreeMap<u64, Vec<PlacedEntry>>, ChainError> {
        let mut all: BTreeMap<u64, Vec<PlacedEntry>> = self.settled.keys().map(|shard| (*shard, Vec::new())).collect();
        let mut pieces = self.pieces()?;
        while let Some(piece) = pieces.next_piece()? {
            for placed in piece.entries {
                all.entry(placed.at.shard).or_default().push(placed);
            }
        }
        Ok(all)
    }
}

impl Pieces {
    /// The next piece; none when all entries were handed out.
    ///
    /// # Errors
    /// `File`, also when the file does not hold any more what was verified.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, ChainError> {
        let mut entries = Vec::new();
        let mut bytes = 0_usize;
        let mut until = BlockRef::default();
        while let Some((block, shard)) = self.next.first().copied() {
            if block != until.number && bytes >= PIECE {
                break;
            }
            self.next.remove(&(block, shard));
            while let Some(placed) = self.take_if_in(shard, block)? {
                bytes = bytes.saturating_add(placed.entry.data.len()).saturating_add(ENTRY_HEAD);
                until = BlockRef { number: block, time: placed.at.time };
                entries.push(placed);
            }
        }
        Ok((!entries.is_empty()).then_some(Piece { until, entries }))
    }

    /// The shard's next entry, where it is in this block; else the shard waits for its next one's turn.
    fn take_if_in(&mut self, shard: u64, block: u64) -> Result<Option<PlacedEntry>, ChainError> {
        self.look_ahead(shard)?;
        let Some(cursor) = self.shards.get_mut(&shard) else { return Ok(None) };
        if cursor.ready.front().is_some_and(|placed| placed.at.block == block) {
            self.next.remove(&(block, shard));
            return Ok(cursor.ready.pop_front());
        }
        Ok(None)
    }

    /// Reads the shard's next segment when the one before is used up.
    fn look_ahead(&mut self, shard: u64) -> Result<(), ChainError> {
        let Some(cursor) = self.shards.get_mut(&shard) else { return Ok(()) };
        while cursor.ready.is_empty() {
            let Some(segment) = cursor.segments.next() else {
                self.shards.remove(&shard);
                return Ok(());
            };
            let bytes = self.entries.spool.read(&segment)?;
            let (fold, ready) = (&mut cursor.fold, &mut cursor.ready);
            let whole = each(shard, &bytes, |block, entry| {
                ready.push_back(fold.push(entry, block).ok()?);
                Some(())
            });
            if whole.is_none() || fold.tip() != segment.end {
                ready.clear();
                let changed = io::Error::new(io::ErrorKind::InvalidData, "entries were changed while they waited");
                return Err(self.entries.spool.failed(changed));
            }
        }
        if let Some(placed) = cursor.ready.front() {
            self.next.insert((placed.at.block, shard));
        }
        Ok(())
    }
}

/// What a fetch that asked for these wants spools to.
fn fold(pin: &RealmPin, shard: u64, from: Tip, until: u64) -> Fold {
    Fold::new(pin.chain_id, pin.contract, pin.realm, shard, from, until)
}

fn encode(bytes: &mut Vec<u8>, block: u64, entry: &LogEntry) {
    bytes.extend_from_slice(&block.to_be_bytes());
    bytes.extend_from_slice(entry.actor.as_slice());
    bytes.extend_from_slice(&entry.meta.to_be_bytes::<32>());
    bytes.extend_from_slice(&entry.data.len().to_be_bytes());
    bytes.extend_from_slice(&entry.data);
}

/// Every entry of a segment with its block; none when the segment does not parse or `take` refuses one.
fn each(shard: u64, segment: &Bytes, mut take: impl FnMut(u64, LogEntry) -> Option<()>) -> Option<()> {
    let mut rest: &[u8] = segment;
    while !rest.is_empty() {
        let (block, after) = rest.split_first_chunk::<8>()?;
        let (actor, after) = after.split_first_chunk::<20>()?;
        let (meta, after) = after.split_first_chunk::<32>()?;
        let (length, after) = after.split_first_chunk()?;
        let (data, after) = after.split_at_checked(usize::from_be_bytes(*length))?;
        let entry = LogEntry {
            shard,
            actor: Address::from(*actor),
            meta: U256::from_be_bytes(*meta),
            data: segment.0.slice_ref(data).into(),
        };
        take(u64::from_be_bytes(*block), entry)?;
        rest = after;
    }
    Some(())
}

impl Spill {
    /// In that directory, as much as by default.
    #[must_use]
    pub fn into_directory(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use countersign_registry::{Kind, head::Meta, shard};

    use super::*;

    const LIMIT: u64 = 64 << 20;

    fn pin() -> RealmPin {
        RealmPin {
            chain_id: 31337,
            contract: Address::repeat_byte(9),
            code_hash: B256::ZERO,
            realm: B256::repeat_byte(7),
            threshold: 1,
            roots: Vec::new(),
            salt: B256::ZERO,
            deployed_block: 0,
            genesis_hash: B256::ZERO,
        }
    }

    fn spill() -> Spill {
        Spill { limit: LIMIT, ..Spill::default() }
    }

    /// One shard's log: `count` entries of `size` bytes, the first in block `first`, `step` blocks apart, and what asks for it.
    fn log(shard: u64, count: u64, size: usize, first: u64, step: u64) -> (Vec<PlacedEntry>, Want) {
        let mut placed: Vec<PlacedEntry> = Vec::new();
        let mut fold = fold(&pin(), shard, Tip::default(), 1 << 20);
        for (index, block) in (0..count).map(|index| (index, first.wrapping_add(index.wrapping_mul(step)))) {
            let prev_block = placed.last().map_or(0, |last| u32::try_from(last.at.block).unwrap());
            let meta = Meta { kind: Kind::USER_ADD, prev_block, time: block.wrapping_mul(2) }.pack();
            let data = vec![u8::try_from(index % 251).unwrap(); size].into();
            placed.push(fold.push(LogEntry { shard, actor: Address::repeat_byte(1), meta, data }, block).unwrap());
        }
        let want = Want { shard, from: Tip::default(), after: 0, slot: fold.tip().slot, until: 1 << 20 };
        (placed, want)
    }

    /// What a fetch does with logs in the order of blocks.
    fn entries(logs: &[(Vec<PlacedEntry>, Want)]) -> Entries {
        let mut spool = Spool::new(&spill(), LIMIT);
        let mut all: Vec<&PlacedEntry> = logs.iter().flat_map(|(log, _)| log).collect();
        all.sort_by_key(|placed| (placed.at.block, placed.at.index));
        for placed in all {
            spool.push(placed.at.block, &placed.entry).unwrap();
        }
        let mut settled = Vec::new();
        for (_, want) in logs {
            settled.push((*want, spool.settle(&pin(), want).unwrap().expect("a whole log")));
        }
        let mut entries = Entries::new(&pin(), &spill());
        entries.replace(spool, &settled);
        entries
    }

    fn realm() -> Vec<(Vec<PlacedEntry>, Want)> {
        vec![
            log(shard::GOVERNANCE, 5, 300, 1, 1000),
            log(shard::DIRECTORY, 3000, 500, 3, 1),
            log(shard::DENIALS, 40, 4096, 2500, 0),
            log(shard::shard(4, 20_000), 700, 24_576, 2000, 2),
        ]
    }

    #[test]
    fn pieces_are_whole_blocks_in_their_order_bounded_in_size_and_miss_nothing() {
        let realm = realm();
        let mut expected: Vec<PlacedEntry> = realm.iter().flat_map(|(log, _)| log.clone()).collect();
        expected.sort_by_key(|placed| (placed.at.block, placed.at.shard, placed.at.index));
        let entries = entries(&realm);
        assert!(entries.spool.file.is_rolled(), "more than stays in memory");
        assert_eq!(entries.count(), u64::try_from(expected.len()).unwrap());
        let mut pieces = entries.pieces().unwrap();
        let (mut found, mut last, mut count) = (Vec::new(), 0, 0);
        while let Some(piece) = pieces.next_piece().unwrap() {
            let blocks = piece.entries.iter().map(|placed| placed.at.block);
            assert!(blocks.clone().min().unwrap() > last, "a block is never in two pieces");
            last = piece.until.number;
            assert_eq!((blocks.max().unwrap(), piece.until.time), (last, last * 2));
            let bytes: usize = piece.entries.iter().map(|placed| placed.entry.data.len()).sum();
            assert!(bytes < PIECE + 200_000, "{bytes} bytes");
            found.extend(piece.entries);
            count += 1;
        }
        assert!(count > 15, "{count} pieces");
        assert!(found == expected);
    }

    #[test]
    fn what_comes_from_the_end_of_a_shard_to_its_beginning_is_the_same() {
        let (placed, want) = log(shard::DIRECTORY, 90, 20_000, 10, 1);
        let mut spool = Spool::new(&spill(), LIMIT);
        // Three entries a block, more than a segment takes.
        let block = |index: usize| 10 + u64::try_from(index / 3).unwrap();
        let mut fold = fold(&pin(), want.shard, Tip::default(), want.until);
        let mut previous = 0;
        let mut again = Vec::new();
        for (index, placed) in placed.iter().enumerate() {
            let meta = Meta { prev_block: previous, ..Meta::unpack(placed.entry.meta).unwrap() }.pack();
            again.push(fold.push(LogEntry { meta, ..placed.entry.clone() }, block(index)).unwrap());
            previous = u32::try_from(block(index)).unwrap();
        }
        for chunk in again.chunks(3).rev() {
            spool.push_before(want.shard, chunk[0].at.block, chunk.iter().map(|placed| &placed.entry)).unwrap();
        }
        spool.reverse(want.shard);
        let want = Want { slot: fold.tip().slot, ..want };
        let tip = spool.settle(&pin(), &want).unwrap().unwrap();
        let mut entries = Entries::new(&pin(), &spill());
        entries.absorb(&mut spool, &want, tip).unwrap();
        assert_eq!(entries.collect().unwrap(), BTreeMap::from([(want.shard, again)]));
    }

    #[test]
    fn a_log_that_does_not_lead_to_the_proved_slot_hands_out_nothing() {
        let (placed, want) = log(shard::DIRECTORY, 50, 100, 10, 1);
        for missing in [0, 25, 49] {
            let mut spool = Spool::new(&spill(), LIMIT);
            for (_, placed) in placed.iter().enumerate().filter(|(index, _)| *index != missing) {
                spool.push(placed.at.block, &placed.entry).unwrap();
            }
            assert!(spool.settle(&pin(), &want).unwrap().is_none(), "without entry {missing}");
            assert!(!spool.segments.contains_key(&want.shard));
        }
    }

    #[test]
    fn a_file_changed_at_any_place_after_it_was_verified_hands_out_nothing_of_that_segment() {
        let logs = [log(shard::DIRECTORY, 40, 1500, 10, 1)];
        let length = entries(&logs).spool.length;
        let mut refused = 0;
        for at in (0..length).step_by(97) {
            let mut entries = entries(&logs);
            let file = &mut entries.spool.file;
            let mut byte = [0];
            file.seek(SeekFrom::Start(at)).unwrap();
            file.read_exact(&mut byte).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[byte[0] ^ 1]).unwrap();
            let mut handed_out = Vec::new();
            let outcome = entries.pieces().and_then(|mut pieces| {
                while let Some(piece) = pieces.next_piece()? {
                    handed_out.extend(piece.entries);
                }
                Ok(())
            });
            let honest = &logs[0].0;
            assert!(honest.starts_with(&handed_out), "{at}");
            match outcome {
                // Only the low half of a block number is hashed, and only that half is used.
                Ok(()) => assert_eq!(handed_out.len(), honest.len(), "{at}"),
                Err(error) => {
                    assert!(error.to_string().ends_with("entries were changed while they waited"), "{at}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 600, "{refused}");
    }

    #[test]
    fn no_more_waits_than_the_limit_and_a_shard_taken_over_counts() {
        let (placed, want) = log(shard::DIRECTORY, 100, 1000, 10, 1);
        let mut spool = Spool::new(&spill(), 20_000);
        let refused = placed.iter().position(|placed| spool.push(placed.at.block, &placed.entry).is_err()).unwrap();
        assert_eq!(refused, 20_000 / (1000 + ENTRY_HEAD));
        let error = spool.push(1, &placed[0].entry).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shard 0x100000000: more than 20000 bytes of entries between two heads, those of other shards included"
        );
        let entries = entries(&[(placed, want)]);
        assert_eq!(entries.bytes(), 100 * u64::try_from(1000 + ENTRY_HEAD).unwrap());
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let spill = Spill { directory: "/nonexistent/state".into(), limit: LIMIT };
        let (placed, _) = log(shard::DIRECTORY, 300, 24_000, 10, 1);
        let mut spool = Spool::new(&spill, LIMIT);
        let error = placed.iter().find_map(|placed| spool.push(placed.at.block, &placed.entry).err()).unwrap();
        assert!(error.to_string().starts_with("/nonexistent/state: "), "{error}");
    }
}
