//! The same question about a session: what refuses a login ends it, but for what is about the moment of the login or about the host.

use crate::decisions::{CERTIFICATES, Case, PLAIN_KEYS};
use crate::support::*;
use countersign_snapshot::{Approval, Clock, Uid};
use countersign_sshd::{Query, Reason, SessionEnd, Verdict, decide_session};

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
