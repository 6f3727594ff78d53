//! Values as people type them: points in time, hours of the week, roles, permits, settings.

use countersign_issuer::duration::parse_duration;
use countersign_registry::entries::Roles;
use countersign_registry::entries::payload::Hours;

use crate::error::CliError;
use crate::output::now;

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A point in time as Unix seconds: a duration from now (`30d`), a date (`2027-01-31`, its first second in UTC) or a time
/// (`2027-01-31T12:00:00Z`). Nothing is 0, which the ledger reads as "never".
///
/// # Errors
/// [`CliError::Argument`].
pub fn end(argument: &'static str, text: Option<&str>) -> Result<u64, CliError> {
    let Some(text) = text else { return Ok(0) };
    if let Ok(duration) = parse_duration(text) {
        return Ok(now().saturating_add(duration));
    }
    let timestamp = match text.parse::<jiff::Timestamp>() {
        Ok(timestamp) => Some(timestamp),
        Err(_) => text
            .parse::<jiff::civil::Date>()
            .ok()
            .and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok())
            .map(|zoned| zoned.timestamp()),
    };
    timestamp.and_then(|timestamp| u64::try_from(timestamp.as_second()).ok()).filter(|secs| *secs > 0).ok_or_else(
        || CliError::Argument {
            argument,
            problem: format!(
                "`{text}`: expected a duration (30d), a date (2027-01-31) or a time (2027-01-31T12:00:00Z)"
            ),
        },
    )
}

/// Hours of the week in UTC: `mon-fri 08:00-18:00`, `sat 10:00-24:00`.
///
/// # Errors
/// [`CliError::Argument`].
pub fn hours(text: &str) -> Result<Vec<Hours>, CliError> {
    let error = || CliError::Argument {
        argument: "--hours",
        problem: format!("`{text}`: expected weekdays and UTC times, such as `mon-fri 08:00-18:00`"),
    };
    let (days, times) = text.trim().split_once(' ').ok_or_else(error)?;
    let (first, last) = days.split_once('-').unwrap_or((days, days));
    let (from, to) = times.trim().split_once('-').ok_or_else(error)?;
    let (first, last) = (weekday(first).ok_or_else(error)?, weekday(last).ok_or_else(error)?);
    let (from, to) = (minute(from).ok_or_else(error)?, minute(to).ok_or_else(error)?);
    if first > last || from >= to {
        return Err(error());
    }
    Ok((first..=last).map(|weekday| Hours { weekday, from, to }).collect())
}

/// Hours of the week in text.
pub fn hours_text(weekday: u8, from: u16, to: u16) -> String {
    let day = WEEKDAYS.get(usize::from(weekday)).map_or_else(|| format!("day{weekday}"), |day| (*day).to_owned());
    let clock = |minutes: u16| {
        let (hour, minute) = (minutes.checked_div(60).unwrap_or(0), minutes.checked_rem(60).unwrap_or(0));
        format!("{hour:02}:{minute:02}")
    };
    format!("{day} {}-{}", clock(from), clock(to))
}

