//! The most memory that a process had, by itself: `getrusage` would tell the memory of whoever started it where that is more.

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

/// Runs a program to its end, and tells the most memory that was resident, in KiB; asked of the kernel when it is about to exit.
///
/// # Errors
/// Where it cannot be run or traced, or ends with anything but 0.
pub fn peak_kib(command: &Command) -> io::Result<u64> {
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
    let mut peak = None;
    loop {
        match waitpid(pid, None)? {
            WaitStatus::Exited(_, 0) => break,
            WaitStatus::PtraceEvent(_, _, event) if event == exit_event() => {
                peak = Some(high_water(pid)?);
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
    peak.ok_or_else(|| io::Error::other("a process that ended without the kernel's saying so"))
}

#[expect(clippy::as_conversions, reason = "the kernel's number of the event, which nix gives as an enumeration")]
const fn exit_event() -> i32 {
    Event::PTRACE_EVENT_EXIT as i32
}

/// What is resident now, counted page by page, or the high water mark: the kernel keeps that one in steps of many pages.
fn high_water(pid: Pid) -> io::Result<u64> {
    let of = |file: &str, field: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
        kib.ok_or_else(|| io::Error::other(format!("no {field} in /proc/{pid}/{file}")))
    };
    Ok(of("smaps_rollup", "Rss:")?.max(of("status", "VmHWM:")?))
}
