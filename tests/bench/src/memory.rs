//! The memory of a process when it ends, by itself: `getrusage` would tell the memory of whoever started it where that is more.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    process::{Command, Stdio},
};

use nix::{
    sys::{
        ptrace::{self, Event, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// What a process needs, in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The most that was resident: of it the binary's own pages are most, which the page cache has anyway. The kernel maps them in
    /// stretches of 64 KiB around each one that is touched, so it depends on where the binary was loaded.
    pub peak_kib: u64,
    /// What it has to itself: heap, stack, and pages of the binary that were written to.
    pub own_kib: u64,
}

/// The middle of some runs of a program, each to its end.
///
/// # Errors
/// Where it cannot be run or traced, or ends with anything but 0.
pub fn memory(command: &Command, rounds: usize) -> io::Result<Memory> {
    let runs = (0..rounds).map(|_| run(command)).collect::<io::Result<Vec<Memory>>>()?;
    let middle = |of: fn(&Memory) -> u64| {
        let mut values: Vec<u64> = runs.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    };
    Ok(Memory { peak_kib: middle(|run| run.peak_kib), own_kib: middle(|run| run.own_kib) })
}

fn run(command: &Command) -> io::Result<Memory> {
    // The shell waits until it is traced, then becomes the program.
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    let child = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    match waitpid(pid, Some(WaitPidFlag::WUNTRACED))? {
        WaitStatus::Stopped(..) => {}
        status => return Err(io::Error::other(format!("a stopped shell expected, found {status:?}"))),
    }
    ptrace::seize(pid, Options::PTRACE_O_TRACEEXIT)?;
    kill(pid, Signal::SIGCONT)?;
    let mut at_exit = None;
    loop {
        match waitpid(pid, None)? {
            WaitStatus::Exited(_, 0) => break,
            WaitStatus::PtraceEvent(_, _, event) if event == exit_event() => {
                at_exit = Some(look(pid)?);
                ptrace::cont(pid, None)?;
            }
            WaitStatus::PtraceEvent(..) => ptrace::cont(pid, None)?,
            WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal)?,
            status => {
                let program: OsString = command.get_program().to_owned();
                return Err(io::Error::other(format!("{} ended with {status:?}", OsStr::display(&program))));
            }
        }
    }
    at_exit.ok_or_else(|| io::Error::other("a process that ended without the kernel's saying so"))
}

#[expect(clippy::as_conversions, reason = "the kernel's number of the event, which nix gives as an enumeration")]
const fn exit_event() -> i32 {
    Event::PTRACE_EVENT_EXIT as i32
}

/// What is resident now, counted page by page, or the high water mark, which the kernel keeps in steps of many pages.
fn look(pid: Pid) -> io::Result<Memory> {
    let of = |file: &str, field: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
        kib.ok_or_else(|| io::Error::other(format!("no {field} in /proc/{pid}/{file}")))
    };
    let peak_kib = of("smaps_rollup", "Rss:")?.max(of("status", "VmHWM:")?);
    Ok(Memory { peak_kib, own_kib: of("smaps_rollup", "Anonymous:")? })
}
