//! `countersign issue`: a CA holder issues one certificate, directly. The policy on the ledger decides; what the target host would
//! refuse is refused here, with the same reason code.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy_primitives::Address;
use clap::{Args, ValueEnum};
use countersign_delivery::{Place, SecretKey, StoreSetting, Stores};
use countersign_issuer::IssueError;
use countersign_issuer::ca_key::CaKey;
use countersign_issuer::deliver::{self, Parcel};
use countersign_issuer::duration::parse_duration;
use countersign_issuer::issue::Issued;
use countersign_issuer::mailing::PrekeyPolicy;
use countersign_issuer::outbox::Outbox;
use countersign_issuer::policy::Order;
use countersign_issuer::service::{Issuer, Stage, Window};
use countersign_issuer::ssh_agent::SshAgent;
use countersign_issuer::view::View;
use countersign_registry::realm::{Ca, CaPurpose, CaState};
use countersign_registry::{Effective, Id};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::error::CliError;
use crate::files::{self, Existing};
use crate::output::{Printer, Show, fields, now, time};
use crate::resolve;
use crate::send::Receipt;
use crate::store::StoreArgs;

/// How long a person may take to touch a key, seconds.
const TOUCH_SECS: u64 = 60;

/// What to issue.
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// The user and the host: login or id, `@`, host name or id
    #[arg(value_name = "USER@HOST")]
    who: String,
    /// The login on the host
    #[arg(long = "as", value_name = "LOGIN")]
    login: String,
    /// How long it is good for
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    ttl: String,
    /// The CA that signs; needed where the realm has several
    #[arg(long, value_name = "CA")]
    ca: Option<String>,
    /// Certify the key in this file
    #[arg(long, value_name = "FILE.pub", required_unless_present_any = ["generate", "agent_key"])]
    key: Option<PathBuf>,
    /// Make a new key pair and certify it
    #[arg(long, conflicts_with_all = ["key", "agent_key"])]
    generate: bool,
    /// Certify the key in ssh-agent that has this comment or SHA256 fingerprint
    #[arg(long, value_name = "KEY", conflicts_with_all = ["key", "generate"])]
    agent_key: Option<String>,
    /// The CA's private key, an OpenSSH key file
    #[arg(long, value_name = "FILE", help_heading = "CA key")]
    ca_key: Option<PathBuf>,
    /// Take the password of the CA's key from the first line of this file
    #[arg(long, value_name = "FILE", help_heading = "CA key")]
    ca_password_file: Option<PathBuf>,
    /// Sign with the CA's key in ssh-agent, whatever --ca-key says
    #[arg(long, help_heading = "CA key")]
    ca_agent: bool,
    /// The request on the ledger that this answers
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// The key's path as `ssh -i` takes it; the certificate goes beside it as PATH-cert.pub
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Seal it and send it to this ledger key, `user:LOGIN` or `host:HOST`, instead of writing files
    #[arg(long, value_name = "WHO", conflicts_with = "out", help_heading = "Delivery")]
    deliver_to: Option<String>,
    /// The payload's name, under which the recipient knows it
    #[arg(long, value_name = "NAME", default_value = "ssh", help_heading = "Delivery")]
    payload: String,
    /// How it is sealed and stored
    #[command(flatten)]
    post: PostArgs,
    /// How long to wait until the batch is logged and countersigned
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    patience: String,
}

/// What sealing and storing needs.
#[derive(Debug, Clone, Args)]
pub struct PostArgs {
    /// The sender's delivery key file
    #[arg(long, value_name = "FILE", help_heading = "Delivery")]
    pub delivery_key: Option<PathBuf>,
    /// Where blocks go and come from
    #[command(flatten)]
    pub stores: StoreArgs,
    /// What is done about one-time keys that recipients publish
    #[arg(long, value_enum, value_name = "WHEN", default_value = "refuse", help_heading = "Delivery")]
    pub prekeys: Prekeys,
    /// The sender's books, which say what to unpin [default: DIR.outbox beside the first store that is a directory]
    #[arg(long, value_name = "DIR", help_heading = "Delivery")]
    pub outbox: Option<PathBuf>,
}

/// What is done about prekeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Prekeys {
    /// Every recipient must have one left
    Require,
    /// Who publishes some must have one left; nothing is sealed to the others' prekeys
    Refuse,
    /// Used where there is one, and done without where there is none
    FallBack,
    /// Not used
    Off,
}

