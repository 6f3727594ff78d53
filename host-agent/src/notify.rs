//! What systemd is told: ready once the first cycle has ended, alive after each further cycle that really ended, stopping at
//! the end. Without `NOTIFY_SOCKET` every call does nothing.

use sd_notify::NotifyState;

/// Tells systemd that the agent has finished its first cycle.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd that another cycle ended, and what it came to.
pub fn alive(status: &str) {
    send(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// Tells systemd that the agent still reads the ledger for the first time, and needs another minute before it hears more.
pub fn reading() {
    send(&[
        NotifyState::ExtendTimeoutUsec(60_000_000),
        NotifyState::Watchdog,
        NotifyState::Status("reading the ledger for the first time"),
    ]);
}

/// Tells systemd that the agent stops on request.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn send(states: &[NotifyState<'_>]) {
    // A supervisor that does not listen is its own problem: the watchdog acts on silence, which is what it is for.
    drop(sd_notify::notify(states));
}
