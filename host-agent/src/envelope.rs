//! The outer form of the agent's state file (`docs/spec/agent-state.md`): magic, version, whose it is, length, body, SHA-256 over
//! all of that. It tells corruption, truncation, another realm and another version apart, and hands out a body only when none
//! of them is the case. The file holds no secret but the snapshot's salt.

use alloy_primitives::{Address, B256};
use countersign_certificate::Id;
use countersign_registry::RealmPin;
use sha2::{Digest as _, Sha256};

use crate::reason::Reason;

/// The first bytes of every state file.
pub const MAGIC: &[u8; 8] = b"CSAGENT\0";

/// The version written and read.
pub const VERSION: u16 = 6;

const HEAD: usize = 8 + 2 + 8 + 20 + 32 + 16 + 8;
const CHECKSUM: usize = 32;

/// Whose state it is. A file of another one is never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The registry contract.
    pub contract: Address,
    /// The realm's id.
    pub realm: B256,
    /// This host's record id.
    pub host: Id,
}

impl Identity {
    /// A host in a realm.
    pub fn of(pin: &RealmPin, host: Id) -> Self {
        Self { chain_id: pin.chain_id, contract: pin.contract, realm: pin.realm, host }
    }
}

/// Why a state file is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not a state file, cut, extended or changed.
    #[error("state file: expected {0}")]
    Corrupt(&'static str),
    /// A later or earlier format.
    #[error("state file: expected version {VERSION}, found {0}")]
    Version(u16),
    /// Of another realm, contract, chain or host.
    #[error("state file: belongs to {found:?}, expected {expected:?}")]
    OtherRealm {
        /// Whose it is.
        found: Box<Identity>,
        /// Whose it should be.
        expected: Box<Identity>,
    },
}

impl EnvelopeError {
    /// The stable code.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Corrupt(_) => Reason::StateCorrupt,
            Self::Version(_) => Reason::StateVersion,
            Self::OtherRealm { .. } => Reason::StateOtherRealm,
        }
    }
}

/// Wraps a body.
pub fn seal(identity: &Identity, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len().saturating_add(HEAD).saturating_add(CHECKSUM));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&identity.chain_id.to_be_bytes());
    out.extend_from_slice(identity.contract.as_slice());
    out.extend_from_slice(identity.realm.as_slice());
    out.extend_from_slice(&identity.host.0);
    out.extend_from_slice(&u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes());
    out.extend_from_slice(body);
    let checksum = Sha256::digest(&out);
    out.extend_from_slice(&checksum);
    out
}

/// Unwraps a body that [`seal`] wrapped for the same identity.
///
/// # Errors
/// [`EnvelopeError`]; the version is judged first and without the checksum, since other versions may place it elsewhere.
pub fn open<'a>(expected: &Identity, bytes: &'a [u8]) -> Result<&'a [u8], EnvelopeError> {
    let cut = EnvelopeError::Corrupt("a whole file, found a truncated one");
    let rest = bytes.strip_prefix(MAGIC).ok_or(EnvelopeError::Corrupt("the magic of a state file"))?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(|| cut.clone())?;
    let version = u16::from_be_bytes(*version);
    if version != VERSION {
        return Err(EnvelopeError::Version(version));
    }
    let (chain_id, rest) = rest.split_first_chunk::<8>().ok_or_else(|| cut.clone())?;
    let (contract, rest) = rest.split_first_chunk::<20>().ok_or_else(|| cut.clone())?;
    let (realm, rest) = rest.split_first_chunk::<32>().ok_or_else(|| cut.clone())?;
    let (host, rest) = rest.split_first_chunk::<16>().ok_or_else(|| cut.clone())?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(|| cut.clone())?;
    let (body, checksum) = rest.split_last_chunk::<CHECKSUM>().ok_or_else(|| cut.clone())?;
    if u64::try_from(body.len()).ok() != Some(u64::from_be_bytes(*length)) {
        return Err(EnvelopeError::Corrupt("the announced length"));
    }
    let covered = bytes.split_last_chunk::<CHECKSUM>().map_or(&[][..], |(covered, _)| covered);
    if Sha256::digest(covered).as_slice() != checksum {
        return Err(EnvelopeError::Corrupt("the checksum of its contents"));
    }
    let found = Identity {
        chain_id: u64::from_be_bytes(*chain_id),
        contract: Address::from(*contract),
        realm: B256::from(*realm),
        host: Id(*host),
    };
    if found != *expected {
        return Err(EnvelopeError::OtherRealm { found: Box::new(found), expected: Box::new(*expected) });
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { chain_id: 31337, contract: Address::repeat_byte(3), realm: B256::repeat_byte(4), host: Id([5; 16]) }
    }

    #[test]
    fn a_body_comes_back_for_its_own_identity() {
        assert_eq!(open(&identity(), &seal(&identity(), b"body")), Ok(&b"body"[..]));
        assert_eq!(open(&identity(), &seal(&identity(), b"")), Ok(&b""[..]));
    }

    #[test]
    fn a_file_cut_or_changed_at_any_byte_is_refused() {
        let sealed = seal(&identity(), b"some body");
        for end in 0..sealed.len() {
            assert!(matches!(open(&identity(), &sealed[..end]), Err(EnvelopeError::Corrupt(_))), "cut at {end}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&identity(), &changed).is_err(), "changed at {at}");
        }
        let mut longer = sealed;
        longer.push(0);
        assert_eq!(open(&identity(), &longer), Err(EnvelopeError::Corrupt("the announced length")));
    }

    #[test]
    fn a_file_of_another_realm_chain_contract_or_host_is_refused_as_such() {
        let sealed = seal(&identity(), b"body");
        let changes: [fn(&mut Identity); 4] = [
            |identity| identity.chain_id = 1,
            |identity| identity.contract = Address::ZERO,
            |identity| identity.realm = B256::ZERO,
            |identity| identity.host = Id([6; 16]),
        ];
        for change in changes {
            let mut other = identity();
            change(&mut other);
            let error = open(&other, &sealed).unwrap_err();
            assert_eq!(error.reason(), Reason::StateOtherRealm);
        }
    }

    #[test]
    fn a_file_of_another_version_is_refused_as_such() {
        let mut sealed = seal(&identity(), b"body");
        for version in [VERSION - 1, VERSION + 1] {
            sealed[8..10].copy_from_slice(&version.to_be_bytes());
            assert_eq!(open(&identity(), &sealed), Err(EnvelopeError::Version(version)));
        }
    }
}
