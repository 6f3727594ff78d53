//! What differs between the tables that were published last and the new ones, found without a digest: rows that are equal in both cannot
//! have changed a file, wherever they stand.
//!
//! Both are gone through side by side. Where they part, the nearest place is looked for where they meet again; whatever has no equal
//! partner is a change, too many rather than too few. It gives up where that becomes more than hashing all would be.

/// More rows than a delta holds before it becomes a base: then all of a table is compared.
pub(crate) const MOST_CHANGES: usize = 16_384;

/// How far ahead the two are looked through for a row that both have.
const WINDOW: usize = 64;

/// Rows that have no equal partner, by their place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Unmatched {
    pub(crate) before: Vec<usize>,
    pub(crate) now: Vec<usize>,
}

/// What only one of the two has. None where that is too much.
pub(crate) fn unmatched<T: PartialEq>(before: &[T], now: &[T]) -> Option<Unmatched> {
    let mut found = Unmatched::default();
    let (mut old, mut new) = (0_usize, 0_usize);
    loop {
        let rest = (before.get(old..).unwrap_or_default(), now.get(new..).unwrap_or_default());
        let equal = rest.0.iter().zip(rest.1).take_while(|(old, new)| old == new).count();
        (old, new) = (old.saturating_add(equal), new.saturating_add(equal));
        let rest = (before.get(old..).unwrap_or_default(), now.get(new..).unwrap_or_default());
        if rest.0.is_empty() && rest.1.is_empty() {
            return Some(found);
        }
        let (only_before, only_now) = until_they_meet(rest.0, rest.1)?;
        let ends = (old.saturating_add(only_before), new.saturating_add(only_now));
        if found.before.len().saturating_add(only_before) > MOST_CHANGES
            || found.now.len().saturating_add(only_now) > MOST_CHANGES
        {
            return None;
        }
        found.before.extend(old..ends.0);
        found.now.extend(new..ends.1);
        (old, new) = ends;
    }
}

/// How many rows of each come before the nearest one that both have.
fn until_they_meet<T: PartialEq>(before: &[T], now: &[T]) -> Option<(usize, usize)> {
    for distance in 1..=WINDOW {
        for skip in 0..=distance {
            let other = distance.saturating_sub(skip);
            if let (Some(old), Some(new)) = (before.get(skip), now.get(other))
                && old == new
            {
                return Some((skip, other));
            }
        }
    }
    // Nothing follows that could meet: one of them is over, or what is left of both is little.
    let is_over = before.is_empty() || now.is_empty() || (before.len() <= WINDOW && now.len() <= WINDOW);
    is_over.then_some((before.len(), now.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(before: &[u8], now: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let found = unmatched(before, now).unwrap();
        (found.before.iter().map(|at| before[*at]).collect(), found.now.iter().map(|at| now[*at]).collect())
    }

    #[test]
    fn what_is_put_in_taken_out_or_changed_is_found_and_nothing_else() {
        assert_eq!(of(b"", b""), (vec![], vec![]));
        assert_eq!(of(b"abcd", b"abcd"), (vec![], vec![]));
        assert_eq!(of(b"abcd", b"abxcd"), (vec![], b"x".to_vec()));
        assert_eq!(of(b"abcd", b"acd"), (b"b".to_vec(), vec![]));
        assert_eq!(of(b"abcd", b"aXcdY"), (b"b".to_vec(), b"XY".to_vec()));
        assert_eq!(of(b"", b"ab"), (vec![], b"ab".to_vec()));
        assert_eq!(of(b"ab", b""), (b"ab".to_vec(), vec![]));
    }

    #[test]
    fn too_many_changes_are_not_told_apart() {
        let many: Vec<usize> = (0..=MOST_CHANGES).collect();
        assert_eq!(unmatched(&many, &[]), None);
        assert_eq!(unmatched(&[], &many), None);
        assert!(unmatched(&many[1..], &[]).is_some());
        let turned: Vec<usize> = many.iter().rev().copied().collect();
        assert_eq!(unmatched(&many, &turned), None, "nothing meets again within the window");
    }

    proptest! {
        #[test]
        fn without_what_is_unmatched_both_are_the_same_rows_in_the_same_order(
            before in prop::collection::vec(0_u8..9, 0..60), now in prop::collection::vec(0_u8..9, 0..60),
        ) {
            let found = unmatched(&before, &now).unwrap();
            let rest = |rows: &[u8], gone: &[usize]| -> Vec<u8> {
                rows.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, row)| *row).collect()
            };
            prop_assert_eq!(rest(&before, &found.before), rest(&now, &found.now));
        }
    }
}
