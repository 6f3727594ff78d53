//! Every kind of denial, one after the other on one chain.

use attacks::cast::{Bookmark, Cast, TTL_SECS, Who};
use countersign_registry::{
    entries::{Entry, Roles, Targets, payload},
    replay::setting,
};
use countersign_sshd::Reason;

use crate::{
    protocol::{Case, Questions},
    settings,
};

fn locks(cast: &Cast) -> Vec<Case> {
    let (ids, ask) = (&cast.ids, Questions::new(cast));
    let granted = Reason::Granted;
    let lock = |name, targets, ask, with| Case::new(name, (Who::Admin, Entry::Lock(targets)), ask, granted, with);
    let countersign = Entry::Countersign(payload::Countersign { batch: ids.batch.0.into(), entryHash: ids.batch_hash });
    vec![
        lock("KEY_LOCK", Targets::Keys(vec![cast.alice_key]), &ask.key, Reason::KeyLocked),
        lock("USER_LOCK", Targets::Users(vec![ids.alice]), &ask.key, Reason::UserLocked),
        lock("USER_LOCK of the login's user", Targets::Users(vec![ids.alice]), &ask.into_alice, Reason::UserLocked),
        lock("USER_LOCK of the approver", Targets::Users(vec![ids.bob]), &ask.vault, Reason::ApprovalsMissing),
        lock("HOST_LOCK", Targets::Hosts(vec![ids.host]), &ask.key, Reason::HostLocked),
        lock("CA_LOCK", Targets::Cas(vec![ids.ca]), &ask.logged, Reason::CaLocked),
        lock("BATCH_LOCK", Targets::Batches(vec![ids.batch]), &ask.logged, Reason::BatchLocked),
        lock("ACTOR_LOCK of the issuer", actors(cast, Who::Issuer), &ask.logged, Reason::BatchIssuer),
        lock("ACTOR_LOCK of the approver", actors(cast, Who::Approver), &ask.vault, Reason::ApprovalsMissing),
        lock("ACTOR_LOCK of the requester", actors(cast, Who::Device), &ask.vault, Reason::RequestUnknown),
        lock("ACTOR_LOCK of the watchdog", actors(cast, Who::Watchdog), &ask.logged, Reason::BatchWaiting)
            .after(Who::Roots, settings(&[(setting::COUNTERSIGN_QUORUM, 1)]))
            .after(Who::Watchdog, countersign),
    ]
}

fn actors(cast: &Cast, who: Who) -> Targets {
    Targets::Actors(vec![cast.address(who)])
}

fn of_authorities(cast: &Cast) -> Vec<Case> {
    let (ids, ask) = (&cast.ids, Questions::new(cast));
    let granted = Reason::Granted;
    let revoker = |name, entry, ask, with| Case::new(name, (Who::Admin, entry), ask, granted, with);
    let roots = |name, entry, ask, with| Case::new(name, (Who::Roots, entry), ask, granted, with);
    let tighten = |ttl, logins: &[&str], issuers: &[Who]| Entry::CaTighten(cast.limits(ttl, logins, issuers));
    let countersign = Entry::Countersign(payload::Countersign { batch: ids.batch.0.into(), entryHash: ids.batch_hash });
    let serials = vec![cast.paper().serial.0];
    vec![
        revoker("CA_RETIRE", Entry::CaRetire(vec![ids.ca]), &ask.unlogged, Reason::CaRetired),
        revoker("CA_TIGHTEN of the TTL", tighten(300, &[], &[Who::Issuer]), &ask.logged, Reason::TtlTooLong),
        revoker("CA_TIGHTEN of the logins", tighten(TTL_SECS, &["x"], &[Who::Issuer]), &ask.logged, Reason::CaLogin),
        revoker("CA_TIGHTEN of the issuers", tighten(TTL_SECS, &[], &[]), &ask.logged, Reason::BatchIssuer),
        revoker(
            "CERT_REVOKE",
            Entry::CertRevoke { ca: ids.ca, serials: serials.clone() },
            &ask.logged,
            Reason::CertificateRevoked,
        ),
        Case::new(
            "CERT_REVOKE by the issuer",
            (Who::Issuer, Entry::CertRevoke { ca: ids.ca, serials }),
            &ask.unlogged,
            granted,
            Reason::CertificateRevoked,
        ),
        roots(
            "CA_LOOSEN that tightens",
            Entry::CaLoosen(cast.limits(300, &[], &[Who::Issuer])),
            &ask.logged,
            Reason::TtlTooLong,
        ),
        roots("REVOKE of a key", Entry::Revoke(Targets::Keys(vec![cast.alice_key])), &ask.key, Reason::KeyRevoked),
        roots("REVOKE of a user", Entry::Revoke(Targets::Users(vec![ids.alice])), &ask.key, Reason::UserUnknown),
        roots("REVOKE of a host", Entry::Revoke(Targets::Hosts(vec![ids.host])), &ask.key, Reason::HostLocked),
        roots("REVOKE of a CA", Entry::Revoke(Targets::Cas(vec![ids.ca])), &ask.logged, Reason::CaRevoked),
        roots("ROLE_SET: the issuer's lost", cast.roles(Who::Issuer, 0), &ask.logged, Reason::BatchIssuer),
        roots(
            "ROLE_SET: the approver's lost",
            cast.roles(Who::Approver, Roles::MEMBER),
            &ask.vault,
            Reason::ApprovalsMissing,
        ),
        roots("ROLE_SET: the watchdog's lost", cast.roles(Who::Watchdog, 0), &ask.logged, Reason::BatchWaiting)
            .after(Who::Roots, settings(&[(setting::COUNTERSIGN_QUORUM, 1)]))
            .after(Who::Watchdog, countersign),
    ]
}

