//! Where the facts of a snapshot come from: which entry of the ledger, in which block. For people who ask why; no login reads it.
//!
//! One file beside the two audiences, `DIRECTORY/origins`, so that what is looked at inside every login grows by nothing. It is read
//! from its beginning to its end, in little memory, and believed only where it is whole and of this realm and host; a fact that
//! is not in it is unknown, never denied or granted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use countersign_certificate::{Fingerprint20, Id, RealmId, Serial};
use crc32fast::Hasher;

use crate::error::OpenError;
use crate::open::{Directory, Trust};

/// The file's name in the snapshot's directory.
pub const ORIGINS_NAME: &str = "origins";
const TEMPORARY_NAME: &str = "origins.tmp";
const MAGIC: &[u8; 8] = b"CSIGNORI";
const VERSION: u16 = 2;
const KEY_BYTES: usize = 32;
/// Of a record, without the serials that follow one of [`SERIALS`].
const RECORD_BYTES: usize = 65;
/// The sort of a record that stands for many serials.
const SERIALS: u8 = 15;
const SERIAL_BYTES: u64 = 8;
/// Most serials that are held back until their record is written.
const SERIALS_MAX: usize = 4096;
const HEADER_BYTES: u64 = 64;
const CHECKSUM_BYTES: u64 = 4;

/// What has an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OriginOf {
    /// A user's addition.
    User(Id),
    /// A grant's.
    Grant(Id),
    /// That of a group's member: group, user.
    Membership(Id, Id),
    /// That of a registered key.
    Key(Fingerprint20),
    /// A CA's.
    Ca(Id),
    /// A batch.
    Batch(Id),
    /// A request.
    Request(Id),
    /// An answer to a request: its ordinal in the snapshot, and its time, since an older snapshot may have numbered others so.
    Answer(Id, u8, u64),
    /// The lock of a key.
    LockedKey(Fingerprint20),
    /// The revocation of a key.
    RevokedKey(Fingerprint20),
    /// The lock of a user, host, CA or batch.
    Locked(Id),
    /// The revocation of a user, host or CA.
    Revoked(Id),
    /// The removal of any record.
    Removed(Id),
    /// The retirement of a CA.
    Retired(Id),
    /// The revocation of a certificate: its CA and serial.
    Serial(Id, Serial),
    /// What locked the issuer of a batch, or took its role from it.
    Issuer(Id),
}

impl OriginOf {
    /// A stable name for the sort, in kebab-case.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Grant(_) => "grant",
            Self::Membership(..) => "membership",
            Self::Key(_) => "key",
            Self::Ca(_) => "ca",
            Self::Batch(_) => "batch",
            Self::Request(_) => "request",
            Self::Answer(..) => "answer",
            Self::LockedKey(_) => "key-lock",
            Self::RevokedKey(_) => "key-revocation",
            Self::Locked(_) => "lock",
            Self::Revoked(_) => "revocation",
            Self::Removed(_) => "removal",
            Self::Retired(_) => "retirement",
            Self::Serial(..) => "certificate-revocation",
            Self::Issuer(_) => "issuer-denial",
        }
    }

    /// Sort and key, as they stand in a record.
    fn bytes(&self) -> (u8, [u8; KEY_BYTES]) {
        let join = |first: &[u8], second: &[u8]| {
            let mut key = [0; KEY_BYTES];
            for (place, byte) in key.iter_mut().zip(first.iter().chain(second)) {
                *place = *byte;
            }
            key
        };
        match self {
            Self::User(id) => (1, join(&id.0, &[])),
            Self::Grant(id) => (2, join(&id.0, &[])),
            Self::Membership(group, user) => (3, join(&group.0, &user.0)),
            Self::Key(key) => (4, join(&key.0, &[])),
            Self::Ca(id) => (5, join(&id.0, &[])),
            Self::Batch(id) => (6, join(&id.0, &[])),
            Self::Request(id) => (7, join(&id.0, &[])),
            Self::Answer(request, ordinal, time_secs) => {
                let time_secs = time_secs.to_be_bytes();
                (8, join(&request.0, &[[*ordinal].as_slice(), &time_secs].concat()))
            }
            Self::LockedKey(key) => (9, join(&key.0, &[])),
            Self::RevokedKey(key) => (10, join(&key.0, &[])),
            Self::Locked(id) => (11, join(&id.0, &[])),
            Self::Revoked(id) => (12, join(&id.0, &[])),
            Self::Removed(id) => (13, join(&id.0, &[])),
            Self::Retired(id) => (14, join(&id.0, &[])),
            Self::Serial(ca, serial) => (SERIALS, join(&ca.0, &serial.0.to_be_bytes())),
            Self::Issuer(batch) => (16, join(&batch.0, &[])),
        }
    }
}

