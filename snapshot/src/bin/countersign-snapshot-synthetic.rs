//! Publishes synthetic snapshots, for measuring and for tests of what happens when the publisher dies.
//!
//! `countersign-snapshot-synthetic DIRECTORY USERS [REVOKED_SERIALS [PUBLICATIONS]]` prints a line per publication:
//! the generation. Each is a base. `countersign-snapshot-synthetic --revoke DIRECTORY FIRST LAST` publishes a large base with the serials up to
//! FIRST revoked, or what differs from the one in place, and then each one more, up to LAST, as a publisher does that goes on. It refuses to do anything else.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use countersign_certificate::{Id, RealmId, Serial};
use countersign_snapshot::{
    AccessTables, Before, BlockRef, Ca, Clock, Facts, Freshness, HostState, PublishInfo, Published, Salt, Synthetic,
    publish_base, publish_since, synthetic,
};

const MAX_STALENESS_SECS: u64 = 3600;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut message = format!("countersign-snapshot-synthetic: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                message = format!("{message}: {cause}");
                source = cause.source();
            }
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, numbers) =
        arguments.split_first().ok_or("expected DIRECTORY USERS [REVOKED_SERIALS [PUBLICATIONS]]")?;
    if directory == "--revoke" {
        return revoke(numbers);
    }
    let numbers = numbers.iter().map(|text| text.parse::<u32>()).collect::<Result<Vec<u32>, _>>()?;
    let number = |index: usize, default: u32| numbers.get(index).copied().unwrap_or(default);
    if numbers.is_empty() || numbers.len() > 3 {
        return Err("expected DIRECTORY USERS [REVOKED_SERIALS [PUBLICATIONS]]".into());
    }
    for publication in 1..=number(2, 1) {
        let uid_base = 1_900_000_000u32.saturating_add(publication);
        let plan = Synthetic { users: number(0, 0), revoked_serials: number(1, 0), uid_base };
        let (access, accounts) = synthetic(&plan);
        let generation = publish_base(Path::new(directory), &access, &accounts, &info(&Clock::now()?))?;
        writeln!(std::io::stdout(), "{generation}")?;
    }
    Ok(())
}

fn revoke(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [directory, first, last] = arguments else { return Err("expected --revoke DIRECTORY FIRST LAST".into()) };
    let (mut access, accounts) = synthetic(&Synthetic { users: 20, revoked_serials: 0, uid_base: 1_900_000_000 });
    let ca = access.cas.first().cloned().ok_or("a synthetic snapshot has a CA")?;
    // Long keys make it large enough for deltas.
    access.cas.extend((0..40).map(|number| Ca { id: Id([number; 16]), key_blob: vec![number; 16_000], ..ca.clone() }));
    let (first, last): (u64, u64) = (first.parse()?, last.parse()?);
    access.serials = vec![(ca.id, (1..first).map(Serial).collect())];
    let mut before: Option<(AccessTables, Published)> = None;
    for serial in first..=last {
        if let Some((_, serials)) = access.serials.first_mut() {
            serials.push(Serial(serial));
        }
        let since = before.as_ref().map(|(access, published)| Before { access, accounts: &accounts, published });
        let published = publish_since(since, Path::new(directory), &access, &accounts, &info(&Clock::now()?))?;
        writeln!(std::io::stdout(), "{}", published.generation)?;
        before = Some((access.clone(), published));
    }
    Ok(())
}

fn info(clock: &Clock) -> PublishInfo {
    let block = BlockRef { number: 1, time_secs: clock.unix_secs };
    PublishInfo {
        facts: Facts {
            realm: RealmId([0x11; 32]),
            host: Id([0x22; 16]),
            host_state: HostState::Active,
            require_logged: false,
            allow_root: false,
            pickup_secs: 600,
            max_ttl_secs: 86_400,
            latest_block: block,
            final_block: block,
        },
        freshness: Freshness {
            valid_until_secs: clock.unix_secs.saturating_add(MAX_STALENESS_SECS),
            boot_id: clock.boot_id,
            boottime_secs: clock.boottime_secs,
            age_consumed_secs: 0,
            max_staleness_secs: MAX_STALENESS_SECS,
            highest_wall_secs: clock.unix_secs,
        },
        salt: Salt([0x33; 16]),
        access_group: None,
        now_unix_secs: clock.unix_secs,
    }
}
