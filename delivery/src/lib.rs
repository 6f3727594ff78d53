//! Sealed payloads and the blocks that carry them: what a sender seals to one recipient, the CID that names the sealed block, and
//! the places that keep such blocks: directories, IPFS nodes, gateways. Formats: `docs/spec/delivery.md`.
//!
//! Knows nothing of chains: realm, delivery id and recipient come in as bytes. Refuses to return a payload whose salted digest,
//! name, kind, sender or recipient is not the one asked for, and a block whose bytes are not those that its CID names.
//!
//! ```
//! use countersign_delivery::{Context, Contents, Payload, PayloadKind, SecretKey, open, open_cid, seal};
//!
//! # fn main() -> Result<(), countersign_delivery::DeliveryError> {
//! let (issuer, device) = (SecretKey::generate()?, SecretKey::generate()?);
//! let context = Context { realm: [1; 32], delivery: [2; 16], recipient: [3; 20], kind: PayloadKind::SshCertificate };
//! let certificate = "ssh-ed25519-cert-v01@openssh.com AAAA alice/01\n".to_owned();
//! let payload = Payload::new("alice", Contents::SshCertificate { certificate })?;
//!
//! let sealed = seal(&context, &issuer, &device.public(), &payload)?;
//! // On the ledger: sealed.digest and sealed.sealed_cid. In a block store: sealed.block.
//! let cid = open_cid(&context, &device, &issuer.public(), &sealed.digest, &sealed.sealed_cid)?;
//! assert_eq!(cid, sealed.cid);
//! assert_eq!(open(&context, &device, &issuer.public(), &sealed.digest, "alice", &sealed.block)?, payload);
//! # Ok(())
//! # }
//! ```

mod block;
mod dag;
mod envelope;
mod error;
mod key;
mod leaves;
mod payload;
mod payload_block;
mod prekey;
mod seal;
mod store;

pub use block::{BlockCid, ContentId, MAX_BLOCK_BYTES};
pub use dag::{MAX_FILE_BYTES, Tree};
pub use envelope::{
    Addressee, Binding, Envelope, EnvelopeSeeds, Index, Item, MAX_RECIPIENTS, PAGE_RECORDS, RECORD_BYTES, Record, Slot,
    seal_envelope, seal_envelope_with,
};
pub use error::DeliveryError;
pub use key::{PublicKey, SecretKey};
pub use leaves::{
    LEAF_OVERHEAD, LeavesContext, MAX_WATCHDOGS, Watchdog, leaves_capacity, open_leaves, seal_leaves, seal_leaves_with,
};
pub use payload::{Contents, Digest, MAX_PAYLOAD_BYTES, Payload, PayloadKind, Salt};
pub use payload_block::{SealedPayload, open_payload, seal_payload, seal_payload_with};
pub use prekey::{Kept, PREKEY_LIFE_SECS, PrekeyId, Prekeys, Progress, Wanted};
pub use seal::{Context, SEALED_CID_BYTES, Sealed, open, open_cid, seal, seal_with};
pub use store::{
    Answer, BlockStore, Deadlines, DirectoryStore, GatewayStore, Held, KuboStore, Outcome, Place, Placed, Puts,
    StoreSetting, Stores,
};
