//! A certificate: whose, by whom, for what, since when; then its batch and its approvals.
//!
//! What sshd says beside the certificate (`%i`, `%s`, `%K`) is only compared with it. Which principal is meant is never left
//! to sshd: exactly one is printed, the login.

use std::num::NonZeroU64;

use countersign_certificate::{
    BACKDATE_SECS, CertType, Certificate, Fingerprint20, Id, KeyAlgorithm, PublicKey, Scope, Target, encode_base64,
    fingerprint_sha256,
};
use countersign_snapshot::{Ca, CaState, Grant, KeyState};

use super::{CaName, Judge, Moment, Refusal, grant_options};
use crate::options::is_network;
use crate::query::{Mode, is_safe_principal};
use crate::reason::Reason;
use crate::step::Step;

const FORCE_COMMAND: &str = "force-command";
const SOURCE_ADDRESS: &str = "source-address";
const VERIFY_REQUIRED: &str = "verify-required";

impl Judge<'_> {
    pub(super) fn judge_certificate(&mut self) -> Result<String, Refusal> {
        let query = self.query;
        let certificate =
            Certificate::parse(query.blob()).map_err(|error| Refusal::new(Reason::CertificateMalformed, error))?;
        self.facts.key = Some(fingerprint_sha256(&certificate.public_key));
        self.facts.serial = Some(certificate.serial);
        self.facts.ca = Some(CaName::Key(fingerprint_sha256(certificate.signature_key)));
        if certificate.cert_type != CertType::User {
            return Err(Reason::CertificateType.into());
        }
        self.check_claims(&certificate)?;
        self.check_certified_key(&certificate)?;
        let ca = self.certifying_ca(&certificate)?;
        self.check_validity(&certificate, &ca)?;
        self.check_principals(&certificate)?;
        check_critical_options(&certificate)?;
        let (scope, grant) = self.scoped_grant(&certificate, &ca)?;

        if self.snapshot.serial_revoked(ca.id, certificate.serial)? {
            return Err(Reason::CertificateRevoked.into());
        }
        (self.observe)(Step::SerialNotRevoked(ca.id, certificate.serial));
        let batch = self.logged_batch(&certificate, &scope.realm, &ca, self.max_ttl_secs(&ca, Some(&grant)))?;
        // In the block that retires it, the denial wins.
        if let CaState::Retired { at_secs } = ca.state
            && batch.is_none_or(|batch| batch.time_secs >= at_secs)
        {
            return Err(Reason::CaRetired.into());
        }
        self.check_approvals(&certificate, &scope, &grant)?;
        check_forced_command(&certificate, &grant)?;
        self.line(&ca, &grant_options(&grant)?)
    }

    fn check_claims(&self, certificate: &Certificate<'_>) -> Result<(), Refusal> {
        let contradicts = |detail: &str| Err(Refusal::new(Reason::BadArguments, detail));
        match self.query.claims() {
            None => Ok(()),
            Some(claims) if claims.serial != certificate.serial => contradicts("%s is not the certificate's serial"),
            Some(claims) if claims.key_id != certificate.key_id.as_bytes() => {
                contradicts("%i is not the certificate's key id")
            }
            Some(claims) if claims.ca_blob != certificate.signature_key => {
                contradicts("%K is not the key that signed the certificate")
            }
            Some(_) => Ok(()),
        }
    }

    fn check_certified_key(&mut self, certificate: &Certificate<'_>) -> Result<(), Refusal> {
        let fingerprint = certificate.fingerprint();
        self.check_not_denied(fingerprint, Reason::KeyLocked, Reason::KeyRevoked)?;
        // It need not be registered; if it is, a state against it counts here too.
        match self.snapshot.key(fingerprint)?.map(|key| key.state) {
            None | Some(KeyState::Active) => Ok(()),
            Some(KeyState::Locked) => Err(Reason::KeyLocked.into()),
            Some(KeyState::Revoked) => Err(Reason::KeyRevoked.into()),
        }
    }

    fn certifying_ca(&mut self, certificate: &Certificate<'_>) -> Result<Ca, Refusal> {
        let blob = certificate.signature_key;
        let ca = self.snapshot.ca(&fingerprint_sha256(blob))?.ok_or(Reason::CaUnknown)?;
        self.facts.ca = Some(CaName::Id(ca.id));
        if ca.key_blob != blob {
            return Err(Refusal::new(Reason::SnapshotCorrupt, "the CA's record holds another key than it is found by"));
        }
        match ca.state {
            // A retired CA's certificates count if they were logged before: checked with the batch.
            CaState::Active | CaState::Retired { .. } => {}
            CaState::Locked => return Err(Reason::CaLocked.into()),
            CaState::Revoked => return Err(Reason::CaRevoked.into()),
        }
        self.check_not_denied(Fingerprint20::of_blob(blob), Reason::CaLocked, Reason::CaRevoked)?;
        if ca.logins_restricted && !self.snapshot.ca_allows_login(ca.id, self.query.login().as_bytes())? {
            return Err(Reason::CaLogin.into());
        }
        (self.observe)(Step::Ca(&ca));
        Ok(ca)
    }

    fn check_validity(&mut self, certificate: &Certificate<'_>, ca: &Ca) -> Result<(), Refusal> {
        let now = self.clock.unix_secs;
        if now < certificate.valid_after && self.moment == Moment::Login {
            return Err(Reason::CertificateNotYetValid.into());
        }
        if now >= certificate.valid_before {
            return Err(Reason::CertificateExpired.into());
        }
        check_ttl(certificate, self.max_ttl_secs(ca, None))?;
        (self.observe)(Step::Certificate(certificate));
        Ok(())
    }

    /// The strictest of the limits that the realm, the CA and the grant set.
    fn max_ttl_secs(&self, ca: &Ca, grant: Option<&Grant>) -> u64 {
        let of_grant = grant.and_then(|grant| grant.max_ttl_secs).map_or(u64::MAX, NonZeroU64::get);
        self.snapshot.facts().max_ttl_secs.min(ca.max_ttl_secs).min(of_grant)
    }

    fn check_principals(&self, certificate: &Certificate<'_>) -> Result<(), Refusal> {
        let refuse = |detail: &str| Err(Refusal::new(Reason::Principals, detail));
        if certificate.principals.is_empty() {
            return refuse("the certificate has none, which some versions of sshd take for everybody");
        }
        // A comma would be two principals to sshd before 10.3 (CVE-2026-35414), a star many.
        if !certificate.principals.iter().all(|principal| is_safe_principal(principal)) {
            return refuse("not all of them are made of [A-Za-z0-9._@-]");
        }
        if !certificate.principals.contains(&self.query.login()) {
            return refuse("the login is not among them");
        }
        Ok(())
    }

    fn scoped_grant(&mut self, certificate: &Certificate<'_>, ca: &Ca) -> Result<(Scope, Grant), Refusal> {
        let scope = certificate.scope().map_err(|error| Refusal::new(Reason::ScopeMalformed, error))?;
        let scope = scope.ok_or(Reason::ScopeMissing)?;
        self.facts.user = Some(scope.user);
        self.facts.grant = Some(scope.grant);
        self.facts.request = Some(scope.request);
        let facts = self.snapshot.facts();
        if !self.snapshot.takes_realm(&scope.realm)? {
            return Err(Reason::ScopeRealm.into());
        }
        let is_here = match scope.target {
            Target::Host(host) => host == facts.host,
            Target::Label(digest) => self.snapshot.has_label(&digest)?,
            Target::AllHosts => true,
        };
        if !is_here {
            return Err(Reason::ScopeHost.into());
        }
        (self.observe)(Step::Scope(&scope));
        self.check_user(scope.user)?;
        let grant = self.live_grant(scope.grant, scope.user)?;
        if !grant.via.certificate {
            return Err(Reason::GrantNotViaCert.into());
        }
        check_ttl(certificate, self.max_ttl_secs(ca, Some(&grant)))?;
        (self.observe)(Step::Grant(scope.grant, &grant));
        Ok((scope, grant))
    }

    fn line(&self, ca: &Ca, options: &str) -> Result<String, Refusal> {
        let login = self.query.login();
        match self.query.mode() {
            // There, and only there, sshd cuts a line at any # (quoted or not), and refuses the rest. The keys command, which it asks next
            // about the same certificate, can still say it.
            Mode::Principals if options.contains('#') => Err(Refusal::new(
                Reason::ForceCommand,
                "sshd takes the # in the forced command for a comment among principals",
            )),
            Mode::Principals => Ok(format!("{options} {login}")),
            Mode::Keys => {
                let key = plain_ca_key(ca.id, &ca.key_blob)?;
                let blob = encode_base64(&ca.key_blob);
                Ok(format!("{options},cert-authority,principals=\"{login}\" {} {blob}", key.name()))
            }
        }
    }
}

