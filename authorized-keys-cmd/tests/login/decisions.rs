//! The decision, case by case: each starts from a login that is granted, changes one thing, and names the outcome.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use crate::support::*;
use countersign_certificate::{Id, Target, encode_base64, label_digest};
use countersign_snapshot::{
    BatchState, BlockRef, CaState, Clock, Denial, HostState, Hours, KeyState, OpenError, Permits, Snapshot, Subject,
    UserState, Verdict as Answer,
};
use countersign_sshd::{CaName, Mode, Query, Reason, Verdict, decide, decide_observed, decide_on};

pub(crate) type Case = (&'static str, Reason, fn(&mut World));

/// About a certificate; each is asked in both modes.
pub(crate) const CERTIFICATES: &[Case] = &[
    ("nothing is changed", Reason::Granted, |_| {}),
    ("the clock is before one that was seen", Reason::Clock, |w| w.clock.unix_secs = NOW - 1),
    ("the clock is far behind the block", Reason::Clock, |w| {
        w.freshness.highest_wall_secs = 0;
        w.facts.latest_block.time_secs = NOW + 31;
        w.freshness.valid_until_secs = NOW + 331;
    }),
    ("the boot clock is before the publication", Reason::Clock, |w| w.clock.boottime_secs = 999),
    ("the machine was started again", Reason::BootChanged, |w| w.clock.boot_id.0 = [8; 16]),
    ("the snapshot's time is over", Reason::SnapshotStale, |w| {
        w.clock.unix_secs = NOW + 296;
        w.draft.valid_before = NOW + 400;
    }),
    ("the boot clock says it is too old", Reason::SnapshotStale, |w| w.clock.boottime_secs = 1296),
    ("the host is not in the realm", Reason::HostUnknown, |w| w.facts.host_state = HostState::Unknown),
    ("the host is locked", Reason::HostLocked, |w| w.facts.host_state = HostState::Locked),
    ("a ledger user's own login with its uid", Reason::Granted, |w| {
        (w.login, w.uid) = ("alice".to_owned(), 1_900_000_000);
        w.draft.principals = vec!["alice".to_owned()];
    }),
    ("a ledger user's login with another uid", Reason::UidMismatch, |w| {
        (w.login, w.uid) = ("alice".to_owned(), 1000);
        w.draft.principals = vec!["alice".to_owned()];
    }),
    ("a ledger user's login with uid 0", Reason::UidMismatch, |w| {
        (w.login, w.uid) = ("alice".to_owned(), 0);
        w.draft.principals = vec!["alice".to_owned()];
    }),
    ("root without allow-root", Reason::RootNotAllowed, |w| {
        (w.login, w.uid) = ("root".to_owned(), 0);
        w.draft.principals = vec!["root".to_owned()];
    }),
    ("another name for uid 0 without allow-root", Reason::RootNotAllowed, |w| w.uid = 0),
    ("root with allow-root", Reason::Granted, |w| {
        (w.login, w.uid) = ("root".to_owned(), 0);
        w.draft.principals = vec!["root".to_owned()];
        w.facts.allow_root = true;
    }),
    ("the login of a user who is locked", Reason::UserLocked, |w| {
        (w.login, w.uid) = ("bob".to_owned(), 1_900_000_001);
        w.draft.principals = vec!["bob".to_owned()];
        w.user(BOB).state = UserState::Locked;
    }),
    ("the login of a user who is removed", Reason::UserUnknown, |w| {
        (w.login, w.uid) = ("bob".to_owned(), 1_900_000_001);
        w.draft.principals = vec!["bob".to_owned()];
        w.user(BOB).state = UserState::Removed;
    }),
    ("the login of a user who granted it", Reason::Granted, |w| {
        (w.login, w.uid) = ("bob".to_owned(), 1_900_000_001);
        w.draft.principals = vec!["bob".to_owned()];
    }),
    ("a login that is not safe to print", Reason::LoginUnsafe, |w| w.login = "deploy,root".to_owned()),
    ("the certificate has a byte more", Reason::CertificateMalformed, |w| w.tamper = Some(|blob| blob.push(0))),
    ("the certificate is cut off", Reason::CertificateMalformed, |w| {
        w.tamper = Some(|blob| blob.truncate(blob.len() - 1))
    }),
    ("a host certificate", Reason::CertificateType, |w| w.draft.cert_type = 2),
    ("the certified key is locked", Reason::KeyLocked, |w| {
        w.access.revoked_keys.push((fingerprint(&certified_key()), Denial::Locked));
    }),
    ("the certified key is revoked", Reason::KeyRevoked, |w| {
        w.access.revoked_keys.push((fingerprint(&certified_key()), Denial::Revoked));
    }),
    ("the certified key is registered and locked", Reason::KeyLocked, |w| {
        w.draft.key = registered_key();
        w.key().state = KeyState::Locked;
    }),
    ("the certified key is registered and revoked", Reason::KeyRevoked, |w| {
        w.draft.key = registered_key();
        w.key().state = KeyState::Revoked;
    }),
    ("another key is locked", Reason::Granted, |w| {
        w.access.revoked_keys.push((fingerprint(&registered_key()), Denial::Locked));
    }),
    ("the CA is not known", Reason::CaUnknown, |w| w.access.cas.clear()),
    ("another key signed", Reason::CaUnknown, |w| w.draft.ca = ed25519(77)),
    ("the CA is locked", Reason::CaLocked, |w| w.ca().state = CaState::Locked),
    ("the CA is revoked", Reason::CaRevoked, |w| w.ca().state = CaState::Revoked),
    ("the CA's key is locked as a key", Reason::CaLocked, |w| {
        w.access.revoked_keys.push((fingerprint(&ca_key()), Denial::Locked));
    }),
    ("the CA's key is revoked as a key", Reason::CaRevoked, |w| {
        w.access.revoked_keys.push((fingerprint(&ca_key()), Denial::Revoked));
    }),
    ("the CA retired before the batch", Reason::CaRetired, |w| w.ca().state = CaState::Retired { at_secs: NOW - 11 }),
    ("the CA retired in the batch's block", Reason::CaRetired, |w| {
        w.ca().state = CaState::Retired { at_secs: NOW - 10 }
    }),
    ("the CA retired after the batch", Reason::Granted, |w| w.ca().state = CaState::Retired { at_secs: NOW - 9 }),
    ("the CA retired and nothing is logged", Reason::CaRetired, |w| {
        w.ca().state = CaState::Retired { at_secs: NOW };
        w.facts.require_logged = false;
        w.proof = Proof::None;
    }),
    ("the CA may certify other logins", Reason::CaLogin, |w| {
        w.ca().logins_restricted = true;
        w.access.ca_logins.push((CA, "backup".to_owned()));
    }),
    ("the CA may certify this login", Reason::Granted, |w| {
        w.ca().logins_restricted = true;
        w.access.ca_logins.push((CA, "deploy".to_owned()));
    }),
    ("the certificate begins now", Reason::Granted, |w| w.draft.valid_after = NOW),
    ("the certificate begins in a second", Reason::CertificateNotYetValid, |w| w.draft.valid_after = NOW + 1),
    ("the certificate has one second left", Reason::Granted, |w| w.draft.valid_before = NOW + 1),
    ("the certificate ended this second", Reason::CertificateExpired, |w| w.draft.valid_before = NOW),
    ("the certificate ends before it begins", Reason::CertificateExpired, |w| w.draft.valid_before = NOW - 50),
    ("the certificate is valid for ever", Reason::TtlTooLong, |w| {
        (w.draft.valid_after, w.draft.valid_before) = (0, u64::MAX);
    }),
    ("it is as long as the CA allows", Reason::Granted, |w| w.ca().max_ttl_secs = 300),
    ("it is longer than the CA allows", Reason::TtlTooLong, |w| w.ca().max_ttl_secs = 299),
    ("it is longer than the realm allows", Reason::TtlTooLong, |w| w.facts.max_ttl_secs = 299),
    ("it is longer than the grant allows", Reason::TtlTooLong, |w| w.grant().max_ttl_secs = NonZeroU64::new(299)),
    ("it is as long as the grant allows", Reason::Granted, |w| w.grant().max_ttl_secs = NonZeroU64::new(300)),
    ("there are no principals", Reason::Principals, |w| w.draft.principals.clear()),
    ("another login is the principal", Reason::Principals, |w| w.draft.principals = vec!["deploy2".to_owned()]),
    ("the principal is the login in other letters", Reason::Principals, |w| {
        w.draft.principals = vec!["Deploy".to_owned()]
    }),
    ("the login is one of the principals", Reason::Granted, |w| {
        w.draft.principals = vec!["a@b.c".to_owned(), "deploy".to_owned()];
    }),
    ("a principal has a comma", Reason::Principals, |w| w.draft.principals.push("root,deploy".to_owned())),
    ("a principal is a star", Reason::Principals, |w| w.draft.principals.push("*".to_owned())),
    ("a principal is empty", Reason::Principals, |w| w.draft.principals.push(String::new())),
    ("a principal has a space", Reason::Principals, |w| w.draft.principals.push("deploy ".to_owned())),
    ("an unknown critical option", Reason::CriticalOption, |w| w.draft.critical = vec![("x@example", None)]),
    ("a forced command that is not a string", Reason::CriticalOption, |w| {
        w.draft.critical = vec![("force-command", None)]
    }),
    ("verify-required with a value", Reason::CriticalOption, |w| {
        w.draft.critical = vec![("verify-required", Some(String::new()))];
    }),
    ("all three critical options", Reason::Granted, |w| {
        w.draft.critical = vec![
            ("force-command", Some("id".to_owned())),
            ("source-address", Some("192.0.2.0/24,2001:db8::/32".to_owned())),
            ("verify-required", None),
        ];
    }),
    ("a source address that is not a network", Reason::SourceAddress, |w| {
        w.draft.critical = vec![("source-address", Some("192.0.2.0/24,*".to_owned()))];
    }),
    ("a grant's source address that is not a network", Reason::SourceAddress, |w| {
        w.grant().source_addresses = vec!["*".to_owned()];
    }),
    ("no scope", Reason::ScopeMissing, |w| w.draft.scope = None),
    ("a scope of another form", Reason::ScopeMalformed, |w| {
        w.draft.scope = None;
        w.draft.extensions.push(("scope@countersign", Some("AA".to_owned())));
    }),
    ("a scope that is a flag", Reason::ScopeMalformed, |w| {
        w.draft.scope = None;
        w.draft.extensions.push(("scope@countersign", None));
    }),
    ("a scope of another realm", Reason::ScopeRealm, |w| w.scope().realm.0 = [0; 32]),
    ("a scope of a realm that this one comes from", Reason::Granted, World::issued_earlier),
    ("a scope of another realm than those that this one comes from", Reason::ScopeRealm, |w| {
        w.issued_earlier();
        w.scope().realm.0 = [0; 32];
    }),
    ("a scope for another host", Reason::ScopeHost, |w| w.scope().target = Target::Host(Id([0x23; 16]))),
    ("a scope for a label of this host", Reason::Granted, |w| {
        w.scope().target = Target::Label(label_digest("web"));
        w.access.labels = vec![label_digest("prod"), label_digest("web")];
    }),
    ("a scope for a label of other hosts", Reason::ScopeHost, |w| {
        w.scope().target = Target::Label(label_digest("web"));
        w.access.labels = vec![label_digest("prod")];
    }),
    ("a scope for all hosts", Reason::Granted, |w| w.scope().target = Target::AllHosts),
    ("a scope for a user who is not there", Reason::UserUnknown, |w| w.scope().user = Id([1; 16])),
    ("the user is locked", Reason::UserLocked, |w| w.user(ALICE).state = UserState::Locked),
    ("the user is removed", Reason::UserUnknown, |w| w.user(ALICE).state = UserState::Removed),
    ("the grant is not there", Reason::GrantUnknown, |w| w.scope().grant = Id([1; 16])),
    ("the grant is for other hosts", Reason::HostNotCovered, |w| {
        w.scope().grant = Id([1; 16]);
        w.access.grants_elsewhere.push(Id([1; 16]));
    }),
    ("the grant is for other hosts, the scope for all", Reason::HostNotCovered, |w| {
        w.scope().grant = Id([1; 16]);
        w.scope().target = Target::AllHosts;
        w.access.grants_elsewhere.push(Id([1; 16]));
    }),
    ("the grant is another user's", Reason::NoGrant, |w| w.grant().subject = Subject::User(BOB)),
    ("the grant is a group's that the user is in", Reason::Granted, |w| {
        w.grant().subject = Subject::Group(GROUP);
        w.access.memberships.push((GROUP, ALICE));
    }),
    ("the grant is a group's that others are in", Reason::NoGrant, |w| {
        w.grant().subject = Subject::Group(GROUP);
        w.access.memberships.push((GROUP, BOB));
    }),
    ("the grant does not list the login", Reason::LoginNotGranted, |w| {
        w.access.grant_logins.retain(|(id, login)| *id != GRANT || login != "deploy");
    }),
    ("the grant is for plain keys", Reason::GrantNotViaCert, |w| w.grant().via.certificate = false),
    ("the grant's last second", Reason::Granted, |w| w.grant().not_after_secs = NonZeroU64::new(NOW)),
    ("the grant has ended", Reason::GrantExpired, |w| w.grant().not_after_secs = NonZeroU64::new(NOW - 1)),
    ("the grant counts on Fridays", Reason::Granted, |w| {
        w.grant().hours = vec![
            Hours { weekday: 0, from_minute: 0, to_minute: 1440 },
            Hours { weekday: 4, from_minute: 480, to_minute: 481 },
        ];
    }),
    ("the grant counted until this minute", Reason::GrantHours, |w| {
        w.grant().hours = vec![Hours { weekday: 4, from_minute: 0, to_minute: 480 }];
    }),
    ("the serial is revoked", Reason::CertificateRevoked, |w| w.access.serials.push((CA, vec![SERIAL]))),
    ("another CA's serial is revoked", Reason::Granted, |w| w.access.serials.push((Id([1; 16]), vec![SERIAL]))),
    ("no log proof", Reason::LogProofMissing, |w| w.proof = Proof::None),
    ("no log proof where none is asked for", Reason::Granted, |w| {
        w.facts.require_logged = false;
        w.proof = Proof::None;
    }),
    ("a log proof of another form", Reason::LogProofMalformed, |w| w.proof = Proof::Text("AA".to_owned())),
    ("a log proof of another form where none is asked for", Reason::LogProofMalformed, |w| {
        w.facts.require_logged = false;
        w.proof = Proof::Text("AA".to_owned());
    }),
    ("the batch is not known", Reason::BatchUnknown, |w| w.access.batches.clear()),
    ("the batch is not known where none is asked for", Reason::BatchUnknown, |w| {
        w.facts.require_logged = false;
        w.access.batches.clear();
    }),
    ("the batch is locked", Reason::BatchLocked, |w| w.batch().state = BatchState::Locked),
    ("the batch waits", Reason::BatchWaiting, |w| w.batch().state = BatchState::WaitingForCountersignatures),
    ("the batch's issuer lost the role", Reason::BatchIssuer, |w| w.batch().state = BatchState::IssuerLostRole),
    ("the batch's issuer is not the CA's", Reason::BatchIssuer, |w| w.batch().state = BatchState::IssuerNotListed),
    ("the proof of another certificate", Reason::LogProofMismatch, |w| w.proof = Proof::OfAnotherLeaf),
    ("the batch has another root", Reason::LogProofMismatch, |w| w.batch().root = [9; 32]),
    ("the batch has another size", Reason::LogProofMismatch, |w| w.batch().size = 6),
    ("the proof has another size", Reason::LogProofMismatch, |w| w.proof = Proof::OfSize(6)),
    ("the batch is another CA's", Reason::LogProofMismatch, |w| w.batch().ca = Id([1; 16])),
    ("it begins 120 s before its batch", Reason::Granted, |w| w.draft.valid_after = NOW - 130),
    ("it begins 121 s before its batch", Reason::BatchTime, |w| w.draft.valid_after = NOW - 131),
    ("it ends when its batch does", Reason::Granted, |w| w.batch().not_after_secs = NOW + 290),
    ("it ends after its batch does", Reason::BatchTime, |w| w.batch().not_after_secs = NOW + 289),
    ("it ends at its batch's time and the longest life", Reason::Granted, |w| {
        w.facts.max_ttl_secs = 300;
        w.batch().time_secs = NOW - 10;
    }),
    ("it ends after its batch's time and the longest life", Reason::BatchTime, |w| {
        w.facts.max_ttl_secs = 300;
        w.batch().time_secs = NOW - 11;
    }),
    ("one approval of one", Reason::Granted, |w| w.ask_for_approvals(1, &[BOB])),
    ("approved in the earlier realm that the scope names", Reason::Granted, |w| {
        w.issued_earlier();
        w.ask_for_approvals(1, &[BOB]);
    }),
    ("approved in this realm, where the scope names an earlier one", Reason::RequestMismatch, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.issued_earlier();
    }),
    ("two approvals of two", Reason::Granted, |w| w.ask_for_approvals(2, &[BOB, CAROL])),
    ("no approval of one", Reason::ApprovalsMissing, |w| w.ask_for_approvals(1, &[])),
    ("one approval of two", Reason::ApprovalsMissing, |w| w.ask_for_approvals(2, &[BOB])),
    ("one approver twice", Reason::ApprovalsMissing, |w| w.ask_for_approvals(2, &[BOB, BOB])),
    ("the requester approves", Reason::ApprovalsMissing, |w| w.ask_for_approvals(1, &[ALICE])),
    ("an approver who is not there", Reason::ApprovalsMissing, |w| w.ask_for_approvals(1, &[Id([1; 16])])),
    ("an approver who is locked", Reason::ApprovalsMissing, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.user(BOB).state = UserState::Locked;
    }),
    ("an approver who is nobody", Reason::ApprovalsMissing, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.approvals()[0].approver = None;
    }),
    ("an approval of something else", Reason::ApprovalsMissing, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.approvals()[0].approval_hash = [0; 32];
    }),
    ("an approval of something else and one of this", Reason::Granted, |w| {
        w.ask_for_approvals(1, &[BOB, CAROL]);
        w.approvals()[0].approval_hash = [0; 32];
    }),
    ("a denial beside enough approvals", Reason::ApprovalDenied, |w| {
        w.ask_for_approvals(1, &[BOB, CAROL]);
        let denial = &mut w.approvals()[1];
        (denial.verdict, denial.approval_hash) = (Answer::Deny, [0; 32]);
    }),
    ("an approval just early enough", Reason::Granted, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.approvals()[0].time_secs = NOW + 290 - 300 - 600;
    }),
    ("an approval a second too early", Reason::PickupLate, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.approvals()[0].time_secs = NOW + 289 - 300 - 600;
    }),
    ("the request is not there", Reason::RequestUnknown, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.access.requests.clear();
    }),
    ("the request is another user's", Reason::ScopeUser, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.access.requests[0].1.user = CAROL;
    }),
    ("another key than was approved", Reason::RequestMismatch, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.draft.key = ed25519(88);
    }),
    ("another time than was approved", Reason::RequestMismatch, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.draft.valid_before -= 1;
    }),
    ("another login than was approved", Reason::RequestMismatch, |w| {
        w.ask_for_approvals(1, &[BOB]);
        (w.login, w.uid) = ("alice".to_owned(), 1_900_000_000);
        w.draft.principals.push("alice".to_owned());
    }),
    ("another host than was approved, by a scope for all", Reason::RequestMismatch, |w| {
        w.ask_for_approvals(1, &[BOB]);
        w.scope().target = Target::AllHosts;
        w.facts.host = Id([0x23; 16]);
    }),
    ("a life shorter than the setting back", Reason::RequestMismatch, |w| {
        w.ask_for_approvals(1, &[BOB]);
        (w.draft.valid_after, w.draft.valid_before) = (NOW - 10, NOW + 10);
    }),
    ("the grant's forced command", Reason::Granted, |w| {
        w.grant().forced_command = Some("id".to_owned());
        w.draft.critical = vec![("force-command", Some("id".to_owned()))];
    }),
    ("another forced command than the grant's", Reason::ForceCommand, |w| {
        w.grant().forced_command = Some("id".to_owned());
        w.draft.critical = vec![("force-command", Some("sh".to_owned()))];
    }),
    ("a forced command that sshd cannot be told", Reason::ForceCommand, |w| {
        w.grant().forced_command = Some("id\nroot".to_owned());
    }),
];

