//! A place for trials: a mount namespace of one thread, with a small file system in memory that only programs started from there see,
//! and a `/dev/log` of its own.
//!
//! Keys that are made for a trial lie in that file system. Nobody else on the host can name it, and it ends with the last program in
//! it: also where this one is killed, nothing is left but an empty folder. What the helper says to syslog is read here and passed on,
//! so that it is seen on hosts with any log or none. Files can be covered by others, for the trial of a configuration that is not there yet.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where the file system in memory is mounted; to everybody else an empty folder of root's.
const FOLDER: &str = "/run/countersign-doctor";
const SYSLOG: &str = "/dev/log";
const MARK: &[u8] = b"countersign-doctor: all that came before this line has been read";
const PATIENCE: Duration = Duration::from_secs(10);

/// A file as it is to be in the room, in place of what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cover {
    /// Which.
    pub(crate) path: PathBuf,
    /// What it holds there.
    pub(crate) text: String,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// The room, from inside.
pub(crate) struct Room {
    log: PathBuf,
    lines: Receiver<Vec<u8>>,
    hears: bool,
}

/// Runs `body` in a room, in which `covers` are in their places.
///
/// # Errors
/// The system does not give one, or not with these covers.
pub(crate) fn inside<T: Send>(covers: &[Cover], body: impl FnOnce(&Room) -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, || {
            let room = Room::enter()?;
            for (index, cover) in covers.iter().enumerate() {
                put(cover, index).map_err(|error| named(error, &cover.path))?;
            }
            Ok(body(&room))
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the trial panicked")))
    })
}

impl Room {
    fn enter() -> io::Result<Self> {
        make_folder()?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        change("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("countersign-doctor"), FOLDER, Some("tmpfs"), flags, Some("mode=0700,size=16m"))?;
        let log = Path::new(FOLDER).join("log");
        let socket = UnixDatagram::bind(&log)?;
        fs::set_permissions(&log, Permissions::from_mode(0o666))?;
        let hears = fs::metadata(SYSLOG).is_ok_and(|syslog| syslog.file_type().is_socket());
        // What is passed on goes to the host's own log: connected before that is covered.
        let host = UnixDatagram::unbound()?;
        let passes_on = hears && host.connect(SYSLOG).is_ok() && host.set_nonblocking(true).is_ok();
        if hears {
            bind(&log, Path::new(SYSLOG))?;
        }
        let (sender, lines) = mpsc::channel();
        thread::Builder::new().spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(length) = socket.recv(&mut buffer) {
                let line = buffer.get(..length).unwrap_or_default();
                if passes_on && line != MARK {
                    // A log that takes nothing is the host's trouble, not a login's.
                    let _ = host.send(line);
                }
                if sender.send(line.to_vec()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { log, lines, hears })
    }

    /// Whether what is said to syslog in here is heard: not where the host has no `/dev/log` at all.
    pub(crate) fn hears(&self) -> bool {
        self.hears
    }

    /// The path of a file in the room.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new(FOLDER).join(name)
    }

    /// What was said to syslog in here since the last call.
    ///
    /// # Errors
    /// The room's own line does not arrive.
    pub(crate) fn heard(&self) -> io::Result<Vec<String>> {
        UnixDatagram::unbound()?.send_to(MARK, &self.log)?;
        let mut heard = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).map_err(io::Error::other)?;
            if line == MARK {
                return Ok(heard);
            }
            heard.push(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\0']).to_owned());
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // The reader ends at the next line, once nobody listens to it.
        drop(std::mem::replace(&mut self.lines, mpsc::channel().1));
        let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(MARK, &self.log));
    }
}

/// Below `/run`, which is root's: nobody else can have put something in its place.
fn make_folder() -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(FOLDER) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(|error| named(error, Path::new(FOLDER))),
    }
    let found = fs::symlink_metadata(FOLDER)?;
    if found.is_dir() && found.uid() == 0 && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!("{FOLDER}: expected a folder of root's that nobody else may write")))
}

fn put(cover: &Cover, index: usize) -> io::Result<()> {
    let place = Path::new(FOLDER).join(format!("cover.{index}"));
    if fs::symlink_metadata(&cover.path).is_ok() {
        write(&place, cover)?;
        return bind(&place, &cover.path);
    }
    // A file that is not there yet: its folder is covered by one of the same entries, and it.
    let (Some(folder), Some(name)) = (cover.path.parent(), cover.path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let original = fs::metadata(folder)?;
    DirBuilder::new().mode(original.mode() & 0o7777).create(&place)?;
    chown(&place, Some(original.uid()), Some(original.gid()))?;
    fs::set_permissions(&place, Permissions::from_mode(original.mode() & 0o7777))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (from, to) = (entry.path(), place.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else if kind.is_dir() {
            fs::create_dir(&to)?;
            bind(&from, &to)?;
        } else {
            File::create(&to)?;
            bind(&from, &to)?;
        }
    }
    write(&place.join(name), cover)?;
    mount(Some(&place), folder, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

fn write(path: &Path, cover: &Cover) -> io::Result<()> {
    fs::write(path, &cover.text)?;
    fs::set_permissions(path, Permissions::from_mode(cover.mode))
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    Ok(mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

fn change(path: &str, flags: MsFlags) -> io::Result<()> {
    Ok(mount(None::<&str>, path, None::<&str>, flags, None::<&str>)?)
}

fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
