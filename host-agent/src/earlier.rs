//! What a host leaves to the AuthorizedKeysCommand that it had before (`--chain`), although the realm has given it out.
//!
//! Whoever may write grants could otherwise take every local login of every host from that command, for good. The host's root decides:
//! only the configuration file says it, nothing on the ledger. It refuses to give away a user's login: those are in another table.

use std::collections::BTreeSet;

use countersign_snapshot::AccessTables;
use serde::Deserialize;

/// The longest login that a grant can name.
const MAX_LOGIN_BYTES: usize = 32;

/// What a host wants of its earlier command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct EarlierSetting {
    /// Local logins about which it is asked, whatever grants lead or led into them.
    pub release: BTreeSet<GrantedLogin>,
}

/// A login as a grant can name it: `[a-z_][a-z0-9_-]{0,31}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct GrantedLogin(String);

impl TryFrom<String> for GrantedLogin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        let rest = |byte: u8| plain(byte) || byte.is_ascii_digit() || byte == b'-';
        if text.len() <= MAX_LOGIN_BYTES && text.bytes().next().is_some_and(plain) && text.bytes().all(rest) {
            Ok(Self(text))
        } else {
            Err(format!("{text:?}: expected a login as grants name it, [a-z_][a-z0-9_-]{{0,31}}"))
        }
    }
}

impl EarlierSetting {
    /// Takes the released logins off the list of those that are the realm's because of a grant.
    pub(crate) fn release_from(&self, access: &mut AccessTables) {
        access.granted_logins.retain(|login| !self.release.iter().any(|released| released.0 == *login));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_logins_that_a_grant_can_name_are_released() {
        for good in ["ubuntu", "_apt", "ec2-user", "a".repeat(32).as_str()] {
            assert_eq!(GrantedLogin::try_from(good.to_owned()), Ok(GrantedLogin(good.to_owned())));
        }
        for bad in ["", "Ubuntu", "1a", "-a", "a b", "a@b", "a.b", "*", "a\n", "a".repeat(33).as_str()] {
            assert!(GrantedLogin::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_released_leaves_the_list_and_nothing_else_does() {
        let released = GrantedLogin::try_from("ubuntu".to_owned()).unwrap();
        let setting = EarlierSetting { release: [released].into() };
        let mut access = AccessTables {
            granted_logins: ["deploy", "ubuntu", "ubuntu2"].map(str::to_owned).into(),
            ..AccessTables::default()
        };
        setting.release_from(&mut access);
        assert_eq!(access.granted_logins, ["deploy", "ubuntu2"]);
    }
}
