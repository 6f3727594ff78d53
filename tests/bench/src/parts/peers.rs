//! `peers`: the shipped helper beside what others run in its place, and the name service module beside other sources of names, each with the same
//! people. Runs inside a bed only: `tests/bed countersign-bench peers FLOOR HELPER MODULE PROGRAMS [--quick]`, where PROGRAMS is what `.ci/peers`
//! makes. `countersign-bench peers --look-up …` is the process that looks names up.

use std::{
    error::Error,
    ffi::OsString,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use countersign_bench::{
    bed::{SNAPSHOT, serve_helper},
    figure, long,
    peers::{
        Programs,
        directory::{self, Directory},
        lookups::{self, Took},
        metadata,
        people::People,
    },
    quick,
    scale::{self, Sizes},
    spawn_to_exit,
};
use countersign_snapshot::publish;

const SSSD: [&str; 4] = ["sssd-common", "sssd-ldap", "libnss-sss", "slapd"];
const OS_LOGIN: &str = "google-compute-engine-oslogin";
const USERDB: &str = "libnss-systemd";
const SCRIPT: &str = "/usr/local/bin/keys-by-grep";

pub(crate) fn run(arguments: &[OsString]) -> Result<(), Box<dyn Error>> {
    if arguments.first().is_some_and(|first| first == lookups::ARGUMENT) {
        let rest: Vec<String> = arguments.iter().skip(1).map(|argument| argument.display().to_string()).collect();
        return lookups::look_up(&rest);
    }
    let [floor, helper, module, programs, ..] = arguments else {
        return Err("expected FLOOR HELPER MODULE PROGRAMS [--quick|--long]".into());
    };
    let (people, rounds, processes) = if quick() { (People(2_000), 40, 5) } else { (People(100_000), 500, 15) };
    if long() {
        note("peers", "not larger than without --long: a directory of a million takes longer to fill than all else")?;
    }
    let programs = Programs::unpack(Path::new(programs))?;
    let directory = match SSSD.iter().find(|package| programs.version(package).is_none()) {
        None => Ok(Directory::start(people)?),
        Some(package) => Err(format!("not available: this release has no package {package}")),
    };
    publish_people(people)?;
    serve_helper("root")?;
    let (floor, helper) = (Command::new(floor), ours(helper, people));
    keys(floor, helper, people, &programs, directory.as_ref().err(), rounds)?;
    names(Path::new(module), people, &programs, directory.as_ref().err(), processes)
}

/// A row that says why there is no figure.
fn note(name: &str, why: &str) -> io::Result<()> {
    use std::io::Write as _;
    writeln!(io::stdout(), "{name}\t-\t-\t-\t{why}")
}

fn publish_people(people: People) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all("/var/lib/countersign")?;
    let snapshot = Path::new(SNAPSHOT);
    scale::directory(snapshot)?;
    let sizes = Sizes { users: people.0, grants: 0, revocations: people.0 };
    let (access, _) = scale::tables(&sizes, &people.middle().key())?;
    publish(snapshot, &access, &people.accounts(), &scale::info(None)?)?;
    Ok(())
}

fn ours(helper: &OsString, people: People) -> Command {
    let mut command = Command::new(helper);
    command.args(["keys", "deploy", "1000", "ssh-ed25519", &people.middle().key()]);
    command
}

