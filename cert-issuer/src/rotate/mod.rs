//! Rotation: payloads that are made anew and delivered before they end, by the service, without anybody asking.
//!
//! The order of things is the promise. What is made is sealed to its recipients and stored before anything is logged; the entry that is to
//! be logged is on disk first, with its record id, so that a second transaction for it would be ignored by every reader. Public halves are
//! published beside the old ones before the new ones are delivered, and the old ones go once everybody has the new. The time is the ledger's:
//! a clock that is wrong rotates nothing. Deliveries by others under the same name neither put a rotation off nor bring it on.

pub mod book;
pub mod command;
mod due;
pub mod make;
mod publish;
pub mod setting;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use countersign_chain::ChainError;
use countersign_delivery::{Payload, SecretKey, Stores};
use countersign_registry::{Address, Effective, Id};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use self::book::{BookError, Current, Half, Letter, Next, Page, Pages, Place};
use self::due::due;
use self::make::{Made, Makings, Printed, Targets};
use self::publish::{announcement, counting, listed, public_data};
use self::setting::{CommandKind, Make, Rotation};
use crate::ca_key::CaKey;
use crate::deliver;
use crate::error::IssueError;
use crate::issue::random;
use crate::mailing::{self, Mailing, PrekeyPolicy};
use crate::outbox::{Heard, Outbox};
use crate::service::Issuer;
use crate::view::View;

/// How long after a rotation a newcomer may bring on the next one, seconds.
const NEWCOMER_SECS: u64 = 300;

/// How often a command that fails for some is tried again before the others get theirs.
const PATIENCE: u32 = 3;

/// How many names the status lists.
const SHOWN: usize = 32;

/// What a rotation works with.
#[derive(Debug, Clone, Copy)]
pub struct Hands<'a> {
    /// The ledger.
    pub view: &'a View,
    /// Logs, and signs user certificates.
    pub issuer: &'a Issuer,
    /// The issuer's sealing key.
    pub sealing: &'a SecretKey,
    /// Where blocks go.
    pub stores: &'a Stores,
    /// What was sent.
    pub outbox: &'a Outbox,
    /// What is done about prekeys.
    pub prekeys: PrekeyPolicy,
    /// After how many seconds a transaction that nobody sees will not be mined any more.
    pub holds: u64,
}

/// Where one rotation stands; part of the service's status. Times are the ledger's, Unix seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RotationStatus {
    /// `idle`, `making`, `announcing`, `sending`, `delivered` (and not yet acknowledged by all) or `acknowledged`.
    pub stage: String,
    /// What was delivered last: an envelope, or public data.
    pub delivery: Option<Id>,
    /// When it was logged.
    pub logged: Option<u64>,
    /// When it ends, where it says so itself.
    pub expires: Option<u64>,
    /// When the next one is made.
    pub due: Option<u64>,
    /// How many ledger keys it is for.
    pub recipients: usize,
    /// How many of them have acknowledged it finally.
    pub acknowledged: usize,
    /// Hosts and users who have not; up to 32.
    pub waiting: Vec<String>,
    /// Hosts and users who are meant and have no ledger key with a delivery key; up to 32.
    pub without_key: Vec<String>,
    /// Hosts and users who are meant and get nothing, each with why; up to 32.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// How often it was sent again.
    pub resends: u32,
    /// How often in a row making or sending failed.
    pub failures: u32,
    /// Why, in words.
    pub problem: Option<String>,
}

/// All rotations of a service.
#[derive(Debug)]
pub struct Rotations {
    rules: Vec<Rotation>,
    pages: Pages,
    host_cas: BTreeMap<String, (Id, CaKey)>,
    /// Commands at work, by payload name.
    making: BTreeMap<String, JoinHandle<Printed>>,
    /// Before this time of the ledger's there is nothing to do, unless something else happens.
    wake: u64,
    status: BTreeMap<String, RotationStatus>,
}

