//! A realm's log that is computed instead of written, and a node that serves it: real headers, real proofs, real logs, of any length
//! and at once. What a reader does with it is what it does with a chain; only the chain's own work is missing, so that a process
//! that reads can be measured by itself.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256, keccak256};
use alloy_sol_types::SolValue as _;
use alloy_trie::{EMPTY_ROOT_HASH, HashBuilder, Nibbles, TrieAccount, proof::ProofRetainer};
use countersign_chain::contract::ENTRY_TOPIC;
use countersign_registry::{
    LogEntry, RealmPin,
    entries::{Entry, Kind, Roles, payload},
    head::{Fold, Meta, Tip},
    header::{self, HeaderError},
    shard, sign,
};
use serde_json::{Value, json};

/// The chain's id: a development chain's, so that one node is enough.
pub const CHAIN: u64 = 31_337;
/// Holds ADMIN and ISSUER.
pub const ADMIN: Address = Address::repeat_byte(3);
/// A ledger key of the first user.
pub const MEMBER: Address = Address::repeat_byte(4);
/// What an answer holds at most, as with large providers.
pub const LOGS_PER_ANSWER: usize = 10_000;
/// Blocks above the last entry, two of which are not final.
const QUIET_BLOCKS: u64 = 10;

const CONTRACT: Address = Address::repeat_byte(9);
const CODE_HASH: B256 = B256::repeat_byte(8);
const SALT: B256 = B256::repeat_byte(7);
const ROOT: Address = Address::repeat_byte(6);
const NOTHING: B256 = B256::ZERO;

/// Equal work of one writer in one shard.
pub struct Run {
    /// The shard.
    pub shard: u64,
    /// Who writes.
    pub actor: Address,
    /// Its first ordinal.
    pub from: u64,
    /// How many entries.
    pub count: u64,
    /// How many of them in each block.
    pub per_block: u64,
    /// The entry of an ordinal.
    pub entry: fn(u64) -> Entry,
}

/// A run with its place.
struct Placed {
    run: Run,
    first_block: u64,
    /// Low 32 bits of the block of the shard's entry before.
    previous: u32,
}

/// A realm's log.
pub struct Log {
    /// What pins it.
    pub pin: RealmPin,
    runs: Vec<Placed>,
    /// Storage of the contract.
    slots: BTreeMap<B256, U256>,
    tip: u64,
    start_secs: u64,
}

/// A directory of users, each with a key and a grant: what `replay` measures too.
#[must_use]
pub fn directory(ordinal: u64) -> Entry {
    let person = ordinal / 3;
    let r = |salt: u64| FixedBytes(random(salt, person));
    let user = sign::record_id(Kind::USER_ADD, ADMIN, r(1).0).0;
    match ordinal % 3 {
        0 => Entry::UserAdd(payload::UserAdd { r: r(1), login: format!("u{person}"), displayName: String::new() }),
        1 => Entry::KeyAdd(payload::KeyAdd {
            r: r(2),
            user: FixedBytes(user),
            publicKey: public_key(person),
            purposes: 1,
            notAfter: 0,
            comment: String::new(),
        }),
        _ => Entry::GrantAdd(payload::GrantAdd {
            r: r(3),
            subject: FixedBytes(user),
            hosts: Vec::new(),
            labels: vec!["line-2".to_owned()],
            allHosts: false,
            logins: vec!["deploy".to_owned()],
            via: 1,
            maxTtl: 300,
            approvals: 0,
            forcedCommand: String::new(),
            sourceAddresses: Vec::new(),
            intervals: Vec::new(),
            notAfter: 0,
            permits: 1,
        }),
    }
}

/// A group whose name no host has use for: an entry that means something and does little.
#[must_use]
pub fn group(ordinal: u64) -> Entry {
    Entry::GroupAdd(payload::GroupAdd { r: FixedBytes(random(9, ordinal)), name: format!("g{ordinal}") })
}

/// An access request of the first user, as long as an entry may be.
#[must_use]
pub fn longest_request(ordinal: u64) -> Entry {
    Entry::Request(payload::Request {
        r: FixedBytes(random(5, ordinal)),
        user: FixedBytes(sign::record_id(Kind::USER_ADD, ADMIN, random(1, 0)).0),
        host: FixedBytes([1; 16]),
        login: "deploy".to_owned(),
        ttl: 300,
        publicKey: public_key(ordinal),
        reason: "x".repeat(3500),
    })
}