/// About a plain key.
pub(crate) const PLAIN_KEYS: &[Case] = &[
    ("nothing is changed", Reason::Granted, |_| {}),
    ("the key has a byte more", Reason::KeyMalformed, |w| w.tamper = Some(|blob| blob.push(0))),
    ("the key is of another type", Reason::KeyMalformed, |w| w.plain_key = string(b"ssh-dss")),
    ("the key is denied", Reason::KeyLocked, |w| {
        w.access.revoked_keys.push((fingerprint(&registered_key()), Denial::Locked));
    }),
    ("the key is denied for good", Reason::KeyRevoked, |w| {
        w.access.revoked_keys.push((fingerprint(&registered_key()), Denial::Revoked));
    }),
    ("the key is not registered", Reason::KeyUnknown, |w| w.access.keys.clear()),
    ("the key is locked", Reason::KeyLocked, |w| w.key().state = KeyState::Locked),
    ("the key is revoked", Reason::KeyRevoked, |w| w.key().state = KeyState::Revoked),
    ("the key is not for logins", Reason::KeyPurpose, |w| w.key().purposes = 0xfe),
    ("the key's last second", Reason::Granted, |w| w.key().not_after_secs = NonZeroU64::new(NOW)),
    ("the key has ended", Reason::KeyExpired, |w| w.key().not_after_secs = NonZeroU64::new(NOW - 1)),
    ("the user is not there", Reason::UserUnknown, |w| w.key().user = Id([1; 16])),
    ("the user is locked", Reason::UserLocked, |w| w.user(ALICE).state = UserState::Locked),
    ("the user is removed", Reason::UserUnknown, |w| w.user(ALICE).state = UserState::Removed),
    ("no grant leads there", Reason::NoGrant, |w| w.access.key_grants.clear()),
    ("the grant is not there", Reason::GrantUnknown, |w| w.access.grants.clear()),
    ("the grant is another user's", Reason::NoGrant, |w| w.grant().subject = Subject::User(BOB)),
    ("the grant does not list the login", Reason::LoginNotGranted, |w| w.access.grant_logins.clear()),
    ("the grant has ended", Reason::GrantExpired, |w| w.grant().not_after_secs = NonZeroU64::new(NOW - 1)),
    ("the grant is for certificates", Reason::GrantNotViaKey, |w| w.grant().via.plain_key = false),
    ("the grant asks for approvals", Reason::GrantNotViaKey, |w| w.grant().approvals = 1),
    ("the grant has a longest life", Reason::GrantNotViaKey, |w| w.grant().max_ttl_secs = NonZeroU64::new(300)),
    ("the grant has hours", Reason::GrantNotViaKey, |w| {
        w.grant().hours = vec![Hours { weekday: 4, from_minute: 0, to_minute: 1440 }];
    }),
    ("the realm takes logged certificates only", Reason::GrantNotViaKey, |w| w.facts.require_logged = true),
    ("uid 0", Reason::RootNotAllowed, |w| w.uid = 0),
    ("a ledger user's login with another uid", Reason::UidMismatch, |w| w.login = "alice".to_owned()),
    ("the host is locked", Reason::HostLocked, |w| w.facts.host_state = HostState::Locked),
    ("the snapshot is stale", Reason::SnapshotStale, |w| w.clock.unix_secs = NOW + 296),
    ("a forced command that sshd cannot be told", Reason::ForceCommand, |w| {
        w.grant().forced_command = Some("id\\".to_owned());
    }),
    ("a source address that is not a network", Reason::SourceAddress, |w| {
        w.grant().source_addresses = vec!["192.0.2.1/24".to_owned()];
    }),
];