/// An entry of the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Number of its block.
    pub block: u64,
    /// The shard.
    pub shard: u64,
    /// How many entries of the shard come before it.
    pub index: u64,
    /// Unix time of its block.
    pub time_secs: u64,
}

/// How much of a file origins take up, in the order in which they are written. Serials of one CA that one entry has revoked, one after
/// the other, share a record.
#[derive(Clone, Debug)]
pub struct OriginsSize {
    bytes: u64,
    run: Run,
}

/// Serials of one record.
#[derive(Clone, Debug, Default)]
struct Run {
    of: Option<(Id, Origin)>,
    length: usize,
}

impl Run {
    /// Takes one more of this CA and entry; false if that needs another record.
    fn takes(&mut self, ca: Id, origin: Origin) -> bool {
        let goes_on = self.of == Some((ca, origin)) && self.length < SERIALS_MAX;
        self.length = if goes_on { self.length.saturating_add(1) } else { 1 };
        self.of = Some((ca, origin));
        goes_on
    }
}

impl Default for OriginsSize {
    fn default() -> Self {
        Self { bytes: HEADER_BYTES.saturating_add(CHECKSUM_BYTES), run: Run::default() }
    }
}

impl OriginsSize {
    /// Takes one more, and says how large a file with all of them is, in bytes.
    pub fn add(&mut self, what: &OriginOf, origin: &Origin) -> u64 {
        let record = u64::try_from(RECORD_BYTES).unwrap_or(u64::MAX);
        let more = match what {
            OriginOf::Serial(ca, _) if self.run.takes(*ca, *origin) => SERIAL_BYTES,
            OriginOf::Serial(..) => record.saturating_add(SERIAL_BYTES),
            _ => {
                self.run = Run::default();
                record
            }
        };
        self.bytes = self.bytes.saturating_add(more);
        self.bytes
    }

    /// That, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Writes the file below `directory`, in the place of the one before, readable for its owner alone.
///
/// # Errors
/// Where the system refuses; the file of before is then still there, and what was written takes up no room.
pub fn write_origins(
    directory: &Path,
    realm: &RealmId,
    host: Id,
    origins: impl Iterator<Item = (OriginOf, Origin)>,
) -> io::Result<()> {
    let temporary = directory.join(TEMPORARY_NAME);
    remove(&temporary)?;
    let written =
        write_as(&temporary, realm, host, origins).and_then(|()| fs::rename(&temporary, directory.join(ORIGINS_NAME)));
    if written.is_err() {
        // Should that fail too, the next file or publication that needs the room removes it.
        drop(remove(&temporary));
    }
    written?;
    File::open(directory)?.sync_all()
}

/// Removes the file, and what somebody who died over it has left. Returns whether there was anything.
///
/// # Errors
/// Where the system refuses.
pub fn remove_origins(directory: &Path) -> io::Result<bool> {
    let leftover = remove(&directory.join(TEMPORARY_NAME))?;
    Ok(remove(&directory.join(ORIGINS_NAME))? || leftover)
}

fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_as(
    path: &Path,
    realm: &RealmId,
    host: Id,
    origins: impl Iterator<Item = (OriginOf, Origin)>,
) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut out = Summed { inner: BufWriter::new(file), sum: Hasher::new() };
    out.put(&header(realm, host))?;
    // The record of serials that is not written yet.
    let mut held: Option<(Id, Origin, Vec<u8>)> = None;
    let mut run = Run::default();
    for (what, origin) in origins {
        if let OriginOf::Serial(ca, serial) = what {
            if !run.takes(ca, origin) {
                out.put_serials(held.replace((ca, origin, Vec::new())))?;
            }
            if let Some((.., serials)) = &mut held {
                serials.extend_from_slice(&serial.0.to_be_bytes());
            }
        } else {
            run = Run::default();
            out.put_serials(held.take())?;
            let (sort, key) = what.bytes();
            out.put(&Record { sort, key, origin }.bytes())?;
        }
    }
    out.put_serials(held)?;
    let sum = out.sum.finalize();
    out.inner.write_all(&sum.to_be_bytes())?;
    let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
}

