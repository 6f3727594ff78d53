//! How large the files are that readers open now.
//!
//! What readers would refuse is not looked at.

use std::path::Path;

use countersign_snapshot::{FileRef, InPlace, Trust};
use nix::unistd::geteuid;

use crate::status::{FileBytes, SnapshotFiles};

/// None where a reader would not open them.
pub(crate) fn sizes(directory: &Path) -> Option<SnapshotFiles> {
    let in_place = InPlace::look(directory, Trust::owner(geteuid().as_raw()))?;
    let bytes = |(base, delta): (FileRef, Option<FileRef>)| FileBytes {
        base: base.bytes,
        delta: delta.map(|delta| delta.bytes),
    };
    Some(SnapshotFiles { access: bytes(in_place.access), accounts: bytes(in_place.accounts) })
}
