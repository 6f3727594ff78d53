//! Snapshots to measure logins with.

use std::{error::Error, fs, path::Path, process::Command};

use countersign_snapshot::publish;

use crate::scale::{self, Sizes};

/// Makes a key pair with `ssh-keygen`; gives the public key in base64.
///
/// # Errors
/// Where `ssh-keygen` fails.
pub fn key_pair(folder: &Path, name: &str) -> Result<String, Box<dyn Error>> {
    let path = folder.join(name);
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f"]).arg(&path).status()?;
    if !made.success() {
        return Err("ssh-keygen failed".into());
    }
    let line = fs::read_to_string(path.with_extension("pub"))?;
    Ok(line.split_whitespace().nth(1).ok_or("a public key line has two words")?.to_owned())
}

/// Publishes a synthetic snapshot in which one key more, given in base64, is granted `deploy`; readable by `group`.
///
/// # Errors
/// Where it cannot be published, or not as root, whose files alone the helper trusts.
pub fn publish_granted(snapshot: &Path, users: u32, key: &str, group: Option<u32>) -> Result<(), Box<dyn Error>> {
    scale::directory(snapshot)?;
    let (access, accounts) = scale::tables(&Sizes { users, grants: 0, revocations: users }, key)?;
    publish(snapshot, &access, &accounts, &scale::info(group)?)?;
    Ok(())
}
