//! `countersign store`: the places that keep sealed blocks, by hand: put, get, pin, let go, and ask which of them answer.
//!
//! What is put is stored as it is: sealing is what `issue --deliver-to` and `delivery send` do. What is got was compared with its CID.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use countersign_delivery::{BlockCid, ContentId, Held, MAX_FILE_BYTES, Outcome, Place, Puts, StoreSetting, Stores};
use serde::Serialize;

use crate::config::Format;
use crate::context::Context;
use crate::error::CliError;
use crate::files::{self, Existing};
use crate::output::{Show, escape};

/// Which stores.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Where blocks are: a directory, `kubo:URL` (an IPFS node's RPC) or `gateway:URL`; several are asked in this order
    #[arg(long = "store", value_name = "WHERE", help_heading = "Block stores")]
    places: Vec<StoreSetting>,
    /// A file with the Authorization header for the nodes of --store: `Bearer TOKEN` or `Basic BASE64`
    #[arg(long = "store-authorization", value_name = "FILE", help_heading = "Block stores")]
    authorization: Option<PathBuf>,
    /// How many of the stores that take blocks must have taken one
    #[arg(long, value_name = "HOW", value_parser = puts, help_heading = "Block stores")]
    puts: Option<Puts>,
}

fn puts(text: &str) -> Result<Puts, String> {
    match text {
        "all" => Ok(Puts::All),
        "any" => Ok(Puts::Any),
        other => Err(format!("`{other}`: expected all or any")),
    }
}

impl StoreArgs {
    /// The stores in force: those of the command line, or of the configuration.
    ///
    /// # Errors
    /// [`CliError::Missing`] for none; [`CliError::Argument`] for an authorization without a node.
    pub fn settings(&self, context: &Context) -> Result<Vec<StoreSetting>, CliError> {
        let mut settings = self.places.clone();
        let mut used = self.authorization.is_none();
        for setting in &mut settings {
            if let (Place::Kubo { authorization_file, .. }, Some(path)) = (&mut setting.place, &self.authorization) {
                *authorization_file = Some(path.clone());
                used = true;
            }
        }
        if !used {
            let problem = "expected a --store kubo:URL that it is for".to_owned();
            return Err(CliError::Argument { argument: "--store-authorization", problem });
        }
        if settings.is_empty() {
            settings = context.config().stores();
        }
        if settings.is_empty() {
            return Err(CliError::Missing { what: "a block store", flag: "--store WHERE" });
        }
        Ok(settings)
    }

    /// Opens them; connects to nobody yet.
    ///
    /// # Errors
    /// As [`StoreArgs::settings`], or what is wrong with a store.
    pub fn open(&self, context: &Context) -> Result<Stores, CliError> {
        let puts = self.puts.or(context.config().puts).unwrap_or_default();
        Ok(Stores::open(&self.settings(context)?, puts)?)
    }
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Store a file as it is, pinned, and print its CID
    Put {
        /// The file; `-` is stdin
        file: PathBuf,
        /// Which stores
        #[command(flatten)]
        stores: StoreArgs,
    },
    /// Fetch a file by its CID, from the first store that has it
    Get {
        /// The CID, in any base
        cid: ContentId,
        /// Write it here instead of to stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Which stores
        #[command(flatten)]
        stores: StoreArgs,
    },
    /// Have the stores keep a file
    Pin {
        /// The CID, in any base
        cid: BlockCid,
        /// Which stores
        #[command(flatten)]
        stores: StoreArgs,
    },
    /// Let go of a file: unpin it, and delete it
    Unpin {
        /// The CID, in any base
        cid: BlockCid,
        /// Which stores
        #[command(flatten)]
        stores: StoreArgs,
    },
    /// Ask each store whether it answers, or whether it has a file
    Check {
        /// The CID of a file to look for
        cid: Option<BlockCid>,
        /// Which stores
        #[command(flatten)]
        stores: StoreArgs,
    },
}