/// A public payload of 24 KiB.
#[must_use]
pub fn longest_public_data(ordinal: u64) -> Entry {
    Entry::PublicData(payload::PublicData {
        r: FixedBytes(random(6, ordinal)),
        name: "motd".to_owned(),
        data: vec![7; 24_000].into(),
    })
}

fn random(salt: u64, ordinal: u64) -> [u8; 16] {
    let mut bytes = [0_u8; 16];
    let (head, tail) = bytes.split_at_mut(8);
    head.copy_from_slice(&salt.to_be_bytes());
    tail.copy_from_slice(&ordinal.to_be_bytes());
    bytes
}

fn public_key(ordinal: u64) -> Bytes {
    let mut blob = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20".to_vec();
    blob.extend([0; 24]);
    blob.extend(ordinal.to_be_bytes());
    blob.into()
}

impl Log {
    /// A realm with its admin, the first user's ledger key, and these runs one after the other; its newest block is of `now_secs`.
    ///
    /// # Errors
    /// Where the runs do not fold.
    pub fn new(runs: Vec<Run>, now_secs: u64) -> Result<Self, Box<dyn Error>> {
        let realm = sign::realm_id(CHAIN, CONTRACT, 1, &[ROOT], SALT);
        let admin = |_| {
            let roles = Roles::ADMIN | Roles::ISSUER;
            Entry::RoleSet(payload::RoleSet { actor: ADMIN, roles, x25519: B256::ZERO })
        };
        let member = |_| {
            let subject = sign::record_id(Kind::USER_ADD, ADMIN, random(1, 0)).0.into();
            Entry::MemberSet(payload::MemberSet { actor: MEMBER, member: true, subject, x25519: B256::repeat_byte(5) })
        };
        let run = |shard, actor, count, entry| Run { shard, actor, from: 0, count, per_block: 1, entry };
        let mut all = vec![
            run(shard::GOVERNANCE, Address::ZERO, 1, admin),
            run(shard::DIRECTORY, ADMIN, 3, directory),
            run(shard::DIRECTORY, ADMIN, 1, member),
        ];
        all.extend(runs);
        let mut log = Self {
            pin: RealmPin {
                chain_id: CHAIN,
                contract: CONTRACT,
                code_hash: CODE_HASH,
                realm,
                threshold: 1,
                roots: vec![ROOT],
                salt: SALT,
                deployed_block: 1,
                genesis_hash: B256::ZERO,
            },
            runs: Vec::new(),
            slots: BTreeMap::new(),
            tip: 0,
            start_secs: 0,
        };
        let mut next = 1_u64;
        let mut last: BTreeMap<u64, u32> = BTreeMap::new();
        for run in all {
            let blocks = run.count.div_ceil(run.per_block);
            let first_block = next;
            next = next.saturating_add(blocks);
            let previous = last.insert(run.shard, u32::try_from(next.saturating_sub(1))?).unwrap_or(0);
            log.runs.push(Placed { run, first_block, previous });
        }
        log.tip = next.saturating_add(QUIET_BLOCKS);
        log.start_secs = now_secs.saturating_sub(log.tip);
        let (genesis, _) = log.header(0)?;
        log.pin.genesis_hash = genesis;
        let mut folds: BTreeMap<u64, Fold> = BTreeMap::new();
        for placed in &log.runs {
            let shard = placed.run.shard;
            let new = || Fold::new(CHAIN, CONTRACT, realm, shard, Tip::default(), log.tip);
            let fold = folds.entry(shard).or_insert_with(new);
            for ordinal in 0..placed.run.count {
                fold.push(log.entry(placed, ordinal), placed.block(ordinal))?;
            }
        }
        log.slots = folds.into_iter().map(|(shard, fold)| (sign::head_slot(realm, shard), fold.tip().slot)).collect();
        Ok(log)
    }

