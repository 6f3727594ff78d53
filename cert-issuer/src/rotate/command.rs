//! Runs the command that prints a payload: no shell, no input, an environment of its own, and bounds on time and output. What it started
//! is killed with it when it goes beyond either. What it prints is a secret: it is never logged, nor what it says on stderr.

use std::process::Stdio;
use std::time::Duration;

use countersign_agent::config::Command;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

/// The most that a command may print, in bytes.
pub const MOST_OUTPUT: usize = countersign_delivery::MAX_PAYLOAD_BYTES;

/// What a command printed; `variables` are added to an environment of `PATH` alone.
///
/// # Errors
/// In words: it cannot be run, fails, takes too long, prints nothing or too much.
pub async fn run(
    command: &Command,
    variables: &[(&str, &str)],
    deadline: Duration,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let program = command.program.as_path().display();
    let mut child = tokio::process::Command::new(command.program.as_path())
        .args(&command.arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(variables.iter().copied())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    // Killed as a whole unless it ends well: what it started may hold its output open.
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let mut output = child.stdout.take().ok_or_else(|| format!("{program}: no output"))?;
    let read = async {
        // Never grown: what was moved away from would stay in memory.
        let mut bytes = Zeroizing::new(vec![0_u8; MOST_OUTPUT.saturating_add(1)]);
        let mut length = 0_usize;
        while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match output.read(rest).await {
                Ok(0) => break,
                Ok(more) => length = length.saturating_add(more),
                Err(error) => return Err(format!("cannot read what {program} prints: {error}")),
            }
        }
        if length > MOST_OUTPUT {
            return Err(format!("{program} printed more than {MOST_OUTPUT} bytes and was killed"));
        }
        bytes.truncate(length);
        let status = child.wait().await.map_err(|error| format!("cannot wait for {program}: {error}"))?;
        Ok((bytes, status))
    };
    let done = tokio::time::timeout(deadline, read).await;
    let (bytes, status) =
        done.map_err(|_| format!("{program} did not end within {} s and was killed", deadline.as_secs()))??;
    group.0 = None;
    if !status.success() {
        return Err(format!("{program} ended with {status}"));
    }
    if bytes.is_empty() {
        return Err(format!("{program} printed nothing"));
    }
    Ok(bytes)
}

/// A process group that ends with this.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // One that is gone is what is wanted.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn command(words: &[&str]) -> Command {
        words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>().try_into().unwrap()
    }

    fn output(words: &[&str], millis: u64) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let variables = [("COUNTERSIGN_RECIPIENT", "web1; id")];
        let output = runtime.block_on(run(&command(words), &variables, Duration::from_millis(millis)));
        output.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn a_command_is_an_argument_list_with_an_environment_of_its_own_and_no_input() {
        assert_eq!(output(&["/bin/echo", "-n", "a b", "$(id); `id`"], 5_000).unwrap(), "a b $(id); `id`");
        let environment = output(&["/usr/bin/env"], 5_000).unwrap();
        let mut names: Vec<&str> = environment.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["COUNTERSIGN_RECIPIENT", "PATH"]);
        assert!(environment.contains("COUNTERSIGN_RECIPIENT=web1; id\n"), "{environment}");
        assert_eq!(output(&["/bin/cat"], 5_000).unwrap_err(), "/bin/cat printed nothing");
    }

    #[test]
    fn a_command_that_fails_or_is_not_there_gives_nothing_although_it_printed() {
        let failing = ["/bin/sh", "-c", "echo secret; exit 3"];
        assert_eq!(output(&failing, 5_000).unwrap_err(), "/bin/sh ended with exit status: 3");
        let missing = output(&["/nonexistent/make"], 5_000).unwrap_err();
        assert!(missing.starts_with("cannot run /nonexistent/make: No such file"), "{missing}");
    }

    #[test]
    fn a_command_that_prints_without_end_is_killed_at_the_bound() {
        let begun = Instant::now();
        let error = output(&["/usr/bin/yes"], 60_000).unwrap_err();
        assert_eq!(error, format!("/usr/bin/yes printed more than {MOST_OUTPUT} bytes and was killed"));
        assert!(begun.elapsed() < Duration::from_secs(5));
        let most = format!("head -c {MOST_OUTPUT} /dev/zero");
        assert_eq!(output(&["/bin/sh", "-c", &most], 5_000).unwrap().len(), MOST_OUTPUT);
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_what_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        // The child holds the output open, and would outlive the shell.
        let script = format!("sleep 600 & echo $! > {}; echo early; exec sleep 600", pid.display());
        let error = output(&["/bin/sh", "-c", &script], 300).unwrap_err();
        assert_eq!(error, "/bin/sh did not end within 0 s and was killed");
        let child: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        let begun = Instant::now();
        while !gone() {
            assert!(begun.elapsed() < Duration::from_secs(5), "process {child} goes on");
            std::thread::yield_now();
        }
    }
}
