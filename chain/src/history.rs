//! One history over the realms of a move: the log of the realm that was left, up to exactly the heads that both sides name, then the
//! log of the realm that it went to. Where the realm files lead is compared with what the ledgers say, in both directions: a wrong
//! file, or one of an attacker's, leads nowhere.
//!
//! What the left realm denies after these heads goes on counting, for as long as its nodes can be asked; that they cannot is an error
//! of [`look`] alone and keeps nobody from the new realm. The rules are in `docs/spec/migration.md`.

use std::collections::VecDeque;
use std::path::Path;

use alloy_primitives::{Address, B256, U256};
use countersign_registry::{
    BlockRef, Entry, Kind, PlacedEntry, Replay,
    entries::payload,
    head::{LogEntry, Meta, Tip, last_block},
    migration::{
        Cut, MAX_LEGS, Move, MoveError, Place, check_arrival, check_move, in_leg,
        statement::{RootsInForce, Statement, StatementError},
    },
    pin::RealmPin,
    realm::EntryRef,
    replay::{Leg, LegError, ReplayError},
    shard, sign,
};
use serde::{Deserialize, Serialize};

use crate::{
    endpoints::Limits,
    error::ChainError,
    files::{self, Owners, Secrecy},
    predecessor,
    realm_file::RealmFile,
    source::{Heads, TrustedHeader},
    spool::{Entries, Spill},
    sync::{Cursor, Ledger, ShardCursor},
};

const MAX_STATEMENT: u64 = 64 << 10;

/// Why a history does not go on, or cannot be read from its beginning.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// Reading.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The realms do not name each other and the same heads.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// The log does not end where the heads say.
    #[error(transparent)]
    Leg(#[from] LegError),
    /// The log cannot be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The realm has moved, and its realm file does not say where the successor's is.
    #[error("the realm has moved to realm {} in contract {} on chain {}, and its realm file names no successor", target.realm, target.contract, target.chain_id)]
    NoSuccessor {
        /// Where it went.
        target: Box<Place>,
    },
    /// The successor's realm file cannot be used.
    #[error("successor: {0}")]
    SuccessorFile(#[source] ChainError),
    /// The predecessor's realm file cannot be used.
    #[error("predecessor: {0}")]
    PredecessorFile(#[source] ChainError),
    /// The realm says that it comes from another one, and its realm file names none.
    #[error("realm {realm} continues realm {source_realm}, and its realm file names no predecessor")]
    NoPredecessor {
        /// The realm.
        realm: B256,
        /// What it comes from.
        source_realm: B256,
    },
    /// A file that should be a statement.
    #[error("statement {path}: {problem}")]
    StatementFile {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The statement does not count.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The realm's log does not begin with a MIGRATED, or that is not final yet.
    #[error("the final log of realm {realm} does not begin with a MIGRATED that says where it comes from")]
    NotArrived {
        /// The realm.
        realm: B256,
    },
}

impl HistoryError {
    /// A stable word for logs and status (`docs/agent-reason-codes.md`).
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Chain(ChainError::Predecessor { .. }) => "predecessor-log",
            Self::Chain(_) => "successor-silent",
            Self::Move(error) => error.reason(),
            Self::Leg(error) => error.reason(),
            Self::Replay(_) => "replay-failed",
            Self::NoSuccessor { .. } => "migrated",
            Self::SuccessorFile(_) => "successor-file",
            Self::PredecessorFile(_) => "predecessor-file",
            Self::NoPredecessor { .. } => "predecessor-needed",
            Self::StatementFile { .. } | Self::Statement(StatementError::Version(_)) => "statement-file",
            Self::Statement(error) => error.reason(),
            Self::NotArrived { .. } => "successor-not-arrived",
        }
    }

    /// What the reader can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Chain(error) | Self::SuccessorFile(error) | Self::PredecessorFile(error) => error.hint(),
            Self::NoSuccessor { .. } => {
                Some("put the successor's realm file beside this one and name it: successor = \"FILE\"".to_owned())
            }
            Self::NoPredecessor { .. } => {
                Some("put the left realm's file beside this one and name it: predecessor = \"FILE\"".to_owned())
            }
            Self::Move(_) => Some("take both realm files from the realm's owner again".to_owned()),
            _ => None,
        }
    }
}