/// The origins of `wanted`, in their order; none where one is not known.
///
/// # Errors
/// `NotFound` without a file; `InvalidData` where it is not whole, or of another realm or host; `PermissionDenied` where it
/// is not the trusted owner's alone to change.
pub fn read_origins(
    directory: &Path,
    trust: Trust,
    realm: &RealmId,
    host: Id,
    wanted: &[OriginOf],
) -> io::Result<Vec<Option<Origin>>> {
    let opened = Directory::open(directory, trust).and_then(|directory| directory.open_file(ORIGINS_NAME));
    let (file, bytes) = opened.map_err(untrusted)?.map_err(|_| io::ErrorKind::NotFound)?;
    let header = header(realm, host);
    let wrong = |expected: &'static str| io::Error::new(io::ErrorKind::InvalidData, expected);
    let whole = || wrong("expected a whole file of origins");
    let mut left = bytes.checked_sub(HEADER_BYTES.saturating_add(CHECKSUM_BYTES)).ok_or_else(whole)?;
    let mut input = Summed { inner: BufReader::new(file), sum: Hasher::new() };
    if input.take::<{ 8 + 2 + 6 + 32 + 16 }>()? != header {
        return Err(wrong("expected origins of this realm and host, version 2"));
    }
    let keys: Vec<(u8, [u8; KEY_BYTES])> = wanted.iter().map(OriginOf::bytes).collect();
    let mut found = vec![None; wanted.len()];
    let mut take = |key: (u8, [u8; KEY_BYTES]), origin: Origin| {
        for (place, _) in found.iter_mut().zip(&keys).filter(|(_, wanted)| **wanted == key) {
            place.get_or_insert(origin);
        }
    };
    while left > 0 {
        left = left.checked_sub(u64::try_from(RECORD_BYTES).unwrap_or(u64::MAX)).ok_or_else(whole)?;
        let Record { sort, key, origin } = Record::parse(&input.take()?).ok_or_else(whole)?;
        if sort != SERIALS {
            take((sort, key), origin);
            continue;
        }
        let (ca, count) = serials_of(&key).ok_or_else(whole)?;
        left = count.checked_mul(SERIAL_BYTES).and_then(|more| left.checked_sub(more)).ok_or_else(whole)?;
        for _ in 0..count {
            let serial = Serial(u64::from_be_bytes(input.take()?));
            take(OriginOf::Serial(ca, serial).bytes(), origin);
        }
    }
    let sum = input.sum.clone().finalize();
    if input.take::<4>()? != sum.to_be_bytes() {
        return Err(wrong("expected the checksum of what stands before it"));
    }
    Ok(found)
}

fn untrusted(error: OpenError) -> io::Error {
    match error {
        OpenError::Io { source, .. } => source,
        other => io::Error::new(io::ErrorKind::PermissionDenied, other),
    }
}

fn header(realm: &RealmId, host: Id) -> [u8; 64] {
    let mut header = [0; 64];
    let fields = MAGIC
        .iter()
        .chain(&VERSION.to_be_bytes())
        .chain(&[0; 6])
        .chain(&realm.0)
        .chain(&host.0)
        .copied()
        .collect::<Vec<u8>>();
    for (place, byte) in header.iter_mut().zip(fields) {
        *place = byte;
    }
    header
}

/// A record, as it stands in the file.
struct Record {
    sort: u8,
    key: [u8; KEY_BYTES],
    origin: Origin,
}

