//! `countersign revoke` and `countersign unlock`. A revocation is a lock: it counts from its block on, and a threshold of roots can
//! end it. `--permanently`, by the roots, cannot be ended (a user or host can be restored as what it was). Certificates are revoked
//! by serial, for good.

use alloy_primitives::Address;
use clap::{Subcommand, ValueEnum};
use countersign_registry::entries::{Entry, Targets};
use countersign_registry::{Id, shard};

use crate::context::{Context, View};
use crate::error::CliError;
use crate::files;
use crate::inspect::certificate_in;
use crate::output::now;
use crate::resolve;
use crate::write::{By, Draft, WriteArgs};

/// What to revoke.
#[derive(Debug, Subcommand)]
pub enum RevokeCommand {
    /// Certificates, by file or by serial
    Cert {
        /// Certificate files, or serials of --ca's
        #[arg(required = true)]
        certificate: Vec<String>,
        /// The CA of serials
        #[arg(long, value_name = "CA")]
        ca: Option<String>,
        /// When the certificates of serials expire, at the latest: a date, a time or a duration from now [default: the CA's limit]
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Keys, registered or not
    Key {
        /// Ids, SHA256 fingerprints or public key files
        #[arg(required = true)]
        key: Vec<String>,
        /// For good, by the roots
        #[arg(long)]
        permanently: bool,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Users
    User {
        /// Ids or logins
        #[arg(required = true)]
        user: Vec<String>,
        /// For good, by the roots
        #[arg(long)]
        permanently: bool,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Hosts
    Host {
        /// Ids or names
        #[arg(required = true)]
        host: Vec<String>,
        /// For good, by the roots
        #[arg(long)]
        permanently: bool,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// CAs
    Ca {
        /// Ids or names
        #[arg(required = true)]
        ca: Vec<String>,
        /// For good, by the roots
        #[arg(long)]
        permanently: bool,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Batches of certificates
    Batch {
        /// Ids
        #[arg(required = true)]
        batch: Vec<String>,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Ledger keys
    Actor {
        /// Addresses
        #[arg(required = true)]
        actor: Vec<String>,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
}

/// The sorts of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Keys
    Key,
    /// Users
    User,
    /// Hosts
    Host,
    /// CAs
    Ca,
    /// Batches
    Batch,
    /// Ledger keys
    Actor,
}

/// What to unlock.
#[derive(Debug, clap::Args)]
pub struct UnlockArgs {
    /// The sort of record
    #[arg(value_enum)]
    sort: Sort,
    /// As for `countersign revoke`
    #[arg(required = true)]
    target: Vec<String>,
    /// Who writes it, and where to
    #[command(flatten)]
    write: WriteArgs,
}

fn targets(view: &View, sort: Sort, texts: &[String]) -> Result<Targets, CliError> {
    let view = &view.ahead;
    Ok(match sort {
        Sort::Key => Targets::Keys(
            texts
                .iter()
                .map(|text| match resolve::key(view, text) {
                    Ok(key) => Ok(key.fingerprint),
                    // A key that was never registered can be locked too: by its fingerprint or file.
                    Err(unknown) => resolve::key_fingerprint(text)?.ok_or(unknown),
                })
                .collect::<Result<_, _>>()?,
        ),
        Sort::User => Targets::Users(ids(texts, |text| resolve::user(view, text).map(|(id, _)| id))?),
        Sort::Host => Targets::Hosts(ids(texts, |text| resolve::host(view, text).map(|(id, _)| id))?),
        Sort::Ca => Targets::Cas(ids(texts, |text| resolve::ca(view, text).map(|(id, _)| id))?),
        Sort::Batch => Targets::Batches(ids(texts, |text| {
            resolve::parse_id(text)
                .filter(|id| view.batches.contains_key(id) || view.locked_batches.contains(id))
                .ok_or_else(|| CliError::Unknown { kind: "batch", name: text.to_owned() })
        })?),
        Sort::Actor => Targets::Actors(
            texts.iter().map(|text| resolve::address("ACTOR", text)).collect::<Result<Vec<Address>, _>>()?,
        ),
    })
}

fn ids(texts: &[String], find: impl Fn(&str) -> Result<Id, CliError>) -> Result<Vec<Id>, CliError> {
    texts.iter().map(|text| find(text)).collect()
}

/// Runs `revoke`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: RevokeCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    let (sort, texts, permanently, write) = match command {
        RevokeCommand::Cert { certificate, ca, expires, write } => {
            return certificates(context, &view, &certificate, ca.as_deref(), expires.as_deref(), &write).await;
        }
        RevokeCommand::Key { key, permanently, write } => (Sort::Key, key, permanently, write),
        RevokeCommand::User { user, permanently, write } => (Sort::User, user, permanently, write),
        RevokeCommand::Host { host, permanently, write } => (Sort::Host, host, permanently, write),
        RevokeCommand::Ca { ca, permanently, write } => (Sort::Ca, ca, permanently, write),
        RevokeCommand::Batch { batch, write } => (Sort::Batch, batch, false, write),
        RevokeCommand::Actor { actor, write } => (Sort::Actor, actor, false, write),
    };
    let targets = targets(&view, sort, &texts)?;
    let about = format!("{} {}", name(sort), texts.join(" "));
    let (by, about, entry) = if permanently {
        (By::Roots, format!("revoke {about} for good"), Entry::Revoke(targets))
    } else {
        (By::ActorOrRoots, format!("lock {about}"), Entry::Lock(targets))
    };
    let mut draft = Draft::begin(context, &write, by)?;
    draft.entry(&about, None, entry)?;
    draft.commit(context, &view).await
}

/// Runs `unlock`.
///
/// # Errors
/// See [`CliError`].
pub async fn unlock(context: &Context, args: UnlockArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let targets = targets(&view, args.sort, &args.target)?;
    let mut draft = Draft::begin(context, &args.write, By::Roots)?;
    draft.entry(&format!("unlock {} {}", name(args.sort), args.target.join(" ")), None, Entry::Unlock(targets))?;
    draft.commit(context, &view).await
}

fn name(sort: Sort) -> &'static str {
    match sort {
        Sort::Key => "key",
        Sort::User => "user",
        Sort::Host => "host",
        Sort::Ca => "CA",
        Sort::Batch => "batch",
        Sort::Actor => "actor",
    }
}

/// A certificate to revoke.
struct Target {
    ca: Id,
    serial: u64,
    valid_before: u64,
}

async fn certificates(
    context: &Context,
    view: &View,
    texts: &[String],
    ca: Option<&str>,
    expires: Option<&str>,
    write: &WriteArgs,
) -> Result<(), CliError> {
    let by_serial = ca.map(|text| resolve::ca(&view.ahead, text)).transpose()?;
    let expires = crate::values::end("--expires", expires)?;
    let mut found: Vec<Target> = Vec::new();
    for text in texts {
        found.push(match (by_serial, text.parse::<u64>()) {
            (Some((ca, record)), Ok(serial)) => {
                // A certificate that begins now and lives as long as its CA allows expires last.
                let latest = now().saturating_add(record.limits.max_ttl);
                Target { ca, serial, valid_before: if expires == 0 { latest } else { expires } }
            }
            (None, Ok(_)) => return Err(CliError::Missing { what: "the CA of a serial", flag: "--ca" }),
            (_, Err(_)) => {
                let path = std::path::Path::new(text);
                let blob = certificate_in(path, &files::read_text(path)?)?;
                let content = |problem: String| CliError::Content { path: path.to_owned(), problem };
                let certificate =
                    countersign_certificate::Certificate::parse(&blob).map_err(|error| content(error.to_string()))?;
                let signer = certificate.signature_key;
                let (ca, _) = view
                    .ahead
                    .cas
                    .iter()
                    .find(|(_, ca)| ca.public_key.as_ref() == signer)
                    .ok_or_else(|| CliError::Unknown { kind: "CA", name: files::sha256_fingerprint(signer) })?;
                Target { ca: *ca, serial: certificate.serial.0, valid_before: certificate.valid_before }
            }
        });
    }
    let mut draft = Draft::begin(context, write, By::ActorOrRoots)?;
    for target in found {
        let shard = shard::revocation_shard(target.valid_before, view.effective.latest_block.time);
        let about = format!("revoke certificate {} of CA {}", target.serial, target.ca);
        let entry = Entry::CertRevoke { ca: target.ca, serials: vec![target.serial] };
        draft.entry_in(shard, &about, None, entry);
    }
    draft.commit(context, view).await
}
