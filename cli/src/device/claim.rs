//! What a device says of itself: its two public keys, its name and its host key; as a URI for eyes and cameras, and as an inbox entry.
//! Format: `docs/spec/enrolment.md`.

use alloy_primitives::{Address, B256, Bytes};
use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding};
use countersign_registry::enrolment;
use countersign_registry::entries::payload::Enrol;
use sha2::{Digest, Sha256};

use crate::error::CliError;

const SCHEME: &str = "countersign:device?";

/// What a device says of itself. Nothing vouches for it but the way that it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its ledger key.
    pub actor: Address,
    /// Its delivery key.
    pub x25519: B256,
    /// For people.
    pub name: String,
    /// SSH host key in wire form; empty for a device without an SSH server.
    pub host_key: Vec<u8>,
}

impl From<Enrol> for Claim {
    fn from(enrol: Enrol) -> Self {
        Self { actor: enrol.actor, x25519: enrol.x25519, name: enrol.name, host_key: enrol.hostKey.into() }
    }
}

impl Claim {
    /// The inbox entry, vouched for by `token` if there is one.
    pub fn enrol(&self, realm: B256, token: Option<&Token>) -> Enrol {
        let mut enrol = Enrol {
            actor: self.actor,
            x25519: self.x25519,
            name: self.name.clone(),
            hostKey: Bytes::from(self.host_key.clone()),
            tokenMac: B256::ZERO,
        };
        if let Some(token) = token {
            enrol.tokenMac = enrolment::token_mac(token.bytes(), realm, &enrol);
        }
        enrol
    }

    /// What the entry itself cannot show: that the delivery key is one, too.
    ///
    /// # Errors
    /// [`CliError::Refused`], [`CliError::Delivery`].
    pub fn check(&self) -> Result<(), CliError> {
        enrolment::check(self.actor, &self.enrol(B256::ZERO, None))
            .map_err(|error| CliError::Refused(error.to_string()))?;
        countersign_delivery::PublicKey::from_bytes(self.x25519.0)?;
        Ok(())
    }

    /// What names this device whatever becomes of the block that its entry is in: both keys.
    pub fn keys(&self) -> B256 {
        B256::from_slice(&Sha256::new().chain_update(self.actor).chain_update(self.x25519).finalize())
    }

    /// The delivery key's fingerprint.
    pub fn delivery_fingerprint(&self) -> String {
        delivery_fingerprint(&self.x25519)
    }

    /// The host key's fingerprint, where there is a host key.
    pub fn host_fingerprint(&self) -> Option<String> {
        (!self.host_key.is_empty()).then(|| crate::files::sha256_fingerprint(&self.host_key))
    }

    /// The URI.
    pub fn uri(&self, realm: B256) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("realm", &alloy_primitives::hex::encode(realm));
        query.append_pair("actor", &format!("0x{}", alloy_primitives::hex::encode(self.actor)));
        query.append_pair("x25519", &alloy_primitives::hex::encode(self.x25519));
        query.append_pair("name", &self.name);
        if !self.host_key.is_empty() {
            query.append_pair("host-key", &Base64UrlUnpadded::encode_string(&self.host_key));
        }
        format!("{SCHEME}{}", query.finish())
    }

    /// Reads a URI: only what [`Claim::uri`] writes.
    ///
    /// # Errors
    /// [`CliError::Argument`] for another form or realm; as [`Claim::check`].
    pub fn from_uri(realm: B256, text: &str) -> Result<Self, CliError> {
        let error = |problem: &str| CliError::Argument { argument: "URI", problem: problem.to_owned() };
        let query = text.trim().strip_prefix(SCHEME).ok_or_else(|| error("expected countersign:device?…"))?;
        let mut claim = Self { actor: Address::ZERO, x25519: B256::ZERO, name: String::new(), host_key: Vec::new() };
        let mut of = B256::ZERO;
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "realm" => of = value.parse().map_err(|_| error("realm: expected 64 hexadecimal digits"))?,
                "actor" => claim.actor = value.parse().map_err(|_| error("actor: expected 0x and 40 digits"))?,
                "x25519" => {
                    claim.x25519 = value.parse().map_err(|_| error("x25519: expected 64 hexadecimal digits"))?;
                }
                "name" => claim.name = value.into_owned(),
                "host-key" => {
                    claim.host_key =
                        Base64UrlUnpadded::decode_vec(&value).map_err(|_| error("host-key: expected base64url"))?;
                }
                _ => return Err(error("expected realm, actor, x25519, name and perhaps host-key")),
            }
        }
        if of != realm {
            return Err(error("this device asks for another realm"));
        }
        // Whatever else could be read from a second form of the same URI, nobody reads it.
        if claim.uri(realm) != text.trim() {
            return Err(error(
                "expected each parameter once, in the order in which `countersign device init` prints them",
            ));
        }
        claim.check()?;
        Ok(claim)
    }
}

/// `SHA256:…` of a delivery key's 32 bytes, in OpenSSH's way of printing.
pub fn delivery_fingerprint(x25519: &B256) -> String {
    format!("SHA256:{}", Base64Unpadded::encode_string(&Sha256::digest(x25519)))
}

