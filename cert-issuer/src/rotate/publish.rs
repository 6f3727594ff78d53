//! Public halves, and other bytes for everybody, as entries of public data. Refuses what no entry holds before anything is sent, and lists
//! nothing of an owner who is locked or revoked.

use countersign_registry::entries::{Entry, Kind, payload};
use countersign_registry::{Address, Effective, sign};

use super::book::{Half, Letter, Page};
use super::setting::Rotation;
use crate::deliver;
use crate::issue::random;

/// What one entry of public data may hold, less the rest of its payload, in bytes.
pub(super) const MOST_PUBLIC: usize = 24 * 1024 - 512;

/// What is published before new public halves are delivered, and which of it is old: what the owners who still count have now.
pub(super) fn announcement(
    effective: &Effective,
    own: Address,
    rule: &Rotation,
    page: &Page,
    public: &[Half],
) -> Result<Option<(Letter, Vec<Half>)>, String> {
    let Some(publish) = &rule.publish else { return Ok(None) };
    let old = page.current.as_ref().map(|current| counting(effective, &current.public)).unwrap_or_default();
    let old: Vec<Half> = old.into_iter().filter(|old| public.iter().all(|new| new.text != old.text)).collect();
    Ok(Some((public_data(own, publish.as_str(), listed(public, &old))?, old)))
}

/// Those whose owners still count.
pub(super) fn counting(effective: &Effective, halves: &[Half]) -> Vec<Half> {
    let counts = |half: &&Half| half.subject.is_none_or(|id| deliver::obstacle(effective, id).is_none());
    halves.iter().filter(counts).cloned().collect()
}

/// As it is published, new ones first; an empty line where there is none, since an entry is never empty.
pub(super) fn listed(public: &[Half], old: &[Half]) -> Vec<u8> {
    let text: String = public.iter().chain(old).map(|half| half.text.as_str()).collect();
    if text.is_empty() { b"\n".to_vec() } else { text.into_bytes() }
}

pub(super) fn public_data(own: Address, name: &str, data: Vec<u8>) -> Result<Letter, String> {
    if data.is_empty() || data.len() > MOST_PUBLIC {
        return Err(format!("public data {name}: {} bytes, expected 1 to {MOST_PUBLIC}", data.len()));
    }
    let r: [u8; 16] = random().map_err(|error| error.to_string())?;
    let entry = payload::PublicData { r: r.into(), name: name.to_owned(), data: data.into() };
    Ok(Letter::new(sign::record_id(Kind::PUBLIC_DATA, own, r), &Entry::PublicData(entry)))
}
