#!/usr/bin/env node
// Prints the vectors of docs/spec/registry.md, computed with Foundry's `cast` and, for P-256, p256.js alone (no code of this project):
//     tests/vectors/registry.js > tests/vectors/registry.json
// Private keys here are small numbers, for tests only.
"use strict";
const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const p256 = require("./p256.js");

const tools = path.resolve(process.env.COUNTERSIGN_TOOLS || path.join(__dirname, "..", "..", ".tools"));
const program = path.join(tools, "node_modules/@foundry-rs/cast-linux-amd64/bin/cast");
if (!fs.existsSync(program)) {
  console.error(`no cast in ${tools}\nhint: run .ci/tools`);
  process.exit(1);
}

const cast = (...args) => execFileSync(program, args.map(String), { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] }).trim();
const keccak = (data) => cast("keccak", data);
const encode = (types, ...values) => cast("abi-encode", `f(${types})`, ...values);
const list = (items) => `[${items.join(",")}]`;
const word = (value) => `0x${BigInt(value).toString(16).padStart(64, "0")}`;
const hex = (digits) => `0x${digits}`;
const privateKey = (number) => word(number);
const address = (number) => cast("wallet", "address", "--private-key", privateKey(number));

const chainId = 31337;
const contract = "0x5FbDB2315678afecb367f032d93F642f64180aa3";
const zero = "0x0000000000000000000000000000000000000000";
const keyNumbers = { root0: 0xa1, root1: 0xa2, root2: 0xa3, admin: 0xb1, issuer: 0xb2, revoker: 0xb3, device: 0xb4, stranger: 0xb5, root3: 0xa4 };
const keys = Object.fromEntries(
  Object.entries(keyNumbers).map(([name, number]) => [name, { privateKey: privateKey(number), address: address(number) }]),
);
// A P-256 key: its address is the end of a hash of its public key.
const p256Key = privateKey(0xb6);
const p256Public = hex(p256.publicKey(BigInt(p256Key)).toString("hex"));
// As itself, and as a passkey: two addresses.
for (const [name, tag] of [["p256", "p256"], ["passkey", "webauthn"]]) {
  const address = cast("to-check-sum-address", `0x${keccak(`0x${Buffer.from(tag).toString("hex")}${p256Public.slice(2)}`).slice(26)}`);
  keys[name] = { privateKey: p256Key, publicKey: p256Public, address };
}
const who = (name) => keys[name].address;
const bytes16 = (byte) => hex(byte.repeat(16));
const bytes32 = (byte) => hex(byte.repeat(32));

// --- Realms and root sets

function realm(threshold, roots, salt) {
  const preimage = encode("string,uint256,address,uint256,address[],bytes32", "countersign.realm.v1", chainId, contract, threshold, list(roots), salt);
  return { threshold, roots, salt, realm: keccak(preimage) };
}
const first = [who("root0"), who("root1"), who("root2")];
const realms = [realm(2, first, bytes32("5a")), realm(1, [who("root0")], word(0)), realm(3, [...first, who("root3")], bytes32("ff"))];
const home = realms[0].realm;

const rootSet = (nonce, threshold, roots) => ({ nonce, threshold, roots, hash: keccak(encode("uint256,uint256,address[]", nonce, threshold, list(roots))) });
const second = [who("root0"), who("root1"), who("root2"), who("root3")];

// --- Payloads

