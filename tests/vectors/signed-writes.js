#!/usr/bin/env node
// Writes the vectors of docs/spec/signed-writes.md, computed with Foundry's `cast` alone (no code of this project):
//     tests/vectors/signed-writes.js [FOLDER]
// into FOLDER, tests/vectors/signed-writes unless named. Private keys here are small numbers, for tests only.
"use strict";
const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const tools = path.resolve(process.env.COUNTERSIGN_TOOLS || path.join(__dirname, "..", "..", ".tools"));
const program = path.join(tools, "node_modules/@foundry-rs/cast-linux-amd64/bin/cast");
if (!fs.existsSync(program)) {
  console.error(`no cast in ${tools}\nhint: run .ci/tools`);
  process.exit(1);
}

const cast = (...args) => execFileSync(program, args.map(String), { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] }).trim();
const keccak = (data) => cast("keccak", data);
const encode = (types, ...values) => cast("abi-encode", `f(${types})`, ...values);
const text = (string) => keccak(cast("from-utf8", string));
const word = (value) => `0x${BigInt(value).toString(16).padStart(64, "0")}`;

// --- Who and where

const keyNumbers = { root0: 0xa1, root1: 0xa2, root2: 0xa3, admin: 0xb1 };
const keys = Object.fromEntries(
  Object.entries(keyNumbers).map(([name, number]) => {
    const privateKey = word(number);
    return [name, { privateKey, address: cast("wallet", "address", "--private-key", privateKey) }];
  }),
);
const chainId = 31337;
const contract = "0x5FbDB2315678afecb367f032d93F642f64180aa3";
const threshold = 2;
const roots = [keys.root0.address, keys.root1.address, keys.root2.address];
const salt = `0x${"5a".repeat(32)}`;
const realm = keccak(encode("string,uint256,address,uint256,address[],bytes32", "countersign.realm.v1", chainId, contract, threshold, `[${roots.join(",")}]`, salt));

// --- What is written

const struct = (type, value) => `0x00${encode(type, value).slice(2)}`;
const directory = 2 ** 32;
const roleSet = {
  about: `${keys.admin.address} becomes admin, revoker`,
  name: "ROLE_SET",
  kind: 0x0001,
  shard: 0,
  data: `0x00${cast("abi-encode", "--packed", "f(address,uint64,bytes32)", keys.admin.address, 17, `0x${"c1".repeat(32)}`).slice(2)}`,
};
const userAdd = (login, name, r) => ({
  about: `user ${login}`,
  name: "USER_ADD",
  kind: 0x0101,
  shard: directory,
  data: struct("(bytes16,string,string)", `(0x${r.repeat(16)},${login},"${name}")`),
});

// --- What is signed

const domain = { name: "Countersign Registry", version: "1", chainId, verifyingContract: contract };
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
const writeType = "Write(uint64 shard,uint16 kind,bytes data)";
const writesHash = (writes) =>
  keccak(`0x${writes.map(({ shard, kind, data }) => keccak(encode("bytes32,uint64,uint16,bytes32", text(writeType), shard, kind, keccak(data))).slice(2)).join("")}`);
const digestOf = (structHash) => keccak(`0x1901${domainSeparator.slice(2)}${structHash.slice(2)}`);
const members = (list) => list.split(",").map((member) => ({ type: member.split(" ")[0], name: member.split(" ")[1] }));
const types = {
  EIP712Domain: members("string name,string version,uint256 chainId,address verifyingContract"),
  Write: members("uint64 shard,uint16 kind,bytes data"),
};

// Twice: the digest made here, and cast's own reading of the typed data. They must agree.
function sign(key, digest, primaryType, fields, message) {
  const typed = JSON.stringify({ domain, types: { ...types, [primaryType]: members(fields) }, primaryType, message });
  const signature = cast("wallet", "sign", "--no-hash", "--private-key", key.privateKey, digest);
  const again = cast("wallet", "sign", "--data", "--private-key", key.privateKey, typed);
  if (signature !== again) throw new Error(`${primaryType}: the digest is not that of the typed data`);
  return signature;
}

