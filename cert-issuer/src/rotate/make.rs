//! Makes payloads anew: key pairs, host certificates, secrets, and what a command prints. Nothing is sent that its device would refuse:
//! each is looked at by the device's own function first, which also says when it ends.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use countersign_agent::receive::{check, split_pem};
use countersign_certificate::{BACKDATE_SECS, CertType};
use countersign_delivery::{Contents, Payload};
use countersign_registry::realm::{CaPurpose, CaState, State};
use countersign_registry::{Address, Effective, Id};
use ssh_key::PublicKey;
use zeroize::Zeroizing;

use super::command;
use super::setting::{CertificateSetting, CommandKind, Make, Named, Rotation};
use crate::ca_key::CaKey;
use crate::deliver;
use crate::policy::Order;
use crate::service::Issuer;
use crate::view::View;
use crate::wire::{CertificateFields, with_signature};

/// What a command printed, by the record that it is for; none: for all.
pub type Printed = Vec<(Option<Id>, Zeroizing<Vec<u8>>)>;

/// A payload that was made.
#[derive(Debug)]
pub struct Made {
    /// The payload.
    pub payload: Payload,
    /// The host or user that it is for; none: for all.
    pub subject: Option<Id>,
    /// Its public half.
    pub public: Option<String>,
    /// The first second in which it does not count any more.
    pub expires: Option<u64>,
}

/// Whom a rotation is for.
#[derive(Debug, Default)]
pub struct Targets {
    /// Hosts and users by record id, with their names.
    pub subjects: BTreeMap<Id, String>,
    /// Their ledger keys, each with whom it speaks for.
    pub addresses: BTreeMap<Address, Id>,
    /// Names of those without one.
    pub without_key: Vec<String>,
}

impl Targets {
    /// Looks them up.
    ///
    /// # Errors
    /// In words: a name that is nobody's, or several's.
    pub fn of(effective: &Effective, rule: &Rotation) -> Result<Self, String> {
        let mut found: BTreeMap<Id, String> = BTreeMap::new();
        for text in &rule.to {
            found.extend([Named::of(text).find(effective)?]);
        }
        if !rule.label.is_empty() {
            let meant = effective.hosts.iter().filter(|(_, host)| {
                host.state == State::Active && rule.label.iter().all(|label| host.labels.contains(label))
            });
            found.extend(meant.map(|(id, host)| (*id, host.name.clone())));
        }
        let mut targets = Self::default();
        for (id, name) in found {
            let addresses = deliver::recipients(effective, id);
            if addresses.is_empty() {
                targets.without_key.push(name);
            } else {
                targets.addresses.extend(addresses.into_iter().map(|address| (address, id)));
                targets.subjects.insert(id, name);
            }
        }
        Ok(targets)
    }
}

/// Runs a rule's command: once, or once for each of `subjects`.
///
/// # Errors
/// What went wrong first, in words.
pub async fn print(rule: Rotation, subjects: BTreeMap<Id, String>) -> Result<Printed, String> {
    let Some(program) = &rule.command else { return Err("no command".to_owned()) };
    let deadline = rule.deadline.duration();
    if !rule.is_each() {
        let variables = [("COUNTERSIGN_PAYLOAD", rule.name.as_str())];
        return Ok(vec![(None, command::run(program, &variables, deadline).await?)]);
    }
    let mut printed = Vec::with_capacity(subjects.len());
    for (id, name) in subjects {
        let text = id.to_string();
        let variables = [
            ("COUNTERSIGN_PAYLOAD", rule.name.as_str()),
            ("COUNTERSIGN_RECIPIENT", name.as_str()),
            ("COUNTERSIGN_RECIPIENT_ID", text.as_str()),
        ];
        let output = command::run(program, &variables, deadline).await;
        printed.push((Some(id), output.map_err(|problem| format!("for {name}: {problem}"))?));
    }
    Ok(printed)
}

/// What a command printed, as payloads.
///
/// # Errors
/// In words: what its device would refuse.
pub fn of_printed(effective: &Effective, rule: &Rotation, printed: Printed) -> Result<Vec<Made>, String> {
    printed
        .into_iter()
        .map(|(subject, bytes)| {
            let (contents, public) = match rule.kind {
                Some(CommandKind::X509KeyPair) => {
                    let text = std::str::from_utf8(&bytes).map_err(|_| "expected PEM, found other bytes".to_owned())?;
                    let (private_key, chain) = split_pem(text).map_err(|error| error.to_string())?;
                    let public = Some(chain.clone());
                    (Contents::X509KeyPair { private_key, chain }, public)
                }
                _ => (Contents::OpaqueSecret { secret: bytes }, None),
            };
            checked(effective, rule, contents, None).map(|made| Made { subject, public, ..made })
        })
        .collect()
}

/// Makes what needs no command.
///
/// # Errors
/// What went wrong first, in words.
pub async fn of_own(
    view: &View,
    issuer: &Issuer,
    rule: &Rotation,
    targets: &Targets,
    host_ca: Option<&(Id, CaKey)>,
) -> Result<Vec<Made>, String> {
    let effective = &view.effective;
    match rule.make {
        Make::Secret if rule.is_each() => {
            let each = targets.subjects.keys();
            each.map(|id| secret(effective, rule).map(|made| Made { subject: Some(*id), ..made })).collect()
        }
        Make::Secret => Ok(vec![secret(effective, rule)?]),
        Make::SshKeyPair => key_pairs(view, issuer, rule, targets).await,
        Make::HostCertificate => {
            let each = targets.subjects.keys();
            each.map(|id| host_certificate(effective, rule, *id, host_ca)).collect()
        }
        Make::Command => Err("a command is to be run".to_owned()),
    }
}

