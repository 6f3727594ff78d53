//! Makes payloads anew: key pairs, host certificates, secrets, and what a command prints. Nothing is sent that its device would refuse:
//! each is looked at by the device's own function first, which also says when it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use countersign_agent::receive::{check, split_pem};
use countersign_certificate::{BACKDATE_SECS, CertType};
use countersign_delivery::{Contents, Payload};
use countersign_registry::realm::{CaPurpose, CaState, State};
use countersign_registry::{Address, Effective, Id};
use ssh_key::PublicKey;
use zeroize::Zeroizing;

use super::book::Half;
use super::command;
use super::setting::{CertificateSetting, CommandKind, Make, Named, Rotation};
use crate::ca_key::CaKey;
use crate::deliver;
use crate::error::IssueError;
use crate::policy::Order;
use crate::service::Issuer;
use crate::view::View;
use crate::wire::{CertificateFields, with_signature};

/// What a command printed, or why not, by the record that it is for; none: for all.
pub type Printed = Vec<(Option<Id>, Result<Zeroizing<Vec<u8>>, String>)>;

/// What was made, and for whom nothing could be made.
#[derive(Debug, Default)]
pub struct Makings {
    /// At least one.
    pub made: Vec<Made>,
    /// Why, by record.
    pub left_out: BTreeMap<Id, String>,
}

impl Makings {
    /// Each is judged alone: one that fails keeps nobody else from getting his.
    ///
    /// # Errors
    /// The first problem, where nothing was made.
    fn of(each: impl IntoIterator<Item = (Option<Id>, Result<Made, String>)>) -> Result<Self, String> {
        let mut makings = Self::default();
        for (subject, result) in each {
            match (subject, result) {
                (_, Ok(made)) => makings.made.push(Made { subject, ..made }),
                (Some(id), Err(problem)) => {
                    makings.left_out.insert(id, problem);
                }
                (None, Err(problem)) => return Err(problem),
            }
        }
        match (makings.made.is_empty(), makings.left_out.values().next()) {
            (true, Some(problem)) => Err(problem.clone()),
            _ => Ok(makings),
        }
    }
}

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
#[derive(Debug, Default, Clone)]
pub struct Targets {
    /// Hosts and users by record id, with their names.
    pub subjects: BTreeMap<Id, String>,
    /// Their ledger keys, each with whom it speaks for.
    pub addresses: BTreeMap<Address, Id>,
    /// Names of those without one.
    pub without_key: Vec<String>,
    /// Who is named and gets nothing, each with why.
    pub left_out: BTreeSet<String>,
    /// Ledger keys that nothing can be sealed to now, and why. What was sealed to them before counts.
    pub unfit: BTreeMap<Address, String>,
}

impl Targets {
    /// Looks them up, and judges each alone.
    #[must_use]
    pub fn of(effective: &Effective, rule: &Rotation) -> Self {
        let mut targets = Self::default();
        let mut found: BTreeMap<Id, String> = BTreeMap::new();
        for text in &rule.to {
            match Named::of(text).find(effective) {
                Ok(one) => found.extend([one]),
                Err(problem) => {
                    targets.left_out.insert(problem);
                }
            }
        }
        if !rule.label.is_empty() {
            let meant = effective.hosts.iter().filter(|(_, host)| {
                host.state != State::Revoked && rule.label.iter().all(|label| host.labels.contains(label))
            });
            found.extend(meant.map(|(id, host)| (*id, host.name.clone())));
        }
        for (id, name) in found {
            if let Some(problem) = obstacle(effective, rule, id) {
                targets.left_out.insert(format!("{name}: {problem}"));
                continue;
            }
            let addresses = deliver::recipients(effective, id);
            if addresses.is_empty() {
                targets.without_key.push(name);
            } else {
                targets.addresses.extend(addresses.into_iter().map(|address| (address, id)));
                targets.subjects.insert(id, name);
            }
        }
        targets
    }

    /// Those of them that something can be sealed to.
    #[must_use]
    pub fn fit(&self) -> Self {
        let mut fit = self.clone();
        fit.addresses.retain(|address, _| !self.unfit.contains_key(address));
        let served: BTreeSet<Id> = fit.addresses.values().copied().collect();
        fit.subjects.retain(|id, _| served.contains(id));
        fit
    }
}

/// Why a host or user that is meant gets nothing of this rule's.
fn obstacle(effective: &Effective, rule: &Rotation, id: Id) -> Option<&'static str> {
    if let Some(problem) = deliver::obstacle(effective, id) {
        return Some(problem);
    }
    let host = effective.hosts.get(&id)?;
    // Names are not unique on the ledger: whoever may add a host could have a certificate made for another's.
    let live = effective.hosts.values().filter(|other| other.state != State::Revoked && other.name == host.name);
    if rule.is_each() && rule.make != Make::Secret && live.count() > 1 {
        return Some("several hosts have this name; revoke or remove all but one");
    }
    (rule.make == Make::HostCertificate && host.host_key.is_empty()).then_some("no host key on the ledger")
}

/// Runs a rule's command: once, or once for each of `subjects`.
pub async fn print(rule: Rotation, subjects: BTreeMap<Id, String>) -> Printed {
    let Some(program) = &rule.command else { return vec![(None, Err("no command".to_owned()))] };
    let deadline = rule.deadline.duration();
    if !rule.is_each() {
        let variables = [("COUNTERSIGN_PAYLOAD", rule.name.as_str())];
        return vec![(None, command::run(program, &variables, deadline).await)];
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
        printed.push((Some(id), output.map_err(|problem| format!("for {name}: {problem}"))));
    }
    printed
}