impl From<Prekeys> for PrekeyPolicy {
    fn from(prekeys: Prekeys) -> Self {
        match prekeys {
            Prekeys::Require => Self::Require,
            Prekeys::Refuse => Self::Refuse,
            Prekeys::FallBack => Self::FallBack,
            Prekeys::Off => Self::Off,
        }
    }
}

/// A sender's key, store and books.
#[derive(Debug)]
pub struct Post {
    /// The sender's delivery key.
    pub key: SecretKey,
    /// The blocks.
    pub stores: Stores,
    /// The books.
    pub outbox: Outbox,
    /// What is done about prekeys.
    pub prekeys: PrekeyPolicy,
    /// For remarks about stores that failed where others are enough.
    pub printer: Printer,
}

/// Where the sender's books are: as given, as configured, or beside the first store that is a directory.
pub fn outbox(context: &Context, given: Option<PathBuf>, stores: &[StoreSetting]) -> Option<PathBuf> {
    context.configured(given, |config| config.outbox.clone()).or_else(|| {
        stores.iter().find_map(|setting| match &setting.place {
            Place::Directory(directory) => {
                let mut path = directory.clone().into_os_string();
                path.push(".outbox");
                Some(PathBuf::from(path))
            }
            Place::Kubo { .. } | Place::Gateway(_) => None,
        })
    })
}

impl PostArgs {
    /// Opens stores and books.
    ///
    /// # Errors
    /// [`CliError::Missing`], or what is wrong with them.
    pub fn books(&self, context: &Context) -> Result<(Stores, Outbox), CliError> {
        let settings = self.stores.settings(context)?;
        let outbox = outbox(context, self.outbox.clone(), &settings)
            .ok_or(CliError::Missing { what: "a directory for the sender's books", flag: "--outbox DIR" })?;
        let stores = self.stores.open(context)?;
        if !stores.takes_blocks() {
            let problem = "expected a store that takes blocks: a directory or kubo:URL".to_owned();
            return Err(CliError::Argument { argument: "--store", problem });
        }
        Ok((stores, Outbox::open(&outbox).map_err(IssueError::from)?))
    }

    /// What a batch is shown to watchdogs with; nothing where the realm asks for no countersignatures.
    ///
    /// # Errors
    /// As [`PostArgs::books`].
    pub fn window(&self, context: &Context, view: &View) -> Result<Option<Window>, CliError> {
        if view.effective.settings.countersign_quorum == 0 {
            return Ok(None);
        }
        let Post { key, stores, .. } = self.open(context)?;
        Ok(Some(Window { key, stores }))
    }

    /// Opens all three.
    ///
    /// # Errors
    /// As [`PostArgs::books`].
    pub fn open(&self, context: &Context) -> Result<Post, CliError> {
        let key = context
            .configured(self.delivery_key.clone(), |config| config.delivery_key.clone())
            .ok_or(CliError::Missing { what: "the sender's delivery key", flag: "--delivery-key FILE" })?;
        let (stores, outbox) = self.books(context)?;
        Ok(Post {
            key: SecretKey::load_file(&key)?,
            prekeys: self.prekeys.into(),
            stores,
            outbox,
            printer: context.printer,
        })
    }
}

/// A certificate as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IssuedShown {
    /// Always `issued`.
    pub outcome: &'static str,
    /// Whose.
    pub user: String,
    /// For which host.
    pub host: String,
    /// For which login.
    pub login: String,
    /// Decimal; text, since it has 64 bits.
    pub serial: String,
    /// In the host's log.
    pub key_id: String,
    /// Unix seconds.
    pub valid_after: u64,
    /// Unix seconds, exclusive.
    pub valid_before: u64,
    /// The grant it is made under.
    pub grant: Id,
    /// The request in its scope.
    pub request: Id,
    /// The batch it stands in.
    pub batch: Id,
    /// One line as in a `-cert.pub` file; absent when it was delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The files that were written.
    pub files: Vec<PathBuf>,
    /// What was sent instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryShown>,
}

