//! The file that a login is answered from, damaged so that its checksums are right: what a faulty publisher, disk or memory could leave.

use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;

use countersign_snapshot::{Snapshot, publish, publish_delta};
use tempfile::TempDir;

#[path = "../../../snapshot/tests/suite/support.rs"]
#[allow(dead_code, unreachable_pub, reason = "the reader's tests use more of it")]
mod support;

use support::{access, accounts, id, info, trust};

const PAGE: usize = 4096;

/// A file, and where the manifest keeps its header's checksum.
struct Damaged {
    path: PathBuf,
    generation: u64,
    checksum_at: usize,
    whole: Vec<u8>,
}

struct Bed {
    directory: TempDir,
    manifest: Vec<u8>,
    files: [Damaged; 2],
}

impl Bed {
    fn new() -> Self {
        // In memory where that is possible: each try writes.
        let directory = tempfile::Builder::new().tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut tables = access();
        publish(directory.path(), &tables, &accounts(), &info()).unwrap();
        tables.grants.retain(|(grant, _)| *grant != id(11));
        publish_delta(directory.path(), &tables, &accounts(), &info()).unwrap();
        let folder = directory.path().join("access");
        let file = |name: &str, generation, checksum_at| {
            let path = folder.join(name);
            Damaged { whole: fs::read(&path).unwrap(), path, generation, checksum_at }
        };
        let files = [file("base.1", 1, 40), file("delta.2", 2, 64)];
        Self { manifest: fs::read(folder.join("manifest")).unwrap(), files, directory }
    }
}

thread_local!(static BED: OnceCell<Bed> = const { OnceCell::new() });

/// Edits of the manifest (0), the base (1) and the delta (2): which, where (two bytes), how many bytes (up to 15), the bytes. Every
/// checksum is then made right.
pub fn try_on(data: &[u8]) {
    BED.with(|bed| {
        let bed = bed.get_or_init(Bed::new);
        let mut manifest = bed.manifest.clone();
        let mut files = bed.files.each_ref().map(|file| file.whole.clone());
        let mut rest = data;
        while let Some(([which, high, low, length], after)) = rest.split_first_chunk::<4>() {
            let (bytes, after) = after.split_at(usize::from(length % 16).min(after.len()));
            rest = after;
            let at = usize::from(u16::from_be_bytes([*high, *low]));
            let target = match which % 3 {
                0 => &mut manifest,
                1 => &mut files[0],
                _ => &mut files[1],
            };
            let end = target.len();
            let at = at % end;
            for (old, new) in target[at..].iter_mut().zip(bytes) {
                *old = *new;
            }
        }
        for (file, bytes) in bed.files.iter().zip(&mut files) {
            for (number, page) in bytes.chunks_exact_mut(PAGE).enumerate() {
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(&file.generation.to_be_bytes());
                hasher.update(&u32::try_from(number).unwrap().to_be_bytes());
                hasher.update(&page[..PAGE - 4]);
                page[PAGE - 4..].copy_from_slice(&hasher.finalize().to_be_bytes());
            }
            manifest[file.checksum_at..][..4].copy_from_slice(&bytes[PAGE - 4..PAGE]);
            fs::write(&file.path, bytes).unwrap();
        }
        let checksum = crc32fast::hash(&manifest[..508]);
        manifest[508..].copy_from_slice(&checksum.to_be_bytes());
        fs::write(bed.directory.path().join("access/manifest"), manifest).unwrap();
        if let Ok(snapshot) = Snapshot::open(bed.directory.path(), trust()) {
            ask(&snapshot);
            let _ = snapshot.verify();
        }
    });
}

fn ask(snapshot: &Snapshot) {
    let tables = access();
    for (login, _) in &tables.logins {
        let _ = snapshot.login(login.as_bytes());
    }
    for (user, _) in &tables.users {
        let _ = (snapshot.user(*user), snapshot.key_grant(*user, b"deploy"));
    }
    for (grant, _) in &tables.grants {
        let _ =
            (snapshot.grant(*grant), snapshot.grant_allows_login(*grant, b"deploy"), snapshot.grant_elsewhere(*grant));
    }
    for (key, _) in &tables.keys {
        let _ = (snapshot.key(*key), snapshot.key_revoked(*key));
    }
    for (ca, serials) in &tables.serials {
        let _ = snapshot.ca_allows_login(*ca, b"deploy");
        for serial in serials {
            let _ = snapshot.serial_revoked(*ca, *serial);
        }
    }
    for (batch, _) in &tables.batches {
        let _ = snapshot.batch(*batch);
    }
    for (request, _) in &tables.requests {
        let _ = (snapshot.request(*request), snapshot.approval(*request, 0));
    }
    for ca in &tables.cas {
        use sha2::{Digest as _, Sha256};
        let digest: [u8; 32] = Sha256::digest(&ca.key_blob).into();
        let _ = snapshot.ca(&digest);
    }
    let _ = snapshot.has_label(&[7; 32]);
}