impl Rotations {
    /// Opens the books of these rotations in the service's state directory. `host_cas`: by payload name.
    ///
    /// # Errors
    /// See [`BookError`].
    pub fn open(
        rules: Vec<Rotation>,
        host_cas: BTreeMap<String, (Id, CaKey)>,
        state: &Path,
    ) -> Result<Self, BookError> {
        let pages = Pages::open(&state.join("rotate"))?;
        for rule in &rules {
            pages.read(rule.name.as_str())?;
        }
        Ok(Self { rules, pages, host_cas, making: BTreeMap::new(), wake: 0, status: BTreeMap::new() })
    }

    /// Whether there is something to do at `now`, the ledger's time.
    #[must_use]
    pub fn has_work(&self, now: u64) -> bool {
        !self.rules.is_empty() && (now >= self.wake || self.making.values().any(JoinHandle::is_finished))
    }

    /// Where each stands, by payload name.
    #[must_use]
    pub fn status(&self) -> &BTreeMap<String, RotationStatus> {
        &self.status
    }

    /// Goes on with each rotation. One that fails keeps no other waiting.
    pub async fn tend(&mut self, hands: Hands<'_>, say: &mut impl FnMut(&str)) {
        let now = hands.view.effective.latest_block.time;
        self.wake = u64::MAX;
        for rule in self.rules.clone() {
            let name = rule.name.as_str();
            let mut page = match self.pages.read(name) {
                Ok(page) => page,
                Err(error) => {
                    self.tell(name, |status| status.problem = Some(error.to_string()));
                    self.wake = self.wake.min(now.saturating_add(NEWCOMER_SECS));
                    continue;
                }
            };
            let before = page.problem.clone();
            let wake = match self.tend_one(hands, &rule, &mut page, now, say).await {
                Ok(wake) => wake,
                // What fails whether anything is tried or not does not make the wait longer.
                Err(problem) if now < page.retry => {
                    page.problem = Some(problem);
                    page.retry
                }
                Err(problem) => {
                    page.failed(now, problem);
                    if let Err(error) = self.pages.write(name, &page) {
                        page.problem = Some(error.to_string());
                    }
                    page.retry
                }
            };
            if page.problem.is_some() && page.problem != before {
                let problem = page.problem.as_deref().unwrap_or_default();
                say(&format!("event=rotation-failed payload={name} message={problem:?}"));
            }
            let (failures, problem) = (page.failures, page.problem.clone());
            self.tell(name, |status| (status.failures, status.problem) = (failures, problem));
            self.wake = self.wake.min(wake);
        }
    }

    fn tell(&mut self, name: &str, change: impl FnOnce(&mut RotationStatus)) {
        change(self.status.entry(name.to_owned()).or_default());
    }

    /// Goes on with one; returns when to look again.
    async fn tend_one(
        &mut self,
        hands: Hands<'_>,
        rule: &Rotation,
        page: &mut Page,
        now: u64,
        say: &mut impl FnMut(&str),
    ) -> Result<u64, String> {
        let effective = &hands.view.effective;
        let name = rule.name.as_str();
        let mut targets = Targets::of(effective, rule);
        let unfit = mailing::unfit(effective, targets.addresses.keys().copied(), hands.prekeys, hands.outbox);
        let unfit = unfit.map_err(|error| error.to_string())?;
        targets.unfit = unfit.into_iter().map(|(address, error)| (address, error.to_string())).collect();
        self.learn(hands, page, name)?;
        let due = due(effective, hands.issuer.address(), rule, page, &targets);
        self.show(effective, page, &targets, name, due);
        if page.next.is_some() {
            return self.send_next(hands, rule, page, now, say).await;
        }
        if let Some(letter) = page.current.as_ref().and_then(|current| current.letter.clone()) {
            let settled = letter.on(effective).is_some_and(|at| at.block <= effective.final_block.number);
            if !settled && now < page.retry {
                return Ok(page.retry);
            }
            if !settled {
                return self.log(hands, page, name, Place::Current).await.map(|()| 0);
            }
            self.change(page, name, |page| {
                if let Some(current) = &mut page.current {
                    current.letter = None;
                }
            })?;
        }
        if self.tidy(hands, rule, page, &targets)? {
            return Ok(0);
        }
        if now < page.retry {
            return Ok(page.retry);
        }
        if now < due && !self.making.contains_key(name) {
            return self.follow_up(hands, rule, page, &targets, now, say).await.map(|wake| wake.min(due));
        }
        let targets = targets.fit();
        if rule.kind != Some(CommandKind::PublicData) {
            if targets.addresses.is_empty() {
                let why = targets.unfit.values().chain(&targets.left_out).next().cloned();
                return Err(why.unwrap_or_else(|| "nobody whom it is for has a ledger key with a delivery key".into()));
            }
            let checked = deliver::check_sender(effective, hands.issuer.address(), hands.sealing);
            checked.map_err(|error| error.to_string())?;
        }
        match self.make(hands, rule, page, &targets).await? {
            Some(makings) => {
                self.seal(hands, rule, page, &targets, makings).await?;
                say(&format!("event=rotation-made payload={name}"));
                self.send_next(hands, rule, page, now, say).await
            }
            None => {
                self.tell(name, |status| status.stage = "making".to_owned());
                // Woken when the command has ended.
                Ok(u64::MAX)
            }
        }
    }

