//! When a rotation is due: by its interval since this service's last delivery, or before what is there ends.

use countersign_registry::{Address, Effective, Id};

use super::NEWCOMER_SECS;
use super::book::Page;
use super::make::Targets;
use super::setting::Rotation;

/// The least time between one and the next that is made because it would end, seconds: what ends at once must not cost a transaction at once.
const FLOOR_SECS: u64 = 300;

/// From when on the next one is to be made. What others delivered under the name does not count: who may send must not be able to put off
/// what this service is to do. Nothing is made ahead of its time by more than half of its life.
pub(super) fn due(effective: &Effective, own: Address, rule: &Rotation, page: &Page, targets: &Targets) -> u64 {
    let every = rule.every.map(crate::config::Span::secs);
    let before = rule.before.map(crate::config::Span::secs);
    let Some(current) = &page.current else {
        // The first one; or the books are gone, and the ledger alone says when it was.
        let name = rule.name.as_str();
        let envelopes = effective.envelopes.values().filter(|one| one.actor == own && one.payload_name == name);
        let public = effective.public_data.values().filter(|one| one.actor == own && one.name == name);
        let last = envelopes.map(|one| one.at.time).chain(public.map(|one| one.at.time)).max();
        let end = last
            .zip(every)
            .map(|(last, every)| last.saturating_add(every).saturating_sub(before.unwrap_or_default().min(every / 2)));
        return end.unwrap_or_default();
    };
    let newcomer = |(address, id): (&Address, &Id)| {
        let wait = if current.left_out.contains_key(id) { rule.resend.secs() } else { NEWCOMER_SECS };
        (!current.recipients.contains_key(address)).then(|| current.logged.saturating_add(wait))
    };
    let fit = targets.addresses.iter().filter(|(address, _)| !targets.unfit.contains_key(*address));
    let by_newcomer = if rule.is_each() { fit.filter_map(newcomer).min() } else { None };
    let by_interval = every.map(|every| {
        let ahead = if rule.ends_by_itself() { 0 } else { before.unwrap_or_default().min(every / 2) };
        current.logged.saturating_add(every).saturating_sub(ahead)
    });
    let by_end = current.expires.map(|end| {
        let life = end.saturating_sub(current.made);
        let ahead = before.unwrap_or(life / 3).min(life / 2);
        end.saturating_sub(ahead).max(current.logged.saturating_add(FLOOR_SECS))
    });
    by_newcomer.into_iter().chain(by_interval).chain(by_end).min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use countersign_registry::realm::{Envelope, PublicData};
    use countersign_registry::{B256, BlockRef, EntryRef, Replay};

    use super::due as due_of;
    use crate::rotate::book::Current;
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const OWN: Address = Address::repeat_byte(1);
    const OTHER: Address = Address::repeat_byte(2);

    fn rule(text: &str) -> Rotation {
        toml::from_str(&format!("name = \"x\"\n{text}")).unwrap()
    }

    fn secret() -> Rotation {
        rule("make = \"secret\"\nbytes = 32\nto = [\"a\"]\nevery = \"1000s\"\nbefore = \"100s\"")
    }

    fn envelope(actor: Address, name: &str, time: u64) -> Envelope {
        let at = EntryRef { block: time, shard: 6 << 32, index: 0, time };
        Envelope { at, actor, payload_name: name.to_owned(), payload_kind: 5, index: B256::ZERO }
    }

    fn effective() -> Effective {
        Replay::new(B256::ZERO).effective(BlockRef { number: 9, time: 9 }, &[]).unwrap()
    }

    fn current(made: u64, logged: u64, expires: Option<u64>) -> Page {
        let current = Current {
            ids: vec![Id([1; 16])],
            logged,
            made,
            expires,
            recipients: BTreeMap::from([(OTHER, Id([2; 16]))]),
            acknowledged: BTreeSet::new(),
            public: Vec::new(),
            old: Vec::new(),
            left_out: BTreeMap::new(),
            sent: logged,
            resends: 0,
            letter: None,
        };
        let mut page = Page::default();
        page.current = Some(current);
        page
    }

    #[test]
    fn what_others_deliver_under_the_name_neither_puts_a_rotation_off_nor_brings_it_on() {
        let mut ledger = effective();
        let targets = Targets::default();
        let due = |ledger: &Effective, page: &Page| due_of(ledger, OWN, &secret(), page, &targets);
        assert_eq!(due(&ledger, &Page::default()), 0, "the first one is made at once");
        ledger.envelopes.insert(Id([1; 16]), envelope(OTHER, "x", 9_000));
        ledger.envelopes.insert(Id([2; 16]), envelope(OWN, "y", 9_000));
        let data =
            PublicData { at: envelope(OWN, "x", 9_000).at, actor: OTHER, name: "x".into(), data: Default::default() };
        ledger.public_data.insert(Id([4; 16]), data);
        assert_eq!(due(&ledger, &Page::default()), 0);
        assert_eq!(due(&ledger, &current(5, 10, None)), 910);
        // The books are gone: the ledger says when this service itself delivered last.
        ledger.envelopes.insert(Id([3; 16]), envelope(OWN, "x", 500));
        assert_eq!(due(&ledger, &Page::default()), 1_400);
    }

    #[test]
    fn the_next_one_is_made_before_the_end_of_the_one_there_is_or_after_the_interval_whichever_is_first() {
        let pair = |more: &str| {
            rule(&format!("make = \"command\"\nkind = \"x509-key-pair\"\ncommand = [\"/bin/x\"]\nto = [\"a\"]\n{more}"))
        };
        let due =
            |rule: Rotation| due_of(&effective(), OWN, &rule, &current(100, 130, Some(1_000)), &Targets::default());
        assert_eq!(due(pair("")), 700, "a third of its life before its end");
        assert_eq!(due(pair("before = \"50s\"")), 950);
        assert_eq!(due(pair("every = \"300s\"")), 430);
        assert_eq!(due(pair("every = \"900s\"\nbefore = \"100s\"")), 900);
    }

    #[test]
    fn a_newcomer_to_what_each_has_of_his_own_brings_on_the_next_rotation_but_not_at_once() {
        let rule = rule("make = \"ssh-key-pair\"\nlabel = [\"web\"]\nevery = \"30d\"");
        let mut targets = Targets { addresses: BTreeMap::from([(OTHER, Id([2; 16]))]), ..Targets::default() };
        let due = |targets: &Targets| due_of(&effective(), OWN, &rule, &current(5, 10, None), targets);
        assert_eq!(due(&targets), 10 + 30 * 86_400);
        targets.addresses.insert(OWN, Id([3; 16]));
        assert_eq!(due(&targets), 10 + NEWCOMER_SECS);
        // Who cannot be sealed to brings nothing on, or everybody would be given new keys for ever.
        targets.unfit.insert(OWN, "no prekey".to_owned());
        assert_eq!(due(&targets), 10 + 30 * 86_400);
        targets.unfit.clear();
        let mut page = current(5, 10, None);
        page.current.as_mut().unwrap().left_out.insert(Id([3; 16]), "refused".to_owned());
        assert_eq!(due_of(&effective(), OWN, &rule, &page, &targets), 10 + 86_400, "left out once, tried again later");
    }

    #[test]
    fn a_life_shorter_than_what_it_is_made_ahead_by_does_not_rotate_for_ever() {
        let pair = rule(
            "make = \"command\"\nkind = \"x509-key-pair\"\ncommand = [\"/bin/x\"]\nto = [\"a\"]\nbefore = \"10d\"",
        );
        let due = |rule: &Rotation, logged, end| {
            due_of(&effective(), OWN, rule, &current(1_000, logged, Some(end)), &Targets::default())
        };
        assert_eq!(due(&pair, 1_030, 1_000 + 864_000), 1_000 + 432_000, "half of its life is left");
        assert_eq!(due(&pair, 1_030, 1_100), 1_330, "nor more often than every five minutes");
        assert_eq!(due(&pair, 1_030, 900), 1_330, "nor where it has ended already");
        let often = rule("make = \"secret\"\nbytes = 32\nto = [\"a\"]\nevery = \"300s\"\nbefore = \"299s\"");
        assert_eq!(due_of(&effective(), OWN, &often, &current(5, 10, None), &Targets::default()), 160);
    }
}
