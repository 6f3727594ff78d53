//! What the benchmarks share: figures as lines, and timing of whole processes in pairs.
//!
//! A figure stands beside a floor or a peer from the same run, because the machines they run on differ and are shared: the ratio
//! is what to quote. There is no pass or fail here.

pub mod bed;
pub mod host;
pub mod memory;
pub mod peers;
pub mod scale;
pub mod snapshot;
pub mod storm;
pub mod synthetic;

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Prints `figure<TAB>value<TAB>unit<TAB>ratio<TAB>against what`.
///
/// # Errors
/// Where standard output cannot be written.
pub fn figure(name: &str, value: f64, unit: &str, ratio: Option<f64>, against: &str) -> io::Result<()> {
    let digits = if ratio.is_some_and(|ratio| ratio < 0.1) { 5 } else { 2 };
    let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.digits$}"));
    writeln!(io::stdout(), "{name}\t{value:.1}\t{unit}\t{ratio}\t{against}")
}

/// The middle of some durations, in microseconds; zero where there are none.
#[must_use]
pub fn median_micros(samples: &mut [Duration]) -> f64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).map_or(0.0, |middle| middle.as_secs_f64() * 1e6)
}

/// Spawns the commands in turn, `rounds` times, and returns each one's median from spawn to exit in microseconds. In turn, so that
/// whatever else the machine does falls on all of them alike.
///
/// # Errors
/// Where a command cannot be spawned, or exits with anything but 0: a refusal would be measured as a fast answer.
pub fn spawn_to_exit(commands: &mut [Command], rounds: usize) -> io::Result<Vec<f64>> {
    let mut samples = vec![Vec::with_capacity(rounds); commands.len()];
    for round in 0..rounds.saturating_add(rounds / 10) {
        for (command, samples) in commands.iter_mut().zip(&mut samples) {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let begun = Instant::now();
            let status = command.status()?;
            let took = begun.elapsed();
            if !status.success() {
                return Err(io::Error::other(format!("{command:?} ended with {status}")));
            }
            // The first tenth warms caches up.
            if round >= rounds / 10 {
                samples.push(took);
            }
        }
    }
    Ok(samples.iter_mut().map(|samples| median_micros(samples)).collect())
}

/// Whether a run of full size was asked for (`--long`).
#[must_use]
pub fn long() -> bool {
    std::env::args().any(|argument| argument == "--long")
}

/// Whether a small run was asked for (`--quick`).
#[must_use]
pub fn quick() -> bool {
    std::env::args().any(|argument| argument == "--quick")
}
