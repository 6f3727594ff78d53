//! `countersign grant`: who may log in where, as what, and under which conditions.

use clap::{Args, Subcommand, ValueEnum};
use countersign_issuer::duration::{format_duration, parse_duration};
use countersign_registry::entries::{Entry, payload};
use countersign_registry::realm::{EntryRef, Grant, GrantTarget, Subject};
use countersign_registry::{Effective, Id};
use serde::Serialize;

use crate::context::{Context, View};
use crate::error::CliError;
use crate::output::{Show, block, fields, time};
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::values;
use crate::write::{By, Draft, WriteArgs, bytes16};

/// How a grant's subject proves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// By a certificate
    Cert,
    /// By a registered plain key
    Key,
    /// By either
    Both,
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// Add a grant
    Add(Box<AddArgs>),
    /// Remove a grant
    Remove {
        /// Id
        grant: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List grants
    List {
        /// Only those that name this user or a group it is in
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Only those that cover this host
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show a grant
    Show {
        /// Id
        grant: String,
    },
}

/// A new grant.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Who: a user's id or login, or `group:` and a group's id or name
    subject: String,
    /// A host; may be given several times
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// A label that the hosts have; several: all of them
    #[arg(long, value_name = "LABEL", conflicts_with = "host")]
    label: Vec<String>,
    /// Every host
    #[arg(long, conflicts_with_all = ["host", "label"])]
    all_hosts: bool,
    /// A login there; may be given several times
    #[arg(long, value_name = "LOGIN", required = true)]
    login: Vec<String>,
    /// How the subject proves itself
    #[arg(long, value_enum, default_value = "cert")]
    via: Via,
    /// The longest certificate
    #[arg(long, value_name = "DURATION")]
    max_ttl: Option<String>,
    /// How many approvers each certificate needs
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    approvals: u8,
    /// The only command that runs
    #[arg(long, value_name = "COMMAND", default_value = "")]
    force_command: String,
    /// A network to come from (CIDR); may be given several times
    #[arg(long, value_name = "CIDR")]
    source_address: Vec<String>,
    /// When, in UTC, such as `mon-fri 08:00-18:00`; may be given several times
    #[arg(long, value_name = "HOURS")]
    hours: Vec<String>,
    /// When it ends: a date, a time or a duration from now
    #[arg(long, value_name = "WHEN")]
    not_after: Option<String>,
    /// What a session may have: pty, port-forwarding, agent-forwarding, x11-forwarding, user-rc
    #[arg(long, value_name = "PERMIT", value_delimiter = ',', default_value = "pty")]
    permit: Vec<String>,
    /// A session may have nothing, not even a terminal
    #[arg(long, conflicts_with = "permit")]
    no_permits: bool,
    /// Who writes it, and where to
    #[command(flatten)]
    write: WriteArgs,
}

/// A grant as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GrantRow {
    /// Record id.
    pub id: Id,
    /// `alice` or `group:ops`.
    pub subject: String,
    /// Host names or ids; empty unless it names hosts.
    pub hosts: Vec<String>,
    /// Labels; empty unless it names labels.
    pub labels: Vec<String>,
    /// Every host.
    pub all_hosts: bool,
    /// Logins.
    pub logins: Vec<String>,
    /// cert, key, both or none.
    pub via: &'static str,
    /// Seconds.
    pub max_ttl: Option<u64>,
    /// Approvers needed.
    pub approvals: u8,
    /// The only command that runs.
    pub force_command: Option<String>,
    /// Networks to come from.
    pub source_addresses: Vec<String>,
    /// `mon 08:00-18:00`, UTC.
    pub hours: Vec<String>,
    /// Unix seconds.
    pub not_after: Option<u64>,
    /// What a session may have.
    pub permits: Vec<String>,
    /// The entry that added it.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl GrantRow {
    /// From the record.
    pub fn new(view: &Effective, id: Id, grant: &Grant) -> Self {
        let subject = match grant.subject {
            Subject::User(id) => view.users.get(&id).map_or_else(|| id.to_string(), |user| user.login.clone()),
            Subject::Group(id) => {
                format!("group:{}", view.groups.get(&id).map_or_else(|| id.to_string(), |group| group.name.clone()))
            }
        };
        let (hosts, labels, all_hosts) = match &grant.target {
            GrantTarget::Hosts(ids) => {
                let name = |id: &Id| view.hosts.get(id).map_or_else(|| id.to_string(), |host| host.name.clone());
                (ids.iter().map(name).collect(), Vec::new(), false)
            }
            GrantTarget::Labels(labels) => (Vec::new(), labels.iter().cloned().collect(), false),
            GrantTarget::All => (Vec::new(), Vec::new(), true),
        };
        Self {
            id,
            subject,
            hosts,
            labels,
            all_hosts,
            logins: grant.logins.iter().cloned().collect(),
            via: match grant.via & (Grant::VIA_CERTIFICATE | Grant::VIA_KEY) {
                Grant::VIA_CERTIFICATE => "cert",
                Grant::VIA_KEY => "key",
                0 => "none",
                _ => "both",
            },
            max_ttl: grant.max_ttl,
            approvals: grant.approvals,
            force_command: grant.forced_command.clone(),
            source_addresses: grant.source_addresses.clone(),
            hours: grant.hours.iter().map(|hours| values::hours_text(hours.weekday, hours.from, hours.to)).collect(),
            not_after: grant.not_after,
            permits: values::permit_names(grant.permits),
            at: grant.at,
        }
    }

    fn target(&self) -> String {
        if self.all_hosts {
            return "all hosts".to_owned();
        }
        if self.labels.is_empty() { self.hosts.join(" ") } else { format!("label:{}", self.labels.join("+")) }
    }
}

