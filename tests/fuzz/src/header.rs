//! Block headers as a node delivers them.

use alloy_primitives::keccak256;
use countersign_registry::header::{from_json, from_rlp};

/// Raw or JSON: a header's hash is that of its bytes, and both forms of one header agree.
pub fn try_on(data: &[u8]) {
    if let Ok(header) = from_rlp(data) {
        assert_eq!(header.hash(), keccak256(data));
        assert_eq!(header.header().hash_slow(), header.hash());
        assert_eq!(header.state_root(), header.header().state_root);
    }
    let Ok(json) = serde_json::from_slice(data) else { return };
    let Ok(header) = from_json(&json) else { return };
    assert_eq!(header.header().hash_slow(), header.hash());
    let claimed = json["hash"].as_str().unwrap().to_lowercase();
    assert_eq!(claimed, header.hash().to_string());
}