fn of_settings(cast: &Cast) -> Vec<Case> {
    let ask = Questions::new(cast);
    let strict = [
        ("SETTINGS_TIGHTEN of require-logged", setting::REQUIRE_LOGGED, 1, &ask.unlogged, Reason::LogProofMissing),
        ("SETTINGS_TIGHTEN of require-logged, plain key", setting::REQUIRE_LOGGED, 1, &ask.key, Reason::NoGrant),
        ("SETTINGS_TIGHTEN of max-ttl", setting::MAX_TTL, 300, &ask.logged, Reason::TtlTooLong),
        ("SETTINGS_TIGHTEN of countersign-quorum", setting::COUNTERSIGN_QUORUM, 1, &ask.logged, Reason::BatchWaiting),
        ("SETTINGS_TIGHTEN of pickup", setting::PICKUP, 0, &ask.vault, Reason::PickupLate),
        ("SETTINGS_TIGHTEN of max-staleness", setting::MAX_STALENESS, 60, &ask.late, Reason::SnapshotStale),
    ];
    let mut cases = Vec::new();
    for (name, key, value, ask, with) in strict {
        let Entry::Settings(items) = settings(&[(key, value)]) else { unreachable!("settings") };
        cases.push(Case::new(name, (Who::Admin, Entry::SettingsTighten(items)), ask, Reason::Granted, with));
    }
    let by_roots = settings(&[(setting::MAX_TTL, 300), (setting::MAX_STALENESS, 86_400)]);
    cases.push(Case::new(
        "SETTINGS that tighten",
        (Who::Roots, by_roots),
        &ask.logged,
        Reason::Granted,
        Reason::TtlTooLong,
    ));
    cases
}

fn of_records(cast: &Cast) -> Vec<Case> {
    let (ids, ask) = (&cast.ids, Questions::new(cast));
    let remove =
        |name, id, ask, with| Case::new(name, (Who::Admin, Entry::Remove(vec![id])), ask, Reason::Granted, with);
    vec![
        remove("REMOVE of a grant", ids.grant, &ask.unlogged, Reason::GrantUnknown),
        remove("REMOVE of a grant, plain key", ids.grant, &ask.key, Reason::NoGrant),
        remove("REMOVE of a user", ids.alice, &ask.unlogged, Reason::UserUnknown),
        remove("REMOVE of the login's user", ids.alice, &ask.into_alice, Reason::UserUnknown),
        remove("REMOVE of a key", ids.key, &ask.key, Reason::KeyUnknown),
        remove("GROUP_MEMBER_REMOVE", ids.membership, &ask.group, Reason::NoGrant),
        remove("REMOVE of a group", ids.group, &ask.group, Reason::NoGrant),
        remove("REMOVE of a label", ids.label, &ask.label, Reason::NoGrant),
        remove("REMOVE of a host", ids.host, &ask.key, Reason::HostUnknown),
        Case::new(
            "MEMBER_SET that unbinds the approver",
            (Who::Admin, cast.binding(Who::Approver, None)),
            &ask.vault,
            Reason::Granted,
            Reason::ApprovalsMissing,
        ),
        Case::new(
            "MEMBER_SET that binds the requester to another",
            (Who::Second, cast.binding(Who::Device, Some(ids.carol))),
            &ask.vault,
            Reason::Granted,
            Reason::RequestUnknown,
        ),
    ]
}

async fn each_is_a_denial(cases: fn(&Cast) -> Vec<Case>) {
    let cast = Cast::new().await;
    let mut bookmark = Bookmark::new(&cast).await;
    for case in cases(&cast) {
        case.denial(&cast).await;
        bookmark.restore(&cast).await;
    }
}

#[tokio::test]
async fn locks_count_at_once_through_reorgs_and_restarts_until_no_history_has_had_them_for_64_blocks() {
    each_is_a_denial(locks).await;
}

#[tokio::test]
async fn revocations_retirements_and_lost_roles_count_at_once_through_reorgs_and_restarts() {
    each_is_a_denial(of_authorities).await;
}

#[tokio::test]
async fn tightened_settings_count_at_once_through_reorgs_and_restarts() {
    each_is_a_denial(of_settings).await;
}

#[tokio::test]
async fn removals_and_ended_bindings_count_at_once_through_reorgs_and_restarts() {
    each_is_a_denial(of_records).await;
}
