//! Every kind of authority, and every deed, one after the other on one chain.

use attacks::{
    cast::{BOB_KEY, Bookmark, Cast, Question, TTL_SECS, Who},
    paper::blob,
    world::grant,
};
use countersign_certificate::Id;
use countersign_registry::{
    entries::{Entry, Kind, Roles, Targets, payload},
    replay::setting,
    sign,
};
use countersign_sshd::Reason;

use crate::{
    protocol::{Case, Questions},
    settings,
};

fn unlocks(cast: &Cast) -> Vec<Case> {
    let (ids, ask) = (&cast.ids, Questions::new(cast));
    let issuer = vec![cast.address(Who::Issuer)];
    let locked = [
        ("UNLOCK of a key", Targets::Keys(vec![cast.alice_key]), &ask.key, Reason::KeyLocked),
        ("UNLOCK of a user", Targets::Users(vec![ids.alice]), &ask.key, Reason::UserLocked),
        ("UNLOCK of a host", Targets::Hosts(vec![ids.host]), &ask.key, Reason::HostLocked),
        ("UNLOCK of a CA", Targets::Cas(vec![ids.ca]), &ask.logged, Reason::CaLocked),
        ("UNLOCK of a batch", Targets::Batches(vec![ids.batch]), &ask.logged, Reason::BatchLocked),
        ("UNLOCK of an actor", Targets::Actors(issuer), &ask.logged, Reason::BatchIssuer),
    ];
    let case = |(name, targets, ask, without): (_, Targets, _, _)| {
        let unlock = (Who::Roots, Entry::Unlock(targets.clone()));
        Case::new(name, unlock, ask, without, Reason::Granted).after(Who::Admin, Entry::Lock(targets))
    };
    locked.into_iter().map(case).collect()
}

fn restores(cast: &Cast) -> Vec<Case> {
    let (ids, ask) = (&cast.ids, Questions::new(cast));
    let restore = |kind: Kind, id: Id, name: &str, uid| {
        (Who::Roots, Entry::Restore(payload::Restore { kind: kind.0, id: id.0.into(), name: name.into(), uid }))
    };
    // The first uid of the default base; what referred to a host before does not come back.
    let user = || restore(Kind::USER_ADD, ids.alice, "alice", 1_900_000_000);
    let host = || restore(Kind::HOST_ADD, ids.host, "web1", 0);
    let (granted, unknown, nothing) = (Reason::Granted, Reason::UserUnknown, Reason::NoGrant);
    let revoked = |targets| (Who::Roots, Entry::Revoke(targets));
    let cases = [
        ("a removed user", user(), &ask.into_alice, unknown, granted, (Who::Admin, Entry::Remove(vec![ids.alice]))),
        ("a revoked user", user(), &ask.into_alice, unknown, granted, revoked(Targets::Users(vec![ids.alice]))),
        ("a removed host", host(), &ask.key, Reason::HostUnknown, nothing, (Who::Admin, Entry::Remove(vec![ids.host]))),
        ("a revoked host", host(), &ask.key, Reason::HostLocked, nothing, revoked(Targets::Hosts(vec![ids.host]))),
    ];
    let case =
        |(name, write, ask, without, with, (who, entry))| Case::new(name, write, ask, without, with).after(who, entry);
    cases.into_iter().map(case).collect()
}

fn loosenings(cast: &Cast) -> Vec<Case> {
    let ask = Questions::new(cast);
    let of_settings = [
        ("SETTINGS: require-logged", setting::REQUIRE_LOGGED, (1, 0), &ask.unlogged, Reason::LogProofMissing),
        ("SETTINGS: max-ttl", setting::MAX_TTL, (300, 86_400), &ask.logged, Reason::TtlTooLong),
        ("SETTINGS: countersign-quorum", setting::COUNTERSIGN_QUORUM, (2, 0), &ask.logged, Reason::BatchWaiting),
        ("SETTINGS: pickup", setting::PICKUP, (0, 600), &ask.vault, Reason::PickupLate),
        ("SETTINGS: max-staleness", setting::MAX_STALENESS, (300, 3_600), &ask.too_late, Reason::SnapshotStale),
    ];
    let mut cases = Vec::new();
    for (name, key, (strict, loose), ask, without) in of_settings {
        let case = Case::new(name, (Who::Roots, settings(&[(key, loose)])), ask, without, Reason::Granted);
        cases.push(case.after(Who::Roots, settings(&[(key, strict)])));
    }
    let of_ca = [
        ("CA_LOOSEN of the TTL", cast.limits(300, &[], &[Who::Issuer]), Reason::TtlTooLong),
        ("CA_LOOSEN of the logins", cast.limits(TTL_SECS, &["x"], &[Who::Issuer]), Reason::CaLogin),
        ("CA_LOOSEN of the issuers", cast.limits(TTL_SECS, &[], &[]), Reason::BatchIssuer),
    ];
    for (name, strict, without) in of_ca {
        let loosen = (Who::Roots, Entry::CaLoosen(cast.limits(86_400, &[], &[Who::Issuer])));
        let case = Case::new(name, loosen, &ask.logged, without, Reason::Granted);
        cases.push(case.after(Who::Admin, Entry::CaTighten(strict)));
    }
    cases
}