const struct = (name, kind, type, value) => ({ name, kind, type, value, data: hex(`00${encode(type, value).slice(2)}`) });
// The fields without padding; `layout` is the spec's.
const packed = (name, kind, layout, type, ...fields) => ({
  name,
  kind,
  type: `packed: ${layout}`,
  value: fields.join(","),
  data: hex(`00${cast("abi-encode", "--packed", `f(${type})`, ...fields).slice(2)}`),
});
const ssh = (byte) => `0x0000000b7373682d6564323535313900000020${byte.repeat(32)}`;
const user = bytes16("01");
const host = bytes16("02");
const ca = bytes16("03");
const r = (byte) => bytes16(byte);
const batchLayout = "r (16) ‖ ca (16) ‖ root (32) ‖ size (4) ‖ notAfter (8) ‖ leavesCid (rest; empty: none)";
const batchType = "bytes16,bytes16,bytes32,uint32,uint64,bytes";
// chainId, genesisHash, registry, codeHash, realm, blockNumber, heads
const crossingType = "(uint64,bytes32,address,bytes32,bytes32,uint64,(uint64,uint256)[])";
const payloads = [
  struct("ROOT_SET", 0x0000, "(uint256,address[])", `(3,${list(second)})`),
  packed("ROLE_SET", 0x0001, "actor (20) ‖ roles (8) ‖ x25519 (32)", "address,uint64,bytes32", who("admin"), 1, bytes32("c1")),
  struct("CA_ADD", 0x0002, "(bytes16,uint8,string,bytes,uint64,string[],address[])", `(${r("10")},1,main,${ssh("d1")},300,["deploy","root"],${list([who("issuer")])})`),
  struct("CA_LOOSEN", 0x0003, "(bytes16,uint64,string[],address[])", `(${ca},600,[],${list([who("issuer"), who("admin")])})`),
  struct("UNLOCK", 0x0004, "(uint16,bytes)", `(513,${user})`),
  struct("RESTORE", 0x0005, "(uint16,bytes16,string,uint32)", `(257,${user},alice,1900000000)`),
  struct("SETTINGS", 0x0006, "((uint16,uint64)[])", "([(1,1),(2,3600),(4,300)])"),
  struct("REVOKE", 0x0007, "(uint16,bytes)", `(514,${host})`),
  struct("MIGRATE", 0x0080, crossingType, `(31338,${bytes32("a1")},${zero.replace(/0$/, "9")},${bytes32("a2")},${bytes32("a3")},4711,[(0,${word(0xa4)}),(4294967296,${bytes32("a5")}),(17179889184,${bytes32("ff")})])`),
  struct("MIGRATED", 0x0081, crossingType, `(${chainId},${bytes32("a6")},${contract},${bytes32("a7")},${home},${2 ** 32},[(8589934592,${bytes32("a8")})])`),
  packed("MEMBER_SET", 0x0100, "actor (20) ‖ member (1) ‖ subject (16) ‖ x25519 (32)", "address,bool,bytes16,bytes32", who("device"), true, user, bytes32("c2")),
  struct("USER_ADD", 0x0101, "(bytes16,string,string)", `(${r("11")},alice,"Alice Example")`),
  struct("GROUP_ADD", 0x0102, "(bytes16,string)", `(${r("12")},ops)`),
  struct("HOST_ADD", 0x0103, "(bytes16,string,bytes16,bytes)", `(${r("13")},web1.example.org,${user},${ssh("d2")})`),
  struct("LABEL_ADD", 0x0104, "(bytes16,bytes16,string)", `(${r("14")},${host},prod)`),
  struct("KEY_ADD", 0x0105, "(bytes16,bytes16,bytes,uint8,uint64,string)", `(${r("15")},${user},${ssh("d3")},1,0,laptop)`),
  struct(
    "GRANT_ADD",
    0x0106,
    "(bytes16,bytes16,bytes16[],string[],bool,string[],uint8,uint64,uint8,string,string[],(uint8,uint16,uint16)[],uint64,uint8)",
    `(${r("16")},${user},[${host}],["prod","web"],false,["deploy"],1,300,2,"/usr/bin/true",["10.0.0.0/8"],[(0,480,1080),(4,0,1440)],1900000000,1)`,
  ),
  struct("GROUP_MEMBER_ADD", 0x0107, "(bytes16,bytes16,bytes16)", `(${r("17")},${bytes16("04")},${user})`),
  struct("PAYLOAD_NAME_ADD", 0x0108, "(bytes16,string,uint8)", `(${r("18")},web-tls,2)`),
  struct("CA_TIGHTEN", 0x0207, "(bytes16,uint64,string[],address[])", `(${ca},60,["deploy"],[])`),
  struct("SETTINGS_TIGHTEN", 0x0208, "((uint16,uint64)[])", "([(2,600)])"),
  packed("BATCH", 0x0400, batchLayout, batchType, r("19"), ca, bytes32("e1"), 1, 1800000600, "0x"),
  packed("BATCH", 0x0400, batchLayout, batchType, r("1d"), ca, bytes32("e6"), 4096, 1800003600, hex(`01551220${"cd".repeat(32)}`)),
  packed("COUNTERSIGN", 0x0500, "batch (16) ‖ entryHash (32)", "bytes16,bytes32", bytes16("05"), bytes32("e2")),
  packed("APPROVE", 0x0600, "request (16) ‖ approvalHash (32)", "bytes16,bytes32", bytes16("06"), bytes32("e3")),
  struct("REQUEST", 0x0700, "(bytes16,bytes16,bytes16,string,uint64,bytes,string)", `(${r("1a")},${user},${host},deploy,300,${ssh("d4")},"disk is full")`),
  packed("ACKNOWLEDGE", 0x0701, "delivery (16) ‖ digest (32)", "bytes16,bytes32", bytes16("07"), bytes32("e4")),
  packed("PREKEYS", 0x0702, "drop (1) ‖ n × key (32)", "uint8,bytes32,bytes32", 1, bytes32("e7"), bytes32("e8")),
  packed(
    "DELIVERY",
    0x0800,
    "r (16) ‖ recipient (20) ‖ payloadKind (1) ‖ digest (32) ‖ n (1) ‖ payloadName (n) ‖ sealedCid (rest, not empty)",
    "bytes16,address,uint8,bytes32,uint8,string,bytes",
    ...[r("1b"), who("device"), 1, bytes32("e5"), "ssh-cert".length, "ssh-cert", hex("ab".repeat(113))],
  ),
  struct("PUBLIC_DATA", 0x0801, "(bytes16,string,bytes)", `(${r("1c")},motd,0x68656c6c6f)`),
  packed(
    "ENVELOPE",
    0x0802,
    "r (16) ‖ payloadKind (1) ‖ index (32) ‖ n (1) ‖ payloadName (n)",
    "bytes16,uint8,bytes32,uint8,string",
    ...[r("1e"), 5, bytes32("e9"), "api-token".length, "api-token"],
  ),
  struct("ENROL", 0x0900, "(address,bytes32,string,bytes,bytes32)", `(${who("stranger")},${bytes32("c3")},laptop,0x,${word(0)})`),
];
const dataOf = (name) => payloads.find((payload) => payload.name === name).data;
const kindOf = (name) => payloads.find((payload) => payload.name === name).kind;

