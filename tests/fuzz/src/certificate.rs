//! A certificate as a client offers it.

use countersign_certificate::{Certificate, insert_log_proof};

/// What is read as a certificate says the same to another reader, and its proof can be cut out and put in again.
pub fn try_on(data: &[u8]) {
    let Ok(certificate) = Certificate::parse(data) else { return };
    let pre = certificate.pre_certificate();
    match certificate.log_proof() {
        Ok(Some(proof)) => {
            let signed = insert_log_proof(&pre, &proof).expect("what was cut out goes in again");
            assert!(data.starts_with(&signed), "the proof stood in its one place and form");
        }
        Ok(None) => assert!(data.starts_with(&pre)),
        Err(_) => {}
    }
    let _ = certificate.scope();
    // Another reader; it knows fewer keys and refuses other things.
    let Ok(peer) = ssh_key::Certificate::from_bytes(data) else { return };
    assert_eq!(peer.serial(), certificate.serial.0);
    assert_eq!(peer.key_id(), certificate.key_id);
    assert_eq!(peer.valid_after(), certificate.valid_after);
    assert_eq!(peer.valid_before(), certificate.valid_before);
    assert!(peer.valid_principals().iter().eq(certificate.principals.iter()));
    assert_eq!(peer.cert_type().is_user(), certificate.cert_type == countersign_certificate::CertType::User);
    assert_eq!(ssh_key::public::PublicKey::from(peer.public_key().clone()).to_bytes().unwrap(), certificate.public_key);
}
