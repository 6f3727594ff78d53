//! The same question about a session: what refuses a login ends it, but for what is about the moment of the login or about the host.

use crate::chain::local;
use crate::decisions::{CERTIFICATES, Case, PLAIN_KEYS};
use crate::support::*;
use countersign_snapshot::{Approval, Clock, Denial, HostState, Key, KeyState, Login, Uid, UserState};
use countersign_sshd::{Query, Reason, SessionEnd, Verdict, decide_session, denied};

fn session(world: &World) -> Verdict {
    match Query::session(&world.login, Uid(world.uid), &world.blob()) {
        Ok(query) => world.with_snapshot(|snapshot| decide_session(snapshot, &query, &world.clock, &mut |_| ())),
        Err(refusal) => Verdict::refused(refusal),
    }
}

fn compare(cases: &[Case], start: fn() -> World) {
    let mut wrong = Vec::new();
    for (name, reason, change) in cases {
        let mut world = start();
        change(&mut world);
        let found = session(&world).reason();
        let expected = if reason.session_end() == SessionEnd::Never { Reason::Granted } else { *reason };
        // The parser of arguments says it of a login; nothing can be recorded that it refuses.
        if found != expected && *reason != Reason::LoginUnsafe {
            wrong.push(format!("{name}: {expected} expected, found {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_case_about_a_login_is_the_same_about_its_session_but_for_what_ends_none() {
    compare(CERTIFICATES, World::new);
    compare(PLAIN_KEYS, World::plain);
}

#[test]
fn what_is_about_the_moment_of_a_login_hides_nothing_that_ends_a_session() {
    let mut world = World::new();
    world.ask_for_approvals(1, &[BOB]);
    world.clock = Clock { unix_secs: world.draft.valid_after - 10, boottime_secs: 0, ..world.clock };
    world.freshness.max_staleness_secs = 1;
    world.freshness.valid_until_secs = world.facts.latest_block.time_secs + 1;
    world.approvals()[0] = Approval { time_secs: NOW - 100_000, ..world.approvals()[0] };
    assert_eq!(world.verdict().reason(), Reason::Clock);
    assert_eq!(session(&world).reason(), Reason::Granted);
    world.access.serials = vec![(CA, vec![SERIAL])];
    assert_eq!(session(&world).reason(), Reason::CertificateRevoked);
}

/// What denies a session that an earlier command let in.
fn denial(world: &World) -> Option<Reason> {
    let query = Query::session(&world.login, Uid(world.uid), &world.blob()).unwrap();
    let (_, found) = world.with_snapshot(|snapshot| denied(snapshot, &query, &world.clock));
    found.map(|refusal| refusal.reason)
}

type Denied = (Reason, Box<dyn Fn(&mut World)>);

#[test]
fn a_session_of_an_earlier_command_ends_by_each_denial_and_by_nothing_that_is_missing() {
    type Change = fn(&mut World);
    let missing: [(&str, Change); 9] = [
        ("nothing happened", |_| ()),
        ("a grant leads there now", |world| world.access.granted_logins.push("backup".to_owned())),
        ("the host is none of the realm's", |world| world.facts.host_state = HostState::Unknown),
        ("everything is gone", |world| {
            world.access.grants.clear();
            world.access.keys.clear();
            world.access.users.clear();
            world.access.logins.clear();
        }),
        ("the snapshot is old", |world| world.clock.unix_secs += 1_000_000),
        ("only logged certificates count", |world| world.facts.require_logged = true),
        ("the key has ended, as registered", |world| {
            let key = Key { not_after_secs: std::num::NonZeroU64::new(1), ..*world.key() };
            world.access.keys.push((fingerprint(&world.plain_key), key));
        }),
        ("the key of another is denied", |world| {
            world.access.revoked_keys.push((fingerprint(&ed25519(8)), Denial::Revoked));
        }),
        ("somebody else is locked", |world| world.user(ALICE).state = UserState::Locked),
    ];
    for (name, change) in missing {
        let mut world = local();
        change(&mut world);
        assert_eq!(denial(&world), None, "{name}");
    }
    let register = |world: &mut World, state| {
        let key = Key { state, ..*world.key() };
        world.access.keys.push((fingerprint(&world.plain_key), key));
    };
    let deny =
        |denial| move |world: &mut World| world.access.revoked_keys.push((fingerprint(&world.plain_key), denial));
    let owner = |state| {
        move |world: &mut World| {
            register(world, KeyState::Active);
            let user = world.key().user;
            world.user(user).state = state;
        }
    };
    // The login has become a user's since, in that or another spelling.
    let login_of = |state, spelled: &'static str| {
        move |world: &mut World| {
            world.access.logins.push(("backup".to_owned(), Login { uid: Uid(77), user: ALICE }));
            world.user(ALICE).state = state;
            world.login = spelled.to_owned();
        }
    };
    let denials: Vec<Denied> = vec![
        (Reason::KeyLocked, Box::new(deny(Denial::Locked))),
        (Reason::KeyRevoked, Box::new(deny(Denial::Revoked))),
        (Reason::KeyLocked, Box::new(move |world| register(world, KeyState::Locked))),
        (Reason::KeyRevoked, Box::new(move |world| register(world, KeyState::Revoked))),
        (Reason::UserLocked, Box::new(owner(UserState::Locked))),
        (Reason::UserUnknown, Box::new(owner(UserState::Removed))),
        (Reason::UserLocked, Box::new(login_of(UserState::Locked, "backup"))),
        (Reason::UserLocked, Box::new(login_of(UserState::Locked, "BACKUP@example.org"))),
        (Reason::UserUnknown, Box::new(login_of(UserState::Removed, "backup"))),
        (Reason::HostLocked, Box::new(|world| world.facts.host_state = HostState::Locked)),
    ];
    for (reason, change) in &denials {
        let mut world = local();
        change(&mut world);
        assert_eq!(denial(&world), Some(*reason));
        assert_eq!(reason.session_end(), SessionEnd::AtOnce, "{reason}");
        world.clock.unix_secs += 1_000_000;
        assert_eq!(denial(&world), Some(*reason), "an old snapshot denies what it denied");
    }
}

#[test]
fn the_documentation_says_of_each_reason_what_it_does_to_a_session() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/spec/sessions.md");
    let page = std::fs::read_to_string(page).unwrap();
    let word = |end| match end {
        SessionEnd::Never => "goes on",
        SessionEnd::AtOnce => "ends",
        SessionEnd::IfItStays => "ends if it stays",
    };
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> =
        Reason::ALL.iter().map(|reason| format!("| `{reason}` | {} |", word(reason.session_end()))).collect();
    assert_eq!(rows, expected);
}