    /// What was acknowledged finally is written down: the ledger is not read for as long as a rotation may last.
    fn learn(&self, hands: Hands<'_>, page: &mut Page, name: &str) -> Result<(), String> {
        let Some(current) = &page.current else { return Ok(()) };
        let mut acknowledged = current.acknowledged.clone();
        for id in &current.ids {
            let Some(book) = hands.outbox.book(*id).map_err(|error| error.to_string())? else { continue };
            for recipient in &book.recipients {
                if matches!(book.heard(*id, recipient, &hands.view.effective), Heard::Has { is_final: true, .. }) {
                    acknowledged.insert(recipient.address);
                }
            }
        }
        if acknowledged != current.acknowledged {
            self.change(page, name, |page| {
                if let Some(current) = &mut page.current {
                    current.acknowledged = acknowledged;
                }
            })?;
        }
        Ok(())
    }

    /// Changes a page on disk.
    fn change(&self, page: &mut Page, name: &str, change: impl FnOnce(&mut Page)) -> Result<(), String> {
        change(page);
        self.pages.write(name, page).map_err(|error| error.to_string())
    }

    /// Makes payloads; none while a command is at work.
    async fn make(
        &mut self,
        hands: Hands<'_>,
        rule: &Rotation,
        page: &Page,
        targets: &Targets,
    ) -> Result<Option<Makings>, String> {
        let (effective, name) = (&hands.view.effective, rule.name.as_str());
        if rule.make != Make::Command {
            let host_ca = self.host_cas.get(name);
            if rule.certificate.is_some() {
                // A batch is paid for next: stores that take nothing are found out before.
                let trial: [u8; 32] = random().map_err(|error| error.to_string())?;
                let placed = hands.stores.put(&trial).await.map_err(|error| error.to_string())?;
                hands.stores.unpin(&placed.cid).await.map_err(|error| error.to_string())?;
            }
            let own = hands.issuer.address();
            let publishable = |public: &[Half]| announcement(effective, own, rule, page, public).map(|_| ());
            return make::of_own(hands.view, hands.issuer, rule, targets, host_ca, publishable).await.map(Some);
        }
        match self.making.get(name).map(JoinHandle::is_finished) {
            None => {
                let work = make::print(rule.clone(), targets.subjects.clone());
                self.making.insert(name.to_owned(), tokio::spawn(work));
                Ok(None)
            }
            Some(false) => Ok(None),
            Some(true) => {
                let Some(work) = self.making.remove(name) else { return Ok(None) };
                let printed = work.await.map_err(|error| error.to_string())?;
                let makings = make::of_printed(effective, rule, printed)?;
                match makings.left_out.values().next() {
                    Some(problem) if page.failures < PATIENCE => Err(problem.clone()),
                    _ => Ok(Some(makings)),
                }
            }
        }
    }

