//! Clocks that contradict what is published.
//!
//! The wall clock is the machine's, so it stays, and what is published is moved instead. The boot clock is moved for real, in a time
//! namespace around the helper.

use std::process::Command;

use countersign_bench::storm::LOGIN;
use countersign_snapshot::{Clock, PublishInfo};
use e2e::{client::Login, in_bed, machine::HELPER, process};

use crate::{Host, reason};

const DAY: u64 = 86_400;
const DECADE: u64 = 10 * 365 * DAY;

/// Moves everything that a publication says about the wall clock, as if it had been made when the block was.
fn at_block(info: &mut PublishInfo, time_secs: u64) {
    info.facts.latest_block.time_secs = time_secs;
    info.freshness.valid_until_secs = time_secs.saturating_add(300);
    info.freshness.highest_wall_secs = time_secs;
}

/// What the clocks show, told by what is moved against them; and what is said then.
type Case = (&'static str, &'static str, fn(&mut PublishInfo, &Clock, u64));

const CASES: [Case; 6] = [
    ("the clock went back behind the block and all that it has shown", "clock", |info, clock, span| {
        at_block(info, clock.unix_secs + span);
    }),
    ("the clock is behind the block, and was never right", "clock", |info, clock, span| {
        at_block(info, clock.unix_secs + span);
        info.freshness.highest_wall_secs = 0;
    }),
    ("the clock is behind what it has shown, and the block too", "clock", |info, clock, span| {
        info.freshness.highest_wall_secs = clock.unix_secs + span;
    }),
    ("the clock went forward", "snapshot-stale", |info, clock, span| at_block(info, clock.unix_secs - span)),
    ("the boot clock went back", "clock", |info, _, span| info.freshness.boottime_secs += span),
    ("so old by the boot clock when it was published", "snapshot-stale", |info, _, span| {
        info.freshness.age_consumed_secs = span;
    }),
];

/// Asks the helper in a time namespace whose boot clock is `offset` seconds off. What it prints, and its reason.
fn ask_at(host: &mut Host, offset: i64) -> (String, String) {
    host.new_lines();
    let mut command = Command::new("unshare");
    command.args(["--time", "--boottime", &offset.to_string(), HELPER, "keys", LOGIN, "2001", "ssh-ed25519"]);
    let printed = process::success(command.arg(&host.storm.key));
    let lines = host.new_lines();
    let [line] = lines.as_slice() else { panic!("expected one line: {lines:?}") };
    (printed, reason(line).to_owned())
}

#[test]
fn a_snapshot_that_the_clocks_contradict_lets_nobody_in() {
    in_bed!(|| {
        let mut host = Host::begin();
        for (what, expected, change) in CASES {
            for span in [DAY, DECADE] {
                host.publish(|info, clock| change(info, clock, span));
                assert_eq!(host.refusal(), expected, "{what}, by {span} s");
                assert_eq!(host.login(), Login::Refused, "{what}, by {span} s");
            }
        }
        host.publish(|info, _| info.freshness.age_consumed_secs = 301);
        assert_eq!(host.refusal(), "snapshot-stale", "too old by the boot clock alone");
        host.publish(|info, _| info.freshness.boot_id.0 = info.freshness.boot_id.0.map(|byte| !byte));
        assert_eq!(host.refusal(), "boot-changed");
        assert_eq!(host.login(), Login::Refused);
        host.publish(|_, _| {});
        assert_eq!(host.login(), Login::Accepted("2\n".to_owned()));
    });
}

#[test]
fn a_boot_clock_that_is_really_off_lets_nobody_in_although_the_wall_clock_is_right() {
    in_bed!(|| {
        let mut host = Host::begin();
        let nothing = |reason: &str| (String::new(), reason.to_owned());
        host.publish(|_, _| {});
        assert_eq!(ask_at(&mut host, 0).1, "granted");
        let half_way = i64::try_from(Clock::now().unwrap().boottime_secs / 2).unwrap();
        assert_eq!(ask_at(&mut host, -half_way), nothing("clock"), "back by {half_way} s");
        for span in [DAY, DECADE] {
            let offset = i64::try_from(span).unwrap();
            assert_eq!(ask_at(&mut host, offset), nothing("snapshot-stale"), "forward by {span} s");
        }
        // Published by such a clock: the machine's own is behind it then, and only the same one shows it as fresh.
        for span in [DAY, DECADE] {
            host.publish(|info, _| info.freshness.boottime_secs += span);
            let offset = i64::try_from(span).unwrap();
            assert_eq!(ask_at(&mut host, 0), nothing("clock"), "back by {span} s");
            assert_eq!(ask_at(&mut host, offset).1, "granted");
            assert_eq!(ask_at(&mut host, offset - 60), nothing("clock"), "back by a minute");
            assert_eq!(ask_at(&mut host, offset + 360), nothing("snapshot-stale"), "forward by six minutes");
        }
    });
}
