//! Certificates that `ssh-keygen` would not make: laid out field by field, each field whatever a scenario wants, signed by a CA's key.

use std::fs;

use countersign_certificate::{Digest32, Id, LogProof, RealmId, insert_log_proof, leaf_hash};
use ssh_key::PrivateKey;

use crate::{machine::KeyFile, mint::Mint, probe::string, realm};

/// The algorithm's name of the certificates made here.
pub const ALGORITHM: &str = "ssh-ed25519-cert-v01@openssh.com";

/// A certificate's fields, in their order.
#[derive(Clone, Debug)]
pub struct Forgery {
    /// The certified key's 32 bytes.
    pub key: Vec<u8>,
    /// The serial.
    pub serial: u64,
    /// 1 user, 2 host.
    pub cert_type: u32,
    /// The key id.
    pub key_id: Vec<u8>,
    /// The principals.
    pub principals: Vec<Vec<u8>>,
    /// Unix seconds.
    pub valid_after: u64,
    /// Unix seconds.
    pub valid_before: u64,
    /// Names and data of critical options.
    pub critical: Vec<(Vec<u8>, Vec<u8>)>,
    /// Names and data of extensions.
    pub extensions: Vec<(Vec<u8>, Vec<u8>)>,
    /// What is reserved.
    pub reserved: Vec<u8>,
    /// The blob of the key that is said to have signed it.
    pub signature_key: Vec<u8>,
    /// What stands behind the signature.
    pub trailing: Vec<u8>,
}

/// An option's data: a text.
#[must_use]
pub fn text(value: &str) -> Vec<u8> {
    string(value.as_bytes())
}

impl Forgery {
    /// The fields of what `ssh-keygen` would make of `mint`.
    ///
    /// # Panics
    /// Where its key is not Ed25519.
    #[must_use]
    pub fn of(mint: &Mint<'_>) -> Self {
        let key = mint.key.blob();
        let scope = mint.scope.iter().map(|scope| (b"scope@countersign".to_vec(), text(&scope.to_text())));
        Self {
            key: key.last_chunk::<32>().expect("an Ed25519 key").to_vec(),
            serial: u64::from_be_bytes(realm::random()),
            cert_type: 1,
            key_id: b"scenario/forged".to_vec(),
            principals: mint.principals.iter().map(|name| name.as_bytes().to_vec()).collect(),
            valid_after: mint.valid_after,
            valid_before: mint.valid_before,
            critical: Vec::new(),
            extensions: [(b"permit-pty".to_vec(), Vec::new())].into_iter().chain(scope).collect(),
            reserved: Vec::new(),
            signature_key: mint.ca.blob(),
            trailing: Vec::new(),
        }
    }

    fn to_be_signed(&self) -> Vec<u8> {
        let options = |options: &[(Vec<u8>, Vec<u8>)]| -> Vec<u8> {
            options.iter().flat_map(|(name, data)| [string(name), string(data)].concat()).collect()
        };
        let principals: Vec<u8> = self.principals.iter().flat_map(|name| string(name)).collect();
        [
            text(ALGORITHM),
            string(&[9; 32]),
            string(&self.key),
            self.serial.to_be_bytes().to_vec(),
            self.cert_type.to_be_bytes().to_vec(),
            string(&self.key_id),
            string(&principals),
            self.valid_after.to_be_bytes().to_vec(),
            self.valid_before.to_be_bytes().to_vec(),
            string(&options(&self.critical)),
            string(&options(&self.extensions)),
            string(&self.reserved),
            string(&self.signature_key),
        ]
        .concat()
    }

    /// The certificate's blob, signed by `ca`.
    #[must_use]
    pub fn sign(&self, ca: &KeyFile) -> Vec<u8> {
        [sign(self.to_be_signed(), ca), self.trailing.clone()].concat()
    }

    /// What a batch commits to.
    ///
    /// # Panics
    /// Where a host would not read it.
    #[must_use]
    pub fn leaf(&self, realm: RealmId, ca: Id) -> Digest32 {
        leaf_hash(&realm, &ca, &self.to_be_signed())
    }

    /// The blob with a log proof, signed by `ca`.
    ///
    /// # Panics
    /// Where a proof does not fit in.
    #[must_use]
    pub fn sign_logged(&self, ca: &KeyFile, proof: &LogProof) -> Vec<u8> {
        sign(insert_log_proof(&self.to_be_signed(), proof).expect("a proof that fits in"), ca)
    }
}

/// Bytes, whatever they are, and behind them their signature by `ca`.
///
/// # Panics
/// Where the CA's key cannot be read.
#[must_use]
pub fn sign(mut bytes: Vec<u8>, ca: &KeyFile) -> Vec<u8> {
    let key = fs::read_to_string(&ca.path).expect("the CA's key");
    let key = PrivateKey::from_openssh(key).expect("the CA's key");
    let signature: ssh_key::Signature = signature::Signer::try_sign(&key, &bytes).expect("a signature");
    let signature: Vec<u8> = signature.try_into().expect("a signature that encodes");
    bytes.extend_from_slice(&string(&signature));
    bytes
}