/// A realm that was left, and how far it was read beyond the heads.
#[derive(Clone, Debug)]
pub struct Left {
    /// Its place in the history, from 0.
    pub leg: u64,
    /// Its file.
    pub realm: RealmFile,
    /// Where the next look begins.
    pub cursor: Cursor,
}

/// All that comes before a realm's own log.
#[derive(Debug)]
pub struct Beginning {
    /// Replayed up to where the realm begins.
    pub replay: Replay,
    /// The realms that were left, the first first.
    pub left: Vec<Left>,
}

/// What was written on a left realm beyond the heads.
#[derive(Debug)]
pub struct Late {
    final_block: BlockRef,
    latest: BlockRef,
    final_entries: Vec<PlacedEntry>,
    latest_entries: Vec<PlacedEntry>,
    cursor: Cursor,
}

impl Late {
    /// Tells the replay; the denials among the entries count from then on. Gives where the next look begins, and whether anything was
    /// new in the final view.
    ///
    /// # Errors
    /// [`ReplayError`]; nothing has changed then.
    pub fn tell(self, replay: &mut Replay, leg: u64) -> Result<(Cursor, bool), ReplayError> {
        let place = |entries: &[PlacedEntry], replay: &Replay| -> Vec<PlacedEntry> {
            entries.iter().map(|placed| replay.place_in(leg, placed)).collect()
        };
        let block = |block: BlockRef| BlockRef { number: in_leg(leg, block.number), time: block.time };
        let (final_entries, latest_entries) = (place(&self.final_entries, replay), place(&self.latest_entries, replay));
        replay.advance_source(leg, block(self.final_block), &final_entries)?;
        replay.see_source(leg, block(self.latest), &latest_entries)?;
        Ok((self.cursor, !final_entries.is_empty()))
    }
}

/// Where the look beyond the heads of a move begins.
#[must_use]
pub fn cursor_beyond(step: &Move, cut: &Cut) -> Cursor {
    let shards = step.heads().slots.iter().map(|(shard, slot)| {
        let block = last_block(*slot, step.heads().block).unwrap_or_default();
        let entries = cut.entries.get(shard).copied().unwrap_or_default();
        (*shard, ShardCursor { tip: Tip { slot: *slot, entries, block, time: 0 }, proved_at: block })
    });
    Cursor { final_header: None, shards: shards.collect(), proved_tips: Vec::new() }
}

/// Looks at what a left realm denies since, as of Unix time `now_secs`: proved as anything is.
///
/// # Errors
/// Those of [`Ledger::update`]: the realm's nodes may be gone for good.
pub async fn look(ledger: &mut Ledger, cursor: &Cursor, now_secs: u64) -> Result<Late, ChainError> {
    let heads = ledger.heads().await?;
    let period = shard::period(now_secs);
    let last = period.saturating_add(u32::try_from(shard::PERIODS_AHEAD).unwrap_or(u32::MAX));
    let mut shards = vec![shard::GOVERNANCE, shard::DIRECTORY, shard::DENIALS];
    shards.extend((period.saturating_sub(1)..=last).map(|epoch| shard::shard(shard::CLASS_REVOCATIONS, epoch)));
    let update = ledger.update(cursor, &heads, &shards).await?;
    Ok(Late {
        final_block: block_ref(&update.final_header),
        latest: block_ref(&update.latest),
        final_entries: update.final_entries.into_values().flatten().collect(),
        latest_entries: update.latest_entries.into_values().flatten().collect(),
        cursor: update.cursor,
    })
}

