//! A realm's log in one file, for the day on which no node of its chain answers any more: written from a verified reading, read by
//! whoever knows the heads that the log must lead to. The format is in `docs/spec/realm-archive.md`.
//!
//! The file proves nothing and need not be kept from anybody: it is folded from each shard's beginning, and unless that leads to
//! exactly the heads that the reader brings along, none of it counts. Its checksum only tells a damaged file from another log. Memory
//! is bounded by one entry and by the [`spool`](crate::spool), whatever the file says; a new file is complete or not there.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use alloy_primitives::{Address, B256, Bytes, Keccak256, U256};
use countersign_registry::{
    head::{Fold, LogEntry, Tip},
    pin::RealmPin,
};
use nix::fcntl::OFlag;

use crate::{
    error::ChainError,
    logs::Want,
    source::TrustedHeader,
    spool::{Entries, Spill, Spool},
};

const MAGIC: &[u8; 24] = b"countersign.archive.v2\n\0";
/// Refused by name: it lacks the `rootSet` slot, in whose place an entry would be read.
const VERSION_1: &[u8; 24] = b"countersign.archive.v1\n\0";
const ENTRY: u8 = 1;
const END: u8 = 2;
/// More than any entry that the contract takes.
const MAX_DATA: u32 = 1 << 20;
/// A year of days in three classes, and more.
const MAX_SHARDS: u32 = 1 << 16;

/// What an archive says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The final block up to which the log was read, by whoever wrote the file: number, hash, Unix seconds.
    pub block: (u64, B256, u64),
    /// What that block's state has in the realm's `rootSet` slot: it tells the roots' nonce, as no entry does.
    pub root_set: B256,
    /// Where each shard ends, by shard: its slot, and how many entries it has.
    pub heads: BTreeMap<u64, (U256, u64)>,
}

impl Contents {
    /// How many entries there are.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.heads.values().map(|(_, entries)| *entries).fold(0, u64::saturating_add)
    }
}

