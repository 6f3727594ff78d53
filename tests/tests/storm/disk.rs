//! A disk that is full at each write.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use countersign_registry::{Entry, Fingerprint20, entries::Targets};
use countersign_snapshot::{Denial, Snapshot, Trust};
use e2e::{
    agent,
    client::{Credential, Login, ssh},
    in_bed,
    story::{Setup, Story},
};
use nix::mount::{MsFlags, mount};

use crate::access_base;

/// A file that takes up all of a file system but so many pages.
struct Filler(File, PathBuf);

impl Filler {
    fn new(folder: &str) -> Self {
        let path = Path::new(folder).join("filler");
        Self(File::create(&path).unwrap(), path)
    }

    /// Takes up nothing any more.
    fn free(self) {
        self.0.set_len(0).unwrap();
        fs::remove_file(&self.1).unwrap();
    }

    fn leave(&self, pages: u64) {
        self.0.set_len(0).unwrap();
        let mut at = 0;
        while self.0.write_all_at(&[1; 4096], at).is_ok() {
            at += 4096;
        }
        self.0.set_len((at / 4096).saturating_sub(pages) * 4096).unwrap();
    }
}

/// What a login is answered from: the base's name and bytes, the blocks that it speaks for, and until when it counts. The manifest
/// around it may have been written anew: at its start the agent says again what it said before, as old as it is.
pub(crate) fn answers() -> (PathBuf, Vec<u8>, [u64; 3]) {
    let snapshot = Snapshot::open(Path::new(agent::SNAPSHOT), Trust::ROOT).unwrap();
    let manifest = snapshot.manifest();
    let blocks = [manifest.facts.latest_block.number, manifest.facts.final_block.number];
    let base = access_base();
    let bytes = fs::read(&base).unwrap();
    (base, bytes, [blocks[0], blocks[1], manifest.freshness.valid_until_secs])
}

#[test]
fn a_full_disk_at_each_write_leaves_the_old_snapshot_as_it_was_and_status_says_why() {
    in_bed!(|| {
        for (folder, size) in [("/var/lib/countersign", "2m"), (agent::SNAPSHOT, "1m")] {
            fs::create_dir_all(folder).unwrap();
            mount(
                Some("small"),
                folder,
                Some("tmpfs"),
                MsFlags::empty(),
                Some(format!("mode=755,size={size}").as_str()),
            )
            .unwrap();
        }
        let story = Story::begin(Setup::default());
        let credential = Credential::key(&story.key);
        let accepted = Login::Accepted("alice\n".to_owned());
        // News that do not touch the logins: what did not change would need no room.
        let lock = Entry::Lock(Targets::Keys(vec![Fingerprint20([9; 20])]));
        story.realm.by(|realm| &realm.revoker, &[lock]);
        let manifest = || Snapshot::open(Path::new(agent::SNAPSHOT), Trust::ROOT).unwrap().manifest().clone();
        let filler = Filler::new(agent::SNAPSHOT);
        let mut before = answers();
        let mut failures = 0;
        let origins = Path::new(agent::SNAPSHOT).join("origins");
        assert!(origins.exists());
        for pages in 0.. {
            assert!(pages < 64, "it is never enough");
            filler.leave(pages);
            let output = agent::try_once();
            if output.status == Some(0) {
                break;
            }
            failures += 1;
            assert!(!origins.exists(), "what no login needs gives way");
            // Either the very same bytes, or what the agent publishes at its start from its own state: no younger, and what it has
            // heard of denials since.
            let now = answers();
            let republished =
                output.stderr.contains(&format!("event=republished generation={} ", manifest().generation));
            let no_younger = now.2[2] == before.2[2] && now.2[0] >= before.2[0] && now.2[1] >= before.2[1];
            assert!(
                now == before || republished && no_younger,
                "{pages} pages left: {:?} {:?}; {output:?}",
                before.2,
                now.2
            );
            before = now;
            let status = agent::status();
            let failure = status.pointer("/last-failure/reason").and_then(serde_json::Value::as_str);
            assert_eq!(failure, Some("publish-failed"), "{pages} pages left: {status}");
        }
        assert!(failures > 2, "{failures} failures");
        // A base so small would be written anew; there was room for what differs before there was room for that.
        assert!(manifest().delta.is_some(), "{:?}", manifest());
        let snapshot = Snapshot::open(Path::new(agent::SNAPSHOT), Trust::ROOT).unwrap();
        assert_eq!(snapshot.key_revoked(Fingerprint20([9; 20])).unwrap(), Some(Denial::Locked));
        assert_eq!(ssh(&story.sshd, "alice", &credential, "id -un"), accepted);
        filler.free();

        // Full where the agent keeps its state: it says so, and logins go on from what is published.
        let filler = Filler::new("/var/lib/countersign");
        filler.leave(0);
        let output = agent::try_once();
        assert!(format!("{output:?}").contains("state-io"), "{output:?}");
        assert_eq!(ssh(&story.sshd, "alice", &credential, "id -un"), accepted);
        filler.free();
        agent::once();
        assert_eq!(ssh(&story.sshd, "alice", &credential, "id -un"), accepted);
        assert_eq!(manifest().delta, None, "with room there is a base again");
        assert!(origins.exists());
    });
}