impl Row for GrantRow {
    const HEADING: &'static [&'static str] = &["ID", "SUBJECT", "HOSTS", "LOGINS", "VIA", "MAX TTL", "APPROVALS"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.subject.clone(),
            self.target(),
            self.logins.join(","),
            self.via.to_owned(),
            self.max_ttl.map(format_duration).unwrap_or_default(),
            self.approvals.to_string(),
        ]
    }
}

impl Show for GrantRow {
    fn text(&self) -> String {
        fields(&[
            ("grant", self.id.to_string()),
            ("subject", self.subject.clone()),
            ("hosts", self.target()),
            ("logins", self.logins.join(" ")),
            ("via", self.via.to_owned()),
            ("max TTL", self.max_ttl.map_or_else(|| "the CA's".to_owned(), format_duration)),
            ("approvals", self.approvals.to_string()),
            ("command", self.force_command.clone().unwrap_or_else(|| "any".to_owned())),
            ("from", if self.source_addresses.is_empty() { "any".to_owned() } else { self.source_addresses.join(" ") }),
            ("hours", if self.hours.is_empty() { "always".to_owned() } else { self.hours.join(", ") }),
            ("not after", self.not_after.map_or_else(|| "never".to_owned(), time)),
            ("permits", self.permits.join(" ")),
            ("added", format!("block {}, {}", block(self.at.block), time(self.at.time))),
        ])
    }
}

fn grant_entry(view: &View, args: &AddArgs, r: alloy_primitives::B128) -> Result<payload::GrantAdd, CliError> {
    let subject = match args.subject.strip_prefix("group:") {
        Some(group) => resolve::group(&view.ahead, group)?.0,
        None => resolve::user(&view.ahead, &args.subject)?.0,
    };
    if args.host.is_empty() && args.label.is_empty() && !args.all_hosts {
        return Err(CliError::Missing { what: "where the grant holds", flag: "--host, --label or --all-hosts" });
    }
    let hosts: Vec<Id> =
        args.host.iter().map(|host| resolve::host(&view.ahead, host).map(|(id, _)| id)).collect::<Result<_, _>>()?;
    let hours: Vec<Vec<payload::Hours>> =
        args.hours.iter().map(|text| values::hours(text)).collect::<Result<_, _>>()?;
    let max_ttl = args.max_ttl.as_deref().map_or(Ok(0), parse_duration);
    Ok(payload::GrantAdd {
        r,
        subject: bytes16(subject),
        hosts: hosts.into_iter().map(bytes16).collect(),
        labels: args.label.clone(),
        allHosts: args.all_hosts,
        logins: args.login.clone(),
        via: match args.via {
            Via::Cert => Grant::VIA_CERTIFICATE,
            Via::Key => Grant::VIA_KEY,
            Via::Both => Grant::VIA_CERTIFICATE | Grant::VIA_KEY,
        },
        maxTtl: max_ttl.map_err(|error| CliError::Argument { argument: "--max-ttl", problem: error.to_string() })?,
        approvals: args.approvals,
        forcedCommand: args.force_command.clone(),
        sourceAddresses: args.source_address.clone(),
        intervals: hours.into_iter().flatten().collect(),
        notAfter: values::end("--not-after", args.not_after.as_deref())?,
        permits: if args.no_permits { 0 } else { values::permits(&args.permit)? },
    })
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: GrantCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    match command {
        GrantCommand::Add(args) => {
            let about = format!("grant to {}: {}", args.subject, args.login.join(","));
            let mut entry = grant_entry(&view, &args, alloy_primitives::B128::ZERO)?;
            let mut draft = Draft::begin(context, &args.write, By::ActorOrRoots)?;
            draft.record(&about, |r| {
                entry.r = r;
                Entry::GrantAdd(entry)
            })?;
            draft.commit(context, &view).await
        }
        GrantCommand::Remove { grant, write } => {
            let (id, _) = resolve::grant(&view.ahead, &grant)?;
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&format!("grant {id}"), Some(id), Entry::Remove(vec![id]))?;
            draft.commit(context, &view).await
        }
        GrantCommand::List { user, host, page } => {
            let effective = &view.effective;
            let user = user.map(|user| resolve::user(effective, &user).map(|(id, _)| id)).transpose()?;
            let host = host.map(|host| resolve::host(effective, &host)).transpose()?;
            let names = |grant: &Grant| {
                user.is_none_or(|user| match grant.subject {
                    Subject::User(id) => id == user,
                    Subject::Group(group) => effective.group_members.contains(&(group, user)),
                })
            };
            let covers = |grant: &Grant| host.is_none_or(|(id, host)| grant.target.covers(id, &host.labels));
            let rows = effective
                .grants
                .iter()
                .filter(|(_, grant)| names(grant) && covers(grant))
                .map(|(id, grant)| GrantRow::new(effective, *id, grant));
            context.printer.result(&Page::cut(rows, &page)?)
        }
        GrantCommand::Show { grant } => {
            let (id, grant) = resolve::grant(&view.effective, &grant)?;
            context.printer.result(&GrantRow::new(&view.effective, id, grant))
        }
    }
}
