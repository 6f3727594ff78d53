//! Programs that a scenario starts: short ones, whose whole output is wanted, and ones that run beside it until dropped.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait;

/// How much of a program's output is shown when a scenario fails.
const LINES_SHOWN: usize = 20;

/// What a finished program left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; `None` where a signal ended it.
    pub status: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a program to its end.
///
/// # Panics
/// Where it cannot be started.
pub fn output(command: &mut Command) -> Output {
    let program = command.get_program().to_owned();
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    Output {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a program that has to succeed; gives its standard output.
///
/// # Panics
/// Where it exits with anything but 0, with all its output.
pub fn success(command: &mut Command) -> String {
    let result = output(command);
    assert_eq!(result.status, Some(0), "{command:?}\n{}{}", result.stdout, result.stderr);
    result.stdout
}

/// A program that runs beside the scenario. Killed and waited for when dropped; its output is shown when the scenario fails.
pub struct Background {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Background {
    /// Starts a program; its lines on standard output and standard error are kept together.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let lines = Arc::default();
        keep_lines(child.stdout.take().expect("a pipe"), &lines);
        keep_lines(child.stderr.take().expect("a pipe"), &lines);
        Self { name: name.to_owned(), child, lines }
    }

    /// Waits for a line that contains `text` and gives it.
    ///
    /// # Panics
    /// Where the program ends first, or after the deadline.
    pub fn wait_line(&mut self, text: &str) -> String {
        let event = format!("{} to print {text:?}", self.name);
        wait::until(&event, || {
            let line = self.lines().into_iter().find(|line| line.contains(text));
            if line.is_none()
                && let Some(status) = self.ended()
            {
                panic!("{} ended ({status}) instead of printing {text:?}:\n{}", self.name, self.lines().join("\n"));
            }
            line
        })
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("a reader of output does not panic").clone()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Panics
    /// After the deadline.
    pub fn stop(mut self) -> ExitStatus {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).expect("a signal to a child");
        let event = format!("{} to end", self.name);
        wait::until(&event, || self.ended())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Errors only say that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let lines = self.lines();
            let shown = lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default();
            eprintln!("--- {}\n{}", self.name, shown.join("\n"));
        }
    }
}

fn keep_lines(pipe: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            lines.lock().expect("nobody panics while holding lines").push(String::from_utf8_lossy(&line).into_owned());
        }
    });
}
