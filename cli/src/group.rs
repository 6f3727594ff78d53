//! `countersign group`: groups of users, and who is in them.

use clap::Subcommand;
use countersign_registry::entries::{Entry, payload};
use countersign_registry::realm::{EntryRef, Group};
use countersign_registry::{Effective, Id};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Show, block, fields, time};
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::write::{By, Draft, WriteArgs, bytes16};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Add a group
    Add {
        /// Group name: [a-z_][a-z0-9_-]{0,31}
        name: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Remove a group, and with it its grants
    Remove {
        /// Id or name
        group: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Put a user into a group
    Join {
        /// Id or name
        group: String,
        /// Id or login
        user: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Take a user out of a group
    Leave {
        /// Id or name
        group: String,
        /// Id or login
        user: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List groups
    List {
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show a group and its members
    Show {
        /// Id or name
        group: String,
    },
}

/// A group as printed.
#[derive(Debug, Serialize)]
pub struct GroupRow {
    /// Record id.
    pub id: Id,
    /// Group name.
    pub name: String,
    /// Gid.
    pub gid: u32,
    /// Logins of the members.
    pub members: Vec<String>,
    /// The entry that added the group.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl GroupRow {
    fn new(view: &Effective, id: Id, group: &Group) -> Self {
        let members = view
            .group_members
            .iter()
            .filter(|(of, _)| *of == id)
            .filter_map(|(_, user)| view.users.get(user))
            .map(|user| user.login.clone())
            .collect();
        Self { id, name: group.name.clone(), gid: group.gid, members, at: group.at }
    }
}

impl Row for GroupRow {
    const HEADING: &'static [&'static str] = &["ID", "NAME", "GID", "MEMBERS"];
    fn cells(&self) -> Vec<String> {
        vec![self.id.to_string(), self.name.clone(), self.gid.to_string(), self.members.len().to_string()]
    }
}

impl Show for GroupRow {
    fn text(&self) -> String {
        fields(&[
            ("group", self.name.clone()),
            ("id", self.id.to_string()),
            ("gid", self.gid.to_string()),
            ("members", self.members.join(" ")),
            ("added", format!("block {}, {}", block(self.at.block), time(self.at.time))),
        ])
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: GroupCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    match command {
        GroupCommand::Add { name, write } => {
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.record(&format!("group {name}"), |r| Entry::GroupAdd(payload::GroupAdd { r, name }))?;
            draft.commit(context, &view).await
        }
        GroupCommand::Remove { group, write } => {
            let (id, group) = resolve::group(&view.ahead, &group)?;
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&format!("group {}", group.name), Some(id), Entry::Remove(vec![id]))?;
            draft.commit(context, &view).await
        }
        GroupCommand::Join { group, user, write } => {
            let (group_id, group) = resolve::group(&view.ahead, &group)?;
            let (user_id, user) = resolve::user(&view.ahead, &user)?;
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.record(&format!("{} in group {}", user.login, group.name), |r| {
                Entry::GroupMemberAdd(payload::GroupMemberAdd { r, group: bytes16(group_id), user: bytes16(user_id) })
            })?;
            draft.commit(context, &view).await
        }
        GroupCommand::Leave { group, user, write } => {
            let (group_id, group) = resolve::group(&view.ahead, &group)?;
            let (user_id, user) = resolve::user(&view.ahead, &user)?;
            let about = format!("{} in group {}", user.login, group.name);
            let ids = view.memberships(group_id, user_id);
            if ids.is_empty() {
                return Err(CliError::Unknown { kind: "membership", name: about });
            }
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&about, ids.first().copied(), Entry::Remove(ids))?;
            draft.commit(context, &view).await
        }
        GroupCommand::List { page } => {
            let rows = view.effective.groups.iter().map(|(id, group)| GroupRow::new(&view.effective, *id, group));
            context.printer.result(&Page::cut(rows, &page)?)
        }
        GroupCommand::Show { group } => {
            let (id, group) = resolve::group(&view.effective, &group)?;
            context.printer.result(&GroupRow::new(&view.effective, id, group))
        }
    }
}