/// Writes a new archive of what was read up to `header`, with the content of the `rootSet` slot there: whole or not at all, never over
/// another file.
///
/// # Errors
/// `File`, also when the file exists already.
pub fn write(
    path: &Path,
    pin: &RealmPin,
    header: &TrustedHeader,
    root_set: B256,
    entries: Entries,
) -> Result<Contents, ChainError> {
    let failed = |source| ChainError::File { path: path.to_owned(), source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let heads: BTreeMap<u64, (U256, u64)> = entries
        .tips()
        .filter(|(_, tip)| !tip.slot.is_zero())
        .map(|(shard, tip)| (shard, (tip.slot, tip.entries)))
        .collect();
    let contents = Contents { block: (header.number, header.hash, header.time), root_set, heads };
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut temporary = tempfile::Builder::new().permissions(mode).tempfile_in(directory).map_err(failed)?;
    let mut out = Hashing { inner: BufWriter::new(temporary.as_file_mut()), hasher: Keccak256::new() };
    out.write_all(&head(pin, &contents)).map_err(failed)?;
    let mut pieces = entries.pieces()?;
    while let Some(piece) = pieces.next_piece()? {
        for placed in piece.entries {
            put_entry(&mut out, placed.at.block, &placed.entry).map_err(failed)?;
        }
    }
    put_end(out, &contents).map_err(failed)?;
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist_noclobber(path).map_err(|error| failed(error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(contents)
}

/// The entries of an archive from the beginning of each shard to exactly these heads, all of them in block `until` or before it. What the
/// file has beyond them, or of other shards, is passed over.
///
/// # Errors
/// `Archive`: the file is damaged, is another realm's, or its entries do not lead to the heads. `LogTooLarge`, `File`.
pub fn read(
    path: &Path,
    pin: &RealmPin,
    heads: &BTreeMap<u64, U256>,
    until: u64,
    spill: &Spill,
) -> Result<Entries, ChainError> {
    let mut reader = Reader::open(path, pin)?;
    let mut folds: BTreeMap<u64, Fold> = BTreeMap::new();
    let mut wants: BTreeMap<u64, Want> = BTreeMap::new();
    for (shard, slot) in heads {
        let want = from_the_first(pin, *shard, *slot, until)
            .ok_or_else(|| reader.refuse(format!("no block has head {slot:#x}")))?;
        folds.insert(*shard, Fold::new(pin.chain_id, pin.contract, pin.realm, *shard, want.from, want.until));
        wants.insert(*shard, want);
    }
    let mut spool = Spool::new(spill, spill.limit);
    while let Some((block, entry)) = reader.next_entry()? {
        let Some(want) = wants.get(&entry.shard) else { continue };
        let Some(fold) = folds.get_mut(&entry.shard).filter(|fold| fold.tip().slot != want.slot) else { continue };
        spool.push(block, &entry)?;
        let (shard, index) = (entry.shard, fold.tip().entries);
        if fold.push(entry, block).is_err() {
            return Err(reader.refuse(format!("entry {index} of shard {shard:#x} does not continue the one before it")));
        }
    }
    let mut settled = Vec::new();
    for want in wants.values() {
        let tip = spool.settle(pin, want)?.ok_or_else(|| {
            reader.refuse(format!("its entries of shard {:#x} do not lead to head {:#x}", want.shard, want.slot))
        })?;
        settled.push((*want, tip));
    }
    let mut entries = Entries::new(pin, spill);
    entries.replace(spool, &settled);
    Ok(entries)
}

/// Whose log an archive says that it is: nobody has compared it with a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Hash of the chain's block 0.
    pub genesis_hash: B256,
    /// The registry contract.
    pub contract: Address,
    /// Realm id.
    pub realm: B256,
}

/// Whether a file begins as archives do, of whatever version: readers refuse another one by name.
///
/// # Errors
/// What the system refused.
pub fn is_archive(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    let length = u64::try_from(MAGIC.len()).unwrap_or(u64::MAX);
    File::open(path)?.take(length).read_to_end(&mut start)?;
    Ok(start == MAGIC || start == VERSION_1)
}

/// Reads anybody's archive to its end, as [`check`] does: it is whole, and a log of the realm that it names.
///
/// # Errors
/// As [`check`].
pub fn examine(path: &Path) -> Result<(Origin, Contents), ChainError> {
    let reader = Reader::of_anybody(path)?;
    let origin = reader.origin;
    Ok((origin, fold_all(reader)?))
}

/// Reads an archive to its end and folds every shard to the head that the file itself names: it is whole, and a log of this realm. Whether
/// it is *the* log, only heads from elsewhere tell.
///
/// # Errors
/// `Archive`, `File`.
pub fn check(path: &Path, pin: &RealmPin) -> Result<Contents, ChainError> {
    fold_all(Reader::open(path, pin)?)
}

fn fold_all(mut reader: Reader) -> Result<Contents, ChainError> {
    let mut folds: BTreeMap<u64, Fold> = BTreeMap::new();
    let (origin, until) = (reader.origin, reader.block.0);
    while let Some((block, entry)) = reader.next_entry()? {
        let shard = entry.shard;
        if folds.len() >= usize::try_from(MAX_SHARDS).unwrap_or(usize::MAX) && !folds.contains_key(&shard) {
            return Err(reader.refuse(format!("more than {MAX_SHARDS} shards")));
        }
        let new = || Fold::new(origin.chain_id, origin.contract, origin.realm, shard, Tip::default(), until);
        let fold = folds.entry(shard).or_insert_with(new);
        let index = fold.tip().entries;
        if fold.push(entry, block).is_err() {
            return Err(reader.refuse(format!("entry {index} of shard {shard:#x} does not continue the one before it")));
        }
    }
    let contents = reader.contents();
    let found: BTreeMap<u64, (U256, u64)> =
        folds.into_iter().map(|(shard, fold)| (shard, (fold.tip().slot, fold.tip().entries))).collect();
    if found != contents.heads {
        return Err(reader.refuse("its entries do not lead to the heads that it names".to_owned()));
    }
    Ok(contents)
}

/// What is wanted of a shard whose end is known, in block `until` or before it: the slot says in which one. None where none can have it.
pub(crate) fn from_the_first(pin: &RealmPin, shard: u64, slot: U256, until: u64) -> Option<Want> {
    let until = countersign_registry::head::last_block(slot, until)?;
    Some(Want { shard, from: Tip::default(), after: pin.deployed_block.saturating_sub(1), slot, until })
}

/// Hashes what is written.
struct Hashing<W> {
    inner: W,
    hasher: Keccak256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn head(pin: &RealmPin, contents: &Contents) -> Vec<u8> {
    let (number, hash, time) = contents.block;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&pin.chain_id.to_be_bytes());
    bytes.extend_from_slice(pin.genesis_hash.as_slice());
    bytes.extend_from_slice(pin.contract.as_slice());
    bytes.extend_from_slice(pin.realm.as_slice());
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(hash.as_slice());
    bytes.extend_from_slice(&time.to_be_bytes());
    bytes.extend_from_slice(contents.root_set.as_slice());
    bytes
}

fn put_entry(out: &mut impl Write, block: u64, entry: &LogEntry) -> io::Result<()> {
    let length = u32::try_from(entry.data.len()).map_err(|_| io::Error::other("an entry of more than 4 GiB"))?;
    out.write_all(&[ENTRY])?;
    out.write_all(&entry.shard.to_be_bytes())?;
    out.write_all(&block.to_be_bytes())?;
    out.write_all(entry.actor.as_slice())?;
    out.write_all(&entry.meta.to_be_bytes::<32>())?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&entry.data)
}

fn put_end<W: Write>(mut out: Hashing<W>, contents: &Contents) -> io::Result<()> {
    let count =
        u32::try_from(contents.heads.len()).map_err(|_| io::Error::other("more shards than there are numbers"))?;
    out.write_all(&[END])?;
    out.write_all(&count.to_be_bytes())?;
    for (shard, (slot, entries)) in &contents.heads {
        out.write_all(&shard.to_be_bytes())?;
        out.write_all(&slot.to_be_bytes::<32>())?;
        out.write_all(&entries.to_be_bytes())?;
    }
    let Hashing { mut inner, hasher } = out;
    inner.write_all(hasher.finalize().as_slice())?;
    inner.flush()
}

/// An archive that is being read.
struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    hasher: Keccak256,
    origin: Origin,
    block: (u64, B256, u64),
    root_set: B256,
    heads: BTreeMap<u64, (U256, u64)>,
}

