//! `countersign log`: the ledger's entries, verified, decoded, in the order of blocks. `--follow` prints new ones as they come.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy_primitives::Address;
use clap::Args;
use countersign_chain::endpoints::Limits;
use countersign_chain::sync::{Cursor, Ledger};
use countersign_registry::entries::{Entry, Kind};
use countersign_registry::head::Meta;
use countersign_registry::{B256, Id, PlacedEntry, migration, shard, sign};
use serde::Serialize;
use serde_json::Value;

use crate::context::{Context, View};
use crate::decode;
use crate::error::CliError;
use crate::output::{self, Show, escape, time};
use crate::page::{Page, PageArgs, Row};

/// What to print.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Go on printing entries as they are logged
    #[arg(long, short)]
    follow: bool,
    /// Only entries of this kind, such as USER_ADD; may be given several times
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// Only entries by this ledger key; `roots` for the roots
    #[arg(long, value_name = "ADDRESS")]
    actor: Option<String>,
    /// How many days of batches, requests and deliveries
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    days: u64,
    /// Which part of the list
    #[command(flatten)]
    page: PageArgs,
}

/// An entry as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogRow {
    /// Which realm of the history it is of: 0 for the first.
    pub leg: u64,
    /// Block number on that realm's chain.
    pub block: u64,
    /// Block time, Unix seconds.
    pub time: u64,
    /// Shard number.
    pub shard: u64,
    /// How many entries of the shard come before it.
    pub index: u64,
    /// Who wrote it; `roots` for a threshold of roots.
    pub actor: String,
    /// The kind's name.
    pub kind: String,
    /// The id of the record that it makes.
    pub id: Option<Id>,
    /// Whether it is in the final view.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Why replay ignored it.
    pub ignored: Option<String>,
    /// What a countersignature names.
    pub entry_hash: B256,
    /// What it says, field by field; null if this version cannot read it.
    pub entry: Value,
    #[serde(skip)]
    line: String,
}

impl LogRow {
    fn new(view: &View, placed: &PlacedEntry) -> Self {
        let kind = Meta::unpack(placed.entry.meta).map_or(Kind(u16::MAX), |meta| meta.kind);
        let decoded = Entry::decode(kind, &placed.entry.data);
        let (entry, line) = match &decoded {
            Ok(entry) => (decode::object(entry), decode::one_line(entry)),
            Err(error) => (Value::Null, escape(&error.to_string())),
        };
        let ignored = view.ahead.ignored.iter().find(|ignored| ignored.at == placed.at);
        Self {
            leg: migration::leg_of(placed.at.block),
            block: migration::in_chain(placed.at.block),
            time: placed.at.time,
            shard: placed.at.shard,
            index: placed.at.index,
            actor: actor(placed.entry.actor),
            kind: kind.to_string(),
            id: decoded.ok().and_then(|entry| record_id(&entry, placed.entry.actor)),
            is_final: placed.at.block <= view.effective.final_block.number,
            ignored: ignored.map(|ignored| ignored.reason.to_string()),
            entry_hash: sign::entry_hash(view.effective.realm_of(placed.at.block), &placed.entry),
            entry,
            line,
        }
    }
}

impl LogRow {
    /// The block; before it the leg, where that is not the first.
    fn place(&self) -> String {
        output::block(migration::in_leg(self.leg, self.block))
    }
}

fn actor(address: Address) -> String {
    if address.is_zero() { "roots".to_owned() } else { address.to_string() }
}

/// The id of the record that an entry makes, if it makes one.
fn record_id(entry: &Entry, actor: Address) -> Option<Id> {
    let r = match entry {
        Entry::CaAdd(add) => add.r,
        Entry::UserAdd(add) => add.r,
        Entry::GroupAdd(add) => add.r,
        Entry::HostAdd(add) => add.r,
        Entry::LabelAdd(add) => add.r,
        Entry::KeyAdd(add) => add.r,
        Entry::GrantAdd(add) => add.r,
        Entry::GroupMemberAdd(add) => add.r,
        Entry::PayloadNameAdd(add) => add.r,
        Entry::Batch(add) => add.r,
        Entry::Request(add) => add.r,
        Entry::Delivery(add) => add.r,
        Entry::Envelope(add) => add.r,
        Entry::PublicData(add) => add.r,
        _ => return None,
    };
    Some(sign::record_id(entry.kind(), actor, r.0))
}

