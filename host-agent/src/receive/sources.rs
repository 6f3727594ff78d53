//! Where blocks are fetched from: block stores, tried in turn, none of them trusted.
//!
//! Each block is fetched beside everything else, and waited for no longer than the caller can spare: a gateway that hangs must not
//! keep a revocation waiting. What has not come in time is there, or further, when it is asked for again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use countersign_delivery::{BlockCid, Stores};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::task::AbortHandle;

use super::ReceiveError;

/// How many blocks are fetched or kept at the same time.
const MOST: usize = 64;

/// How many rounds a block that does not come keeps one for which nobody has looked yet waiting, where there is no more room.
const PATIENT_ROUNDS: u64 = 10;

/// A block, or what the stores said.
type Fetched = Result<Arc<Vec<u8>>, String>;

/// Block stores, in order.
#[derive(Debug, Clone)]
pub struct Sources {
    stores: Stores,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What was asked for in this round or the one before.
    blocks: BTreeMap<BlockCid, Block>,
    /// What failed in this round and gave its place to others.
    failed: BTreeMap<BlockCid, String>,
    /// What did not come and gave its place to others, with the round in which it was last asked for: it gets one again where there is room.
    put_off: BTreeMap<BlockCid, u64>,
    round: u64,
    /// Until when this round may wait; as long as it takes, where nobody said.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Block {
    fetched: Shared<BoxFuture<'static, Fetched>>,
    begun: u64,
    round: u64,
    abort: AbortHandle,
}

impl Inner {
    /// Makes room for a block that nobody looked for yet: what has failed goes first, then what has not come for the longest time. Whoever
    /// sends what no store has must not keep what others send from being fetched.
    fn make_room(&mut self, wanted: &BlockCid) -> bool {
        if self.blocks.len() < MOST {
            return true;
        }
        let failed = self.blocks.iter().find_map(|(cid, block)| match block.fetched.peek() {
            Some(Err(problem)) => Some((*cid, problem.clone())),
            _ => None,
        });
        if let Some((cid, problem)) = failed {
            self.blocks.remove(&cid);
            self.failed.insert(cid, problem);
            return true;
        }
        if self.put_off.contains_key(wanted) {
            return false;
        }
        let hanging = self.blocks.iter().filter(|(_, block)| block.fetched.peek().is_none());
        let longest = hanging.min_by_key(|(_, block)| block.begun).map(|(cid, block)| (*cid, block.begun));
        let Some((cid, _)) = longest.filter(|(_, begun)| begun.saturating_add(PATIENT_ROUNDS) <= self.round) else {
            return false;
        };
        if let Some(block) = self.blocks.remove(&cid) {
            block.abort.abort();
        }
        self.put_off.insert(cid, self.round);
        true
    }
}

impl Sources {
    /// Fetches from `stores`.
    #[must_use]
    pub fn new(stores: Stores) -> Self {
        Self { stores, inner: Arc::default() }
    }

    /// Begins a round, in which [`Sources::fetch`] waits for at most `patience` in all. What failed is tried again in it, what is on
    /// its way goes on, and what nobody asked for in the round before is forgotten.
    pub fn begin(&self, patience: Duration) {
        let Ok(mut inner) = self.inner.lock() else { return };
        let before = inner.round;
        inner.round = before.saturating_add(1);
        inner.until = Instant::now().checked_add(patience);
        inner.blocks.retain(|_, block| block.round == before && !matches!(block.fetched.peek(), Some(Err(_))));
        inner.failed.clear();
        inner.put_off.retain(|_, round| *round == before);
    }

    /// The block of this name, verified.
    ///
    /// # Errors
    /// [`ReceiveError::Block`] with what each store said, or that it has not come yet.
    pub async fn fetch(&self, cid: &BlockCid) -> Result<Vec<u8>, ReceiveError> {
        let failed = |problem: String| ReceiveError::Block { cid: cid.to_string(), problem };
        let (fetched, until) =
            self.task(cid).ok_or_else(|| failed(format!("block {cid}: too many are on their way")))?;
        let fetched = match until {
            Some(until) => tokio::time::timeout_at(until.into(), fetched).await,
            None => Ok(fetched.await),
        };
        let fetched = fetched.map_err(|_| failed(format!("block {cid}: still on its way")))?;
        fetched.map(|block| block.as_ref().clone()).map_err(failed)
    }

