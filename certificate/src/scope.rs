//! `scope@countersign`: which user, grant, host and request a certificate was made for.
//!
//! The leaf of the batch covers it, so an issuer cannot widen a certificate after it was logged. 114 bytes:
//! version 0x01 | realm 32 | user 16 | grant 16 | target tag 1 | target 32 | request 16.

use sha2::{Digest, Sha256};

use crate::wire::Reader;
use crate::{CertificateError, Id, RealmId, text};

/// The extension's name.
pub const SCOPE_EXTENSION: &str = "scope@countersign";

const FIELD: &str = SCOPE_EXTENSION;
const VERSION: u8 = 1;
const SIZE: usize = 114;

/// What `scope@countersign` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// The realm whose ledger decides.
    pub realm: RealmId,
    /// The user the certificate was made for.
    pub user: Id,
    /// The grant it was made under.
    pub grant: Id,
    /// The hosts it was made for; a host also asks whether the grant covers it.
    pub target: Target,
    /// The request it answers; a random id where there was none.
    pub request: Id,
}

/// Which hosts a certificate was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One host, by record id (tag 0, then 16 zero bytes).
    Host(Id),
    /// Hosts with a label, by its SHA-256 (tag 1).
    Label([u8; 32]),
    /// Every host that the grant covers (tag 2, then zeros).
    AllHosts,
}

/// How a scope names a label: its SHA-256.
#[must_use]
pub fn label_digest(label: &str) -> [u8; 32] {
    Sha256::digest(label.as_bytes()).into()
}

impl Scope {
    /// The 114 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SIZE] {
        let (tag, target) = match self.target {
            Target::Host(id) => (0, widen(&id)),
            Target::Label(digest) => (1, digest),
            Target::AllHosts => (2, [0; 32]),
        };
        let parts: [&[u8]; 7] =
            [&[VERSION], &self.realm.0, &self.user.0, &self.grant.0, &[tag], &target, &self.request.0];
        let mut layout = [0; SIZE];
        for (to, from) in layout.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        layout
    }

    /// Reads the 114 bytes.
    ///
    /// # Errors
    /// Any other length, version or tag, and a target that is not in its one form.
    pub fn decode(layout: &[u8]) -> Result<Self, CertificateError> {
        let mut reader = Reader::new(layout);
        if reader.u8(FIELD)? != VERSION {
            return Err(CertificateError::Invalid { field: FIELD, expected: "of version 1" });
        }
        let realm = RealmId(reader.array(FIELD)?);
        let user = Id(reader.array(FIELD)?);
        let grant = Id(reader.array(FIELD)?);
        let tag = reader.u8(FIELD)?;
        let target: [u8; 32] = reader.array(FIELD)?;
        let request = Id(reader.array(FIELD)?);
        reader.finish(FIELD)?;
        let target = match (tag, target.split_first_chunk::<16>()) {
            (0, Some((id, rest))) if rest.iter().all(|byte| *byte == 0) => Target::Host(Id(*id)),
            (1, _) => Target::Label(target),
            (2, _) if target == [0; 32] => Target::AllHosts,
            _ => {
                return Err(CertificateError::Invalid {
                    field: FIELD,
                    expected: "a scope for a host, a label or all hosts",
                });
            }
        };
        Ok(Self { realm, user, grant, target, request })
    }

    /// The extension's value as text, for APIs that take it so: base64url without padding.
    #[must_use]
    pub fn to_text(&self) -> String {
        text::to_text(&self.encode())
    }

    /// Reads an extension's data as it stands in a certificate: an SSH string with that text.
    ///
    /// # Errors
    /// Text that is not canonical, and whatever [`Scope::decode`] refuses.
    pub fn from_option_data(data: &[u8]) -> Result<Self, CertificateError> {
        Self::decode(&text::from_option_data(data, SIZE, FIELD)?)
    }
}

fn widen(id: &Id) -> [u8; 32] {
    let mut target = [0; 32];
    for (to, from) in target.iter_mut().zip(id.0) {
        *to = from;
    }
    target
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_scope() -> impl Strategy<Value = Scope> {
        let target = prop_oneof![
            any::<[u8; 16]>().prop_map(|id| Target::Host(Id(id))),
            any::<[u8; 32]>().prop_map(Target::Label),
            Just(Target::AllHosts),
        ];
        (any::<[u8; 32]>(), any::<[u8; 16]>(), any::<[u8; 16]>(), target, any::<[u8; 16]>()).prop_map(
            |(realm, user, grant, target, request)| Scope {
                realm: RealmId(realm),
                user: Id(user),
                grant: Id(grant),
                target,
                request: Id(request),
            },
        )
    }

    proptest! {
        #[test]
        fn a_scope_reads_back_as_it_was_written(scope in any_scope()) {
            prop_assert_eq!(Scope::decode(&scope.encode()), Ok(scope));
            let data = text::to_option_data(&scope.encode(), FIELD).unwrap();
            prop_assert_eq!(Scope::from_option_data(&data), Ok(scope));
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes in any::<[u8; 32]>(), tag in 0..4_u8, version in 0..3_u8) {
            let mut layout = [bytes; 4].concat();
            layout.truncate(SIZE);
            layout[0] = version;
            layout[65] = tag;
            if let Ok(scope) = Scope::decode(&layout) {
                prop_assert_eq!(scope.encode().to_vec(), layout);
            }
        }
    }

    #[test]
    fn a_scope_of_any_other_length_version_or_tag_is_refused() {
        let scope = Scope {
            realm: RealmId([1; 32]),
            user: Id([2; 16]),
            grant: Id([3; 16]),
            target: Target::Host(Id([4; 16])),
            request: Id([5; 16]),
        };
        let layout = scope.encode();
        for end in 0..layout.len() {
            assert!(Scope::decode(&layout[..end]).is_err(), "{end} bytes");
        }
        assert!(Scope::decode(&[&layout[..], &[0]].concat()).is_err());
        for (at, value) in [(0, 0), (0, 2), (65, 3), (65, 2), (82, 1), (97, 1)] {
            let mut layout = layout;
            layout[at] = value;
            assert!(Scope::decode(&layout).is_err(), "byte {at} as {value}");
        }
    }

    #[test]
    fn an_extension_with_anything_but_one_canonical_string_is_refused() {
        let scope = Scope {
            realm: RealmId([1; 32]),
            user: Id([2; 16]),
            grant: Id([3; 16]),
            target: Target::AllHosts,
            request: Id([5; 16]),
        };
        let data = text::to_option_data(&scope.encode(), FIELD).unwrap();
        assert_eq!(Scope::from_option_data(&data), Ok(scope));
        assert!(Scope::from_option_data(&[&data[..], b"A"].concat()).is_err());
        assert!(Scope::from_option_data(&scope.encode()).is_err());
        assert!(Scope::from_option_data(&data[4..]).is_err());
        assert!(Scope::from_option_data(&[]).is_err());
    }
}
