//! `countersign batch`: certificates where the issuer's ledger key and the CA's key are in different hands. One makes a file of orders,
//! one logs what becomes of it, one signs what the ledger shows. Neither the logged batch nor the CA's key alone opens a door, and each
//! of the two can refuse by doing nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy_primitives::Address;
use clap::{Args, Subcommand};
use countersign_chain::spool::Spill;
use countersign_delivery::BlockCid;
use countersign_issuer::duration::format_duration;
use countersign_issuer::issue::Signer;
use countersign_issuer::leaves::{Leaves, Prepared};
use countersign_issuer::service::{Scribe, accepted, assemble, log_batch};
use countersign_issuer::view::View;
use countersign_registry::realm::{Batch, BatchState, EntryRef};
use countersign_registry::{Effective, Id};
use serde::Serialize;

use crate::batch_file::{BatchFile, BatchText, OrderText};
use crate::context::Context;
use crate::error::CliError;
use crate::files::{self, Existing};
use crate::issue::{PostArgs, choose_ca, duration, open_ca_key, show};
use crate::output::{self, Show, escape, now, time};
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::send::{Receipt, Sender};
use crate::write::Wait;

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum BatchCommand {
    /// Put an order for a certificate into a file
    Prepare(PrepareArgs),
    /// Show what a file's orders and pre-certificates say
    Read {
        /// The file
        file: PathBuf,
    },
    /// Make the certificates, but for their signatures, and log them, with the issuer's ledger key
    Log(LogArgs),
    /// Sign what the ledger shows, with the CA's key
    Sign(SignArgs),
    /// List the ledger's batches that have not ended
    List {
        /// Those that have ended too
        #[arg(long)]
        all: bool,
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
}

/// An order.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// The file to write
    file: PathBuf,
    /// The user and the host: login or id, `@`, host name or id
    #[arg(value_name = "USER@HOST")]
    who: String,
    /// The login on the host
    #[arg(long = "as", value_name = "LOGIN")]
    login: String,
    /// How long it is good for, from when it is logged
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    ttl: String,
    /// Certify the key in this file
    #[arg(long, value_name = "FILE.pub")]
    key: PathBuf,
    /// The CA that signs; needed where the realm has several
    #[arg(long, value_name = "CA")]
    ca: Option<String>,
    /// The request on the ledger that this answers
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Add to the file, which nobody has logged yet
    #[arg(long)]
    append: bool,
}

/// How to log.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The file, which gets the pre-certificates
    file: PathBuf,
    /// How long to wait
    #[arg(long, value_enum, default_value = "latest")]
    wait: Wait,
    /// With what the batch is shown to watchdogs, where the realm has them
    #[command(flatten)]
    post: PostArgs,
}

/// How to sign.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The file
    file: PathBuf,
    /// Where the certificates go, as USER@HOST-LOGIN-cert.pub
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// The CA's private key, an OpenSSH key file
    #[arg(long, value_name = "FILE", help_heading = "CA key")]
    ca_key: Option<PathBuf>,
    /// Take the password of the CA's key from the first line of this file
    #[arg(long, value_name = "FILE", help_heading = "CA key")]
    ca_password_file: Option<PathBuf>,
    /// Sign with the CA's key in ssh-agent, whatever --ca-key says
    #[arg(long, help_heading = "CA key")]
    ca_agent: bool,
    /// Sign once the batch is in a block, as hosts count it, or once that block is final
    #[arg(long, value_enum, default_value = "latest")]
    wait: Wait,
    /// How long to wait until the batch is countersigned and final
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    patience: String,
}

/// What became of a file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BatchShown {
    /// `prepared`, `read`, `logged` or `signed`.
    pub outcome: &'static str,
    /// The file.
    pub file: PathBuf,
    /// The CA.
    pub ca: Id,
    /// The batch, once it is made.
    pub batch: Option<Id>,
    /// What each certificate says: decoded from its bytes, once they are made.
    pub certificates: Vec<String>,
    /// The certificate files that were written.
    pub files: Vec<PathBuf>,
    /// Where it was logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

impl Show for BatchShown {
    fn text(&self) -> String {
        let mut text: String =
            self.certificates.iter().map(|line| format!("{} {}\n", self.outcome, escape(line))).collect();
        if let Some(batch) = &self.batch {
            text.push_str(&format!("batch {batch} in {}\n", self.file.display()));
        }
        if let Some(receipt) = &self.receipt {
            text.push_str(&format!("in block {}, transaction {}\n", receipt.block, receipt.transaction));
        }
        text.extend(self.files.iter().map(|file| format!("file {}\n", file.display())));
        text
    }
}