fn weekday(text: &str) -> Option<u8> {
    WEEKDAYS.iter().position(|name| *name == text).and_then(|index| u8::try_from(index).ok())
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    if hour.len() != 2 || minute.len() != 2 {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let total = hour.checked_mul(60)?.checked_add(minute)?;
    (minute < 60 && total <= 1440).then_some(total)
}

/// Role bits from names: `admin,issuer`.
///
/// # Errors
/// [`CliError::Argument`].
pub fn roles(names: &[String]) -> Result<u64, CliError> {
    names.iter().try_fold(0, |bits, name| {
        Roles::NAMED.iter().find(|(known, _)| known == name).map(|(_, bit)| bits | bit).ok_or_else(|| {
            CliError::Argument {
                argument: "role",
                problem: format!("`{name}`: expected admin, issuer, watchdog, approver, revoker or member"),
            }
        })
    })
}

/// Names of role bits; spare ones as `role8` and so on.
pub fn role_names(bits: u64) -> Vec<String> {
    (0..64_u32)
        .filter(|bit| bits.checked_shr(*bit).is_some_and(|shifted| shifted & 1 == 1))
        .map(|bit| {
            let value = 1_u64.checked_shl(bit).unwrap_or_default();
            Roles::NAMED
                .iter()
                .find(|(_, known)| *known == value)
                .map_or_else(|| format!("role{bit}"), |(name, _)| (*name).to_owned())
        })
        .collect()
}

const PERMITS: [(&str, u8); 5] =
    [("pty", 1), ("port-forwarding", 2), ("agent-forwarding", 4), ("x11-forwarding", 8), ("user-rc", 16)];

/// Permit bits from names.
///
/// # Errors
/// [`CliError::Argument`].
pub fn permits(names: &[String]) -> Result<u8, CliError> {
    names.iter().try_fold(0, |bits, name| {
        PERMITS.iter().find(|(known, _)| known == name).map(|(_, bit)| bits | bit).ok_or_else(|| CliError::Argument {
            argument: "--permit",
            problem: format!("`{name}`: expected pty, port-forwarding, agent-forwarding, x11-forwarding or user-rc"),
        })
    })
}

/// Names of permit bits; those without a meaning as `permit5` and so on.
pub fn permit_names(bits: u8) -> Vec<String> {
    (0..8_u32)
        .filter_map(|bit| 1_u8.checked_shl(bit).filter(|value| bits & value != 0).map(|value| (bit, value)))
        .map(|(bit, value)| {
            let named = PERMITS.iter().find(|(_, known)| *known == value);
            named.map_or_else(|| format!("permit{bit}"), |(name, _)| (*name).to_owned())
        })
        .collect()
}

/// The settings' names, numbers in SETTINGS entries, and whether they are durations.
pub const SETTINGS: [(&str, u16, bool); 8] = [
    ("require-logged", 1, false),
    ("max-ttl", 2, true),
    ("countersign-quorum", 3, false),
    ("max-staleness", 4, true),
    ("directory-delay", 5, true),
    ("directory-quorum", 6, false),
    ("uid-base", 7, false),
    ("pickup", 8, true),
];

/// One setting: `max-ttl=1h`, `require-logged=true`, `directory-quorum=2`. Gives its number and value.
///
/// # Errors
/// [`CliError::Argument`].
pub fn setting(text: &str) -> Result<(u16, u64), CliError> {
    let error = |problem: String| CliError::Argument { argument: "--set", problem };
    let (name, value) = text.split_once('=').ok_or_else(|| error(format!("`{text}`: expected NAME=VALUE")))?;
    let (_, number, is_duration) = SETTINGS.iter().find(|(known, ..)| *known == name).ok_or_else(|| {
        let names: Vec<&str> = SETTINGS.iter().map(|(name, ..)| *name).collect();
        error(format!("`{name}`: expected one of {}", names.join(", ")))
    })?;
    let value = match value {
        "true" if *number == 1 => Some(1),
        "false" if *number == 1 => Some(0),
        _ if *is_duration => parse_duration(value).ok().or_else(|| (value == "0s").then_some(0)),
        _ => value.parse().ok(),
    };
    let expected = match (number, is_duration) {
        (1, _) => "true or false",
        (_, true) => "a duration, such as 5m",
        _ => "a number",
    };
    value.map(|value| (*number, value)).ok_or_else(|| error(format!("`{text}`: expected {expected}")))
}

/// A realm's 32 bytes (salt, sealing key) from hexadecimal digits.
///
/// # Errors
/// [`CliError::Argument`].
pub fn bytes32(argument: &'static str, text: &str) -> Result<alloy_primitives::B256, CliError> {
    text.parse()
        .map_err(|_| CliError::Argument { argument, problem: format!("`{text}`: expected 64 hexadecimal digits") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_duration_a_date_or_a_time() {
        assert_eq!(end("--not-after", None).unwrap(), 0);
        assert_eq!(end("--not-after", Some("2027-01-31")).unwrap(), 1_801_353_600);
        assert_eq!(end("--not-after", Some("2027-01-31T12:00:00Z")).unwrap(), 1_801_396_800);
        assert!(end("--not-after", Some("30d")).unwrap() > now() + 29 * 86_400);
        for text in ["", "tomorrow", "0", "1801353600", "1960-01-01"] {
            assert!(end("--not-after", Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn hours_are_read_per_weekday() {
        let read = hours("mon-fri 08:00-18:30").unwrap();
        assert_eq!(read.len(), 5);
        assert_eq!((read[4].weekday, read[4].from, read[4].to), (4, 480, 1110));
        assert_eq!(hours("sun 00:00-24:00").unwrap().len(), 1);
        assert_eq!(hours_text(4, 480, 1110), "fri 08:00-18:30");
    }

    #[test]
    fn hours_that_make_no_sense_are_refused() {
        for text in [
            "",
            "mon",
            "mon 8-18",
            "fri-mon 08:00-18:00",
            "mon 18:00-08:00",
            "mon 08:00-24:01",
            "foo 08:00-09:00",
            "mon 08:60-10:00",
        ] {
            assert!(hours(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_bits_are_read_and_written() {
        assert_eq!(roles(&["admin".into(), "revoker".into()]).unwrap(), 17);
        assert!(roles(&["root".into()]).is_err());
        assert_eq!(role_names(17 | 1 << 9), ["admin", "revoker", "role9"]);
        assert_eq!(permits(&["pty".into(), "user-rc".into()]).unwrap(), 17);
        assert_eq!(permit_names(17), ["pty", "user-rc"]);
        assert!(permits(&["tty".into()]).is_err());
    }

    #[test]
    fn settings_have_names_and_kinds_of_value() {
        assert_eq!(setting("require-logged=true").unwrap(), (1, 1));
        assert_eq!(setting("max-ttl=1h").unwrap(), (2, 3600));
        assert_eq!(setting("directory-delay=0s").unwrap(), (5, 0));
        assert_eq!(setting("uid-base=2000000000").unwrap(), (7, 2_000_000_000));
        for text in ["max-ttl", "max-ttl=3600", "require-logged=maybe", "maxttl=1h", "directory-quorum=two"] {
            assert!(setting(text).is_err(), "{text}");
        }
    }
}
