//! Whose request is answered next. Anybody with a ledger key can file requests, as many as he pays for: the first of each user goes
//! before the second of any, so that one cannot keep the others waiting; and a request whose certificate could not be handed out waits
//! longer each time, since each try costs the issuer a transaction.

use std::collections::{BTreeMap, BTreeSet};

use countersign_certificate::Id;
use countersign_registry::realm::Request;

/// The first wait after a try that cost something, seconds; doubled each time.
const FIRST_WAIT_SECS: u64 = 60;
/// The longest wait, seconds.
const LONGEST_WAIT_SECS: u64 = 3_600;

#[derive(Debug, Clone, Copy)]
struct Wait {
    secs: u64,
    until: u64,
}

/// Who waits for how long.
#[derive(Debug, Default)]
pub struct Turns {
    waits: BTreeMap<Id, Wait>,
}

impl Turns {
    /// Those of `open` whose turn it is at Unix time `now`, at most `limit`, in a fair order; forgets the waits of all others.
    pub fn take<'a>(&mut self, mut open: Vec<(Id, &'a Request)>, now: u64, limit: usize) -> Vec<(Id, &'a Request)> {
        open.sort_by_key(|(id, request)| (request.at, *id));
        let known: BTreeSet<Id> = open.iter().map(|(id, _)| *id).collect();
        self.waits.retain(|id, _| known.contains(id));
        let mut of_user: BTreeMap<Id, usize> = BTreeMap::new();
        let mut ranked: Vec<(usize, (Id, &Request))> = open
            .into_iter()
            .filter(|(id, _)| self.waits.get(id).is_none_or(|wait| wait.until <= now))
            .map(|(id, request)| {
                let rank = of_user.entry(request.user).or_default();
                *rank = rank.saturating_add(1);
                (*rank, (id, request))
            })
            .collect();
        // Stable: among equals the older goes first.
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().take(limit).map(|(_, one)| one).collect()
    }

    /// Notes that a try for `request` at Unix time `now` cost a transaction and handed nothing out.
    pub fn failed(&mut self, request: Id, now: u64) {
        let secs =
            self.waits.get(&request).map_or(FIRST_WAIT_SECS, |wait| wait.secs.saturating_mul(2).min(LONGEST_WAIT_SECS));
        self.waits.insert(request, Wait { secs, until: now.saturating_add(secs) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_registry::{Address, B256, EntryRef};

    fn request(user: u8, index: u64) -> (Id, Request) {
        let mut id = [user; 16];
        id[8..].copy_from_slice(&index.to_be_bytes());
        let request = Request {
            at: EntryRef { block: index, shard: 0, index, time: index },
            actor: Address::ZERO,
            user: Id([user; 16]),
            host: Id([0; 16]),
            login: "deploy".into(),
            ttl: 300,
            public_key: Vec::new().into(),
            reason: String::new(),
            approval_hash: B256::ZERO,
        };
        (Id(id), request)
    }

    fn taken(turns: &mut Turns, requests: &[(Id, Request)], now: u64, limit: usize) -> Vec<Id> {
        let open = requests.iter().map(|(id, request)| (*id, request)).collect();
        turns.take(open, now, limit).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn a_user_who_files_thousands_of_requests_does_not_keep_another_waiting() {
        let mut requests: Vec<_> = (0..5_000).map(|index| request(1, index)).collect();
        requests.push(request(2, 9_000));
        let taken = taken(&mut Turns::default(), &requests, 0, 1_024);
        assert_eq!(taken.len(), 1_024);
        assert_eq!(taken[..2], [request(1, 0).0, request(2, 9_000).0]);
    }

    #[test]
    fn a_request_that_costs_transactions_in_vain_is_tried_less_and_less_often() {
        let requests = [request(1, 1), request(2, 2)];
        let mut turns = Turns::default();
        let mut now = 1_000;
        for wait in [60, 120, 240, 480, 960, 1_920, 3_600, 3_600] {
            turns.failed(requests[0].0, now);
            assert_eq!(taken(&mut turns, &requests, now + wait - 1, 10), [requests[1].0]);
            now += wait;
            assert_eq!(taken(&mut turns, &requests, now, 10), [requests[0].0, requests[1].0]);
        }
        // One that is gone is forgotten.
        assert_eq!(taken(&mut turns, &requests[1..], now, 10), [requests[1].0]);
        assert!(turns.waits.is_empty());
    }
}
