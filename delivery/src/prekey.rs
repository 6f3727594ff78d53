//! Prekeys: keys that a device publishes for one payload each. Their secret halves live in a directory of the device's own, one file
//! each, and are gone after use: overwritten, unlinked, and a mark left that says for which delivery, before anybody is told.
//!
//! Refuses to give a prekey out for a second delivery, and one that is 30 days old. What a copy of the directory (a backup, a
//! snapshot of the disk) still has, no program can take back: keep it out of backups.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{
    error::{DeliveryError, hex},
    key::{PublicKey, SecretKey},
    payload::Digest,
};

const ID_TAG: &[u8] = b"countersign.prekey.v1";

/// How long a prekey may be used, seconds.
pub const PREKEY_LIFE_SECS: u64 = 30 * 86_400;

/// How long the mark of a used one is kept, seconds: nothing older is looked at again.
const MARK_LIFE_SECS: u64 = 4 * PREKEY_LIFE_SECS;

/// Names a prekey: the first 16 bytes of SHA-256 over a label, the realm, its owner's ledger address and the public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrekeyId(pub [u8; 16]);

impl PrekeyId {
    /// The id of a public key of `owner`'s.
    #[must_use]
    pub fn of(realm: &[u8; 32], owner: &[u8; 20], key: &PublicKey) -> Self {
        let digest = Sha256::new()
            .chain_update(ID_TAG)
            .chain_update(realm)
            .chain_update(owner)
            .chain_update(key.to_bytes())
            .finalize();
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(digest) {
            *to = from;
        }
        Self(id)
    }
}

impl fmt::Display for PrekeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PrekeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PrekeyId({self})")
    }
}

/// How far a prekey of the directory has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Made; the ledger is not known to have it.
    Made,
    /// On the ledger.
    Published,
}

/// A prekey of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its id.
    pub id: PrekeyId,
    /// When it was made, Unix seconds.
    pub made_secs: u64,
    /// How far it has come.
    pub progress: Progress,
}

/// What became of a prekey that a record asks for.
#[derive(Debug)]
pub enum Wanted {
    /// It is here and unused.
    Here(SecretKey),
    /// It was used for this very delivery, whose payload had this digest: what is left to do is to acknowledge it.
    UsedForThis(Digest),
    /// It was used for this other delivery.
    UsedFor([u8; 16]),
    /// It is not here: dead, dropped, or never made.
    Unknown,
}

/// The directory of a device's prekeys. One process at a time uses it.
#[derive(Clone, Debug)]
pub struct Prekeys {
    path: PathBuf,
    realm: [u8; 32],
    owner: [u8; 20],
}

const MADE: &str = "made";
const PUBLISHED: &str = "published";
const USED: &str = "used";

