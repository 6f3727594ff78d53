//! Logins that are none of the realm's business: only about those may an earlier AuthorizedKeysCommand be asked.
//!
//! It refuses to let such a command give back what the realm has taken away. A user's login stays the realm's when the user is locked
//! or gone, a login that a grant has ever led into here stays so when the grant has ended, and with no fresh snapshot, or on a host that
//! is locked or unknown, nothing is known to be anybody else's.

use countersign_certificate::{PublicKey, fingerprint_sha256};
use countersign_snapshot::KeyState;

use super::{Judge, Refusal};
use crate::query::Mode;
use crate::reason::Reason;

impl Judge<'_> {
    /// Whether the login is nobody's here, and neither the key nor whose it is denied.
    ///
    /// # Errors
    /// Refusals that would be none of the earlier command's business either.
    pub(super) fn is_unclaimed(&mut self) -> Result<bool, Refusal> {
        self.check_host()?;
        self.check_login()?;
        let query = self.query;
        if query.mode() != Mode::Keys || query.is_certificate() || self.is_claimed(query.login())? {
            return Ok(false);
        }
        let key = PublicKey::parse(query.blob()).map_err(|error| Refusal::new(Reason::KeyMalformed, error))?;
        self.facts.key = Some(fingerprint_sha256(key.blob()));
        self.check_not_denied(key.fingerprint(), Reason::KeyLocked, Reason::KeyRevoked)?;
        if let Some(record) = self.snapshot.key(key.fingerprint())? {
            self.facts.user = Some(record.user);
            match record.state {
                KeyState::Active => {}
                KeyState::Locked => return Err(Reason::KeyLocked.into()),
                KeyState::Revoked => return Err(Reason::KeyRevoked.into()),
            }
            self.check_user(record.user)?;
        }
        Ok(true)
    }

    /// The realm's names are in lower case; some name services take `ALICE`, or `alice@domain`, for the same account.
    fn is_claimed(&self, login: &str) -> Result<bool, Refusal> {
        let lower = login.to_ascii_lowercase();
        let local = lower.split('@').next().unwrap_or_default();
        for name in [lower.as_str(), local] {
            if self.snapshot.login(name.as_bytes())?.is_some() || self.snapshot.is_granted_login(name.as_bytes())? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
