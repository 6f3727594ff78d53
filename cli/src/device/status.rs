//! `countersign device status`: what the ledger says of this device's keys.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use countersign_chain::keys::address_hint;
use countersign_delivery::SecretKey;
use countersign_issuer::duration::parse_duration;
use countersign_registry::{Address, B256, Effective, Id};
use serde::Serialize;

use super::claim::delivery_fingerprint;
use super::inbox::Inbox;
use super::init::{DELIVERY_KEY, LEDGER_KEY};
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Show, fields};

/// Which device.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The directory that `countersign device init` made
    directory: PathBuf,
    /// Wait so long until it is enrolled
    #[arg(long, value_name = "DURATION")]
    wait: Option<String>,
    /// How many days of the inbox to look for the question in
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    days: u64,
}

/// A device as the ledger knows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceStatus {
    /// `enrolled`, `not-final`, `locked`, `other-delivery-key`, `asked` or `unknown`.
    pub state: &'static str,
    /// Address of the ledger key.
    pub ledger_key: String,
    /// Fingerprint of the delivery key.
    pub delivery_key: String,
    /// Record id of the host, or user, that it belongs to: `host` in the agent's configuration.
    pub host: Option<Id>,
    /// That one's name or login.
    pub name: Option<String>,
    /// Login of the owner.
    pub owner: Option<String>,
    /// Labels in force.
    pub labels: Vec<String>,
}

impl Show for DeviceStatus {
    fn text(&self) -> String {
        fields(&[
            ("state", self.state.to_owned()),
            ("ledger key", self.ledger_key.clone()),
            ("delivery key", self.delivery_key.clone()),
            ("host id", self.host.map(|id| id.to_string()).unwrap_or_default()),
            ("name", self.name.clone().unwrap_or_default()),
            ("owner", self.owner.clone().unwrap_or_default()),
            ("labels", self.labels.join(" ")),
        ])
    }
}

impl DeviceStatus {
    fn of(view: &Effective, ahead: &Effective, actor: Address, x25519: B256) -> Self {
        let subject = |view: &Effective| view.actors.get(&actor).and_then(|known| known.subject);
        let known = view.actors.get(&actor);
        let host = subject(view).or_else(|| subject(ahead));
        let state = match (subject(view), known) {
            (_, Some(known)) if known.locked => "locked",
            (Some(_), Some(known)) if known.x25519 != Some(x25519) => "other-delivery-key",
            (Some(_), _) => "enrolled",
            (None, _) if host.is_some() => "not-final",
            (None, _) => "unknown",
        };
        let record = host.and_then(|id| ahead.hosts.get(&id));
        let user = host.and_then(|id| ahead.users.get(&id));
        let owner = record.and_then(|host| host.owner).and_then(|id| ahead.users.get(&id));
        Self {
            state,
            ledger_key: actor.to_string(),
            delivery_key: delivery_fingerprint(&x25519),
            host,
            name: record.map(|host| host.name.clone()).or_else(|| user.map(|user| user.login.clone())),
            owner: owner.map(|user| user.login.clone()),
            labels: record.map(|host| host.labels.iter().cloned().collect()).unwrap_or_default(),
        }
    }
}

/// Looks, and waits if asked to.
///
/// # Errors
/// [`CliError::Refused`] when the device is not enrolled; else see [`CliError`].
pub async fn run(context: &Context, args: StatusArgs) -> Result<(), CliError> {
    let path = args.directory.join(LEDGER_KEY);
    let hint = address_hint(&path)?;
    let actor = match hint {
        Some(actor) => actor,
        None => context.keystore(&path)?.address(),
    };
    let x25519 = B256::from(SecretKey::load_file(&args.directory.join(DELIVERY_KEY))?.public().to_bytes());
    let patience = match args.wait.as_deref().map(parse_duration) {
        None => Duration::ZERO,
        Some(Ok(secs)) => Duration::from_secs(secs),
        Some(Err(error)) => return Err(CliError::Argument { argument: "--wait", problem: error.to_string() }),
    };
    let begun = Instant::now();
    let mut status = loop {
        let view = context.view().await?;
        let status = DeviceStatus::of(&view.effective, &view.ahead, actor, x25519);
        let pending = matches!(status.state, "unknown" | "not-final");
        if !pending || begun.elapsed() >= patience {
            break status;
        }
        tokio::time::sleep(Duration::from_secs(view.realm.profile.poll_secs.max(1))).await;
    };
    if status.state == "unknown" {
        let inbox = Inbox::read(context, &context.realm()?, args.days).await?;
        if inbox.candidates.iter().any(|candidate| candidate.claim.actor == actor) {
            status.state = "asked";
        }
    }
    context.printer.result(&status)?;
    match status.state {
        "enrolled" => Ok(()),
        state => Err(CliError::Refused(format!("device {actor}: {state}; expected enrolled"))),
    }
}