/// Brings the final view to `header` with entries that became final, a piece at a time: their order is that of blocks, so that each piece
/// is judged by what came before it, as it was when they were logged one after the other. What was taken before an error stays taken; the
/// same entries are skipped when they come again. `each` sees every entry, in its place in the history.
///
/// # Errors
/// The entries do not continue the final view, or cannot be read back.
pub fn advance(
    replay: &mut Replay,
    header: BlockRef,
    entries: Entries,
    mut each: impl FnMut(&PlacedEntry),
) -> Result<(), AdvanceError> {
    let mut pieces = entries.pieces()?;
    while let Some(piece) = pieces.next_piece()? {
        let placed: Vec<PlacedEntry> = piece.entries.iter().map(|placed| replay.place(placed)).collect();
        placed.iter().for_each(&mut each);
        // A shard that is read for the first time may lie behind the final view.
        replay.advance(replay.block(piece.until).max(replay.final_block()), &placed)?;
    }
    Ok(replay.advance(replay.block(header), &[])?)
}

/// Why entries could not be taken into the final view.
#[derive(Debug, thiserror::Error)]
pub enum AdvanceError {
    /// They do not continue it.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// They could not be read back.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl From<AdvanceError> for HistoryError {
    fn from(error: AdvanceError) -> Self {
        match error {
            AdvanceError::Replay(error) => error.into(),
            AdvanceError::Chain(error) => error.into(),
        }
    }
}

/// How a realm's log begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Its roots have not written anything yet, not even in the latest view.
    Empty,
    /// In another way than with MIGRATED; or that is not final yet.
    Elsewhere,
    /// With this, which is final.
    From(Box<payload::Migrated>),
}

impl Arrival {
    /// The MIGRATED.
    ///
    /// # Errors
    /// [`HistoryError::NotArrived`].
    pub fn said(self, realm: &RealmFile) -> Result<payload::Migrated, HistoryError> {
        match self {
            Self::From(said) => Ok(*said),
            Self::Empty | Self::Elsewhere => Err(HistoryError::NotArrived { realm: realm.pin.realm }),
        }
    }
}

/// How a realm's log begins.
///
/// # Errors
/// Those of [`Ledger::update`].
pub async fn arrival(ledger: &mut Ledger, heads: &Heads) -> Result<Arrival, ChainError> {
    let update = ledger.update(&Cursor::default(), heads, &[shard::GOVERNANCE]).await?;
    let first = update.final_entries.get(&shard::GOVERNANCE).and_then(|entries| entries.first());
    let is_empty = first.is_none() && update.latest_entries.values().all(Vec::is_empty);
    Ok(match first.and_then(|placed| migrated(&placed.entry)) {
        Some(said) => Arrival::From(Box::new(said)),
        None if is_empty => Arrival::Empty,
        None => Arrival::Elsewhere,
    })
}

/// Reads a statement; it counts only once it was verified.
///
/// # Errors
/// `StatementFile`.
pub fn statement(path: &Path) -> Result<Statement, HistoryError> {
    let refuse = |problem: String| HistoryError::StatementFile { path: path.display().to_string(), problem };
    let owners = Owners::process();
    let real = files::real_path(path, owners).map_err(|error| refuse(error.to_string()))?;
    let bytes =
        files::read(&real, owners, Secrecy::Public, MAX_STATEMENT).map_err(|error| refuse(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))
}

/// The roots that an entry puts in the place of those before.
#[must_use]
pub fn root_set(placed: &PlacedEntry) -> Option<Roots> {
    if !placed.entry.actor.is_zero() || Meta::unpack(placed.entry.meta)?.kind != Kind::ROOT_SET {
        return None;
    }
    match Entry::decode(Kind::ROOT_SET, &placed.entry.data) {
        Ok(Entry::RootSet(set)) => Some(Roots { threshold: u64::try_from(set.threshold).ok()?, roots: set.roots }),
        _ => None,
    }
}

/// Who governs a realm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Roots {
    /// How many must sign.
    pub threshold: u64,
    /// In their order.
    pub roots: Vec<Address>,
}