/// A batch as listed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BatchRow {
    /// Record id.
    pub id: Id,
    /// `accepted`, `waiting`, `locked`, `issuer-lost-role` or `issuer-not-listed`.
    pub state: &'static str,
    /// The CA's id.
    pub ca: Id,
    /// Who logged it.
    pub issuer: Address,
    /// Certificates.
    pub size: u32,
    /// The watchdogs that countersigned.
    pub countersigners: Vec<Address>,
    /// How many must.
    pub quorum: u64,
    /// The CID of its leaves, sealed to the watchdogs, if there are any.
    pub leaves: Option<String>,
    /// When its last certificate ends, Unix seconds.
    pub not_after: u64,
    /// The entry.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl BatchRow {
    fn new(id: Id, batch: &Batch, quorum: u64) -> Self {
        Self {
            id,
            state: match batch.state {
                BatchState::Accepted => "accepted",
                BatchState::WaitingForCountersignatures { .. } => "waiting",
                BatchState::Locked => "locked",
                BatchState::IssuerLostRole => "issuer-lost-role",
                BatchState::IssuerNotListed => "issuer-not-listed",
            },
            ca: batch.ca,
            issuer: batch.issuer,
            size: batch.size,
            countersigners: batch.countersigners.iter().copied().collect(),
            quorum,
            leaves: BlockCid::from_bytes(&batch.leaves_cid).ok().map(|cid| cid.to_string()),
            not_after: batch.not_after,
            at: batch.at,
        }
    }
}

impl Row for BatchRow {
    const HEADING: &'static [&'static str] = &["ID", "STATE", "SIZE", "COUNTERSIGNED", "LOGGED", "ENDS"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.state.to_owned(),
            self.size.to_string(),
            format!("{} of {}", self.countersigners.len(), self.quorum),
            time(self.at.time),
            time(self.not_after),
        ]
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: BatchCommand) -> Result<(), CliError> {
    match command {
        BatchCommand::Prepare(args) => prepare(context, args).await,
        BatchCommand::Read { file } => read(context, file).await,
        BatchCommand::Log(args) => log(context, args).await,
        BatchCommand::Sign(args) => sign(context, args).await,
        BatchCommand::List { all, page } => {
            let view = context.view().await?;
            let (quorum, now) = (view.effective.settings.countersign_quorum, view.effective.latest_block.time);
            let batches = view.effective.batches.iter().filter(|(_, batch)| all || batch.not_after > now);
            context.printer.result(&Page::cut(batches.map(|(id, batch)| BatchRow::new(*id, batch, quorum)), &page)?)
        }
    }
}

async fn prepare(context: &Context, args: PrepareArgs) -> Result<(), CliError> {
    let (user_name, host_name) = args.who.split_once('@').ok_or_else(|| {
        let problem = format!("`{}`: expected the user, `@` and the host", args.who);
        CliError::Argument { argument: "USER@HOST", problem }
    })?;
    let ttl = duration("--ttl", &args.ttl)?;
    let public = files::public_key(&args.key)?;
    let request = args.request.as_deref().map(|text| {
        let problem = format!("`{text}`: expected 32 hexadecimal digits");
        resolve::parse_id(text).ok_or(CliError::Argument { argument: "--request", problem })
    });
    let request = request.transpose()?;
    let view = context.view().await?;
    let (user, user_record) = resolve::user(&view.ahead, user_name)?;
    let (host, host_record) = resolve::host(&view.ahead, host_name)?;
    let (ca, _) = choose_ca(&view.effective, args.ca.as_deref())?;
    let mut file =
        if args.append { BatchFile::load(&args.file, &view.realm.pin)? } else { BatchFile::new(&view.realm.pin, ca) };
    let content = |problem: &str| CliError::Content { path: args.file.clone(), problem: problem.to_owned() };
    if file.batch.is_some() {
        return Err(content("holds pre-certificates already, nothing can be added"));
    }
    if file.ca != ca {
        return Err(content("is for another CA"));
    }
    let about = format!(
        "{}@{} as {} for {}, key {}",
        user_record.login,
        host_record.name,
        args.login,
        format_duration(ttl.get()),
        files::sha256_fingerprint(&public)
    );
    let (login, public_key) = (args.login, files::key_line(&public));
    file.orders.push(OrderText { about, user, host, login, ttl, public_key, request });
    file.save(&args.file, if args.append { Existing::Replace } else { Existing::Keep })?;
    let certificates = orders_shown(&view.effective, &file, &args.file)?;
    let shown = BatchShown {
        outcome: "prepared",
        file: args.file,
        ca,
        batch: None,
        certificates,
        files: Vec::new(),
        receipt: None,
    };
    context.printer.result(&shown)
}