    /// Seals what was made to its recipients, stores it, and writes down what is to be logged.
    async fn seal(
        &self,
        hands: Hands<'_>,
        rule: &Rotation,
        page: &mut Page,
        targets: &Targets,
        Makings { made, left_out }: Makings,
    ) -> Result<(), String> {
        let (effective, name) = (&hands.view.effective, rule.name.as_str());
        let now = effective.latest_block.time;
        let expires = made.iter().filter_map(|one| one.expires).min();
        let half = |one: &Made| Some(Half { subject: one.subject, text: one.public.clone()? });
        let public: Vec<Half> = made.iter().filter_map(half).collect();
        let (announcement, old) = announcement(effective, hands.issuer.address(), rule, page, &public)?.unzip();
        let old = old.unwrap_or_default();
        let (letter, recipients) = if rule.kind == Some(CommandKind::PublicData) {
            let bytes = made.into_iter().next().map(|one| public_bytes(&one.payload)).unwrap_or_default();
            (public_data(hands.issuer.address(), name, bytes)?, BTreeMap::new())
        } else {
            let place = |subject: &Id| made.iter().position(|one| one.subject.is_none_or(|own| own == *subject));
            // Who came while the command was at work gets his with the next one.
            let recipients: Vec<(Address, usize)> = targets
                .addresses
                .iter()
                .filter_map(|(address, subject)| place(subject).map(|place| (*address, place)))
                .collect();
            let known = recipients.iter().filter_map(|(address, _)| targets.addresses.get_key_value(address));
            let known = known.map(|(address, subject)| (*address, *subject)).collect();
            let payloads = made.into_iter().map(|one| one.payload).collect();
            (self.mail(hands, payloads, recipients, None).await?, known)
        };
        let next = Next { announcement, letter, made: now, expires, recipients, public, old, left_out };
        self.change(page, name, |page| page.next = Some(next))
    }

    async fn mail(
        &self,
        hands: Hands<'_>,
        payloads: Vec<Payload>,
        recipients: Vec<(Address, usize)>,
        resends: Option<Id>,
    ) -> Result<Letter, String> {
        let effective = &hands.view.effective;
        let (sender, sender_key, prekeys) = (hands.issuer.address(), hands.sealing, hands.prekeys);
        let mailing = Mailing { sender, sender_key, payloads, recipients, prekeys, resends };
        let now = effective.latest_block.time;
        let mailed = mailing::mail(effective, mailing, hands.stores, hands.outbox, now, &mut |_| {}).await;
        mailed.map(|mailed| Letter::new(mailed.id, &mailed.entry)).map_err(|error| error.to_string())
    }

    /// Logs what was made, its public halves first; once it is final, it is what recipients have.
    async fn send_next(
        &mut self,
        hands: Hands<'_>,
        rule: &Rotation,
        page: &mut Page,
        now: u64,
        say: &mut impl FnMut(&str),
    ) -> Result<u64, String> {
        let (effective, name) = (&hands.view.effective, rule.name.as_str());
        let Some(next) = page.next.clone() else { return Ok(0) };
        let logged = next.letter.on(effective);
        if logged.is_none() {
            if next.expires.is_some_and(|end| now >= end) && next.letter.may_send(now, hands.holds) {
                self.change(page, name, |page| page.next = None)?;
                return Err("what was made ended before it could be logged; it is made again".to_owned());
            }
            let gone = |id: &Id| matches!(deliver::obstacle(effective, *id), Some("locked" | "revoked"));
            if next.recipients.values().any(gone) && next.letter.may_send(now, hands.holds) {
                // It was sealed to somebody who is to have it no more; what was announced of it goes with what is there.
                return self
                    .change(page, name, |page| {
                        page.next = None;
                        if let (Some(current), true) = (&mut page.current, next.announcement.is_some()) {
                            current.old.extend(next.public);
                        }
                    })
                    .map(|()| 0);
            }
            if now < page.retry {
                return Ok(page.retry);
            }
            if let Some(announcement) = &next.announcement {
                self.tell(name, |status| status.stage = "announcing".to_owned());
                let Some(at) = announcement.on(effective) else {
                    return self.log(hands, page, name, Place::Announcement).await.map(|()| 0);
                };
                let from = at.time.saturating_add(rule.lead.secs());
                if now < from {
                    return Ok(from);
                }
            }
            self.tell(name, |status| status.stage = "sending".to_owned());
            self.log(hands, page, name, Place::Next).await?;
            return Ok(0);
        }
        let Some(at) = logged.filter(|at| at.block <= effective.final_block.number) else { return Ok(0) };
        let id = next.letter.id;
        let current = Current {
            ids: vec![id],
            logged: at.time,
            made: next.made,
            expires: next.expires,
            recipients: next.recipients,
            acknowledged: BTreeSet::new(),
            public: next.public,
            old: next.old,
            left_out: next.left_out,
            sent: at.time,
            resends: 0,
            letter: None,
        };
        self.change(page, name, |page| {
            page.current = Some(current);
            page.next = None;
            page.succeeded();
        })?;
        say(&format!("event=rotated payload={name} delivery={id}"));
        Ok(0)
    }

