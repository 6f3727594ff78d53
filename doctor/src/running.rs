//! The sshd that runs: that it has read the configuration which was looked at.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_sshd::Stat;

use crate::arguments::{Arguments, is_listener};
use crate::code::Code;
use crate::config::Config;
use crate::finding::{Finding, Report};
use crate::host::Host;
use crate::sshd::Effective;

/// The kernel tells the time of its start, and that of a process since then, to hundredths of a second; by clocks that are set.
const TOLERANCE: Duration = Duration::from_secs(2);

/// An sshd that listens.
#[derive(Debug)]
pub(crate) struct Listener {
    pid: u32,
    /// As `ps` shows it.
    title: String,
    started: SystemTime,
    /// Another program lies in its place by now.
    is_replaced: bool,
}

/// Compares it with the files.
pub(crate) fn examine(
    host: &Host,
    listeners: &[Listener],
    config: &Config,
    effective: &Effective,
    report: &mut Report,
) {
    if listeners.is_empty() {
        // Started for each connection, or not at all: what it reads then is what was looked at.
        return;
    }
    report.checked("running-sshd");
    for listener in listeners {
        let Listener { pid, title, started, is_replaced } = listener;
        let about = format!("sshd, pid {pid}");
        let Some(Arguments { file, options }) = Arguments::of(title) else {
            let text = format!("with what it was started cannot be told from its title: {}", title.trim_end());
            let change = format!("put what follows -o into {}, and restart sshd", host.sshd_config.display());
            report.find(Finding::new(Code::SshdElsewhere, about, text).change(change));
            continue;
        };
        if file != host.sshd_config {
            let change = format!("countersign doctor --sshd-config {}", file.display());
            report
                .find(Finding::new(Code::SshdElsewhere, about, format!("it reads {}", file.display())).change(change));
            continue;
        }
        // That one is looked at with its own.
        if options != host.sshd_options {
            continue;
        }
        if *is_replaced {
            let text = format!("{} was replaced after it was started", host.sshd.display());
            report.find(Finding::new(Code::SshdOlder, about, text).change("systemctl restart ssh   (sessions go on)"));
            continue;
        }
        let read = (*started).max(told_to_read(effective, *pid).unwrap_or(UNIX_EPOCH));
        let newest =
            config.files.iter().filter_map(|file| Some((fs::metadata(file).ok()?.modified().ok()?, file))).max();
        if let Some((changed, file)) = newest
            && changed > read.checked_add(TOLERANCE).unwrap_or(read)
        {
            let text = format!("{} was changed after it was started", file.display());
            let change = "sshd -t && systemctl reload ssh   (sshd on Red Hat's; or: kill -HUP and its pid)";
            report.find(Finding::new(Code::SshdOlder, about, text).change(change));
        }
    }
}

/// A SIGHUP keeps the process and its start; the file with its number is written anew.
fn told_to_read(effective: &Effective, pid: u32) -> Option<SystemTime> {
    let file = Path::new(effective.get("pidfile"));
    let is_its = fs::read_to_string(file).ok()?.trim().parse::<u32>().ok() == Some(pid);
    fs::metadata(file).ok()?.modified().ok().filter(|_| is_its)
}

/// With what each of those that listen with this configuration was started; the same is once.
pub(crate) fn options(host: &Host, listeners: &[Listener]) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = Vec::new();
    for listener in listeners {
        let arguments = Arguments::of(&listener.title).filter(|arguments| arguments.file == host.sshd_config);
        all.extend(arguments.map(|arguments| arguments.options).filter(|options| !all.contains(options)));
    }
    if all.is_empty() { vec![host.sshd_options.clone()] } else { all }
}

/// All that listen now.
pub(crate) fn listeners(sshd: &Path) -> Vec<Listener> {
    let Ok(sshd) = fs::canonicalize(sshd) else { return Vec::new() };
    let own = fs::read_link("/proc/thread-self/ns/mnt").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let found = entries.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let path = entry.path();
        // What the kernel says of a file that has no name any more.
        let program = fs::read_link(path.join("exe")).ok()?;
        let is_replaced = program.to_str()?.strip_suffix(" (deleted)").is_some_and(|name| Path::new(name) == sshd);
        // Containers have sshds of their own, which are theirs to look at.
        let is_here = (is_replaced || program == sshd) && fs::read_link(path.join("ns/mnt")).ok() == own;
        let title = fs::read(path.join("cmdline")).ok()?;
        let title = String::from_utf8_lossy(&title).replace('\0', " ");
        let is_listener = is_here && is_listener(&title) && fs::metadata(&path).ok()?.uid() == 0;
        let started = start(Stat::read(pid).ok()?.start_ticks)?;
        is_listener.then_some(Listener { pid, title, started, is_replaced })
    });
    found.collect()
}

fn start(ticks: u64) -> Option<SystemTime> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let secs = ticks.checked_div(rustix::param::clock_ticks_per_second())?;
    UNIX_EPOCH.checked_add(Duration::from_secs(boot.checked_add(secs)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_the_number_of_another_process_says_nothing_about_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sshd.pid");
        let effective = Effective::parse(&format!("pidfile {}\n", path.display()));
        assert_eq!(told_to_read(&effective, 42), None);
        fs::write(&path, "42\n").unwrap();
        assert_eq!(told_to_read(&effective, 42), Some(fs::metadata(&path).unwrap().modified().unwrap()));
        assert_eq!(told_to_read(&effective, 4), None);
    }

    #[test]
    fn this_process_was_started_a_moment_ago() {
        let started = start(Stat::read(std::process::id()).unwrap().start_ticks).unwrap();
        let now = SystemTime::now();
        assert!(started <= now.checked_add(TOLERANCE).unwrap());
        assert!(started > now.checked_sub(Duration::from_secs(86_400)).unwrap(), "{started:?}");
    }
}