/// What a command printed, as payloads.
///
/// # Errors
/// In words, where there is none: what went wrong, or what its device would refuse.
pub fn of_printed(effective: &Effective, rule: &Rotation, printed: Printed) -> Result<Makings, String> {
    let read = |bytes: Zeroizing<Vec<u8>>| {
        let (contents, public) = match rule.kind {
            Some(CommandKind::X509KeyPair) => {
                let text = std::str::from_utf8(&bytes).map_err(|_| "expected PEM, found other bytes".to_owned())?;
                let (private_key, chain) = split_pem(text).map_err(|error| error.to_string())?;
                let public = Some(chain.clone());
                (Contents::X509KeyPair { private_key, chain }, public)
            }
            _ => (Contents::OpaqueSecret { secret: bytes }, None),
        };
        checked(effective, rule, contents, None).map(|made| Made { public, ..made })
    };
    Makings::of(printed.into_iter().map(|(subject, output)| (subject, output.and_then(read))))
}

/// Makes what needs no command. `publishable` is asked about public halves before anything is issued for them.
///
/// # Errors
/// What went wrong first, in words, where nothing was made.
pub async fn of_own(
    view: &View,
    issuer: &Issuer,
    rule: &Rotation,
    targets: &Targets,
    host_ca: Option<&(Id, CaKey)>,
    publishable: impl Fn(&[Half]) -> Result<(), String>,
) -> Result<Makings, String> {
    let effective = &view.effective;
    let each = targets.subjects.keys();
    match rule.make {
        Make::Secret if rule.is_each() => Makings::of(each.map(|id| (Some(*id), secret(effective, rule)))),
        Make::Secret => Makings::of([(None, secret(effective, rule))]),
        Make::SshKeyPair => key_pairs(view, issuer, rule, targets, publishable).await,
        Make::HostCertificate => {
            Makings::of(each.map(|id| (Some(*id), host_certificate(effective, rule, *id, host_ca))))
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

/// A key pair that has no certificate yet.
struct Pair {
    subject: Id,
    private: Zeroizing<String>,
    blob: Vec<u8>,
    public: String,
}

impl Pair {
    fn new(subject: Id, name: &str) -> Result<Self, String> {
        let (private, blob) = deliver::generate_key_pair(name).map_err(|error| error.to_string())?;
        let mut public = PublicKey::from_bytes(&blob).map_err(|error| error.to_string())?;
        public.set_comment(name);
        let public = format!("{}\n", public.to_openssh().map_err(|error| error.to_string())?);
        Ok(Self { subject, private, blob, public })
    }

    fn made(&self, effective: &Effective, rule: &Rotation, certificate: Option<String>) -> Result<Made, String> {
        let private_key = self.private.clone();
        let made = checked(effective, rule, Contents::SshKeyPair { private_key, certificate }, None)?;
        Ok(Made { public: Some(self.public.clone()), ..made })
    }
}

async fn key_pairs(
    view: &View,
    issuer: &Issuer,
    rule: &Rotation,
    targets: &Targets,
    publishable: impl Fn(&[Half]) -> Result<(), String>,
) -> Result<Makings, String> {
    let effective = &view.effective;
    let pairs = targets.subjects.iter().map(|(id, name)| Pair::new(*id, name));
    let mut pairs = pairs.collect::<Result<Vec<Pair>, _>>()?;
    let bare = Makings::of(pairs.iter().map(|pair| (Some(pair.subject), pair.made(effective, rule, None))))?;
    // What can be known beforehand is known before a batch is paid for.
    let half = |pair: &Pair| Half { subject: Some(pair.subject), text: pair.public.clone() };
    publishable(&pairs.iter().map(half).collect::<Vec<_>>())?;
    let Some(terms) = &rule.certificate else { return Ok(bare) };
    let mut refused = bare.left_out;
    pairs.retain(|pair| !refused.contains_key(&pair.subject));
    let now = effective.latest_block.time;
    let orders = |pairs: &[Pair]| -> Result<Vec<Order>, String> {
        pairs.iter().map(|pair| order(effective, terms, pair.blob.clone())).collect()
    };
    let verdicts = issuer.rehearse(view, orders(&pairs)?, now).map_err(|error| error.to_string())?;
    for (pair, verdict) in pairs.iter().zip(verdicts) {
        if let Err(error) = verdict {
            refused.insert(pair.subject, error.to_string());
        }
    }
    pairs.retain(|pair| !refused.contains_key(&pair.subject));
    if pairs.is_empty() {
        return Err(refused.into_values().next().unwrap_or_else(|| "nobody to make a key pair for".to_owned()));
    }
    let issued = issuer.issue(view, orders(&pairs)?, now, &mut |_| {}).await.map_err(|error| error.to_string())?;
    let finish = |(pair, one): (Pair, Result<crate::issue::Issued, IssueError>)| {
        let line = one.and_then(|issued| issued.line()).map_err(|error| error.to_string());
        (Some(pair.subject), line.and_then(|line| pair.made(effective, rule, Some(line))))
    };
    let mut makings = Makings::of(pairs.into_iter().zip(issued).map(finish))?;
    makings.left_out.extend(refused);
    Ok(makings)
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
    let host = effective.hosts.get(&host_id).ok_or_else(|| format!("{host_id}: expected a host"))?;
    if let Some(problem) = obstacle(effective, rule, host_id) {
        return Err(format!("host {}: {problem}", host.name));
    }
    let now = effective.latest_block.time;
    let random = |error: IssueError| error.to_string();
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
    checked(effective, rule, Contents::HostCertificate { certificate }, Some(&host.host_key))
}