// --- Files

const lower = (digits) => `"${digits.toLowerCase()}"`;
const writeTables = (writes) =>
  writes.map(({ about, name, shard, data }) => `\n[[writes]]\nabout = "${about}"\nkind = "${name}"\nshard = ${shard}\ndata = ${lower(data)}\n`).join("");
const place = `version = 1\nrealm = ${lower(realm)}\nchain-id = ${chainId}\ncontract = ${lower(contract)}\n`;
const rootList = `[${roots.map(lower).join(", ")}]`;

function proposal(nonce, writes, signers) {
  const fields = "bytes32 realm,uint256 nonce,Write[] writes";
  const structHash = keccak(encode("bytes32,bytes32,uint256,bytes32", text(`AppendByRoots(${fields})${writeType}`), realm, nonce, writesHash(writes)));
  const digest = digestOf(structHash);
  const message = { realm, nonce, writes: writes.map(({ shard, kind, data }) => ({ shard, kind, data })) };
  const signatures = signers
    .map((key) => `\n[[signatures]]\nroot = ${lower(key.address)}\nsignature = ${lower(sign(key, digest, "AppendByRoots", fields, message))}\n`)
    .join("");
  const heading = `\
# A proposal to the roots of a Countersign realm. \`countersign realm sign FILE\` shows what the data of each write says and signs
# it; \`countersign realm submit FILE\` sends it when enough roots have signed. The \`about\` lines are remarks and decide nothing.
`;
  const file = `${heading}\n${place}nonce = ${nonce}\nthreshold = ${threshold}\nroots = ${rootList}\n${writeTables(writes)}${signatures}`;
  return { file, structHash, digest };
}

function signed(key, nonce, deadline, write) {
  const fields = "address actor,bytes32 realm,uint64 shard,uint16 kind,bytes data,uint256 nonce,uint256 deadline";
  const actor = key.address;
  const { shard, kind, data } = write;
  const types = "bytes32,address,bytes32,uint64,uint16,bytes32,uint256,uint256";
  const structHash = keccak(encode(types, text(`Append(${fields})`), actor, realm, shard, kind, keccak(data), nonce, deadline));
  const digest = digestOf(structHash);
  const signature = sign(key, digest, "Append", fields, { actor, realm, shard, kind, data, nonce, deadline });
  const heading = `\
# Writes that one actor of a Countersign realm has signed; anybody may send them with \`countersign submit FILE\`.
`;
  const members = `actor = ${lower(actor)}\nnonce = ${nonce}\ndeadline = ${deadline}\nsignature = ${lower(signature)}\n`;
  return { file: `${heading}\n${place}${members}${writeTables([write])}`, structHash, digest };
}

const forRoots = proposal(4, [roleSet, userAdd("alice", "Alice Example", "11")], [keys.root2, keys.root0]);
const byAdmin = signed(keys.admin, 7, 1_800_086_400, userAdd("bob", "Bob Example", "12"));
const vectors = {
  command: "tests/vectors/signed-writes.js",
  keys,
  chainId,
  contract,
  realm,
  threshold,
  roots,
  salt,
  domainSeparator,
  proposal: { structHash: forRoots.structHash, digest: forRoots.digest },
  signed: { structHash: byAdmin.structHash, digest: byAdmin.digest },
};

const folder = process.argv[2] || path.join(__dirname, "signed-writes");
fs.mkdirSync(folder, { recursive: true });
fs.writeFileSync(path.join(folder, "proposal.toml"), forRoots.file);
fs.writeFileSync(path.join(folder, "signed.toml"), byAdmin.file);
fs.writeFileSync(path.join(folder, "vectors.json"), `${JSON.stringify(vectors, null, 2)}\n`);
