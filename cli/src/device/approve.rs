//! The admin's side of enrolment: invitations, what waits in the inbox, approval by hand and by token, and the end of a device.
//!
//! Nothing that a device wrote is believed: an approval by hand names the entry and both fingerprints, which the admin has from the
//! device itself, and they are compared here; one by token compares the MAC, the name, the time, and that the token is not used.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use alloy_primitives::{B256, Bytes};
use clap::Args;
use countersign_registry::entries::{Entry, Roles, payload};
use countersign_registry::{Address, Effective, Id, enrolment};
use serde::Serialize;

use super::claim::Claim;
use super::inbox::{Candidate, Inbox, Obstacle};
use super::invitation::Invitation;
use crate::context::{Context, View};
use crate::error::CliError;
use crate::output::{Show, fields, time};
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::values;
use crate::write::{By, Draft, Wait, WriteArgs, bytes16};

/// How long an invitation is good for.
const INVITED_FOR: &str = "1d";

/// Where a device gets to be.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The user who owns it
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// A label; may be given several times
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Bind the keys to this host, which is on the ledger already
    #[arg(long, value_name = "HOST", conflicts_with_all = ["owner", "label"])]
    host: Option<String>,
    /// Bind the keys to this user: a laptop, not a host
    #[arg(long, value_name = "USER", conflicts_with_all = ["owner", "label", "host"])]
    user: Option<String>,
}

/// An invitation to make.
#[derive(Debug, Args)]
pub struct InviteArgs {
    /// The name that the device will ask for
    name: String,
    /// The user who will own it
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// A label that it will have; may be given several times
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Until when it may ask: 1d, 2027-01-31
    #[arg(long, value_name = "WHEN", default_value = INVITED_FOR)]
    expires: String,
    /// The directory of invitations
    #[arg(long, value_name = "DIR")]
    invitations: PathBuf,
}

/// A made invitation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Invited {
    /// The name that the device must ask for.
    pub name: String,
    /// The secret.
    pub token: String,
    /// Until when, Unix seconds.
    pub expires: u64,
    /// The invitation's file.
    pub file: PathBuf,
}

impl Show for Invited {
    fn text(&self) -> String {
        fields(&[
            ("device", self.name.clone()),
            ("token", self.token.clone()),
            ("until", time(self.expires)),
            ("file", self.file.display().to_string()),
        ])
    }
}

/// Makes an invitation.
///
/// # Errors
/// See [`CliError`].
pub async fn invite(context: &Context, args: InviteArgs) -> Result<(), CliError> {
    if !enrolment::is_host_name(&args.name) {
        let problem = format!("`{}`: expected [a-z0-9._-]{{1,253}}", args.name);
        return Err(CliError::Argument { argument: "NAME", problem });
    }
    if let Some(label) = args.label.iter().find(|label| !enrolment::is_label(label)) {
        return Err(CliError::Argument {
            argument: "--label",
            problem: format!("`{label}`: expected [a-z0-9._-]{{1,63}}"),
        });
    }
    let expires = values::end("--expires", Some(&args.expires))?;
    let view = context.view().await?;
    let owner = args.owner.map(|owner| resolve::user(&view.ahead, &owner).map(|(id, _)| id)).transpose()?;
    let realm = view.realm.pin.realm;
    let made = Invitation::create(&args.invitations, realm, &args.name, owner, args.label, expires)?;
    let token = made.token.text().to_string();
    context.printer.result(&Invited { name: made.name, token, expires, file: made.path })
}

/// What to list.
#[derive(Debug, Args)]
pub struct PendingArgs {
    /// How many days of the inbox
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    days: u64,
    /// Which part of the list
    #[command(flatten)]
    page: PageArgs,
}

/// A device that asks, as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PendingRow {
    /// The inbox entry's hash.
    pub entry: B256,
    /// Block time, Unix seconds.
    pub time: u64,
    /// The name it asks for.
    pub name: String,
    /// Address of its ledger key.
    pub ledger_key: String,
    /// Fingerprint of its delivery key.
    pub delivery_key: String,
    /// Fingerprint of its SSH host key.
    pub host_key: Option<String>,
    /// Whether it carries a token's MAC.
    pub has_token: bool,
    /// What stands in the way.
    pub obstacle: Option<&'static str>,
}

