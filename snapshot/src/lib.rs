//! The file a login is answered from: its format, its reader and its writer (`docs/spec/snapshot.md`).
//!
//! Two audiences stand beside each other in one directory: `access` (for the login helper) and `accounts` (world readable,
//! for name services). Each is a small manifest that names a `base` file and perhaps a `delta`; both are tables of
//! fixed-size records, sorted by salted digest, in checksummed 4 KiB pages. [`Snapshot`] and [`Accounts`] read them, [`publish`]
//! (which chooses between base and delta), [`publish_since`] (which looks at what has changed only) and [`refresh`] write them.
//!
//! The reader refuses files that somebody else could have written, files that are not exactly as long as announced, pages
//! whose checksum is wrong, and answers "not there" only between two neighbours read from valid pages. It takes no lock,
//! and allocates nothing that grows with the file. Whether a snapshot is fresh is a separate question: [`Snapshot::fresh`].

mod changes;
mod clock;
mod codec;
mod error;
mod file;
mod in_place;
mod layout;
mod manifest;
mod open;
mod origins;
mod publish;
mod read;
mod records;
mod since;
mod synthetic;
mod tables;
mod write;

pub use clock::{BootId, Clock, Freshness, Stale};
pub use error::{Distrust, OpenError, PublishError, ReadError};
pub use in_place::{InPlace, Stamp};
pub use manifest::{BlockRef, Facts, FileRef, HostState, Manifest};
pub use open::Trust;
pub use origins::{ORIGINS_NAME, Origin, OriginOf, OriginsSize, read_origins, remove_origins, write_origins};
pub use publish::{Before, PublishInfo, Published, publish, publish_base, publish_delta, publish_since, refresh};
pub use read::{Accounts, Snapshot};
pub use records::{
    Account, Approval, Batch, BatchState, Ca, CaState, Denial, Gid, Grant, Group, Hours, Key, KeyState, Login, Permits,
    Request, Salt, Subject, Uid, User, UserState, Verdict, Via,
};
pub use synthetic::{Synthetic, synthetic};
pub use tables::{AccessTables, AccountsTables, Generation, KeyGrant};
