//! Hashes that writers sign and readers recompute: realm id, record id, entry hash, EIP-712 digests.
//!
//! Layouts are those of `docs/spec/registry.md`; the contract computes the same.

use alloy_primitives::{Address, B128, B256, Bytes, U256, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, SolValue, eip712_domain};
use countersign_certificate::Id;

use crate::entries::{Entry, Kind};
use crate::head::LogEntry;

mod typed {
    alloy_sol_types::sol! {
        #[derive(Debug, PartialEq, Eq)]
        struct Write {
            uint64 shard;
            uint16 kind;
            bytes data;
        }

        struct Append {
            address actor;
            bytes32 realm;
            uint64 shard;
            uint16 kind;
            bytes data;
            uint256 nonce;
            uint256 deadline;
        }

        struct AppendMany {
            address actor;
            bytes32 realm;
            Write[] writes;
            uint256 nonce;
            uint256 deadline;
        }

        struct AppendByRoots {
            bytes32 realm;
            uint256 nonce;
            Write[] writes;
        }
    }
}

/// One entry to be written: what the contract's `Write` struct carries. The shard of a day class has epoch 0.
pub use typed::Write;

/// The write of `entry` into `shard`.
#[must_use]
pub fn write(shard: u64, entry: &Entry) -> Write {
    Write { shard, kind: entry.kind().0, data: entry.encode() }
}

/// Realm id: keccak256(abi.encode("countersign.realm.v1", chain id, contract, threshold, roots, salt)).
#[must_use]
pub fn realm_id(chain_id: u64, contract: Address, threshold: u64, roots: &[Address], salt: B256) -> B256 {
    let preimage =
        ("countersign.realm.v1", U256::from(chain_id), contract, U256::from(threshold), roots.to_vec(), salt);
    keccak256(preimage.abi_encode_params())
}

/// The content of a `rootSet` slot: keccak256(abi.encode(nonce, threshold, roots)).
#[must_use]
pub fn root_set_hash(nonce: U256, threshold: U256, roots: &[Address]) -> B256 {
    keccak256((nonce, threshold, roots.to_vec()).abi_encode_params())
}

/// Record id: the first 16 bytes of keccak256(abi.encode(kind, actor, r)).
#[must_use]
pub fn record_id(kind: Kind, actor: Address, r: [u8; 16]) -> Id {
    head16(keccak256((kind.0, actor, B128::from(r)).abi_encode_params()))
}

/// Entry hash, which a countersignature names: keccak256(abi.encode(realm, shard, actor, meta, keccak256(data))).
#[must_use]
pub fn entry_hash(realm: B256, entry: &LogEntry) -> B256 {
    keccak256((realm, entry.shard, entry.actor, entry.meta, keccak256(&entry.data)).abi_encode_params())
}

/// The id by which a CONFIRM names a MEMBER_SET, which has no `r`: the first 16 bytes of its entry hash.
#[must_use]
pub fn member_set_id(realm: B256, entry: &LogEntry) -> Id {
    head16(entry_hash(realm, entry))
}

/// The EIP-712 domain of a registry contract.
#[must_use]
pub fn domain(chain_id: u64, contract: Address) -> Eip712Domain {
    eip712_domain! {
        name: "Countersign Registry",
        version: "1",
        chain_id: chain_id,
        verifying_contract: contract,
    }
}

/// What `actor` signs: an `Append`, for `appendBySig`, where there is one write; else an `AppendMany`, for `appendManyBySig`.
#[must_use]
pub fn append_digest(
    domain: &Eip712Domain,
    actor: Address,
    realm: B256,
    writes: &[Write],
    nonce: U256,
    deadline: U256,
) -> B256 {
    if let [Write { shard, kind, data }] = writes {
        let (shard, kind, data) = (*shard, *kind, data.clone());
        return typed::Append { actor, realm, shard, kind, data, nonce, deadline }.eip712_signing_hash(domain);
    }
    typed::AppendMany { actor, realm, writes: writes.to_vec(), nonce, deadline }.eip712_signing_hash(domain)
}

/// What each root signs for `appendByRoots`.
#[must_use]
pub fn append_by_roots_digest(domain: &Eip712Domain, realm: B256, nonce: U256, writes: &[Write]) -> B256 {
    typed::AppendByRoots { realm, nonce, writes: writes.to_vec() }.eip712_signing_hash(domain)
}

/// One root's signature over what [`append_by_roots_digest`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSignature {
    /// The root's place in the root set.
    pub index: u8,
    /// Any form that the contract takes.
    pub signature: Bytes,
}

/// The argument `signatures` of `appendByRoots`: index (1 byte), length (2 bytes) and signature of each. None, if one has more
/// than 65,535 bytes.
#[must_use]
pub fn pack_root_signatures(signatures: &[RootSignature]) -> Option<Bytes> {
    let mut packed = Vec::new();
    for RootSignature { index, signature } in signatures {
        packed.push(*index);
        packed.extend_from_slice(&u16::try_from(signature.len()).ok()?.to_be_bytes());
        packed.extend_from_slice(signature);
    }
    Some(packed.into())
}

/// The storage slot of `heads[realm][shard]`.
#[must_use]
pub fn head_slot(realm: B256, shard: u64) -> B256 {
    let inner = keccak256((realm, U256::ZERO).abi_encode_params());
    keccak256((shard, inner).abi_encode_params())
}

/// More calls than the roots of any realm make.
pub const MOST_NONCES: u64 = 1 << 20;

/// The nonce of a `rootSet` slot with this content, which are the roots' next; none where the slot is not of these roots.
#[must_use]
pub fn root_nonce(slot: B256, threshold: u64, roots: &[Address]) -> Option<u64> {
    if slot.is_zero() {
        return Some(0);
    }
    (1..=MOST_NONCES).find(|nonce| root_set_hash(U256::from(*nonce), U256::from(threshold), roots) == slot)
}

/// The storage slot of `rootSet[realm]`.
#[must_use]
pub fn root_set_slot(realm: B256) -> B256 {
    keccak256((realm, U256::from(1)).abi_encode_params())
}

/// The storage slot of `actors[realm][who]`, which holds `nonce << 64 | roles`.
#[must_use]
pub fn actor_slot(realm: B256, who: Address) -> B256 {
    let inner = keccak256((realm, U256::from(2)).abi_encode_params());
    keccak256((who, inner).abi_encode_params())
}

/// Entry data as it is logged: encoding byte 0 and the payload.
#[must_use]
pub fn clear(payload: &[u8]) -> Bytes {
    let mut data = Vec::with_capacity(payload.len().saturating_add(1));
    data.push(0);
    data.extend_from_slice(payload);
    data.into()
}

fn head16(hash: B256) -> Id {
    let mut id = [0; 16];
    id.copy_from_slice(hash.split_at(16).0);
    Id(id)
}
