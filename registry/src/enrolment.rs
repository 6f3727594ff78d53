//! Enrolment: what a device says in the inbox, and what makes an entry there worth an admin's look.
//!
//! Anybody writes to the inbox, and hosts never read it: an entry asks, and decides nothing. A one-time token that an admin gave to the
//! device may vouch for it: the entry then carries a MAC under the token over everything that is asked. Layout and vectors:
//! `docs/spec/enrolment.md`.

use alloy_primitives::{Address, B256};
use countersign_certificate::PublicKey;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::entries::payload::Enrol;
use crate::replay::wellformed::{HOST_NAME_MAX, NAME_MAX, is_name};

const DOMAIN: &[u8] = b"countersign.enrol.v1";

/// Bytes in a token, all of them random.
pub const TOKEN_LEN: usize = 32;

/// Why an enrolment is not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EnrolmentError {
    /// The entry's actor is not who would be enrolled: nobody has shown that it holds the ledger key.
    #[error("written by {writer}, asks for {actor}: expected the ledger key itself to ask")]
    OtherWriter {
        /// The entry's actor.
        writer: Address,
        /// Who would be enrolled.
        actor: Address,
    },
    /// The name is not a host's.
    #[error("name of {length} bytes: expected [a-z0-9._-]{{1,253}}")]
    Name {
        /// Its length; it may be anything.
        length: usize,
    },
    /// The host key is not an SSH public key.
    #[error("host key: {0}")]
    HostKey(countersign_certificate::CertificateError),
}

/// Checks what the entry itself can show: that `writer`, whose key signed it, is who asks, and that name and host key are in form.
///
/// # Errors
/// See [`EnrolmentError`].
pub fn check(writer: Address, enrol: &Enrol) -> Result<(), EnrolmentError> {
    if writer != enrol.actor {
        return Err(EnrolmentError::OtherWriter { writer, actor: enrol.actor });
    }
    if !is_host_name(&enrol.name) {
        return Err(EnrolmentError::Name { length: enrol.name.len() });
    }
    if !enrol.hostKey.is_empty() {
        PublicKey::parse(&enrol.hostKey).map_err(EnrolmentError::HostKey)?;
    }
    Ok(())
}

/// Whether a host may have this name: `[a-z0-9._-]{1,253}`.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    is_name(name, HOST_NAME_MAX)
}

/// Whether a host may have this label: `[a-z0-9._-]{1,63}`.
#[must_use]
pub fn is_label(label: &str) -> bool {
    is_name(label, NAME_MAX)
}

/// The MAC of an enrolment under a one-time token; `enrol.tokenMac` is not part of it.
#[must_use]
pub fn token_mac(token: &[u8; TOKEN_LEN], realm: B256, enrol: &Enrol) -> B256 {
    B256::from_slice(&mac(token, realm, enrol).finalize().into_bytes())
}

/// Whether the enrolment carries the MAC of this token. Takes the same time for every wrong MAC.
#[must_use]
pub fn is_vouched_by(token: &[u8; TOKEN_LEN], realm: B256, enrol: &Enrol) -> bool {
    mac(token, realm, enrol).verify_slice(enrol.tokenMac.as_slice()).is_ok()
}

fn mac(token: &[u8; TOKEN_LEN], realm: B256, enrol: &Enrol) -> Hmac<Sha256> {
    // HMAC fills a key up with zeros to its block of 64 bytes; filled up here, no length is left to be wrong.
    let mut key = Zeroizing::new([0_u8; 64]);
    key.iter_mut().zip(token).for_each(|(byte, secret)| *byte = *secret);
    let mut mac = Hmac::<Sha256>::new((&*key).into());
    mac.update(DOMAIN);
    mac.update(realm.as_slice());
    mac.update(enrol.actor.as_slice());
    mac.update(enrol.x25519.as_slice());
    // Of fixed length, whatever a name or key is: no two enrolments give the same bytes.
    mac.update(&Sha256::digest(enrol.name.as_bytes()));
    mac.update(&Sha256::digest(&enrol.hostKey));
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: [u8; TOKEN_LEN] = [7; TOKEN_LEN];
    const REALM: B256 = B256::repeat_byte(1);

    fn enrol() -> Enrol {
        let mut enrol = Enrol {
            actor: Address::repeat_byte(2),
            x25519: B256::repeat_byte(3),
            name: "press-7".to_owned(),
            hostKey: Default::default(),
            tokenMac: B256::ZERO,
        };
        enrol.tokenMac = token_mac(&TOKEN, REALM, &enrol);
        enrol
    }

    #[test]
    fn a_token_vouches_for_every_field_and_for_one_realm() {
        let good = enrol();
        assert!(is_vouched_by(&TOKEN, REALM, &good));
        assert!(!is_vouched_by(&[8; TOKEN_LEN], REALM, &good));
        assert!(!is_vouched_by(&TOKEN, B256::repeat_byte(9), &good));
        let changes: [fn(&mut Enrol); 5] = [
            |enrol| enrol.actor = Address::repeat_byte(9),
            |enrol| enrol.x25519 = B256::repeat_byte(9),
            |enrol| enrol.name.push('0'),
            |enrol| enrol.hostKey = vec![0].into(),
            |enrol| enrol.tokenMac = B256::ZERO,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut other = enrol();
            change(&mut other);
            assert!(!is_vouched_by(&TOKEN, REALM, &other), "change {index}");
        }
    }

    #[test]
    fn only_the_ledger_key_itself_asks_and_only_in_form() {
        let good = enrol();
        assert_eq!(check(good.actor, &good), Ok(()));
        let writer = Address::repeat_byte(4);
        assert_eq!(check(writer, &good), Err(EnrolmentError::OtherWriter { writer, actor: good.actor }));
        for name in ["", "Press", "a b", "a/b", &"a".repeat(254), "\u{1b}[2J"] {
            let named = Enrol { name: name.to_owned(), ..enrol() };
            assert_eq!(check(named.actor, &named), Err(EnrolmentError::Name { length: name.len() }));
        }
        let keyed = Enrol { hostKey: b"ssh-ed25519 AAAA".to_vec().into(), ..enrol() };
        assert!(matches!(check(keyed.actor, &keyed), Err(EnrolmentError::HostKey(_))));
    }
}