pub(crate) fn run(cases: &[Case], start: fn() -> World) {
    let mut wrong = Vec::new();
    for (name, expected, change) in cases {
        let mut world = start();
        change(&mut world);
        let verdict = world.verdict();
        if verdict.reason() != *expected {
            wrong.push(format!("{name}: {expected} expected, {verdict:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_case_about_a_certificate_ends_as_it_says_in_both_modes() {
    run(CERTIFICATES, World::new);
}

#[test]
fn each_case_about_a_plain_key_ends_as_it_says() {
    run(PLAIN_KEYS, World::plain);
}

#[test]
fn every_reason_has_a_case_or_a_test_of_its_own() {
    // The outcomes are what the two tests above assert; the others follow here, in `binary.rs` and beside the parser.
    let mut reached: BTreeSet<&str> =
        CERTIFICATES.iter().chain(PLAIN_KEYS).map(|(_, reason, _)| reason.code()).collect();
    let elsewhere = [
        Reason::BadArguments,
        Reason::NoSnapshot,
        Reason::SnapshotUnreadable,
        Reason::SnapshotUntrusted,
        Reason::SnapshotCorrupt,
        Reason::Deadline,
        // In `chain.rs`.
        Reason::Chained,
        Reason::ChainNoKey,
        Reason::ChainUnsafe,
        Reason::ChainFailed,
        Reason::ChainTimeout,
    ];
    reached.extend(elsewhere.map(Reason::code));
    let all: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(reached, all);
    assert_eq!(all.len(), Reason::ALL.len(), "no code twice");
}

#[test]
fn the_documentation_lists_exactly_the_reasons_in_their_order() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reason-codes.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: Vec<&str> = rows.map(|row| row.split_once('`').unwrap().0).collect();
    let all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(listed, all);
    let cells = |row: &str| row.matches(" | ").count();
    assert!(page.lines().filter(|line| line.starts_with("| `")).all(|row| cells(row) == 2), "three cells a row");
}

/// Logs are searched by these codes for years: whoever takes one away or renames it breaks somebody's alarm. New ones go to the end.
const CODES_EVER: &str = "granted bad-arguments login-unsafe no-snapshot snapshot-unreadable snapshot-untrusted \
    snapshot-corrupt clock boot-changed snapshot-stale host-unknown host-locked uid-mismatch root-not-allowed user-unknown \
    user-locked key-malformed certificate-malformed certificate-type key-locked key-revoked key-unknown key-purpose \
    key-expired ca-unknown ca-locked ca-revoked ca-login certificate-not-yet-valid certificate-expired ttl-too-long \
    principals critical-option source-address scope-missing scope-malformed scope-realm scope-host grant-unknown \
    host-not-covered no-grant login-not-granted grant-expired grant-hours grant-not-via-key grant-not-via-cert \
    certificate-revoked log-proof-missing log-proof-malformed batch-unknown batch-waiting batch-locked batch-issuer \
    log-proof-mismatch batch-time ca-retired request-unknown scope-user request-mismatch approval-denied \
    approvals-missing pickup-late force-command deadline chained chain-no-key chain-unsafe chain-failed chain-timeout";

#[test]
fn reason_codes_are_only_ever_added() {
    let ever: Vec<&str> = CODES_EVER.split_whitespace().collect();
    let all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    for code in &ever {
        assert!(all.contains(code), "{code} was a code once and has to stay one");
    }
    for code in &all {
        assert!(ever.contains(code), "{code} is new: write it at the end of CODES_EVER, where it stays");
    }
}

pub(crate) fn line(verdict: Verdict) -> String {
    match verdict {
        Verdict::Accept { line, .. } => line,
        refused => panic!("{refused:?}"),
    }
}

#[test]
fn an_accepted_certificate_gives_the_ca_line_with_one_principal_or_the_principal_line() {
    let mut world = World::new();
    world.draft.principals = vec!["alice".to_owned(), "deploy".to_owned(), "root".to_owned()];
    let ca = encode_base64(&ca_key());
    let keys = line(world.judge(&world.keys_arguments()));
    assert_eq!(keys, format!("restrict,pty,cert-authority,principals=\"deploy\" ssh-ed25519 {ca}"));
    assert_eq!(line(world.judge(&world.principals_arguments())), "restrict,pty deploy");

    let grant = world.grant();
    grant.permits = Permits(0);
    grant.forced_command = Some("echo \"hi there\"".to_owned());
    grant.source_addresses = vec!["192.0.2.0/24".to_owned()];
    let options = "restrict,command=\"echo \\\"hi there\\\"\",from=\"192.0.2.0/24\"";
    let keys = line(world.judge(&world.keys_arguments()));
    assert_eq!(keys, format!("{options},cert-authority,principals=\"deploy\" ssh-ed25519 {ca}"));
    assert_eq!(line(world.judge(&world.principals_arguments())), format!("{options} deploy"));
}

#[test]
fn an_accepted_plain_key_gives_its_line_with_the_grants_options_and_the_earlier_end() {
    let mut world = World::plain();
    let key = encode_base64(&registered_key());
    assert_eq!(line(world.verdict()), format!("restrict,pty ssh-ed25519 {key}"));
    world.grant().forced_command = Some("id".to_owned());
    world.grant().not_after_secs = NonZeroU64::new(NOW + 86_400);
    world.key().not_after_secs = NonZeroU64::new(NOW + 3600);
    // 14 hours later than the end itself: sshd reads local time.
    let expected = format!("restrict,pty,command=\"id\",expiry-time=\"20270115230000\" ssh-ed25519 {key}");
    assert_eq!(line(world.verdict()), expected);
}

#[test]
fn a_plain_key_is_not_answered_by_the_principals_command() {
    let world = World::plain();
    let mut arguments = world.keys_arguments();
    arguments[0] = "principals".into();
    arguments.extend(["id", "1", &encode_base64(&ca_key())].map(Into::into));
    assert_eq!(refusal(world.judge(&arguments)).reason, Reason::BadArguments);
}

#[test]
fn what_sshd_says_beside_the_certificate_must_be_what_it_says_itself() {
    let world = World::new();
    for (at, other) in [(5, "bob/1".to_owned()), (6, "1".to_owned()), (7, encode_base64(&ed25519(77)))] {
        let mut arguments = world.principals_arguments();
        arguments[at] = other.into();
        assert_eq!(refusal(world.judge(&arguments)).reason, Reason::BadArguments, "argument {at}");
    }
    let mut arguments = world.keys_arguments();
    arguments[3] = "ssh-ed25519".into();
    assert_eq!(refusal(world.judge(&arguments)).reason, Reason::BadArguments);
}

#[test]
fn a_logged_certificate_with_any_bit_flipped_is_refused() {
    let world = World::new();
    let blob = world.blob();
    let signed = blob.len() - string(&[string(b"ssh-ed25519"), string(&[5; 64])].concat()).len();
    world.with_snapshot(|snapshot| {
        let reason = |blob: &[u8]| {
            let query = Query::offline(snapshot, Mode::Keys, &world.login, blob).unwrap();
            decide(snapshot, &query, &world.clock).reason()
        };
        assert_eq!(reason(&blob), Reason::Granted);
        for at in 0..signed {
            for bit in 0..8 {
                let mut flipped = blob.clone();
                flipped[at] ^= 1 << bit;
                assert_ne!(reason(&flipped), Reason::Granted, "bit {bit} of byte {at}");
            }
        }
    });
}

#[test]
fn a_certificate_as_the_ca_key_is_refused() {
    let inner = World::new().blob();
    let mut world = World::new();
    world.draft.ca.clone_from(&inner);
    world.proof = Proof::None;
    // Even if it were registered as a CA's key.
    world.ca().key_blob = inner;
    assert_eq!(refusal(world.judge(&world.keys_arguments())).reason, Reason::CertificateMalformed);
}

#[test]
fn the_facts_of_a_verdict_are_what_was_found_on_the_way() {
    let mut world = World::new();
    let verdict = world.verdict();
    let facts = verdict.facts();
    assert_eq!(facts.key, Some(sha256(&certified_key())));
    assert_eq!((facts.serial, facts.ca, facts.batch), (Some(SERIAL), Some(CaName::Id(CA)), Some(BATCH)));
    assert_eq!(
        (facts.user, facts.grant, facts.request, facts.block),
        (Some(ALICE), Some(GRANT), Some(REQUEST), Some(500))
    );
    world.access.cas.clear();
    let verdict = world.verdict();
    assert_eq!(verdict.facts().ca, Some(CaName::Key(sha256(&ca_key()))));
    assert_eq!(verdict.facts().batch, None);
}

#[test]
fn an_observer_hears_the_chain_of_facts_in_order_up_to_the_refusal() {
    let heard = |world: &World| {
        let mut names = Vec::new();
        let mut sentences = Vec::new();
        world.with_snapshot(|snapshot| {
            let mode = if world.plain { Mode::Keys } else { Mode::Principals };
            let query = Query::offline(snapshot, mode, &world.login, &world.blob()).unwrap();
            decide_observed(snapshot, &query, &world.clock, &mut |step| {
                names.push(step.name());
                sentences.push(step.to_string());
            })
        });
        (names, sentences)
    };
    let mut world = World::new();
    world.ask_for_approvals(1, &[BOB]);
    let whole = [
        "snapshot",
        "login",
        "key-not-denied",
        "key-not-denied",
        "ca",
        "certificate",
        "scope",
        "user",
        "grant",
        "serial-not-revoked",
        "batch",
        "request",
        "approval",
    ];
    let (names, sentences) = heard(&world);
    assert_eq!(names, whole);
    let expected = format!("leaf 2 of 5 stands in batch {BATCH}, logged in block 499 at {}", NOW - 10);
    assert_eq!(sentences[10], expected);
    world.batch().state = BatchState::Locked;
    assert_eq!(heard(&world).0, &whole[..10]);
    let plain = ["snapshot", "login", "key-not-denied", "key", "user", "grant"];
    assert_eq!(heard(&World::plain()).0, plain);
}

#[test]
fn an_offline_query_takes_the_ledgers_uid_and_root_for_root() {
    World::new().with_snapshot(|snapshot| {
        let uid = |login| Query::offline(snapshot, Mode::Keys, login, &certified_key()).map(|query| query.uid().0);
        assert_eq!(uid("alice"), Ok(1_900_000_000));
        assert_eq!(uid("root"), Ok(0));
        assert_eq!(uid("deploy"), Ok(1000));
        assert_eq!(uid("a b").unwrap_err().reason, Reason::LoginUnsafe);
    });
}

#[test]
fn a_missing_foreign_or_unreadable_snapshot_has_its_own_reason() {
    let world = World::new();
    let query = Query::from_arguments(&world.keys_arguments()).unwrap();
    let folder = directory();
    let reason = |trust| refusal(decide_on(folder.path(), trust, &query).0).reason;
    assert_eq!(reason(own_trust()), Reason::NoSnapshot);
    world.publish(folder.path());
    assert_eq!(reason(countersign_snapshot::Trust::owner(4_000_000_000)), Reason::SnapshotUntrusted);
    let manifest = folder.path().join("access/manifest");
    let whole = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(reason(own_trust()), Reason::SnapshotCorrupt);
    std::fs::remove_file(&manifest).unwrap();
    assert_eq!(reason(own_trust()), Reason::NoSnapshot);
    let unreadable = OpenError::Io { path: manifest, source: std::io::Error::from_raw_os_error(5) };
    let refused = Verdict::refused(unreadable.into());
    assert_eq!(refused.reason(), Reason::SnapshotUnreadable);
}

#[test]
fn a_page_that_does_not_check_out_refuses_the_login_and_is_never_taken_for_an_absence() {
    let world = World::new();
    let query = Query::from_arguments(&world.keys_arguments()).unwrap();
    let folder = directory();
    world.publish(folder.path());
    let base = std::fs::read_dir(folder.path().join("access")).unwrap().map(|entry| entry.unwrap().path());
    let base = base.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("base.")).unwrap();
    let whole = std::fs::read(&base).unwrap();
    let mut refused = 0;
    for page in 1..whole.len() / 4096 {
        let mut broken = whole.clone();
        broken[page * 4096 + 100] ^= 1;
        std::fs::write(&base, &broken).unwrap();
        let verdict = match Snapshot::open(folder.path(), own_trust()) {
            Ok(snapshot) => decide(&snapshot, &query, &world.clock),
            Err(error) => Verdict::refused(error.into()),
        };
        // Pages that this login does not look at may be broken.
        assert!(matches!(verdict.reason(), Reason::SnapshotCorrupt | Reason::Granted), "page {page}: {verdict:?}");
        refused += usize::from(verdict.reason() == Reason::SnapshotCorrupt);
    }
    assert!(refused >= 8, "only {refused} pages are looked at");
}

#[test]
fn a_snapshot_of_the_future_block_within_tolerance_counts() {
    let mut world = World::new();
    world.facts.latest_block = BlockRef { number: 501, time_secs: NOW + 30 };
    world.freshness.valid_until_secs = NOW + 330;
    assert_eq!(world.verdict().reason(), Reason::Granted);
    assert_eq!(world.clock, Clock { unix_secs: NOW, boot_id: BOOT, boottime_secs: 1000 });
}
