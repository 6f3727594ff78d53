//! Payloads that are the fields of a struct without padding: those that are logged most, where ABI words cost more gas than they say.
//!
//! Fields of fixed width come first, numbers big-endian; a text follows a byte with its length; the last field may take the rest.
//! Nothing is skipped and nothing may be left over, so each payload has one form; it is packed again and compared all the same.

use alloy_primitives::{Address, Bytes};

use super::{EntryError, Kind, payload};

/// The most prekeys that fit into one entry.
pub(super) const MAX_PREKEYS: usize = 127;

/// A struct with a packed form.
pub(super) trait Packed: Sized {
    /// The struct, unless these bytes are none.
    fn unpack(packed: &[u8]) -> Option<Self>;
    /// The payload. A struct that has no packed form gives bytes that [`decode`] refuses.
    fn pack(&self) -> Vec<u8>;
}

/// Decodes a payload struct from its packed form.
///
/// # Errors
/// [`EntryError::Malformed`] if the bytes do not decode, or are not what packing the result gives.
pub(super) fn decode<T: Packed>(kind: Kind, packed: &[u8]) -> Result<T, EntryError> {
    T::unpack(packed).filter(|decoded| decoded.pack() == packed).ok_or(EntryError::Malformed(kind))
}

/// What of a payload has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn all(self) -> Bytes {
        Bytes::copy_from_slice(self.0)
    }

    fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

impl Packed for payload::RoleSet {
    fn unpack(packed: &[u8]) -> Option<Self> {
        let mut rest = Rest(packed);
        let decoded = Self {
            actor: Address::from(rest.array::<20>()?),
            roles: u64::from_be_bytes(rest.array()?),
            x25519: rest.array()?.into(),
        };
        rest.end().map(|()| decoded)
    }

    fn pack(&self) -> Vec<u8> {
        [self.actor.as_slice(), &self.roles.to_be_bytes(), self.x25519.as_slice()].concat()
    }
}

impl Packed for payload::MemberSet {
    fn unpack(packed: &[u8]) -> Option<Self> {
        let mut rest = Rest(packed);
        let actor = Address::from(rest.array::<20>()?);
        let member = match rest.array()? {
            [0] => false,
            [1] => true,
            [_] => return None,
        };
        let decoded = Self { actor, member, subject: rest.array()?.into(), x25519: rest.array()?.into() };
        rest.end().map(|()| decoded)
    }

    fn pack(&self) -> Vec<u8> {
        [self.actor.as_slice(), &[u8::from(self.member)], self.subject.as_slice(), self.x25519.as_slice()].concat()
    }
}

impl Packed for payload::Batch {
    fn unpack(packed: &[u8]) -> Option<Self> {
        let mut rest = Rest(packed);
        Some(Self {
            r: rest.array()?.into(),
            ca: rest.array()?.into(),
            root: rest.array()?.into(),
            size: u32::from_be_bytes(rest.array()?),
            notAfter: u64::from_be_bytes(rest.array()?),
            leavesCid: rest.all(),
        })
    }

    fn pack(&self) -> Vec<u8> {
        let (size, not_after) = (self.size.to_be_bytes(), self.notAfter.to_be_bytes());
        [self.r.as_slice(), self.ca.as_slice(), self.root.as_slice(), &size, &not_after, &self.leavesCid].concat()
    }
}

/// A delivery whose name has more than 255 bytes, or that has no sealed CID, has no packed form.
impl Packed for payload::Delivery {
    fn unpack(packed: &[u8]) -> Option<Self> {
        let mut rest = Rest(packed);
        let (r, recipient) = (rest.array::<16>()?, rest.array::<20>()?);
        let [payload_kind] = rest.array()?;
        let digest = rest.array::<32>()?;
        let [name_length] = rest.array()?;
        let name = str::from_utf8(rest.slice(name_length.into())?).ok()?;
        let sealed_cid = rest.all();
        (!sealed_cid.is_empty()).then(|| Self {
            r: r.into(),
            recipient: Address::from(recipient),
            payloadKind: payload_kind,
            digest: digest.into(),
            payloadName: name.to_owned(),
            sealedCid: sealed_cid,
        })
    }

    fn pack(&self) -> Vec<u8> {
        let Ok(name_length) = u8::try_from(self.payloadName.len()) else { return Vec::new() };
        [
            self.r.as_slice(),
            self.recipient.as_slice(),
            &[self.payloadKind],
            self.digest.as_slice(),
            &[name_length],
            self.payloadName.as_bytes(),
            &self.sealedCid,
        ]
        .concat()
    }
}

/// An envelope whose name has more than 255 bytes has no packed form.
impl Packed for payload::Envelope {
    fn unpack(packed: &[u8]) -> Option<Self> {
        let mut rest = Rest(packed);
        let r = rest.array::<16>()?;
        let [payload_kind] = rest.array()?;
        let index = rest.array::<32>()?;
        let [name_length] = rest.array()?;
        let name = str::from_utf8(rest.slice(name_length.into())?).ok()?;
        rest.end().map(|()| Self {
            r: r.into(),
            payloadKind: payload_kind,
            index: index.into(),
            payloadName: name.to_owned(),
        })
    }

    fn pack(&self) -> Vec<u8> {
        let Ok(name_length) = u8::try_from(self.payloadName.len()) else { return Vec::new() };
        [self.r.as_slice(), &[self.payloadKind], self.index.as_slice(), &[name_length], self.payloadName.as_bytes()]
            .concat()
    }
}

/// No keys, more than an entry holds, or another number than 0 and 1 before them have no packed form.
impl Packed for payload::Prekeys {
    fn unpack(packed: &[u8]) -> Option<Self> {
        let (drop, keys) = packed.split_first()?;
        let (keys, []) = keys.as_chunks::<32>() else { return None };
        let good = *drop <= 1 && (1..=MAX_PREKEYS).contains(&keys.len());
        good.then(|| Self { drop: *drop, keys: keys.iter().map(|key| (*key).into()).collect() })
    }

    fn pack(&self) -> Vec<u8> {
        let keys = self.keys.iter().flat_map(|key| key.0);
        std::iter::once(self.drop).chain(keys).collect()
    }
}

/// Structs of an id and a hash.
macro_rules! id_and_hash {
    ($($name:ident { $id:ident, $hash:ident })*) => {$(
        impl Packed for payload::$name {
            fn unpack(packed: &[u8]) -> Option<Self> {
                let mut rest = Rest(packed);
                let decoded = Self { $id: rest.array()?.into(), $hash: rest.array()?.into() };
                rest.end().map(|()| decoded)
            }

            fn pack(&self) -> Vec<u8> {
                [self.$id.as_slice(), self.$hash.as_slice()].concat()
            }
        }
    )*};
}

id_and_hash! {
    Countersign { batch, entryHash }
    Approve { request, approvalHash }
    Acknowledge { delivery, digest }
}
