//! The one error type of this library. Messages never carry payload bytes or key material.

use std::{io, path::PathBuf};

/// What went wrong while sealing, opening, keeping or fetching.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Randomness(getrandom::Error),

    /// A public key that no honest device has: DH with it gives zero, or its encoding is not the canonical one.
    #[error("x25519 public key {found}: expected a canonical point that is not of low order")]
    PublicKey {
        /// The refused key, hexadecimal.
        found: String,
    },

    /// A key file's content is not a key.
    #[error("x25519 key file {}: expected one line `countersign-x25519-secret-v1 ` and 64 lower-case hexadecimal digits", path.display())]
    KeyFileFormat {
        /// The file.
        path: PathBuf,
    },

    /// A key file that others can read or write, or that is not a plain file of this user or root.
    #[error("x25519 key file {}: {found}, expected a regular file of uid {uid} or root with mode 0600 or stricter", path.display())]
    KeyFileUnsafe {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: String,
        /// The effective user id of this process.
        uid: u32,
    },

    /// A payload name outside `[a-z0-9._-]{1,63}`.
    #[error("payload name {found:?}: expected 1 to 63 of a-z 0-9 . _ -")]
    Name {
        /// The refused name.
        found: String,
    },

    /// A payload kind that this version does not know.
    #[error("payload kind {found}: expected a number from 1 (ssh certificate) to 5 (opaque secret)")]
    Kind {
        /// The refused number.
        found: u8,
    },

    /// A payload that would not fit into one block.
    #[error("payload of {found} bytes: expected at most {maximum}")]
    PayloadTooLarge {
        /// Its length in bytes, container included.
        found: usize,
        /// The longest allowed.
        maximum: usize,
    },

    /// The decrypted container breaks the format, or a part is not what its kind asks for.
    #[error("payload container: {field}: expected {expected}")]
    Container {
        /// The field at fault.
        field: &'static str,
        /// What it should have been.
        expected: &'static str,
    },

    /// An envelope's index, page or record breaks the format, or contradicts another.
    #[error("envelope: {field}: expected {expected}")]
    Envelope {
        /// The field at fault.
        field: &'static str,
        /// What it should have been.
        expected: &'static str,
    },

    /// Recipients for whom no envelope can be made.
    #[error("recipients: {problem}")]
    Recipients {
        /// What is wrong with them.
        problem: String,
    },

    /// A sealed block or sealed CID whose outer form is wrong.
    #[error("{object} of {found} bytes: expected {expected}")]
    SealedForm {
        /// `sealed block` or `sealed cid`.
        object: &'static str,
        /// Its length in bytes.
        found: usize,
        /// The form asked for.
        expected: &'static str,
    },

    /// Sealing failed: the recipient's key admits no key agreement.
    #[error("cannot seal to {recipient}: {source}")]
    Seal {
        /// The recipient's public key, hexadecimal.
        recipient: String,
        /// What HPKE said.
        source: HpkeFailure,
    },

    /// Opening failed: another recipient, sender, delivery, realm or kind, or altered bytes. Nothing tells these apart.
    #[error("cannot open the {object}: not sealed by this sender, to this recipient, for this delivery, or altered")]
    Open {
        /// `sealed block` or `sealed cid`.
        object: &'static str,
    },

    /// The payload is not the one that the ledger's digest names.
    #[error("payload digest {found}: expected {expected}, as the delivery entry says")]
    Digest {
        /// The payload's, hexadecimal.
        found: String,
        /// The entry's, hexadecimal.
        expected: String,
    },

    /// The payload carries another name or kind than its delivery entry.
    #[error("payload {field} {found:?}: expected {expected:?}, as the delivery entry says")]
    Mismatch {
        /// `name` or `kind`.
        field: &'static str,
        /// What the payload says.
        found: String,
        /// What the entry says.
        expected: String,
    },

    /// Sealed leaves of a batch whose form is wrong, or that cannot be sealed as asked.
    #[error("sealed leaves: {field}: expected {expected}")]
    Leaves {
        /// The field at fault.
        field: &'static str,
        /// What it should have been.
        expected: &'static str,
    },

    /// A CID of a sort that is never written here.
    #[error("cid {found}: expected version 1, codec raw or dag-pb, sha2-256")]
    Cid {
        /// The refused CID, as it was given (bytes in hexadecimal).
        found: String,
    },

    /// A block longer than one raw block may be.
    #[error("block of {found} bytes: expected at most {maximum}")]
    BlockTooLarge {
        /// Its length in bytes.
        found: u64,
        /// The longest allowed.
        maximum: usize,
    },

    /// The store does not hold the block.
    #[error("block {cid}: not in {store}")]
    Missing {
        /// The block asked for.
        cid: String,
        /// The store.
        store: String,
    },

    /// The bytes are not those that the CID names.
    #[error("block {cid} in {store}: its bytes hash to {found}")]
    Corrupt {
        /// The block asked for.
        cid: String,
        /// The store.
        store: String,
        /// The CID of the bytes found.
        found: String,
    },

    /// Something other than a plain file stands where a block should.
    #[error("block {cid} in {store}: expected a regular file")]
    NotAFile {
        /// The block asked for.
        cid: String,
        /// The store.
        store: String,
    },

    /// A file of several blocks that is longer than any that is written here.
    #[error("file of {found} bytes: expected at most {maximum}")]
    FileTooLarge {
        /// Its length in bytes.
        found: u64,
        /// The longest allowed.
        maximum: usize,
    },

    /// A node that is not the one that is written here for any file.
    #[error("node {cid}: {problem}")]
    Node {
        /// The node.
        cid: String,
        /// What was expected.
        problem: &'static str,
    },

    /// A block store whose setting makes no sense.
    #[error("block store {store}: {problem}")]
    Setting {
        /// As it was given.
        store: String,
        /// What was expected.
        problem: String,
    },

    /// A file with the credentials of a node that others can read, or that holds none.
    #[error("authorization file {}: {problem}", path.display())]
    Authorization {
        /// The file.
        path: PathBuf,
        /// What was expected.
        problem: String,
    },

    /// No connection, or one that broke.
    #[error("{store}: {action}: {detail}")]
    Transport {
        /// The store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// The transport's reason.
        detail: String,
    },

    /// A store that was silent for too long, or took too long in all.
    #[error("{store}: {action}: {what} {seconds} s")]
    Deadline {
        /// The store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// `no byte for`, or `not done after`.
        what: &'static str,
        /// The deadline.
        seconds: u64,
    },

    /// An HTTP status that means no.
    #[error("{store}: {action}: status {status}{}{text}", if text.is_empty() { "" } else { ": " })]
    Status {
        /// The store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// The HTTP status.
        status: u16,
        /// What the node said about it, or what the status means; may be empty.
        text: String,
    },

    /// An answer that is not what was asked for.
    #[error("{store}: {action}: {problem}")]
    Answer {
        /// The store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// What was found, and what was expected.
        problem: String,
    },

    /// A store that only gives.
    #[error("{store}: gives blocks only, and takes none")]
    ReadOnly {
        /// The store.
        store: String,
    },

    /// A store that failed a moment ago, and is left alone for a while.
    #[error("{store}: failed a moment ago, and is asked again later")]
    Resting {
        /// The store.
        store: String,
    },

    /// None, or not all, of the stores did what was asked.
    #[error("{what}: {}", failures.join("; "))]
    Stores {
        /// What was asked.
        what: String,
        /// One message for each store that failed.
        failures: Vec<String>,
    },

    /// Reading or writing failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, ….
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Why HPKE refused, as a source of [`DeliveryError::Seal`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HpkeFailure(pub(crate) hpke::HpkeError);

impl DeliveryError {
    /// Whether it says something about the place that was asked rather than about the block: it is better asked last for a while.
    pub(crate) fn is_of_the_place(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Deadline { .. } | Self::Answer { .. } | Self::Corrupt { .. } => true,
            Self::Status { status, .. } => matches!(status, 401 | 403 | 406 | 429 | 502 | 503),
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// Lower-case hexadecimal, two digits per byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text from outside, on one line and not too long.
pub(crate) fn printable(text: &str) -> String {
    let mut line = String::new();
    for character in text.chars().take(300) {
        if matches!(character, '"' | '\'') { line.push(character) } else { line.extend(character.escape_debug()) }
    }
    line
}
