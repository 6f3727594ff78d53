//! What a grant imposes on a session, as options that sshd enforces.
//!
//! Refuses what cannot be written down so that every supported sshd reads it back unchanged, instead of leaving it out.

use std::net::IpAddr;

use countersign_snapshot::{Grant, Permits};

use crate::decide::Refusal;
use crate::reason::Reason;

/// sshd takes `expiry-time` as local time: a `Z` is known from 9.1 only. So it is set back by the largest difference that a time
/// zone has, which can only make it later; the exact limit is checked before anything is printed.
const WIDEST_ZONE_SECS: u64 = 14 * 3600;
const DAY_SECS: u64 = 86_400;

/// The options of `grant`: `restrict`, what it permits, its forced command and source addresses.
pub(crate) fn grant_options(grant: &Grant) -> Result<String, Refusal> {
    let mut options = String::from("restrict");
    for (bit, name) in [
        (Permits::PTY, "pty"),
        (Permits::PORT_FORWARDING, "port-forwarding"),
        (Permits::AGENT_FORWARDING, "agent-forwarding"),
        (Permits::X11_FORWARDING, "X11-forwarding"),
        (Permits::USER_RC, "user-rc"),
    ] {
        if grant.permits.allows(bit) {
            options.push(',');
            options.push_str(name);
        }
    }
    if let Some(command) = &grant.forced_command {
        options.push_str(",command=\"");
        options.push_str(&quoted(command)?);
        options.push('"');
    }
    if !grant.source_addresses.is_empty() {
        options.push_str(",from=\"");
        for (at, network) in grant.source_addresses.iter().enumerate() {
            if !is_network(network) {
                let detail = "the grant's source addresses are not all networks in CIDR form";
                return Err(Refusal::new(Reason::SourceAddress, detail));
            }
            if at > 0 {
                options.push(',');
            }
            options.push_str(network);
        }
        options.push('"');
    }
    Ok(options)
}

/// `,expiry-time="…"` for a key that counts up to and including Unix time `not_after_secs`; nothing beyond year 9999.
pub(crate) fn expiry_option(not_after_secs: u64) -> Option<String> {
    let digits = calendar_digits(not_after_secs.checked_add(WIDEST_ZONE_SECS)?)?;
    Some(format!(",expiry-time=\"{digits}\""))
}

/// Whether `text` is an address, alone or with a prefix length and no bits beyond it: sshd refuses the whole list otherwise.
pub(crate) fn is_network(text: &str) -> bool {
    let (address, prefix) = match text.split_once('/') {
        None => (text, None),
        Some((address, prefix)) => (address, Some(prefix)),
    };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let Some(prefix) = prefix else { return true };
    if prefix.is_empty()
        || !prefix.bytes().all(|byte| byte.is_ascii_digit())
        || (prefix.len() > 1 && prefix.starts_with('0'))
    {
        return false;
    }
    let Ok(prefix) = prefix.parse::<u32>() else { return false };
    match address {
        IpAddr::V4(address) => prefix <= 32 && address.to_bits().checked_shl(prefix).unwrap_or(0) == 0,
        IpAddr::V6(address) => prefix <= 128 && address.to_bits().checked_shl(prefix).unwrap_or(0) == 0,
    }
}

/// Inside double quotes sshd knows one escape, `\"`: a command that ends in a backslash has no quoted form.
fn quoted(command: &str) -> Result<String, Refusal> {
    if command.is_empty() || command.ends_with('\\') || command.chars().any(char::is_control) {
        let detail = "the grant's forced command is empty, has control characters or ends in a backslash";
        return Err(Refusal::new(Reason::ForceCommand, detail));
    }
    Ok(command.replace('"', "\\\""))
}

