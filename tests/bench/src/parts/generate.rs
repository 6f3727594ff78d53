//! Writes a snapshot as large as wanted, as an agent would: `countersign-bench generate DIRECTORY USERS GRANTS REVOCATIONS`. Needs root, whose files
//! alone the helper trusts. The key in it is made for the occasion, and thrown away.

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    time::Instant,
};

use countersign_bench::{
    scale::{self, Sizes},
    snapshot::key_pair,
};
use countersign_snapshot::publish;

pub(crate) fn run(arguments: &[OsString]) -> Result<(), Box<dyn Error>> {
    let arguments: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let [directory, users, grants, revocations] = arguments.as_slice() else {
        return Err("expected DIRECTORY USERS GRANTS REVOCATIONS".into());
    };
    let sizes = Sizes { users: users.parse()?, grants: grants.parse()?, revocations: revocations.parse()? };
    let folder = tempfile::tempdir()?;
    let (access, accounts) = scale::tables(&sizes, &key_pair(folder.path(), "key")?)?;
    scale::directory(Path::new(directory))?;
    let begun = Instant::now();
    let generation = publish(Path::new(directory), &access, &accounts, &scale::info(None)?)?;
    writeln!(io::stdout(), "generation {generation} in {:.1} s", begun.elapsed().as_secs_f64())?;
    Ok(())
}
