//! Files of writes that wait for the signatures of a threshold of roots.
//!
//! TOML that a person can read. What a signer sees is decoded anew from the bytes that will be signed; the remarks that its author
//! put beside them are shown as remarks. A file of another version, or for another realm, chain or contract, and a signature by
//! nobody who counts, are refused. Format: `docs/spec/signed-writes.md`.

use std::path::Path;

use alloy_primitives::{Address, B256, Bytes, U256};
use countersign_chain::signing::SigningKey;
use countersign_registry::RealmPin;
use countersign_registry::sign::{self, Write};
use countersign_registry::signature::verify;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::files::{self, Existing};
use crate::roots::RootState;

/// The version of both formats, their key `version`.
pub const VERSION: u64 = 1;

/// Writes of one proposal, hence of one transaction: well below what a block, or EIP-7825, takes.
pub const MAX_WRITES: usize = 100;

mod error;
mod write_text;

pub use error::ProposalError;
pub use write_text::WriteText;

/// One signature in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SignatureText {
    /// Who signed.
    pub root: Address,
    /// Any form that the contract takes.
    pub signature: Bytes,
    /// The root is a contract wallet, and only the contract can ask it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub wallet: bool,
}

/// What is left out of a file.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
pub(crate) const fn is_false(value: &bool) -> bool {
    !*value
}

/// A proposal to the roots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Proposal {
    /// [`VERSION`].
    pub version: u64,
    /// Realm id.
    pub realm: B256,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The registry.
    pub contract: Address,
    /// Root nonce.
    pub nonce: u64,
    /// How many roots must sign.
    pub threshold: u64,
    /// The roots in force.
    pub roots: Vec<Address>,
    /// What is to be written.
    pub writes: Vec<WriteText>,
    /// So far.
    #[serde(default)]
    pub signatures: Vec<SignatureText>,
}

const HEADING: &str = "\
# A proposal to the roots of a Countersign realm. `countersign realm sign FILE` shows what the data of each write says and signs
# it; `countersign realm submit FILE` sends it when enough roots have signed. The `about` lines are remarks and decide nothing.
";

impl Proposal {
    /// A proposal without signatures.
    pub fn new(pin: &RealmPin, state: &RootState, writes: Vec<WriteText>) -> Self {
        Self {
            version: VERSION,
            realm: pin.realm,
            chain_id: pin.chain_id,
            contract: pin.contract,
            nonce: state.nonce,
            threshold: state.threshold,
            roots: state.roots.clone(),
            writes,
            signatures: Vec::new(),
        }
    }

