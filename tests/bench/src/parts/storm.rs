//! `storm`: answers of the shipped helper a second, many at once, while the snapshot is published anew as fast as that goes; and how
//! many of them were wrong, which has to be none. Usage: `countersign-bench storm HELPER [--quick]`.

use std::{
    error::Error,
    ffi::OsString,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use countersign_bench::{
    figure, quick,
    snapshot::key_pair,
    storm::{LOGIN, Storm},
};

/// How many ask at once.
const ASKING: usize = 100;

#[derive(Default)]
struct Counts {
    granted: u32,
    refused: u32,
    wrong: Vec<String>,
}

pub(crate) fn run(arguments: &[OsString]) -> Result<(), Box<dyn Error>> {
    let helper = arguments.first().ok_or("expected HELPER [--quick]")?;
    let length = Duration::from_secs(if quick() { 2 } else { 20 });
    let folder = tempfile::tempdir()?;
    let key = key_pair(folder.path(), "key")?;
    let storm = Storm::begin(&folder.path().join("snapshot"), &key, None)?;
    let ask = || -> Result<String, std::io::Error> {
        let mut command = Command::new(helper);
        command.arg("--snapshot").arg(&storm.directory).args(["keys", LOGIN, "1000", "ssh-ed25519", &key]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output()?;
        String::from_utf8(output.stdout).map_err(std::io::Error::other)
    };
    if storm.number_of(&ask()?, 0)? != Some(0) {
        return Err("the helper does not answer for the key that is granted".into());
    }

    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let (publications, counts) = thread::scope(|scope| {
        // Even numbers only: the key is always granted, so that every answer has something to say.
        let publisher = scope.spawn(|| storm.publish_until(&stop, 2).map_err(|error| error.to_string()));
        let asking: Vec<_> = (0..ASKING)
            .map(|_| {
                scope.spawn(|| {
                    let mut counts = Counts::default();
                    while begun.elapsed() < length {
                        let at_least = storm.published.load(Ordering::SeqCst);
                        match ask().map(|answer| storm.number_of(&answer, at_least)) {
                            Ok(Ok(Some(_))) => counts.granted = counts.granted.saturating_add(1),
                            Ok(Ok(None)) => counts.refused = counts.refused.saturating_add(1),
                            Ok(Err(torn)) => counts.wrong.push(torn),
                            Err(error) => counts.wrong.push(error.to_string()),
                        }
                    }
                    counts
                })
            })
            .collect();
        let counts: Vec<Counts> = asking.into_iter().filter_map(|thread| thread.join().ok()).collect();
        stop.store(true, Ordering::Relaxed);
        (publisher.join(), counts)
    });
    let seconds = begun.elapsed().as_secs_f64();
    if counts.len() != ASKING {
        return Err("a thread that asked fell over".into());
    }
    let publications = publications.map_err(|_| "the publisher fell over")??;
    let sum = |of: fn(&Counts) -> u32| counts.iter().map(|counts| f64::from(of(counts))).sum::<f64>();
    let wrong: Vec<&String> = counts.iter().flat_map(|counts| &counts.wrong).collect();
    let published = f64::from(u32::try_from(publications)?) / seconds;
    figure("storm answers", sum(|counts| counts.granted) / seconds, "1/s", None, "granted, 100 asking at once")?;
    figure("storm publications", published, "1/s", None, "whole snapshots, meanwhile")?;
    figure("storm late", sum(|counts| counts.refused), "answers", None, "no line within 200 ms: refused")?;
    figure("storm wrong", f64::from(u32::try_from(wrong.len())?), "answers", None, "torn, mixed or stale: 0 expected")?;
    match wrong.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} wrong answers, the first: {first:?}", wrong.len()).into()),
    }
}
