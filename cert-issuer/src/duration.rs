//! Durations as people type them: `90s`, `5m`, `1h30m`, `7d`. A bare number is refused, since nobody can tell its unit.

use thiserror::Error;

/// The text is not a duration.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("duration `{0}`: expected numbers with units s, m, h or d, such as 5m or 1h30m")]
pub struct DurationError(String);

/// Reads a duration; returns seconds. Each unit may stand once, larger ones first; zero is refused.
///
/// # Errors
/// [`DurationError`] with the text.
pub fn parse_duration(text: &str) -> Result<u64, DurationError> {
    let error = || DurationError(text.to_owned());
    let mut total = 0_u64;
    let mut digits = String::new();
    let mut last_unit = u64::MAX;
    for character in text.chars() {
        if character.is_ascii_digit() {
            digits.push(character);
            continue;
        }
        let unit = match character {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(error()),
        };
        if unit >= last_unit {
            return Err(error());
        }
        last_unit = unit;
        let number: u64 = digits.parse().map_err(|_| error())?;
        digits.clear();
        let seconds = number.checked_mul(unit).ok_or_else(error)?;
        total = total.checked_add(seconds).ok_or_else(error)?;
    }
    if total == 0 || !digits.is_empty() {
        return Err(error());
    }
    Ok(total)
}

/// Writes seconds as [`parse_duration`] reads them; 0 is `0s`.
pub fn format_duration(secs: u64) -> String {
    let mut rest = secs;
    let mut text = String::new();
    for (unit, letter) in [(86_400_u64, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')] {
        let count = rest.checked_div(unit).unwrap_or_default();
        rest = rest.checked_rem(unit).unwrap_or_default();
        if count > 0 {
            text.push_str(&format!("{count}{letter}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_seconds() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5_400), ("7d", 604_800), ("1d1h1m1s", 90_061)] {
            assert_eq!(parse_duration(text), Ok(seconds), "{text}");
            assert_eq!(parse_duration(&format_duration(seconds)), Ok(seconds));
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        let overflow = format!("{}d", u64::MAX);
        for text in ["", "5", "m", "0s", "5m5m", "1m1h", "5 m", "-5m", "1.5h", "5w", "5m3", "٣m", overflow.as_str()] {
            assert_eq!(parse_duration(text), Err(DurationError(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn seconds_are_written_with_the_largest_units() {
        assert_eq!(format_duration(0), "0s");
        assert_eq!(format_duration(300), "5m");
        assert_eq!(format_duration(86_461), "1d1m1s");
    }
}
