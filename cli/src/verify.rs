//! `countersign verify`: proves every shard's head once more and folds its entries again, from the first one. What it prints follows
//! from the realm file and trusted headers, not from what a node says about itself.

use clap::Args;
use countersign_registry::{Address, B256, migration, shard};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::migrate::LeftRow;
use crate::output::{Show, table, time};

/// How far back.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// How many days of batches, requests and deliveries
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    days: u64,
}

/// One shard.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ShardRow {
    /// Its number.
    pub shard: u64,
    /// Its class's name and its epoch.
    pub name: String,
    /// Entries up to the latest block; all of them fold to the proved head.
    pub entries: usize,
    /// Block of the newest entry.
    pub last_block: Option<u64>,
}

/// The result.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verified {
    /// Always true: what does not verify is an error.
    pub verified: bool,
    /// Realm id.
    pub realm: B256,
    /// The registry.
    pub contract: Address,
    /// Its code's hash, which every account proof showed: the pinned one.
    pub code_hash: B256,
    /// Number and hash of the block under which the final view is proved.
    pub final_block: (u64, B256),
    /// The same of the latest view.
    pub latest_block: (u64, B256),
    /// Time of the latest block, Unix seconds.
    pub latest_time: u64,
    /// Entries that replay ignored.
    pub ignored: usize,
    /// Shards that have entries. Those that have none are proved empty.
    pub shards: Vec<ShardRow>,
    /// How many shards were proved, empty ones included.
    pub proved: usize,
    /// The realms that this one continues; each was folded to the heads that its successor names.
    pub continues: Vec<LeftRow>,
}

impl Show for Verified {
    fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .shards
            .iter()
            .map(|row| {
                let last = row.last_block.map(|block| block.to_string()).unwrap_or_default();
                vec![row.name.clone(), row.entries.to_string(), last, "proved".to_owned()]
            })
            .collect();
        let mut text = table(&["SHARD", "ENTRIES", "LAST BLOCK", "HEAD"], &rows);
        text.push_str(&format!(
            "{} shards proved, the others are empty; {} entries ignored\n",
            self.proved, self.ignored
        ));
        text.push_str(&format!("code   {} at {}, proved\n", self.code_hash, self.contract));
        text.push_str(&format!("final  {} {}\n", self.final_block.0, self.final_block.1));
        text.push_str(&format!("latest {} {} {}\n", self.latest_block.0, self.latest_block.1, time(self.latest_time)));
        for left in &self.continues {
            text.push_str(&format!("continues {}\n", left.text()));
        }
        text.push_str("verified\n");
        text
    }
}

/// A shard's name.
pub fn shard_name(number: u64) -> String {
    const NAMES: [&str; 8] =
        ["governance", "directory", "denials", "revocations", "batches", "members", "deliveries", "inbox"];
    let (class, epoch) = (shard::class_of(number), shard::epoch_of(number));
    let name = usize::try_from(class).ok().and_then(|class| NAMES.get(class)).copied();
    let name = name.map_or_else(|| format!("class {class}"), str::to_owned);
    match class {
        0..=2 => name,
        3 => format!("{name} of period {epoch}"),
        _ => {
            let day = u64::from(epoch).saturating_mul(shard::DAY_SECS);
            format!("{name} of {}", time(day).split('T').next().unwrap_or_default())
        }
    }
}

/// Verifies.
///
/// # Errors
/// [`CliError::Chain`] naming what does not prove or fold.
pub async fn run(context: &Context, args: VerifyArgs) -> Result<(), CliError> {
    let view = context.view_back(args.days).await?;
    let shards = view
        .shards
        .iter()
        .filter_map(|number| {
            let blocks: Vec<u64> = view
                .own_entries()
                .filter(|placed| placed.at.shard == *number)
                .map(|placed| migration::in_chain(placed.at.block))
                .collect();
            (!blocks.is_empty()).then(|| ShardRow {
                shard: *number,
                name: shard_name(*number),
                entries: blocks.len(),
                last_block: blocks.iter().max().copied(),
            })
        })
        .collect();
    context.printer.result(&Verified {
        verified: true,
        realm: view.realm.pin.realm,
        contract: view.realm.pin.contract,
        code_hash: view.realm.pin.code_hash,
        final_block: (view.heads.final_header.number, view.heads.final_header.hash),
        latest_block: (view.heads.latest.number, view.heads.latest.hash),
        latest_time: view.heads.latest.time,
        ignored: view.ahead.ignored.len(),
        shards,
        proved: view.shards.len(),
        continues: LeftRow::all(&view),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_have_names_with_their_epoch() {
        assert_eq!(shard_name(0), "governance");
        assert_eq!(shard_name(3 << 32 | 660), "revocations of period 660");
        assert_eq!(shard_name(4 << 32 | 20_000), "batches of 2024-10-04");
        assert_eq!(shard_name(9 << 32 | 1), "class 9 of 1970-01-02");
    }
}