async fn read(context: &Context, path: PathBuf) -> Result<(), CliError> {
    let view = context.view().await?;
    let file = BatchFile::load(&path, &view.realm.pin)?;
    let certificates = match &file.batch {
        Some(batch) => {
            let (_, record) = resolve::ca(&view.effective, &file.ca.to_string())?;
            leaves_shown(&view.effective, &file.leaves(&path, batch, &record.public_key)?)
        }
        None => orders_shown(&view.effective, &file, &path)?,
    };
    let batch = file.batch.map(|batch| batch.id);
    let (files, receipt) = (Vec::new(), None);
    context.printer.result(&BatchShown {
        outcome: "read",
        file: path,
        ca: file.ca,
        batch,
        certificates,
        files,
        receipt,
    })
}

async fn log(context: &Context, args: LogArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let effective = &view.effective;
    let mut file = BatchFile::load(&args.file, &view.realm.pin)?;
    if let Some(batch) = file.batch.as_ref().filter(|batch| effective.batches.contains_key(&batch.id)) {
        let problem = format!("batch {} is logged already: expected `countersign batch sign`", batch.id);
        return Err(CliError::Content { path: args.file, problem });
    }
    // Read before the key is opened: what is to be logged is on the screen when the password is asked for, however quiet the rest.
    for line in orders_shown(effective, &file, &args.file)? {
        output::message(&format!("to log: {}", escape(&line)));
    }
    let window = args.post.window(context, &view)?;
    let scribe = Scribe::new(view.realm.clone(), context.actor_key()?)?;
    let (ca, record) = resolve::ca(effective, &file.ca.to_string())?;
    let signer = Signer { id: ca, record, issuer: scribe.address() };
    let progress = context.printer.progress("asking what the hosts would say");
    let (batch, results) = assemble(effective, signer, file.orders(&args.file)?, now())?;
    // All or nothing: a file stands for what it says.
    if let Some(Err(error)) = results.into_iter().flatten().next() {
        return Err(error.into());
    }
    let (mut batch, _) = batch.ok_or_else(|| CliError::Refused("there is nothing to log".to_owned()))?;
    let pre_certificates = batch.leaves.pre_certificates().into_iter().map(Into::into).collect();
    file.batch = Some(BatchText { id: batch.id, issuer: scribe.address(), pre_certificates });
    // Saved first: a batch that is logged and lost is worth nothing, and one that is saved and not logged is refused when it is signed.
    file.save(&args.file, Existing::Replace)?;
    let mut report = |stage| show(&progress, stage);
    let mined = log_batch(&scribe, &view, &mut batch, signer, window.as_ref(), &mut report).await?;
    let receipt: Receipt = mined.into();
    drop(progress);
    Sender::new(context, &view.realm)?.wait(receipt.block, args.wait).await?;
    context.printer.result(&BatchShown {
        outcome: "logged",
        file: args.file,
        ca,
        batch: Some(batch.id),
        certificates: leaves_shown(effective, &batch.leaves),
        files: Vec::new(),
        receipt: Some(receipt),
    })
}

