//! P-256 signatures against `tests/vectors/registry.json`: taken whole, refused in every altered form, and put together from what
//! tokens and browsers give.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a vector file of another shape is a failed test"
)]

use std::path::Path;

use alloy_primitives::{Address, B256, Bytes, hex};
use base64ct::{Base64UrlUnpadded, Encoding};
use countersign_registry::p256_key::{P256Error, P256PublicKey};
use countersign_registry::signature::{P256Form, SignatureError, verify};
use p256::ecdsa::Signature;
use p256::elliptic_curve::scalar::IsHigh;
use serde_json::Value;

fn vectors() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/registry.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

struct Case {
    key: P256PublicKey,
    signer: Address,
    digest: B256,
    signature: Vec<u8>,
}

/// The vectors' signatures by the P-256 key: over the digest itself, and by a passkey.
fn cases() -> [Case; 2] {
    let vectors = vectors();
    let public: Bytes = vectors["keys"]["p256"]["publicKey"].as_str().unwrap().parse().unwrap();
    let key = P256PublicKey::from_sec1(&[&[4], public.as_ref()].concat()).unwrap();
    [3, 4].map(|index| {
        let append = &vectors["append"][index];
        let signature: Bytes = append["signature"].as_str().unwrap().parse().unwrap();
        Case {
            key,
            signer: append["actor"].as_str().unwrap().parse().unwrap(),
            digest: append["digest"].as_str().unwrap().parse().unwrap(),
            signature: signature.to_vec(),
        }
    })
}

/// r ‖ s, with the other s.
fn twin(r_s: &[u8]) -> Vec<u8> {
    let signature = Signature::from_slice(r_s).unwrap();
    let (r, s) = signature.split_scalars();
    Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).unwrap().to_bytes().to_vec()
}

#[test]
fn a_key_signs_for_the_address_of_the_vectors() {
    for (case, form) in cases().iter().zip([P256Form::Digest, P256Form::Assertion]) {
        assert_eq!(case.key.address(form), case.signer);
        assert_eq!(verify(case.signer, &case.digest, &case.signature), Ok(()));
    }
}

#[test]
fn altered_signatures_are_refused_and_other_keys_are_not_this_signers() {
    for case in cases() {
        for at in 0..case.signature.len() {
            let mut altered = case.signature.clone();
            altered[at] ^= 1;
            let error = verify(case.signer, &case.digest, &altered).unwrap_err();
            if (64..128).contains(&at) {
                assert!(matches!(error, SignatureError::NotByKey { .. }), "byte {at}: {error}");
            }
            assert!(verify(case.signer, &case.digest, &case.signature[..at]).is_err(), "{at} bytes");
        }
        let longer = [&case.signature[..], &[0]].concat();
        assert!(verify(case.signer, &case.digest, &longer).is_err());
        assert_eq!(verify(case.signer, &B256::ZERO, &case.signature), Err(SignatureError::Wrong));
        let other = verify(Address::ZERO, &case.digest, &case.signature);
        assert_eq!(other, Err(SignatureError::NotByKey { length: case.signature.len() }));
        let high = [&twin(&case.signature[..64]), &case.signature[64..]].concat();
        assert_eq!(verify(case.signer, &case.digest, &high), Err(SignatureError::HighS));
    }
}

#[test]
fn what_a_token_gives_takes_the_contracts_form() {
    let [case, _] = cases();
    let high = twin(&case.signature[..64]);
    assert!(bool::from(Signature::from_slice(&high).unwrap().s().is_high()));
    for r_s in [case.signature[..64].to_vec(), high] {
        let der = Signature::from_slice(&r_s).unwrap().to_der();
        assert_eq!(case.key.signature(&r_s).unwrap(), case.signature);
        assert_eq!(case.key.signature(der.as_bytes()).unwrap(), case.signature);
    }
    for bad in [&[][..], &[0; 64], &[0x30, 0], &case.signature[..63]] {
        assert_eq!(case.key.signature(bad), Err(P256Error::Form));
    }
    for bad in [&[][..], &[4; 65], &[2; 32]] {
        assert_eq!(P256PublicKey::from_sec1(bad), Err(P256Error::Key));
    }
}

#[test]
fn what_a_browser_gives_takes_the_contracts_form() {
    let [_, case] = cases();
    let (r_s, rest) = (&case.signature[..64], &case.signature[130..]);
    let (data, rest) = rest.split_at(37);
    let challenge = "{\"type\":\"webauthn.get\",\"challenge\":\"";
    let client = |ceremony: &str, digest: &B256| {
        let challenge = challenge.replace("webauthn.get", ceremony);
        let encoded = Base64UrlUnpadded::encode_string(digest.as_slice());
        [challenge.as_bytes(), encoded.as_bytes(), b"\"", rest].concat()
    };
    let good = client("webauthn.get", &case.digest);
    assert_eq!(case.key.assertion(&case.digest, data, &good, r_s).unwrap(), case.signature);
    for bad in [client("webauthn.create", &case.digest), client("webauthn.get", &B256::ZERO), Vec::new()] {
        assert_eq!(case.key.assertion(&case.digest, data, &bad, r_s), Err(P256Error::ClientData));
    }
    for flags in [0x00, 0x01, 0x04, 0xfa] {
        let mut data = data.to_vec();
        data[32] = flags;
        let refused = case.key.assertion(&case.digest, &data, &good, r_s);
        assert_eq!(refused, Err(P256Error::AuthenticatorData), "{}", hex::encode([flags]));
    }
    for data in [&data[..36], &[0xff; 65_536]] {
        assert_eq!(case.key.assertion(&case.digest, data, &good, r_s), Err(P256Error::AuthenticatorData));
    }
}
