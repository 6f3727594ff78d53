//! What the agent remembers between runs: the final view and the pending denials (registry's replay state), how far each shard
//! was read, the salt of the snapshot's keys, the highest wall time and the newest blocks seen, and what became of deliveries.
//! One file, replaced whole. A file that is not exactly what was written is set aside under another name and everything is built
//! again from the chain; nothing in it is ever half believed.

use std::collections::BTreeMap;

use alloy_primitives::B256;
use countersign_certificate::Id;
use countersign_chain::history::Roots;
use countersign_chain::sync::Cursor;
use countersign_registry::{BlockRef, EntryRef, Replay};
use serde::{Deserialize, Serialize};

use crate::envelope::{self, EnvelopeError, Identity};
use crate::files::{Directory, FileError, Ownership, Secrecy};
use crate::reason::Reason;
use crate::renewal::Renewal;
use crate::status::Stage;

/// The file's name in the state directory.
pub const FILE: &str = "state";

/// The most that is read, in bytes: a million records are about 200 MB.
const LIMIT: u64 = 4 << 30;

/// Everything that the agent remembers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Keeps others from choosing keys that degrade the snapshot's lookups. Made once per host.
    pub salt: [u8; 16],
    /// The highest wall time at which a fresh snapshot was published, Unix seconds. An earlier clock is refused.
    pub highest_wall_secs: u64,
    /// What the snapshot that is there was made of.
    pub published: Option<Published>,
    /// The newest block whose denials are in `replay`; newer than the published one when publishing failed.
    pub known_latest: BlockRef,
    /// How far back batches and requests are read, seconds: the realm's max TTL and pickup when last seen.
    pub look_back_secs: u64,
    /// How far each shard was read.
    pub cursor: Cursor,
    /// The roots in force on the realm that is read, where they are not its first ones any more.
    pub roots: Option<Roots>,
    /// What is sure of their nonce.
    pub root_nonce: RootNonce,
    /// How far each realm that was left was read since, the first first.
    pub left: Vec<Cursor>,
    /// The final view and the pending denials.
    pub replay: Replay,
    /// What became of deliveries.
    pub receiving: Receiving,
    /// What became of certificates that this device asks for, by payload name.
    pub renewals: BTreeMap<String, Renewal>,
}

/// The least that the roots' nonce can be: what was proved, and what they were seen to write since. It never falls, so that what they have
/// withdrawn stays withdrawn, whatever nodes leave unsaid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootNonce {
    /// That.
    pub at_least: u64,
    /// Up to which block of its own chain it tells.
    pub block: u64,
    /// The time of the block in which it was proved, Unix seconds; none where the roots were seen to write since.
    pub proved_secs: Option<u64>,
}

impl RootNonce {
    /// The roots have written in `block`: once at least, however many entries it holds.
    pub fn seen(&mut self, block: u64) {
        if block > self.block {
            self.at_least = self.at_least.saturating_add(1);
            self.block = block;
            self.proved_secs = None;
        }
    }

    /// It was proved to be `nonce` in a block of this number and time.
    pub fn proved(&mut self, nonce: u64, block: u64, time_secs: u64) {
        self.at_least = self.at_least.max(nonce);
        self.block = self.block.max(block);
        self.proved_secs = Some(time_secs);
    }
}

/// What a snapshot was made of, and how old it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its generation.
    pub generation: u64,
    /// When, Unix seconds.
    pub at_secs: u64,
    /// The latest block.
    pub latest: BlockRef,
    /// The final block.
    pub final_block: BlockRef,
    /// The last second in which it counts, Unix seconds.
    pub valid_until_secs: u64,
    /// How old its facts may become, seconds.
    pub max_staleness_secs: u64,
    /// The boot in which it was published.
    pub boot_id: [u8; 16],
    /// `CLOCK_BOOTTIME` then, seconds.
    pub boottime_secs: u64,
    /// How old its facts were then, seconds.
    pub age_consumed_secs: u64,
}

/// What became of deliveries to this device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiving {
    /// Delivery shards are read from the day of this time on, Unix seconds; none before the first look.
    pub since_secs: Option<u64>,
    /// By delivery id.
    pub records: BTreeMap<Id, DeliveryRecord>,
    /// Where the delivery stands that was applied last, by payload name: an older one never replaces it.
    pub applied: BTreeMap<String, EntryRef>,
    /// Envelopes that hold nothing for this device, with the index that said so.
    pub passed: BTreeMap<Id, B256>,
}

/// What became of one delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRecord {
    /// Where its entry stands.
    pub at: EntryRef,
    /// The payload's name.
    pub payload_name: String,
    /// What is acknowledged; zero before it is known.
    pub digest: B256,
    /// How far it came.
    pub stage: Stage,
    /// Why no further.
    pub failure: Option<(Reason, String)>,
    /// When that changed, Unix seconds.
    pub changed_secs: u64,
    /// Before this time the acknowledgement is not tried again, Unix seconds.
    pub retry_secs: u64,
}

/// What was found on disk.
#[derive(Debug)]
pub enum Found {
    /// Nothing: the first start.
    Nothing,
    /// The state.
    State(Box<State>),
    /// Something that cannot be used; it now has the given name.
    SetAside {
        /// Why.
        reason: Reason,
        /// In words.
        message: String,
        /// Its new name in the state directory.
        name: String,
    },
}

