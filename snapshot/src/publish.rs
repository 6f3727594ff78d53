//! Publishing: files first, synced and read back, then the manifest that names them, by rename.
//!
//! Whatever fails or dies in between, readers keep what was published before. Accounts go before access, so that whoever
//! is let in has a name; where accounts fail, access is published all the same, so that no denial waits for a name. Where the base in place can be built on, only what differs from it is written. It refuses to publish beside
//! another publisher, into a directory that others can change, and to build on a base that is not this host's, cannot be read whole, or
//! cannot be read by those whom it is for.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::changes::delta_limit_pages;
use crate::clock::Freshness;
use crate::error::{OpenError, PublishError};
use crate::file::{TableFile, file_name};
use crate::in_place::InPlace;
use crate::layout::{Audience, FileKind};
use crate::manifest::{Facts, FileRef, Manifest, check_times};
use crate::open::{Directory, Trust};
use crate::read::{Files, MANIFEST_NAME};
use crate::records::{Gid, Salt};
use crate::tables::{AccessTables, AccountsTables, Generation, Tables};
use crate::write::{Below, FileIdentity, FileWriter, WriteError};

/// How long a file stays after another has taken its place, for readers that have just read the old manifest.
const KEEP_SUPERSEDED_SECS: u64 = 60;

/// How long a publisher builds on what it remembers without comparing all of it with the disk.
const COMPARE_SECS: u64 = 3_600;

const TEMPORARY_SUFFIX: &str = ".tmp";

/// What holds for the whole publication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishInfo {
    /// What holds for the whole snapshot.
    pub facts: Facts,
    /// What its age is told by.
    pub freshness: Freshness,
    /// This host's salt: made once, kept by the publisher.
    pub salt: Salt,
    /// The group that may read `access`; none: the process's own.
    pub access_group: Option<Gid>,
    /// Wall clock, Unix seconds: decides which superseded files go.
    pub now_unix_secs: u64,
}

/// What a publisher knows of its last publication, beside its tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// Its generation, or that of the last [`refresh`] of it.
    pub generation: Generation,
    /// The files as they were right after it.
    pub(crate) files: Option<InPlace>,
    /// `CLOCK_BOOTTIME` when all records were last compared with what is on the disk, seconds.
    compared_secs: u64,
}

impl Published {
    /// Whether readers find its very files now, touched by nobody.
    #[must_use]
    pub fn is_in_place(&self, directory: &Path, trust: Trust) -> bool {
        self.files.is_some() && self.files == InPlace::look(directory, trust)
    }
}

/// The tables that a publisher published last, and what it knows of that.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// The tables of `access`.
    pub access: &'a AccessTables,
    /// The tables of `accounts`.
    pub accounts: &'a AccountsTables,
    /// What [`publish_since`] gave for them.
    pub published: &'a Published,
}

/// Publishes complete tables: for each audience as a delta of the base in place, where that can be built on and the delta stays small
/// against it, and as a new base otherwise. Returns the generation.
///
/// # Errors
/// Where anything is refused or fails; of the audience that it is about (of both, where that is not said) what was published before is
/// then still there. Only after its manifest has taken its place, where its directory cannot be synced or old files cannot be removed, the
/// new one is.
pub fn publish(
    directory: &Path,
    access: &AccessTables,
    accounts: &AccountsTables,
    info: &PublishInfo,
) -> Result<Generation, PublishError> {
    publish_as(Form::Smaller, None, directory, access, accounts, info).map(|published| published.generation)
}

/// As [`publish`], and the same files to the byte; but where the files of `before` are in place, touched by nobody, only records that
/// differ from its tables are digested and looked up in the base. Once an hour all are compared all the same: what a disk has lost of a
/// base shall not stay unnoticed for as long as a process lives.
///
/// # Errors
/// As [`publish`].
pub fn publish_since(
    before: Option<Before<'_>>,
    directory: &Path,
    access: &AccessTables,
    accounts: &AccountsTables,
    info: &PublishInfo,
) -> Result<Published, PublishError> {
    publish_as(Form::Smaller, before, directory, access, accounts, info)
}

