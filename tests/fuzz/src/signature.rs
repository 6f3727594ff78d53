//! Signatures that are carried to those who check them offline: statements, proposals.

use countersign_registry::signature::verify;
use countersign_registry::{Address, B256};
use serde_json::Value;

/// Whoever has signed nothing has signed nothing: a signer's address, then the signature, over one digest.
pub fn try_on(data: &[u8]) {
    let Some((signer, signature)) = data.split_first_chunk::<20>() else { return };
    // The signatures of the vectors are over other digests.
    let forged = verify(Address::from(*signer), &B256::repeat_byte(0xd1), signature).is_ok();
    // Whoever makes up a key may sign with it; nobody has the key of these.
    assert!(!(forged && KNOWN.contains(signer)), "a forged signature");
}

/// Addresses of the vectors: a key of secp256k1, one of P-256, a passkey.
const KNOWN: [[u8; 20]; 2] = [
    [
        0x54, 0x9f, 0x64, 0x29, 0x72, 0xf2, 0x2a, 0x72, 0xf9, 0x33, 0xa0, 0x41, 0x46, 0xab, 0x9e, 0x31, 0x08, 0x94,
        0x98, 0x01,
    ],
    [
        0xe5, 0x12, 0x6a, 0x55, 0x27, 0xdb, 0xb2, 0x03, 0x65, 0x0e, 0xee, 0xf0, 0x1f, 0x60, 0xcc, 0x55, 0x07, 0xc8,
        0x03, 0xe6,
    ],
];

/// Good signatures of another digest.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/registry.json")).unwrap();
    let writes = vectors["append"].as_array().unwrap().iter();
    writes
        .map(|write| {
            let field = |name: &str| crate::hex(write[name].as_str().unwrap());
            [field("actor"), field("signature")].concat()
        })
        .collect()
}
