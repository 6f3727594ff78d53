//! SSH certificates as bytes.
//!
//! The login path, the issuer and the ledger's replay must agree on the same bytes: which part of a certificate a batch
//! commits to, what the two extensions say, what an approver approved. This crate holds those layouts, in
//! `docs/spec/certificate.md` with vectors, and nothing else: it does no I/O, knows no clock and checks no signature
//! (sshd and the issuer's library do that).
//!
//! It refuses what OpenSSH leaves open: unsorted or duplicate extensions, trailing bytes, keys that are not in their one
//! canonical form, certificates as signing keys. A certificate that another parser could read differently is no certificate.
//!
//! Nothing here panics or allocates more than a small multiple of its input.

mod approval;
mod certificate;
mod error;
mod id;
mod key;
mod log_proof;
pub mod merkle;
mod scope;
mod text;
mod wire;

pub use approval::{ApprovalTerms, approval_hash};
pub use certificate::{
    BACKDATE_SECS, CertOption, CertType, Certificate, MAX_CERTIFICATE_BYTES, MAX_PRINCIPALS, ToBeSigned,
    insert_log_proof,
};
pub use error::CertificateError;
pub use id::{Fingerprint20, Id, RealmId, Serial};
pub use key::{KeyAlgorithm, PublicKey, fingerprint_sha256};
pub use log_proof::{LOG_PROOF_EXTENSION, LogProof};
pub use merkle::{Digest32, leaf_hash};
pub use scope::{SCOPE_EXTENSION, Scope, Target, label_digest};
pub use text::{decode_base64, encode_base64, fingerprint_text};
