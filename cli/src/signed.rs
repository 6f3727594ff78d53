//! Files of writes that one actor has signed and somebody else sends.
//!
//! TOML that a person can read, as [proposals](crate::proposal) are. A file of another version, or for another realm, chain or
//! contract, one whose deadline has passed, and a signature by anybody but the actor are refused before anything is sent. Format:
//! `docs/spec/signed-writes.md`.

use std::path::Path;

use alloy_primitives::{Address, B256, Bytes, U256};
use countersign_chain::signing::SigningKey;
use countersign_registry::RealmPin;
use countersign_registry::sign::{self, Write};
use countersign_registry::signature::verify;
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::files::{self, Existing};
use crate::proposal::{ProposalError, VERSION, WriteText, is_false, of_this_version, same_realm, save};

/// One actor's signed writes; anybody may send them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SignedWrites {
    /// [`VERSION`].
    pub version: u64,
    /// Realm id.
    pub realm: B256,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The registry.
    pub contract: Address,
    /// Who signs.
    pub actor: Address,
    /// The actor's nonce in this realm.
    pub nonce: u64,
    /// The last block time at which they may be included, Unix seconds.
    pub deadline: u64,
    /// Any form that the contract takes.
    pub signature: Bytes,
    /// The actor is a contract wallet, and only the contract can ask it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub wallet: bool,
    /// What is to be written.
    pub writes: Vec<WriteText>,
}

const SIGNED_HEADING: &str = "\
# Writes that one actor of a Countersign realm has signed; anybody may send them with `countersign submit FILE`.
";

impl SignedWrites {
    /// Signs `writes` as `key`'s actor.
    ///
    /// # Errors
    /// [`ProposalError`].
    pub fn sign(
        pin: &RealmPin,
        key: &SigningKey,
        nonce: u64,
        deadline: u64,
        writes: Vec<WriteText>,
    ) -> Result<Self, ProposalError> {
        let mut signed = Self {
            version: VERSION,
            realm: pin.realm,
            chain_id: pin.chain_id,
            contract: pin.contract,
            actor: key.address(),
            nonce,
            deadline,
            signature: Bytes::new(),
            wallet: false,
            writes,
        };
        signed.signature =
            key.sign(&signed.digest("signed writes")?).map_err(|error| ProposalError::Signing(error.to_string()))?;
        Ok(signed)
    }

    /// Reads a file and checks realm and signature.
    ///
    /// # Errors
    /// See [`ProposalError`].
    pub fn load(path: &Path, pin: &RealmPin, now: u64) -> Result<Self, CliError> {
        let text = files::read_text(path)?;
        Ok(Self::parse(&path.display().to_string(), &text, pin, now)?)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// See [`ProposalError`].
    pub fn parse(path: &str, text: &str, pin: &RealmPin, now: u64) -> Result<Self, ProposalError> {
        let path = path.to_owned();
        let signed: Self = of_this_version(&path, text)?;
        same_realm(&path, pin, signed.realm, signed.chain_id, signed.contract)?;
        if signed.writes.is_empty() {
            return Err(ProposalError::Empty { path });
        }
        if signed.deadline < now {
            return Err(ProposalError::Deadline { path, deadline: signed.deadline });
        }
        if !signed.wallet && verify(signed.actor, &signed.digest(&path)?, &signed.signature).is_err() {
            return Err(ProposalError::BadSignature { path, signer: signed.actor });
        }
        Ok(signed)
    }

    /// The writes, as they are signed.
    ///
    /// # Errors
    /// [`ProposalError::Syntax`].
    pub fn signed_writes(&self, path: &str) -> Result<Vec<Write>, ProposalError> {
        self.writes.iter().map(|write| write.write(path)).collect()
    }

    /// What the actor signs.
    ///
    /// # Errors
    /// [`ProposalError::Syntax`].
    pub fn digest(&self, path: &str) -> Result<B256, ProposalError> {
        let writes = self.signed_writes(path)?;
        let domain = sign::domain(self.chain_id, self.contract);
        let (nonce, deadline) = (U256::from(self.nonce), U256::from(self.deadline));
        Ok(sign::append_digest(&domain, self.actor, self.realm, &writes, nonce, deadline))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`CliError::File`].
    pub fn save(&self, path: &Path) -> Result<(), CliError> {
        save(path, SIGNED_HEADING, self, Existing::Keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_chain::keys::ActorKey;
    use countersign_registry::entries::{Entry, payload};

    fn pin() -> RealmPin {
        RealmPin {
            chain_id: 31337,
            contract: Address::repeat_byte(9),
            code_hash: B256::ZERO,
            realm: B256::repeat_byte(7),
            threshold: 1,
            roots: vec![Address::repeat_byte(1)],
            salt: B256::ZERO,
            deployed_block: 0,
            genesis_hash: B256::ZERO,
        }
    }

    fn writes() -> Vec<WriteText> {
        let entry = Entry::UserAdd(payload::UserAdd {
            r: Default::default(),
            login: "alice".into(),
            displayName: String::new(),
        });
        vec![WriteText::new(&sign::write(1 << 32, &entry), "user alice")]
    }

    fn key(number: u8) -> SigningKey {
        ActorKey::from_secret(&[number; 32]).unwrap().into()
    }

    fn load(signed: &SignedWrites, now: u64) -> Result<SignedWrites, ProposalError> {
        SignedWrites::parse("s.toml", &toml::to_string(signed).unwrap(), &pin(), now)
    }

    #[test]
    fn signed_writes_verify_against_their_actor_only() {
        let signed = SignedWrites::sign(&pin(), &key(1), 0, 1_000, writes()).unwrap();
        assert_eq!(load(&signed, 1_000).unwrap(), signed);
        let other = SignedWrites { actor: key(2).address(), ..signed.clone() };
        assert!(matches!(load(&other, 1), Err(ProposalError::BadSignature { .. })));
        let mut changed = signed.clone();
        changed.writes[0].shard = 0;
        assert!(matches!(load(&changed, 1), Err(ProposalError::BadSignature { .. })));
        let longer = SignedWrites { deadline: 2_000, ..signed };
        assert!(matches!(load(&longer, 1), Err(ProposalError::BadSignature { .. })));
    }

    #[test]
    fn a_passed_deadline_another_realm_and_an_empty_file_are_refused() {
        let signed = SignedWrites::sign(&pin(), &key(1), 0, 1_000, writes()).unwrap();
        assert!(matches!(load(&signed, 1_001), Err(ProposalError::Deadline { deadline: 1_000, .. })));
        let elsewhere = SignedWrites { realm: B256::ZERO, ..signed };
        assert!(matches!(load(&elsewhere, 1), Err(ProposalError::OtherRealm { field: "realm", .. })));
        let empty = SignedWrites::sign(&pin(), &key(1), 0, 1_000, Vec::new()).unwrap();
        assert!(matches!(load(&empty, 1), Err(ProposalError::Empty { .. })));
    }
}