/// A one-time token. Never printed by `Debug`; wiped when dropped.
#[derive(Clone)]
pub struct Token(zeroize::Zeroizing<[u8; enrolment::TOKEN_LEN]>);

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(…)")
    }
}

const TOKEN_PREFIX: &str = "cst1-";

impl Token {
    /// Makes one.
    ///
    /// # Errors
    /// [`CliError::Refused`] when the system gives no random bytes.
    pub fn generate() -> Result<Self, CliError> {
        let mut bytes = zeroize::Zeroizing::new([0; enrolment::TOKEN_LEN]);
        getrandom::fill(bytes.as_mut_slice())
            .map_err(|error| CliError::Refused(format!("no random bytes: {error}")))?;
        Ok(Self(bytes))
    }

    /// Reads `cst1-…`; the text is not repeated in the error.
    ///
    /// # Errors
    /// [`CliError::Argument`].
    pub fn parse(text: &str) -> Result<Self, CliError> {
        let read = || {
            let mut bytes = zeroize::Zeroizing::new([0; enrolment::TOKEN_LEN]);
            let encoded = text.trim().strip_prefix(TOKEN_PREFIX)?;
            let length = Base64UrlUnpadded::decode(encoded, bytes.as_mut_slice()).ok()?.len();
            (length == enrolment::TOKEN_LEN).then_some(Self(bytes))
        };
        read().ok_or_else(|| CliError::Argument {
            argument: "token",
            problem: format!("expected {TOKEN_PREFIX} and 43 characters, as `countersign device invite` prints it"),
        })
    }

    /// `cst1-…`: a secret.
    pub fn text(&self) -> zeroize::Zeroizing<String> {
        zeroize::Zeroizing::new(format!("{TOKEN_PREFIX}{}", Base64UrlUnpadded::encode_string(self.0.as_slice())))
    }

    /// Its bytes: a secret.
    pub fn bytes(&self) -> &[u8; enrolment::TOKEN_LEN] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> Vec<serde_json::Value> {
        let text = include_str!("../../../tests/vectors/enrolment.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        vectors["cases"].as_array().unwrap().clone()
    }

    #[test]
    fn uris_fingerprints_and_tokens_are_those_of_the_vectors() {
        for case in cases() {
            let text = |field: &str| case[field].as_str().unwrap();
            let claim = Claim {
                actor: text("actor").parse().unwrap(),
                x25519: text("x25519").parse().unwrap(),
                name: text("name").to_owned(),
                host_key: alloy_primitives::hex::decode(text("host-key")).unwrap(),
            };
            let realm = text("realm").parse().unwrap();
            assert_eq!(claim.uri(realm), text("uri"));
            assert_eq!(claim.delivery_fingerprint(), text("x25519-fingerprint"));
            let token = Token::parse(text("token-text")).unwrap();
            assert_eq!(token.text().as_str(), text("token-text"));
            assert_eq!(claim.enrol(realm, Some(&token)).tokenMac, text("mac").parse::<B256>().unwrap());
        }
    }

    #[test]
    fn a_uri_is_read_in_one_form_only_and_for_one_realm() {
        let realm = B256::repeat_byte(1);
        let key = countersign_delivery::SecretKey::from_bytes(&[5; 32]).public();
        let claim = Claim {
            actor: Address::repeat_byte(2),
            x25519: key.to_bytes().into(),
            name: "press-7".to_owned(),
            host_key: Vec::new(),
        };
        let uri = claim.uri(realm);
        assert_eq!(Claim::from_uri(realm, &uri).unwrap(), claim);
        assert_eq!(Claim::from_uri(realm, &format!("{uri}\n")).unwrap(), claim);
        let (head, tail) = uri.split_once("&name=").unwrap();
        let zeros = "0".repeat(64);
        for text in [
            String::new(),
            "https://example.org".to_owned(),
            claim.uri(B256::repeat_byte(3)),
            format!("{uri}&name=press-8"),
            format!("{uri}&host-key="),
            format!("{uri}&host-key=AAAA"),
            format!("{uri}&owner=alice"),
            format!("{head}&name=Press-7"),
            format!("{head}&name=a%0ab"),
            format!("{}&name={tail}", head.replace("0x", "0X")),
            head.to_owned(),
            uri.replace("press-7", "press%2D7"),
            uri.replace(&alloy_primitives::hex::encode(key.to_bytes()), &zeros),
        ] {
            assert!(Claim::from_uri(realm, &text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_has_one_form_and_is_not_shown() {
        let token = Token::generate().unwrap();
        let text = token.text();
        assert_eq!(text.len(), 48);
        assert_eq!(Token::parse(&text).unwrap().bytes(), token.bytes());
        assert_eq!(format!("{token:?}"), "Token(…)");
        for wrong in ["", "cst1-", &text[..47], &format!("{}A", text.as_str()), &text.replace("cst1", "cst2")] {
            let error = Token::parse(wrong).unwrap_err().to_string();
            assert!(!error.contains(&text[5..]), "{error}");
        }
    }
}