/// What sshd waits for: each answers with the key of one of the people.
fn keys(
    floor: Command,
    helper: Command,
    people: People,
    programs: &Programs,
    no_sssd: Option<&String>,
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    let (count, name) = (people.0, people.middle().name());
    fs::write("/etc/keys.map", people.map()?)?;
    fs::write(SCRIPT, "#!/bin/sh\ngrep \"^$1 \" /etc/keys.map | cut -d ' ' -f 2-\n")?;
    fs::set_permissions(SCRIPT, fs::Permissions::from_mode(0o755))?;
    let mut script = Command::new(SCRIPT);
    script.arg(&name);

    let mut peers = vec![
        (format!("peers helper ({count} users)"), helper, String::new()),
        (format!("peers script with grep ({count} users)"), script, "sh, grep and cut over one file".to_owned()),
    ];
    match no_sssd {
        None => {
            let version = programs.version("sssd-common").unwrap_or_default();
            let how = format!("sssd {version}, from its cache, the user known to it");
            peers.push((format!("peers sss_ssh_authorizedkeys ({count} users)"), directory::keys_of(&name), how));
        }
        Some(why) => note("peers sss_ssh_authorizedkeys", why)?,
    }
    match programs.version(OS_LOGIN) {
        Some(version) => {
            metadata::serve(people)?;
            let how = format!("{OS_LOGIN} {version}, its metadata server on the same machine");
            peers.push((format!("peers google_authorized_keys ({count} users)"), metadata::keys_of(&name), how));
        }
        None => {
            note("peers google_authorized_keys", &format!("not available: this release has no package {OS_LOGIN}"))?
        }
    }
    let key = people.middle().key();
    for (name, command, _) in &mut peers {
        let answer = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !String::from_utf8_lossy(&answer.stdout).contains(&key) {
            return Err(format!("{name} does not answer with the key").into());
        }
    }
    let mut commands = vec![floor];
    let (rows, programs): (Vec<_>, Vec<_>) =
        peers.into_iter().map(|(name, command, how)| ((name, how), command)).unzip();
    commands.extend(programs);
    let medians = spawn_to_exit(&mut commands, rounds)?;
    let [floor, helper, ..] = medians.as_slice() else { return Err("medians expected".into()) };
    figure("peers floor", *floor, "us", None, "an empty static Rust binary, spawn to exit, p50")?;
    for ((name, how), took) in rows.iter().zip(medians.iter().skip(1)) {
        if how.is_empty() {
            figure(name, *took, "us", Some(took / floor), "the empty binary")?;
        } else {
            figure(name, *took, "us", Some(took / helper), &format!("the helper; {how}"))?;
        }
    }
    Ok(())
}

/// Lookups of names by each source.
fn names(
    module: &Path,
    people: People,
    programs: &Programs,
    no_sssd: Option<&String>,
    processes: usize,
) -> Result<(), Box<dyn Error>> {
    lookups::install_module(module)?;
    lookups::write_records(people)?;
    let measure = |source: &str| -> Result<Vec<Took>, Box<dyn Error>> {
        lookups::ask_source(source)?;
        lookups::KINDS.iter().map(|kind| lookups::measure(kind, people, processes)).collect()
    };
    let before = lookups::add_to_files(people)?;
    let files = measure("files")?;
    for (path, text) in before {
        fs::write(path, text)?;
    }
    let mut sources = vec![("countersign", measure("countersign")?, String::new())];
    match no_sssd {
        None => sources.push(("sss", measure("sss")?, "; from sssd's cache in memory".to_owned())),
        Some(why) => note("names sss", why)?,
    }
    match programs.version(USERDB) {
        Some(version) => {
            sources.push(("systemd", measure("systemd")?, format!("; {USERDB} {version}, records in /run/userdb")));
        }
        None => note("names systemd", &format!("not available: this release has no package {USERDB}"))?,
    }
    let count = people.0;
    for (place, kind) in lookups::KINDS.iter().enumerate() {
        let Some(of_files) = files.get(place) else { continue };
        for (which, how) in [("", "again and again in one process"), (", first", "the first of a process")] {
            let take = |took: &Took| if which.is_empty() { took.further } else { took.first };
            let floor = take(of_files);
            figure(&format!("names {kind} files{which} ({count} users)"), floor, "us", None, how)?;
            for (source, took, more) in &sources {
                let Some(took) = took.get(place).map(take) else { continue };
                figure(
                    &format!("names {kind} {source}{which}"),
                    took,
                    "us",
                    Some(took / floor),
                    &format!("files{more}"),
                )?;
            }
        }
    }
    // Asked for by name first: known to sssd by any other question after that.
    let unknown = sources.iter().find(|(source, ..)| *source == "sss").and_then(|(_, took, _)| took.first());
    if let (Some(took), Some(of_files)) = (unknown, files.first()) {
        let ratio = took.unknown / of_files.further;
        let against = "files; sssd asks the directory";
        figure("names getpwnam sss, not in its cache", took.unknown, "us", Some(ratio), against)?;
    }
    Ok(())
}