impl Record {
    fn bytes(&self) -> Vec<u8> {
        let Origin { block, shard, index, time_secs } = self.origin;
        let mut out = Vec::with_capacity(RECORD_BYTES);
        out.push(self.sort);
        out.extend_from_slice(&self.key);
        for number in [block, shard, index, time_secs] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out
    }

    fn parse(record: &[u8; RECORD_BYTES]) -> Option<Self> {
        let mut fields = crate::layout::Fields::new(record);
        let (sort, key) = (fields.u8()?, fields.array()?);
        let origin =
            Origin { block: fields.u64()?, shard: fields.u64()?, index: fields.u64()?, time_secs: fields.u64()? };
        Some(Self { sort, key, origin })
    }
}

/// The key of a record of so many serials: as that of a serial, with their count in its place.
fn serials_key(ca: Id, count: u64) -> [u8; KEY_BYTES] {
    OriginOf::Serial(ca, Serial(count)).bytes().1
}

fn serials_of(key: &[u8; KEY_BYTES]) -> Option<(Id, u64)> {
    let mut fields = crate::layout::Fields::new(key);
    let (ca, count) = (Id(fields.array()?), fields.u64()?);
    (*key == serials_key(ca, count)).then_some((ca, count))
}

/// Whatever passes through it is part of the checksum.
struct Summed<T> {
    inner: T,
    sum: Hasher,
}

impl<T: Write> Summed<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }

    /// The record of serials, if any: of this CA, by this entry, eight bytes each.
    fn put_serials(&mut self, held: Option<(Id, Origin, Vec<u8>)>) -> io::Result<()> {
        let Some((ca, origin, serials)) = held else { return Ok(()) };
        let count = u64::try_from(serials.len()).unwrap_or(u64::MAX) / SERIAL_BYTES;
        self.put(&Record { sort: SERIALS, key: serials_key(ca, count), origin }.bytes())?;
        self.put(&serials)
    }
}

