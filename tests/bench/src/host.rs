//! What a host has that the helper speaks to: a log that somebody reads, and a folder for notes. In a mount namespace of one's own, so that
//! nothing of it is there for others.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::{fs::DirBuilderExt as _, net::UnixDatagram},
    path::Path,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Gives this process, and what it starts, such a host. Needs root.
///
/// # Errors
/// Where the system refuses a namespace or a mount.
pub fn enter() -> io::Result<()> {
    const NOTHING: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
    mount(Some("runtime"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    fs::create_dir("/run/countersign")?;
    DirBuilder::new().mode(0o700).create("/run/countersign/offers")?;
    let dev = Path::new("/run/dev");
    fs::create_dir(dev)?;
    let log = UnixDatagram::bind(dev.join("log"))?;
    File::create(dev.join("null"))?;
    mount(Some("/dev/null"), &dev.join("null"), NOTHING, MsFlags::MS_BIND, NOTHING)?;
    mount(Some(dev), "/dev", NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?;
    thread::spawn(move || {
        let mut line = [0; 1024];
        while log.recv(&mut line).is_ok() {}
    });
    Ok(())
}