fn roles_and_bindings(cast: &Cast) -> Vec<Case> {
    let (ids, ask) = (&cast.ids, Questions::new(cast));
    let granted = Reason::Granted;
    let new_ca = cast.ca_add(2, 0xcb);
    let mut paper = cast.paper();
    paper.ca = (cast.id_of(Who::Roots, &new_ca), 0xcb);
    let by_new_ca = Question::new(paper.unlogged(), "deploy");
    let countersign = Entry::Countersign(payload::Countersign { batch: ids.batch.0.into(), entryHash: ids.batch_hash });
    let roots = |name, entry, ask, without| Case::new(name, (Who::Roots, entry), ask, without, granted);
    let approver = Roles::APPROVER | Roles::MEMBER;
    vec![
        roots("CA_ADD", new_ca, &by_new_ca, Reason::CaUnknown),
        roots("ROLE_SET of the issuer", cast.roles(Who::Issuer, Roles::ISSUER), &ask.logged, Reason::BatchIssuer)
            .after(Who::Roots, cast.roles(Who::Issuer, 0)),
        roots("ROLE_SET of the approver", cast.roles(Who::Approver, approver), &ask.vault, Reason::ApprovalsMissing)
            .after(Who::Roots, cast.roles(Who::Approver, Roles::MEMBER)),
        // The deed is there from the latest view on, the role behind it only from the final one.
        roots("ROLE_SET of a watchdog", cast.roles(Who::Second, Roles::WATCHDOG), &ask.logged, Reason::BatchWaiting)
            .then(Who::Second, countersign)
            .after(Who::Roots, settings(&[(setting::COUNTERSIGN_QUORUM, 1)])),
        Case::new(
            "MEMBER_SET of the approver",
            (Who::Second, cast.binding(Who::Approver, Some(ids.bob))),
            &ask.vault,
            Reason::ApprovalsMissing,
            granted,
        )
        .after(Who::Admin, cast.binding(Who::Approver, None)),
        Case::new(
            "MEMBER_SET of the requester",
            (Who::Admin, cast.binding(Who::Device, Some(ids.alice))),
            &ask.vault,
            Reason::RequestUnknown,
            granted,
        )
        .after(Who::Admin, cast.binding(Who::Device, None)),
    ]
}

