//! The two ways to run: `once`, and the loop of `run`, which polls until it is told to stop, tells systemd only of cycles that
//! really ended, and reads its configuration again on SIGHUP (keeping the old one when the new one is wrong).

use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::agent::{Agent, AgentError, Clocks, Outcome};
use crate::ca_list::Watch;
use crate::config::Config;
use crate::cycle::Failure;
use crate::log::{Level, Line, Log};
use crate::notify;
use crate::reason::Reason;
use crate::sessions::Sessions;

/// How long a cycle may take; shorter than the watchdog of the systemd unit.
const CYCLE_DEADLINE: Duration = Duration::from_secs(100);

/// How long reading a ledger for the first time may take.
const FIRST_DEADLINE: Duration = Duration::from_secs(3600);

/// How often systemd hears of a first reading that goes on.
const FIRST_PROGRESS: Duration = Duration::from_secs(20);

/// How long `once` waits for blocks.
const BLOCK_DEADLINE: Duration = Duration::from_secs(120);

/// How long `once` waits for its acknowledgements.
const ACKNOWLEDGE_DEADLINE: Duration = Duration::from_secs(120);

/// What ended a wait.
enum Wake {
    Time,
    Stop,
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wake {
        tokio::select! {
            _ = self.terminate.recv() => Wake::Stop,
            _ = self.interrupt.recv() => Wake::Stop,
            _ = self.hangup.recv() => Wake::Reload,
        }
    }
}

/// One cycle: syncs, publishes, receives, waits for its acknowledgements.
///
/// # Errors
/// What keeps the agent from starting; a failed cycle is in the outcome.
pub async fn once(config: Config, log: Log, clocks: Clocks) -> Result<Outcome, AgentError> {
    let mut agent = Agent::open(config, log, clocks)?;
    if let Err(failure) = agent.republish() {
        agent.report(&failure);
    }
    agent.wait_for_blocks(BLOCK_DEADLINE);
    let mut outcome = agent.cycle().await;
    if outcome.failure.is_none() && outcome.unfinished > 0 {
        // What was acknowledged just now is seen by looking again.
        if timeout(ACKNOWLEDGE_DEADLINE, agent.finish_acknowledging()).await.is_ok() {
            outcome = agent.cycle().await;
        }
    }
    // A device that is run now and then must not leave its prekeys half published.
    if timeout(ACKNOWLEDGE_DEADLINE, agent.finish_publishing_prekeys()).await.is_err() {
        let failure = Failure::new(Reason::DeliveryPrekeys, "not on the ledger in time");
        agent.report(&failure);
    }
    // Nor its requests half sent.
    if timeout(ACKNOWLEDGE_DEADLINE, agent.finish_asking()).await.is_err() {
        agent.report(&Failure::new(Reason::RenewLedger, "not on the ledger in time"));
    }
    agent.flush();
    Ok(outcome)
}

/// Polls until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the agent from starting, or from starting again after SIGHUP.
pub async fn run(path: &Path, log: Log, clocks: Clocks) -> Result<(), AgentError> {
    let mut signals = Signals::new().map_err(AgentError::Runtime)?;
    let mut agent = Agent::open(Config::load(path)?, log, clocks)?;
    agent.log().line(Level::Notice, &Line::event("started").field("version", env!("CARGO_PKG_VERSION")));
    if let Err(failure) = agent.republish() {
        agent.report(&failure);
    }
    let mut sessions = Sessions::start(agent.config(), Log::for_process("countersign-agent"));
    let mut watch = Watch::start(agent.ca_list(), Log::for_process("countersign-agent"));
    let mut ready = false;
    loop {
        let wake = match one_cycle(&mut agent, &mut signals).await {
            Some(Wake::Time) | None => {
                sessions.wake();
                let status = summary(&agent);
                if ready {
                    notify::alive(&status);
                } else {
                    notify::ready(&status);
                    ready = true;
                }
                let pause = jittered(agent.poll_interval_millis());
                tokio::select! {
                    () = sleep(pause) => Wake::Time,
                    wake = signals.next() => wake,
                }
            }
            Some(wake) => wake,
        };
        match wake {
            Wake::Time => {}
            Wake::Reload => {
                let before = (agent.config().sessions.clone(), agent.config().snapshot_dir());
                agent = reload(agent, path)?;
                drop(watch);
                watch = Watch::start(agent.ca_list(), Log::for_process("countersign-agent"));
                if before != (agent.config().sessions.clone(), agent.config().snapshot_dir()) {
                    drop(sessions);
                    sessions = Sessions::start(agent.config(), Log::for_process("countersign-agent"));
                }
            }
            Wake::Stop => break,
        }
    }
    notify::stopping();
    drop(sessions);
    drop(watch);
    agent.flush();
    agent.log().line(Level::Notice, &Line::event("stopped"));
    Ok(())
}

