//! The helper's own deadline: sshd has none but `LoginGraceTime`, and holds a connection slot until then.
//!
//! A thread, not an alarm: a handled signal does not wake a process that waits for a disk, and a fatal one cannot say why. The
//! thread logs and ends the process with status 0, and the kernel ends the waiting thread with it (waits for files and NFS are killable).
//! Either the decision or the deadline wins, never half of both: [`Deadline::claim`] decides. A thread costs some 50 µs; a process that
//! waits for the one that works would cost three times that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const STACK_BYTES: usize = 64 * 1024;

/// A running deadline.
#[derive(Debug)]
pub struct Deadline {
    claimed: Arc<AtomicBool>,
}

impl Deadline {
    /// Starts it: unless claimed within `limit`, `expire` runs on another thread. `expire` ends the process.
    ///
    /// # Errors
    /// If the system gives no thread: then there is no deadline, and the caller refuses.
    pub fn start(limit: Duration, expire: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let claimed = Arc::new(AtomicBool::new(false));
        let other = Arc::clone(&claimed);
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            thread::sleep(limit);
            if !other.swap(true, Ordering::SeqCst) {
                expire();
            }
        })?;
        Ok(Self { claimed })
    }

    /// Whether the caller came first and may print. False at most once, and then the process is about to end.
    #[must_use]
    pub fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::SeqCst)
    }

    /// Claims it. Where the other thread came first, it is logging, and ends the process: then this never returns.
    pub fn wait_or_claim(&self) {
        while !self.claim() {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_deadline_that_is_not_claimed_expires_and_cannot_be_claimed_any_more() {
        let (expired, waits) = mpsc::channel();
        let deadline = Deadline::start(Duration::from_millis(5), move || expired.send(()).unwrap()).unwrap();
        waits.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(!deadline.claim());
    }

    #[test]
    fn a_deadline_that_is_claimed_never_expires() {
        let (expired, waits) = mpsc::channel();
        let deadline = Deadline::start(Duration::from_millis(100), move || expired.send(()).unwrap()).unwrap();
        assert!(deadline.claim());
        // The thread drops its sender without sending.
        assert_eq!(waits.recv_timeout(Duration::from_secs(60)), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
