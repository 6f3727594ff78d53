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
    !is_excluded(text, list) && list.split(',').map(str::trim).any(|pattern| is_like(text, pattern))
}

/// Whether it is like one of the list that begins with `!`.
pub(crate) fn is_excluded(text: &str, list: &str) -> bool {
    list.split(',').filter_map(|pattern| pattern.trim().strip_prefix('!')).any(|pattern| is_like(text, pattern))
}

/// Whether a list names what it means, without patterns.
pub(crate) fn is_plain(list: &str) -> bool {
    !list.is_empty() && !list.contains(['*', '?', '!'])
}

/// Words that the list's patterns may mean.
pub(crate) fn examples(list: &str) -> Vec<String> {
    let patterns = list.split(',').map(|pattern| pattern.trim().trim_start_matches('!'));
    let made =
        patterns.flat_map(|pattern| ["x", "a", "1", ""].map(|part| pattern.replace('*', part).replace('?', "x")));
    made.filter(|made| !made.is_empty()).collect()
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
    fn a_word_is_made_up_for_each_list() {
        for list in ["deploy-*,x", "*,!root", "app-*,!app-x", "a?c", "*"] {
            assert!(examples(list).iter().any(|word| is_in(word, list)), "{list}");
        }
        assert!(is_plain("a,b") && !is_plain("a,b*") && !is_plain("*,!a") && !is_plain(""));
    }
}