/// Publishes complete tables as new bases, whatever is in place.
///
/// # Errors
/// As [`publish`].
pub fn publish_base(
    directory: &Path,
    access: &AccessTables,
    accounts: &AccountsTables,
    info: &PublishInfo,
) -> Result<Generation, PublishError> {
    publish_as(Form::Base, None, directory, access, accounts, info).map(|published| published.generation)
}

/// Publishes complete tables as deltas of the bases in place, however large they become.
///
/// # Errors
/// As [`publish`]; also where there is no base that can be built on.
pub fn publish_delta(
    directory: &Path,
    access: &AccessTables,
    accounts: &AccountsTables,
    info: &PublishInfo,
) -> Result<Generation, PublishError> {
    publish_as(Form::Delta, None, directory, access, accounts, info).map(|published| published.generation)
}

/// What is written of complete tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Smaller,
    Base,
    Delta,
}

fn publish_as(
    form: Form,
    before: Option<Before<'_>>,
    directory: &Path,
    access: &AccessTables,
    accounts: &AccountsTables,
    info: &PublishInfo,
) -> Result<Published, PublishError> {
    let publisher = Publisher::begin(directory, info)?;
    let before = before.filter(|before| publisher.may_build_on(before.published));
    let accounts = publisher.tables(form, accounts, before.map(|before| before.accounts));
    publisher.tables(form, access, before.map(|before| before.access))?;
    accounts.map(|()| Published {
        generation: publisher.generation,
        // Under the lock: what somebody else publishes later is not taken for it.
        files: InPlace::look(directory, publisher.trust),
        compared_secs: before.map_or(info.freshness.boottime_secs, |before| before.published.compared_secs),
    })
}

/// Publishes newer facts and freshness for the tables of generation `since`, which must be the one in place for both
/// audiences: so that a publication that failed half-way is never declared fresh.
///
/// # Errors
/// As [`publish`]; also where another generation is in place.
pub fn refresh(directory: &Path, since: Generation, info: &PublishInfo) -> Result<Generation, PublishError> {
    let publisher = Publisher::begin(directory, info)?;
    let accounts = publisher.files(Audience::Accounts)?.manifest;
    let access = publisher.files(Audience::Access)?.manifest;
    if accounts.generation != since || access.generation != since {
        return Err(PublishError::Base { expected: "the generation named, for both audiences" });
    }
    let accounts = publisher.replace_manifest(Audience::Accounts, accounts.base, accounts.delta);
    publisher.replace_manifest(Audience::Access, access.base, access.delta)?;
    accounts.map(|()| publisher.generation)
}

struct Publisher<'a> {
    directory: &'a Path,
    info: &'a PublishInfo,
    generation: Generation,
    trust: Trust,
    /// Held while publishing: `flock` on the directory.
    lock: File,
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        // Closing is not enough: a child that this process is just starting still holds a copy of the descriptor.
        drop(self.lock.unlock());
    }
}