/// A delivery as printed after sending.
#[derive(Debug, Serialize)]
pub struct DeliveryShown {
    /// Record id.
    pub id: Id,
    /// The recipient's ledger key.
    pub recipient: Address,
    /// The sealed block.
    pub cid: String,
    /// Where it was logged.
    pub receipt: Receipt,
}

impl Show for IssuedShown {
    fn text(&self) -> String {
        let mut pairs = vec![
            ("issued", format!("{}@{} as {}", self.user, self.host, self.login)),
            ("key id", self.key_id.clone()),
            ("serial", self.serial.clone()),
            ("valid", format!("{} to {}", time(self.valid_after), time(self.valid_before))),
            ("grant", self.grant.to_string()),
            ("batch", self.batch.to_string()),
        ];
        pairs.extend(self.files.iter().map(|file| ("file", file.display().to_string())));
        if let Some(delivery) = &self.delivery {
            pairs.push((
                "delivery",
                format!("{} to {} in block {}", delivery.id, delivery.recipient, delivery.receipt.block),
            ));
            pairs.push(("block CID", delivery.cid.clone()));
        }
        fields(&pairs)
    }
}

/// The key to certify.
struct Subject {
    public: Vec<u8>,
    private: Option<Zeroizing<String>>,
    /// The path of the key, as `ssh -i` takes it.
    path: Option<PathBuf>,
}

fn subject(args: &IssueArgs, user: &str) -> Result<Subject, CliError> {
    if args.generate {
        let (private, public) = deliver::generate_key_pair(user)?;
        if args.out.is_none() && args.deliver_to.is_none() {
            return Err(CliError::Missing { what: "where the new key goes", flag: "--out PATH or --deliver-to WHO" });
        }
        return Ok(Subject { public, private: Some(private), path: args.out.clone() });
    }
    if let Some(wanted) = &args.agent_key {
        let agent = SshAgent::from_environment(Duration::from_secs(TOUCH_SECS)).map_err(IssueError::from)?;
        let keys = agent.keys().map_err(IssueError::from)?;
        let found = keys.iter().filter(|key| countersign_certificate::PublicKey::parse(&key.blob).is_ok());
        let found: Vec<_> =
            found.filter(|key| key.comment == *wanted || files::sha256_fingerprint(&key.blob) == *wanted).collect();
        let public = match found.as_slice() {
            [one] => one.blob.clone(),
            [] => return Err(CliError::Unknown { kind: "key in ssh-agent", name: wanted.clone() }),
            several => {
                let (kind, name, count) = ("key in ssh-agent", wanted.clone(), several.len());
                return Err(CliError::Ambiguous { kind, name, count });
            }
        };
        if args.out.is_none() && args.deliver_to.is_none() {
            return Err(CliError::Missing {
                what: "where the certificate goes",
                flag: "--out PATH or --deliver-to WHO",
            });
        }
        return Ok(Subject { public, private: None, path: args.out.clone() });
    }
    let file = args.key.as_deref().ok_or(CliError::Missing { what: "a key to certify", flag: "--key FILE.pub" })?;
    let path = args.out.clone().or_else(|| Some(file.with_extension("")));
    Ok(Subject { public: files::public_key(file)?, private: None, path })
}

/// The CA to sign with: the one named, or the only one for users that is in force.
pub fn choose_ca<'a>(view: &'a Effective, name: Option<&str>) -> Result<(Id, &'a Ca), CliError> {
    if let Some(name) = name {
        return resolve::ca(view, name);
    }
    let all: Vec<_> =
        view.cas.iter().filter(|(_, ca)| ca.purpose == CaPurpose::User).map(|(id, ca)| (*id, ca)).collect();
    let active: Vec<_> = all.iter().filter(|(_, ca)| ca.state == CaState::Active).copied().collect();
    match (active.as_slice(), all.as_slice()) {
        // The only CA, locked or not: what is wrong with it is then said with the host's reason code.
        ([one], _) | ([], [one]) => Ok(*one),
        ([], _) => Err(CliError::Refused("the realm has no CA for user certificates in force".to_owned())),
        _ => Err(CliError::Missing { what: "the CA, of several,", flag: "--ca CA" }),
    }
}

