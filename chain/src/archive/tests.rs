//! Archives that were damaged, forged or written by others are refused.

use countersign_registry::{Kind, head::Meta, shard};

use super::*;

const ROOT_SET: B256 = B256::repeat_byte(4);

type Written = Vec<(u64, LogEntry)>;
type Log = (Written, Vec<U256>);

fn pin() -> RealmPin {
    RealmPin {
        chain_id: 31337,
        contract: Address::repeat_byte(9),
        code_hash: B256::ZERO,
        realm: B256::repeat_byte(7),
        threshold: 1,
        roots: Vec::new(),
        salt: B256::ZERO,
        deployed_block: 5,
        genesis_hash: B256::repeat_byte(6),
    }
}

fn header() -> TrustedHeader {
    let hash = B256::repeat_byte(3);
    TrustedHeader { number: 2000, hash, parent_hash: B256::ZERO, state_root: B256::ZERO, time: 90 }
}

/// `count` entries of a shard in every `step`th block, and the slots after each of them.
fn log(shard: u64, count: u8, step: usize) -> Log {
    let mut fold = Fold::new(31337, pin().contract, pin().realm, shard, Tip::default(), 1 << 20);
    let (mut entries, mut slots) = (Vec::new(), vec![U256::ZERO]);
    for (number, block) in (1..=count).zip((10..).step_by(step)) {
        let prev_block = u32::try_from(fold.tip().block).unwrap();
        let meta = Meta { kind: Kind::USER_ADD, prev_block, time: block }.pack();
        let data = vec![number; 40].into();
        let entry = LogEntry { shard, actor: Address::repeat_byte(1), meta, data };
        fold.push(entry.clone(), block).unwrap();
        entries.push((block, entry));
        slots.push(fold.tip().slot);
    }
    (entries, slots)
}

/// The verified log, as a reading gives it.
fn entries(logs: &[Log]) -> Entries {
    let spill = Spill::default();
    let mut spool = Spool::new(&spill, spill.limit);
    let mut settled = Vec::new();
    for (entries, slots) in logs {
        for (block, entry) in entries {
            spool.push(*block, entry).unwrap();
        }
        let want = from_the_first(&pin(), entries[0].1.shard, *slots.last().unwrap(), 2000).unwrap();
        settled.push((want, spool.settle(&pin(), &want).unwrap().unwrap()));
    }
    let mut entries = Entries::new(&pin(), &spill);
    entries.replace(spool, &settled);
    entries
}

struct Bed {
    directory: tempfile::TempDir,
    logs: Vec<Log>,
}

impl Bed {
    fn new() -> Self {
        Self::of([2, 8, 2])
    }

    fn of([governance, directory, denials]: [u8; 3]) -> Self {
        let logs = vec![
            log(shard::GOVERNANCE, governance, 7),
            log(shard::DIRECTORY, directory, 2),
            log(shard::DENIALS, denials, 5),
        ];
        let bed = Self { directory: tempfile::tempdir().unwrap(), logs };
        write(&bed.path(), &pin(), &header(), ROOT_SET, entries(&bed.logs)).unwrap();
        bed
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("realm.archive")
    }

    /// The heads after so many entries of each shard.
    fn heads(&self, counts: [usize; 3]) -> BTreeMap<u64, U256> {
        let pair = |((entries, slots), count): (&Log, usize)| (count > 0).then(|| (entries[0].1.shard, slots[count]));
        self.logs.iter().zip(counts).filter_map(pair).collect()
    }

    fn read(&self, counts: [usize; 3]) -> Result<Entries, ChainError> {
        read(&self.path(), &pin(), &self.heads(counts), 2000, &Spill::default())
    }

