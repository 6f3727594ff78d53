//! Block headers: from an RPC answer or from raw RLP to a header whose hash was recomputed.
//!
//! A header that hashes to its block hash is exactly what the chain committed to, whoever delivered it; whether that block is
//! to be trusted is the header source's question. All forks to date are known (London to Amsterdam fields included). A field
//! from a later fork changes the hash, so such a header is refused, and the error says that the chain has upgraded.
//! Fields beside the header (`size`, `transactions`, a provider's own) decide nothing while the hash is right.

use alloy_consensus::Header;
use alloy_primitives::{B64, B256, Bloom, Bytes, U256, keccak256};
use alloy_rlp::Decodable;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::realm::BlockRef;

/// What RPC answers carry beside the header's own fields.
const BESIDE: [&str; 6] = ["hash", "size", "totalDifficulty", "transactions", "uncles", "withdrawals"];
/// The header's fields, as RPC answers name them.
const FIELDS: [&str; 23] = [
    "parentHash",
    "sha3Uncles",
    "miner",
    "stateRoot",
    "transactionsRoot",
    "receiptsRoot",
    "logsBloom",
    "difficulty",
    "number",
    "gasLimit",
    "gasUsed",
    "timestamp",
    "extraData",
    "mixHash",
    "nonce",
    "baseFeePerGas",
    "withdrawalsRoot",
    "blobGasUsed",
    "excessBlobGas",
    "parentBeaconBlockRoot",
    "requestsHash",
    "blockAccessListHash",
    "slotNumber",
];

/// A header and the hash that was computed from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedHeader {
    hash: B256,
    header: Header,
}

impl HashedHeader {
    /// Block hash, recomputed.
    #[must_use]
    pub fn hash(&self) -> B256 {
        self.hash
    }

    /// Root of the state after the block.
    #[must_use]
    pub fn state_root(&self) -> B256 {
        self.header.state_root
    }

    /// Number and time.
    #[must_use]
    pub fn block(&self) -> BlockRef {
        BlockRef { number: self.header.number, time: self.header.timestamp }
    }

    /// All fields.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }
}

/// A header that cannot be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a block.
    #[error("block header: expected a JSON object, got {0}")]
    NotAnObject(&'static str),
    /// A field is missing.
    #[error("block header: field {0} is missing")]
    Missing(&'static str),
    /// A field does not parse.
    #[error("block header: field {field} is {value}, expected {expected}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What was there, cut short.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The hash differs, and there are fields that this version does not know.
    #[error(
        "chain has upgraded: block {number} has header fields this version does not know ({fields}) and does not re-hash to \
         {expected}; install a newer countersign"
    )]
    Upgraded {
        /// Block number, unverified.
        number: u64,
        /// The unknown fields' names.
        fields: String,
        /// Block hash as delivered.
        expected: B256,
    },
    /// The hash differs, with known fields only.
    #[error("block {number}: header hashes to {computed}, expected {expected}")]
    Hash {
        /// Block number, unverified.
        number: u64,
        /// What the fields hash to.
        computed: B256,
        /// Block hash as delivered.
        expected: B256,
    },
    /// RLP with more items than this version knows.
    #[error(
        "chain has upgraded: the raw header has {items} fields, this version knows {known}; install a newer countersign"
    )]
    UpgradedRlp {
        /// Items of the list.
        items: usize,
        /// What this version knows.
        known: usize,
    },
    /// RLP that is no header.
    #[error("raw block header is not canonical rlp")]
    Rlp,
}