/// Runs one cycle unless a signal comes first. A cycle that is dropped half-way leaves everything as it was before it.
async fn one_cycle(agent: &mut Agent, signals: &mut Signals) -> Option<Wake> {
    let first = !agent.has_read_ledger();
    let deadline = if first { FIRST_DEADLINE } else { CYCLE_DEADLINE };
    let ended = {
        let cycle = timeout(deadline, agent.cycle());
        tokio::pin!(cycle);
        loop {
            tokio::select! {
                outcome = &mut cycle => break outcome.is_ok(),
                wake = signals.next() => return Some(wake),
                // Only the first reading is bounded by another deadline than systemd's.
                () = sleep(FIRST_PROGRESS), if first => notify::reading(),
            }
        }
    };
    if !ended {
        let message = format!("no end after {} s", deadline.as_secs());
        agent.report(&Failure::new(Reason::CycleTimeout, message));
    }
    None
}

fn reload(agent: Agent, path: &Path) -> Result<Agent, AgentError> {
    let refuse = |agent: Agent, problem: String| {
        agent.log().line(Level::Error, &Line::event("reload-refused").field("message", problem));
        Ok(agent)
    };
    match crate::verify::check_config(path) {
        Ok(config) if config.state_dir == agent.config().state_dir => {
            let mut agent = agent;
            agent.flush();
            let mut agent = agent.reopen(config)?;
            if let Err(failure) = agent.republish() {
                agent.report(&failure);
            }
            agent.log().line(Level::Notice, &Line::event("reloaded"));
            Ok(agent)
        }
        Ok(_) => refuse(agent, "state-dir changes with a restart only".to_owned()),
        Err(error) => refuse(agent, crate::log::chain(&error)),
    }
}

/// What systemd shows.
fn summary(agent: &Agent) -> String {
    let status = agent.status();
    let block = status.latest.map_or_else(|| "no block".to_owned(), |block| format!("block {}", block.number));
    match &status.last_failure {
        Some(failure) if status.failures > 0 => {
            format!("{block}; failing {} times: {}", status.failures, failure.reason)
        }
        _ => format!("{block} published"),
    }
}

/// An interval, a fifth shorter to a fifth longer, so that hosts do not poll in step.
fn jittered(millis: u64) -> Duration {
    let mut random = [0_u8; 2];
    // Without randomness the interval is what it is.
    let share = getrandom::fill(&mut random).map_or(u16::MAX / 2, |()| u16::from_be_bytes(random));
    let fifth = Duration::from_millis(millis / 5);
    let shortest = Duration::from_millis(millis).saturating_sub(fifth);
    let spread = fifth.saturating_mul(2).saturating_mul(u32::from(share)).checked_div(u32::from(u16::MAX));
    shortest.saturating_add(spread.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_between_polls_is_within_a_fifth_of_the_interval_and_not_always_the_same() {
        let pauses: std::collections::BTreeSet<Duration> = (0..200).map(|_| jittered(6000)).collect();
        assert!(pauses.iter().all(|pause| (4800..=7200).contains(&pause.as_millis())));
        assert!(pauses.len() > 20);
    }
}
