//! What an approver approves: one request, word for word, as one hash.

use sha2::{Digest, Sha256};

use crate::{CertificateError, Digest32, Id, RealmId, fingerprint_sha256};

const TAG: &[u8] = b"countersign.approval.v1";

/// The terms of a request, as the requester wrote them and as a host finds them in the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApprovalTerms<'a> {
    /// The request's record id.
    pub request: Id,
    /// The user who asks.
    pub user: Id,
    /// The host it is for.
    pub host: Id,
    /// The login on that host, at most 255 bytes.
    pub login: &'a [u8],
    /// The plain public key's blob.
    pub key: &'a [u8],
    /// The time to live that was asked for: valid_before − valid_after − [`BACKDATE_SECS`](crate::BACKDATE_SECS).
    pub ttl_secs: u64,
}

/// The approval hash of `terms` in `realm`: SHA-256("countersign.approval.v1" ‖ realm ‖ request ‖ user ‖ host ‖ login's length ‖
/// login ‖ SHA-256(key blob) ‖ TTL), the length in one byte, the TTL in eight big-endian ones.
///
/// # Errors
/// [`CertificateError::Oversize`] if the login is longer than 255 bytes.
pub fn approval_hash(realm: &RealmId, terms: &ApprovalTerms<'_>) -> Result<Digest32, CertificateError> {
    let login_length = u8::try_from(terms.login.len()).map_err(|_| CertificateError::Oversize {
        field: "login",
        size: terms.login.len(),
        max: usize::from(u8::MAX),
    })?;
    let mut hash = Sha256::new();
    hash.update(TAG);
    hash.update(realm.0);
    hash.update(terms.request.0);
    hash.update(terms.user.0);
    hash.update(terms.host.0);
    hash.update([login_length]);
    hash.update(terms.login);
    hash.update(fingerprint_sha256(terms.key));
    hash.update(terms.ttl_secs.to_be_bytes());
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_changes_the_hash() {
        let terms = ApprovalTerms {
            request: Id([1; 16]),
            user: Id([2; 16]),
            host: Id([3; 16]),
            login: b"deploy",
            key: b"key",
            ttl_secs: 300,
        };
        let realm = RealmId([9; 32]);
        let others = [
            ApprovalTerms { request: Id([0; 16]), ..terms },
            ApprovalTerms { user: Id([0; 16]), ..terms },
            ApprovalTerms { host: Id([0; 16]), ..terms },
            ApprovalTerms { login: b"deploy2", ..terms },
            ApprovalTerms { key: b"other", ..terms },
            ApprovalTerms { ttl_secs: 301, ..terms },
        ];
        let hash = approval_hash(&realm, &terms).unwrap();
        for other in &others {
            assert_ne!(approval_hash(&realm, other).unwrap(), hash, "{other:?}");
        }
        assert_ne!(approval_hash(&RealmId([8; 32]), &terms).unwrap(), hash);
    }

    #[test]
    fn a_login_whose_length_does_not_fit_one_byte_is_refused() {
        let login = [b'a'; 256];
        let terms = ApprovalTerms {
            request: Id([1; 16]),
            user: Id([2; 16]),
            host: Id([3; 16]),
            login: &login,
            key: b"key",
            ttl_secs: 300,
        };
        let refusal = CertificateError::Oversize { field: "login", size: 256, max: 255 };
        assert_eq!(approval_hash(&RealmId([9; 32]), &terms), Err(refusal));
    }
}