    /// Reads a file and checks that it is for this realm and that each signature in it is one.
    ///
    /// # Errors
    /// See [`ProposalError`].
    pub fn load(path: &Path, pin: &RealmPin) -> Result<Self, CliError> {
        let text = files::read_text(path)?;
        Ok(Self::parse(&path.display().to_string(), &text, pin)?)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// See [`ProposalError`].
    pub fn parse(path: &str, text: &str, pin: &RealmPin) -> Result<Self, ProposalError> {
        let proposal: Self = of_this_version(path, text)?;
        same_realm(path, pin, proposal.realm, proposal.chain_id, proposal.contract)?;
        if proposal.writes.is_empty() {
            return Err(ProposalError::Empty { path: path.to_owned() });
        }
        proposal.check_number(path)?;
        let digest = proposal.digest(path)?;
        let mut seen: Vec<Address> = Vec::new();
        for signed in &proposal.signatures {
            if !proposal.roots.contains(&signed.root) {
                return Err(ProposalError::NotRoot { signer: signed.root });
            }
            if seen.contains(&signed.root) {
                return Err(ProposalError::SignedAlready { path: path.to_owned(), signer: signed.root });
            }
            seen.push(signed.root);
            if !signed.wallet && verify(signed.root, &digest, &signed.signature).is_err() {
                return Err(ProposalError::BadSignature { path: path.to_owned(), signer: signed.root });
            }
        }
        Ok(proposal)
    }

    /// Refuses a proposal that the roots in force cannot send now.
    ///
    /// # Errors
    /// [`ProposalError::Nonce`], [`ProposalError::OtherRoots`].
    pub fn fits(&self, path: &str, state: &RootState) -> Result<(), ProposalError> {
        if self.nonce != state.nonce {
            return Err(ProposalError::Nonce { path: path.to_owned(), found: self.nonce, expected: state.nonce });
        }
        if self.roots != state.roots || self.threshold != state.threshold {
            return Err(ProposalError::OtherRoots { path: path.to_owned() });
        }
        Ok(())
    }

    /// The writes, as they are signed.
    ///
    /// # Errors
    /// [`ProposalError::Syntax`].
    pub fn signed_writes(&self, path: &str) -> Result<Vec<Write>, ProposalError> {
        self.writes.iter().map(|write| write.write(path)).collect()
    }

    /// What each root signs.
    ///
    /// # Errors
    /// [`ProposalError::Syntax`].
    pub fn digest(&self, path: &str) -> Result<B256, ProposalError> {
        let writes = self.signed_writes(path)?;
        let domain = sign::domain(self.chain_id, self.contract);
        Ok(sign::append_by_roots_digest(&domain, self.realm, U256::from(self.nonce), &writes))
    }

    /// Adds writes to a proposal that nobody has signed.
    ///
    /// # Errors
    /// [`ProposalError::Frozen`], [`ProposalError::TooMany`].
    pub fn add(&mut self, path: &str, writes: Vec<WriteText>) -> Result<(), ProposalError> {
        if !self.signatures.is_empty() {
            return Err(ProposalError::Frozen { path: path.to_owned() });
        }
        self.writes.extend(writes);
        self.check_number(path)
    }

    fn check_number(&self, path: &str) -> Result<(), ProposalError> {
        let have = self.writes.len();
        if have > MAX_WRITES { Err(ProposalError::TooMany { path: path.to_owned(), have }) } else { Ok(()) }
    }

    /// Adds a root's signature.
    ///
    /// # Errors
    /// [`ProposalError::NotRoot`], [`ProposalError::SignedAlready`], [`ProposalError::Unreadable`].
    pub fn sign(&mut self, path: &str, key: &SigningKey) -> Result<(), ProposalError> {
        self.may_sign(path, key.address())?;
        let signature = key.sign(&self.digest(path)?).map_err(|error| ProposalError::Signing(error.to_string()))?;
        self.attach(path, key.address(), signature)
    }

    /// Refuses who cannot sign, and what nobody should.
    ///
    /// # Errors
    /// [`ProposalError::NotRoot`], [`ProposalError::SignedAlready`], [`ProposalError::Unreadable`].
    pub fn may_sign(&self, path: &str, root: Address) -> Result<(), ProposalError> {
        if !self.roots.contains(&root) {
            return Err(ProposalError::NotRoot { signer: root });
        }
        // What stands there as a wallet's may be anybody's: it keeps no root from signing.
        if self.signatures.iter().any(|signed| signed.root == root && !signed.wallet) {
            return Err(ProposalError::SignedAlready { path: path.to_owned(), signer: root });
        }
        self.check_readable(path)
    }

    /// Refuses writes whose meaning cannot be shown.
    ///
    /// # Errors
    /// [`ProposalError::Unreadable`].
    pub fn check_readable(&self, path: &str) -> Result<(), ProposalError> {
        self.writes.iter().try_for_each(|write| write.check_readable(path))
    }

    /// Adds what a contract wallet takes for its signature, in the place of another that stood there as its: nobody but the contract can
    /// ask it.
    ///
    /// # Errors
    /// As [`Proposal::may_sign`], and [`ProposalError::SignedAlready`] for the same once more.
    pub fn attach_wallet(&mut self, path: &str, root: Address, signature: Bytes) -> Result<(), ProposalError> {
        self.may_sign(path, root)?;
        let text = SignatureText { root, signature, wallet: true };
        if self.signatures.contains(&text) {
            return Err(ProposalError::SignedAlready { path: path.to_owned(), signer: root });
        }
        self.put(text);
        Ok(())
    }

    /// One signature a root.
    fn put(&mut self, text: SignatureText) {
        self.signatures.retain(|signed| signed.root != text.root);
        self.signatures.push(text);
    }

    /// Adds a signature, wherever it was made; it takes the place of one that stood there as a wallet's.
    ///
    /// # Errors
    /// As [`Proposal::may_sign`], and [`ProposalError::BadSignature`] for one that is not by this root over these writes.
    pub fn attach(&mut self, path: &str, root: Address, signature: Bytes) -> Result<(), ProposalError> {
        self.may_sign(path, root)?;
        if verify(root, &self.digest(path)?, &signature).is_err() {
            return Err(ProposalError::BadSignature { path: path.to_owned(), signer: root });
        }
        self.put(SignatureText { root, signature, wallet: false });
        Ok(())
    }

    /// What a wallet shows and signs: EIP-712 typed data, whose hash is the digest.
    ///
    /// # Errors
    /// [`ProposalError::Syntax`].
    pub fn typed_data(&self, path: &str) -> Result<Value, ProposalError> {
        let member = |(name, kind): (&str, &str)| json!({ "name": name, "type": kind });
        let members = |list: &[(&str, &str)]| list.iter().copied().map(member).collect::<Vec<_>>();
        let write = |write: Write| json!({ "shard": write.shard, "kind": write.kind, "data": write.data });
        let writes: Vec<Value> = self.signed_writes(path)?.into_iter().map(write).collect();
        Ok(json!({
            "types": {
                "EIP712Domain": members(&[
                    ("name", "string"), ("version", "string"), ("chainId", "uint256"), ("verifyingContract", "address"),
                ]),
                "Write": members(&[("shard", "uint64"), ("kind", "uint16"), ("data", "bytes")]),
                "AppendByRoots": members(&[("realm", "bytes32"), ("nonce", "uint256"), ("writes", "Write[]")]),
            },
            "primaryType": "AppendByRoots",
            "domain": {
                "name": "Countersign Registry",
                "version": "1",
                "chainId": self.chain_id,
                "verifyingContract": self.contract,
            },
            "message": { "realm": self.realm, "nonce": self.nonce, "writes": writes },
        }))
    }

    /// Signatures with their roots' indices, when there are enough.
    ///
    /// # Errors
    /// [`ProposalError::BelowThreshold`].
    pub fn indexed(&self, path: &str) -> Result<Vec<(u8, Bytes)>, ProposalError> {
        let have = self.signatures.len();
        if u64::try_from(have).is_ok_and(|have| have < self.threshold) {
            return Err(ProposalError::BelowThreshold { path: path.to_owned(), have, need: self.threshold });
        }
        self.signatures
            .iter()
            .map(|signed| {
                let index = self.roots.iter().position(|root| *root == signed.root);
                index
                    .and_then(|index| u8::try_from(index).ok())
                    .map(|index| (index, signed.signature.clone()))
                    .ok_or(ProposalError::NotRoot { signer: signed.root })
            })
            .collect()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`CliError::File`].
    pub fn save(&self, path: &Path, existing: Existing) -> Result<(), CliError> {
        save(path, HEADING, self, existing)
    }
}

/// Reads a file's text. The version comes first: a later one may have keys that are unknown here.
pub(crate) fn of_this_version<T: DeserializeOwned>(path: &str, text: &str) -> Result<T, ProposalError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let syntax = |error: toml::de::Error| ProposalError::Syntax {
        path: path.to_owned(),
        problem: error.to_string().trim().to_owned(),
    };
    let Versioned { version } = toml::from_str(text).map_err(syntax)?;
    if version != VERSION {
        return Err(ProposalError::Version { path: path.to_owned(), found: version });
    }
    toml::from_str(text).map_err(syntax)
}