impl Roots {
    /// Those that a realm began with.
    #[must_use]
    pub fn first(pin: &RealmPin) -> Self {
        Self { threshold: pin.threshold, roots: pin.roots.clone() }
    }

    /// What stands for their MIGRATE, if they have signed this. `nonce` is the least that theirs can be.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(
        &self,
        statement: &Statement,
        source: &RealmPin,
        nonce: u64,
    ) -> Result<payload::Migrate, StatementError> {
        let known = RootsInForce { threshold: self.threshold, roots: &self.roots, nonce };
        statement.verify(source, &known)
    }

    /// Their nonce by a proved content of the realm's `rootSet` slot.
    ///
    /// # Errors
    /// `Roots`: the slot is not of these roots.
    pub fn nonce(&self, slot: B256) -> Result<u64, StatementError> {
        sign::root_nonce(slot, self.threshold, &self.roots).ok_or(StatementError::Roots)
    }
}

/// What an entry says about where its realm comes from, if that is what it says.
#[must_use]
pub fn migrated(entry: &LogEntry) -> Option<payload::Migrated> {
    let kind = Meta::unpack(entry.meta)?.kind;
    match Entry::decode(kind, &entry.data) {
        Ok(Entry::Migrated(migrated)) if entry.actor.is_zero() => Some(migrated),
        _ => None,
    }
}

/// Where `source` goes by `migrate`, which is final there (or a verified statement): the file of its successor, once that realm's own
/// final log says the same. `visited` are the realms of the history so far: none of them is gone to again.
///
/// # Errors
/// [`HistoryError`] naming what is missing or does not fit.
pub async fn successor(
    source: &RealmFile,
    migrate: &payload::Migrate,
    visited: &[Leg],
    limits: Limits,
) -> Result<(RealmFile, Move), HistoryError> {
    if let Some(leg) = visited.iter().find(|leg| leg.realm == migrate.realm) {
        return Err(MoveError::Loop { realm: leg.realm }.into());
    }
    let Some(path) = &source.links.successor else {
        return Err(HistoryError::NoSuccessor { target: Box::new(migrate.target()) });
    };
    let target = RealmFile::load(path).map_err(HistoryError::SuccessorFile)?;
    // Before anybody is asked: a file of another realm than the one that is named leads nowhere.
    let expected = payload::Migrated::new(&Place::from(&source.pin), &migrate.until());
    check_move(&source.pin, migrate, &target.pin, &expected)?;
    let mut ledger = Ledger::new(&target, limits)?;
    let heads = ledger.heads().await?;
    let said = arrival(&mut ledger, &heads).await?.said(&target)?;
    let step = check_move(&source.pin, migrate, &target.pin, &said)?;
    Ok((target, step))
}

/// All that comes before the log of `target`, which begins with `migrated`. `each` sees every entry, in its place in the history.
///
/// # Errors
/// [`HistoryError`] naming what is missing or does not fit.
pub async fn before(
    target: &RealmFile,
    migrated: &payload::Migrated,
    limits: Limits,
    spill: &Spill,
    each: impl FnMut(&PlacedEntry),
) -> Result<Beginning, HistoryError> {
    let source = predecessor_file(target, migrated)?;
    let step = check_arrival(&source.pin, &target.pin, migrated)?;
    up_to(source, step, limits, spill, each).await
}

fn predecessor_file(realm: &RealmFile, migrated: &payload::Migrated) -> Result<RealmFile, HistoryError> {
    let (target, source) = (realm.pin.realm, migrated.source().realm);
    let missing = HistoryError::NoPredecessor { realm: target, source_realm: source };
    let path: &Path = realm.links.predecessor.as_deref().ok_or(missing)?;
    RealmFile::load(path).map_err(HistoryError::PredecessorFile)
}