/// Unix time as `YYYYMMDDHHMMSS`, UTC.
fn calendar_digits(unix_secs: u64) -> Option<String> {
    let mut day = unix_secs / DAY_SECS;
    let second = unix_secs % DAY_SECS;
    let mut year = 1970_u64;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        let Some(rest) = day.checked_sub(length) else { break };
        day = rest;
        year = year.checked_add(1).filter(|year| *year <= 9999)?;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    for (month, length) in (1_u64..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
        if let Some(rest) = day.checked_sub(length) {
            day = rest;
            continue;
        }
        let (hour, minute) = (second / 3600, second / 60 % 60);
        return Some(format!("{year:04}{month:02}{:02}{hour:02}{minute:02}{:02}", day.checked_add(1)?, second % 60));
    }
    None
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use countersign_snapshot::{Subject, Via};

    use super::*;

    fn grant() -> Grant {
        Grant {
            subject: Subject::User([1; 16].into()),
            via: Via { certificate: true, plain_key: false },
            max_ttl_secs: None,
            approvals: 0,
            not_after_secs: None,
            permits: Permits(0),
            forced_command: None,
            source_addresses: Vec::new(),
            hours: Vec::new(),
        }
    }

    #[test]
    fn a_grant_gives_exactly_its_options() {
        let all = Grant {
            permits: Permits(0xff),
            forced_command: Some(r#"echo "a\b" $x"#.to_owned()),
            source_addresses: vec!["192.0.2.0/24".to_owned(), "2001:db8::1".to_owned()],
            ..grant()
        };
        let expected = concat!(
            "restrict,pty,port-forwarding,agent-forwarding,X11-forwarding,user-rc,",
            r#"command="echo \"a\b\" $x",from="192.0.2.0/24,2001:db8::1""#
        );
        assert_eq!(grant_options(&all).unwrap(), expected);
        assert_eq!(grant_options(&grant()).unwrap(), "restrict");
    }

    #[test]
    fn a_forced_command_that_sshd_would_read_differently_is_refused() {
        for command in ["", "a\\", "a\nb", "a\rb", "a\0b", "a\u{85}b"] {
            let grant = Grant { forced_command: Some(command.to_owned()), ..grant() };
            assert_eq!(grant_options(&grant).unwrap_err().reason, Reason::ForceCommand, "{command:?}");
        }
    }

    #[test]
    fn source_addresses_are_networks_without_bits_beyond_the_prefix() {
        for good in
            ["192.0.2.1", "192.0.2.0/24", "192.0.2.1/32", "0.0.0.0/0", "2001:db8::/32", "::/0", "::1/128", "::1"]
        {
            assert!(is_network(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "*",
            "!192.0.2.1",
            "192.0.2.1/24",
            "192.0.2.0/33",
            "192.0.2.0/",
            "192.0.2.0/+4",
            "192.0.2.0/024",
            "::1/64",
            "::/129",
            "host",
            "192.0.2.0/24,*",
            "192.0.2.0/24\"",
            " 192.0.2.1",
            "0.0.0.1/0",
            "192.0.2.0/4294967320",
        ] {
            assert!(!is_network(bad), "{bad}");
            let grant = Grant { source_addresses: vec!["192.0.2.1".to_owned(), bad.to_owned()], ..grant() };
            assert_eq!(grant_options(&grant).unwrap_err().reason, Reason::SourceAddress, "{bad}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let cases = [
            (0, "19700101000000"),
            (951_782_399, "20000228235959"),
            (951_782_400, "20000229000000"),
            (1_800_000_000, "20270115080000"),
            (4_107_542_399, "21000228235959"),
            (4_107_542_400, "21000301000000"),
            (253_402_300_799, "99991231235959"),
        ];
        for (secs, digits) in cases {
            assert_eq!(calendar_digits(secs).as_deref(), Some(digits));
        }
        assert_eq!(calendar_digits(253_402_300_800), None);
        assert_eq!(calendar_digits(u64::MAX), None);
    }

    #[test]
    fn an_expiry_is_never_early_in_any_time_zone() {
        assert_eq!(expiry_option(1_800_000_000).as_deref(), Some(",expiry-time=\"20270115220000\""));
        assert_eq!(expiry_option(u64::MAX), None);
    }
}