impl PendingRow {
    fn new(view: &Effective, candidate: &Candidate) -> Self {
        let claim = &candidate.claim;
        Self {
            entry: candidate.entry,
            time: candidate.at.time,
            name: claim.name.clone(),
            ledger_key: claim.actor.to_string(),
            delivery_key: claim.delivery_fingerprint(),
            host_key: claim.host_fingerprint(),
            has_token: !candidate.enrol.tokenMac.is_zero(),
            obstacle: Obstacle::of(view, claim, true).map(Obstacle::code),
        }
    }
}

impl Row for PendingRow {
    const HEADING: &'static [&'static str] = &["ENTRY", "TIME", "NAME", "LEDGER KEY", "DELIVERY KEY", "NOTE"];
    fn cells(&self) -> Vec<String> {
        let token = if self.has_token { "token" } else { "" };
        vec![
            self.entry.to_string(),
            time(self.time),
            self.name.clone(),
            self.ledger_key.clone(),
            self.delivery_key.clone(),
            self.obstacle.unwrap_or(token).to_owned(),
        ]
    }
}

/// Lists the devices that ask and are not members.
///
/// # Errors
/// See [`CliError`].
pub async fn pending(context: &Context, args: PendingArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let inbox = Inbox::read(context, &view.realm, args.days).await?;
    if inbox.others > 0 {
        context.printer.note(&format!("countersign: {} other entries in the inbox ask for nothing", inbox.others));
    }
    let rows = inbox
        .candidates
        .iter()
        .map(|candidate| PendingRow::new(&view.ahead, candidate))
        .filter(|row| row.obstacle != Some(Obstacle::AlreadyMember.code()));
    context.printer.result(&Page::cut(rows, &args.page)?)
}

/// What to approve.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The inbox entry, from `countersign device pending`
    entry: String,
    /// The ledger key's address, as the device itself shows it
    #[arg(long, value_name = "ADDRESS")]
    ledger_key: String,
    /// The delivery key's fingerprint, as the device itself shows it
    #[arg(long, value_name = "SHA256:…")]
    delivery_key: String,
    /// The SSH host key's fingerprint, where the device has one
    #[arg(long, value_name = "SHA256:…")]
    host_key: Option<String>,
    /// How many days of the inbox to look in
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    days: u64,
    /// Where it gets to be
    #[command(flatten)]
    place: PlaceArgs,
    /// Who writes it, and where to
    #[command(flatten)]
    write: WriteArgs,
}

/// Approves one device by hand.
///
/// # Errors
/// [`CliError::Refused`] where a fingerprint is another than the entry's.
pub async fn approve(context: &Context, args: ApproveArgs) -> Result<(), CliError> {
    let entry = values::bytes32("ENTRY", &args.entry)?;
    let ledger_key = resolve::address("--ledger-key", &args.ledger_key)?;
    let view = context.view().await?;
    let inbox = Inbox::read(context, &view.realm, args.days).await?;
    let candidate = inbox
        .candidates
        .iter()
        .find(|candidate| candidate.entry == entry)
        .ok_or_else(|| CliError::Unknown { kind: "inbox entry", name: args.entry.clone() })?;
    let claim = &candidate.claim;
    let differs = |what: &str, expected: &str, found: &str| {
        CliError::Refused(format!(
            "{what}: the entry says {found}, expected {expected}; somebody else may have written it"
        ))
    };
    if claim.actor != ledger_key {
        return Err(differs("ledger key", &ledger_key.to_string(), &claim.actor.to_string()));
    }
    if claim.delivery_fingerprint() != args.delivery_key {
        return Err(differs("delivery key", &args.delivery_key, &claim.delivery_fingerprint()));
    }
    let (expected, found) = (args.host_key.unwrap_or_default(), claim.host_fingerprint().unwrap_or_default());
    if expected != found {
        let none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
        return Err(differs("host key (--host-key)", &none(&expected), &none(&found)));
    }
    let place = Place::find(&view, args.place)?;
    draft(context, &view, claim, &place, &args.write, By::ActorOrRoots)?.commit(context, &view).await
}

/// A device to add.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What the device shows: countersign:device?…
    uri: String,
    /// Where it gets to be
    #[command(flatten)]
    place: PlaceArgs,
    /// Who writes it, and where to
    #[command(flatten)]
    write: WriteArgs,
}

/// Adds a device by what it shows on its screen.
///
/// # Errors
/// See [`CliError`].
pub async fn add(context: &Context, args: AddArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let claim = Claim::from_uri(view.realm.pin.realm, &args.uri)?;
    let place = Place::find(&view, args.place)?;
    draft(context, &view, &claim, &place, &args.write, By::ActorOrRoots)?.commit(context, &view).await
}

