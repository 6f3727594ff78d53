//! The one error type of this crate. Each variant says which object was looked at and what was expected of it. Endpoints are
//! named by scheme, host and port only: the rest of an URL often carries an access token, and errors end up in logs.

use std::path::PathBuf;

use alloy_primitives::{Address, B256};

/// What can go wrong between this machine and the ledger.
///
/// Three sorts are told apart: a *misbehaving or unreachable node* (try another, try later), a *contradiction* between what
/// nodes say and what was proved (never accepted), and *misuse* (a configuration or a call that cannot work).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    // --- one call to one node
    /// The connection failed, or the answer was not HTTP.
    #[error("{endpoint}: {method}: {detail}")]
    Transport {
        /// Scheme, host and port.
        endpoint: String,
        /// JSON-RPC method.
        method: &'static str,
        /// The transport's words, without the URL.
        detail: String,
    },
    /// The HTTP answer had another status than 200.
    #[error("{endpoint}: {method}: expected HTTP status 200, got {status}")]
    Status {
        /// Scheme, host and port.
        endpoint: String,
        /// JSON-RPC method.
        method: &'static str,
        /// What came.
        status: u16,
    },
    /// Nothing (or not everything) came within the deadline of one call.
    #[error("{endpoint}: {method}: no answer within {seconds} s")]
    Deadline {
        /// Scheme, host and port.
        endpoint: String,
        /// JSON-RPC method.
        method: &'static str,
        /// The deadline.
        seconds: u64,
    },
    /// The answer is larger than this crate takes into memory.
    #[error("{endpoint}: {method}: the answer exceeds {limit} bytes")]
    TooLarge {
        /// Scheme, host and port.
        endpoint: String,
        /// JSON-RPC method.
        method: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// The node answered with a JSON-RPC error.
    #[error("{endpoint}: {method}: error {code}: {message}")]
    Rpc {
        /// Scheme, host and port.
        endpoint: String,
        /// JSON-RPC method.
        method: &'static str,
        /// The node's code.
        code: i64,
        /// The node's text, cut and with control characters escaped.
        message: String,
        /// Revert data, where the node sent some.
        data: Option<alloy_primitives::Bytes>,
    },
    /// The answer cannot be what was asked for.
    #[error("{endpoint}: {method}: {detail}")]
    Malformed {
        /// Scheme, host and port.
        endpoint: String,
        /// JSON-RPC method.
        method: &'static str,
        /// What was expected.
        detail: String,
    },
    /// No endpoint gave an answer that could be used; the last refusal is the source.
    #[error("none of {count} endpoints gave a usable answer to {what}; last: {last}")]
    NoEndpoint {
        /// How many were asked.
        count: usize,
        /// What was asked for.
        what: &'static str,
        /// The last error.
        #[source]
        last: Box<ChainError>,
    },

    // --- headers
    /// A node serves another chain.
    #[error("{endpoint}: serves chain id {got}, the realm is on {expected}")]
    WrongChain {
        /// Scheme, host and port.
        endpoint: String,
        /// What the node says.
        got: u64,
        /// What is pinned.
        expected: u64,
    },
    /// A node serves a chain with the right id and another beginning.
    #[error("{endpoint}: block 0 is {got}, the realm pins genesis hash {expected}")]
    WrongGenesis {
        /// Scheme, host and port.
        endpoint: String,
        /// What the node's block 0 hashes to.
        got: B256,
        /// What is pinned.
        expected: B256,
    },
    /// A header does not re-hash to the hash it came with, or has a field this version does not know.
    #[error("{endpoint}: header of block {block}: {detail}")]
    Header {
        /// Scheme, host and port.
        endpoint: String,
        /// What was asked for.
        block: String,
        /// What the verifier said.
        detail: String,
    },
    /// Too few endpoints agree on a block.
    #[error("block {what}: {agreed} of {asked} endpoints agree, {needed} are needed{}", hint(.reasons))]
    NoQuorum {
        /// `latest`, `finalized` or a number.
        what: String,
        /// The largest number that agreed on one hash.
        agreed: usize,
        /// How many were asked.
        asked: usize,
        /// k.
        needed: usize,
        /// Why endpoints did not count, one text each.
        reasons: Vec<String>,
    },
    /// The chain went back behind what was already final, or its time ran backwards.
    #[error("{what}: expected {expected}, got {got}")]
    WentBack {
        /// Which value.
        what: &'static str,
        /// At least this.
        expected: String,
        /// What came.
        got: String,
    },

    // --- proofs and logs
    /// A proof does not lead from the state root to what it claims, or the contract's code is not the pinned one.
    #[error("{endpoint}: proof at block {block}: {detail}")]
    Proof {
        /// Scheme, host and port.
        endpoint: String,
        /// Block number.
        block: u64,
        /// What the verifier said.
        detail: String,
    },
    /// The logs of an endpoint do not fold into the proved head: something was omitted, added or altered.
    #[error("{endpoint}: logs of shard {shard:#x} do not lead to its proved head (omitted or altered entries)")]
    HeadMismatch {
        /// Scheme, host and port.
        endpoint: String,
        /// Shard number.
        shard: u64,
    },
    /// A node sends more than may wait to be verified.
    #[error("shard {shard:#x}: more than {limit} bytes of entries between two heads, those of other shards included")]
    LogTooLarge {
        /// The shard at which it was too much.
        shard: u64,
        /// The limit in bytes, less what was verified before.
        limit: u64,
    },
    /// Nodes do not prove old state any more, and no proved tip has become final yet.
    #[error("no proved block is final yet (final is {final_block}, first proved tip is {first_tip})")]
    NotYetFinal {
        /// Number of the chain's final block.
        final_block: u64,
        /// The oldest tip this process has proved.
        first_tip: u64,
    },

    /// An archive of a realm's log is damaged, or is not the log that was asked for.
    #[error("{}: {detail}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        detail: String,
    },
    /// The log of the realm that was left is not to be had up to the heads that its successor names.
    #[error(
        "the log of realm {realm} up to the named heads is not to be had: {}nodes: {nodes}",
        archived.as_ref().map(|error| format!("archive: {error}; ")).unwrap_or_default()
    )]
    Predecessor {
        /// The realm that was left.
        realm: B256,
        /// Why its archive would not do, where there is one.
        archived: Option<Box<ChainError>>,
        /// Why its nodes would not do.
        #[source]
        nodes: Box<ChainError>,
    },

    // --- sending
    /// The contract would refuse, or did refuse, the transaction.
    #[error("the registry refuses: {reason}")]
    Reverted {
        /// The contract's custom error in words.
        reason: String,
        /// The transaction, where it was mined all the same.
        transaction: Option<B256>,
    },
    /// The account cannot pay.
    #[error("account {account} holds {balance} wei, the transaction may cost {needed} wei")]
    Funds {
        /// The sender.
        account: Address,
        /// What it has.
        balance: alloy_primitives::U256,
        /// What is needed.
        needed: alloy_primitives::U256,
    },
    /// The transaction was sent and is not mined yet; its hash lets a later call wait on.
    #[error("transaction {transaction} is not mined after {seconds} s")]
    NotMined {
        /// The latest hash under its nonce.
        transaction: B256,
        /// How long this call waited.
        seconds: u64,
    },
    /// Another transaction took the nonce.
    #[error("nonce {nonce} of {account} was used by another transaction")]
    NonceTaken {
        /// The sender.
        account: Address,
        /// The nonce.
        nonce: u64,
    },
    /// The contract that was deployed is not the one this version knows.
    #[error("contract at {address}: code hash is {got}, expected {expected}")]
    CodeHash {
        /// Where.
        address: Address,
        /// What is there.
        got: B256,
        /// What should be.
        expected: B256,
    },
    /// Transactions of the account that were sent earlier are in no block yet.
    #[error("{count} earlier transactions of {account} are not mined after {seconds} s")]
    Unmined {
        /// The sender.
        account: Address,
        /// How many.
        count: u64,
        /// How long this call waited.
        seconds: u64,
    },
    /// The registry contract did not come to be.
    #[error("deploying the registry at {contract}: {detail}")]
    Deployment {
        /// Where it should be.
        contract: Address,
        /// What happened.
        detail: String,
    },
    /// The chain is one that this design cannot use.
    #[error("chain id {chain_id} is refused: {detail}")]
    UnfitChain {
        /// Its id.
        chain_id: u64,
        /// Why.
        detail: String,
    },
    /// Signing failed.
    #[error("signing with {account}: {detail}")]
    Signing {
        /// The key's address.
        account: Address,
        /// Why.
        detail: String,
    },

    // --- files and settings
    /// The realm file cannot be used.
    #[error("{}{}: {detail}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    RealmFile {
        /// The file.
        path: PathBuf,
        /// Line, from 1, where known.
        line: Option<usize>,
        /// The key that is wrong; empty where it is the file's form.
        what: &'static str,
        /// What is wrong, and what was expected.
        detail: String,
    },
    /// A setting or argument that cannot work.
    #[error("{what}: {detail}")]
    Setting {
        /// The setting's name.
        what: &'static str,
        /// What was expected.
        detail: String,
    },
    /// A key file cannot be used.
    #[error("key file {}: {detail}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        detail: String,
    },
    /// A file, or a directory on the way to it, that somebody else could have written or could read.
    #[error(transparent)]
    Unsafe(#[from] crate::files::FileError),
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

fn hint(reasons: &[String]) -> String {
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) }
}