    /// How many entries there are.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.runs.iter().map(|placed| placed.run.count).sum()
    }

    fn entry(&self, placed: &Placed, index: u64) -> LogEntry {
        let entry = (placed.run.entry)(placed.run.from.saturating_add(index));
        let before = index.checked_sub(1).and_then(|before| u32::try_from(placed.block(before)).ok());
        let prev_block = before.unwrap_or(placed.previous);
        let time = self.start_secs.saturating_add(placed.block(index));
        let meta = Meta { kind: entry.kind(), prev_block, time }.pack();
        LogEntry { shard: placed.run.shard, actor: placed.run.actor, meta, data: entry.encode() }
    }

    /// The result of a call, as a node has it.
    fn answer(&self, method: &str, params: &Value) -> Result<Value, Box<dyn Error>> {
        match method {
            "eth_chainId" => Ok(json!(format!("{CHAIN:#x}"))),
            "eth_getBlockByNumber" => {
                let number = match params.get(0).and_then(Value::as_str).ok_or("a block")? {
                    "latest" => self.tip,
                    "finalized" => self.tip.saturating_sub(2),
                    number => quantity(number)?,
                };
                Ok(self.header(number)?.1)
            }
            "eth_getProof" => self.proof(params.get(1).ok_or("slots")?),
            "eth_getLogs" => self.logs(params.get(0).ok_or("a filter")?),
            _ => Err(format!("method {method} is not served").into()),
        }
    }

    fn header(&self, number: u64) -> Result<(B256, Value), Box<dyn Error>> {
        let zeros = |bytes: usize| format!("0x{}", "00".repeat(bytes));
        let mut block = json!({
            "number": format!("{number:#x}"),
            "timestamp": format!("{:#x}", self.start_secs.saturating_add(number)),
            "parentHash": zeros(32), "sha3Uncles": zeros(32), "miner": zeros(20), "stateRoot": self.state_root(number),
            "transactionsRoot": zeros(32), "receiptsRoot": zeros(32), "logsBloom": zeros(256), "difficulty": "0x0",
            "gasLimit": "0x1c9c380", "gasUsed": "0x0", "extraData": "0x", "mixHash": zeros(32), "nonce": zeros(8),
            "baseFeePerGas": "0x7", "hash": zeros(32),
        });
        let Err(HeaderError::Hash { computed, .. }) = header::from_json(&block) else {
            return Err("a header with another hash was expected".into());
        };
        if let Some(fields) = block.as_object_mut() {
            fields.insert("hash".to_owned(), json!(computed));
        }
        Ok((computed, block))
    }

    /// All of the log is in the state of every block but the first one.
    fn state_root(&self, number: u64) -> B256 {
        if number == 0 { EMPTY_ROOT_HASH } else { self.account(&[]).1 }
    }

    /// The contract's account, the state's root, and the account's proof followed by one for each slot.
    fn account(&self, slots: &[B256]) -> (TrieAccount, B256, Vec<Bytes>, Vec<Vec<Bytes>>) {
        let leaves = self.slots.iter().map(|(slot, content)| (keccak256(slot), alloy_rlp::encode(content))).collect();
        let wanted: Vec<B256> = slots.iter().map(keccak256).collect();
        let (storage_root, proofs) = trie(&leaves, &wanted);
        let account = TrieAccount { nonce: 1, balance: U256::ZERO, storage_root, code_hash: CODE_HASH };
        let path = keccak256(CONTRACT);
        let (root, mut proof) = trie(&BTreeMap::from([(path, alloy_rlp::encode(account))]), &[path]);
        (account, root, proof.pop().unwrap_or_default(), proofs)
    }

    fn proof(&self, slots: &Value) -> Result<Value, Box<dyn Error>> {
        let slots: Vec<B256> = serde_json::from_value(slots.clone())?;
        let (account, _, account_proof, proofs) = self.account(&slots);
        let storage: Vec<Value> = slots
            .iter()
            .zip(proofs)
            .map(|(slot, proof)| {
                let value = self.slots.get(slot).copied().unwrap_or_default();
                json!({ "key": slot, "value": value, "proof": proof })
            })
            .collect();
        Ok(json!({
            "address": CONTRACT, "balance": "0x0", "nonce": "0x1", "codeHash": CODE_HASH,
            "storageHash": account.storage_root, "accountProof": account_proof, "storageProof": storage,
        }))
    }

    fn logs(&self, filter: &Value) -> Result<Value, Box<dyn Error>> {
        let number = |name: &str| quantity(filter.get(name).and_then(Value::as_str).ok_or("a range")?);
        let (from, until) = (number("fromBlock")?, number("toBlock")?);
        let wanted: Vec<B256> = serde_json::from_value(filter.pointer("/topics/2").ok_or("shards")?.clone())?;
        let mut logs: BTreeMap<(u64, u64), Value> = BTreeMap::new();
        for placed in &self.runs {
            let shard = B256::from(U256::from(placed.run.shard));
            if !wanted.contains(&shard) || placed.first_block > until {
                continue;
            }
            let first = from.saturating_sub(placed.first_block).saturating_mul(placed.run.per_block);
            for index in first..placed.run.count {
                let block = placed.block(index);
                if block > until {
                    break;
                }
                if logs.len() >= LOGS_PER_ANSWER {
                    return Err(format!("query returned more than {LOGS_PER_ANSWER} results").into());
                }
                let entry = self.entry(placed, index);
                let place = index.checked_rem(placed.run.per_block).unwrap_or(0);
                let log = json!({
                    "address": CONTRACT,
                    "topics": [ENTRY_TOPIC, self.pin.realm, shard, entry.actor.into_word()],
                    "data": Bytes::from((entry.meta, entry.data).abi_encode_params()),
                    "blockNumber": format!("{block:#x}"), "logIndex": format!("{place:#x}"), "removed": false,
                    "blockHash": NOTHING, "transactionHash": NOTHING, "transactionIndex": "0x0",
                });
                logs.insert((block, place), log);
            }
        }
        Ok(logs.into_values().collect())
    }
}