/// What one store came to.
#[derive(Debug, Serialize)]
pub struct StoreRow {
    /// The directory, or `kubo` or `gateway` and the address.
    pub store: String,
    /// `stored`, `pinned`, `unpinned`, `answers`, `present`, `absent`, or `failed`.
    pub outcome: &'static str,
    /// What it said; absent if nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What all of them came to.
#[derive(Debug, Serialize)]
pub struct StoreShown {
    /// The file; absent where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cid: Option<String>,
    /// Its length; absent where it was not at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// How many blocks it has; absent where it was not put.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<usize>,
    /// Where it was written; absent unless it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// One each; none where one store was enough.
    pub stores: Vec<StoreRow>,
}

impl Show for StoreShown {
    fn text(&self) -> String {
        let mut text = String::new();
        // The CID alone on its line, as `ipfs add -Q` has it.
        if let Some(cid) = self.cid.as_ref().filter(|_| self.blocks.is_some()) {
            text.push_str(&format!("{cid}\n"));
        }
        if let Some(file) = &self.file {
            text.push_str(&format!("{}\n", escape(&file.display().to_string())));
        }
        for row in &self.stores {
            let message = row.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
            text.push_str(&escape(&format!("{} {}{message}", row.outcome, row.store)));
            text.push('\n');
        }
        text
    }
}

fn row<T>(outcome: Outcome<T>, told: impl FnOnce(T) -> (&'static str, Option<String>)) -> StoreRow {
    let (word, message) = match outcome.result {
        Ok(value) => told(value),
        Err(error) => ("failed", Some(error.to_string())),
    };
    StoreRow { store: outcome.store, outcome: word, message }
}

fn done(outcomes: Vec<Outcome<()>>, word: &'static str) -> Vec<StoreRow> {
    outcomes.into_iter().map(|outcome| row(outcome, |()| (word, None))).collect()
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`]; [`CliError::Refused`] where a store failed a check, after printing all of them.
pub async fn run(context: &Context, command: StoreCommand) -> Result<(), CliError> {
    let mut shown = StoreShown { cid: None, bytes: None, blocks: None, file: None, stores: Vec::new() };
    match command {
        StoreCommand::Put { file, stores } => {
            let stores = stores.open(context)?;
            let bytes = read(&file)?;
            let _progress = context.printer.progress("storing");
            let placed = stores.put(&bytes).await?;
            shown.cid = Some(placed.cid.to_string());
            (shown.bytes, shown.blocks) = (Some(bytes.len()), Some(placed.blocks));
            shown.stores = done(placed.places, "stored");
        }
        StoreCommand::Get { cid, out, stores } => {
            let bytes = match &cid {
                // The content stands in the name: nobody is asked.
                ContentId::Identity(bytes) => bytes.clone(),
                ContentId::Block(cid) => {
                    shown.cid = Some(cid.to_string());
                    let stores = stores.open(context)?;
                    let _progress = context.printer.progress("fetching");
                    stores.get(cid).await?
                }
            };
            let Some(out) = out else {
                if context.printer.format() == Format::Json {
                    return Err(CliError::Missing { what: "where the file goes, besides JSON,", flag: "--out FILE" });
                }
                return context.printer.raw(&bytes);
            };
            files::write(&out, &bytes, 0o600, Existing::Replace)?;
            (shown.bytes, shown.file) = (Some(bytes.len()), Some(out));
        }
        StoreCommand::Pin { cid, stores } => {
            let stores = stores.open(context)?;
            let _progress = context.printer.progress("pinning");
            shown.cid = Some(cid.to_string());
            shown.stores = done(stores.pin(&cid).await?, "pinned");
        }
        StoreCommand::Unpin { cid, stores } => {
            let stores = stores.open(context)?;
            let _progress = context.printer.progress("letting go");
            shown.cid = Some(cid.to_string());
            shown.stores = done(stores.unpin(&cid).await?, "unpinned");
        }
        StoreCommand::Check { cid, stores } => {
            let stores = stores.open(context)?;
            let progress = context.printer.progress("asking each store");
            shown.cid = cid.map(|cid| cid.to_string());
            shown.stores = match &cid {
                None => {
                    stores.probe().await.into_iter().map(|one| row(one, |words| ("answers", Some(words)))).collect()
                }
                Some(cid) => {
                    stores.holds(cid).await.into_iter().map(|one| row(one, |held| (word(held), None))).collect()
                }
            };
            drop(progress);
            let failed = shown.stores.iter().filter(|row| row.outcome == "failed").count();
            let nowhere = cid.is_some() && !shown.stores.iter().any(|row| matches!(row.outcome, "pinned" | "present"));
            context.printer.result(&shown)?;
            return match (failed, nowhere) {
                (0, false) => Ok(()),
                (0, true) => Err(CliError::Refused("no store has it".to_owned())),
                (failed, _) => Err(CliError::Refused(format!("{failed} stores failed"))),
            };
        }
    }
    context.printer.result(&shown)
}

fn word(held: Held) -> &'static str {
    match held {
        Held::Pinned => "pinned",
        Held::Present => "present",
        Held::Absent => "absent",
    }
}

/// A file, or stdin for `-`; one byte more than can be stored is enough to refuse it.
fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        let failed = |source| CliError::Stream { stream: "input", source };
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        let failed = |source| CliError::File { path: path.to_owned(), source };
        std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    }
    Ok(bytes)
}
