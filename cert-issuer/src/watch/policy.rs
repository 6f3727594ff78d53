//! What one watchdog allows, besides what the ledger allows: its own configuration, which nobody else can change.
//!
//! Every list that is empty allows everything. Hours are judged at the batch's block time, so that a batch is judged alike however late
//! it is looked at.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;

use countersign_certificate::{BACKDATE_SECS, Id};
use countersign_registry::Effective;
use countersign_registry::realm::{Batch, Hours};
use serde::{Deserialize, Deserializer};

use crate::config::Span;
use crate::duration::format_duration;
use crate::leaves::{Leaves, Prepared};
use crate::policy::contains;
use crate::watch::judge::{Objection, Why};

/// A watchdog's policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Policy {
    /// The longest certificate.
    pub max_ttl: Option<Span>,
    /// The most certificates in one batch.
    pub max_certificates: Option<NonZeroU32>,
    /// Only these logins.
    pub logins: BTreeSet<String>,
    /// None of these logins.
    pub never_logins: BTreeSet<String>,
    /// Only these hosts, by record id, or those that have one of `labels`.
    #[serde(deserialize_with = "hosts")]
    pub hosts: BTreeSet<Id>,
    /// Only hosts that have one of these labels, or that `hosts` names.
    pub labels: BTreeSet<String>,
    /// Only batches of these CAs, by record id.
    #[serde(deserialize_with = "cas")]
    pub cas: BTreeSet<Id>,
    /// Only at these hours of the week, UTC: `mon-fri 06:00-20:00`.
    #[serde(deserialize_with = "hours")]
    pub hours: Vec<Interval>,
}

/// Hours of one weekday.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(Hours);

impl Policy {
    /// What this policy has against a batch as a whole.
    ///
    /// # Errors
    /// [`Objection`].
    pub fn batch(&self, batch: &Batch) -> Result<(), Objection> {
        if !self.cas.is_empty() && !self.cas.contains(&batch.ca) {
            return Err(Objection::new(Why::PolicyCa, format!("CA {}", batch.ca)));
        }
        if self.max_certificates.is_some_and(|most| batch.size > most.get()) {
            return Err(Objection::new(Why::PolicySize, format!("{} certificates", batch.size)));
        }
        let time = batch.at.time;
        if !self.hours.is_empty() && !self.hours.iter().any(|Interval(hours)| contains(hours, time)) {
            return Err(Objection::new(Why::PolicyHours, format!("logged at {time}")));
        }
        Ok(())
    }

    /// What this policy has against one of a batch's certificates.
    ///
    /// # Errors
    /// [`Objection`].
    pub fn leaves(&self, effective: &Effective, leaves: &Leaves) -> Result<(), Objection> {
        for (index, one) in leaves.prepared.iter().enumerate() {
            self.leaf(effective, one).map_err(|objection| objection.at(index))?;
        }
        Ok(())
    }

    fn leaf(&self, effective: &Effective, one: &Prepared) -> Result<(), Objection> {
        let order = &one.order;
        let longest = self.max_ttl.map(|ttl| ttl.secs().saturating_add(BACKDATE_SECS));
        let valid = one.valid_before.saturating_sub(one.valid_after);
        if longest.is_some_and(|longest| valid > longest) {
            return Err(Objection::new(Why::PolicyTtl, format_duration(order.ttl.get())));
        }
        let allowed = self.logins.is_empty() || self.logins.contains(&order.login);
        if !allowed || self.never_logins.contains(&order.login) {
            return Err(Objection::new(Why::PolicyLogin, order.login.clone()));
        }
        if !(self.hosts.is_empty() && self.labels.is_empty()) {
            let labelled = effective.hosts.get(&order.host);
            let labelled = labelled.is_some_and(|host| host.labels.iter().any(|label| self.labels.contains(label)));
            if !labelled && !self.hosts.contains(&order.host) {
                return Err(Objection::new(Why::PolicyHost, format!("host {}", order.host)));
            }
        }
        Ok(())
    }
}

fn ids<'de, D: Deserializer<'de>>(deserializer: D, kind: &str) -> Result<BTreeSet<Id>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let read = |text: &String| {
        let problem = format!("{kind} `{text}`: expected a record id, 32 hexadecimal digits");
        text.parse::<Id>().map_err(|_| serde::de::Error::custom(problem))
    };
    texts.iter().map(read).collect()
}

fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<Id>, D::Error> {
    ids(deserializer, "host")
}

fn cas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<Id>, D::Error> {
    ids(deserializer, "CA")
}

fn hours<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Interval>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let mut all = Vec::new();
    for text in texts {
        let problem = || format!("`{text}`: expected weekdays and UTC times, such as `mon-fri 08:00-18:00`");
        all.extend(intervals(&text).ok_or_else(|| serde::de::Error::custom(problem()))?);
    }
    Ok(all)
}

fn intervals(text: &str) -> Option<Vec<Interval>> {
    let (days, times) = text.trim().split_once(' ')?;
    let (first, last) = days.split_once('-').unwrap_or((days, days));
    let (from, to) = times.trim().split_once('-')?;
    let (first, last, from, to) = (weekday(first)?, weekday(last)?, minute(from)?, minute(to)?);
    (first <= last && from < to).then(|| (first..=last).map(|weekday| Interval(Hours { weekday, from, to })).collect())
}

fn weekday(text: &str) -> Option<u8> {
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    days.iter().position(|name| *name == text).and_then(|index| u8::try_from(index).ok())
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    if hour.len() != 2 || minute.len() != 2 {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let total = hour.checked_mul(60)?.checked_add(minute)?;
    (minute < 60 && total <= 1440).then_some(total)
}

impl fmt::Display for Interval {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "weekday {} minutes {} to {}", self.0.weekday, self.0.from, self.0.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_read_per_weekday_and_nothing_else_is() {
        let read = intervals("mon-fri 08:00-18:30").unwrap();
        assert_eq!(read.len(), 5);
        assert_eq!(read[4], Interval(Hours { weekday: 4, from: 480, to: 1_110 }));
        assert_eq!(intervals("sun 00:00-24:00").unwrap().len(), 1);
        for bad in
            ["", "mon", "mon 8:00-9:00", "fri-mon 08:00-09:00", "mon 09:00-08:00", "mon 08:60-09:00", "day 08:00-09:00"]
        {
            assert!(intervals(bad).is_none(), "{bad}");
        }
    }
}
