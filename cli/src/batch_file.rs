//! Files that carry a batch from who orders it to who logs it to who signs it.
//!
//! TOML that a person can read. It begins as orders: who wants to log in where, as whom, for how long, with which key. Whoever holds the
//! issuer's ledger key adds the pre-certificates and logs their root; whoever holds the CA's key compares with the ledger and signs. The
//! remarks decide nothing: both are shown what the ids and bytes say. A file of another version, or for another realm, chain or contract,
//! and pre-certificates that are not those of the orders, are refused. Format: `docs/spec/batch-file.md`.

use std::num::NonZeroU64;
use std::path::Path;

use alloy_primitives::{Address, B256, Bytes};
use countersign_certificate::RealmId;
use countersign_issuer::leaves::{Leaves, Prepared};
use countersign_issuer::policy::Order;
use countersign_registry::{Id, RealmPin};
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::files::{self, Existing};
use crate::proposal::{VERSION, of_this_version, same_realm, save};

/// One certificate that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OrderText {
    /// The author's remark; decides nothing.
    pub about: String,
    /// User's record id.
    pub user: Id,
    /// Host's record id.
    pub host: Id,
    /// The login there.
    pub login: String,
    /// Seconds.
    pub ttl: NonZeroU64,
    /// As in a `.pub` file.
    pub public_key: String,
    /// The request on the ledger that it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Id>,
}

/// The batch that was made of the orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BatchText {
    /// Its record id.
    pub id: Id,
    /// Who logs it.
    pub issuer: Address,
    /// One per order, in their order.
    pub pre_certificates: Vec<Bytes>,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BatchFile {
    /// [`VERSION`].
    pub version: u64,
    /// Realm id.
    pub realm: B256,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The registry.
    pub contract: Address,
    /// The CA's record id.
    pub ca: Id,
    /// What is asked for.
    pub orders: Vec<OrderText>,
    /// What was made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchText>,
}

const HEADING: &str = "\
# Certificates of a Countersign realm on their way: `countersign batch read FILE` shows what they say, `batch log FILE` logs them with the
# issuer's ledger key, `batch sign FILE` signs with the CA's key what the ledger shows. The `about` lines are remarks and decide nothing.
";

impl BatchFile {
    /// A file without orders.
    pub fn new(pin: &RealmPin, ca: Id) -> Self {
        let (realm, chain_id, contract) = (pin.realm, pin.chain_id, pin.contract);
        Self { version: VERSION, realm, chain_id, contract, ca, orders: Vec::new(), batch: None }
    }

    /// Reads a file and checks that it is for this realm and holds orders.
    ///
    /// # Errors
    /// [`CliError::File`], [`CliError::Proposal`], [`CliError::Content`].
    pub fn load(path: &Path, pin: &RealmPin) -> Result<Self, CliError> {
        let (name, text) = (path.display().to_string(), files::read_text(path)?);
        let file: Self = of_this_version(&name, &text)?;
        same_realm(&name, pin, file.realm, file.chain_id, file.contract)?;
        if file.orders.is_empty() {
            return Err(CliError::Content { path: path.to_owned(), problem: "holds no orders".to_owned() });
        }
        Ok(file)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`CliError::File`].
    pub fn save(&self, path: &Path, existing: Existing) -> Result<(), CliError> {
        save(path, HEADING, self, existing)
    }

    /// The orders, with their keys read.
    ///
    /// # Errors
    /// [`CliError::Content`].
    pub fn orders(&self, path: &Path) -> Result<Vec<Order>, CliError> {
        self.orders.iter().map(|order| order.order(path)).collect()
    }

