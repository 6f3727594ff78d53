//! `countersign host`: machines. Access is decided by a host's record id and labels, never by its name.

use std::path::PathBuf;

use alloy_primitives::Bytes;
use clap::Subcommand;
use countersign_registry::entries::{Entry, payload};
use countersign_registry::realm::{EntryRef, Host, State};
use countersign_registry::{Effective, Id};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::files;
use crate::output::{Show, block, fields, time};
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::user::state;
use crate::write::{By, Draft, WriteArgs, bytes16};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Add a host
    Add {
        /// For people: [a-z0-9._-]{1,253}
        name: String,
        /// The user who owns it
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
        /// The host's SSH public key
        #[arg(long, value_name = "FILE.pub")]
        host_key: Option<PathBuf>,
        /// A label; may be given several times
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Remove a host
    Remove {
        /// Id or name
        host: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List hosts
    List {
        /// Only hosts that have all of these labels
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show a host
    Show {
        /// Id or name
        host: String,
    },
}

/// A host as printed.
#[derive(Debug, Serialize)]
pub struct HostRow {
    /// Record id.
    pub id: Id,
    /// For people.
    pub name: String,
    /// active, locked or revoked.
    pub state: State,
    /// Login of the owner.
    pub owner: Option<String>,
    /// Labels in force.
    pub labels: Vec<String>,
    /// The host key as in a `.pub` file.
    #[serde(rename = "host-key")]
    pub host_key: Option<String>,
    /// Ledger keys bound to this host.
    pub actors: Vec<String>,
    /// The entry that added the host.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl HostRow {
    fn new(view: &Effective, id: Id, host: &Host) -> Self {
        Self {
            id,
            name: host.name.clone(),
            state: host.state,
            owner: host
                .owner
                .map(|owner| view.users.get(&owner).map_or_else(|| owner.to_string(), |user| user.login.clone())),
            labels: host.labels.iter().cloned().collect(),
            host_key: (!host.host_key.is_empty()).then(|| files::key_line(&host.host_key)),
            actors: view
                .actors
                .iter()
                .filter(|(_, actor)| actor.subject == Some(id))
                .map(|(address, _)| address.to_string())
                .collect(),
            at: host.at,
        }
    }
}

impl Row for HostRow {
    const HEADING: &'static [&'static str] = &["ID", "NAME", "STATE", "OWNER", "LABELS"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.name.clone(),
            state(self.state).to_owned(),
            self.owner.clone().unwrap_or_default(),
            self.labels.join(" "),
        ]
    }
}

impl Show for HostRow {
    fn text(&self) -> String {
        fields(&[
            ("host", self.name.clone()),
            ("id", self.id.to_string()),
            ("state", state(self.state).to_owned()),
            ("owner", self.owner.clone().unwrap_or_default()),
            ("labels", self.labels.join(" ")),
            ("host key", self.host_key.clone().unwrap_or_default()),
            ("ledger keys", self.actors.join(" ")),
            ("added", format!("block {}, {}", block(self.at.block), time(self.at.time))),
        ])
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: HostCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    match command {
        HostCommand::Add { name, owner, host_key, label, write } => {
            let owner = owner.map(|owner| resolve::user(&view.ahead, &owner).map(|(id, _)| id)).transpose()?;
            let host_key = host_key.map(|path| files::public_key(&path)).transpose()?.unwrap_or_default();
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            let id = draft.record(&format!("host {name}"), |r| {
                Entry::HostAdd(payload::HostAdd {
                    r,
                    name: name.clone(),
                    owner: owner.map(bytes16).unwrap_or_default(),
                    hostKey: Bytes::from(host_key),
                })
            })?;
            for label in label {
                draft.record(&format!("label {label} of host {name}"), |r| {
                    Entry::LabelAdd(payload::LabelAdd { r, target: bytes16(id), label })
                })?;
            }
            draft.commit(context, &view).await
        }
        HostCommand::Remove { host, write } => {
            let (id, host) = resolve::host(&view.ahead, &host)?;
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&format!("host {}", host.name), Some(id), Entry::Remove(vec![id]))?;
            draft.commit(context, &view).await
        }
        HostCommand::List { label, page } => {
            let rows = view
                .effective
                .hosts
                .iter()
                .filter(|(_, host)| label.iter().all(|label| host.labels.contains(label)))
                .map(|(id, host)| HostRow::new(&view.effective, *id, host));
            context.printer.result(&Page::cut(rows, &page)?)
        }
        HostCommand::Show { host } => {
            let (id, host) = resolve::host(&view.effective, &host)?;
            context.printer.result(&HostRow::new(&view.effective, id, host))
        }
    }
}
