//! `countersign label`: labels of hosts and users. A grant can name hosts by them.

use clap::Subcommand;
use countersign_registry::Id;
use countersign_registry::entries::{Entry, payload};

use crate::context::{Context, View};
use crate::error::CliError;
use crate::resolve;
use crate::write::{By, Draft, WriteArgs, bytes16};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum LabelCommand {
    /// Give a host (or user) a label
    Add {
        /// Host: id or name; user: `user:` and id or login
        target: String,
        /// [a-z0-9._-]{1,63}
        label: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Take a label away
    Remove {
        /// Host: id or name; user: `user:` and id or login
        target: String,
        /// The label
        label: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
}

fn target(view: &View, text: &str) -> Result<(Id, String), CliError> {
    match text.strip_prefix("user:") {
        Some(user) => resolve::user(&view.ahead, user).map(|(id, user)| (id, format!("user {}", user.login))),
        None => resolve::host(&view.ahead, text).map(|(id, host)| (id, format!("host {}", host.name))),
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: LabelCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    match command {
        LabelCommand::Add { target: text, label, write } => {
            let (id, about) = target(&view, &text)?;
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.record(&format!("label {label} of {about}"), |r| {
                Entry::LabelAdd(payload::LabelAdd { r, target: bytes16(id), label })
            })?;
            draft.commit(context, &view).await
        }
        LabelCommand::Remove { target: text, label, write } => {
            let (id, about) = target(&view, &text)?;
            let ids = view.labels(id, &label);
            if ids.is_empty() {
                return Err(CliError::Unknown { kind: "label", name: format!("{label} of {about}") });
            }
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&format!("label {label} of {about}"), ids.first().copied(), Entry::Remove(ids))?;
            draft.commit(context, &view).await
        }
    }
}
