//! sshd's patterns: `*`, `?`, and lists of them with `!`.

/// Whether `text` is like `pattern`.
pub(crate) fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    // Which beginnings of the text the pattern so far can stand for.
    let mut ends = vec![false; text.len().saturating_add(1)];
    if let Some(first) = ends.first_mut() {
        *first = true;
    }
    for sign in pattern {
        let mut next = vec![false; ends.len()];
        for (index, place) in next.iter_mut().enumerate() {
            let before = index.checked_sub(1);
            let is_char = |before: usize| sign == '?' || text.get(before) == Some(&sign);
            *place = match sign {
                '*' => ends.iter().take(index.saturating_add(1)).any(|end| *end),
                _ => before.is_some_and(|before| ends.get(before) == Some(&true) && is_char(before)),
            };
        }
        ends = next;
    }
    ends.last() == Some(&true)
}

/// Whether `text` is in a list of patterns, apart by commas: like one of them, and like none that begins with `!`.
pub(crate) fn is_in(text: &str, list: &str) -> bool {
    let patterns = || list.split(',').map(str::trim);
    let excluded = patterns().filter_map(|pattern| pattern.strip_prefix('!')).any(|pattern| is_like(text, pattern));
    !excluded && patterns().any(|pattern| is_like(text, pattern))
}

/// Something that the list takes, made up from its first pattern that is no `!`.
pub(crate) fn example(list: &str) -> Option<String> {
    let pattern = list.split(',').map(str::trim).find(|pattern| !pattern.is_empty() && !pattern.starts_with('!'))?;
    let made = pattern.replace(['*', '?'], "x");
    is_in(&made, list).then_some(made)
}

/// An address that a list of addresses, networks and patterns takes.
pub(crate) fn example_address(list: &str) -> Option<String> {
    let pattern = list.split(',').map(str::trim).find(|pattern| !pattern.is_empty() && !pattern.starts_with('!'))?;
    if let Some((network, _)) = pattern.split_once('/') {
        return Some(network.to_owned());
    }
    if !pattern.contains(['*', '?']) {
        return Some(pattern.to_owned());
    }
    if pattern.contains(':') {
        return None;
    }
    let mut parts: Vec<String> = pattern.split('.').map(|part| part.replace(['*', '?'], "1")).collect();
    parts.resize(4, "1".to_owned());
    Some(parts.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_sshds() {
        for (text, pattern) in
            [("deploy", "deploy"), ("deploy", "de*"), ("deploy", "*"), ("", "*"), ("ab", "a?"), ("aXbXc", "*b*c")]
        {
            assert!(is_like(text, pattern), "{text} {pattern}");
        }
        for (text, pattern) in [("deploy", "Deploy"), ("deploy", "de"), ("ab", "a"), ("", "?"), ("abc", "*b")] {
            assert!(!is_like(text, pattern), "{text} {pattern}");
        }
        assert!(is_in("a", "b,a") && is_in("a", "*,!b") && !is_in("b", "*,!b") && !is_in("a", "!b"));
    }

    #[test]
    fn examples_are_taken_by_their_lists() {
        assert_eq!(example("deploy-*,x").as_deref(), Some("deploy-x"));
        assert_eq!(example("!root").as_deref(), None);
        assert_eq!(example_address("10.0.0.0/8").as_deref(), Some("10.0.0.0"));
        assert_eq!(example_address("!10.0.0.1,192.168.*").as_deref(), Some("192.168.1.1"));
        assert_eq!(example_address("2001:db8::/32").as_deref(), Some("2001:db8::"));
        assert_eq!(example_address("*").as_deref(), Some("1.1.1.1"));
    }
}
