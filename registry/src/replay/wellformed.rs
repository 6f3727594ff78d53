//! The alphabets and ranges that names, networks and commands must keep before anything else looks at them.

use std::net::IpAddr;

use crate::entries::payload;
use crate::replay::IgnoreReason;

/// `[a-z_][a-z0-9_-]{0,31}`: logins and group names.
pub(crate) fn is_login(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    first
        && name.len() <= 32
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'))
}

/// `[a-z0-9._-]{1,max}`: labels, CA names, payload names (63), host names (253).
pub(crate) fn is_name(name: &str, max: usize) -> bool {
    (1..=max).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Longest label, CA name and payload name.
pub(crate) const NAME_MAX: usize = 63;
/// Longest host name.
pub(crate) const HOST_NAME_MAX: usize = 253;

/// An address, or a network with no bit set beyond its mask (sshd refuses the others).
fn is_network(text: &str) -> bool {
    let (address, length) = match text.split_once('/') {
        None => (text, None),
        Some((address, length)) => (address, Some(length)),
    };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let (bits, size) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32_u32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let Some(length) = length else { return true };
    if length.is_empty() || length.len() > 3 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let Ok(length) = length.parse::<u32>() else { return false };
    let Some(host_bits) = size.checked_sub(length) else { return false };
    let mask = 1_u128.checked_shl(host_bits).map_or(u128::MAX, |bit| bit.wrapping_sub(1));
    bits & mask == 0
}

/// Checks everything about a grant that does not need another record.
pub(super) fn grant(grant: &payload::GrantAdd) -> Result<(), IgnoreReason> {
    let targets = [!grant.hosts.is_empty(), !grant.labels.is_empty(), grant.allHosts];
    let one_target = targets.into_iter().filter(|target| *target).count() == 1;
    let hours = grant.intervals.iter().all(|hours| hours.weekday <= 6 && hours.from < hours.to && hours.to <= 1440);
    let command = grant.forcedCommand.len() <= 1024 && !grant.forcedCommand.chars().any(char::is_control);
    let fine = one_target
        && hours
        && command
        && (1..=3).contains(&grant.via)
        && grant.permits < 32
        && !grant.logins.is_empty()
        && grant.sourceAddresses.iter().all(|network| is_network(network));
    if !fine {
        return Err(IgnoreReason::InvalidGrant);
    }
    let names =
        grant.logins.iter().all(|login| is_login(login)) && grant.labels.iter().all(|label| is_name(label, NAME_MAX));
    if names { Ok(()) } else { Err(IgnoreReason::InvalidName) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_keep_their_alphabet() {
        for good in ["a", "_", "alice", "deploy-1", "_x_", &"a".repeat(32)] {
            assert!(is_login(good), "{good}");
        }
        for bad in ["", "-a", "1a", "Alice", "a.b", "a b", "a\n", "é", "a\0", "root:x", &"a".repeat(33)] {
            assert!(!is_login(bad), "{bad:?}");
        }
    }

    #[test]
    fn names_keep_their_alphabet() {
        for good in ["a", "0", "web-1.example", "_.-", &"x".repeat(63)] {
            assert!(is_name(good, NAME_MAX), "{good}");
        }
        for bad in ["", "A", "a b", "a/b", "ä", "a\n", &"x".repeat(64)] {
            assert!(!is_name(bad, NAME_MAX), "{bad:?}");
        }
    }

    #[test]
    fn networks_are_what_sshd_takes() {
        for good in ["10.0.0.0/8", "10.1.2.3", "10.1.2.3/32", "0.0.0.0/0", "2001:db8::/32", "::/0", "::1", "::1/128"] {
            assert!(is_network(good), "{good}");
        }
        for bad in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "::1/64",
            "::/129",
            "host",
            "10.0.0.0/8,::/0",
            "10.0.0.0/+8",
            "!10.0.0.0/8",
            " 10.0.0.1",
            "10.0.0.0/0008",
        ] {
            assert!(!is_network(bad), "{bad:?}");
        }
    }
}
