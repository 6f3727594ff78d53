//! Ends sessions while the agent runs: on a thread of its own, once a second, whatever the ledger's nodes are doing to a cycle meanwhile.
//!
//! It reads what was published, as a login does, and nothing of the agent's. Only root can do this, and only where the helper's user is
//! there; elsewhere the log says that sessions are not ended.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_sessions::{Event, EventKind, Keeper, Settings, prepare};
use countersign_snapshot::Clock;
use nix::unistd::{User, geteuid};
use serde::Deserialize;

use crate::config::Config;
use crate::log::{Level, Line, Log};

/// Where the helper looks unless it is told otherwise.
const HOSTS_SNAPSHOT: &str = "/var/lib/countersign/snapshot";

const LOOK: Duration = Duration::from_secs(1);
const LOOK_WHILE_ENDING: Duration = Duration::from_millis(250);

/// What a host wants of its sessions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SessionSetting {
    /// Whether sessions end when their access does. None: where the snapshot is the one that sshd's helper answers from unless told otherwise.
    /// Another agent on the same machine, a device's, knows nothing of who may be logged in there.
    pub end: Option<bool>,
    /// Says what would be ended, and ends nothing.
    pub dry_run: bool,
    /// Nobody logs in on this host but through the helper.
    pub only_helper: bool,
    /// The user that sshd runs the helper as.
    pub helper_user: String,
}

impl Default for SessionSetting {
    fn default() -> Self {
        Self { end: None, dry_run: false, only_helper: false, helper_user: "countersign".to_owned() }
    }
}

impl SessionSetting {
    /// How sessions of a host with this setting are looked after; none where its user is not there.
    #[must_use]
    pub fn settings(&self, snapshot: &Path) -> Option<(Settings, (u32, u32))> {
        let user = User::from_name(&self.helper_user).ok().flatten()?;
        let settings = Settings {
            dry_run: self.dry_run,
            only_helper: self.only_helper,
            ..Settings::new(snapshot.to_owned(), user.uid.as_raw())
        };
        Some((settings, (user.uid.as_raw(), user.gid.as_raw())))
    }
}

/// The running thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Sessions {
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sessions {
    /// Begins, if the configuration wants it and the system allows it.
    pub(crate) fn start(config: &Config, log: Log) -> Self {
        let none = Self { wake: None, thread: None };
        let is_the_hosts = config.snapshot_dir() == Path::new(HOSTS_SNAPSHOT);
        if !config.sessions.end.unwrap_or(is_the_hosts) {
            return none;
        }
        let off = |log: &Log, message: &str| {
            log.line(Level::Warning, &Line::event("sessions-not-ended").field("message", message));
        };
        if !geteuid().is_root() {
            off(&log, "only root can end them");
            return none;
        }
        let Some((settings, owner)) = config.sessions.settings(&config.snapshot_dir()) else {
            off(&log, &format!("user {:?} is not there", config.sessions.helper_user));
            return none;
        };
        if let Err(error) = prepare(&settings.runtime, owner) {
            off(&log, &crate::log::chain(&error));
            return none;
        }
        let (wake, wakes) = channel();
        match Builder::new().name("sessions".to_owned()).spawn(move || keep(settings, &log, &wakes)) {
            Ok(thread) => Self { wake: Some(wake), thread: Some(thread) },
            Err(_) => none,
        }
    }

    /// Something was published: look now.
    pub(crate) fn wake(&self) {
        if let Some(wake) = &self.wake {
            // Where the thread has ended, there is nobody to wake.
            let _ = wake.send(());
        }
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn keep(settings: Settings, log: &Log, wakes: &Receiver<()>) {
    let mut keeper = Keeper::new(settings);
    let mut last: Option<String> = None;
    loop {
        let looked = Clock::now().map_err(countersign_sessions::SessionsError::Clock).and_then(|now| keeper.look(&now));
        let failure = match looked {
            Ok(events) => {
                events.iter().for_each(|event| log.line(level(event.kind), &line(event)));
                None
            }
            Err(error) => Some(crate::log::chain(&error)),
        };
        if failure != last
            && let Some(failure) = &failure
        {
            log.line(Level::Error, &Line::event("sessions-not-ended").field("message", failure));
        }
        last = failure;
        match wakes.recv_timeout(pause(keeper.is_ending())) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// To the next full second: what ends, ends at one.
fn pause(is_ending: bool) -> Duration {
    if is_ending {
        return LOOK_WHILE_ENDING;
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    LOOK.saturating_sub(Duration::from_nanos(u64::from(since.subsec_nanos()))).max(Duration::from_millis(1))
}

fn level(kind: EventKind) -> Level {
    match kind {
        EventKind::Left => Level::Error,
        EventKind::Ending | EventKind::Ended | EventKind::WouldEnd => Level::Notice,
        EventKind::Adopted | EventKind::Warned => Level::Info,
    }
}

fn line(event: &Event) -> Line {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let line = Line::event(event.kind.name())
        .field("session", event.process)
        .field("user", &event.login)
        .field("key", &event.key)
        .field("serial", or_dash(event.serial.map(|serial| serial.to_string())))
        .field("reason", or_dash(event.reason.map(|reason| reason.to_string())));
    match &event.detail {
        Some(detail) => line.field("detail", detail),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_look_is_within_a_second_and_soon_while_something_ends() {
        assert!(pause(false) <= LOOK && pause(false) > Duration::ZERO);
        assert_eq!(pause(true), LOOK_WHILE_ENDING);
    }
}