/// Where a device gets to be, found on the ledger.
#[derive(Debug)]
enum Place {
    /// A host of its own.
    NewHost { owner: Option<Id>, labels: Vec<String> },
    /// A record that is there, and its name.
    Known(Id, String),
}

impl Place {
    fn find(view: &View, args: PlaceArgs) -> Result<Self, CliError> {
        if let Some(host) = args.host {
            let (id, host) = resolve::host(&view.ahead, &host)?;
            return Ok(Self::Known(id, format!("host {}", host.name)));
        }
        if let Some(user) = args.user {
            let (id, user) = resolve::user(&view.ahead, &user)?;
            return Ok(Self::Known(id, format!("user {}", user.login)));
        }
        let owner = args.owner.map(|owner| resolve::user(&view.ahead, &owner).map(|(id, _)| id)).transpose()?;
        Ok(Self::NewHost { owner, labels: args.label })
    }
}

/// One transaction: the host, its labels, and whose keys they are.
fn draft(
    context: &Context,
    view: &View,
    claim: &Claim,
    place: &Place,
    write: &WriteArgs,
    by: By,
) -> Result<Draft, CliError> {
    if let Some(obstacle) = Obstacle::of(&view.ahead, claim, matches!(place, Place::NewHost { .. })) {
        return Err(CliError::Refused(format!("device {}: {}: {obstacle}", claim.name, obstacle.code())));
    }
    let mut draft = Draft::begin(context, write, by)?;
    let (subject, about) = match place {
        Place::Known(id, about) => (*id, about.clone()),
        Place::NewHost { owner, labels } => {
            let host = draft.record(&format!("host {}", claim.name), |r| {
                Entry::HostAdd(payload::HostAdd {
                    r,
                    name: claim.name.clone(),
                    owner: owner.map(bytes16).unwrap_or_default(),
                    hostKey: Bytes::from(claim.host_key.clone()),
                })
            })?;
            for label in labels {
                draft.record(&format!("label {label} of host {}", claim.name), |r| {
                    Entry::LabelAdd(payload::LabelAdd { r, target: bytes16(host), label: label.clone() })
                })?;
            }
            (host, format!("host {}", claim.name))
        }
    };
    let member =
        payload::MemberSet { actor: claim.actor, member: true, subject: bytes16(subject), x25519: claim.x25519 };
    draft.entry(&format!("{} belongs to {about}", claim.actor), Some(subject), Entry::MemberSet(member))?;
    Ok(draft)
}

/// Which tokens to honour.
#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// The directory of invitations
    #[arg(long, value_name = "DIR")]
    invitations: PathBuf,
    /// Go on looking
    #[arg(long, short)]
    follow: bool,
    /// How many days of the inbox
    #[arg(long, value_name = "DAYS", default_value_t = 2)]
    days: u64,
}

/// What became of one device that asked with a token.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Accepted {
    /// The inbox entry's hash.
    pub entry: B256,
    /// The name it asked for.
    pub name: String,
    /// Address of its ledger key.
    pub ledger_key: String,
    /// Fingerprint of its delivery key.
    pub delivery_key: String,
    /// `accepted` or `refused`.
    pub outcome: &'static str,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Its record id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Id>,
}

impl Show for Accepted {
    fn text(&self) -> String {
        let reason = self.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let host = self.host.map(|host| format!(", host id {host}")).unwrap_or_default();
        format!("{} {} {}{reason}{host}\n", self.outcome, crate::output::escape(&self.name), self.ledger_key)
    }
}

/// Lets in the devices that ask with a good token; once, or again and again.
///
/// # Errors
/// See [`CliError`]; with `--follow`, trouble with the chain is told and tried again.
pub async fn accept(context: &Context, args: AcceptArgs) -> Result<(), CliError> {
    let realm = context.realm()?;
    let mut told = BTreeSet::new();
    loop {
        match accept_once(context, &args, &mut told).await {
            Ok(()) => {}
            Err(error @ (CliError::Chain(_) | CliError::View(_))) if args.follow => {
                context.printer.note(&format!("countersign: {error}; looking again"));
            }
            Err(error) => return Err(error),
        }
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(realm.profile.poll_secs.max(1))).await;
    }
}

