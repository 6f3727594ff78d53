//! The two extensions of ours: inclusion proofs and scopes. One form each.

use countersign_certificate::{LogProof, Scope};

/// What is read is written the same; what a proof leads to depends on all of it.
pub fn try_on(data: &[u8]) {
    if let Ok(proof) = LogProof::from_option_data(data) {
        // A length, and base64 without padding: one text for each proof.
        assert_eq!(data.len(), 4 + (proof.encode().len() * 4).div_ceil(3));
    }
    if let Ok(scope) = Scope::from_option_data(data) {
        let text = scope.to_text();
        assert_eq!([&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat(), data);
    }
    if let Ok(scope) = Scope::decode(data) {
        assert_eq!(scope.encode(), data);
    }
    let Ok(proof) = LogProof::decode(data) else { return };
    assert_eq!(proof.encode(), data);
    let leaf = [7; 32];
    let Some(root) = countersign_certificate::merkle::root_from_path(&leaf, proof.index(), proof.size(), proof.path())
    else {
        return;
    };
    // Another leaf at that place leads elsewhere.
    let other = countersign_certificate::merkle::root_from_path(&[8; 32], proof.index(), proof.size(), proof.path());
    assert_ne!(other, Some(root));
}
