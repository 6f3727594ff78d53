//! Places that keep blocks, and several of them as one: a directory, the RPC of an IPFS node, a trustless gateway. Order and fallback
//! are configuration.
//!
//! No place is trusted: a block is returned only when its bytes hash to the CID that was asked for, so that which place it came from,
//! and over what, does not matter. No place can hold up another: each has its deadlines, what has just failed is asked last for a
//! while, and blocks are put into all places at the same time.

mod directory;
mod gateway;
mod http;
mod kubo;
mod setting;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::future::join_all;

pub use directory::DirectoryStore;
pub use gateway::GatewayStore;
pub use http::Deadlines;
pub use kubo::KuboStore;
pub use setting::{Place, Puts, StoreSetting};

use crate::{
    block::BlockCid,
    dag::{self, Tree},
    error::DeliveryError,
};

/// For how long a place that failed is asked after the others.
const REST: Duration = Duration::from_secs(60);

/// What an asynchronous method of a [`BlockStore`] gives.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, DeliveryError>> + Send + 'a>>;

/// Whether a place has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It has it and keeps it.
    Pinned,
    /// It gives it, and may forget it at any time.
    Present,
    /// It does not have it.
    Absent,
}

/// A place that keeps blocks. Whatever it gives was verified against its CID.
pub trait BlockStore: fmt::Debug + Send + Sync {
    /// For messages; holds no secret.
    fn name(&self) -> String;

    /// Whether blocks can be put here.
    fn takes_blocks(&self) -> bool;

    /// Keeps a file's blocks, pinned. Putting what is there is fine.
    fn put_tree<'a>(&'a self, tree: &'a Tree<'a>) -> Answer<'a, ()>;

    /// One block, verified.
    fn get_block<'a>(&'a self, cid: &'a BlockCid) -> Answer<'a, Vec<u8>>;

    /// Pins a root, and so all that is below it; fetches what is missing where this place can.
    fn pin_tree<'a>(&'a self, root: &'a BlockCid) -> Answer<'a, ()>;

    /// Lets go of a root: unpins it and deletes its blocks. What is not there, or not pinned, is fine.
    fn unpin_tree<'a>(&'a self, root: &'a BlockCid) -> Answer<'a, ()>;

    /// Whether the file is here, without asking other places for it.
    fn holds<'a>(&'a self, root: &'a BlockCid) -> Answer<'a, Held>;

    /// Whether this place answers at all; a few words about it.
    fn probe(&self) -> Answer<'_, String>;
}

/// An answer that is there already.
fn ready<'a, T: Send + 'a>(result: Result<T, DeliveryError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(result))
}

/// A block's bytes, if they are those that the CID names.
fn verified(cid: &BlockCid, block: Vec<u8>, store: &str) -> Result<Vec<u8>, DeliveryError> {
    let found = cid.of_same_kind(&block)?;
    if found == *cid {
        return Ok(block);
    }
    Err(DeliveryError::Corrupt { cid: cid.to_string(), store: store.to_owned(), found: found.to_string() })
}

/// Several places, in the order in which they are asked.
#[derive(Clone, Debug)]
pub struct Stores {
    places: Arc<[Slot]>,
    puts: Puts,
}

#[derive(Debug)]
struct Slot {
    store: Box<dyn BlockStore>,
    rests_until: Mutex<Option<Instant>>,
}

/// What one place came to.
#[derive(Debug)]
pub struct Outcome<T> {
    /// Its name.
    pub store: String,
    /// What it said.
    pub result: Result<T, DeliveryError>,
}

/// A file that was put.
#[derive(Debug)]
pub struct Placed {
    /// Its CID.
    pub cid: BlockCid,
    /// How many blocks it has.
    pub blocks: usize,
    /// What each place that takes blocks came to. Under [`Puts::Any`] some may have failed.
    pub places: Vec<Outcome<()>>,
}

