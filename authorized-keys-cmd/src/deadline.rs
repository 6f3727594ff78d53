//! The helper's own deadlines: sshd has none but `LoginGraceTime`, and holds a connection slot until then.
//!
//! A thread, not an alarm: a handled signal does not wake a process that waits for a disk, and a fatal one cannot say why. The
//! thread logs and ends the process with status 0, and the kernel ends the waiting thread with it (waits for files and NFS are killable).
//! Either the decision or the deadline wins, never half of both: [`Deadline::claim`] decides. The same thread ends what is left to do
//! after the answer ([`Deadline::end_soon`]): one thread costs some 50 µs, a second one as much again, and a process that waits for the
//! one that works three times that.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

const STACK_BYTES: usize = 64 * 1024;
/// How often the thread looks, once it has begun to sleep.
const TICK: Duration = Duration::from_millis(25);
/// What is left to do after the answer may take so long: a busy machine is given time, and only what hangs is cut off.
pub const GRACE: Duration = Duration::from_millis(500);

/// Nothing is decided.
const UNDECIDED: u32 = 0;
/// One of the two came first.
const CLAIMED: u32 = 1;
/// Nobody needs the thread any more.
const OVER: u32 = 2;
/// The answer is given, with the status that is added to this.
const ENDING: u32 = 3;

/// What was not done in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// The decision.
    Decision,
    /// What was left to do after the answer.
    Rest,
}

/// A running deadline.
#[derive(Debug)]
pub struct Deadline {
    phase: Arc<AtomicU32>,
}

impl Deadline {
    /// Starts it: unless claimed within `limit`, `expire` runs on another thread and ends the process. It also runs before the process
    /// is ended because of what it does after the answer ([`Self::end_soon`]).
    ///
    /// # Errors
    /// If the system gives no thread: then there is no deadline, and the caller refuses.
    pub fn start(limit: Duration, expire: impl FnOnce(Late) + Send + 'static) -> std::io::Result<Self> {
        let phase = Arc::new(AtomicU32::new(UNDECIDED));
        let other = Arc::clone(&phase);
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || watch(&other, limit, expire))?;
        Ok(Self { phase })
    }

    /// Whether the caller came first and may print. False at most once, and then the process is about to end.
    #[must_use]
    pub fn claim(&self) -> bool {
        self.phase.compare_exchange(UNDECIDED, CLAIMED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Claims it. Where the other thread came first, it is logging, and ends the process: then this never returns.
    pub fn wait_or_claim(&self) {
        while !self.claim() {
            thread::park();
        }
    }

    /// After the claim, and after the answer: whatever the caller still does, the process ends with `status` when [`GRACE`] is over. A
    /// tick or less passes before that begins.
    pub fn end_soon(&self, status: u8) {
        self.phase.store(ENDING.saturating_add(u32::from(status)), Ordering::SeqCst);
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // One that has expired, or is to end the process, does so.
        let _ = self.phase.compare_exchange(CLAIMED, OVER, Ordering::SeqCst, Ordering::SeqCst);
    }
}

fn watch(phase: &AtomicU32, limit: Duration, expire: impl FnOnce(Late)) {
    let mut left = limit;
    while phase.load(Ordering::SeqCst) == UNDECIDED {
        if left.is_zero() {
            if phase.compare_exchange(UNDECIDED, CLAIMED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return expire(Late::Decision);
            }
            break;
        }
        let nap = left.min(TICK);
        thread::sleep(nap);
        left = left.saturating_sub(nap);
    }
    // Claimed by the other one.
    loop {
        match phase.load(Ordering::SeqCst).checked_sub(ENDING) {
            Some(status) => {
                thread::sleep(GRACE);
                expire(Late::Rest);
                exit(i32::try_from(status).unwrap_or(1));
            }
            None if phase.load(Ordering::SeqCst) == OVER => return,
            None => thread::sleep(TICK),
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
        let deadline = Deadline::start(Duration::from_millis(5), move |late| expired.send(late).unwrap()).unwrap();
        assert_eq!(waits.recv_timeout(Duration::from_secs(60)), Ok(Late::Decision));
        assert!(!deadline.claim());
    }

    #[test]
    fn what_is_to_end_the_process_soon_outlives_the_deadline_itself() {
        let phase = Arc::new(AtomicU32::new(UNDECIDED));
        // Without its thread, which would end the test's process.
        let deadline = Deadline { phase: Arc::clone(&phase) };
        assert!(deadline.claim());
        deadline.end_soon(1);
        drop(deadline);
        assert_eq!(phase.load(Ordering::SeqCst), ENDING + 1);
    }

    #[test]
    fn a_deadline_that_is_claimed_never_expires() {
        let (expired, waits) = mpsc::channel();
        let deadline = Deadline::start(Duration::from_secs(3600), move |late| expired.send(late).unwrap()).unwrap();
        assert!(deadline.claim());
        drop(deadline);
        // The thread drops its sender without sending.
        assert_eq!(waits.recv_timeout(Duration::from_secs(60)), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
