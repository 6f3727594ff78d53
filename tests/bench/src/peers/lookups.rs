//! Lookups of names, as any program makes them through glibc, by one source each (`nsswitch.conf`): the first of a process, and further ones
//! in the same process.
//!
//! Each source has the same people ([`People`]) and, beside them, the machine's own few in its files. A source that does not
//! answer, or answers with somebody else, is an error: it would be measured as a fast one.

use std::{
    error::Error,
    ffi::CString,
    fs,
    io::{self, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::unistd::{Gid, Uid, User, getgrouplist};

use super::people::{People, Person};

/// Said to the process that looks names up.
pub const ARGUMENT: &str = "--look-up";
/// How many of the people are asked for, where the source is not slow.
const ASKED: u32 = 50;
/// How long one source is asked for them, and then for the same ones again.
const BUDGET: Duration = Duration::from_millis(300);

/// What is asked.
pub const KINDS: [&str; 3] = ["getpwnam", "getpwuid", "initgroups"];

/// Microseconds of one lookup.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// The first of a process, the middle of some processes.
    pub first: f64,
    /// The mean of those in the same process, each person having been asked for before.
    pub further: f64,
    /// The mean of those before, by the first process of all.
    pub unknown: f64,
}

/// Has glibc ask the machine's files, and then this source.
///
/// # Errors
/// Where the configuration cannot be written.
pub fn ask_source(source: &str) -> io::Result<()> {
    let more = if source == "files" { "" } else { source };
    fs::write("/etc/nsswitch.conf", format!("passwd: files {more}\ngroup: files {more}\n"))
}

/// Puts our module where glibc looks for it.
///
/// # Errors
/// Where it cannot be put there.
pub fn install_module(module: &Path) -> Result<(), Box<dyn Error>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let library = maps.lines().find(|line| line.ends_with("/libc.so.6")).and_then(|line| line.split_once('/'));
    let (_, library) = library.ok_or("expected that this process has libc.so.6")?;
    let folder = PathBuf::from(format!("/{library}")).parent().ok_or("a library lies in a folder")?.to_owned();
    fs::copy(module, folder.join("libnss_countersign.so.2"))?;
    Ok(())
}

/// Adds the people to the machine's own files; gives back what they said.
///
/// # Errors
/// Where they cannot be read or written.
pub fn add_to_files(people: People) -> Result<[(&'static str, String); 2], Box<dyn Error>> {
    let before =
        [("/etc/passwd", fs::read_to_string("/etc/passwd")?), ("/etc/group", fs::read_to_string("/etc/group")?)];
    let (passwd, group) = people.files()?;
    for ((path, text), more) in before.iter().zip([passwd, group]) {
        fs::write(path, format!("{text}{more}"))?;
    }
    Ok(before)
}

/// Writes the people as drop-in records for systemd's module (nss-systemd(8)), which reads them itself where no service does.
///
/// # Errors
/// Where they cannot be written.
pub fn write_records(people: People) -> Result<(), Box<dyn Error>> {
    let folder = Path::new("/run/userdb");
    fs::create_dir_all(folder)?;
    for person in people.all() {
        let (name, uid) = (person.name(), person.uid());
        let record = format!(
            "{{\"userName\":\"{name}\",\"uid\":{uid},\"gid\":{uid},\"realName\":\"Somebody\",\
             \"homeDirectory\":\"/home/{name}\",\"shell\":\"/bin/bash\",\"disposition\":\"regular\"}}\n"
        );
        fs::write(folder.join(format!("{name}.user")), record)?;
        symlink(format!("{name}.user"), folder.join(format!("{uid}.user")))?;
    }
    for (gid, team, members) in people.teams() {
        fs::write(folder.join(format!("{team}.group")), format!("{{\"groupName\":\"{team}\",\"gid\":{gid}}}\n"))?;
        symlink(format!("{team}.group"), folder.join(format!("{gid}.group")))?;
        for member in members {
            fs::write(folder.join(format!("{member}:{team}.membership")), "{}\n")?;
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Measures one kind of lookup by the source that was chosen, in processes of its own: so many for the first lookup.
///
/// # Errors
/// Where one does not find somebody.
pub fn measure(kind: &str, people: People, processes: usize) -> Result<Took, Box<dyn Error>> {
    let ask = |further: &str| -> Result<Vec<f64>, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["peers", ARGUMENT, kind, &people.0.to_string(), further]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("{command:?} ended with {}", output.status).into());
        }
        Ok(String::from_utf8(output.stdout)?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    };
    let all = ask("further")?;
    let [_, unknown, further] = all.as_slice() else { return Err("three figures expected".into()) };
    let mut firsts = Vec::with_capacity(processes);
    for _ in 0..processes {
        firsts.extend(ask("first")?.first().copied());
    }
    firsts.sort_unstable_by(f64::total_cmp);
    let first = firsts.get(firsts.len() / 2).copied().ok_or("a process expected")?;
    Ok(Took { first, further: *further, unknown: *unknown })
}

/// The process that looks names up: `peers --look-up KIND PEOPLE first|further`. Prints microseconds: of the first lookup, and then the mean of the
/// others of those people, and the mean of asking for the same people again.
///
/// # Errors
/// Where somebody is not found.
pub fn look_up(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [kind, people, further] = arguments else { return Err("expected KIND PEOPLE first|further".into()) };
    let people = People(people.parse()?);
    // A file is read up to where somebody stands: half of it.
    let first = people.middle();
    let begun = Instant::now();
    one(kind, first)?;
    let mut figures = vec![micros(begun.elapsed(), 1)];
    if further == "further" {
        let (begun, mut asked) = (Instant::now(), vec![first]);
        for person in people.some(ASKED) {
            one(kind, person)?;
            asked.push(person);
            if begun.elapsed() > BUDGET {
                break;
            }
        }
        figures.push(micros(begun.elapsed(), asked.len().saturating_sub(1)));
        let (begun, mut count) = (Instant::now(), 0_usize);
        while begun.elapsed() < BUDGET {
            for person in &asked {
                one(kind, *person)?;
                count = count.saturating_add(1);
            }
        }
        figures.push(micros(begun.elapsed(), count));
    }
    let figures: Vec<String> = figures.iter().map(ToString::to_string).collect();
    writeln!(io::stdout(), "{}", figures.join(" "))?;
    Ok(())
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "numbers of lookups fit a double")]
fn micros(took: Duration, count: usize) -> f64 {
    took.as_secs_f64() * 1e6 / count.max(1) as f64
}

fn one(kind: &str, person: Person) -> Result<(), Box<dyn Error>> {
    let (name, uid) = (person.name(), person.uid());
    let is_right = match kind {
        "getpwnam" => User::from_name(&name)?.is_some_and(|user| user.uid.as_raw() == uid),
        "getpwuid" => User::from_uid(Uid::from_raw(uid))?.is_some_and(|user| user.name == name),
        "initgroups" => {
            let wanted = [Gid::from_raw(uid), Gid::from_raw(person.team())];
            let groups = getgrouplist(&CString::new(name.clone())?, Gid::from_raw(uid))?;
            wanted.iter().all(|gid| groups.contains(gid))
        }
        _ => return Err(format!("unknown kind {kind}").into()),
    };
    is_right.then_some(()).ok_or_else(|| format!("{kind} does not find {name} as it is").into())
}
