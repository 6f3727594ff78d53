//! Runs a program of the host and reads what it says; a program that does not end is killed.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);
const MOST_BYTES: u64 = 4 << 20;

/// How a program ended, and what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    /// Whether its status was 0.
    pub(crate) success: bool,
    /// Its status, where it was not ended by a signal.
    pub(crate) status: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// Runs it to its end.
///
/// # Errors
/// It cannot be started, or does not end.
pub(crate) fn run(command: &mut Command) -> io::Result<Ran> {
    run_within(command, PATIENCE)
}

/// The same, with a patience of one's own.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_within(command: &mut Command, patience: Duration) -> io::Result<Ran> {
    // Words of programs are compared: not in the language of whoever asks.
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let readers = [read(child.stdout.take()), read(child.stderr.take())];
    let status = wait_within(&mut child, patience)?;
    let [stdout, stderr] = readers.map(|reader| reader.join().unwrap_or_default());
    Ok(Ran { success: status.success(), status: status.code(), stdout, stderr })
}

/// Waits for a child to end, and kills one that does not.
///
/// # Errors
/// It does not end by itself.
pub(crate) fn wait_within(child: &mut Child, patience: Duration) -> io::Result<std::process::ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if begun.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end"));
        }
        thread::sleep(LOOK);
    }
}

fn read(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was printed until then counts.
            let _ = pipe.take(MOST_BYTES).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