async fn sign(context: &Context, args: SignArgs) -> Result<(), CliError> {
    let patience = Duration::from_secs(duration("--patience", &args.patience)?.get());
    let view = context.view().await?;
    let file = BatchFile::load(&args.file, &view.realm.pin)?;
    let content = |problem: String| CliError::Content { path: args.file.clone(), problem };
    let batch = file.batch.as_ref();
    let batch = batch.ok_or_else(|| content("nobody has logged it: expected `countersign batch log` first".into()))?;
    let (ca, record) = resolve::ca(&view.effective, &file.ca.to_string())?;
    let leaves = file.leaves(&args.file, batch, &record.public_key)?;
    as_logged(&view.effective, &file, batch, &leaves).map_err(content)?;

    // Read before the key is opened, as with proposals.
    output::message(&format!("batch {} of CA {}, logged by {}", batch.id, record.name, batch.issuer));
    for line in leaves_shown(&view.effective, &leaves) {
        output::message(&format!("to sign: {}", escape(&line)));
    }
    let key = open_ca_key(context, record, args.ca_key.clone(), args.ca_password_file.as_deref(), args.ca_agent)?;
    key.expect(&record.public_key).map_err(countersign_issuer::IssueError::from)?;
    let progress = context.printer.progress("waiting for the batch on the verified ledger");
    let mut report = |stage| show(&progress, stage);
    let view = accepted(&view.realm, batch.id, patience, &Spill::default(), &mut report).await?;
    let view = match args.wait {
        Wait::Latest => view,
        Wait::Final => final_view(context, view, batch.id).await?,
    };
    // What is on the ledger now, after however long that took.
    as_logged(&view.effective, &file, batch, &leaves).map_err(content)?;
    let certificates = leaves_shown(&view.effective, &leaves);
    let issued = leaves.finish(&view.effective, batch.id, &key)?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut written = Vec::new();
    for one in &issued {
        let path = args.out.join(file_name(&view.effective, &one.prepared, &written));
        files::write(&path, one.line()?.as_bytes(), 0o644, Existing::Replace)?;
        written.push(path);
    }
    drop(progress);
    context.printer.result(&BatchShown {
        outcome: "signed",
        file: args.file,
        ca,
        batch: Some(batch.id),
        certificates,
        files: written,
        receipt: None,
    })
}

/// Whether the ledger's batch is the file's: logged for this CA, over these very leaves.
fn as_logged(effective: &Effective, file: &BatchFile, batch: &BatchText, leaves: &Leaves) -> Result<(), String> {
    let record = effective.batches.get(&batch.id);
    let record = record.ok_or_else(|| format!("batch {} is not on the verified ledger", batch.id))?;
    if record.issuer != batch.issuer {
        return Err(format!("batch {} was logged by {}, the file says {}", batch.id, record.issuer, batch.issuer));
    }
    if record.ca != file.ca {
        return Err(format!("batch {} is of CA {}, the file says {}", batch.id, record.ca, file.ca));
    }
    if record.root.0 != leaves.root() || record.size != leaves.size() {
        return Err(format!("batch {} commits to other certificates than the file's", batch.id));
    }
    Ok(())
}

async fn final_view(context: &Context, view: View, batch: Id) -> Result<View, CliError> {
    let block = view.effective.batches.get(&batch).map_or(u64::MAX, |record| record.at.block);
    Sender::new(context, &view.realm)?.wait(block, Wait::Final).await?;
    let view = context.view().await?;
    match view.effective.batches.get(&batch) {
        Some(record) if record.at.block <= view.effective.final_block.number => Ok(view),
        _ => Err(CliError::Refused(format!("batch {batch} is not in a final block: the chain was reorganised"))),
    }
}

fn names(effective: &Effective, user: Id, host: Id) -> (String, String) {
    let user = effective.users.get(&user).map_or_else(|| user.to_string(), |user| user.login.clone());
    let host = effective.hosts.get(&host).map_or_else(|| host.to_string(), |host| host.name.clone());
    (user, host)
}

fn orders_shown(effective: &Effective, file: &BatchFile, path: &Path) -> Result<Vec<String>, CliError> {
    let orders = file.orders(path)?.into_iter().map(|order| {
        let (user, host) = names(effective, order.user, order.host);
        let key = files::sha256_fingerprint(&order.public_key);
        format!("{user}@{host} as {} for {}, key {key}", order.login, format_duration(order.ttl.get()))
    });
    Ok(orders.collect())
}

fn leaves_shown(effective: &Effective, leaves: &Leaves) -> Vec<String> {
    let lines = leaves.prepared.iter().map(|one| {
        let (user, host) = names(effective, one.order.user, one.order.host);
        let key = files::sha256_fingerprint(&one.order.public_key);
        let (from, to) = (time(one.valid_after), time(one.valid_before));
        let (login, serial, id) = (&one.order.login, one.serial, &one.key_id);
        format!(
            "{user}@{host} as {login} from {from} to {to}, key {key}, serial {serial}, key id {id}, grant {}",
            one.grant
        )
    });
    lines.collect()
}

/// Names are safe in a path: replay takes no others.
fn file_name(effective: &Effective, one: &Prepared, written: &[PathBuf]) -> String {
    let (user, host) = names(effective, one.order.user, one.order.host);
    let name = format!("{user}@{host}-{}-cert.pub", one.order.login);
    if written.iter().any(|path| path.ends_with(&name)) {
        return format!("{user}@{host}-{}-{}-cert.pub", one.order.login, one.serial);
    }
    name
}