fn records(cast: &Cast) -> Vec<Case> {
    let (ids, ask) = (&cast.ids, Questions::new(cast));
    let bob = |login| Question::new(blob(BOB_KEY), login);
    let new = |name, entry, ask, without| Case::new(name, (Who::Admin, entry), ask, without, Reason::Granted);
    let dave =
        Entry::UserAdd(payload::UserAdd { r: [0x31; 16].into(), login: "dave".into(), displayName: String::new() });
    let dave_id = cast.id_of(Who::Admin, &dave);
    let group = Entry::GroupAdd(payload::GroupAdd { r: [0x32; 16].into(), name: "dbas".into() });
    let group_id = cast.id_of(Who::Admin, &group);
    let member = payload::GroupMemberAdd { r: [0x33; 16].into(), group: group_id.0.into(), user: ids.bob.0.into() };
    let host = payload::HostAdd {
        r: [0x34; 16].into(),
        name: "web2".into(),
        owner: [0; 16].into(),
        hostKey: Vec::new().into(),
    };
    let host_id = sign::record_id(Kind::HOST_ADD, cast.address(Who::Admin), [0x34; 16]);
    let mut there = grant(0x35, ids.alice, host_id);
    there.logins = vec!["deploy".into()];
    let waiting = cast.grant(0x36, ids.bob, "deploy");
    let waiting_id = cast.id_of(Who::Admin, &waiting);
    vec![
        new("GROUP_MEMBER_ADD", cast.membership(0x30, ids.bob), &bob("group"), Reason::NoGrant),
        new("GRANT_ADD", cast.grant(0x30, ids.bob, "deploy"), &bob("deploy"), Reason::NoGrant),
        new("KEY_ADD", cast.key(0x30, ids.alice, 0xa7), &Question::new(blob(0xa7), "deploy"), Reason::KeyUnknown),
        new("LABEL_ADD", cast.label(0x30, "web"), &ask.label, Reason::NoGrant)
            .after(Who::Second, Entry::Remove(vec![ids.label])),
        new("USER_ADD", dave, &Question::new(blob(0xda), "deploy"), Reason::KeyUnknown)
            .and(cast.key(0x31, dave_id, 0xda))
            .and(cast.grant(0x31, dave_id, "deploy")),
        new("GROUP_ADD", group, &bob("deploy"), Reason::NoGrant)
            .and(Entry::GroupMemberAdd(member))
            .and(cast.grant(0x33, group_id, "deploy")),
        new("HOST_ADD", Entry::HostAdd(host), &ask.key, Reason::HostUnknown).and(Entry::GrantAdd(there)).at(host_id),
        Case::new(
            "CONFIRM",
            (Who::Second, Entry::Confirm(vec![waiting_id])),
            &bob("deploy"),
            Reason::NoGrant,
            Reason::Granted,
        )
        .after(Who::Roots, settings(&[(setting::DIRECTORY_QUORUM, 2)]))
        .after(Who::Admin, waiting),
    ]
}

fn deeds(cast: &Cast) -> Vec<Case> {
    let (ids, ask) = (&cast.ids, Questions::new(cast));
    let batch = cast.batch(2, &cast.paper());
    let in_batch = Question::new(cast.paper().logged(cast.id_of(Who::Issuer, &batch)), "deploy");
    let request = cast.request(2, "vault");
    let id = cast.id_of(Who::Device, &request);
    let requested = Question::new(cast.vault(id).unlogged(), "vault");
    let approve = (Who::Approver, cast.approve(id, cast.terms(id, "vault")));
    let countersign = Entry::Countersign(payload::Countersign { batch: ids.batch.0.into(), entryHash: ids.batch_hash });
    let (granted, missing) = (Reason::Granted, Reason::ApprovalsMissing);
    vec![
        Case::new("BATCH", (Who::Issuer, batch), &in_batch, Reason::BatchUnknown, granted),
        Case::new("COUNTERSIGN", (Who::Watchdog, countersign), &ask.logged, Reason::BatchWaiting, granted)
            .after(Who::Roots, settings(&[(setting::COUNTERSIGN_QUORUM, 1)])),
        Case::new("REQUEST", (Who::Device, request.clone()), &requested, Reason::RequestUnknown, missing),
        Case::new("APPROVE", approve, &requested, missing, granted).after(Who::Device, request),
        Case::new("DENY", (Who::Approver, Entry::Deny(ids.request)), &ask.vault, granted, Reason::ApprovalDenied),
    ]
}

async fn each_is_authority(cases: fn(&Cast) -> Vec<Case>) {
    let cast = Cast::new().await;
    let mut bookmark = Bookmark::new(&cast).await;
    for case in cases(&cast) {
        case.authority(&cast).await;
        bookmark.restore(&cast).await;
    }
}

#[tokio::test]
async fn unlocks_and_restores_that_were_reorged_out_never_count_and_re_included_they_count_once_final() {
    each_is_authority(|cast| unlocks(cast).into_iter().chain(restores(cast)).collect()).await;
}

#[tokio::test]
async fn loosened_settings_and_limits_count_once_final() {
    each_is_authority(loosenings).await;
}

#[tokio::test]
async fn roles_bindings_and_cas_count_once_final() {
    each_is_authority(roles_and_bindings).await;
}

#[tokio::test]
async fn records_and_confirmations_count_once_final() {
    each_is_authority(records).await;
}

#[tokio::test]
async fn batches_countersignatures_requests_approvals_and_refusals_count_while_the_latest_view_has_them() {
    let cast = Cast::new().await;
    let mut bookmark = Bookmark::new(&cast).await;
    for case in deeds(&cast) {
        case.deed(&cast).await;
        bookmark.restore(&cast).await;
    }
}