fn checked(effective: &Effective, rule: &Rotation, contents: Contents, own_key: Option<&[u8]>) -> Result<Made, String> {
    let payload = Payload::new(rule.name.as_str(), contents).map_err(|error| error.to_string())?;
    let checked =
        check(effective, &payload, own_key, effective.latest_block.time).map_err(|error| error.to_string())?;
    Ok(Made { payload, subject: None, public: None, expires: checked.valid_before })
}

fn secret(effective: &Effective, rule: &Rotation) -> Result<Made, String> {
    let mut bytes = Zeroizing::new(vec![0_u8; rule.bytes.unwrap_or_default()]);
    getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
    let text = Zeroizing::new(alloy_primitives::hex::encode(bytes.as_slice()));
    let secret = Zeroizing::new(text.as_bytes().to_vec());
    checked(effective, rule, Contents::OpaqueSecret { secret }, None)
}

async fn key_pairs(view: &View, issuer: &Issuer, rule: &Rotation, targets: &Targets) -> Result<Vec<Made>, String> {
    let effective = &view.effective;
    let mut pairs = Vec::with_capacity(targets.subjects.len());
    for (id, name) in &targets.subjects {
        let (private, blob) = deliver::generate_key_pair(name).map_err(|error| error.to_string())?;
        pairs.push((*id, name, private, blob));
    }
    let lines: Vec<Option<String>> = match &rule.certificate {
        None => pairs.iter().map(|_| None).collect(),
        Some(terms) => {
            let orders = pairs.iter().map(|(.., blob)| order(effective, terms, blob.clone()));
            let orders = orders.collect::<Result<Vec<_>, _>>()?;
            let now = effective.latest_block.time;
            let issued = issuer.issue(view, orders, now, &mut |_| {}).await.map_err(|error| error.to_string())?;
            let line = |one: Result<crate::issue::Issued, crate::IssueError>| one.and_then(|issued| issued.line());
            issued
                .into_iter()
                .map(|one| line(one).map(Some).map_err(|error| error.to_string()))
                .collect::<Result<_, _>>()?
        }
    };
    let mut all = Vec::with_capacity(pairs.len());
    for ((id, name, private_key, blob), certificate) in pairs.into_iter().zip(lines) {
        let mut public = PublicKey::from_bytes(&blob).map_err(|error| error.to_string())?;
        public.set_comment(name.as_str());
        let public = public.to_openssh().map_err(|error| error.to_string())?;
        let made = checked(effective, rule, Contents::SshKeyPair { private_key, certificate }, None)?;
        all.push(Made { subject: Some(id), public: Some(format!("{public}\n")), ..made });
    }
    Ok(all)
}

fn order(effective: &Effective, terms: &CertificateSetting, public_key: Vec<u8>) -> Result<Order, String> {
    let (user, _) = Named::User(&terms.user).find(effective)?;
    let (host, _) = Named::Host(&terms.host).find(effective)?;
    let ttl = NonZeroU64::new(terms.ttl.secs()).unwrap_or(NonZeroU64::MIN);
    Ok(Order { user, host, login: terms.login.clone(), ttl, public_key, request: None })
}

fn host_certificate(
    effective: &Effective,
    rule: &Rotation,
    host_id: Id,
    host_ca: Option<&(Id, CaKey)>,
) -> Result<Made, String> {
    let ((ca_id, key), setting) = host_ca.zip(rule.host_ca.as_ref()).ok_or("no CA for host certificates")?;
    let ca = effective.cas.get(ca_id).ok_or_else(|| format!("CA {ca_id}: not on the ledger any more"))?;
    if ca.purpose != CaPurpose::Host || ca.state != CaState::Active {
        return Err(format!("CA {}: expected an active CA for host certificates", ca.name));
    }
    key.expect(&ca.public_key).map_err(|error| error.to_string())?;
    let host = effective.hosts.get(&host_id).filter(|host| host.state == State::Active);
    let host = host.ok_or_else(|| format!("{host_id}: expected a host that is not locked"))?;
    if host.host_key.is_empty() {
        return Err(format!("host {}: no host key on the ledger", host.name));
    }
    let now = effective.latest_block.time;
    let random = |error: crate::IssueError| error.to_string();
    let fields = CertificateFields {
        cert_type: CertType::Host,
        public_key: host.host_key.to_vec(),
        nonce: crate::issue::random().map_err(random)?,
        serial: u64::from_be_bytes(crate::issue::random().map_err(random)?),
        key_id: format!("{}/{host_id}", host.name),
        principals: vec![host.name.clone()],
        valid_after: now.saturating_sub(BACKDATE_SECS),
        valid_before: now.saturating_add(setting.ttl.secs()),
        critical_options: BTreeMap::new(),
        extensions: BTreeMap::new(),
        ca_key: ca.public_key.to_vec(),
    };
    let unsigned = fields.pre_certificate().map_err(|error| error.to_string())?;
    let signature = key.sign(&unsigned).map_err(|error| error.to_string())?;
    let certificate = with_signature(&unsigned, &signature).map_err(|error| error.to_string())?;
    let certificate = ssh_key::Certificate::from_bytes(&certificate).and_then(|certificate| certificate.to_openssh());
    let certificate = format!("{}\n", certificate.map_err(|error| error.to_string())?.trim_end());
    let made = checked(effective, rule, Contents::HostCertificate { certificate }, Some(&host.host_key))?;
    Ok(Made { subject: Some(host_id), ..made })
}