impl Stores {
    /// Opens the places of a configuration, in its order. Connects to nobody yet.
    ///
    /// # Errors
    /// [`DeliveryError::Setting`], [`DeliveryError::Authorization`], [`DeliveryError::Io`].
    pub fn open(settings: &[StoreSetting], puts: Puts) -> Result<Self, DeliveryError> {
        let stores = settings.iter().map(StoreSetting::open).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::of(stores, puts))
    }

    /// Takes places that are open already.
    #[must_use]
    pub fn of(stores: Vec<Box<dyn BlockStore>>, puts: Puts) -> Self {
        let places = stores.into_iter().map(|store| Slot { store, rests_until: Mutex::new(None) }).collect();
        Self { places, puts }
    }

    /// Whether there is any place.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether blocks can be put anywhere.
    #[must_use]
    pub fn takes_blocks(&self) -> bool {
        self.takers().next().is_some()
    }

    /// Keeps a file, pinned, in every place that takes blocks, in all of them at the same time. Under [`Puts::All`] each must have
    /// taken it; under [`Puts::Any`] one, and those that failed a moment ago are asked only where no other took it.
    ///
    /// # Errors
    /// [`DeliveryError::Stores`] with what each place said; [`DeliveryError::FileTooLarge`].
    pub async fn put(&self, file: &[u8]) -> Result<Placed, DeliveryError> {
        let tree = Tree::of(file)?;
        let places = self.keep(|store| store.put_tree(&tree)).await;
        self.judge(&places, || format!("block {}: not stored", tree.root()))?;
        Ok(Placed { cid: tree.root(), blocks: tree.count(), places })
    }

    /// A file, each block from the first place that has it.
    ///
    /// # Errors
    /// [`DeliveryError::Stores`] with what each place said; [`DeliveryError::Node`].
    pub async fn get(&self, cid: &BlockCid) -> Result<Vec<u8>, DeliveryError> {
        let root = self.get_block(cid).await?;
        if !cid.is_node() {
            return Ok(root);
        }
        let mut file = Vec::new();
        for piece in dag::pieces(cid, &root)? {
            file.extend(self.get_block(&piece).await?);
        }
        Ok(file)
    }

    /// One block from the first place that has it.
    ///
    /// # Errors
    /// [`DeliveryError::Stores`] with what each place said.
    pub async fn get_block(&self, cid: &BlockCid) -> Result<Vec<u8>, DeliveryError> {
        let mut failures = Vec::new();
        for place in self.in_order() {
            match place.store.get_block(cid).await {
                Ok(block) => {
                    place.judge(None);
                    return Ok(block);
                }
                Err(error) => {
                    place.judge(Some(&error));
                    failures.push(error.to_string());
                }
            }
        }
        if failures.is_empty() {
            failures.push("no block store is configured".to_owned());
        }
        Err(DeliveryError::Stores { what: format!("block {cid}: from no store"), failures })
    }

    /// Pins a root where blocks are put; succeeds under the same rule.
    ///
    /// # Errors
    /// [`DeliveryError::Stores`].
    pub async fn pin(&self, root: &BlockCid) -> Result<Vec<Outcome<()>>, DeliveryError> {
        let places = self.keep(|store| store.pin_tree(root)).await;
        self.judge(&places, || format!("block {root}: not pinned"))?;
        Ok(places)
    }

    /// Lets go of a root in every place that takes blocks. All of them must have done so: what one still keeps is not gone. Those that
    /// failed a moment ago are not asked; it is for the caller to come back.
    ///
    /// # Errors
    /// [`DeliveryError::Stores`].
    pub async fn unpin(&self, root: &BlockCid) -> Result<Vec<Outcome<()>>, DeliveryError> {
        let (awake, resting) = self.takers_by_rest();
        let mut places = everywhere(&awake, |store| store.unpin_tree(root)).await;
        places.extend(resting.iter().map(|place| place.left_alone()));
        require(&places, places.len(), || format!("block {root}: not let go of"))?;
        Ok(places)
    }

    /// Whether each place has the file, in their order.
    pub async fn holds(&self, root: &BlockCid) -> Vec<Outcome<Held>> {
        let asked = self
            .places
            .iter()
            .map(|place| async { Outcome { store: place.store.name(), result: place.store.holds(root).await } });
        join_all(asked).await
    }

    /// Whether each place answers, in their order, with a few words about it.
    pub async fn probe(&self) -> Vec<Outcome<String>> {
        let asked = self
            .places
            .iter()
            .map(|place| async { Outcome { store: place.store.name(), result: place.store.probe().await } });
        join_all(asked).await
    }

    fn takers(&self) -> impl Iterator<Item = &Slot> {
        self.places.iter().filter(|place| place.store.takes_blocks())
    }

    /// Those that take blocks: without and with a failure a moment ago.
    fn takers_by_rest(&self) -> (Vec<&Slot>, Vec<&Slot>) {
        let now = Instant::now();
        self.takers().partition(|place| !place.rests(now))
    }

    async fn keep<'a>(&'a self, act: impl Fn(&'a dyn BlockStore) -> Answer<'a, ()>) -> Vec<Outcome<()>> {
        let (awake, resting) = match self.puts {
            Puts::All => (self.takers().collect(), Vec::new()),
            Puts::Any => self.takers_by_rest(),
        };
        let mut places = everywhere(&awake, &act).await;
        if places.iter().any(|place| place.result.is_ok()) {
            places.extend(resting.iter().map(|place| place.left_alone()));
        } else {
            places.extend(everywhere(&resting, &act).await);
        }
        places
    }

    fn judge(&self, places: &[Outcome<()>], what: impl FnOnce() -> String) -> Result<(), DeliveryError> {
        require(places, if self.puts == Puts::All { places.len() } else { 1 }, what)
    }

    /// As configured, but those that failed a moment ago come last.
    fn in_order(&self) -> Vec<&Slot> {
        let now = Instant::now();
        let mut order: Vec<&Slot> = self.places.iter().collect();
        order.sort_by_key(|place| place.rests(now));
        order
    }
}