/// Opens a CA's key, from its file or from ssh-agent.
///
/// # Errors
/// [`CliError`].
pub fn open_ca_key(
    context: &Context,
    ca: &Ca,
    file: Option<PathBuf>,
    password_file: Option<&Path>,
    agent: bool,
) -> Result<CaKey, CliError> {
    let file = if agent { None } else { context.configured(file, |config| config.ca_key.clone()) };
    match file {
        Some(path) => {
            let password = || context.ca_password(password_file, &path).map_err(OpenError::Cli);
            CaKey::from_file(&path, password).map_err(|error| match error {
                OpenError::CaKey(error) => IssueError::from(error).into(),
                OpenError::Cli(error) => error,
            })
        }
        None if agent => {
            let agent = SshAgent::from_environment(Duration::from_secs(TOUCH_SECS)).map_err(IssueError::from)?;
            Ok(CaKey::from_agent(agent, &ca.public_key).map_err(IssueError::from)?)
        }
        None => Err(CliError::Missing { what: "the CA's key", flag: "--ca-key FILE or --ca-agent" }),
    }
}

/// What opening a CA key file can fail with: the file, or asking for its password.
enum OpenError {
    CaKey(countersign_issuer::ca_key::CaKeyError),
    Cli(CliError),
}

impl From<countersign_issuer::ca_key::CaKeyError> for OpenError {
    fn from(error: countersign_issuer::ca_key::CaKeyError) -> Self {
        Self::CaKey(error)
    }
}

/// Reads a duration given for `argument`.
///
/// # Errors
/// [`CliError::Argument`].
pub fn duration(argument: &'static str, text: &str) -> Result<NonZeroU64, CliError> {
    let error = |problem: String| CliError::Argument { argument, problem };
    let secs = parse_duration(text).map_err(|problem| error(problem.to_string()))?;
    NonZeroU64::new(secs).ok_or_else(|| error("expected more than nothing".to_owned()))
}

/// The ledger key to seal to; refused where nothing may be sent to it.
///
/// # Errors
/// [`CliError`].
pub fn recipient(view: &Effective, text: &str) -> Result<Address, CliError> {
    let address = ledger_key(view, text)?;
    deliver::check_recipient(view, address)?;
    Ok(address)
}

/// The ledger key that something was or is to be sealed to.
///
/// # Errors
/// [`CliError`].
pub fn ledger_key(view: &Effective, text: &str) -> Result<Address, CliError> {
    let subject = match text.split_once(':') {
        Some(("user", user)) => resolve::user(view, user)?.0,
        Some(("host", host)) => resolve::host(view, host)?.0,
        _ => return resolve::address("WHO", text),
    };
    match deliver::ledger_keys(view, subject).as_slice() {
        [one] => Ok(*one),
        [] => {
            Err(CliError::Refused(format!("{text} has no ledger key with a delivery key (`countersign member set`)")))
        }
        several => Err(CliError::Ambiguous { kind: "ledger key of", name: text.to_owned(), count: several.len() }),
    }
}

/// Issues.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, args: IssueArgs) -> Result<(), CliError> {
    let (user_name, host_name) = args.who.split_once('@').ok_or_else(|| {
        let problem = format!("`{}`: expected the user, `@` and the host", args.who);
        CliError::Argument { argument: "USER@HOST", problem }
    })?;
    let (ttl, patience) = (duration("--ttl", &args.ttl)?, duration("--patience", &args.patience)?);
    // A recipient's prekeys may be as old as they live.
    let days = if args.deliver_to.is_some() { crate::mail::PREKEY_DAYS } else { 1 };
    let view = context.view_back(days).await?;
    let (user, user_record) = resolve::user(&view.ahead, user_name)?;
    let (host, host_record) = resolve::host(&view.ahead, host_name)?;
    let request = match &args.request {
        Some(text) => Some(resolve::parse_id(text).ok_or_else(|| CliError::Argument {
            argument: "--request",
            problem: format!("`{text}`: expected 32 hexadecimal digits"),
        })?),
        None => None,
    };
    let (ca, ca_record) = choose_ca(&view.effective, args.ca.as_deref())?;
    let destination = match &args.deliver_to {
        Some(text) => Some((recipient(&view.effective, text)?, args.post.open(context)?)),
        None => None,
    };
    let subject = subject(&args, &user_record.login)?;
    let key = open_ca_key(context, ca_record, args.ca_key.clone(), args.ca_password_file.as_deref(), args.ca_agent)?;
    let window = args.post.window(context, &view)?;
    let patience = Duration::from_secs(patience.get());
    let issuer = Issuer::new(view.realm.clone(), context.actor_key()?, (ca, key), patience, window)?;
    let progress = context.printer.progress("asking what the host would say");
    let mut report = |stage| show(&progress, stage);
    let order = Order { user, host, login: args.login.clone(), ttl, public_key: subject.public.clone(), request };
    let mut results = issuer.issue(&view, vec![order], now(), &mut report).await?;
    let issued = results.pop().ok_or_else(|| CliError::Refused("nothing was issued".to_owned()))??;
    let line = issued.line()?;
    let (written, delivery) = match destination {
        Some((recipient, post)) => {
            let sent = send(&issuer, &view, &args.payload, recipient, &post, &subject, &line, &mut report).await?;
            (Vec::new(), Some(sent))
        }
        None => (write(&subject, &line)?, None),
    };
    drop(progress);
    let certificate = delivery.is_none().then_some(line);
    context.printer.result(&shown(&issued, &user_record.login, &host_record.name, certificate, written, delivery))
}

