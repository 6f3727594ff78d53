//! Waiting for events: a condition is looked at until it holds or the deadline has passed.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long any single event may take before the scenario fails: generous, since it only matters when something is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives something.
///
/// # Panics
/// After [`DEADLINE`], naming `event`.
pub fn until<T>(event: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "waited {} s in vain for: {event}", DEADLINE.as_secs());
        thread::sleep(Duration::from_millis(10));
    }
}
