//! `login`: a whole `ssh … true` through the helper, beside one through a static `AuthorizedKeysFile`, against two sshds of one
//! configuration in turn. Runs inside a bed only: `tests/bed countersign-bench login HELPER [--quick]`.

use std::{error::Error, ffi::OsString, path::Path};

use countersign_bench::{
    bed::{Bed, GROUP, SNAPSHOT},
    figure, quick,
    snapshot::publish_granted,
    spawn_to_exit,
};

const STATIC_PORT: u16 = 2222;
const HELPER_PORT: u16 = 2223;

pub(crate) fn run(arguments: &[OsString]) -> Result<(), Box<dyn Error>> {
    let helper = arguments.first().ok_or("expected HELPER")?;
    let (rounds, users) = if quick() { (10, 1_000) } else { (100, 1_000_000) };
    let bed = Bed::new(Path::new(&helper))?;
    publish_granted(Path::new(SNAPSHOT), users, &bed.key, Some(GROUP))?;
    let _servers = [bed.serve(STATIC_PORT, &bed.by_file())?, bed.serve(HELPER_PORT, &Bed::by_helper())?];
    let mut logins = [bed.login(STATIC_PORT, "client"), bed.login(HELPER_PORT, "client")];
    let medians = spawn_to_exit(&mut logins, rounds)?;
    let [fixed, helped] = medians.as_slice() else { return Err("two medians expected".into()) };
    figure("login static", fixed / 1e3, "ms", None, "ssh … true through a static AuthorizedKeysFile, p50")?;
    let against = "the static file (goal 1.02)";
    figure(&format!("login helper ({users} users)"), helped / 1e3, "ms", Some(helped / fixed), against)?;
    Ok(())
}