    /// Takes the old public halves away once everybody has the new ones, and those of locked and revoked owners at once. Returns whether
    /// there was any.
    fn tidy(&self, hands: Hands<'_>, rule: &Rotation, page: &mut Page, targets: &Targets) -> Result<bool, String> {
        let effective = &hands.view.effective;
        let (Some(current), Some(publish)) = (&page.current, &rule.publish) else { return Ok(false) };
        let everybody = targets.addresses.keys().all(|address| current.acknowledged.contains(address));
        let public = counting(effective, &current.public);
        let old = if everybody { Vec::new() } else { counting(effective, &current.old) };
        if public.len() == current.public.len() && old.len() == current.old.len() {
            return Ok(false);
        }
        let letter = public_data(hands.issuer.address(), publish.as_str(), listed(&public, &old))?;
        self.change(page, rule.name.as_str(), |page| {
            if let Some(current) = &mut page.current {
                (current.public, current.old, current.letter) = (public, old, Some(letter));
                // Who is let in again is a newcomer.
                current.recipients.retain(|_, id| deliver::obstacle(effective, *id).is_none());
                let recipients = &current.recipients;
                current.acknowledged.retain(|address| recipients.contains_key(address));
            }
        })?;
        Ok(true)
    }

    /// Sends again to those who have not acknowledged.
    async fn follow_up(
        &mut self,
        hands: Hands<'_>,
        rule: &Rotation,
        page: &mut Page,
        targets: &Targets,
        now: u64,
        say: &mut impl FnMut(&str),
    ) -> Result<u64, String> {
        let name = rule.name.as_str();
        let Some(current) = page.current.clone() else { return Ok(u64::MAX) };
        let fit = targets.addresses.keys().filter(|address| !targets.unfit.contains_key(*address));
        let missing: Vec<Address> = fit.filter(|address| !current.acknowledged.contains(*address)).copied().collect();
        if missing.is_empty() {
            return Ok(u64::MAX);
        }
        let Some(first) = current.ids.first() else { return Ok(u64::MAX) };
        let wait = rule.resend.secs().saturating_mul(1_u64.checked_shl(current.resends).unwrap_or(u64::MAX));
        let mut from = current.sent.saturating_add(wait);
        if missing.iter().any(|address| !current.recipients.contains_key(address)) {
            // A newcomer to what all have the same of.
            from = from.min(current.sent.saturating_add(NEWCOMER_SECS));
        }
        if now < from {
            return Ok(from);
        }
        let book = hands.outbox.book(*first).map_err(|error| error.to_string())?;
        let Some(book) = book.filter(|book| book.payloads.iter().all(|payload| payload.key.is_some())) else {
            // Sealed to prekeys, or given up: whoever missed it gets the next one.
            return Ok(u64::MAX);
        };
        let shared = book.payloads.len() == 1 && !rule.is_each();
        let place = |address: &Address| {
            let known = book.recipients.iter().find(|recipient| recipient.address == *address);
            known.map(|recipient| recipient.payload).or(shared.then_some(0))
        };
        let recipients: Vec<(Address, usize)> =
            missing.iter().filter_map(|address| place(address).map(|place| (*address, place))).collect();
        if recipients.is_empty() {
            return Ok(u64::MAX);
        }
        let payloads = mailing::reopen(&hands.view.effective, *first, &book, hands.stores).await;
        let payloads = payloads.map_err(|error| error.to_string())?;
        let many = recipients.len();
        let again: BTreeMap<Address, Id> = recipients
            .iter()
            .filter_map(|(address, _)| targets.addresses.get_key_value(address))
            .map(|(address, subject)| (*address, *subject))
            .collect();
        let letter = self.mail(hands, payloads, recipients, Some(*first)).await?;
        let id = letter.id;
        self.change(page, name, |page| {
            if let Some(current) = &mut page.current {
                current.ids.push(id);
                current.sent = now;
                current.resends = current.resends.saturating_add(1);
                current.recipients.extend(again);
                current.letter = Some(letter);
            }
        })?;
        say(&format!("event=rotation-resent payload={name} delivery={id} recipients={many}"));
        Ok(0)
    }

