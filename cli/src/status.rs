//! `countersign status`: what holds now, in a few lines; and whom this command line would write as.

use alloy_primitives::{Address, B256};
use clap::Args;
use countersign_chain::keys::address_hint;
use countersign_registry::effective::Settings;
use countersign_registry::realm::{BatchState, CaState, State};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::migrate::LeftRow;
use crate::output::{Show, fields, now, time};
use crate::values;

/// No flags of its own.
#[derive(Debug, Args)]
pub struct StatusArgs {}

/// Counts of one sort.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    /// In force.
    pub active: usize,
    /// Locked, revoked or retired.
    pub denied: usize,
}

impl Counts {
    fn of(states: impl Iterator<Item = bool>) -> Self {
        states.fold(Self::default(), |counts, active| {
            if active {
                Self { active: counts.active.saturating_add(1), ..counts }
            } else {
                Self { denied: counts.denied.saturating_add(1), ..counts }
            }
        })
    }

    fn text(&self) -> String {
        if self.denied == 0 { self.active.to_string() } else { format!("{} ({} denied)", self.active, self.denied) }
    }
}

/// What holds now.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Realm id.
    pub realm: B256,
    /// The realms that it continues, the first first.
    pub continues: Vec<LeftRow>,
    /// Where it went, if it was left.
    pub moved_to: Option<B256>,
    /// Final block number.
    pub final_block: u64,
    /// Latest block number.
    pub latest_block: u64,
    /// Its time, Unix seconds.
    pub latest_time: u64,
    /// Seconds since then, by this machine's clock.
    pub latest_age: u64,
    /// In force.
    pub settings: Settings,
    /// Users.
    pub users: Counts,
    /// Groups.
    pub groups: usize,
    /// Hosts.
    pub hosts: Counts,
    /// Keys.
    pub keys: Counts,
    /// Grants.
    pub grants: usize,
    /// CAs.
    pub cas: Counts,
    /// Batches of the last days.
    pub batches: Counts,
    /// Revoked serials of the last periods.
    pub revoked_certificates: usize,
    /// Additions that do not count yet.
    pub waiting: usize,
    /// Whom this command line would write as.
    pub actor: Option<Address>,
    /// What that actor may do.
    pub roles: Vec<String>,
}

impl Show for Status {
    fn text(&self) -> String {
        let mut before = vec![("realm", self.realm.to_string())];
        before.extend(self.moved_to.map(|realm| ("moved to", realm.to_string())));
        before.extend(self.continues.iter().map(|left| ("continues", left.text())));
        let rest = [
            ("final block", self.final_block.to_string()),
            ("latest block", format!("{}, {}, {} s ago", self.latest_block, time(self.latest_time), self.latest_age)),
            ("logged certificates only", self.settings.require_logged.to_string()),
            ("users", self.users.text()),
            ("groups", self.groups.to_string()),
            ("hosts", self.hosts.text()),
            ("keys", self.keys.text()),
            ("grants", self.grants.to_string()),
            ("CAs", self.cas.text()),
            ("batches", self.batches.text()),
            ("revoked certificates", self.revoked_certificates.to_string()),
            ("waiting additions", self.waiting.to_string()),
            ("actor", self.actor.map(|actor| actor.to_string()).unwrap_or_default()),
            ("roles", self.roles.join(",")),
        ];
        fields(&[before, rest.to_vec()].concat())
    }
}

/// Prints the status.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, _args: StatusArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let effective = &view.effective;
    let keystore = context.configured(None, |config| config.as_actor.clone());
    let actor = keystore.map(|path| address_hint(&path)).transpose()?.flatten();
    let latest = effective.latest_block;
    context.printer.result(&Status {
        realm: effective.realm,
        continues: LeftRow::all(&view),
        moved_to: view.migrated.map(|target| target.realm),
        final_block: view.heads.final_header.number,
        latest_block: view.heads.latest.number,
        latest_time: latest.time,
        latest_age: now().saturating_sub(latest.time),
        settings: effective.settings,
        users: Counts::of(effective.users.values().map(|user| user.state == State::Active)),
        groups: effective.groups.len(),
        hosts: Counts::of(effective.hosts.values().map(|host| host.state == State::Active)),
        keys: Counts::of(effective.keys.iter().map(|key| key.state == State::Active)),
        grants: effective.grants.len(),
        cas: Counts::of(effective.cas.values().map(|ca| ca.state == CaState::Active)),
        batches: Counts::of(effective.batches.values().map(|batch| batch.state == BatchState::Accepted)),
        revoked_certificates: effective.revoked_serials.values().map(std::collections::BTreeSet::len).sum(),
        waiting: effective.waiting.len(),
        actor,
        roles: actor
            .and_then(|actor| effective.actors.get(&actor))
            .map(|actor| values::role_names(actor.roles))
            .unwrap_or_default(),
    })
}
