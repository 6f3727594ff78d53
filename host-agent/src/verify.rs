//! `check-config`: everything that the agent would trip over later, found before it starts. The configuration and the realm file
//! are parsed, directories walked, keys opened, users and groups looked up; the first thing wrong is the one that is told.
//! Nothing is written and nobody is asked over the network.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use countersign_chain::history;
use countersign_chain::realm_file::RealmFile;
use countersign_delivery::{Place, StoreSetting};

use crate::agent::{AgentError, access_group, load_realm_file};
use crate::config::{Config, ConfigError, PayloadRule};
use crate::device::DeviceKeys;
use crate::files::{Directory, FileError, Owners};
use crate::receive::ReceiveError;
use crate::receiving::output_rule;

/// Loads a configuration and checks all that it names.
///
/// # Errors
/// The first thing wrong.
pub fn check_config(path: &Path) -> Result<Config, AgentError> {
    let (config, wrong) = check_start(path)?;
    check_links(&load_realm_file(config.realm_file.as_path())?)?;
    match wrong.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(config),
    }
}

/// Loads a configuration and checks all that it names, at a start. What is wrong with a block store or with one payload is returned
/// and does not stop it: a service that owns its own directory, or a directory server that answers late, must not be able to keep
/// everybody out of the host by keeping its agent from starting.
///
/// # Errors
/// The first thing wrong with what access depends on, or with the device's own keys.
pub fn check_start(path: &Path) -> Result<(Config, Vec<ConfigError>), AgentError> {
    let config = Config::load(path)?;
    let named = |field: String| {
        let path = path.to_owned();
        move |source: FileError| ConfigError::Named { path, field, source }
    };
    load_realm_file(config.realm_file.as_path())?;
    let owners = Owners::process();
    Directory::check_place(config.state_dir.as_path(), owners).map_err(named("state-dir".to_owned()))?;
    // Below a state directory that the agent has yet to make there is nothing to look at: it makes both.
    let unmade = |path: &Path| path.starts_with(config.state_dir.as_path()) && !config.state_dir.as_path().exists();
    if let Some(directory) = config.snapshot_dir.as_ref().filter(|directory| !unmade(directory.as_path())) {
        Directory::check_place(directory.as_path(), owners).map_err(named("snapshot-dir".to_owned()))?;
    }
    access_group(&config)?;
    if let Some(device) = &config.device {
        DeviceKeys::load(device)?;
    }
    let stores = config.block_store.iter().map(|store| check_store(path, store));
    let rules = config.payload.iter().map(|rule| check_rule(path, rule));
    let wrong = stores.chain(rules).filter_map(Result::err).collect();
    Ok((config, wrong))
}

/// The files that the agent needs when the realm moves. At a start they do not matter yet.
fn check_links(realm: &RealmFile) -> Result<(), AgentError> {
    let links = &realm.links;
    for neighbour in links.successor.iter().chain(&links.predecessor) {
        RealmFile::load(neighbour)?;
    }
    if let Some(archive) = &links.archive {
        let failed = |source| FileError::Io { action: "open", path: archive.clone(), source };
        if !std::fs::metadata(archive).map_err(failed)?.is_file() {
            return Err(FileError::Kind { path: archive.clone(), expected: "file" }.into());
        }
    }
    if let Some(statement) = &links.statement {
        history::statement(statement)?;
    }
    Ok(())
}

fn check_store(path: &Path, store: &StoreSetting) -> Result<(), ConfigError> {
    if let Place::Directory(directory) = &store.place {
        let field = "block-store: directory".to_owned();
        existing_directory(directory).map_err(|source| ConfigError::Named { path: path.to_owned(), field, source })?;
    }
    store.open().map(drop).map_err(|error| ConfigError::Value {
        path: path.to_owned(),
        field: "block-store".to_owned(),
        problem: error.to_string(),
    })
}

fn check_rule(path: &Path, rule: &PayloadRule) -> Result<(), ConfigError> {
    let field = |name: &str| format!("payload {}: {name}", rule.name);
    let named = |name: &str, source| ConfigError::Named { path: path.to_owned(), field: field(name), source };
    let value = |name: &str, problem: String| ConfigError::Value { path: path.to_owned(), field: field(name), problem };
    let output = output_rule(rule).map_err(|error| match error {
        ReceiveError::Owner { what: "group", name } => value("group", format!("no group {name:?} on this host")),
        _ => value("owner", format!("no user {:?} on this host", rule.owner)),
    })?;
    Directory::of(&output.path, Owners::and(output.ownership.uid)).map_err(|error| named("path", error))?;
    if let Some(command) = &rule.reload {
        check_program(command.program.as_path()).map_err(|error| named("reload", error))?;
    }
    Ok(())
}

fn existing_directory(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::Io { action: "open", path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.is_dir() {
        Ok(())
    } else {
        Err(FileError::Kind { path: path.to_owned(), expected: "directory" })
    }
}

/// A program may be reached through links (`/bin`, alternatives), but what they lead to must be root's or the process's own.
///
/// # Errors
/// The file or directory that is missing, or that others may write.
pub fn check_program(path: &Path) -> Result<(), FileError> {
    let failed = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |source| FileError::Io { action: "run", path, source }
    };
    let real = std::fs::canonicalize(path).map_err(failed(path))?;
    Directory::of(&real, Owners::process())?;
    let metadata = std::fs::metadata(&real).map_err(failed(&real))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if !metadata.is_file() || mode & 0o111 == 0 {
        return Err(FileError::Kind { path: real, expected: "program" });
    }
    if mode & 0o022 != 0 {
        return Err(FileError::Writable { path: real, mode });
    }
    Ok(())
}
