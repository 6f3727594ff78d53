//! What can be wrong with the bytes of a payload, in the same way for every kind of a layout.

use alloy_primitives::U256;
use countersign_registry::{Kind, entries::Entry, replay::IgnoreReason, sign};

use crate::spec::{Layout, is_dynamic};

/// Data that is no payload of its kind, and why a host says so.
pub(crate) type Fault = (String, Vec<u8>, IgnoreReason);

fn word(payload: &[u8], at: usize) -> Option<usize> {
    let word = payload.get(at..at + 32)?;
    U256::from_be_slice(word).try_into().ok()
}

fn with_word(payload: &[u8], at: usize, value: U256) -> Vec<u8> {
    let mut changed = payload.to_vec();
    changed[at..at + 32].copy_from_slice(&value.to_be_bytes::<32>());
    changed
}

fn with_byte(payload: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut changed = payload.to_vec();
    changed[at] = value;
    changed
}

/// A word of the type with a bit that the type does not have; none where all 256 are its own.
fn dirty(kind: &str, payload: &[u8], at: usize) -> Option<Vec<u8>> {
    match kind {
        "bytes16" => Some(with_byte(payload, at + 31, 1)),
        "bytes32" | "uint256" => None,
        _ => Some(with_byte(payload, at, 1)),
    }
}

/// What can be wrong with an ABI encoding, place by place. Payloads, without the encoding byte.
fn abi_faults(members: &[String], good: &[u8]) -> Vec<(String, Vec<u8>)> {
    let length = U256::from(good.len());
    let huge = [length, U256::from(1) << 32, U256::from(1) << 64, (U256::from(1) << 255) + U256::from(32), U256::MAX];
    let mut faults = vec![("a word more".to_owned(), [good, &[0; 32]].concat())];
    let head = if members.iter().any(|member| is_dynamic(member)) { 32 } else { 0 };
    if head > 0 {
        for value in huge.into_iter().chain([U256::ZERO, U256::from(64)]) {
            faults.push((format!("the struct at {value}"), with_word(good, 0, value)));
        }
    }
    for (place, member) in members.iter().enumerate() {
        let at = head + 32 * place;
        if !is_dynamic(member) {
            let changed = dirty(member, good, at);
            faults.extend(changed.map(|changed| (format!("member {place}, {member}: a bit too many"), changed)));
            continue;
        }
        for value in huge.into_iter().chain([U256::ZERO, U256::from(1)]) {
            faults.push((format!("member {place}, {member}: at {value}"), with_word(good, at, value)));
        }
        let start = head + word(good, at).unwrap();
        let count = word(good, start).unwrap();
        for value in huge {
            faults.push((format!("member {place}, {member}: {value} long"), with_word(good, start, value)));
        }
        if count == 0 {
            continue;
        }
        faults.push((format!("member {place}, {member}: said to be empty"), with_word(good, start, U256::ZERO)));
        match member.as_str() {
            "string" => {
                faults.push((format!("member {place}, {member}: not UTF-8"), with_byte(good, start + 32, 0xff)));
            }
            "bytes" => {
                let padding = start + 32 + count;
                if !padding.is_multiple_of(32) {
                    faults.push((format!("member {place}, {member}: padded with 1"), with_byte(good, padding, 1)));
                }
            }
            "string[]" => {
                faults.push((format!("member {place}, {member}: far away"), with_word(good, start + 32, U256::MAX)));
                faults.push((format!("member {place}, {member}: itself"), with_word(good, start + 32, U256::ZERO)));
            }
            array => {
                let changed = dirty(array.strip_suffix("[]").unwrap(), good, start + 32);
                faults.extend(changed.map(|changed| (format!("member {place}, {member}: a bit too many"), changed)));
            }
        }
    }
    faults
}

/// Everything that is wrong in the same way for every kind of a layout.
pub(crate) fn faults(kind: Kind, layout: &Layout, entry: &Entry) -> Vec<Fault> {
    let data = entry.encode();
    let good = &data[1..];
    let encoded = |encoding: u8| [&[encoding], good].concat();
    let mut faults = vec![
        ("sealed".to_owned(), encoded(1), IgnoreReason::Sealed),
        ("encoding 2".to_owned(), encoded(2), IgnoreReason::UnknownEncoding),
        ("encoding 255".to_owned(), encoded(255), IgnoreReason::UnknownEncoding),
    ];
    let mut payloads = vec![
        ("nothing after the encoding byte".to_owned(), Vec::new()),
        ("half of it".to_owned(), good[..good.len() / 2].to_vec()),
    ];
    // The end of these is whatever is left.
    let open = matches!(kind, Kind::BATCH | Kind::DELIVERY);
    if kind != Kind::DELIVERY {
        payloads.push(("a byte less".to_owned(), good[..good.len() - 1].to_vec()));
    }
    if !open {
        payloads.push(("a byte more".to_owned(), [good, &[0]].concat()));
    }
    match layout {
        Layout::Abi(members) => {
            payloads.push(("a word less".to_owned(), good[..good.len() - 32].to_vec()));
            payloads.extend(abi_faults(members, good));
        }
        Layout::Packed if matches!(kind, Kind::DELIVERY | Kind::ENVELOPE) => {
            let length = if kind == Kind::DELIVERY { 69 } else { 49 };
            payloads.push(("a name that is not UTF-8".to_owned(), with_byte(good, length + 1, 0xff)));
            payloads.push(("a name beyond the end".to_owned(), with_byte(good, length, 0xff)));
            if kind == Kind::DELIVERY {
                payloads.push(("no sealed CID".to_owned(), good[..70 + usize::from(good[69])].to_vec()));
            }
        }
        Layout::Packed if kind == Kind::MEMBER_SET => {
            payloads.push(("neither a member nor none".to_owned(), with_byte(good, 20, 2)));
        }
        Layout::Packed if kind == Kind::PREKEYS => {
            payloads.push(("no key".to_owned(), good[..1].to_vec()));
            payloads.push(("neither dropped nor kept".to_owned(), with_byte(good, 0, 2)));
        }
        _ => {}
    }
    let malformed =
        |(name, payload): (String, Vec<u8>)| (name, sign::clear(&payload).to_vec(), IgnoreReason::Malformed);
    faults.extend(payloads.into_iter().map(malformed));
    // As much as fits, and nothing of it right; a BATCH may be anything that is long enough.
    if kind != Kind::BATCH {
        faults.push(("full of ones".to_owned(), full(kind), IgnoreReason::Malformed));
    }
    faults
}

/// Bytes of data, the encoding byte included.
pub(crate) fn limit(kind: Kind) -> usize {
    match kind.class() {
        0x02 | 0x03 | 0x08 => 24_576,
        0x09 => 1024,
        _ => 4096,
    }
}

/// Data as long as it may be.
pub(crate) fn full(kind: Kind) -> Vec<u8> {
    let mut data = vec![0xff; limit(kind)];
    data[0] = 0;
    data
}
