//! The decision about a login: a certificate (or a plain key) that somebody offers, against the snapshot of a realm that wants every
//! certificate logged. The login path itself does not verify the CA's signature, which is sshd's; so what is let in here must be
//! the very bytes that were logged.

use std::cell::OnceCell;

use countersign_certificate::Certificate;
use countersign_snapshot::Snapshot;
use countersign_sshd::{Mode, Query, Verdict, decide};
use tempfile::TempDir;

use crate::world::{World, directory, own_trust};

struct Bed {
    snapshot: Snapshot,
    _directory: TempDir,
    world: World,
    /// What the CA is to sign, without the proof.
    logged: Vec<u8>,
    line: String,
    plain: Vec<u8>,
    plain_line: String,
}

fn line(verdict: Verdict) -> String {
    match verdict {
        Verdict::Accept { line, .. } => line,
        Verdict::Refuse { reason, detail, .. } => panic!("the good one is refused: {reason} {detail}"),
    }
}

impl Bed {
    fn new() -> Self {
        let mut world = World::new();
        let plain = World::plain().plain_key;
        world.facts.require_logged = true;
        let directory = directory();
        world.publish(directory.path());
        let snapshot = Snapshot::open(directory.path(), own_trust()).unwrap();
        let certificate = world.blob();
        let verdict = |blob: &[u8]| {
            decide(&snapshot, &Query::offline(&snapshot, Mode::Keys, "deploy", blob).unwrap(), &world.clock)
        };
        let (first, plain_verdict) = (line(verdict(&certificate)), verdict(&plain));
        let logged = Certificate::parse(&certificate).unwrap().pre_certificate();
        let plain_line = match plain_verdict {
            Verdict::Accept { line, .. } => line,
            Verdict::Refuse { .. } => String::new(),
        };
        Self { snapshot, _directory: directory, logged, line: first, plain, plain_line, world }
    }
}

thread_local!(static BED: OnceCell<Bed> = const { OnceCell::new() });

/// The login, a zero byte, what is offered. Accepted is only what is in the log or on the ledger, and only with its one line.
pub fn try_on(data: &[u8]) {
    let Some(end) = data.iter().position(|byte| *byte == 0) else { return };
    let (Ok(login), blob) = (std::str::from_utf8(&data[..end]), &data[end + 1..]) else { return };
    BED.with(|bed| {
        let bed = bed.get_or_init(Bed::new);
        for mode in [Mode::Keys, Mode::Principals] {
            let Ok(query) = Query::offline(&bed.snapshot, mode, login, blob) else { continue };
            let Verdict::Accept { line, .. } = decide(&bed.snapshot, &query, &bed.world.clock) else { continue };
            if blob == bed.plain {
                assert_eq!(line.replace(login, "deploy"), bed.plain_line);
                continue;
            }
            let offered = Certificate::parse(blob).expect("only a certificate or the registered key gets in");
            assert_eq!(offered.pre_certificate(), bed.logged, "what is not in the log got in");
            assert_eq!(login, "deploy", "the certificate is for one login");
            if mode == Mode::Keys {
                assert_eq!(line, bed.line);
            }
        }
    });
}

/// The good certificate and the good key, each with its login.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let world = World::new();
    [world.blob(), World::plain().plain_key].iter().map(|blob| [b"deploy\0", blob.as_slice()].concat()).collect()
}