/// A CA's key is a plain key: a certificate in its place has passed for one elsewhere (CVE-2025-49825). Its equal, the certificate's
/// signature key, was parsed as one before; this is the copy that is printed.
fn plain_ca_key(ca: Id, blob: &[u8]) -> Result<KeyAlgorithm, Refusal> {
    match PublicKey::parse(blob) {
        Ok(key) => Ok(key.algorithm()),
        Err(error) => {
            Err(Refusal::new(Reason::SnapshotCorrupt, format_args!("the key of ca {ca} does not parse: {error}")))
        }
    }
}

fn check_ttl(certificate: &Certificate<'_>, max_ttl_secs: u64) -> Result<(), Refusal> {
    let life = certificate.valid_before.saturating_sub(certificate.valid_after);
    if life > max_ttl_secs.saturating_add(BACKDATE_SECS) {
        let detail = format_args!("{life} s, at most {max_ttl_secs} and {BACKDATE_SECS} s are allowed").to_string();
        return Err(Refusal::new(Reason::TtlTooLong, detail));
    }
    Ok(())
}

/// sshd enforces these three and refuses all others; so do we, for whoever else asks.
fn check_critical_options(certificate: &Certificate<'_>) -> Result<(), Refusal> {
    for option in &certificate.critical_options {
        let known = match option.name {
            FORCE_COMMAND => option.text().is_ok(),
            SOURCE_ADDRESS => {
                let is_list = |list: &str| list.split(',').all(is_network);
                if !option.text().is_ok_and(is_list) {
                    let detail = "the certificate's source-address is not a list of networks in CIDR form";
                    return Err(Refusal::new(Reason::SourceAddress, detail));
                }
                true
            }
            VERIFY_REQUIRED => option.data.is_empty(),
            _ => false,
        };
        if !known {
            return Err(Refusal::new(Reason::CriticalOption, option.name));
        }
    }
    Ok(())
}

/// sshd refuses two different commands with a message of its own; we say which grant is behind it.
fn check_forced_command(certificate: &Certificate<'_>, grant: &Grant) -> Result<(), Refusal> {
    let Some(forced) = &grant.forced_command else { return Ok(()) };
    match certificate.critical_option(FORCE_COMMAND).map(|option| option.text()) {
        None => Ok(()),
        Some(Ok(command)) if command == forced => Ok(()),
        Some(_) => Err(Refusal::new(Reason::ForceCommand, "the certificate's force-command is not the grant's")),
    }
}
