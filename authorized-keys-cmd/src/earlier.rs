//! An earlier AuthorizedKeysCommand, asked where the realm has nothing to say (`--chain`).
//!
//! sshd knows one such command only. What it had before goes on working for logins that are none of the realm's business, and
//! nothing that it prints can be more than it was: the line of the very key that the client offers, which the snapshot does not deny.
//! Never a certificate, never a CA. All or nothing: what a program prints that fails, that prints without end or that is not done in
//! time counts for nothing. Nobody but root may have been able to choose what runs.

use std::ffi::{CStr, CString, OsString, c_char};
use std::fs::File;
use std::io::{PipeReader, Read as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::authorized_keys::{Line, lines};
use crate::decide::Refusal;
use crate::reason::Reason;

/// The most that a program may print.
pub const MAX_OUTPUT_BYTES: u64 = 64 * 1024;
/// Where `--chain` stands: after `keys %u %U %t %k`.
const POSITION: usize = 5;
/// What sshd gives its commands; nothing else is handed on.
const ENVIRONMENT: [&str; 5] = ["PATH", "USER", "LOGNAME", "HOME", "LANG"];
/// sshd closes what is open beyond standard error before it runs a command; so do we, up to here.
const DESCRIPTORS: i32 = 1024;
/// What shells say of a program that cannot be run.
const NOT_RUN: i32 = 127;
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The system takes the death signal away from a program with one of these.
const OTHER_USER_OR_GROUP: u32 = 0o6000;

/// The program, and how it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    program: PathBuf,
    arguments: Vec<OsString>,
    timeout: Duration,
}

/// The processes of a program that runs, to be ended from another thread.
#[derive(Debug, Clone, Default)]
pub struct Group(Arc<AtomicI32>);

impl Group {
    /// Kills all of them that have not left the group. Nothing, where nothing runs.
    pub fn kill(&self) {
        let leader = self.0.load(Ordering::SeqCst);
        if leader > 0 {
            // Where it fails, there is nobody left.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}

impl Earlier {
    /// Whether `arguments` are those of a query with an earlier command.
    #[must_use]
    pub fn is_named(arguments: &[OsString]) -> bool {
        arguments.first().is_some_and(|mode| mode == "keys")
            && arguments.get(POSITION).is_some_and(|option| option == "--chain")
    }

    /// Cuts `--chain PROGRAM [ARGUMENT…]` off the end of `keys %u %U %t %k --chain …`. Without arguments the program gets the login
    /// alone, as sshd would give it. Looked for in one place, so that nothing which a client has sent can pass for it.
    pub fn take(arguments: &mut Vec<OsString>, timeout: Duration) -> Option<Self> {
        if !Self::is_named(arguments) || arguments.len() <= POSITION.saturating_add(1) {
            return None;
        }
        let mut own = arguments.split_off(POSITION).into_iter().skip(1);
        let program = own.next().map(PathBuf::from)?;
        let mut passed: Vec<OsString> = own.collect();
        if passed.is_empty() {
            passed.extend(arguments.get(1).cloned());
        }
        Some(Self { program, arguments: passed, timeout })
    }

    /// How long it may take.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs it to its end and returns all that it has printed. What it has started and left behind still runs, in `group`: kill that.
    ///
    /// # Errors
    /// [`Reason::ChainUnsafe`] where somebody other than root could have chosen what runs; [`Reason::ChainFailed`] where it cannot be run,
    /// ends in anything but status 0, or prints more than [`MAX_OUTPUT_BYTES`].
    pub fn run(&self, group: &Group) -> Result<Vec<u8>, Refusal> {
        let program = trusted_path(&self.program)?;
        let failed = |detail: &dyn std::fmt::Display| Refusal::new(Reason::ChainFailed, detail);
        let (pid, stdout) = self.start(program).map_err(|error| failed(&format_args!("it cannot be run: {error}")))?;
        group.0.store(pid, Ordering::SeqCst);
        let mut output = Vec::new();
        let read = stdout.take(MAX_OUTPUT_BYTES.saturating_add(1)).read_to_end(&mut output);
        read.map_err(|error| failed(&format_args!("its output cannot be read: {error}")))?;
        if u64::try_from(output.len()).unwrap_or(u64::MAX) > MAX_OUTPUT_BYTES {
            return Err(failed(&format_args!("it prints more than {MAX_OUTPUT_BYTES} bytes")));
        }
        // It stays a zombie: until this process ends nobody else has its id, whenever the group is killed.
        match waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(output),
            Ok(WaitStatus::Exited(_, NOT_RUN)) => Err(failed(&"it cannot be run, or ended with status 127")),
            Ok(WaitStatus::Exited(_, code)) => Err(failed(&format_args!("it ended with status {code}"))),
            Ok(WaitStatus::Signaled(_, signal, _)) => Err(failed(&format_args!("signal {signal} ended it"))),
            _ => Err(failed(&"its end is not known")),
        }
    }

    /// `std::process` does the same with 40 KiB more of code.
    #[expect(unsafe_code, reason = "there is no safe way to fork")]
    fn start(&self, program: PathBuf) -> std::io::Result<(i32, PipeReader)> {
        let text = |bytes: Vec<u8>| CString::new(bytes).map_err(std::io::Error::from);
        let path = text(program.into_os_string().into_vec())?;
        let own = std::iter::once(self.program.clone().into_os_string()).chain(self.arguments.iter().cloned());
        let arguments = own.map(|argument| text(argument.into_vec())).collect::<Result<Vec<_>, _>>()?;
        let mut environment = Vec::with_capacity(ENVIRONMENT.len());
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                environment.push(text([name.as_bytes(), b"=", &value.into_vec()].concat())?);
            }
        }
        let pointers = |texts: &[CString]| -> Vec<*const c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&arguments), pointers(&environment));
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        let (reader, writer) = std::io::pipe()?;
        // At LoginGraceTime sshd sends SIGTERM to its group, us included. We stay until our own deadline and kill whatever the program
        // has started; if we went, only the program itself would go with us.
        // SAFETY: a disposition that runs no code.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        let parent = nix::unistd::getpid().as_raw();
        // SAFETY: other threads run, so the child may do nothing but system calls: `become_program` does nothing else.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(std::io::Error::last_os_error()),
            // SAFETY: this is the child. The text and both arrays, each with a null at its end, live in this frame.
            0 => unsafe { become_program(&path, &argv, &envp, nothing.as_raw_fd(), writer.as_raw_fd(), parent) },
            pid => {
                // The child does the same: whoever comes first, the group is there before it is killed. Fails after the child's exec only.
                let _ = nix::unistd::setpgid(Pid::from_raw(pid), Pid::from_raw(pid));
                Ok((pid, reader))
            }
        }
    }
}