const kinds = {
  ROOT_SET: 0x0000,
  ROLE_SET: 0x0001,
  CA_ADD: 0x0002,
  CA_LOOSEN: 0x0003,
  UNLOCK: 0x0004,
  RESTORE: 0x0005,
  SETTINGS: 0x0006,
  REVOKE: 0x0007,
  MIGRATE: 0x0080,
  MIGRATED: 0x0081,
  MEMBER_SET: 0x0100,
  USER_ADD: 0x0101,
  GROUP_ADD: 0x0102,
  HOST_ADD: 0x0103,
  LABEL_ADD: 0x0104,
  KEY_ADD: 0x0105,
  GRANT_ADD: 0x0106,
  GROUP_MEMBER_ADD: 0x0107,
  PAYLOAD_NAME_ADD: 0x0108,
  REMOVE: 0x0109,
  CONFIRM: 0x010a,
  KEY_LOCK: 0x0200,
  USER_LOCK: 0x0201,
  HOST_LOCK: 0x0202,
  CA_LOCK: 0x0203,
  ACTOR_LOCK: 0x0204,
  BATCH_LOCK: 0x0205,
  CA_RETIRE: 0x0206,
  CA_TIGHTEN: 0x0207,
  SETTINGS_TIGHTEN: 0x0208,
  CERT_REVOKE: 0x0300,
  BATCH: 0x0400,
  COUNTERSIGN: 0x0500,
  APPROVE: 0x0600,
  DENY: 0x0601,
  REQUEST: 0x0700,
  ACKNOWLEDGE: 0x0701,
  PREKEYS: 0x0702,
  DELIVERY: 0x0800,
  PUBLIC_DATA: 0x0801,
  ENVELOPE: 0x0802,
  ENROL: 0x0900,
};