impl<'a> Publisher<'a> {
    fn begin(directory: &'a Path, info: &'a PublishInfo) -> Result<Self, PublishError> {
        check_times(&info.facts, &info.freshness).map_err(|expected| PublishError::Times { expected })?;
        let trust = Trust::owner(geteuid().as_raw());
        make_directory(directory, 0o755, None)?;
        make_directory(&directory.join("accounts"), 0o755, None)?;
        make_directory(&directory.join("access"), 0o750, info.access_group)?;
        let root = Directory::open(directory, trust).map_err(PublishError::Open)?;
        let lock = File::open(directory).map_err(at(directory))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(PublishError::Busy { path: directory.to_owned() }),
            Err(fs::TryLockError::Error(source)) => return Err(at(directory)(source)),
        }
        let mut publisher = Self { directory, info, generation: 0, trust, lock };
        publisher.generation = publisher.next_generation(&root)?;
        Ok(publisher)
    }

    /// Clears leftovers, and counts on from whatever has been there.
    fn next_generation(&self, root: &Directory) -> Result<Generation, PublishError> {
        let mut highest = 0;
        for audience in [Audience::Accounts, Audience::Access] {
            root.open_child(audience.directory()).map_err(PublishError::Open)?;
            let published = published_generation(self.directory, self.trust, audience);
            // One that cannot be removed is counted past; where it is in the way, the publication of its audience fails.
            let _ = remove_leftovers(&self.path(audience), published);
            let files = list(&self.path(audience))?;
            let of_files = files.iter().map(|file| file.generation).max().unwrap_or(0);
            highest = highest.max(of_files).max(published.unwrap_or(0));
        }
        highest.checked_add(1).ok_or(PublishError::TooLarge { generation: highest })
    }

    /// What is in place, which must be of this salt, realm and host.
    fn files(&self, audience: Audience) -> Result<Files, PublishError> {
        let files = match Files::open(self.directory, self.trust, audience) {
            Ok(files) => files,
            Err(OpenError::Absent { .. }) => return Err(PublishError::Base { expected: "a published base" }),
            Err(error) => return Err(PublishError::Open(error)),
        };
        let manifest = &files.manifest;
        let facts = &self.info.facts;
        let same =
            manifest.salt == self.info.salt && manifest.facts.realm == facts.realm && manifest.facts.host == facts.host;
        if same { Ok(files) } else { Err(PublishError::Base { expected: "the same salt, realm and host" }) }
    }

    /// Whether what was published then is what is there, and all of it was looked at not long ago.
    fn may_build_on(&self, published: &Published) -> bool {
        let age = self.info.freshness.boottime_secs.checked_sub(published.compared_secs);
        age.is_some_and(|age| age < COMPARE_SECS) && published.is_in_place(self.directory, self.trust)
    }

    fn tables<T: Tables>(&self, form: Form, tables: &T, before: Option<&T>) -> Result<(), PublishError> {
        let below = match form {
            Form::Base => None,
            Form::Smaller => self.below(T::AUDIENCE).ok(),
            Form::Delta => Some(self.below(T::AUDIENCE)?),
        };
        let limit_pages = match (form, &below) {
            (Form::Delta, _) => Some(u64::MAX),
            (_, Some(below)) => delta_limit_pages(below.manifest.base.bytes),
            (_, None) => None,
        };
        if let (Some(below), Some(limit_pages)) = (&below, limit_pages) {
            let mut written = Err(Unwritten::Strange);
            if before.is_some() {
                written = self.delta(tables, before, below, limit_pages);
            }
            if matches!(written, Err(Unwritten::Strange)) {
                written = self.delta(tables, None, below, limit_pages);
            }
            match written {
                Err(Unwritten::NoDelta) if form == Form::Smaller => {}
                written => return Ok(written?),
            }
        }
        match (self.file(tables, None, None), &below) {
            (Ok(base), _) => self.replace_manifest(T::AUDIENCE, base, None),
            // Where there is no room for another base, a denial must not wait for it.
            (Err(Unwritten::Failed(error)), Some(below)) if is_for_want_of_room(&error) => {
                self.delta(tables, None, below, u64::MAX).map_err(|_| error)
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    fn delta<T: Tables>(
        &self,
        tables: &T,
        before: Option<&T>,
        below: &Files,
        limit_pages: u64,
    ) -> Result<(), Unwritten> {
        let files = Below { base: &below.base, delta: below.delta.as_ref(), limit_pages };
        let delta = match self.file(tables, before, Some(files)) {
            Err(Unwritten::Nothing) => None,
            delta => Some(delta?),
        };
        Ok(self.replace_manifest(T::AUDIENCE, below.manifest.base, delta)?)
    }

    /// What is in place, where a delta of its base would say the same to everybody as another base would.
    fn below(&self, audience: Audience) -> Result<Files, PublishError> {
        let files = self.files(audience)?;
        let metadata = files.base.descriptor().metadata().map_err(at(&self.path(audience)))?;
        let (group, mode) = self.group_and_mode(audience);
        let readable = metadata.mode() & 0o7777 == mode && group.is_none_or(|group| metadata.gid() == group.0);
        if readable { Ok(files) } else { Err(PublishError::Base { expected: "a base with its group and mode" }) }
    }

    /// Writes a file, syncs it, gives it its name and reads all of it back. Nothing names it yet.
    fn file<T: Tables>(&self, tables: &T, before: Option<&T>, below: Option<Below<'_>>) -> Result<FileRef, Unwritten> {
        let audience = T::AUDIENCE;
        let (kind, base_generation) = match &below {
            None => (FileKind::Base, self.generation),
            Some(below) => (FileKind::Delta, below.base.header.generation),
        };
        let identity = FileIdentity {
            audience,
            kind,
            generation: self.generation,
            base_generation,
            salt: self.info.salt,
            realm: self.info.facts.realm,
            host: self.info.facts.host,
        };
        let name = file_name(kind, self.generation);
        let temporary = Temporary::create(&self.path(audience).join(format!("{name}{TEMPORARY_SUFFIX}")))?;
        self.set_owner_and_mode(audience, &temporary)?;
        let failed = |error| self.write_failed(error, &temporary.path);
        let file = temporary.file.try_clone().map_err(at(&temporary.path))?;
        let mut writer = FileWriter::new(file, identity, below).map_err(failed)?;
        tables.write(before, &mut writer).map_err(failed)?;
        if below.is_some() && writer.is_empty() {
            return Err(Unwritten::Nothing);
        }
        let reference = writer.finish().map_err(failed)?;
        temporary.rename(&self.path(audience).join(&name))?;
        sync_directory(&self.path(audience))?;
        self.read_back(audience, kind, &reference)?;
        Ok(reference)
    }

    fn read_back(&self, audience: Audience, kind: FileKind, reference: &FileRef) -> Result<(), PublishError> {
        let directory = Directory::open(self.directory, self.trust)
            .and_then(|directory| directory.open_child(audience.directory()))
            .map_err(PublishError::Open)?;
        let file = TableFile::open(&directory, audience, kind, reference).map_err(PublishError::Open)?;
        let name = file_name(kind, reference.generation);
        let file = file.ok_or_else(|| PublishError::Open(OpenError::Vanished { path: directory.path_of(&name) }))?;
        file.verify().map_err(PublishError::Verify)
    }

    fn replace_manifest(&self, audience: Audience, base: FileRef, delta: Option<FileRef>) -> Result<(), PublishError> {
        let manifest = Manifest {
            generation: self.generation,
            base,
            delta,
            salt: self.info.salt,
            facts: self.info.facts.clone(),
            freshness: self.info.freshness,
        };
        let folder = self.path(audience);
        let path = folder.join(MANIFEST_NAME);
        let mut temporary = Temporary::create(&folder.join(format!("{MANIFEST_NAME}{TEMPORARY_SUFFIX}")))?;
        self.set_owner_and_mode(audience, &temporary)?;
        temporary.file.write_all(&manifest.encode(audience)).map_err(at(&temporary.path))?;
        temporary.file.sync_all().map_err(at(&temporary.path))?;
        temporary.rename(&path)?;
        sync_directory(&folder)?;
        self.remove_superseded(audience, &manifest)
    }

    const fn group_and_mode(&self, audience: Audience) -> (Option<Gid>, u32) {
        match audience {
            Audience::Access => (self.info.access_group, 0o640),
            Audience::Accounts => (None, 0o644),
        }
    }

    fn set_owner_and_mode(&self, audience: Audience, temporary: &Temporary) -> Result<(), PublishError> {
        let (group, mode) = self.group_and_mode(audience);
        if let Some(group) = group {
            fchown(&temporary.file, None, Some(group.0)).map_err(at(&temporary.path))?;
        }
        temporary.file.set_permissions(Permissions::from_mode(mode)).map_err(at(&temporary.path))
    }

    /// Removes files that the manifest does not name and whose successor has been there long enough.
    fn remove_superseded(&self, audience: Audience, manifest: &Manifest) -> Result<(), PublishError> {
        let folder = self.path(audience);
        let files = list(&folder)?;
        for file in &files {
            let named = match file.kind {
                FileKind::Base => Some(manifest.base.generation),
                FileKind::Delta => manifest.delta.map(|delta| delta.generation),
            };
            let is_old = |successor: &Listed| {
                successor.generation > file.generation
                    && successor.modified_secs.saturating_add(KEEP_SUPERSEDED_SECS) <= self.info.now_unix_secs
            };
            if named != Some(file.generation) && files.iter().any(is_old) {
                remove(&folder.join(file_name(file.kind, file.generation)))?;
            }
        }
        Ok(())
    }

    fn path(&self, audience: Audience) -> PathBuf {
        self.directory.join(audience.directory())
    }

    fn write_failed(&self, error: WriteError, path: &Path) -> Unwritten {
        Unwritten::Failed(match error {
            WriteError::OverLimit | WriteError::Base => return Unwritten::NoDelta,
            WriteError::Strange => return Unwritten::Strange,
            WriteError::Duplicate { table } => PublishError::Duplicate { table },
            WriteError::TooLong { table, field } => PublishError::TooLong { table, field },
            WriteError::TooLarge => PublishError::TooLarge { generation: self.generation },
            WriteError::Io(source) => at(path)(source),
        })
    }
}

fn is_for_want_of_room(error: &PublishError) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, PublishError::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
}

/// Why a file was not written.
enum Unwritten {
    /// A delta that changes nothing.
    Nothing,
    /// A delta over its limit, or of a base that is not whole.
    NoDelta,
    /// What is in place is not what the publisher took it for.
    Strange,
    Failed(PublishError),
}

impl From<PublishError> for Unwritten {
    fn from(error: PublishError) -> Self {
        Self::Failed(error)
    }
}

impl From<Unwritten> for PublishError {
    fn from(unwritten: Unwritten) -> Self {
        match unwritten {
            Unwritten::Failed(error) => error,
            Unwritten::Nothing | Unwritten::NoDelta | Unwritten::Strange => {
                Self::Base { expected: "a base that is whole" }
            }
        }
    }
}

/// A file under a name that no reader opens; removed again unless it is renamed.
struct Temporary {
    file: File,
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn create(path: &Path) -> Result<Self, PublishError> {
        remove(path)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(path).map_err(at(path))?;
        Ok(Self { file, path: path.to_owned(), renamed: false })
    }

    fn rename(mut self, target: &Path) -> Result<(), PublishError> {
        fs::rename(&self.path, target).map_err(at(target))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // A leftover does no harm, and the next publication removes it.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// A base or delta file by its name.
struct Listed {
    kind: FileKind,
    generation: Generation,
    modified_secs: u64,
}

fn list(folder: &Path) -> Result<Vec<Listed>, PublishError> {
    let mut listed = Vec::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let Some((kind, generation)) = entry.file_name().to_str().and_then(parse_name) else { continue };
        let metadata = entry.metadata().map_err(at(&entry.path()))?;
        let modified_secs = u64::try_from(metadata.mtime()).unwrap_or(0);
        listed.push(Listed { kind, generation, modified_secs });
    }
    Ok(listed)
}

fn parse_name(name: &str) -> Option<(FileKind, Generation)> {
    let (stem, generation) = name.split_once('.')?;
    let kind = [FileKind::Base, FileKind::Delta].into_iter().find(|kind| kind.stem() == stem)?;
    let generation = generation.parse().ok()?;
    (file_name(kind, generation) == name).then_some((kind, generation))
}

/// Removes what a publication that died has left: temporary files, and files newer than the manifest in place.
fn remove_leftovers(folder: &Path, published: Option<Generation>) -> Result<(), PublishError> {
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let orphan = published.is_some_and(|published| parse_name(name).is_some_and(|(_, file)| file > published));
        if orphan || name.ends_with(TEMPORARY_SUFFIX) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn published_generation(directory: &Path, trust: Trust, audience: Audience) -> Option<Generation> {
    Files::open(directory, trust, audience).ok().map(|files| files.manifest.generation)
}

fn make_directory(path: &Path, mode: u32, group: Option<Gid>) -> Result<(), PublishError> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(at(path)(error)),
    }
    // The umask may have taken bits away.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at(path))?;
    if let Some(group) = group {
        std::os::unix::fs::lchown(path, None, Some(group.0)).map_err(at(path))?;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), PublishError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at(path))
}

fn remove(path: &Path) -> Result<(), PublishError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PublishError {
    let path = path.to_owned();
    move |source| PublishError::Io { path, source }
}
