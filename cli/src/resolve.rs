//! Finds the record that a person means: by its id (32 hexadecimal digits), or by its name where that names one record.
//!
//! A name that no record has, or that several have, is an error that says so; nothing is guessed from prefixes.

use countersign_registry::realm::{Ca, Grant, Group, Host, Key, User};
use countersign_registry::{Address, Effective, Fingerprint20, Id};

use crate::error::CliError;

/// Reads a record id.
pub fn parse_id(text: &str) -> Option<Id> {
    let bytes: [u8; 16] = alloy_primitives::hex::decode(text).ok()?.try_into().ok()?;
    (text.len() == 32).then_some(Id(bytes))
}

/// Reads an address.
///
/// # Errors
/// [`CliError::Argument`].
pub fn address(argument: &'static str, text: &str) -> Result<Address, CliError> {
    text.parse().map_err(|_| CliError::Argument {
        argument,
        problem: format!("`{text}`: expected an address, 0x and 40 digits"),
    })
}

fn one<'a, T>(
    kind: &'static str,
    text: &str,
    by_id: Option<(Id, &'a T)>,
    by_name: impl Iterator<Item = (Id, &'a T)>,
) -> Result<(Id, &'a T), CliError> {
    if let Some(found) = by_id {
        return Ok(found);
    }
    let found: Vec<_> = by_name.collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(CliError::Unknown { kind, name: text.to_owned() }),
        several => Err(CliError::Ambiguous { kind, name: text.to_owned(), count: several.len() }),
    }
}

/// A user by id or login.
///
/// # Errors
/// [`CliError::Unknown`].
pub fn user<'a>(view: &'a Effective, text: &str) -> Result<(Id, &'a User), CliError> {
    let by_id = parse_id(text).and_then(|id| view.users.get(&id).map(|user| (id, user)));
    one("user", text, by_id, view.users.iter().filter(|(_, user)| user.login == text).map(|(id, user)| (*id, user)))
}

/// A group by id or name.
///
/// # Errors
/// [`CliError::Unknown`].
pub fn group<'a>(view: &'a Effective, text: &str) -> Result<(Id, &'a Group), CliError> {
    let by_id = parse_id(text).and_then(|id| view.groups.get(&id).map(|group| (id, group)));
    one(
        "group",
        text,
        by_id,
        view.groups.iter().filter(|(_, group)| group.name == text).map(|(id, group)| (*id, group)),
    )
}

/// A host by id or name.
///
/// # Errors
/// [`CliError::Unknown`], [`CliError::Ambiguous`].
pub fn host<'a>(view: &'a Effective, text: &str) -> Result<(Id, &'a Host), CliError> {
    let by_id = parse_id(text).and_then(|id| view.hosts.get(&id).map(|host| (id, host)));
    one("host", text, by_id, view.hosts.iter().filter(|(_, host)| host.name == text).map(|(id, host)| (*id, host)))
}

/// A CA by id or name.
///
/// # Errors
/// [`CliError::Unknown`], [`CliError::Ambiguous`].
pub fn ca<'a>(view: &'a Effective, text: &str) -> Result<(Id, &'a Ca), CliError> {
    let by_id = parse_id(text).and_then(|id| view.cas.get(&id).map(|ca| (id, ca)));
    one("CA", text, by_id, view.cas.iter().filter(|(_, ca)| ca.name == text).map(|(id, ca)| (*id, ca)))
}

/// A grant by id.
///
/// # Errors
/// [`CliError::Unknown`].
pub fn grant<'a>(view: &'a Effective, text: &str) -> Result<(Id, &'a Grant), CliError> {
    let by_id = parse_id(text).and_then(|id| view.grants.get(&id).map(|grant| (id, grant)));
    one("grant", text, by_id, std::iter::empty())
}

/// A registered key by record id, `SHA256:` fingerprint or public key file.
///
/// # Errors
/// [`CliError::Unknown`].
pub fn key<'a>(view: &'a Effective, text: &str) -> Result<&'a Key, CliError> {
    if let Some(found) = parse_id(text).and_then(|id| view.keys.iter().find(|key| key.id == id)) {
        return Ok(found);
    }
    let fingerprint = key_fingerprint(text)?;
    view.keys
        .iter()
        .find(|key| Some(key.fingerprint) == fingerprint)
        .ok_or_else(|| CliError::Unknown { kind: "key", name: text.to_owned() })
}

/// The ledger's name for a key that need not be registered: from `SHA256:…`, 40 hexadecimal digits or a public key file. `None` for
/// a text that is none of them.
///
/// # Errors
/// [`CliError::Content`] for a file that is not a public key.
pub fn key_fingerprint(text: &str) -> Result<Option<Fingerprint20>, CliError> {
    use base64ct::Encoding;
    if let Some(encoded) = text.strip_prefix("SHA256:") {
        let digest = base64ct::Base64Unpadded::decode_vec(encoded).ok();
        return Ok(digest.as_deref().and_then(<[u8]>::first_chunk::<20>).map(|head| Fingerprint20(*head)));
    }
    if let Ok(bytes) = alloy_primitives::hex::decode(text)
        && let Ok(bytes) = <[u8; 20]>::try_from(bytes.as_slice())
    {
        return Ok(Some(Fingerprint20(bytes)));
    }
    let path = std::path::Path::new(text);
    if path.is_file() {
        let key = crate::files::public_key(path)?;
        return Ok(Some(Fingerprint20::of_blob(&key)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_32_digits_and_no_prefix() {
        assert_eq!(parse_id(&"0a".repeat(16)), Some(Id([10; 16])));
        for text in ["", "0a", "alice", &"0a".repeat(15), &"0g".repeat(16), &format!("0x{}", "0a".repeat(16))] {
            assert_eq!(parse_id(text), None, "{text}");
        }
    }

    #[test]
    fn a_fingerprint_is_read_in_openssh_s_form_and_in_the_ledger_s() {
        let text = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
        let expected = Fingerprint20::of_blob(b"");
        assert_eq!(key_fingerprint(text).unwrap(), Some(expected));
        assert_eq!(key_fingerprint("e3b0c44298fc1c149afbf4c8996fb92427ae41e4").unwrap(), Some(expected));
        assert_eq!(key_fingerprint("MD5:00").unwrap(), None);
    }
}
