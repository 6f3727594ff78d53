//! What systemd is told: ready once the first look has ended, alive after each further one, stopping at the end. Without
//! `NOTIFY_SOCKET` every call does nothing.

use sd_notify::NotifyState;

/// Tells that a look at the ledger ended, and what it came to; `first` makes the service ready.
pub(crate) fn cycle(first: bool, status: &str) {
    let state = if first { NotifyState::Ready } else { NotifyState::Watchdog };
    send(&[state, NotifyState::Status(status)]);
}

/// Tells that the service stops on request.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn send(states: &[NotifyState<'_>]) {
    // A supervisor that does not listen is its own problem: the watchdog acts on silence, which is what it is for.
    drop(sd_notify::notify(states));
}
