//! `countersign user`: people. A user's login and uid are never given to anybody else, whatever happens to the user.

use clap::Subcommand;
use countersign_registry::Id;
use countersign_registry::entries::{Entry, payload};
use countersign_registry::realm::{EntryRef, State, User};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Show, block, fields, time};
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::write::{By, Draft, WriteArgs};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user
    Add {
        /// Account name: [a-z_][a-z0-9_-]{0,31}
        login: String,
        /// The person's name
        #[arg(long, value_name = "TEXT", default_value = "")]
        name: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Remove a user, and with it the user's keys and grants
    Remove {
        /// Id or login
        user: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List users
    List {
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show a user
    Show {
        /// Id or login
        user: String,
    },
}

/// A user as printed.
#[derive(Debug, Serialize)]
pub struct UserRow {
    /// Record id.
    pub id: Id,
    /// Account name.
    pub login: String,
    /// The person's name.
    pub name: String,
    /// Uid and gid.
    pub uid: u32,
    /// active, locked or revoked.
    pub state: State,
    /// Labels in force.
    pub labels: Vec<String>,
    /// The entry that added the user.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl UserRow {
    fn new(id: Id, user: &User) -> Self {
        Self {
            id,
            login: user.login.clone(),
            name: user.display_name.clone(),
            uid: user.uid,
            state: user.state,
            labels: user.labels.iter().cloned().collect(),
            at: user.at,
        }
    }
}

impl Row for UserRow {
    const HEADING: &'static [&'static str] = &["ID", "LOGIN", "UID", "STATE", "NAME"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.login.clone(),
            self.uid.to_string(),
            state(self.state).to_owned(),
            self.name.clone(),
        ]
    }
}

impl Show for UserRow {
    fn text(&self) -> String {
        fields(&[
            ("user", self.login.clone()),
            ("id", self.id.to_string()),
            ("name", self.name.clone()),
            ("uid", self.uid.to_string()),
            ("state", state(self.state).to_owned()),
            ("labels", self.labels.join(" ")),
            ("added", format!("block {}, {}", block(self.at.block), time(self.at.time))),
        ])
    }
}

/// A state in text.
pub fn state(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Locked => "locked",
        State::Revoked => "revoked",
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: UserCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    match command {
        UserCommand::Add { login, name, write } => {
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.record(&format!("user {login}"), |r| {
                Entry::UserAdd(payload::UserAdd { r, login, displayName: name })
            })?;
            draft.commit(context, &view).await
        }
        UserCommand::Remove { user, write } => {
            let (id, user) = resolve::user(&view.ahead, &user)?;
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&format!("user {}", user.login), Some(id), Entry::Remove(vec![id]))?;
            draft.commit(context, &view).await
        }
        UserCommand::List { page } => {
            let rows = view.effective.users.iter().map(|(id, user)| UserRow::new(*id, user));
            context.printer.result(&Page::cut(rows, &page)?)
        }
        UserCommand::Show { user } => {
            let (id, user) = resolve::user(&view.effective, &user)?;
            context.printer.result(&UserRow::new(id, user))
        }
    }
}