impl Show for LogRow {
    fn text(&self) -> String {
        let id = self.id.map(|id| format!(" id={id}")).unwrap_or_default();
        let ignored = self.ignored.as_ref().map(|reason| format!(" IGNORED: {reason}")).unwrap_or_default();
        format!("{} {} {} {}{id} {}{ignored}\n", self.place(), time(self.time), self.actor, self.kind, self.line)
    }
}

impl Row for LogRow {
    const HEADING: &'static [&'static str] = &["BLOCK", "TIME", "ACTOR", "KIND", "ENTRY"];
    fn cells(&self) -> Vec<String> {
        let id = self.id.map(|id| format!("id={id} ")).unwrap_or_default();
        let ignored = self.ignored.as_ref().map(|reason| format!(" IGNORED: {reason}")).unwrap_or_default();
        vec![
            self.place(),
            time(self.time),
            self.actor.clone(),
            self.kind.clone(),
            format!("{id}{}{ignored}", self.line),
        ]
    }
}

impl LogArgs {
    fn check(&self) -> Result<(), CliError> {
        match self.kind.iter().find(|kind| !Kind::NAMED.iter().any(|(name, _)| name == kind)) {
            Some(unknown) => {
                let problem = format!("`{unknown}`: expected a kind's name, such as USER_ADD");
                Err(CliError::Argument { argument: "--kind", problem })
            }
            None => Ok(()),
        }
    }

    fn takes(&self, row: &LogRow) -> bool {
        let kind = self.kind.is_empty() || self.kind.contains(&row.kind);
        let actor = self.actor.as_ref().is_none_or(|actor| actor.eq_ignore_ascii_case(&row.actor));
        kind && actor
    }
}

/// Prints the log.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, args: LogArgs) -> Result<(), CliError> {
    args.check()?;
    let view = context.view_back(args.days).await?;
    let rows = view.entries.iter().map(|placed| LogRow::new(&view, placed)).filter(|row| args.takes(row));
    if !args.follow {
        return context.printer.result(&Page::cut(rows, &args.page)?);
    }
    for row in rows {
        context.printer.line(&row)?;
    }
    follow(context, &args, view).await
}

/// Looks again and again; prints what was not there before. What a reorg takes away and brings back is printed again.
async fn follow(context: &Context, args: &LogArgs, first: View) -> Result<(), CliError> {
    let mut ledger = Ledger::new(&first.realm, Limits::default())?;
    let poll = Duration::from_secs(first.realm.profile.poll_secs.max(1));
    let mut seen: BTreeSet<B256> = hashes(&first);
    loop {
        tokio::time::sleep(poll).await;
        let heads = match ledger.heads().await {
            Ok(heads) => heads,
            Err(error) => {
                context.printer.note(&format!("countersign: {error}; looking again"));
                continue;
            }
        };
        let shards = countersign_issuer::view::wanted_shards(
            heads.latest.time,
            shard::DAY_SECS.saturating_mul(args.days.max(1)),
        );
        let update = match ledger.update(&Cursor::default(), &heads, &shards).await {
            Ok(update) => update,
            Err(error) => {
                context.printer.note(&format!("countersign: {error}; looking again"));
                continue;
            }
        };
        let view = View::from_update(first.realm.clone(), first.before.clone(), heads, shards, update)?;
        for placed in &view.entries {
            let row = LogRow::new(&view, placed);
            if !seen.contains(&row.entry_hash) && args.takes(&row) {
                context.printer.line(&row)?;
            }
        }
        seen = hashes(&view);
    }
}

fn hashes(view: &View) -> BTreeSet<B256> {
    view.entries
        .iter()
        .map(|placed| sign::entry_hash(view.effective.realm_of(placed.at.block), &placed.entry))
        .collect()
}
