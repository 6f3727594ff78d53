//! `countersign request`, `approve`, `deny`, `requests`: certificates asked for and approved on the ledger.

use std::path::PathBuf;

use alloy_primitives::{Address, Bytes};
use clap::Args;
use countersign_issuer::duration::format_duration;
use countersign_registry::entries::{Entry, payload};
use countersign_registry::realm::{EntryRef, Request};
use countersign_registry::{Effective, Id};
use serde::Serialize;

use crate::context::{Context, View};
use crate::error::CliError;
use crate::files;
use crate::issue::duration;
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::write::{By, Draft, WriteArgs, bytes16};

/// What is asked for.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// Id or name
    host: String,
    /// The login on the host
    #[arg(long = "as", value_name = "LOGIN")]
    login: String,
    /// For how long
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    ttl: String,
    /// The key to certify
    #[arg(long, value_name = "FILE.pub")]
    key: PathBuf,
    /// Why, for the approvers
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who writes it, and where to
    #[command(flatten)]
    write: WriteArgs,
}

/// What is approved.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The request's id
    request: String,
    /// Who writes it, and where to
    #[command(flatten)]
    write: WriteArgs,
}

/// What is denied.
#[derive(Debug, Args)]
pub struct DenyArgs {
    /// The request's id
    request: String,
    /// Who writes it, and where to
    #[command(flatten)]
    write: WriteArgs,
}

/// Which requests to list.
#[derive(Debug, Args)]
pub struct RequestsArgs {
    /// Which part of the list
    #[command(flatten)]
    page: PageArgs,
}

/// A request as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RequestRow {
    /// Record id.
    pub id: Id,
    /// Login of who asks.
    pub user: String,
    /// Host name.
    pub host: String,
    /// For which login.
    pub login: String,
    /// Seconds.
    pub ttl: u64,
    /// `SHA256:…` of the key.
    pub fingerprint: String,
    /// Why.
    pub reason: String,
    /// The ledger key it came from.
    pub actor: Address,
    /// How many have approved.
    pub approvals: usize,
    /// How many have denied.
    pub denials: usize,
    /// The entry.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl RequestRow {
    fn new(view: &Effective, id: Id, request: &Request) -> Self {
        Self {
            id,
            user: view.users.get(&request.user).map_or_else(|| request.user.to_string(), |user| user.login.clone()),
            host: view.hosts.get(&request.host).map_or_else(|| request.host.to_string(), |host| host.name.clone()),
            login: request.login.clone(),
            ttl: request.ttl,
            fingerprint: files::sha256_fingerprint(&request.public_key),
            reason: request.reason.clone(),
            actor: request.actor,
            approvals: view.approvals.get(&id).map_or(0, Vec::len),
            denials: view.refusals.get(&id).map_or(0, Vec::len),
            at: request.at,
        }
    }
}

impl Row for RequestRow {
    const HEADING: &'static [&'static str] = &["ID", "USER", "HOST", "LOGIN", "TTL", "YES", "NO", "REASON"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.user.clone(),
            self.host.clone(),
            self.login.clone(),
            format_duration(self.ttl),
            self.approvals.to_string(),
            self.denials.to_string(),
            self.reason.clone(),
        ]
    }
}

/// Asks.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, args: RequestArgs) -> Result<(), CliError> {
    let ttl = duration("--ttl", &args.ttl)?;
    let key = files::public_key(&args.key)?;
    let view = context.view().await?;
    let (host, record) = resolve::host(&view.ahead, &args.host)?;
    let about = format!("request {} as {} for {}", record.name, args.login, args.ttl);
    let mut draft = Draft::begin(context, &args.write, By::Actor)?;
    let actor = draft.actor();
    let user = view.ahead.actors.get(&actor).and_then(|actor| actor.subject);
    let user = user.filter(|id| view.ahead.users.contains_key(id)).ok_or_else(|| {
        CliError::Refused(format!("{actor} is not bound to a user (`countersign member set {actor} --user USER`)"))
    })?;
    draft.record(&about, |r| {
        Entry::Request(payload::Request {
            r,
            user: bytes16(user),
            host: bytes16(host),
            login: args.login,
            ttl: ttl.get(),
            publicKey: Bytes::from(key),
            reason: args.reason,
        })
    })?;
    draft.commit(context, &view).await
}

fn find<'a>(view: &'a View, text: &str) -> Result<(Id, &'a Request), CliError> {
    resolve::parse_id(text)
        .and_then(|id| view.effective.requests.get(&id).map(|request| (id, request)))
        .ok_or_else(|| CliError::Unknown { kind: "request", name: text.to_owned() })
}

/// Approves.
///
/// # Errors
/// See [`CliError`].
pub async fn approve(context: &Context, args: ApproveArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let (id, request) = find(&view, &args.request)?;
    let row = RequestRow::new(&view.effective, id, request);
    context.printer.note(&crate::output::escape(&format!(
        "approving {} on {} as {} for {}, key {}: {}",
        row.user,
        row.host,
        row.login,
        format_duration(row.ttl),
        row.fingerprint,
        row.reason
    )));
    let approve = payload::Approve { request: bytes16(id), approvalHash: request.approval_hash };
    let mut draft = Draft::begin(context, &args.write, By::Actor)?;
    draft.entry(&format!("approve request of {}", row.user), Some(id), Entry::Approve(approve))?;
    draft.commit(context, &view).await
}

/// Denies.
///
/// # Errors
/// See [`CliError`].
pub async fn deny(context: &Context, args: DenyArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let (id, _) = find(&view, &args.request)?;
    let mut draft = Draft::begin(context, &args.write, By::Actor)?;
    draft.entry(&format!("deny request {id}"), Some(id), Entry::Deny(id))?;
    draft.commit(context, &view).await
}

/// Lists.
///
/// # Errors
/// See [`CliError`].
pub async fn list(context: &Context, args: RequestsArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let rows = view.effective.requests.iter().map(|(id, request)| RequestRow::new(&view.effective, *id, request));
    context.printer.result(&Page::cut(rows, &args.page)?)
}