async fn accept_once(context: &Context, args: &AcceptArgs, told: &mut BTreeSet<B256>) -> Result<(), CliError> {
    let mut view = context.view().await?;
    let realm = view.realm.pin.realm;
    let mut invitations = Invitation::load_all(&args.invitations, realm)?;
    let inbox = Inbox::read(context, &view.realm, args.days).await?;
    for candidate in inbox.candidates.iter().filter(|candidate| !candidate.enrol.tokenMac.is_zero()) {
        let claim = &candidate.claim;
        let row = |outcome, reason, host| Accepted {
            entry: candidate.entry,
            name: claim.name.clone(),
            ledger_key: claim.actor.to_string(),
            delivery_key: claim.delivery_fingerprint(),
            outcome,
            reason,
            host,
        };
        let invitation = match judge(&view.ahead, realm, candidate, &mut invitations) {
            Ok(invitation) => invitation,
            Err(reason) => {
                if told.insert(candidate.entry) && reason != Obstacle::AlreadyMember.code() {
                    context.printer.line(&row("refused", Some(reason), None))?;
                }
                continue;
            }
        };
        invitation.use_for(realm, claim.keys())?;
        let place = Place::NewHost { owner: invitation.owner, labels: invitation.labels.clone() };
        let write = WriteArgs { propose: None, append: false, root_key: Vec::new(), sign_to: None, wait: Wait::Latest };
        let written = match draft(context, &view, claim, &place, &write, By::Actor) {
            Ok(draft) => draft.write(context, &view).await,
            Err(error) => Err(error),
        };
        let written = match written {
            // What was promised cannot be given any more (the owner is gone, say): that is no reason to keep the others out.
            Err(CliError::Refused(problem)) => {
                let actor = context.actor_key()?.address();
                if view.ahead.actors.get(&actor).is_none_or(|known| known.roles & Roles::ADMIN == 0) {
                    return Err(CliError::Refused(problem));
                }
                if told.insert(candidate.entry) {
                    context.printer.note(&format!("countersign: device {}: {problem}", claim.name));
                    context.printer.line(&row("refused", Some("not-possible"), None))?;
                }
                continue;
            }
            other => other?,
        };
        told.insert(candidate.entry);
        context.printer.line(&row("accepted", None, written.entries.first().and_then(|entry| entry.id)))?;
        // The next one is judged by a ledger that has this one in it.
        view = context.view().await?;
    }
    Ok(())
}

/// The invitation that a candidate may use, or a stable code for why there is none.
fn judge<'a>(
    ahead: &Effective,
    realm: B256,
    candidate: &Candidate,
    invitations: &'a mut [Invitation],
) -> Result<&'a mut Invitation, &'static str> {
    if let Some(obstacle @ (Obstacle::AlreadyMember | Obstacle::Locked)) = Obstacle::of(ahead, &candidate.claim, true) {
        return Err(obstacle.code());
    }
    let invitation = invitations
        .iter_mut()
        .find(|invitation| enrolment::is_vouched_by(invitation.token.bytes(), realm, &candidate.enrol))
        .ok_or("token-unknown")?;
    if invitation.used_by.is_some_and(|keys| keys != candidate.claim.keys()) {
        return Err("token-used");
    }
    if candidate.at.time > invitation.expires {
        return Err("token-expired");
    }
    if candidate.claim.name != invitation.name {
        return Err("name-differs");
    }
    match Obstacle::of(ahead, &candidate.claim, true) {
        Some(obstacle) => Err(obstacle.code()),
        None => Ok(invitation),
    }
}

/// A device to end.
#[derive(Debug, Args)]
pub struct RetireArgs {
    /// The host: id or name
    host: String,
    /// Who writes it, and where to
    #[command(flatten)]
    write: WriteArgs,
}

/// Ends a device: its ledger keys, its labels, its host.
///
/// # Errors
/// See [`CliError`].
pub async fn retire(context: &Context, args: RetireArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let (id, host) = resolve::host(&view.ahead, &args.host)?;
    let mut draft = Draft::begin(context, &args.write, By::ActorOrRoots)?;
    let keys: Vec<Address> =
        view.ahead.actors.iter().filter(|(_, actor)| actor.subject == Some(id)).map(|(key, _)| *key).collect();
    for actor in keys {
        let entry =
            payload::MemberSet { actor, member: false, subject: Default::default(), x25519: Default::default() };
        draft.entry(&format!("{actor} is no member"), None, Entry::MemberSet(entry))?;
    }
    draft.entry(&format!("host {}", host.name), Some(id), Entry::Remove(vec![id]))?;
    draft.commit(context, &view).await
}