fn shown(
    issued: &Issued,
    user: &str,
    host: &str,
    certificate: Option<String>,
    files: Vec<PathBuf>,
    delivery: Option<DeliveryShown>,
) -> IssuedShown {
    let prepared = &issued.prepared;
    IssuedShown {
        outcome: "issued",
        user: user.to_owned(),
        host: host.to_owned(),
        login: prepared.order.login.clone(),
        serial: prepared.serial.to_string(),
        key_id: prepared.key_id.clone(),
        valid_after: prepared.valid_after,
        valid_before: prepared.valid_before,
        grant: prepared.grant,
        request: prepared.request,
        batch: issued.batch,
        certificate: certificate.map(|line| line.trim_end().to_owned()),
        files,
        delivery,
    }
}

#[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
async fn send(
    issuer: &Issuer,
    view: &View,
    name: &str,
    recipient: Address,
    post: &Post,
    subject: &Subject,
    line: &str,
    report: &mut (dyn FnMut(Stage) + Send),
) -> Result<DeliveryShown, CliError> {
    let payload = match &subject.private {
        Some(private) => deliver::key_pair_payload(name, private, Some(line))?,
        None => deliver::certificate_payload(name, line)?,
    };
    let parcel = Parcel { sender: issuer.address(), sender_key: &post.key, recipient, payload, prekeys: post.prekeys };
    let posted = deliver::post(&view.effective, parcel, &post.stores, &post.outbox, now()).await?;
    posted.failures.iter().for_each(|failure| post.printer.note(&format!("store: {failure}")));
    let receipt = issuer.log(view, &posted.entry, report).await?.into();
    Ok(DeliveryShown { id: posted.id, recipient, cid: posted.note.cid.to_string(), receipt })
}

/// Writes key and certificate as OpenSSH expects them: PATH, PATH.pub, PATH-cert.pub. A key is never written over another; a
/// certificate replaces an older one.
fn write(subject: &Subject, line: &str) -> Result<Vec<PathBuf>, CliError> {
    let path =
        subject.path.clone().ok_or(CliError::Missing { what: "where the certificate goes", flag: "--out PATH" })?;
    let beside = |suffix: &str| {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut written = Vec::new();
    if let Some(private) = &subject.private {
        files::write(&path, private.as_bytes(), 0o600, Existing::Keep)?;
        written.push(path.clone());
        let public = format!("{}\n", files::key_line(&subject.public));
        files::write(&beside(".pub"), public.as_bytes(), 0o644, Existing::Replace)?;
        written.push(beside(".pub"));
    }
    files::write(&beside("-cert.pub"), line.as_bytes(), 0o644, Existing::Replace)?;
    written.push(beside("-cert.pub"));
    Ok(written)
}

/// Tells of a stage.
pub fn show(progress: &crate::output::Progress, stage: Stage) {
    match stage {
        Stage::Rehearsing => progress.step("asking what the host would say"),
        Stage::Sending(step) => crate::send::show(progress, step),
        Stage::Confirming => progress.step("waiting for the batch on the verified ledger"),
        Stage::Countersigning => progress.step("waiting for countersignatures"),
        Stage::Signing => progress.step("signing"),
    }
}
