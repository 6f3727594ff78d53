//! `countersign sessions`: on a host, as root, the sessions that the helper let in; and ending one now.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use countersign_agent::config::{Config, DEFAULT_PATH};
use countersign_sessions::{Session, Settings, State, end, list};
use countersign_snapshot::Clock;
use countersign_sshd::{Accepted, ProcessName};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Show, time};
use crate::page::{Page, PageArgs, Row};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// List sessions: who, from where, by which certificate, until when
    List {
        /// Which host
        #[command(flatten)]
        host: HostArgs,
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
    /// End sessions: those named, or all whose access is over
    End {
        /// Ids, as `sessions list` shows them
        ids: Vec<String>,
        /// Say what would be ended, and end nothing
        #[arg(long)]
        dry_run: bool,
        /// Which host
        #[command(flatten)]
        host: HostArgs,
    },
}

/// Where this host's agent is configured.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// The agent's configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    agent_config: PathBuf,
}

/// A session as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SessionRow {
    id: String,
    login: String,
    uid: u32,
    user: Option<String>,
    from: Option<String>,
    pid: u32,
    accepted: Option<&'static str>,
    granted_by: &'static str,
    fingerprint: String,
    serial: Option<String>,
    ca: Option<String>,
    grant: Option<String>,
    until: Option<u64>,
    state: &'static str,
    reason: Option<String>,
    connected: bool,
    processes: usize,
}

impl From<Session> for SessionRow {
    fn from(session: Session) -> Self {
        Self {
            id: session.process.to_string(),
            pid: session.process.pid,
            from: session.connection.and_then(|connection| Some(connection.split(' ').next()?.to_owned())),
            login: session.login,
            uid: session.uid,
            user: session.user.map(|id| id.to_string()),
            accepted: session.accepted.map(Accepted::name),
            granted_by: session.by.name(),
            fingerprint: session.key,
            serial: session.serial.map(|serial| serial.to_string()),
            ca: session.ca,
            grant: session.grant.map(|id| id.to_string()),
            until: session.until_secs,
            state: session.state.name(),
            reason: session.reason.map(|reason| reason.to_string()),
            connected: session.is_connected,
            processes: session.processes,
        }
    }
}

impl Row for SessionRow {
    const HEADING: &'static [&'static str] = &["ID", "LOGIN", "FROM", "SERIAL", "FINGERPRINT", "UNTIL", "STATE"];

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let state = match &self.reason {
            Some(reason) => format!("{} ({reason})", self.state),
            None => self.state.to_owned(),
        };
        vec![
            self.id.clone(),
            self.login.clone(),
            or_dash(self.from.clone()),
            or_dash(self.serial.clone()),
            self.fingerprint.clone(),
            or_dash(self.until.map(time)),
            if self.connected { state } else { format!("{state}, left behind") },
        ]
    }
}

/// What was ended.
#[derive(Debug, Serialize)]
pub struct EndedSessions {
    items: Vec<EndedSession>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub struct EndedSession {
    id: String,
    login: String,
    outcome: &'static str,
}

impl Show for EndedSessions {
    fn text(&self) -> String {
        self.items.iter().map(|item| format!("{} {} {}\n", item.outcome, item.id, item.login)).collect()
    }
}

fn settings(args: &HostArgs) -> Result<Settings, CliError> {
    let refused = |problem: String| CliError::Refused(problem);
    let config = Config::load(&args.agent_config).map_err(|error| refused(error.to_string()))?;
    let found = config.sessions.settings(&config.snapshot_dir());
    let user = &config.sessions.helper_user;
    found.map(|(settings, _)| settings).ok_or_else(|| refused(format!("user {user:?} of the helper is not there")))
}

/// Lists or ends sessions.
///
/// # Errors
/// [`CliError`] where they cannot be read, or one cannot be ended.
pub fn run(context: &Context, command: SessionsCommand) -> Result<(), CliError> {
    let refused = |error: countersign_sessions::SessionsError| CliError::Refused(error.to_string());
    let now = Clock::now().map_err(|source| CliError::File { path: PathBuf::from("/proc"), source })?;
    match command {
        SessionsCommand::List { host, page } => {
            let sessions = list(&settings(&host)?, &now).map_err(refused)?;
            context.printer.result(&Page::cut(sessions.into_iter().map(SessionRow::from), &page)?)
        }
        SessionsCommand::End { ids, dry_run, host } => {
            let settings = settings(&host)?;
            let sessions = list(&settings, &now).map_err(refused)?;
            let chosen = choose(sessions, &ids)?;
            let mut items = Vec::new();
            for session in chosen {
                let outcome = if dry_run {
                    "would-end"
                } else if end(&settings, session.process, &now).map_err(refused)? {
                    "ended"
                } else {
                    "goes-on"
                };
                items.push(EndedSession { id: session.process.to_string(), login: session.login, outcome });
            }
            let goes_on = items.iter().filter(|item| item.outcome == "goes-on").count();
            context.printer.result(&EndedSessions { items })?;
            if goes_on > 0 {
                return Err(CliError::Refused(format!("{goes_on} sessions go on: their processes do not end")));
            }
            Ok(())
        }
    }
}

/// Those that are named, all of which must be there; without names those whose access is over.
fn choose(sessions: Vec<Session>, ids: &[String]) -> Result<Vec<Session>, CliError> {
    for id in ids {
        let process: Option<ProcessName> = id.parse().ok();
        let Some(session) = sessions.iter().find(|session| Some(session.process) == process) else {
            return Err(CliError::Refused(format!("session `{id}`: there is none on this host")));
        };
        if session.state == State::Uncertain {
            return Err(CliError::Refused(format!("session `{id}`: it is not certain what let it in")));
        }
    }
    let is_chosen = |session: &Session| {
        if ids.is_empty() { session.state == State::Over } else { ids.contains(&session.process.to_string()) }
    };
    Ok(sessions.into_iter().filter(is_chosen).collect())
}