// --- A log: every entry is one that the contract takes, in this order

const shard = (shardClass, epoch) => shardClass * 2 ** 32 + epoch;
const start = 1_800_000_000;
const day = (time) => Math.floor(time / 86_400);
const period = (time) => Math.floor(time / 2_592_000);
const roleSet = (name, roles) => hex(`00${cast("abi-encode", "--packed", "f(address,uint64,bytes32)", who(name), roles, bytes32("c1")).slice(2)}`);
const log = [
  { block: 100, time: start, shard: shard(0, 0), by: null, kind: 0x0001, data: roleSet("admin", 1) },
  { block: 101, time: start + 12, shard: shard(0, 0), by: null, kind: 0x0001, data: roleSet("issuer", 2) },
  { block: 101, time: start + 12, shard: shard(0, 0), by: null, kind: 0x0001, data: roleSet("revoker", 16) },
  { block: 102, time: start + 24, shard: shard(0, 0), by: null, kind: kindOf("SETTINGS"), data: dataOf("SETTINGS") },
  { block: 103, time: start + 36, shard: shard(1, 0), by: "admin", kind: kindOf("USER_ADD"), data: dataOf("USER_ADD") },
  { block: 103, time: start + 36, shard: shard(1, 0), by: "admin", kind: kindOf("HOST_ADD"), data: dataOf("HOST_ADD") },
  { block: 104, time: start + 48, shard: shard(1, 0), by: "admin", kind: kindOf("MEMBER_SET"), data: dataOf("MEMBER_SET") },
  { block: 104, time: start + 48, shard: shard(1, 0), by: null, kind: kindOf("GRANT_ADD"), data: dataOf("GRANT_ADD") },
  { block: 105, time: start + 60, shard: shard(5, day(start)), by: "device", kind: kindOf("REQUEST"), data: dataOf("REQUEST") },
  { block: 106, time: start + 72, shard: shard(4, day(start)), by: "issuer", kind: kindOf("BATCH"), data: dataOf("BATCH") },
  { block: 107, time: start + 84, shard: shard(3, period(start)), by: "issuer", kind: 0x0300, data: hex(`00${"03".repeat(16)}0123456789abcdef`) },
  { block: 108, time: start + 96, shard: shard(3, period(start)), by: "revoker", kind: 0x0300, data: hex(`00${"03".repeat(16)}0000000000000001ffffffffffffffff`) },
  { block: 108, time: start + 96, shard: shard(2, 0), by: "revoker", kind: 0x0200, data: hex(`00${"f1".repeat(20)}`) },
  { block: 109, time: start + 108, shard: shard(7, day(start)), by: "stranger", kind: kindOf("ENROL"), data: dataOf("ENROL") },
  { block: 110, time: start + 86_400, shard: shard(4, day(start) + 1), by: "issuer", kind: kindOf("BATCH"), data: "0x00" },
  { block: 2 ** 32 - 1, time: start + 90_000, shard: shard(2, 0), by: "revoker", kind: 0x0200, data: "0x00" },
  { block: 2 ** 32 + 5, time: start + 90_012, shard: shard(2, 0), by: null, kind: 0x02ff, data: hex("01".padEnd(8192, "7")) },
];

const genesisOf = (inRealm, inShard) => keccak(encode("string,uint256,address,bytes32,uint64", "countersign.head.v1", chainId, contract, inRealm, inShard));