impl Reader {
    fn open(path: &Path, pin: &RealmPin) -> Result<Self, ChainError> {
        let reader = Self::of_anybody(path)?;
        let RealmPin { chain_id, genesis_hash, contract, realm, .. } = *pin;
        if reader.origin != (Origin { chain_id, genesis_hash, contract, realm }) {
            let Origin { chain_id, realm, .. } = reader.origin;
            return Err(reader.refuse(format!("is of realm {realm} on chain {chain_id}, expected {}", pin.realm)));
        }
        Ok(reader)
    }

    fn of_anybody(path: &Path) -> Result<Self, ChainError> {
        let failed = |source| ChainError::File { path: path.to_owned(), source };
        // Of a pipe or a device there would be no end.
        let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(failed)?;
        let is_file = file.metadata().map_err(failed)?.is_file();
        let (file, hasher) = (BufReader::with_capacity(64 << 10, file), Keccak256::new());
        let (block, root_set, heads) = Default::default();
        let origin = Origin { chain_id: 0, genesis_hash: B256::ZERO, contract: Address::ZERO, realm: B256::ZERO };
        let mut reader = Self { path: path.to_owned(), file, hasher, origin, block, root_set, heads };
        if !is_file {
            return Err(reader.refuse("expected a regular file".to_owned()));
        }
        match &reader.take::<24>()? {
            MAGIC => {}
            VERSION_1 => {
                let text =
                    "is a realm's archive of version 1, expected version 2: `countersign realm archive` writes one";
                return Err(reader.refuse(text.to_owned()));
            }
            _ => return Err(reader.refuse("expected a realm's archive, version 2".to_owned())),
        }
        let chain_id = u64::from_be_bytes(reader.take()?);
        let genesis_hash = B256::from(reader.take()?);
        let contract = Address::from(reader.take()?);
        let realm = B256::from(reader.take()?);
        reader.origin = Origin { chain_id, genesis_hash, contract, realm };
        reader.block =
            (u64::from_be_bytes(reader.take()?), B256::from(reader.take()?), u64::from_be_bytes(reader.take()?));
        reader.root_set = B256::from(reader.take()?);
        Ok(reader)
    }

    /// The next entry and its block; none at the end, which has then been read and its checksum compared.
    fn next_entry(&mut self) -> Result<Option<(u64, LogEntry)>, ChainError> {
        match self.take::<1>()? {
            [ENTRY] => {}
            [END] => return self.end().map(|()| None),
            [other] => return Err(self.refuse(format!("expected an entry or the end, found {other:#04x}"))),
        }
        let shard = u64::from_be_bytes(self.take()?);
        let block = u64::from_be_bytes(self.take()?);
        let actor = Address::from(self.take()?);
        let meta = U256::from_be_bytes(self.take::<32>()?);
        let length = u32::from_be_bytes(self.take()?);
        if length > MAX_DATA {
            return Err(self.refuse(format!("an entry of {length} bytes, expected at most {MAX_DATA}")));
        }
        let mut data = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.fill(&mut data)?;
        Ok(Some((block, LogEntry { shard, actor, meta, data: Bytes::from(data) })))
    }

    fn end(&mut self) -> Result<(), ChainError> {
        let count = u32::from_be_bytes(self.take()?);
        if count > MAX_SHARDS {
            return Err(self.refuse(format!("{count} shards, expected at most {MAX_SHARDS}")));
        }
        for _ in 0..count {
            let shard = u64::from_be_bytes(self.take()?);
            let slot = U256::from_be_bytes(self.take::<32>()?);
            let entries = u64::from_be_bytes(self.take()?);
            if self.heads.last_key_value().is_some_and(|(before, _)| *before >= shard) {
                return Err(self.refuse("expected its shards in ascending order".to_owned()));
            }
            self.heads.insert(shard, (slot, entries));
        }
        let expected = self.hasher.clone().finalize();
        if B256::from(self.take()?) != expected {
            return Err(self.refuse("is damaged: its checksum is another one".to_owned()));
        }
        match self.file.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.refuse("has bytes after its end".to_owned())),
            Err(source) => Err(ChainError::File { path: self.path.clone(), source }),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ChainError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ChainError> {
        match self.file.read_exact(bytes) {
            Ok(()) => {
                self.hasher.update(&*bytes);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.refuse("is damaged: it ends too early".to_owned()))
            }
            Err(source) => Err(ChainError::File { path: self.path.clone(), source }),
        }
    }

    fn contents(&self) -> Contents {
        Contents { block: self.block, root_set: self.root_set, heads: self.heads.clone() }
    }

    fn refuse(&self, detail: String) -> ChainError {
        ChainError::Archive { path: self.path.clone(), detail }
    }
}

#[cfg(test)]
mod tests;