/// The log of `source`, and of all realms before it, replayed up to the heads of the move `step`, which is then begun.
///
/// # Errors
/// [`HistoryError`] naming what is missing or does not fit.
pub async fn up_to(
    source: RealmFile,
    step: Move,
    limits: Limits,
    spill: &Spill,
    mut each: impl FnMut(&PlacedEntry),
) -> Result<Beginning, HistoryError> {
    let mut parts: VecDeque<(RealmFile, Move, Entries)> = VecDeque::new();
    let (mut source, mut step) = (source, step);
    loop {
        let met = |pin: &RealmPin| (pin.chain_id, pin.contract, pin.realm);
        if parts.iter().any(|(later, ..)| met(&later.pin) == met(&source.pin)) {
            return Err(MoveError::Loop { realm: source.pin.realm }.into());
        }
        if parts.len().saturating_add(2) > MAX_LEGS {
            return Err(MoveError::TooLong.into());
        }
        let (slots, until) = (&step.heads().slots, step.heads().block);
        let mut entries = predecessor::read(&source, slots, until, limits, spill).await?;
        let first = entries.first_of(shard::GOVERNANCE)?;
        let said = first.and_then(|placed| migrated(&placed.entry));
        let earlier = match (&said, &source.links.predecessor) {
            (Some(said), _) => {
                let earlier = predecessor_file(&source, said)?;
                let step = check_arrival(&earlier.pin, &source.pin, said)?;
                Some((earlier, step))
            }
            (None, Some(_)) => return Err(HistoryError::NotArrived { realm: source.pin.realm }),
            (None, None) => None,
        };
        parts.push_front((source, step, entries));
        match earlier {
            Some(earlier) => (source, step) = earlier,
            None => break,
        }
    }
    let mut replay = Replay::new(parts.front().map_or(B256::ZERO, |(source, ..)| source.pin.realm));
    let mut left = Vec::new();
    for (source, step, entries) in parts {
        let leg = replay.leg();
        let cut = Cut { entries: entries.tips().map(|(shard, tip)| (shard, tip.entries)).collect() };
        let time = entries.tips().map(|(_, tip)| tip.time).max().unwrap_or_default();
        advance(&mut replay, BlockRef { number: step.heads().block, time }, entries, &mut each)?;
        replay.begin_leg(&step, &cut)?;
        left.push(Left { leg, realm: source, cursor: cursor_beyond(&step, &cut) });
    }
    Ok(Beginning { replay, left })
}

/// Begins the next leg where `replay` stands, whose entries end at `tips`: at exactly the heads, or one MIGRATE beyond them. None where
/// it stands elsewhere; then the log has to be read again, [`up_to`] the heads.
#[must_use]
pub fn go_on(replay: &Replay, cursor: &Cursor, step: &Move) -> Option<(Replay, Cursor)> {
    let tip = |shard: u64| cursor.shards.get(&shard).map(|known| known.tip);
    let migrate = replay.migrate().map(|(migrate, at)| migrate_entry(&migrate, at, step));
    let cut = Cut::at_tips(step.heads(), tip, step.source().realm, migrate.as_ref()).ok()?;
    let mut next = replay.clone();
    next.begin_leg(step, &cut).ok()?;
    Some((next, cursor_beyond(step, &cut)))
}

/// The entry of a MIGRATE that directly follows the heads.
fn migrate_entry(migrate: &payload::Migrate, at: EntryRef, step: &Move) -> PlacedEntry {
    let head = step.heads().slots.get(&shard::GOVERNANCE).copied().unwrap_or(U256::ZERO);
    let [lowest, ..] = *head.as_limbs();
    let prev_block = u32::try_from(lowest & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let meta = Meta { kind: Kind::MIGRATE, prev_block, time: at.time }.pack();
    let data = Entry::Migrate(migrate.clone()).encode();
    let entry = LogEntry { shard: shard::GOVERNANCE, actor: Address::ZERO, meta, data };
    PlacedEntry { at, entry }
}

fn block_ref(header: &TrustedHeader) -> BlockRef {
    BlockRef { number: header.number, time: header.time }
}
