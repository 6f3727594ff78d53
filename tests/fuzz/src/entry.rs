//! What somebody writes on the ledger.

use countersign_registry::entries::{Entry, Kind};

/// Two bytes of kind and the data: what is read is written the same.
pub fn try_on(data: &[u8]) {
    let Some((kind, data)) = data.split_first_chunk::<2>() else { return };
    let kind = Kind(u16::from_be_bytes(*kind));
    let Ok(entry) = Entry::decode(kind, data) else { return };
    assert_eq!(entry.kind(), kind);
    assert_eq!(entry.encode().as_ref(), data, "one form for each entry");
}

/// One entry of each kind.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../vectors/registry.json")).unwrap();
    let payloads = vectors["payloads"].as_array().unwrap().iter();
    payloads
        .map(|payload| {
            let kind = u16::try_from(payload["kind"].as_u64().unwrap()).unwrap();
            [&kind.to_be_bytes()[..], &crate::hex(payload["data"].as_str().unwrap())].concat()
        })
        .collect()
}
