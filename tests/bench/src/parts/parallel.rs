//! `parallel`: a hundred `ssh … true` at once through the helper, and a hundred through a static `AuthorizedKeysFile`, in turn: how long
//! all of them take, and each. Both sshds take 300 logins at once (`MaxStartups`; it is 10 where nothing is said, and further ones
//! would be dropped at random). Runs inside a bed only: `tests/bed countersign-bench parallel HELPER [--quick]`.

use std::{
    error::Error,
    ffi::OsString,
    path::Path,
    process::{Command, Stdio},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use countersign_bench::{
    bed::{Bed, GROUP, SNAPSHOT},
    figure, quick,
    snapshot::publish_granted,
};

const STATIC_PORT: u16 = 2222;
const HELPER_PORT: u16 = 2223;

/// The times of all logins, and of each round.
#[derive(Default)]
struct Times {
    each: Vec<Duration>,
    rounds: Vec<Duration>,
}

pub(crate) fn run(arguments: &[OsString]) -> Result<(), Box<dyn Error>> {
    let helper = arguments.first().ok_or("expected HELPER")?;
    let (rounds, logins, users) = if quick() { (1, 20, 1_000) } else { (3, 100, 100_000) };
    let bed = Bed::new(Path::new(&helper))?;
    publish_granted(Path::new(SNAPSHOT), users, &bed.key, Some(GROUP))?;
    let _servers = [bed.serve(STATIC_PORT, &bed.by_file())?, bed.serve(HELPER_PORT, &Bed::by_helper())?];
    let mut times = [(STATIC_PORT, Times::default()), (HELPER_PORT, Times::default())];
    // What both load for the first time is loaded.
    for (port, _) in &times {
        at_once(1, || bed.login(*port, "client"))?;
    }
    for _ in 0..rounds {
        for (port, times) in &mut times {
            let begun = Instant::now();
            times.each.extend(at_once(logins, || bed.login(*port, "client"))?);
            times.rounds.push(begun.elapsed());
        }
    }
    let [(_, fixed), (_, helped)] = &mut times;
    for what in ["all of them", "p50", "p99"] {
        let take = |times: &mut Times| match what {
            "p50" => of(&mut times.each, 50),
            "p99" => of(&mut times.each, 99),
            _ => of(&mut times.rounds, 50),
        };
        let (fixed, helped) = (take(fixed).as_secs_f64() * 1e3, take(helped).as_secs_f64() * 1e3);
        let name = |by: &str| format!("parallel {by}, {what}");
        figure(&name("static"), fixed, "ms", None, &format!("{logins} ssh … true at once, MaxStartups 300"))?;
        let against = "the static file, in turn";
        figure(&format!("{} ({users} users)", name("helper")), helped, "ms", Some(helped / fixed), against)?;
    }
    Ok(())
}

/// Starts so many at the same moment and waits for all; how long each took.
///
/// # Errors
/// Where one of them is not let in: dropped logins would look like fast ones.
fn at_once(count: usize, login: impl Fn() -> Command) -> Result<Vec<Duration>, Box<dyn Error>> {
    let start = Barrier::new(count);
    let took = thread::scope(|scope| {
        let logins: Vec<_> = (0..count)
            .map(|_| {
                let (mut command, start) = (login(), &start);
                scope.spawn(move || {
                    command.stdin(Stdio::null()).stdout(Stdio::null());
                    start.wait();
                    let begun = Instant::now();
                    command.status().map(|status| (status, begun.elapsed()))
                })
            })
            .collect();
        logins.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    took.into_iter()
        .map(|login| match login.map_err(|_| "a thread that logs in fell over")? {
            Ok((status, took)) if status.success() => Ok(took),
            Ok((status, _)) => Err(format!("a login of {count} at once ended with {status}").into()),
            Err(error) => Err(error.into()),
        })
        .collect()
}

/// A percentile.
fn of(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    let place = samples.len().saturating_sub(1).saturating_mul(percent).div_ceil(100);
    samples.get(place).copied().unwrap_or_default()
}
