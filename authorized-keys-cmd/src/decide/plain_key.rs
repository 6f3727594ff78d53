//! A plain key: registered, and led here by a grant with `via = key`.
//!
//! Refuses to ask for a key what only a certificate can prove: grants with approvals, a longest life or hours never apply, nor does
//! any in a realm that takes logged certificates only. Replay leaves those out already; this does not rely on it.

use countersign_certificate::{PublicKey, encode_base64, fingerprint_sha256};
use countersign_snapshot::{Key, KeyState};

use super::{Judge, Refusal, expiry_option, grant_options};
use crate::query::Mode;
use crate::reason::Reason;
use crate::step::Step;

impl Judge<'_> {
    pub(super) fn judge_plain_key(&mut self) -> Result<String, Refusal> {
        let query = self.query;
        let key = PublicKey::parse(query.blob()).map_err(|error| Refusal::new(Reason::KeyMalformed, error))?;
        self.facts.key = Some(fingerprint_sha256(key.blob()));
        if query.mode() == Mode::Principals {
            return Err(Refusal::new(Reason::BadArguments, "a plain key has no principals"));
        }
        let fingerprint = key.fingerprint();
        self.check_not_denied(fingerprint, Reason::KeyLocked, Reason::KeyRevoked)?;
        let record = self.snapshot.key(fingerprint)?.ok_or(Reason::KeyUnknown)?;
        self.facts.user = Some(record.user);
        match record.state {
            KeyState::Active => {}
            KeyState::Locked => return Err(Reason::KeyLocked.into()),
            KeyState::Revoked => return Err(Reason::KeyRevoked.into()),
        }
        if record.purposes & Key::PURPOSE_LOGIN == 0 {
            return Err(Reason::KeyPurpose.into());
        }
        if record.not_after_secs.is_some_and(|not_after| self.clock.unix_secs > not_after.get()) {
            return Err(Reason::KeyExpired.into());
        }
        (self.observe)(Step::Key(fingerprint, &record));
        self.check_user(record.user)?;

        let Some(id) = self.snapshot.key_grant(record.user, query.login().as_bytes())? else {
            return Err(Refusal::new(Reason::NoGrant, "no grant leads a plain key of this user into this login here"));
        };
        self.facts.grant = Some(id);
        let grant = self.live_grant(id, record.user)?;
        let needs_certificate = grant.approvals > 0
            || grant.max_ttl_secs.is_some()
            || !grant.hours.is_empty()
            || self.snapshot.facts().require_logged;
        if !grant.via.plain_key || needs_certificate {
            return Err(Reason::GrantNotViaKey.into());
        }
        (self.observe)(Step::Grant(id, &grant));

        let mut line = grant_options(&grant)?;
        if let Some(not_after) = record.not_after_secs.into_iter().chain(grant.not_after_secs).min() {
            line.push_str(&expiry_option(not_after.get()).unwrap_or_default());
        }
        line.push(' ');
        line.push_str(key.algorithm().name());
        line.push(' ');
        line.push_str(&encode_base64(key.blob()));
        Ok(line)
    }
}
