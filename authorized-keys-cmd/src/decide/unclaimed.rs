//! Logins that are none of the realm's business: only about those may an earlier AuthorizedKeysCommand be asked.
//!
//! It refuses to let such a command give back what the realm has taken away. A user's login stays the realm's when the user is locked
//! or gone, a login that a grant has ever led into here stays so when the grant has ended, and with no fresh snapshot, or on a host that
//! is locked or unknown, nothing is known to be anybody else's.
//!
//! A session that such a command let in is ended by what denies it, and by nothing else: it never rested on a grant, so that none can be
//! missing.

use countersign_certificate::{PublicKey, fingerprint_sha256};
use countersign_snapshot::{HostState, KeyState};

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
        self.check_stranger()?;
        Ok(true)
    }

    /// Whether something denies a session of this login by this key, whoever let it in: the host is locked, the login is a user's who is
    /// locked or gone, or the key, or whose it is.
    pub(super) fn check_not_denied_to_anybody(&mut self) -> Result<(), Refusal> {
        if self.snapshot.facts().host_state == HostState::Locked {
            return Err(Reason::HostLocked.into());
        }
        for name in names(self.query.login()) {
            if let Some(login) = self.snapshot.login(name.as_bytes())? {
                self.check_user(login.user)?;
            }
        }
        self.check_stranger()
    }

    /// A key that need not be registered, and its user where it is.
    fn check_stranger(&mut self) -> Result<(), Refusal> {
        let query = self.query;
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
        Ok(())
    }

    fn is_claimed(&self, login: &str) -> Result<bool, Refusal> {
        for name in names(login) {
            if self.snapshot.login(name.as_bytes())?.is_some() || self.snapshot.is_granted_login(name.as_bytes())? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The realm's names are in lower case; some name services take `ALICE`, or `alice@domain`, for the same account.
fn names(login: &str) -> [String; 2] {
    let lower = login.to_ascii_lowercase();
    let local = lower.split('@').next().unwrap_or_default().to_owned();
    [lower, local]
}
