//! `countersign key`: users' SSH keys, for logins by plain key. Certificates need no registered key.

use std::path::PathBuf;

use alloy_primitives::Bytes;
use clap::Subcommand;
use countersign_registry::entries::{Entry, payload};
use countersign_registry::realm::{EntryRef, Key, State};
use countersign_registry::{Effective, Id};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::files;
use crate::output::{Show, block, fields, time};
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::user::state;
use crate::values;
use crate::write::{By, Draft, WriteArgs, bytes16};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Register a user's public key
    Add {
        /// Id or login
        user: String,
        /// The public key
        #[arg(long, value_name = "FILE.pub")]
        key: PathBuf,
        /// For people
        #[arg(long, value_name = "TEXT", default_value = "")]
        comment: String,
        /// When it stops counting: a date, a time or a duration from now
        #[arg(long, value_name = "WHEN")]
        not_after: Option<String>,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Remove a key
    Remove {
        /// Id, SHA256 fingerprint or public key file
        key: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List keys
    List {
        /// Only this user's
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show a key
    Show {
        /// Id, SHA256 fingerprint or public key file
        key: String,
    },
}

/// A key as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeyRow {
    /// Record id.
    pub id: Id,
    /// Login of its user.
    pub user: String,
    /// active, locked or revoked.
    pub state: State,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// As in a `.pub` file.
    pub public_key: String,
    /// Unix seconds.
    pub not_after: Option<u64>,
    /// For people.
    pub comment: String,
    /// The entry that added it.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl KeyRow {
    fn new(view: &Effective, key: &Key) -> Self {
        Self {
            id: key.id,
            user: view.users.get(&key.user).map_or_else(|| key.user.to_string(), |user| user.login.clone()),
            state: key.state,
            fingerprint: files::sha256_fingerprint(&key.blob),
            public_key: files::key_line(&key.blob),
            not_after: key.not_after,
            comment: key.comment.clone(),
            at: key.at,
        }
    }
}

impl Row for KeyRow {
    const HEADING: &'static [&'static str] = &["ID", "USER", "STATE", "FINGERPRINT", "COMMENT"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.user.clone(),
            state(self.state).to_owned(),
            self.fingerprint.clone(),
            self.comment.clone(),
        ]
    }
}

impl Show for KeyRow {
    fn text(&self) -> String {
        fields(&[
            ("key", self.public_key.clone()),
            ("id", self.id.to_string()),
            ("fingerprint", self.fingerprint.clone()),
            ("user", self.user.clone()),
            ("state", state(self.state).to_owned()),
            ("not after", self.not_after.map_or_else(|| "never".to_owned(), time)),
            ("comment", self.comment.clone()),
            ("added", format!("block {}, {}", block(self.at.block), time(self.at.time))),
        ])
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: KeyCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    match command {
        KeyCommand::Add { user, key, comment, not_after, write } => {
            let (user_id, user) = resolve::user(&view.ahead, &user)?;
            let blob = files::public_key(&key)?;
            let not_after = values::end("--not-after", not_after.as_deref())?;
            let about = format!("key {} of {}", files::sha256_fingerprint(&blob), user.login);
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.record(&about, |r| {
                Entry::KeyAdd(payload::KeyAdd {
                    r,
                    user: bytes16(user_id),
                    publicKey: Bytes::from(blob),
                    purposes: Key::LOGIN,
                    notAfter: not_after,
                    comment,
                })
            })?;
            draft.commit(context, &view).await
        }
        KeyCommand::Remove { key, write } => {
            let key = resolve::key(&view.ahead, &key)?;
            let about = format!("key {}", files::sha256_fingerprint(&key.blob));
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&about, Some(key.id), Entry::Remove(vec![key.id]))?;
            draft.commit(context, &view).await
        }
        KeyCommand::List { user, page } => {
            let user = user.map(|user| resolve::user(&view.effective, &user).map(|(id, _)| id)).transpose()?;
            let rows = view
                .effective
                .keys
                .iter()
                .filter(|key| user.is_none_or(|user| key.user == user))
                .map(|key| KeyRow::new(&view.effective, key));
            context.printer.result(&Page::cut(rows, &page)?)
        }
        KeyCommand::Show { key } => {
            let key = resolve::key(&view.effective, &key)?;
            context.printer.result(&KeyRow::new(&view.effective, key))
        }
    }
}
