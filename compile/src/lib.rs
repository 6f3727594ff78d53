//! From what holds in a realm to what one host needs to know: [`compile`].
//!
//! Agent, issuer and command line compile the same way, so that they reach the verdict that the host will reach. Pure: no
//! I/O, no clock but the latest block's, no randomness; the same view gives the same tables.
//!
//! It refuses to widen: what replay has refused stays refused, and rules whose failure would let somebody in (a plain key
//! where certificates must be logged, a denied key, a locked batch) are applied here once more. A host that is locked, or
//! that the realm does not know, gets empty tables.

mod access;
mod accounts;
mod origins;
mod plain;

use std::collections::BTreeSet;

use countersign_certificate::{Id, RealmId};
use countersign_registry::effective::Effective;
use countersign_registry::realm::{Host, State};
use countersign_snapshot::{AccessTables, AccountsTables, BlockRef, Facts, HostState};

pub use origins::origins;
pub use plain::{MOST_SERIALS, PlainSshd, plain_sshd};

/// Which host is compiled for, and what its own configuration says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostView {
    /// Its record id, known from enrolment.
    pub host: Id,
    /// Whether grants may cover uid 0 there.
    pub allow_root: bool,
    /// A limit lower than the realm's for the age of its snapshot, seconds; a higher one has no effect.
    pub max_staleness_secs: Option<u64>,
}

/// What the host's snapshot says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compiled {
    /// What holds for the whole snapshot.
    pub facts: Facts,
    /// What logins are decided from.
    pub access: AccessTables,
    /// What name services show.
    pub accounts: AccountsTables,
    /// How old it may become, seconds: the lower of the realm's and the host's limit.
    pub max_staleness_secs: u64,
    /// Unix time after which it does not count: the latest block's time and that many seconds.
    pub valid_until_secs: u64,
    /// Unix time at which compiling the same view again would give other tables; none: time alone changes nothing.
    pub changes_at_secs: Option<u64>,
}

/// Compiles what holds in a realm for one host, as of the view's latest block.
#[must_use]
pub fn compile(effective: &Effective, view: &HostView) -> Compiled {
    let record = effective.hosts.get(&view.host);
    let host_state = record.map_or(HostState::Unknown, |record| match record.state {
        State::Active => HostState::Active,
        State::Locked | State::Revoked => HostState::Locked,
    });
    let (access, accounts, changes_at_secs) = match (host_state, record) {
        (HostState::Active, Some(record)) => {
            let this = ThisHost { id: view.host, record, effective };
            (access::tables(&this), accounts::tables(effective), access::changes_at_secs(&this))
        }
        _ => (AccessTables::default(), AccountsTables::default(), None),
    };
    let settings = &effective.settings;
    let max_staleness_secs = view.max_staleness_secs.unwrap_or(u64::MAX).min(settings.max_staleness);
    Compiled {
        facts: Facts {
            realm: RealmId(effective.realm.0),
            host: view.host,
            host_state,
            require_logged: settings.require_logged,
            allow_root: view.allow_root,
            pickup_secs: settings.pickup,
            max_ttl_secs: settings.max_ttl,
            latest_block: block_ref(effective.latest_block),
            final_block: block_ref(effective.final_block),
        },
        access,
        accounts,
        max_staleness_secs,
        valid_until_secs: effective.latest_block.time.saturating_add(max_staleness_secs),
        changes_at_secs,
    }
}

/// An active host and what holds around it.
struct ThisHost<'a> {
    id: Id,
    record: &'a Host,
    effective: &'a Effective,
}

impl ThisHost<'_> {
    const fn labels(&self) -> &BTreeSet<String> {
        &self.record.labels
    }

    /// The time that decides what has run out.
    const fn now_secs(&self) -> u64 {
        self.effective.latest_block.time
    }
}

const fn block_ref(block: countersign_registry::BlockRef) -> BlockRef {
    BlockRef { number: block.number, time_secs: block.time }
}