    /// Logs a letter of a page's, unless it is there or on its way. That it is sent is on disk first.
    async fn log(&self, hands: Hands<'_>, page: &mut Page, name: &str, place: Place) -> Result<(), String> {
        let effective = &hands.view.effective;
        let now = effective.latest_block.time;
        let Some(known) = page.letter(place) else { return Ok(()) };
        if known.on(effective).is_some() || !known.may_send(now, hands.holds) {
            return Ok(());
        }
        let entry = known.entry().ok_or("an entry that does not read")?;
        known.sent = Some(now);
        self.pages.write(name, page).map_err(|error| error.to_string())?;
        let Err(error) = hands.issuer.log(hands.view, &entry, &mut |_| {}).await else { return Ok(()) };
        let never_sent = matches!(
            error,
            IssueError::Ignored(_) | IssueError::Chain(ChainError::Funds { .. } | ChainError::Reverted { .. })
        );
        if let Some(known) = page.letter(place).filter(|_| never_sent) {
            known.sent = None;
        }
        // Else it may still be mined.
        Err(error.to_string())
    }

    fn show(&mut self, effective: &Effective, page: &Page, targets: &Targets, name: &str, due: u64) {
        let current = page.current.as_ref();
        let acknowledged = |address: &Address| current.is_some_and(|current| current.acknowledged.contains(address));
        let waiting: BTreeSet<String> = targets
            .addresses
            .iter()
            .filter(|(address, _)| !acknowledged(address))
            .filter_map(|(_, subject)| targets.subjects.get(subject).cloned())
            .collect();
        let stage = match (current, waiting.is_empty()) {
            (None, _) => "idle",
            (Some(_), false) => "delivered",
            (Some(_), true) => "acknowledged",
        };
        let call = |id: &Id| targets.subjects.get(id).cloned().unwrap_or_else(|| id.to_string());
        let unfit = targets.unfit.iter().filter_map(|(address, why)| Some((targets.addresses.get(address)?, why)));
        let refused = current.into_iter().flat_map(|current| &current.left_out);
        let refused = unfit.chain(refused).map(|(id, why)| format!("{}: {why}", call(id)));
        let left_out: BTreeSet<String> = targets.left_out.iter().cloned().chain(refused).collect();
        let status = RotationStatus {
            stage: stage.to_owned(),
            delivery: current.and_then(|current| current.ids.last().copied()),
            logged: current.map(|current| current.logged),
            expires: current.and_then(|current| current.expires),
            due: Some(due.max(page.retry).max(if due == 0 { effective.latest_block.time } else { 0 })),
            recipients: targets.addresses.len(),
            acknowledged: targets.addresses.keys().filter(|address| acknowledged(address)).count(),
            waiting: waiting.into_iter().take(SHOWN).collect(),
            without_key: targets.without_key.iter().take(SHOWN).cloned().collect(),
            left_out: left_out.into_iter().take(SHOWN).collect(),
            resends: current.map_or(0, |current| current.resends),
            failures: page.failures,
            problem: page.problem.clone(),
        };
        self.status.insert(name.to_owned(), status);
    }
}

fn public_bytes(payload: &Payload) -> Vec<u8> {
    match payload.contents() {
        countersign_delivery::Contents::OpaqueSecret { secret } => secret.to_vec(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