impl Prekeys {
    /// Opens the directory at `path`, making it (not its parents) with mode 0700 where it is absent.
    ///
    /// # Errors
    /// [`DeliveryError::Io`]; [`DeliveryError::KeyFileUnsafe`] where others have any right to it.
    pub fn open(path: &Path, realm: [u8; 32], owner: [u8; 20]) -> Result<Self, DeliveryError> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(DeliveryError::io("create directory", path)(error));
            }
            _ => {}
        }
        let metadata = fs::symlink_metadata(path).map_err(DeliveryError::io("examine", path))?;
        let uid = crate::key::effective_uid()?;
        let found = match () {
            () if !metadata.is_dir() => Some("not a directory".to_owned()),
            () if metadata.uid() != uid => Some(format!("owned by uid {}", metadata.uid())),
            () if metadata.mode() & 0o077 != 0 => Some(format!("mode {:04o}", metadata.mode() & 0o7777)),
            () => None,
        };
        match found {
            Some(found) => Err(DeliveryError::KeyFileUnsafe { path: path.to_owned(), found, uid }),
            None => Ok(Self { path: path.to_owned(), realm, owner }),
        }
    }

    /// Makes `count` prekeys at Unix time `now`. They survive a crash once this returns.
    ///
    /// # Errors
    /// [`DeliveryError::Randomness`], [`DeliveryError::Io`].
    pub fn make(&self, count: usize, now: u64) -> Result<Vec<PublicKey>, DeliveryError> {
        let mut made = Vec::with_capacity(count);
        for _ in 0..count {
            let key = SecretKey::generate()?;
            let id = PrekeyId::of(&self.realm, &self.owner, &key.public());
            key.create_file(&self.file(now, id, MADE))?;
            made.push(key.public());
        }
        Ok(made)
    }

    /// The prekeys that are here, unused ones only, oldest first.
    ///
    /// # Errors
    /// [`DeliveryError::Io`].
    pub fn list(&self) -> Result<Vec<Kept>, DeliveryError> {
        let mut kept: Vec<Kept> = self
            .files()?
            .into_iter()
            .filter_map(|(made_secs, id, state)| {
                let progress = match state {
                    State::Made => Progress::Made,
                    State::Published => Progress::Published,
                    State::Used => return None,
                };
                Some(Kept { id, made_secs, progress })
            })
            .collect();
        kept.sort_by_key(|kept| (kept.made_secs, kept.id));
        Ok(kept)
    }

    /// The public half of a prekey that is here.
    ///
    /// # Errors
    /// As [`SecretKey::load_file`].
    pub fn public(&self, kept: &Kept) -> Result<PublicKey, DeliveryError> {
        let state = if kept.progress == Progress::Made { MADE } else { PUBLISHED };
        SecretKey::load_file(&self.file(kept.made_secs, kept.id, state)).map(|key| key.public())
    }

    /// Remembers that the ledger has a prekey.
    ///
    /// # Errors
    /// [`DeliveryError::Io`].
    pub fn published(&self, kept: &Kept) -> Result<(), DeliveryError> {
        if kept.progress == Progress::Published {
            return Ok(());
        }
        let (from, to) = (self.file(kept.made_secs, kept.id, MADE), self.file(kept.made_secs, kept.id, PUBLISHED));
        fs::rename(&from, &to).map_err(DeliveryError::io("rename", &from))?;
        self.sync()
    }

    /// What became of the prekey that a record of `delivery` asks for, at Unix time `now`.
    ///
    /// # Errors
    /// As [`SecretKey::load_file`]; [`DeliveryError::KeyFileFormat`] for a mark that does not read.
    pub fn wanted(&self, id: PrekeyId, delivery: [u8; 16], now: u64) -> Result<Wanted, DeliveryError> {
        let files: Vec<_> = self.files()?.into_iter().filter(|(_, found, _)| *found == id).collect();
        // The mark counts before the key: a crash may have left both.
        if let Some((made_secs, _, _)) = files.iter().find(|(_, _, state)| *state == State::Used) {
            let (used_for, digest) = self.mark(*made_secs, id)?;
            return Ok(if used_for == delivery { Wanted::UsedForThis(digest) } else { Wanted::UsedFor(used_for) });
        }
        match files.first() {
            Some((made_secs, _, state)) if now < made_secs.saturating_add(PREKEY_LIFE_SECS) => {
                SecretKey::load_file(&self.file(*made_secs, id, state.text())).map(Wanted::Here)
            }
            _ => Ok(Wanted::Unknown),
        }
    }

    /// Ends a prekey: first a mark that says for what it was used, then its secret is overwritten and unlinked. All of it is on disk
    /// once this returns.
    ///
    /// # Errors
    /// [`DeliveryError::Io`]; the secret may then still be there, and the next call goes on.
    pub fn end(&self, id: PrekeyId, delivery: [u8; 16], digest: &Digest) -> Result<(), DeliveryError> {
        for (made_secs, _, state) in self.files()?.into_iter().filter(|(_, found, _)| *found == id) {
            if state != State::Used {
                self.leave_mark(made_secs, id, delivery, digest)?;
                self.shred(&self.file(made_secs, id, state.text()))?;
            }
        }
        self.sync()
    }

    /// Ends what is 30 days old at Unix time `now`, secrets whose mark a crash left beside them, and those that a crash left half
    /// made; forgets marks that nothing can ask for any more.
    ///
    /// # Errors
    /// [`DeliveryError::Io`].
    pub fn tidy(&self, now: u64) -> Result<(), DeliveryError> {
        let files = self.files()?;
        let used: Vec<PrekeyId> =
            files.iter().filter(|(_, _, state)| *state == State::Used).map(|(_, id, _)| *id).collect();
        let mut changed = false;
        for (made_secs, id, state) in files {
            let path = self.file(made_secs, id, state.text());
            let dead = now >= made_secs.saturating_add(PREKEY_LIFE_SECS);
            match state {
                State::Used if now >= made_secs.saturating_add(MARK_LIFE_SECS) => {
                    fs::remove_file(&path).map_err(DeliveryError::io("remove", &path))?;
                }
                State::Made | State::Published if dead || used.contains(&id) => self.shred(&path)?,
                State::Made if is_half_made(&path) => self.shred(&path)?,
                _ => continue,
            }
            changed = true;
        }
        if changed { self.sync() } else { Ok(()) }
    }

    /// Ends every unused prekey: after a restore of the disk, none of them can be known to be unused.
    ///
    /// # Errors
    /// [`DeliveryError::Io`].
    pub fn drop_all(&self) -> Result<(), DeliveryError> {
        for (made_secs, id, state) in self.files()? {
            if state != State::Used {
                self.shred(&self.file(made_secs, id, state.text()))?;
            }
        }
        self.sync()
    }

    fn file(&self, made_secs: u64, id: PrekeyId, state: &str) -> PathBuf {
        self.path.join(format!("{made_secs:010}-{id}.{state}"))
    }

    /// Everything here that is named as we name it.
    fn files(&self) -> Result<Vec<(u64, PrekeyId, State)>, DeliveryError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(DeliveryError::io("list", &self.path))? {
            let name = entry.map_err(DeliveryError::io("list", &self.path))?.file_name();
            if let Some(parsed) = name.to_str().and_then(parse_name) {
                files.push(parsed);
            }
        }
        files.sort_by_key(|(made_secs, id, state)| (*made_secs, *id, *state));
        Ok(files)
    }

    fn leave_mark(
        &self,
        made_secs: u64,
        id: PrekeyId,
        delivery: [u8; 16],
        digest: &Digest,
    ) -> Result<(), DeliveryError> {
        let path = self.file(made_secs, id, USED);
        let temporary = self.path.join(format!(".{id}.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&temporary)
            .map_err(DeliveryError::io("create", &temporary))?;
        writeln!(file, "{} {}", hex(&delivery), hex(digest))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(DeliveryError::io("write", &path))?;
        self.sync()
    }

    fn mark(&self, made_secs: u64, id: PrekeyId) -> Result<([u8; 16], Digest), DeliveryError> {
        let path = self.file(made_secs, id, USED);
        let mut text = String::new();
        File::open(&path)
            .and_then(|file| file.take(128).read_to_string(&mut text))
            .map_err(DeliveryError::io("read", &path))?;
        let parsed = text
            .strip_suffix('\n')
            .and_then(|line| line.split_once(' '))
            .and_then(|(delivery, digest)| Some((crate::key::unhex(delivery)?, crate::key::unhex(digest)?)));
        parsed.ok_or(DeliveryError::KeyFileFormat { path })
    }

    /// Overwrites, syncs, unlinks. On a disk that writes elsewhere (SSDs, copy on write) the old bytes may live on below; what
    /// the file system shows is gone.
    fn shred(&self, path: &Path) -> Result<(), DeliveryError> {
        let mut file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
            .map_err(DeliveryError::io("open", path))?;
        let length = file.metadata().map_err(DeliveryError::io("examine", path))?.len().min(4096);
        let zeros = vec![0; usize::try_from(length).unwrap_or_default()];
        file.write_all(&zeros).and_then(|()| file.sync_all()).map_err(DeliveryError::io("overwrite", path))?;
        fs::remove_file(path).map_err(DeliveryError::io("remove", path))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), DeliveryError> {
        File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(DeliveryError::io("sync", &self.path))
    }
}

/// Never published: its public half was not known.
fn is_half_made(path: &Path) -> bool {
    matches!(SecretKey::load_file(path), Err(DeliveryError::KeyFileFormat { .. }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Made,
    Published,
    Used,
}

impl State {
    fn text(self) -> &'static str {
        match self {
            Self::Made => MADE,
            Self::Published => PUBLISHED,
            Self::Used => USED,
        }
    }
}

fn parse_name(name: &str) -> Option<(u64, PrekeyId, State)> {
    let (made_secs, rest) = name.split_once('-')?;
    let (id, state) = rest.split_once('.')?;
    let state = [State::Made, State::Published, State::Used].into_iter().find(|known| known.text() == state)?;
    Some((made_secs.parse().ok()?, PrekeyId(crate::key::unhex(id)?), state))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn prekeys() -> (tempfile::TempDir, Prekeys) {
        let directory = tempfile::tempdir().unwrap();
        let prekeys = Prekeys::open(&directory.path().join("prekeys"), [1; 32], [2; 20]).unwrap();
        (directory, prekeys)
    }

    fn names(prekeys: &Prekeys) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&prekeys.path).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_prekey_is_given_out_for_one_delivery_and_its_secret_is_gone_from_the_disk() {
        let (_directory, prekeys) = prekeys();
        let public = prekeys.make(2, NOW).unwrap();
        let id = PrekeyId::of(&[1; 32], &[2; 20], &public[0]);
        let Wanted::Here(secret) = prekeys.wanted(id, [7; 16], NOW).unwrap() else { panic!("it was just made") };
        assert_eq!(secret.public(), public[0]);
        prekeys.end(id, [7; 16], &[9; 32]).unwrap();
        assert!(matches!(prekeys.wanted(id, [7; 16], NOW).unwrap(), Wanted::UsedForThis(digest) if digest == [9; 32]));
        assert!(matches!(prekeys.wanted(id, [8; 16], NOW).unwrap(), Wanted::UsedFor(first) if first == [7; 16]));
        let left = prekeys.list().unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(prekeys.public(&left[0]).unwrap(), public[1]);
        for name in names(&prekeys) {
            let text = fs::read_to_string(prekeys.path.join(&name)).unwrap();
            assert!(!text.contains(&hex(secret.secret_bytes())), "{name}");
        }
    }

    #[test]
    fn a_crash_between_the_mark_and_the_secrets_end_is_tidied_up_and_never_a_second_use() {
        let (_directory, prekeys) = prekeys();
        let public = prekeys.make(1, NOW).unwrap();
        let id = PrekeyId::of(&[1; 32], &[2; 20], &public[0]);
        prekeys.leave_mark(NOW, id, [7; 16], &[9; 32]).unwrap();
        assert_eq!(names(&prekeys).len(), 2);
        assert!(matches!(prekeys.wanted(id, [8; 16], NOW).unwrap(), Wanted::UsedFor(_)));
        prekeys.tidy(NOW).unwrap();
        assert_eq!(names(&prekeys), [format!("{NOW}-{id}.used")]);
    }

    #[test]
    fn a_prekey_is_dead_after_thirty_days_and_gone_when_tidied() {
        let (_directory, prekeys) = prekeys();
        let public = prekeys.make(1, NOW).unwrap();
        let id = PrekeyId::of(&[1; 32], &[2; 20], &public[0]);
        assert!(matches!(prekeys.wanted(id, [7; 16], NOW + PREKEY_LIFE_SECS - 1).unwrap(), Wanted::Here(_)));
        assert!(matches!(prekeys.wanted(id, [7; 16], NOW + PREKEY_LIFE_SECS).unwrap(), Wanted::Unknown));
        prekeys.tidy(NOW + PREKEY_LIFE_SECS - 1).unwrap();
        assert_eq!(names(&prekeys).len(), 1);
        prekeys.tidy(NOW + PREKEY_LIFE_SECS).unwrap();
        assert_eq!(names(&prekeys), [""; 0]);
    }

    #[test]
    fn a_prekey_keeps_its_age_when_it_is_published_and_all_end_when_they_are_dropped() {
        let (_directory, prekeys) = prekeys();
        prekeys.make(2, NOW).unwrap();
        let made = prekeys.list().unwrap();
        prekeys.published(&made[0]).unwrap();
        let list = prekeys.list().unwrap();
        assert_eq!(list.iter().filter(|kept| kept.progress == Progress::Published).count(), 1);
        assert!(list.iter().all(|kept| kept.made_secs == NOW));
        prekeys.end(made[0].id, [7; 16], &[9; 32]).unwrap();
        prekeys.drop_all().unwrap();
        assert_eq!(prekeys.list().unwrap(), []);
        assert!(matches!(prekeys.wanted(made[0].id, [7; 16], NOW).unwrap(), Wanted::UsedForThis(_)));
        assert!(matches!(prekeys.wanted(made[1].id, [7; 16], NOW).unwrap(), Wanted::Unknown));
    }

    #[test]
    fn a_prekey_that_a_crash_left_half_made_is_ended_and_the_others_stay() {
        let (_directory, prekeys) = prekeys();
        prekeys.make(3, NOW).unwrap();
        let kept = prekeys.list().unwrap();
        for (one, length) in kept.iter().zip([0, 40]) {
            let file = OpenOptions::new().write(true).open(prekeys.file(NOW, one.id, MADE)).unwrap();
            file.set_len(length).unwrap();
            assert!(prekeys.public(one).is_err());
        }
        prekeys.tidy(NOW).unwrap();
        assert_eq!(prekeys.list().unwrap(), [kept[2]]);
        assert!(prekeys.public(&kept[2]).is_ok());
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let (directory, prekeys) = prekeys();
        fs::set_permissions(&prekeys.path, fs::Permissions::from_mode(0o750)).unwrap();
        let error = Prekeys::open(&directory.path().join("prekeys"), [1; 32], [2; 20]).unwrap_err();
        assert!(error.to_string().contains("mode 0750"), "{error}");
    }

    #[test]
    fn the_id_depends_on_realm_owner_and_key() {
        let key = SecretKey::from_bytes(&[5; 32]).public();
        let id = PrekeyId::of(&[1; 32], &[2; 20], &key);
        assert_eq!(id, PrekeyId::of(&[1; 32], &[2; 20], &key));
        assert_ne!(id, PrekeyId::of(&[3; 32], &[2; 20], &key));
        assert_ne!(id, PrekeyId::of(&[1; 32], &[3; 20], &key));
        assert_ne!(id, PrekeyId::of(&[1; 32], &[2; 20], &SecretKey::from_bytes(&[6; 32]).public()));
    }
}
