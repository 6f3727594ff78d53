//! Runs a scenario in a bed: the test program starts itself again inside, for this one test, and passes the verdict on.
//!
//! The process inside is the first of its own process namespace, so the kernel ends everything it started when it ends. The one
//! outside holds its whole output and fails unless exactly one test passed inside.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::tools;

/// How long a whole scenario may take, set-up included.
const SCENARIO_DEADLINE: Duration = Duration::from_secs(300);

/// Runs a closure in a bed, as the body of the `#[test]` it stands in.
#[macro_export]
macro_rules! in_bed {
    ($body:expr) => {{
        fn here() {}
        $crate::bed::run(::std::any::type_name_of_val(&here), None, $body)
    }};
}

/// The same, with the sshd of another Debian release.
#[macro_export]
macro_rules! in_bed_of {
    ($suite:expr, $body:expr) => {{
        fn here() {}
        $crate::bed::run(::std::any::type_name_of_val(&here), Some($suite), $body)
    }};
}

/// Whether this process is inside a bed.
#[must_use]
pub fn is_inside() -> bool {
    env::var_os("COUNTERSIGN_BED").is_some()
}

/// The body of [`in_bed!`]; `here` is the path of an item inside the test function.
pub fn run(here: &str, suite: Option<&str>, body: impl FnOnce()) {
    if is_inside() {
        return body();
    }
    // crate::module::test::here → module::test
    let name = here
        .split_once("::")
        .and_then(|(_, rest)| rest.strip_suffix("::here"))
        .expect("in_bed! stands in a test function");
    tools::build();
    let (passed, output) = run_inside(name, suite);
    assert!(passed && output.contains("test result: ok. 1 passed"), "the scenario failed in its bed:\n{output}");
}

fn run_inside(name: &str, suite: Option<&str>) -> (bool, String) {
    let bed = tools::workspace().join("tests/bed");
    let program = env::current_exe().expect("the path of this test program");
    // Should this process be killed, the bed goes with it: its first process takes everything else along.
    let mut outer = Command::new("setpriv");
    outer
        .args(["--pdeathsig", "KILL", "--"])
        .arg(bed)
        .arg(program)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("COUNTERSIGN_TARGET", tools::target_folder())
        .env("COUNTERSIGN_TOOLS", tools::tools_folder())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(suite) = suite {
        assert!(
            env::var_os("COUNTERSIGN_HELPER").is_some(),
            "expected the static helper, which runs on any release: .ci/login-path builds it, COUNTERSIGN_HELPER names it"
        );
        outer.env("COUNTERSIGN_SUITE", suite);
    }
    let mut outer = outer.spawn().expect("setpriv is not installed: run .ci/tools");
    let pid = Pid::from_raw(i32::try_from(outer.id()).expect("a process id"));

    let (done, finished) = mpsc::channel();
    let readers = [
        read(outer.stdout.take().expect("a pipe"), done.clone()),
        read(outer.stderr.take().expect("a pipe"), done.clone()),
    ];
    let mut late = false;
    for _ in &readers {
        if !late && finished.recv_timeout(SCENARIO_DEADLINE).is_err() {
            late = true;
            kill(pid, Signal::SIGKILL).expect("ending the bed");
        }
    }
    let status = outer.wait().expect("the bed's exit status");
    let mut output: String = readers.into_iter().map(|reader| reader.join().expect("the bed's output")).collect();
    if late {
        output.push_str(&format!("\nended after {} s\n", SCENARIO_DEADLINE.as_secs()));
    }
    (status.success() && !late, output)
}

fn read(mut pipe: impl std::io::Read + Send + 'static, done: mpsc::Sender<()>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has given all it had; the verdict comes from the exit status.
        let _ = pipe.read_to_end(&mut bytes);
        let _ = done.send(());
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A folder inside the bed for this scenario's files; gone with the bed.
#[must_use]
pub fn folder(name: &str) -> PathBuf {
    assert!(is_inside(), "scenario files belong into a bed");
    let path = PathBuf::from("/run/scenario").join(name);
    std::fs::create_dir_all(&path).expect("a folder for the scenario");
    path
}