/// Rebuilds the header of a block that an RPC node delivered as JSON, and re-hashes it.
///
/// # Errors
/// [`HeaderError`] if a field is missing or malformed, or if the header does not hash to the answer's `hash`.
pub fn from_json(block: &Value) -> Result<HashedHeader, HeaderError> {
    let Value::Object(fields) = block else { return Err(HeaderError::NotAnObject(type_name(block))) };
    let expected: B256 = bytes(fields, "hash")?;
    let header = Header {
        parent_hash: bytes(fields, "parentHash")?,
        ommers_hash: bytes(fields, "sha3Uncles")?,
        beneficiary: bytes(fields, "miner")?,
        state_root: bytes(fields, "stateRoot")?,
        transactions_root: bytes(fields, "transactionsRoot")?,
        receipts_root: bytes(fields, "receiptsRoot")?,
        logs_bloom: bytes::<Bloom>(fields, "logsBloom")?,
        difficulty: required(fields, "difficulty", quantity::<U256>)?,
        number: required(fields, "number", quantity_u64)?,
        gas_limit: required(fields, "gasLimit", quantity_u64)?,
        gas_used: required(fields, "gasUsed", quantity_u64)?,
        timestamp: required(fields, "timestamp", quantity_u64)?,
        extra_data: bytes::<Bytes>(fields, "extraData")?,
        mix_hash: bytes(fields, "mixHash")?,
        nonce: bytes::<B64>(fields, "nonce")?,
        base_fee_per_gas: optional(fields, "baseFeePerGas", quantity_u64)?,
        withdrawals_root: optional(fields, "withdrawalsRoot", hex_bytes)?,
        blob_gas_used: optional(fields, "blobGasUsed", quantity_u64)?,
        excess_blob_gas: optional(fields, "excessBlobGas", quantity_u64)?,
        parent_beacon_block_root: optional(fields, "parentBeaconBlockRoot", hex_bytes)?,
        requests_hash: optional(fields, "requestsHash", hex_bytes)?,
        block_access_list_hash: optional(fields, "blockAccessListHash", hex_bytes)?,
        slot_number: optional(fields, "slotNumber", quantity_u64)?,
    };
    let number = header.number;
    let computed = header.hash_slow();
    if computed == expected {
        return Ok(HashedHeader { hash: computed, header });
    }
    let unknown: Vec<&str> =
        fields.iter().filter(|(name, value)| !value.is_null() && !known(name)).map(|(name, _)| name.as_str()).collect();
    if unknown.is_empty() {
        return Err(HeaderError::Hash { number, computed, expected });
    }
    Err(HeaderError::Upgraded { number, fields: excerpt(&unknown.join(", ")), expected })
}

/// Decodes a raw header (`debug_getRawHeader`, a mirror) and hashes it.
///
/// # Errors
/// [`HeaderError`] if it is not canonical RLP of a header that this version knows.
pub fn from_rlp(raw: &[u8]) -> Result<HashedHeader, HeaderError> {
    let items = list_items(raw).ok_or(HeaderError::Rlp)?;
    if items > FIELDS.len() {
        return Err(HeaderError::UpgradedRlp { items, known: FIELDS.len() });
    }
    let mut rest = raw;
    let header = Header::decode(&mut rest).map_err(|_| HeaderError::Rlp)?;
    if !rest.is_empty() || alloy_rlp::encode(&header) != raw {
        return Err(HeaderError::Rlp);
    }
    Ok(HashedHeader { hash: keccak256(raw), header })
}

fn list_items(raw: &[u8]) -> Option<usize> {
    let mut rest = raw;
    let list = alloy_rlp::Header::decode(&mut rest).ok()?;
    if !list.list || list.payload_length != rest.len() {
        return None;
    }
    let mut items = 0_usize;
    while !rest.is_empty() {
        let item = alloy_rlp::Header::decode(&mut rest).ok()?;
        rest = rest.get(item.payload_length..)?;
        items = items.checked_add(1)?;
    }
    Some(items)
}

fn known(name: &str) -> bool {
    FIELDS.contains(&name) || BESIDE.contains(&name)
}

type Parser<T> = fn(&str) -> Option<T>;

fn required<T>(fields: &Map<String, Value>, name: &'static str, parse: Parser<T>) -> Result<T, HeaderError> {
    optional(fields, name, parse)?.ok_or(HeaderError::Missing(name))
}

fn optional<T>(fields: &Map<String, Value>, name: &'static str, parse: Parser<T>) -> Result<Option<T>, HeaderError> {
    let value = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    match value.as_str().and_then(parse) {
        Some(parsed) => Ok(Some(parsed)),
        None => Err(HeaderError::Field {
            field: name,
            value: excerpt(&value.to_string()),
            expected: "0x and hexadecimal digits of the field's size",
        }),
    }
}

fn bytes<T: DeserializeOwned>(fields: &Map<String, Value>, name: &'static str) -> Result<T, HeaderError> {
    required(fields, name, hex_bytes)
}

fn hex_bytes<T: DeserializeOwned>(text: &str) -> Option<T> {
    text.starts_with("0x").then(|| serde_json::from_value(Value::from(text)).ok()).flatten()
}

fn quantity<T: DeserializeOwned>(text: &str) -> Option<T> {
    let digits = text.strip_prefix("0x")?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .then(|| serde_json::from_value(Value::from(text)).ok())
        .flatten()
}

fn quantity_u64(text: &str) -> Option<u64> {
    quantity::<U256>(text).and_then(|number| u64::try_from(number).ok())
}

fn excerpt(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(100).collect()
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