impl ChainError {
    /// What the reader can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unsafe(error) => error.hint(),
            Self::RealmFile { what, .. } => Some(crate::realm_file::hint(what).to_owned()),
            Self::Unmined { .. } => Some("run the same command again later: what was sent is found".to_owned()),
            Self::Predecessor { .. } => Some(
                "name the realm's archive in the predecessor's realm file, or a node that still has its log (docs/operations.md)".to_owned(),
            ),
            Self::KeyFile { path, detail } if detail.contains("expected mode") => {
                Some(format!("chmod 600 {}", path.display()))
            }
            Self::KeyFile { path, detail } if detail.contains("expected owner") => {
                Some(format!("use a key of your own, or chown {}", path.display()))
            }
            _ => None,
        }
    }

    /// Whether a smaller request to the same node may succeed: it answered, but not with what was asked for.
    pub(crate) fn may_be_a_size_limit(&self) -> bool {
        matches!(
            self,
            Self::Rpc { .. }
                | Self::TooLarge { .. }
                | Self::Deadline { .. }
                | Self::Status { .. }
                | Self::Malformed { .. }
        )
    }
}

/// Text from a node, made fit for one log line: what is not printable is escaped; at most 300 characters.
pub(crate) fn printable(text: &str) -> String {
    let mut line = String::new();
    for character in text.chars().take(300) {
        if matches!(character, '"' | '\'') { line.push(character) } else { line.extend(character.escape_debug()) }
    }
    line
}