/// Asks all of these at the same time.
async fn everywhere<'a>(places: &[&'a Slot], act: impl Fn(&'a dyn BlockStore) -> Answer<'a, ()>) -> Vec<Outcome<()>> {
    let act = &act;
    let asked = places.iter().map(|place| async move {
        let result = act(place.store.as_ref()).await;
        place.judge(result.as_ref().err());
        Outcome { store: place.store.name(), result }
    });
    join_all(asked).await
}

/// At least one place, and at least `wanted` of them, must have succeeded.
fn require(places: &[Outcome<()>], wanted: usize, what: impl FnOnce() -> String) -> Result<(), DeliveryError> {
    let done = places.iter().filter(|place| place.result.is_ok()).count();
    if !places.is_empty() && done >= wanted {
        return Ok(());
    }
    let mut failures: Vec<String> =
        places.iter().filter_map(|place| place.result.as_ref().err().map(ToString::to_string)).collect();
    if places.is_empty() {
        failures.push("no configured block store takes blocks".to_owned());
    }
    Err(DeliveryError::Stores { what: what(), failures })
}

impl Slot {
    fn rests(&self, now: Instant) -> bool {
        let until = self.rests_until.lock().map_or(None, |until| *until);
        until.is_some_and(|until| until > now)
    }

    /// Has it rest after a failure of its own, and no longer after anything else.
    fn judge(&self, error: Option<&DeliveryError>) {
        let failed = error.is_some_and(DeliveryError::is_of_the_place);
        if let Ok(mut until) = self.rests_until.lock() {
            *until = failed.then(|| Instant::now().checked_add(REST)).flatten();
        }
    }

    fn left_alone(&self) -> Outcome<()> {
        let store = self.store.name();
        Outcome { store: store.clone(), result: Err(DeliveryError::Resting { store }) }
    }
}

impl From<DirectoryStore> for Stores {
    fn from(directory: DirectoryStore) -> Self {
        Self::of(vec![Box::new(directory)], Puts::All)
    }
}