impl Placed {
    fn block(&self, index: u64) -> u64 {
        self.first_block.saturating_add(index.checked_div(self.run.per_block).unwrap_or(0))
    }
}

fn quantity(text: &str) -> Result<u64, Box<dyn Error>> {
    Ok(u64::from_str_radix(text.trim_start_matches("0x"), 16)?)
}

/// Root of a trie and the proofs of some keys, there or not.
fn trie(leaves: &BTreeMap<B256, Vec<u8>>, keys: &[B256]) -> (B256, Vec<Vec<Bytes>>) {
    if leaves.is_empty() {
        return (EMPTY_ROOT_HASH, keys.iter().map(|_| Vec::new()).collect());
    }
    let paths: Vec<Nibbles> = keys.iter().map(Nibbles::unpack).collect();
    let mut builder = HashBuilder::default().with_proof_retainer(ProofRetainer::new(paths.clone()));
    for (key, value) in leaves {
        builder.add_leaf(Nibbles::unpack(key), value);
    }
    let root = builder.root();
    let nodes = builder.take_proof_nodes();
    let proof = |path: &Nibbles| nodes.matching_nodes_sorted(path).into_iter().map(|(_, node)| node).collect();
    (root, paths.iter().map(proof).collect())
}

/// A node that serves a log to whoever asks, for as long as the process lives.
pub struct Node {
    /// Where it listens.
    pub url: String,
    /// Calls answered.
    pub calls: Arc<AtomicU64>,
    /// Bytes of answers.
    pub bytes: Arc<AtomicU64>,
}

impl Node {
    /// Starts one.
    ///
    /// # Errors
    /// Where no port can be had.
    pub fn start(log: Log) -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let (calls, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let log = Arc::new(log);
        let node = Self { url, calls: Arc::clone(&calls), bytes: Arc::clone(&bytes) };
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let (log, calls, bytes) = (Arc::clone(&log), Arc::clone(&calls), Arc::clone(&bytes));
                // A reader that goes away is its own business.
                std::thread::spawn(move || drop(serve(stream, &log, &calls, &bytes)));
            }
        });
        Ok(node)
    }
}

fn serve(stream: TcpStream, log: &Log, calls: &AtomicU64, bytes: &AtomicU64) -> Result<(), Box<dyn Error>> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut length = 0_usize;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let request: Value = serde_json::from_slice(&body)?;
        let id = request.get("id").cloned().unwrap_or_default();
        let method = request.get("method").and_then(Value::as_str).unwrap_or_default();
        let params = request.get("params").cloned().unwrap_or_default();
        let answer = match log.answer(method, &params) {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => {
                json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32_005, "message": error.to_string() } })
            }
        };
        let answer = answer.to_string();
        calls.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(u64::try_from(answer.len())?, Ordering::Relaxed);
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", answer.len());
        writer.write_all(head.as_bytes())?;
        writer.write_all(answer.as_bytes())?;
    }
}
