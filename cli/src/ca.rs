//! `countersign ca`: the certificate authorities that hosts of a realm know. Adding one takes the roots; locking and retiring one
//! takes a revoker, at once.

use std::path::PathBuf;

use alloy_primitives::{Address, Bytes};
use clap::{Subcommand, ValueEnum};
use countersign_issuer::duration::{format_duration, parse_duration};
use countersign_registry::entries::{Entry, Targets, payload};
use countersign_registry::realm::{Ca, CaPurpose, CaState, EntryRef};
use countersign_registry::{Effective, Id};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::files;
use crate::output::{Show, block, fields, time};
use crate::page::{Page, PageArgs, Row};
use crate::resolve;
use crate::write::{By, Draft, WriteArgs};

/// What a CA certifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// User certificates
    User,
    /// Host certificates
    Host,
}

/// What becomes of a CA that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Old {
    /// Its certificates run out, newer ones are refused
    Retire,
    /// Its certificates are refused at once: for a stolen key
    Lock,
    /// Nothing yet: retire it once the new one has taken over
    Keep,
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Add a CA (by the roots)
    Add {
        /// For people: [a-z0-9._-]{1,63}
        name: String,
        /// The CA's public key
        #[arg(long, value_name = "FILE.pub")]
        key: PathBuf,
        /// The longest certificate it may sign
        #[arg(long, value_name = "DURATION", default_value = "1h")]
        max_ttl: String,
        /// A login it may certify; may be given several times; none: any
        #[arg(long, value_name = "LOGIN")]
        login: Vec<String>,
        /// A ledger key whose batches carry its certificates; may be given several times
        #[arg(long, value_name = "ADDRESS", required = true)]
        issuer: Vec<String>,
        /// What it certifies
        #[arg(long, value_enum, default_value = "user")]
        purpose: Purpose,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Put a CA with another key and the same limits in a CA's place (by the roots)
    Rotate {
        /// Id or name
        ca: String,
        /// The new CA's public key
        #[arg(long, value_name = "FILE.pub")]
        key: PathBuf,
        /// The new CA's name [default: the old one's with the next number]
        #[arg(long)]
        name: Option<String>,
        /// What becomes of the old one
        #[arg(long, value_enum, default_value = "retire")]
        old: Old,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Replace a CA's limits: tighter by a revoker, looser by the roots
    Limit {
        /// Id or name
        ca: String,
        /// The longest certificate it may sign
        #[arg(long, value_name = "DURATION")]
        max_ttl: Option<String>,
        /// A login it may certify; may be given several times
        #[arg(long, value_name = "LOGIN")]
        login: Vec<String>,
        /// A ledger key whose batches carry its certificates; may be given several times
        #[arg(long, value_name = "ADDRESS")]
        issuer: Vec<String>,
        /// Loosen (by the roots) instead of tighten
        #[arg(long)]
        loosen: bool,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// List CAs
    List {
        /// Which part of the list
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show a CA
    Show {
        /// Id or name
        ca: String,
    },
    /// Refuse a CA's certificates at once, until the roots unlock it
    Lock {
        /// Id or name
        ca: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Let a CA's certificates run out; newer ones are refused
    Retire {
        /// Id or name
        ca: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Revoke a CA for good (by the roots)
    Revoke {
        /// Id or name
        ca: String,
        /// Who writes it, and where to
        #[command(flatten)]
        write: WriteArgs,
    },
}

/// A CA as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CaRow {
    /// Record id.
    pub id: Id,
    /// For people.
    pub name: String,
    /// active, locked, retired or revoked.
    pub state: &'static str,
    /// Unix seconds, where retired.
    pub retired_at: Option<u64>,
    /// user or host.
    pub purpose: &'static str,
    /// As in a `.pub` file.
    pub public_key: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Seconds.
    pub max_ttl: u64,
    /// None: any.
    pub logins: Option<Vec<String>>,
    /// Ledger keys.
    pub issuers: Vec<Address>,
    /// The entry that added it.
    #[serde(serialize_with = "crate::output::place")]
    pub at: EntryRef,
}

impl CaRow {
    fn new(id: Id, ca: &Ca) -> Self {
        let (state, retired_at) = match ca.state {
            CaState::Active => ("active", None),
            CaState::Locked => ("locked", None),
            CaState::Retired { at } => ("retired", Some(at)),
            CaState::Revoked => ("revoked", None),
        };
        Self {
            id,
            name: ca.name.clone(),
            state,
            retired_at,
            purpose: match ca.purpose {
                CaPurpose::User => "user",
                CaPurpose::Host => "host",
            },
            public_key: files::key_line(&ca.public_key),
            fingerprint: files::sha256_fingerprint(&ca.public_key),
            max_ttl: ca.limits.max_ttl,
            logins: ca.limits.logins.as_ref().map(|logins| logins.iter().cloned().collect()),
            issuers: ca.limits.issuers.iter().copied().collect(),
            at: ca.at,
        }
    }
}

impl Row for CaRow {
    const HEADING: &'static [&'static str] = &["ID", "NAME", "STATE", "MAX TTL", "FINGERPRINT"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.name.clone(),
            self.state.to_owned(),
            format_duration(self.max_ttl),
            self.fingerprint.clone(),
        ]
    }
}

impl Show for CaRow {
    fn text(&self) -> String {
        let issuers: Vec<String> = self.issuers.iter().map(Address::to_string).collect();
        fields(&[
            ("CA", self.name.clone()),
            ("id", self.id.to_string()),
            (
                "state",
                match self.retired_at {
                    Some(at) => format!("{} at {}", self.state, time(at)),
                    None => self.state.to_owned(),
                },
            ),
            ("certifies", format!("{}s", self.purpose)),
            ("key", self.public_key.clone()),
            ("fingerprint", self.fingerprint.clone()),
            ("max TTL", format_duration(self.max_ttl)),
            ("logins", self.logins.as_ref().map_or_else(|| "any".to_owned(), |logins| logins.join(" "))),
            ("issuers", issuers.join(" ")),
            ("added", format!("block {}, {}", block(self.at.block), time(self.at.time))),
        ])
    }
}

fn named(view: &Effective, name: &str) -> bool {
    view.cas.values().any(|ca| ca.name == name)
}

/// `prod`, `prod-2`, `prod-3`, …: the first that is not taken.
fn next_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let (stem, number) = match name.rsplit_once('-') {
        Some((stem, number)) => (stem, number.parse::<u32>().ok()),
        None => (name, None),
    };
    let (stem, first) = match number {
        Some(number) => (stem, number),
        None => (name, 1),
    };
    let mut number = first;
    loop {
        number = number.saturating_add(1);
        let next = format!("{stem}-{number}");
        if !taken(&next) || number == u32::MAX {
            return next;
        }
    }
}

fn addresses(argument: &'static str, texts: &[String]) -> Result<Vec<Address>, CliError> {
    texts.iter().map(|text| resolve::address(argument, text)).collect()
}

fn ttl(text: &str) -> Result<u64, CliError> {
    parse_duration(text).map_err(|error| CliError::Argument { argument: "--max-ttl", problem: error.to_string() })
}

/// The logins that a CA may certify, for an entry that repeats them; none of them means any there.
fn logins_kept(ca: &Ca) -> Result<Vec<String>, CliError> {
    match &ca.limits.logins {
        Some(logins) if logins.is_empty() => Err(CliError::Refused(format!(
            "CA {} may certify no login at all, since it was tightened: an entry with the same limits would let it certify any. \
             Say which with `countersign ca limit --loosen --login` first",
            ca.name
        ))),
        logins => Ok(logins.iter().flatten().cloned().collect()),
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: CaCommand) -> Result<(), CliError> {
    let view = context.view().await?;
    match command {
        CaCommand::Add { name, key, max_ttl, login, issuer, purpose, write } => {
            let blob = files::public_key(&key)?;
            let (max_ttl, issuers) = (ttl(&max_ttl)?, addresses("--issuer", &issuer)?);
            let about = format!("CA {name}, key {}", files::sha256_fingerprint(&blob));
            let mut draft = Draft::begin(context, &write, By::Roots)?;
            draft.record(&about, |r| {
                Entry::CaAdd(payload::CaAdd {
                    r,
                    purpose: match purpose {
                        Purpose::User => 1,
                        Purpose::Host => 2,
                    },
                    name,
                    publicKey: Bytes::from(blob),
                    maxTtl: max_ttl,
                    logins: login,
                    issuers,
                })
            })?;
            draft.commit(context, &view).await
        }
        CaCommand::Rotate { ca, key, name, old, write } => {
            let (id, ca) = resolve::ca(&view.ahead, &ca)?;
            let blob = files::public_key(&key)?;
            let taken = view.ahead.cas.values().any(|other| other.public_key == blob);
            if taken {
                return Err(CliError::Content { path: key, problem: "is the key of a CA already".to_owned() });
            }
            let name = name.unwrap_or_else(|| next_name(&ca.name, |name| named(&view.ahead, name)));
            if named(&view.ahead, &name) {
                let problem = format!("`{name}`: a CA has this name already");
                return Err(CliError::Argument { argument: "--name", problem });
            }
            let fingerprint = files::sha256_fingerprint(&blob);
            let logins = logins_kept(ca)?;
            let mut draft = Draft::begin(context, &write, By::Roots)?;
            let about = format!("CA {name}, key {fingerprint}, with the limits of {}", ca.name);
            draft.record(&about, |r| {
                Entry::CaAdd(payload::CaAdd {
                    r,
                    purpose: match ca.purpose {
                        CaPurpose::User => 1,
                        CaPurpose::Host => 2,
                    },
                    name: name.clone(),
                    publicKey: Bytes::from(blob),
                    maxTtl: ca.limits.max_ttl,
                    logins,
                    issuers: ca.limits.issuers.iter().copied().collect(),
                })
            })?;
            let end = match old {
                Old::Retire => {
                    draft.entry(&format!("retire CA {}", ca.name), Some(id), Entry::CaRetire(vec![id]))?;
                    "from the block of this on its new certificates are refused; those it has signed run out"
                }
                Old::Lock => {
                    draft.entry(&format!("lock CA {}", ca.name), Some(id), Entry::Lock(Targets::Cas(vec![id])))?;
                    "from the block of this on its certificates are refused, all of them"
                }
                Old::Keep => "it goes on; retire it once the new one signs: `countersign ca retire`",
            };
            context.printer.note(&format!("the new CA {name} counts once this is final"));
            context.printer.note(&format!("the old CA {}: {end}", ca.name));
            context.printer.note(&format!("then give its issuers the new key, and `ca = \"{name}\"` in issuer.toml"));
            draft.commit(context, &view).await
        }
        CaCommand::Limit { ca, max_ttl, login, issuer, loosen, write } => {
            let (id, ca) = resolve::ca(&view.ahead, &ca)?;
            let limits = payload::CaLimits {
                ca: crate::write::bytes16(id),
                maxTtl: max_ttl.map_or(Ok(ca.limits.max_ttl), |text| ttl(&text))?,
                logins: match (login.is_empty(), loosen) {
                    (false, _) => login,
                    (true, true) => logins_kept(ca)?,
                    // What is left of none by any list is none.
                    (true, false) => ca.limits.logins.iter().flatten().cloned().collect(),
                },
                issuers: if issuer.is_empty() {
                    ca.limits.issuers.iter().copied().collect()
                } else {
                    addresses("--issuer", &issuer)?
                },
            };
            let (by, entry) = if loosen {
                (By::Roots, Entry::CaLoosen(limits))
            } else {
                (By::ActorOrRoots, Entry::CaTighten(limits))
            };
            let mut draft = Draft::begin(context, &write, by)?;
            draft.entry(&format!("limits of CA {}", ca.name), Some(id), entry)?;
            draft.commit(context, &view).await
        }
        CaCommand::List { page } => {
            let rows = view.effective.cas.iter().map(|(id, ca)| CaRow::new(*id, ca));
            context.printer.result(&Page::cut(rows, &page)?)
        }
        CaCommand::Show { ca } => {
            let (id, ca) = resolve::ca(&view.effective, &ca)?;
            context.printer.result(&CaRow::new(id, ca))
        }
        CaCommand::Lock { ca, write } => {
            let (id, ca) = resolve::ca(&view.ahead, &ca)?;
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&format!("lock CA {}", ca.name), Some(id), Entry::Lock(Targets::Cas(vec![id])))?;
            draft.commit(context, &view).await
        }
        CaCommand::Retire { ca, write } => {
            let (id, ca) = resolve::ca(&view.ahead, &ca)?;
            let mut draft = Draft::begin(context, &write, By::ActorOrRoots)?;
            draft.entry(&format!("retire CA {}", ca.name), Some(id), Entry::CaRetire(vec![id]))?;
            draft.commit(context, &view).await
        }
        CaCommand::Revoke { ca, write } => {
            let (id, ca) = resolve::ca(&view.ahead, &ca)?;
            let mut draft = Draft::begin(context, &write, By::Roots)?;
            draft.entry(&format!("revoke CA {}", ca.name), Some(id), Entry::Revoke(Targets::Cas(vec![id])))?;
            draft.commit(context, &view).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_registry::realm::{Ca, CaLimits, CaState, EntryRef};

    #[test]
    fn the_next_name_counts_on_and_is_free() {
        assert_eq!(next_name("prod", |_| false), "prod-2");
        assert_eq!(next_name("prod-2", |_| false), "prod-3");
        assert_eq!(next_name("prod-eu", |_| false), "prod-eu-2");
        assert_eq!(next_name("prod", |name| name == "prod-2" || name == "prod-3"), "prod-4");
    }

    #[test]
    fn the_limits_of_a_ca_that_may_certify_nothing_are_not_repeated_as_those_of_one_that_may_certify_anything() {
        let ca = |logins: Option<&[&str]>| Ca {
            purpose: CaPurpose::User,
            name: "prod".to_owned(),
            public_key: Vec::new().into(),
            limits: CaLimits {
                max_ttl: 300,
                logins: logins.map(|logins| logins.iter().map(|login| (*login).to_owned()).collect()),
                issuers: Default::default(),
            },
            state: CaState::Active,
            at: EntryRef { block: 1, shard: 0, index: 0, time: 1 },
        };
        assert_eq!(logins_kept(&ca(None)).unwrap(), Vec::<String>::new());
        assert_eq!(logins_kept(&ca(Some(&["deploy"]))).unwrap(), ["deploy"]);
        let error = logins_kept(&ca(Some(&[]))).unwrap_err();
        assert!(error.to_string().contains("no login at all"), "{error}");
    }
}