impl<T: Read> Summed<T> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.sum.update(&bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    const REALM: RealmId = RealmId([1; 32]);
    const HOST: Id = Id([2; 16]);

    fn origin(block: u64) -> Origin {
        Origin { block, shard: 1 << 32, index: block, time_secs: block }
    }

    fn trust() -> Trust {
        Trust::owner(nix::unistd::geteuid().as_raw())
    }

    fn read(folder: &Path, wanted: &[OriginOf]) -> io::Result<Vec<Option<Origin>>> {
        read_origins(folder, trust(), &REALM, HOST, wanted)
    }

    fn some() -> Vec<(OriginOf, Origin)> {
        let id = |byte| Id([byte; 16]);
        vec![
            (OriginOf::User(id(3)), origin(5)),
            (OriginOf::Membership(id(3), id(4)), origin(6)),
            (OriginOf::Answer(id(3), 1, 7), origin(7)),
            (OriginOf::LockedKey(Fingerprint20([3; 20])), origin(8)),
            (OriginOf::Serial(id(5), Serial(7)), origin(9)),
            (OriginOf::Serial(id(5), Serial(u64::MAX)), origin(9)),
            (OriginOf::Serial(id(6), Serial(7)), origin(9)),
            (OriginOf::Serial(id(6), Serial(8)), origin(10)),
            (OriginOf::Retired(id(6)), origin(11)),
            (OriginOf::Serial(id(6), Serial(9)), origin(10)),
        ]
    }

    #[test]
    fn origins_are_found_by_sort_and_key_and_others_are_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let missing = read(folder.path(), &[]).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        write_origins(folder.path(), &REALM, HOST, std::iter::empty()).unwrap();
        write_origins(folder.path(), &REALM, HOST, some().into_iter()).unwrap();
        let wanted: Vec<OriginOf> = some().iter().map(|(what, _)| *what).collect();
        let expected: Vec<Option<Origin>> = some().iter().map(|(_, origin)| Some(*origin)).collect();
        assert_eq!(read(folder.path(), &wanted).unwrap(), expected);
        let id = Id([3; 16]);
        let unknown = [
            OriginOf::Grant(id),
            OriginOf::Membership(id, id),
            OriginOf::Answer(id, 0, 7),
            OriginOf::Answer(id, 1, 8),
            OriginOf::RevokedKey(Fingerprint20([3; 20])),
            // As the key of a record of two serials stands.
            OriginOf::Serial(Id([5; 16]), Serial(2)),
            OriginOf::Serial(Id([5; 16]), Serial(8)),
            OriginOf::Retired(Id([5; 16])),
        ];
        assert_eq!(read(folder.path(), &unknown).unwrap(), [None; 8]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        let metadata = fs::metadata(folder.path().join(ORIGINS_NAME)).unwrap();
        let mut size = OriginsSize::default();
        let bytes = some().iter().map(|(what, origin)| size.add(what, origin)).last();
        assert_eq!(bytes, Some(64 + 9 * 65 + 5 * 8 + 4), "two serials of one CA and entry share a record");
        assert_eq!((Some(metadata.len()), metadata.mode() & 0o7777), (bytes, 0o600));
    }

    #[test]
    fn many_serials_of_one_entry_take_up_eight_bytes_each() {
        let folder = tempfile::tempdir().unwrap();
        let count = 10_000;
        let revoked = |serial| (OriginOf::Serial(HOST, Serial(serial)), origin(7));
        let mut size = OriginsSize::default();
        let sizes: Vec<u64> = (0..count).map(revoked).map(|(what, origin)| size.add(&what, &origin)).collect();
        assert_eq!(size.bytes(), 64 + 3 * 65 + 8 * count + 4);
        assert!(sizes.is_sorted());
        write_origins(folder.path(), &REALM, HOST, (0..count).map(revoked)).unwrap();
        assert_eq!(fs::metadata(folder.path().join(ORIGINS_NAME)).unwrap().len(), size.bytes());
        let wanted = [0, 4095, 4096, count - 1, count].map(|serial| OriginOf::Serial(HOST, Serial(serial)));
        let known = Some(origin(7));
        assert_eq!(read(folder.path(), &wanted).unwrap(), [known, known, known, known, None]);
    }

    #[test]
    fn a_file_that_cannot_be_written_takes_up_no_room_and_what_the_dead_left_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ORIGINS_NAME);
        fs::create_dir(&path).unwrap();
        write_origins(folder.path(), &REALM, HOST, some().into_iter()).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the directory in its way");
        fs::remove_dir(&path).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        for _ in 0..2 {
            fs::write(&elsewhere, "somebody's").unwrap();
            symlink(&elsewhere, folder.path().join(TEMPORARY_NAME)).unwrap();
            write_origins(folder.path(), &REALM, HOST, some().into_iter()).unwrap();
            assert_eq!(fs::read(&elsewhere).unwrap(), b"somebody's", "a link is not followed");
        }
        fs::write(folder.path().join(TEMPORARY_NAME), "half").unwrap();
        assert!(remove_origins(folder.path()).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(!remove_origins(folder.path()).unwrap());
    }

    #[test]
    fn a_file_that_is_cut_changed_or_of_another_host_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        // One for itself, and two serials that share a record.
        write_origins(folder.path(), &REALM, HOST, some().into_iter().skip(3).take(3)).unwrap();
        let path = folder.path().join(ORIGINS_NAME);
        let whole = fs::read(&path).unwrap();
        let read = || read(folder.path(), &[]).map_err(|error| error.kind());
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(read(), Err(io::ErrorKind::InvalidData), "{length}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            assert_eq!(read(), Err(io::ErrorKind::InvalidData), "{at}");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(read(), Ok(vec![]));
        for (realm, host) in [(RealmId([9; 32]), HOST), (REALM, Id([9; 16]))] {
            assert!(read_origins(folder.path(), trust(), &realm, host, &[]).is_err());
        }
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o620);
        assert_eq!(read(), Err(io::ErrorKind::PermissionDenied), "somebody else could have written it");
        mode(0o600);
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        symlink("elsewhere", &path).unwrap();
        assert_eq!(read(), Err(io::ErrorKind::PermissionDenied), "it leads elsewhere");
    }
}