    /// The certificates of the batch, which must be those that were ordered; `ca_key` is the CA's, SSH wire form.
    ///
    /// # Errors
    /// [`CliError::Content`] that names the first certificate at fault.
    pub fn leaves(&self, path: &Path, batch: &BatchText, ca_key: &[u8]) -> Result<Leaves, CliError> {
        let content = |problem: String| CliError::Content { path: path.to_owned(), problem };
        let orders = self.orders(path)?;
        if orders.len() != batch.pre_certificates.len() {
            let (made, asked) = (batch.pre_certificates.len(), orders.len());
            return Err(content(format!("holds {made} pre-certificates for {asked} orders")));
        }
        let realm = RealmId(self.realm.0);
        let mut prepared = Vec::new();
        for (index, (bytes, order)) in batch.pre_certificates.iter().zip(&orders).enumerate() {
            let number = index.saturating_add(1);
            let one = Prepared::read(realm, ca_key, bytes)
                .map_err(|error| content(format!("pre-certificate {number}: {error}")))?;
            let same = one.order.user == order.user
                && one.order.host == order.host
                && one.order.login == order.login
                && one.order.ttl == order.ttl
                && one.order.public_key == order.public_key
                && order.request.is_none_or(|request| request == one.request);
            if !same {
                return Err(content(format!("pre-certificate {number} is not what order {number} asks for")));
            }
            prepared.push(one);
        }
        Ok(Leaves::new(realm, self.ca, prepared)?)
    }
}

impl OrderText {
    fn order(&self, path: &Path) -> Result<Order, CliError> {
        let content = |problem: String| CliError::Content { path: path.to_owned(), problem };
        let key = ssh_key::PublicKey::from_openssh(&self.public_key)
            .and_then(|key| key.to_bytes())
            .map_err(|error| content(format!("public-key of {}: {error}", self.about)))?;
        Ok(Order {
            user: self.user,
            host: self.host,
            login: self.login.clone(),
            ttl: self.ttl,
            public_key: key,
            request: self.request,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9dG4kjRhQTtWTVzd2t27+t0DEHBPW7iOD23TUiYLio";

    fn file() -> BatchFile {
        let mut file = BatchFile::new(&pin(), Id([1; 16]));
        file.orders.push(OrderText {
            about: "alice@web1".into(),
            user: Id([2; 16]),
            host: Id([3; 16]),
            login: "deploy".into(),
            ttl: NonZeroU64::new(300).unwrap(),
            public_key: KEY.into(),
            request: None,
        });
        file
    }

    fn load(text: &str) -> Result<BatchFile, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("b.toml");
        std::fs::write(&path, text).unwrap();
        BatchFile::load(&path, &pin()).map_err(|error| error.to_string())
    }

    fn text(file: &BatchFile) -> String {
        toml::to_string(file).unwrap()
    }

    #[test]
    fn a_file_reads_back_with_and_without_its_batch() {
        let mut file = file();
        assert_eq!(load(&text(&file)).unwrap(), file);
        let issuer = Address::repeat_byte(4);
        file.batch = Some(BatchText { id: Id([5; 16]), issuer, pre_certificates: vec![vec![1, 2].into()] });
        assert_eq!(load(&text(&file)).unwrap(), file);
    }

    #[test]
    fn a_file_for_another_realm_of_another_version_or_without_orders_is_refused() {
        let other = BatchFile { realm: B256::ZERO, ..file() };
        assert!(load(&text(&other)).unwrap_err().contains("realm is 0x00"));
        let later = BatchFile { version: 2, ..file() };
        assert!(load(&text(&later)).unwrap_err().contains("version is 2, expected 1"));
        let empty = BatchFile { orders: Vec::new(), ..file() };
        assert!(load(&text(&empty)).unwrap_err().contains("holds no orders"));
        let unknown = text(&file()).replace("login = ", "logins = ");
        assert!(load(&unknown).unwrap_err().contains("unknown field `logins`"));
    }

    #[test]
    fn pre_certificates_that_are_none_or_too_many_are_refused() {
        let (path, file) = (Path::new("b.toml"), file());
        let batch =
            |pre_certificates: Vec<Bytes>| BatchText { id: Id([5; 16]), issuer: Address::ZERO, pre_certificates };
        let leaves = |batch: &BatchText| file.leaves(path, batch, b"key").unwrap_err().to_string();
        assert_eq!(leaves(&batch(Vec::new())), "b.toml: holds 0 pre-certificates for 1 orders");
        let junk = leaves(&batch(vec![vec![1, 2].into()]));
        assert!(junk.starts_with("b.toml: pre-certificate 1: "), "{junk}");
        let no_key = OrderText { public_key: "ssh-ed25519 AAAA".into(), ..file.orders[0].clone() };
        let broken = BatchFile { orders: vec![no_key], ..file.clone() };
        assert!(broken.orders(path).unwrap_err().to_string().contains("public-key of alice@web1"));
    }
}