impl State {
    /// The state before anything was read, with a fresh salt.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn new(identity: &Identity) -> Result<Self, getrandom::Error> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)?;
        Ok(Self {
            salt,
            highest_wall_secs: 0,
            published: None,
            known_latest: BlockRef::default(),
            look_back_secs: crate::cycle::DEFAULT_LOOK_BACK_SECS,
            cursor: Cursor::default(),
            roots: None,
            root_nonce: RootNonce::default(),
            left: Vec::new(),
            replay: Replay::new(identity.realm),
            receiving: Receiving::default(),
            renewals: BTreeMap::new(),
        })
    }

    /// Reads the state file. One that cannot be used is renamed to `state.corrupt-<unix time>` and reported. One of a realm that the
    /// configured one continues (`earlier`) is taken over where it has followed the realm to here: it knows what was denied there.
    ///
    /// # Errors
    /// The file exists but cannot be read, is unsafe, or cannot be renamed: nothing is known about it then, and nothing done.
    pub fn load(
        directory: &Directory,
        identity: &Identity,
        earlier: &[Identity],
        now_secs: u64,
    ) -> Result<Found, FileError> {
        let bytes = match directory.read(FILE.as_ref(), Secrecy::Private, LIMIT) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let error = match Self::decode(identity, &bytes) {
            Ok(state) => return Ok(Found::State(Box::new(state))),
            Err(error) => error,
        };
        let followed = earlier.iter().find_map(|earlier| Self::decode(earlier, &bytes).ok());
        if let Some(state) = followed.filter(|state| state.replay.realm() == identity.realm) {
            return Ok(Found::State(Box::new(state)));
        }
        let name = format!("{FILE}.corrupt-{now_secs}");
        directory.rename(FILE.as_ref(), name.as_ref())?;
        Ok(Found::SetAside { reason: error.reason(), message: error.to_string(), name })
    }

    /// Replaces the state file.
    ///
    /// # Errors
    /// What the system refused; the old file is then as it was.
    pub fn save(&self, directory: &Directory, identity: &Identity) -> Result<(), FileError> {
        let bytes = self.encode(identity).map_err(|error| FileError::Io {
            action: "encode",
            path: directory.path().join(FILE),
            source: std::io::Error::other(error),
        })?;
        let ownership =
            Ownership { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), mode: 0o600 };
        directory.replace(FILE.as_ref(), &bytes, ownership)
    }

    fn encode(&self, identity: &Identity) -> Result<Vec<u8>, postcard::Error> {
        Ok(envelope::seal(identity, &postcard::to_stdvec(self)?))
    }

    fn decode(identity: &Identity, bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let body = envelope::open(identity, bytes)?;
        match postcard::take_from_bytes::<Self>(body) {
            Ok((state, [])) => Ok(state),
            Ok(_) => Err(EnvelopeError::Corrupt("a body without bytes after it")),
            Err(_) => Err(EnvelopeError::Corrupt("a body that parses")),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;

    use super::*;

    fn identity() -> Identity {
        Identity { chain_id: 31337, contract: Address::ZERO, realm: B256::repeat_byte(4), host: Id([5; 16]) }
    }

    fn state() -> State {
        let mut state = State::new(&identity()).unwrap();
        let at = EntryRef { block: 9, shard: 6 << 32, index: 1, time: 100 };
        let record = DeliveryRecord {
            at,
            payload_name: "deploy".to_owned(),
            digest: B256::ZERO,
            stage: Stage::Waiting,
            failure: Some((Reason::DeliveryBlockMissing, "not there".to_owned())),
            changed_secs: 7,
            retry_secs: 8,
        };
        state.receiving.records.insert(Id([1; 16]), record);
        state.receiving.applied.insert("deploy".to_owned(), at);
        let open = Some(crate::renewal::Open { id: Id([2; 16]), asked_secs: 90 });
        state.renewals.insert("deploy".to_owned(), Renewal { open, failures: 3, ..Renewal::default() });
        state.highest_wall_secs = 123;
        state
    }

    #[test]
    fn a_state_reads_back_as_it_was_written() {
        let bytes = state().encode(&identity()).unwrap();
        let mut expected = state();
        let read = State::decode(&identity(), &bytes).unwrap();
        expected.salt = read.salt;
        assert_eq!(format!("{read:?}"), format!("{expected:?}"));
    }

    #[test]
    fn a_nonce_of_the_roots_never_falls_and_grows_once_for_each_block_in_which_they_are_seen_to_write() {
        let mut nonce = RootNonce::default();
        for block in [7, 7, 9, 8] {
            nonce.seen(block);
        }
        assert_eq!(nonce, RootNonce { at_least: 2, block: 9, proved_secs: None });
        // Two calls in one block; what that block and those before it hold is in it.
        nonce.proved(3, 12, 100);
        nonce.seen(11);
        nonce.seen(12);
        assert_eq!(nonce, RootNonce { at_least: 3, block: 12, proved_secs: Some(100) });
        nonce.seen(13);
        assert_eq!(nonce, RootNonce { at_least: 4, block: 13, proved_secs: None });
        nonce.proved(3, 12, 110);
        assert_eq!(nonce, RootNonce { at_least: 4, block: 13, proved_secs: Some(110) });
    }

    #[test]
    fn every_state_has_a_salt_of_its_own() {
        assert_ne!(state().salt, state().salt);
    }

    #[test]
    fn a_body_that_is_cut_or_has_bytes_after_it_is_refused_although_its_checksum_is_right() {
        let body = postcard::to_stdvec(&state()).unwrap();
        let refused = |body: &[u8]| State::decode(&identity(), &envelope::seal(&identity(), body)).unwrap_err();
        for end in 0..body.len() {
            assert_eq!(refused(&body[..end]), EnvelopeError::Corrupt("a body that parses"), "cut at {end}");
        }
        let longer = [&body[..], &[0]].concat();
        assert_eq!(refused(&longer), EnvelopeError::Corrupt("a body without bytes after it"));
    }
}