const slots = new Map();
const entries = log.map(({ block, time, shard, by, kind, data }) => {
  const actor = by === null ? zero : who(by);
  const before = slots.get(shard) || 0n;
  const prevBlock = Number(before & 0xffffffffn);
  const meta = word((BigInt(kind) << 96n) | (BigInt(prevBlock) << 64n) | BigInt(time));
  const dataHash = keccak(data);
  const from = before === 0n ? genesisOf(home, shard) : word(before);
  const hash = keccak(encode("uint256,bytes32,uint64,address,uint256,bytes32", from, home, shard, actor, meta, dataHash));
  const slot = ((BigInt(hash) >> 32n) << 32n) | (BigInt(block) & 0xffffffffn);
  slots.set(shard, slot);
  return {
    block,
    time,
    shard,
    actor,
    kind,
    data,
    prevBlock,
    meta,
    entryHash: keccak(encode("bytes32,uint64,address,uint256,bytes32", home, shard, actor, meta, dataHash)),
    slotBefore: word(before),
    slot: word(slot),
  };
});

// --- Signatures

const domain = { name: "Countersign Registry", version: "1", chainId, verifyingContract: contract };
const writeType = "Write(uint64 shard,uint16 kind,bytes data)";
const text = (string) => keccak(cast("from-utf8", string));
const domainSeparator = keccak(
  encode(
    "bytes32,bytes32,bytes32,uint256,address",
    text("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
    text(domain.name),
    text(domain.version),
    chainId,
    contract,
  ),
);
const writesHash = (writes) =>
  keccak(`0x${writes.map(({ shard, kind, data }) => keccak(encode("bytes32,uint64,uint16,bytes32", text(writeType), shard, kind, keccak(data))).slice(2)).join("")}`);
const digestOf = (structHash) => keccak(`0x1901${domainSeparator.slice(2)}${structHash.slice(2)}`);
const types = {
  EIP712Domain: [
    { name: "name", type: "string" },
    { name: "version", type: "string" },
    { name: "chainId", type: "uint256" },
    { name: "verifyingContract", type: "address" },
  ],
  Write: [
    { name: "shard", type: "uint64" },
    { name: "kind", type: "uint16" },
    { name: "data", type: "bytes" },
  ],
};

// Twice: the digest made here, and cast's own reading of the typed data. They must agree.
function sign(key, digest, primaryType, members, message) {
  const typed = JSON.stringify({ domain, types: { ...types, [primaryType]: members }, primaryType, message });
  const signature = cast("wallet", "sign", "--no-hash", "--private-key", key, digest);
  const again = cast("wallet", "sign", "--data", "--private-key", key, typed);
  if (signature !== again) throw new Error(`${primaryType}: the digest is not that of the typed data`);
  return signature;
}

const membersOf = (fields) => fields.split(",").map((field) => ({ type: field.split(" ")[0], name: field.split(" ")[1] }));

// One write is an Append, several are an AppendMany.
function append(by, writes, nonce, deadline, form) {
  const actor = who(by);
  const [name, between, encoded, given] =
    writes.length === 1
      ? [
          "Append",
          "uint64 shard,uint16 kind,bytes data",
          ["uint64,uint16,bytes32", writes[0].shard, writes[0].kind, keccak(writes[0].data)],
          writes[0],
        ]
      : ["AppendMany", "Write[] writes", ["bytes32", writesHash(writes)], { writes }];
  const fields = `address actor,bytes32 realm,${between},uint256 nonce,uint256 deadline`;
  const type = `${name}(${fields})${writes.length === 1 ? "" : writeType}`;
  const [types, ...values] = encoded;
  const structHash = keccak(encode(`bytes32,address,bytes32,${types},uint256,uint256`, text(type), actor, home, ...values, nonce, deadline));
  const digest = digestOf(structHash);
  const message = { actor, realm: home, ...given, nonce, deadline };
  const byWallet = sign(keys[form ? "stranger" : by].privateKey, digest, name, membersOf(fields), message);
  const bytes = Buffer.from(digest.slice(2), "hex");
  const signature = form ? hex(form(BigInt(keys[by].privateKey), bytes).toString("hex")) : byWallet;
  return { privateKey: keys[by].privateKey, actor, realm: home, writes, nonce, deadline, structHash, digest, signature };
}

function appendByRoots(nonce, writes, signers) {
  const type = `AppendByRoots(bytes32 realm,uint256 nonce,Write[] writes)${writeType}`;
  const hash = writesHash(writes);
  const structHash = keccak(encode("bytes32,bytes32,uint256,bytes32", text(type), home, nonce, hash));
  const digest = digestOf(structHash);
  const members = [
    { name: "realm", type: "bytes32" },
    { name: "nonce", type: "uint256" },
    { name: "writes", type: "Write[]" },
  ];
  const signatures = signers.map(([index, by]) => ({
    index,
    signature: sign(keys[by].privateKey, digest, "AppendByRoots", members, { realm: home, nonce, writes }),
  }));
  return { realm: home, nonce, writes, writesHash: hash, structHash, digest, signatures };
}

const write = (name, inShard) => ({ shard: inShard, kind: kindOf(name), data: dataOf(name) });
const recordId = (kind, actor, random) => {
  const hash = keccak(encode("uint16,address,bytes16", kind, actor, random));
  return { kind, actor, r: random, id: hash.slice(0, 34) };
};
const slotAt = (keyType, key, at) => cast("index", keyType, key, at);

const vectors = {
  command: "tests/vectors/registry.js > tests/vectors/registry.json",
  chainId,
  contract,
  keys,
  realms,
  rootSets: [rootSet(1, 2, first), rootSet(7, 3, second)],
  genesis: [shard(0, 0), shard(1, 0), shard(3, period(start)), shard(4, day(start)), shard(15, 0xffffffff)].map((at) => ({ realm: home, shard: at, hash: genesisOf(home, at) })),
  entries,
  storageSlots: {
    heads: [shard(0, 0), shard(4, day(start))].map((at) => ({ realm: home, shard: at, slot: slotAt("uint64", at, slotAt("bytes32", home, 0)) })),
    rootSet: [{ realm: home, slot: slotAt("bytes32", home, 1) }],
    actors: [{ realm: home, actor: who("admin"), slot: slotAt("address", who("admin"), slotAt("bytes32", home, 2)) }],
  },
  recordIds: [
    recordId(0x0101, who("admin"), r("11")),
    recordId(0x0103, who("admin"), r("13")),
    recordId(0x0002, zero, r("10")),
    recordId(0x0700, who("device"), r("1a")),
    recordId(0x0400, who("issuer"), r("19")),
  ],
  domainSeparator,
  append: [
    append("revoker", [{ shard: shard(2, 0), kind: 0x0200, data: hex(`00${"f1".repeat(20)}`) }], 0, start + 60),
    append("device", [write("REQUEST", shard(5, 0)), write("ACKNOWLEDGE", shard(5, 0))], 41, start + 86_400),
    append("stranger", [write("ENROL", shard(7, 0))], 0, 2 ** 32),
    append("p256", [{ shard: shard(2, 0), kind: 0x0200, data: hex(`00${"f2".repeat(20)}`) }], 0, start + 60, p256.sign),
    append("passkey", [write("REQUEST", shard(5, 0)), write("ACKNOWLEDGE", shard(5, 0))], 1, start + 60, p256.assertion),
  ],
  appendByRoots: [
    appendByRoots(0, [write("ROLE_SET", 0)], [[0, "root0"], [1, "root1"]]),
    appendByRoots(6, [write("ROOT_SET", 0), write("SETTINGS", 0), write("USER_ADD", shard(1, 0))], [[2, "root2"], [0, "root0"]]),
  ],
  kinds,
  payloads,
};
process.stdout.write(`${JSON.stringify(vectors, null, 2)}\n`);
