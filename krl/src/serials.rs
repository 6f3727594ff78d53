//! Serial numbers in the fewest bytes: lists, ranges and bitmaps, as each stretch of them asks for.
//!
//! Our own serials are random, so that lists are the rule; ranges and bitmaps are for CAs that count.

/// One piece of a section about a CA's certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    /// Single numbers.
    List(Vec<u64>),
    /// All from the first to the last.
    Range(u64, u64),
    /// Numbers from the first on, one bit each.
    Bitmap(Vec<u64>),
}

/// Type and length before each piece.
const HEAD_BYTES: u64 = 5;
const SERIAL_BYTES: u64 = 8;
const RANGE_BYTES: u64 = HEAD_BYTES + 16;
/// Offset, length of the number, and the zero byte that keeps it positive.
const BITMAP_BYTES: u64 = HEAD_BYTES + 8 + 4 + 1;
/// sshd reads the bitmap as a number of at most 16,384 bits (`SSHBUF_MAX_BIGNUM`), and refuses the whole list, and with it
/// everybody, where one is longer.
pub(crate) const BITMAP_MOST_BITS: u64 = 1 << 14;
/// Beyond this many numbers left out, another piece is cheaper than the bitmap's bits.
const WIDEST_GAP: u64 = (BITMAP_BYTES + SERIAL_BYTES) * 8;

/// Splits numbers that ascend strictly.
pub(crate) fn pieces(serials: &[u64]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut singles = Vec::new();
    for stretch in stretches(serials) {
        let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else { continue };
        let count = u64::try_from(stretch.len()).unwrap_or(u64::MAX);
        let span = last.saturating_sub(*first);
        let listed = count.saturating_mul(SERIAL_BYTES);
        let mapped = BITMAP_BYTES.saturating_add(span.saturating_div(8)).saturating_add(1);
        // Dense but for holes: a bitmap. Without holes: a range.
        if span == count.saturating_sub(1) && RANGE_BYTES < listed {
            pieces.push(Piece::Range(*first, *last));
        } else if mapped < listed && span < BITMAP_MOST_BITS {
            pieces.push(Piece::Bitmap(stretch.to_vec()));
        } else {
            singles.extend_from_slice(stretch);
        }
    }
    if !singles.is_empty() {
        pieces.push(Piece::List(singles));
    }
    pieces
}

/// Runs without a hole that are worth a range by themselves, and what lies between them cut at wide gaps.
fn stretches(serials: &[u64]) -> Vec<&[u64]> {
    let mut stretches = Vec::new();
    let mut rest = serials;
    while !rest.is_empty() {
        let run = run_length(rest);
        let taken = if pays_as_range(run) { run } else { until_gap_or_run(rest) };
        let (stretch, after) = rest.split_at_checked(taken.max(1)).unwrap_or((rest, &[]));
        stretches.push(stretch);
        rest = after;
    }
    stretches
}

/// A range is worth leaving a bitmap for, whose bits it saves and which goes on after it.
fn pays_as_range(run: usize) -> bool {
    u64::try_from(run).unwrap_or(u64::MAX) > (RANGE_BYTES + BITMAP_BYTES) * 8
}

fn run_length(serials: &[u64]) -> usize {
    let holes = serials.windows(2).position(|pair| matches!(pair, [a, b] if a.checked_add(1) != Some(*b)));
    holes.map_or(serials.len(), |last| last.saturating_add(1))
}

fn until_gap_or_run(serials: &[u64]) -> usize {
    let Some(first) = serials.first() else { return 0 };
    let mut index = 0usize;
    // Whole runs at a time: their lengths are not counted again and again.
    while let Some(rest) = serials.get(index..).filter(|rest| !rest.is_empty()) {
        let run = run_length(rest);
        if pays_as_range(run) {
            break;
        }
        let last = rest.get(run.saturating_sub(1)).copied().unwrap_or(*first);
        if index > 0 && last.saturating_sub(*first) >= BITMAP_MOST_BITS {
            break;
        }
        index = index.saturating_add(run);
        let gap = serials.get(index).map_or(u64::MAX, |next| next.saturating_sub(last));
        if gap > WIDEST_GAP {
            break;
        }
    }
    index
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn back(pieces: &[Piece]) -> Vec<u64> {
        let mut all: Vec<u64> = pieces
            .iter()
            .flat_map(|piece| match piece {
                Piece::List(serials) | Piece::Bitmap(serials) => serials.clone(),
                Piece::Range(first, last) => (*first..=*last).collect(),
            })
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_run_is_a_range_holes_are_a_bitmap_and_strangers_a_list() {
        let run: Vec<u64> = (1_000..2_000).collect();
        assert_eq!(pieces(&run), [Piece::Range(1_000, 1_999)]);
        let holes: Vec<u64> = (0..1_000).filter(|serial| serial % 3 != 0).collect();
        assert_eq!(pieces(&holes), [Piece::Bitmap(holes.clone())]);
        let strangers = [1, 1 << 20, 1 << 40, u64::MAX];
        assert_eq!(pieces(&strangers), [Piece::List(strangers.to_vec())]);
        assert_eq!(pieces(&[]), []);
        assert_eq!(pieces(&[7, 8]), [Piece::List(vec![7, 8])]);
        let top: Vec<u64> = (u64::MAX - 9..=u64::MAX).collect();
        assert_eq!(pieces(&top), [Piece::Range(u64::MAX - 9, u64::MAX)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_added(mut serials in prop::collection::vec(
            prop_oneof![any::<u64>(), 0..3_000_u64, (u64::MAX - 500)..=u64::MAX, 1_000_000..1_000_900_u64], 0..2_000)
        ) {
            serials.sort_unstable();
            serials.dedup();
            prop_assert_eq!(back(&pieces(&serials)), serials);
        }

        #[test]
        fn bitmaps_stay_within_what_sshd_reads(mut serials in prop::collection::vec(0..300_000_u64, 0..5_000)) {
            serials.sort_unstable();
            serials.dedup();
            for piece in pieces(&serials) {
                if let Piece::Bitmap(serials) = piece {
                    let span = serials.last().unwrap().saturating_sub(serials[0]);
                    prop_assert!(span < BITMAP_MOST_BITS);
                }
            }
        }
    }
}