/// The child's part: descriptors, group, signals and directory as sshd gives them, then the program.
///
/// # Safety
/// Only between fork and exec. `argv` and `envp` end with a null.
#[expect(unsafe_code, reason = "system calls, where nothing else is allowed")]
unsafe fn become_program(
    path: &CStr,
    argv: &[*const c_char],
    envp: &[*const c_char],
    nothing: RawFd,
    output: RawFd,
    parent: libc::pid_t,
) -> ! {
    // SAFETY: system calls on numbers and on texts that outlive them; none allocates or takes a lock.
    unsafe {
        let set_up = libc::setpgid(0, 0) == 0
            // Whoever kills the helper ends the program, too; also where that came before this line.
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::getppid() == parent
            && libc::dup2(nothing, 0) == 0
            && libc::dup2(output, 1) == 1
            && libc::dup2(nothing, 2) == 2
            && libc::chdir(c"/".as_ptr()) == 0;
        if set_up {
            for descriptor in 3..DESCRIPTORS {
                libc::close(descriptor);
            }
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            libc::signal(libc::SIGTERM, libc::SIG_DFL);
            libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr());
        }
        libc::_exit(NOT_RUN)
    }
}

/// What of `output` is passed on: the lines, byte for byte, that have the key of `blob`. None if there is no such line.
///
/// sshd compares each line with the key that is offered, so that all others are good for nothing; that one was looked up among
/// the denials before.
#[must_use]
pub fn lines_of_key(output: &[u8], blob: &[u8]) -> Option<Vec<u8>> {
    let mut passed = Vec::new();
    for line in lines(output) {
        if let Line::Key(line) = line
            && line.blob == blob
        {
            passed.extend_from_slice(line.text);
            passed.push(b'\n');
        }
    }
    (!passed.is_empty()).then_some(passed)
}

/// `program`, if no part of its path is a link, and it and every directory above it are root's and writable by nobody else. Then only root
/// can make the path mean something else. A link is refused wherever it leads: whoever may write where it lies chooses among root's programs.
fn trusted_path(program: &Path) -> Result<PathBuf, Refusal> {
    let unsafe_program = |detail: &dyn std::fmt::Display| Refusal::new(Reason::ChainUnsafe, detail);
    if !program.is_absolute() {
        return Err(unsafe_program(&"expected an absolute path"));
    }
    let path = program.canonicalize().map_err(|error| Refusal::new(Reason::ChainFailed, error))?;
    if path != program {
        return Err(unsafe_program(&format_args!("expected a path without links: {}", path.display())));
    }
    for (level, part) in path.ancestors().enumerate() {
        let found = part.symlink_metadata().map_err(|error| Refusal::new(Reason::ChainFailed, error))?;
        let is_right = if level == 0 { found.is_file() } else { found.is_dir() };
        if !is_right || found.uid() != 0 || found.mode() & WRITABLE_BY_OTHERS != 0 {
            let part = part.display();
            return Err(unsafe_program(&format_args!("{part}: expected root's, writable by nobody else")));
        }
        if level == 0 && found.mode() & OTHER_USER_OR_GROUP != 0 {
            return Err(unsafe_program(&"expected a program that is neither setuid nor setgid"));
        }
    }
    Ok(path)
}