    fn with(&self, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join("other.archive");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

#[test]
fn what_was_written_is_read_up_to_any_heads_that_it_has() {
    let bed = Bed::new();
    for counts in [[2, 8, 2], [1, 7, 2], [1, 1, 0], [0, 0, 1]] {
        let found = bed.read(counts).unwrap().collect().unwrap();
        for ((log, _), count) in bed.logs.iter().zip(counts) {
            let expected: Vec<LogEntry> = log[..count].iter().map(|(_, entry)| entry.clone()).collect();
            let found = found.get(&log[0].1.shard).cloned().unwrap_or_default();
            assert_eq!(found.iter().map(|placed| placed.at.block).max(), log[..count].last().map(|(block, _)| *block));
            assert_eq!(found.into_iter().map(|placed| placed.entry).collect::<Vec<_>>(), expected, "{counts:?}");
        }
    }
    let contents = check(&bed.path(), &pin()).unwrap();
    assert_eq!((contents.entries(), contents.block), (12, (2000, B256::repeat_byte(3), 90)));
    assert_eq!(contents.root_set, ROOT_SET);
    assert_eq!(contents.heads[&shard::DIRECTORY], (bed.logs[1].1[8], 8));
}

#[test]
fn it_is_never_written_over_another_file() {
    let bed = Bed::new();
    let error = write(&bed.path(), &pin(), &header(), ROOT_SET, entries(&bed.logs)).unwrap_err();
    assert!(matches!(error, ChainError::File { .. }), "{error}");
    assert_eq!(std::fs::read_dir(bed.directory.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_file_cut_or_changed_at_any_byte_is_refused() {
    let bed = Bed::of([1, 2, 1]);
    let bytes = std::fs::read(bed.path()).unwrap();
    let heads = bed.heads([1, 2, 1]);
    for at in 0..bytes.len() {
        let cut = bed.with(&bytes[..at]);
        assert!(read(&cut, &pin(), &heads, 2000, &Spill::default()).is_err(), "cut at {at}");
        let mut changed = bytes.clone();
        changed[at] ^= 0x40;
        let changed = bed.with(&changed);
        assert!(read(&changed, &pin(), &heads, 2000, &Spill::default()).is_err(), "changed at {at}");
        assert!(check(&changed, &pin()).is_err() && examine(&changed).is_err(), "changed at {at}");
    }
    let longer = bed.with(&[&bytes[..], &[0]].concat());
    assert!(
        read(&longer, &pin(), &heads, 2000, &Spill::default()).unwrap_err().to_string().contains("bytes after its end")
    );
}

/// An archive with a right checksum, by somebody who may write what he likes.
fn forged(bed: &Bed, logs: &[Log]) -> PathBuf {
    let heads = bed.heads([2, 8, 2]).into_iter().map(|(shard, slot)| (shard, (slot, 1))).collect();
    let contents = Contents { block: (2000, B256::ZERO, 1), root_set: ROOT_SET, heads };
    let mut bytes = Vec::new();
    let mut out = Hashing { inner: &mut bytes, hasher: Keccak256::new() };
    out.write_all(&head(&pin(), &contents)).unwrap();
    for (block, entry) in logs.iter().flat_map(|(entries, _)| entries) {
        put_entry(&mut out, *block, entry).unwrap();
    }
    put_end(out, &contents).unwrap();
    bed.with(&bytes)
}

#[test]
fn an_entry_left_out_altered_put_in_or_moved_is_refused_and_one_beyond_the_heads_is_not_read() {
    let bed = Bed::new();
    let heads = bed.heads([2, 8, 2]);
    let try_with = |change: &dyn Fn(&mut Written)| {
        let mut logs = bed.logs.clone();
        change(&mut logs[1].0);
        let path = forged(&bed, &logs);
        assert!(check(&path, &pin()).is_err());
        read(&path, &pin(), &heads, 2000, &Spill::default())
    };
    for at in [0, 4, 7] {
        assert!(try_with(&|log| drop(log.remove(at))).is_err(), "left out {at}");
        assert!(try_with(&|log| log[at].1.data = vec![255; 40].into()).is_err(), "altered {at}");
        assert!(try_with(&|log| log[at].1.actor = Address::ZERO).is_err(), "by another actor {at}");
        let once = at.min(4);
        assert!(try_with(&|log| log.insert(once, log[once].clone())).is_err(), "twice {once}");
        assert!(try_with(&|log| log[at].0 += 1).is_err(), "in another block {at}");
    }
    assert!(try_with(&|log| log.swap(3, 4)).is_err(), "in another order");
    let appended = try_with(&|log| log.push((500, LogEntry { data: vec![2; 9].into(), ..log[7].1.clone() }))).unwrap();
    assert_eq!(appended.count(), 12, "what is beyond the head does not count");
}

#[test]
fn another_realms_archive_is_refused() {
    let bed = Bed::new();
    let others = [
        RealmPin { chain_id: 1, ..pin() },
        RealmPin { contract: Address::ZERO, ..pin() },
        RealmPin { realm: B256::ZERO, ..pin() },
        RealmPin { genesis_hash: B256::ZERO, ..pin() },
    ];
    for other in others {
        let error = read(&bed.path(), &other, &BTreeMap::new(), 2000, &Spill::default()).unwrap_err();
        assert!(error.to_string().contains("is of realm 0x0707"), "{error}");
    }
    // Who only wants to know whose it is gets what the file says.
    let RealmPin { chain_id, genesis_hash, contract, realm, .. } = pin();
    let (origin, contents) = examine(&bed.path()).unwrap();
    assert_eq!(origin, Origin { chain_id, genesis_hash, contract, realm });
    assert_eq!(contents, check(&bed.path(), &pin()).unwrap());
    assert!(is_archive(&bed.path()).unwrap() && !is_archive(&bed.with(b"countersign.archive.v2")).unwrap());
    // An archive of the version before, which had no rootSet slot: whole, and refused by name.
    let mut earlier = std::fs::read(bed.path()).unwrap();
    assert_eq!(&earlier[..24], b"countersign.archive.v2\n\0");
    earlier[21] = b'1';
    let earlier = bed.with(&earlier);
    let error = check(&earlier, &pin()).unwrap_err().to_string();
    assert!(is_archive(&earlier).unwrap() && error.contains("archive of version 1, expected version 2"), "{error}");
}

#[test]
fn no_more_waits_than_the_limit_whatever_the_file_holds() {
    let bed = Bed::new();
    let spill = Spill { limit: 1000, ..Spill::default() };
    let error = read(&bed.path(), &pin(), &bed.heads([2, 8, 2]), 2000, &spill).unwrap_err();
    assert!(matches!(error, ChainError::LogTooLarge { .. }), "{error}");
    let mut huge = std::fs::read(bed.path()).unwrap();
    // The length of the first entry's data.
    let at = head(&pin(), &check(&bed.path(), &pin()).unwrap()).len() + 1 + 8 + 8 + 20 + 32;
    huge[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    let error = check(&bed.with(&huge), &pin()).unwrap_err();
    assert!(error.to_string().contains("an entry of 4294967295 bytes"), "{error}");
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let bed = Bed::new();
    let fifo = bed.directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(check(&fifo, &pin()).unwrap_err().to_string().ends_with("expected a regular file"));
}