    fn task(&self, cid: &BlockCid) -> Option<(Shared<BoxFuture<'static, Fetched>>, Option<Instant>)> {
        let mut inner = self.inner.lock().ok()?;
        let (round, until) = (inner.round, inner.until);
        if let Some(block) = inner.blocks.get_mut(cid) {
            block.round = round;
            return Some((block.fetched.clone(), until));
        }
        if let Some(problem) = inner.failed.get(cid) {
            let failed = std::future::ready(Err(problem.clone())).boxed().shared();
            return Some((failed, until));
        }
        if !inner.make_room(cid) {
            if let Some(asked) = inner.put_off.get_mut(cid) {
                *asked = round;
            }
            return None;
        }
        inner.put_off.remove(cid);
        let (stores, wanted) = (self.stores.clone(), *cid);
        let task = tokio::spawn(async move { stores.get(&wanted).await });
        let abort = task.abort_handle();
        let fetched = async move {
            match task.await {
                Ok(Ok(block)) => Ok(Arc::new(block)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        };
        let fetched = fetched.boxed().shared();
        inner.blocks.insert(*cid, Block { fetched: fetched.clone(), begun: round, round, abort });
        Some((fetched, until))
    }
}

#[cfg(test)]
mod tests {
    use countersign_delivery::{Answer, BlockStore, DeliveryError, Held, Puts, Tree};
    use tokio::sync::Semaphore;

    use super::*;

    /// A store that gives a block when it is let to, and counts how often it was asked.
    #[derive(Debug)]
    struct Slow {
        asked: Arc<Mutex<Vec<BlockCid>>>,
        let_go: Arc<Semaphore>,
        fails: bool,
    }

    impl Slow {
        fn new(fails: bool) -> Self {
            Self { asked: Arc::default(), let_go: Arc::new(Semaphore::new(0)), fails }
        }
    }

    impl BlockStore for Slow {
        fn name(&self) -> String {
            "slow".to_owned()
        }

        fn takes_blocks(&self) -> bool {
            false
        }

        fn put_tree<'a>(&'a self, _: &'a Tree<'a>) -> Answer<'a, ()> {
            unreachable!()
        }

        fn get_block<'a>(&'a self, cid: &'a BlockCid) -> Answer<'a, Vec<u8>> {
            Box::pin(async move {
                self.asked.lock().unwrap().push(*cid);
                self.let_go.acquire().await.unwrap().forget();
                let (cid, store) = (cid.to_string(), self.name());
                if self.fails { Err(DeliveryError::Missing { cid, store }) } else { Ok(b"block".to_vec()) }
            })
        }

        fn pin_tree<'a>(&'a self, _: &'a BlockCid) -> Answer<'a, ()> {
            unreachable!()
        }

        fn unpin_tree<'a>(&'a self, _: &'a BlockCid) -> Answer<'a, ()> {
            unreachable!()
        }

        fn holds<'a>(&'a self, _: &'a BlockCid) -> Answer<'a, Held> {
            unreachable!()
        }

        fn probe(&self) -> Answer<'_, String> {
            unreachable!()
        }
    }

    fn sources(slow: Slow) -> Sources {
        Sources::new(Stores::of(vec![Box::new(slow)], Puts::All))
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn a_store_that_hangs_costs_a_round_its_patience_and_is_not_asked_twice_for_one_block() {
        run(async {
            let slow = Slow::new(false);
            let (asked, let_go) = (Arc::clone(&slow.asked), Arc::clone(&slow.let_go));
            let sources = sources(slow);
            let cid = BlockCid::of(b"block").unwrap();
            let begun = Instant::now();
            for _ in 0..3 {
                sources.begin(Duration::from_millis(50));
                for _ in 0..3 {
                    let error = sources.fetch(&cid).await.unwrap_err();
                    assert_eq!(error.to_string(), format!("block {cid}: still on its way"));
                }
            }
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
            assert_eq!(asked.lock().unwrap().len(), 1);

            // It comes between two rounds, and is there in the next, also for a second look.
            let_go.add_permits(1);
            sources.begin(Duration::from_secs(5));
            assert_eq!(sources.fetch(&cid).await.unwrap(), b"block");
            sources.begin(Duration::from_secs(5));
            assert_eq!(sources.fetch(&cid).await.unwrap(), b"block");
            assert_eq!(asked.lock().unwrap().len(), 1);
            // Nobody asks for it in a round: it is forgotten.
            sources.begin(Duration::from_secs(5));
            sources.begin(Duration::from_secs(5));
            let_go.add_permits(1);
            sources.fetch(&cid).await.unwrap();
            assert_eq!(asked.lock().unwrap().len(), 2);
        });
    }

    #[test]
    fn what_failed_is_tried_again_in_the_next_round_only() {
        run(async {
            let slow = Slow::new(true);
            let (asked, let_go) = (Arc::clone(&slow.asked), Arc::clone(&slow.let_go));
            let sources = sources(slow);
            let_go.add_permits(9);
            let cid = BlockCid::of(b"block").unwrap();
            for round in 1..3 {
                sources.begin(Duration::from_secs(5));
                for _ in 0..2 {
                    let error = sources.fetch(&cid).await.unwrap_err().to_string();
                    assert_eq!(error, format!("block {cid}: from no store: block {cid}: not in slow"));
                }
                assert_eq!(asked.lock().unwrap().len(), round);
            }
        });
    }

    #[test]
    fn no_more_than_64_blocks_are_on_their_way_at_once() {
        run(async {
            let sources = sources(Slow::new(false));
            sources.begin(Duration::ZERO);
            for at in 0..65_u8 {
                let error = sources.fetch(&BlockCid::of(&[at]).unwrap()).await.unwrap_err().to_string();
                let expected = if at < 64 { "still on its way" } else { "too many are on their way" };
                assert!(error.ends_with(expected), "{at}: {error}");
            }
        });
    }

    /// Lets each task that was spawned run until it waits.
    async fn let_all_begin() {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
    }

    fn cids(count: u8) -> Vec<BlockCid> {
        (0..count).map(|at| BlockCid::of(&[at]).unwrap()).collect()
    }

    #[test]
    fn blocks_that_no_store_has_do_not_keep_one_that_is_there_from_being_asked_for() {
        run(async {
            let slow = Slow::new(true);
            let (asked, let_go) = (Arc::clone(&slow.asked), Arc::clone(&slow.let_go));
            let sources = sources(slow);
            let_go.add_permits(1_000);
            sources.begin(Duration::from_secs(5));
            for cid in cids(100) {
                let error = sources.fetch(&cid).await.unwrap_err().to_string();
                assert!(error.ends_with("not in slow"), "{error}");
            }
            // Nothing is asked for twice in a round.
            sources.fetch(&cids(1)[0]).await.unwrap_err();
            assert_eq!(asked.lock().unwrap().len(), 100);
        });
    }

    #[test]
    fn blocks_that_hang_give_way_to_one_that_nobody_looked_for_yet_and_not_to_each_other() {
        run(async {
            let slow = Slow::new(false);
            let asked = Arc::clone(&slow.asked);
            let sources = sources(slow);
            let all = cids(66);
            for round in 0..=PATIENT_ROUNDS {
                sources.begin(Duration::ZERO);
                for cid in &all {
                    sources.fetch(cid).await.unwrap_err();
                }
                let_all_begin().await;
                let expected = if round < PATIENT_ROUNDS { 64 } else { 66 };
                assert_eq!(asked.lock().unwrap().len(), expected, "round {round}");
            }
            for _ in 0..PATIENT_ROUNDS * 2 {
                sources.begin(Duration::ZERO);
                for cid in &all {
                    sources.fetch(cid).await.unwrap_err();
                }
                tokio::task::yield_now().await;
            }
            assert_eq!(
                asked.lock().unwrap().len(),
                66,
                "those that gave way do not push out those that came after them"
            );
        });
    }
}