pub(crate) fn save(path: &Path, heading: &str, content: &impl Serialize, existing: Existing) -> Result<(), CliError> {
    let text = toml::to_string(content)
        .map_err(|error| CliError::Content { path: path.to_owned(), problem: error.to_string() })?;
    files::write(path, format!("{heading}\n{text}").as_bytes(), 0o644, existing)
}

pub(crate) fn same_realm(
    path: &str,
    pin: &RealmPin,
    realm: B256,
    chain_id: u64,
    contract: Address,
) -> Result<(), ProposalError> {
    let other = |field, found: String, expected: String| {
        Err(ProposalError::OtherRealm { path: path.to_owned(), field, found, expected })
    };
    if realm != pin.realm {
        return other("realm", realm.to_string(), pin.realm.to_string());
    }
    if chain_id != pin.chain_id {
        return other("chain-id", chain_id.to_string(), pin.chain_id.to_string());
    }
    if contract != pin.contract {
        return other("contract", contract.to_string(), pin.contract.to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_chain::keys::ActorKey;
    use countersign_registry::entries::{Entry, payload};
    use countersign_registry::shard;

    fn keys() -> Vec<SigningKey> {
        (1..=3_u8).map(|number| ActorKey::from_secret(&[number; 32]).unwrap().into()).collect()
    }

    fn pin() -> RealmPin {
        let roots: Vec<Address> = keys().iter().map(SigningKey::address).collect();
        let contract = Address::repeat_byte(9);
        RealmPin {
            chain_id: 31337,
            contract,
            code_hash: B256::ZERO,
            realm: sign::realm_id(31337, contract, 2, &roots, B256::ZERO),
            threshold: 2,
            roots,
            salt: B256::ZERO,
            deployed_block: 0,
            genesis_hash: B256::ZERO,
        }
    }

    fn proposal() -> Proposal {
        let entry = Entry::RoleSet(payload::RoleSet { actor: Address::repeat_byte(5), roles: 1, x25519: B256::ZERO });
        let state = RootState { nonce: 4, threshold: 2, roots: pin().roots, salt: B256::ZERO };
        Proposal::new(&pin(), &state, vec![WriteText::new(&sign::write(0, &entry), "make 0x05 an admin")])
    }

    fn round(proposal: &Proposal) -> Result<Proposal, ProposalError> {
        Proposal::parse("p.toml", &toml::to_string(proposal).unwrap(), &pin())
    }

    #[test]
    fn two_of_three_roots_sign_a_file_one_after_the_other() {
        let mut file = round(&proposal()).unwrap();
        assert_eq!(
            file.indexed("p.toml"),
            Err(ProposalError::BelowThreshold { path: "p.toml".into(), have: 0, need: 2 })
        );
        file.sign("p.toml", &keys()[2]).unwrap();
        let mut file = round(&file).unwrap();
        file.sign("p.toml", &keys()[0]).unwrap();
        let file = round(&file).unwrap();
        let indices: Vec<u8> = file.indexed("p.toml").unwrap().into_iter().map(|(index, _)| index).collect();
        assert_eq!(indices, [2, 0]);
    }

    #[test]
    fn a_signer_sees_what_the_data_says_and_not_the_remark() {
        let mut file = proposal();
        file.writes[0].about = "harmless".into();
        let shown = file.writes[0].shown("p.toml").unwrap();
        assert!(shown.contains("ROLE_SET") && shown.contains("0x0505050505050505050505050505050505050505"), "{shown}");
    }

    #[test]
    fn a_write_that_cannot_be_shown_is_not_signed() {
        let good = proposal().writes[0].data.to_vec();
        let trailing: Bytes = [&good[..], &[0; 32]].concat().into();
        let unknown = WriteText { kind: "0x0042".into(), ..proposal().writes[0].clone() };
        let longer = WriteText { data: trailing, ..proposal().writes[0].clone() };
        for bad in [unknown, longer] {
            let mut file = proposal();
            file.writes.push(bad);
            assert!(matches!(file.sign("p.toml", &keys()[0]), Err(ProposalError::Unreadable { .. })));
            assert!(file.signatures.is_empty());
            assert!(file.writes[1].shown("p.toml").unwrap().contains("UNREADABLE"));
        }
    }

    #[test]
    fn a_signer_sees_a_shard_that_hosts_may_never_read() {
        let entry = Entry::CertRevoke { ca: countersign_registry::Id([1; 16]), serials: vec![7] };
        let shown = |shard| WriteText::new(&sign::write(shard, &entry), "revoke").shown("p.toml").unwrap();
        assert!(shown(shard::shard(3, 684)).starts_with("CERT_REVOKE shard=3/684 "), "{}", shown(shard::shard(3, 684)));
        assert_ne!(shown(shard::shard(3, 684)), shown(shard::shard(3, 685)));
    }

    #[test]
    fn a_file_that_says_a_key_twice_is_refused() {
        let text = toml::to_string(&proposal()).unwrap();
        for key in ["nonce", "kind", "data"] {
            let line = text.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
            let twice = text.replace(line, &format!("{line}\n{line}"));
            assert!(matches!(Proposal::parse("p.toml", &twice, &pin()), Err(ProposalError::Syntax { .. })), "{key}");
        }
    }

    #[test]
    fn somebody_who_is_no_root_cannot_sign() {
        let stranger: SigningKey = ActorKey::from_secret(&[9; 32]).unwrap().into();
        assert_eq!(proposal().sign("p.toml", &stranger), Err(ProposalError::NotRoot { signer: stranger.address() }));
    }

    #[test]
    fn a_root_cannot_sign_twice() {
        let mut file = proposal();
        file.sign("p.toml", &keys()[0]).unwrap();
        assert!(matches!(file.sign("p.toml", &keys()[0]), Err(ProposalError::SignedAlready { .. })));
        let copied = file.signatures[0].clone();
        file.signatures.push(copied);
        assert!(matches!(round(&file), Err(ProposalError::SignedAlready { .. })));
    }

    #[test]
    fn a_write_that_was_changed_after_signing_is_refused() {
        let mut file = proposal();
        file.sign("p.toml", &keys()[0]).unwrap();
        file.writes[0].shard = 1;
        assert!(matches!(round(&file), Err(ProposalError::BadSignature { .. })));
        assert!(matches!(file.add("p.toml", Vec::new()), Err(ProposalError::Frozen { .. })));
    }

    #[test]
    fn a_proposal_for_another_realm_is_refused() {
        let mut file = proposal();
        file.contract = Address::repeat_byte(8);
        assert!(matches!(round(&file), Err(ProposalError::OtherRealm { field: "contract", .. })));
    }

    #[test]
    fn a_stale_nonce_and_other_roots_are_told_apart() {
        let mut state = RootState { nonce: 5, threshold: 2, roots: pin().roots, salt: B256::ZERO };
        assert!(matches!(proposal().fits("p.toml", &state), Err(ProposalError::Nonce { found: 4, expected: 5, .. })));
        state.nonce = 4;
        assert_eq!(proposal().fits("p.toml", &state), Ok(()));
        state.roots.swap(0, 1);
        assert!(matches!(proposal().fits("p.toml", &state), Err(ProposalError::OtherRoots { .. })));
    }

    #[test]
    fn a_file_without_a_version_or_of_another_one_is_refused() {
        let text = toml::to_string(&proposal()).unwrap();
        let without = text.strip_prefix("version = 1\n").unwrap();
        let error = Proposal::parse("p.toml", without, &pin()).unwrap_err().to_string();
        assert!(error.contains("missing field `version`"), "{error}");
        let later = Proposal { version: 2, ..proposal() };
        assert_eq!(round(&later), Err(ProposalError::Version { path: "p.toml".into(), found: 2 }));
    }

    #[test]
    fn more_writes_than_one_transaction_takes_are_refused_when_they_are_added_and_when_they_are_read() {
        let mut file = proposal();
        let one = file.writes[0].clone();
        file.add("p.toml", vec![one.clone(); MAX_WRITES - 1]).unwrap();
        round(&file).unwrap();
        let many = Err(ProposalError::TooMany { path: "p.toml".into(), have: MAX_WRITES + 1 });
        assert_eq!(file.add("p.toml", vec![one]), many);
        assert_eq!(round(&file).map(|_| ()), many);
    }

    #[test]
    fn a_wallets_signature_is_marked_as_such_and_another_without_the_mark_is_no_signature() {
        let mut file = proposal();
        let root = pin().roots[0];
        file.attach_wallet("p.toml", root, Bytes::from_static(&[1, 2])).unwrap();
        assert_eq!(round(&file).unwrap(), file);
        let again = file.attach_wallet("p.toml", root, Bytes::from_static(&[1, 2]));
        assert!(matches!(again, Err(ProposalError::SignedAlready { .. })));
        file.attach_wallet("p.toml", root, Bytes::new()).unwrap();
        assert_eq!(file.signatures.len(), 1);
        let stranger = file.attach_wallet("p.toml", Address::repeat_byte(9), Bytes::new());
        assert!(matches!(stranger, Err(ProposalError::NotRoot { .. })));
        file.signatures[0].wallet = false;
        assert!(matches!(round(&file), Err(ProposalError::BadSignature { .. })));
    }

    #[test]
    fn what_is_marked_as_a_wallets_keeps_no_root_from_signing_and_does_not_take_its_signature_away() {
        let mut file = proposal();
        let root = pin().roots[0];
        file.attach_wallet("p.toml", root, Bytes::new()).unwrap();
        file.sign("p.toml", &keys()[0]).unwrap();
        let signed: Vec<(Address, bool)> = file.signatures.iter().map(|signed| (signed.root, signed.wallet)).collect();
        assert_eq!(signed, [(root, false)]);
        let over = file.attach_wallet("p.toml", root, Bytes::new());
        assert!(matches!(over, Err(ProposalError::SignedAlready { .. })));
        assert_eq!(round(&file).unwrap(), file);
    }

    #[test]
    fn an_unknown_key_in_the_file_is_refused() {
        let text = format!("comment = \"x\"\n{}", toml::to_string(&proposal()).unwrap());
        let error = Proposal::parse("p.toml", &text, &pin()).unwrap_err().to_string();
        assert!(error.contains("unknown field `comment`"), "{error}");
    }
}
