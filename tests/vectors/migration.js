#!/usr/bin/env node
// Prints the vectors of docs/spec/migration.md, computed with Foundry's `cast` and Node's own crypto (no code of this project):
//     tests/vectors/migration.js > tests/vectors/migration.json
// Private keys here are small numbers, for tests only.
"use strict";
const { execFileSync } = require("node:child_process");
const crypto = require("node:crypto");
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
const list = (items) => `[${items.join(",")}]`;
const bytes32 = (byte) => `0x${byte.repeat(32)}`;
const privateKey = (number) => `0x${BigInt(number).toString(16).padStart(64, "0")}`;
const address = (number) => cast("wallet", "address", "--private-key", privateKey(number));

// --- The two realms. Roots 0 and 1 sign by ECDSA, roots 2 and 3 by P-256: the same key, once itself and once as a passkey.

const p256 = crypto.createPrivateKey({
  key: {
    kty: "EC",
    crv: "P-256",
    d: "ERERERERERERERERERERERERERERERERERERERERERE",
    x: "AhfmF_C2RDkoJ4-WmZ5pojpPLBUr321s32bluAKC1O0",
    y: "GUp968uXcS0t2jyoWqh2Wlb0X8dYWZZS8ol8ZTBuV5Q",
  },
  format: "jwk",
});
const point = crypto.createPublicKey(p256).export({ format: "jwk" });
const hexOf = (base64url) => Buffer.from(base64url, "base64url").toString("hex");
const xy = hexOf(point.x) + hexOf(point.y);
const addressAs = (tag) => cast("to-check-sum-address", `0x${keccak(`0x${Buffer.from(tag).toString("hex")}${xy}`).slice(-40)}`);

const chainId = 31337;
const contract = "0x5FbDB2315678afecb367f032d93F642f64180aa3";
const threshold = 2;
const roots = [address(0xa1), address(0xa2), addressAs("p256"), addressAs("webauthn")];
const salt = bytes32("5a");
const source = keccak(encode("string,uint256,address,uint256,address[],bytes32", "countersign.realm.v1", chainId, contract, threshold, list(roots), salt));
const nonce = 3;
const rootSetSlot = keccak(encode("uint256,uint256,address[]", nonce, threshold, list(roots)));
const target = { chainId: 31338, genesisHash: bytes32("b1"), registry: "0x00000000000000000000000000000000000000b2", codeHash: bytes32("b3"), realm: bytes32("b4") };
const blockNumber = 4711;
const heads = [
  { shard: 0, slot: bytes32("c0") },
  { shard: 2 ** 32, slot: bytes32("c1") },
  { shard: 2 * 2 ** 32, slot: bytes32("c2") },
  { shard: 4 * 2 ** 32 + 20_000, slot: bytes32("c4") },
];

// --- The entries

const crossing = "(uint64,bytes32,address,bytes32,bytes32,uint64,(uint64,uint256)[])";
const tuple = (to, at) => `(${[to.chainId, to.genesisHash, to.registry, to.codeHash, to.realm, at, list(heads.map((head) => `(${head.shard},${head.slot})`))].join(",")})`;
const here = { chainId, genesisHash: bytes32("d1"), registry: contract, codeHash: bytes32("d3"), realm: source };
const data = (value) => `0x00${encode(crossing, value).slice(2)}`;

// --- The statement

const headType = "ShardHead(uint64 shard,uint256 slot)";
const type = `Migrate(bytes32 source,uint256 nonce,uint64 chainId,bytes32 genesisHash,address registry,bytes32 codeHash,bytes32 realm,uint64 blockNumber,ShardHead[] heads)${headType}`;
const headsHash = keccak(`0x${heads.map(({ shard, slot }) => keccak(encode("bytes32,uint64,uint256", text(headType), shard, slot)).slice(2)).join("")}`);
const structHash = keccak(
  encode(
    "bytes32,bytes32,uint256,uint64,bytes32,address,bytes32,bytes32,uint64,bytes32",
    text(type), source, nonce, target.chainId, target.genesisHash, target.registry, target.codeHash, target.realm, blockNumber, headsHash,
  ),
);
const domain = { name: "Countersign Registry", version: "1", chainId, verifyingContract: contract };
const separator = keccak(
  encode(
    "bytes32,bytes32,bytes32,uint256,address",
    text("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"), text(domain.name), text(domain.version), chainId, contract,
  ),
);
const digest = keccak(`0x1901${separator.slice(2)}${structHash.slice(2)}`);
const members = (described) => described.split(",").map((member) => ({ type: member.split(" ")[0], name: member.split(" ")[1] }));
const typed = JSON.stringify({
  domain,
  types: {
    EIP712Domain: members("string name,string version,uint256 chainId,address verifyingContract"),
    Migrate: members("bytes32 source,uint256 nonce,uint64 chainId,bytes32 genesisHash,address registry,bytes32 codeHash,bytes32 realm,uint64 blockNumber,ShardHead[] heads"),
    ShardHead: members("uint64 shard,uint256 slot"),
  },
  primaryType: "Migrate",
  message: { source, nonce, ...target, blockNumber, heads },
});

// Twice: the digest made here, and cast's own reading of the typed data. They must agree.
function ecdsa(number) {
  const signature = cast("wallet", "sign", "--no-hash", "--private-key", privateKey(number), digest);
  if (signature !== cast("wallet", "sign", "--data", "--private-key", privateKey(number), typed)) throw new Error("the digest is not that of the typed data");
  return signature;
}

// P-256 signatures are made with random numbers, so they stand here; Node says whether they hold. `--sign` prints new ones.
const half = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n / 2n;
const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const authenticatorData = Buffer.concat([Buffer.alloc(32, 0x77), Buffer.from([0b101, 0, 0, 0, 9])]);
const rest = Buffer.from(',"origin":"https://ssh.example.org","crossOrigin":false}');
const challenge = Buffer.from(digest.slice(2), "hex").toString("base64url");
const clientData = Buffer.concat([Buffer.from(`{"type":"webauthn.get","challenge":"${challenge}"`), rest]);
const asserted = Buffer.concat([authenticatorData, crypto.createHash("sha256").update(clientData).digest()]);
const made = {
  rawHash: "3cf16a8a9f1fcabf88cffd855061caa7af6047ef7bd8c341a6013cf3efa7069a210b862b29b55764e79dc2f759376897e39438e5c060220b798e1b76dabcf370",
  assertion: "46ba3012e7b23f1ae5c057e6af816fd50d36a61f5129f19a86128dc4230ff9853e237dafb4a1e272f0685c87f36089e5afa347f1c73bf7018aa0d52cbf8062fe",
};
const length = Buffer.from([0, authenticatorData.length]).toString("hex");
const bare = (signature) => `0x${signature}${xy}`;
const webauthn = (signature) => `0x${signature}${xy}${length}${authenticatorData.toString("hex")}${rest.toString("hex")}`;

// Over a digest, without hashing it again: Node cannot, so the numbers are checked with OpenSSL.
function holdsRaw(signature) {
  const folder = fs.mkdtempSync(path.join(require("node:os").tmpdir(), "migration-"));
  try {
    const file = (name, content) => (fs.writeFileSync(path.join(folder, name), content), path.join(folder, name));
    const integer = (hex) => {
      const trimmed = Buffer.from(hex.replace(/^(00)+/, ""), "hex");
      const body = trimmed[0] & 0x80 ? Buffer.concat([Buffer.from([0]), trimmed]) : trimmed;
      return Buffer.concat([Buffer.from([2, body.length]), body]);
    };
    const body = Buffer.concat([integer(signature.slice(0, 64)), integer(signature.slice(64))]);
    const der = file("signature", Buffer.concat([Buffer.from([0x30, body.length]), body]));
    const key = file("key", crypto.createPublicKey(p256).export({ type: "spki", format: "pem" }));
    execFileSync("openssl", ["pkeyutl", "-verify", "-pubin", "-inkey", key, "-sigfile", der, "-in", file("digest", Buffer.from(digest.slice(2), "hex"))], { stdio: "ignore" });
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}
if (process.argv[2] === "--sign") {
  const lower = (raw) => {
    const [r, s] = [raw.subarray(0, 32).toString("hex"), BigInt(`0x${raw.subarray(32).toString("hex")}`)];
    return r + (s > half ? order - s : s).toString(16).padStart(64, "0");
  };
  const folder = fs.mkdtempSync(path.join(require("node:os").tmpdir(), "migration-"));
  const [key, content] = [path.join(folder, "key"), path.join(folder, "digest")];
  fs.writeFileSync(key, p256.export({ type: "pkcs8", format: "pem" }));
  fs.writeFileSync(content, Buffer.from(digest.slice(2), "hex"));
  const der = execFileSync("openssl", ["pkeyutl", "-sign", "-inkey", key, "-in", content]);
  fs.rmSync(folder, { recursive: true });
  const part = (at) => [der.subarray(at + 2, at + 2 + der[at + 1]).toString("hex").replace(/^00/, "").padStart(64, "0"), at + 2 + der[at + 1]];
  const [r, next] = part(2);
  const [s] = part(next);
  console.log(lower(Buffer.from(r + s, "hex")));
  console.log(lower(crypto.sign("sha256", asserted, { key: p256, dsaEncoding: "ieee-p1363" })));
  process.exit(0);
}
holdsRaw(made.rawHash);
if (!crypto.verify("sha256", asserted, { key: crypto.createPublicKey(p256), dsaEncoding: "ieee-p1363" }, Buffer.from(made.assertion, "hex"))) throw new Error("the assertion does not hold");
for (const signature of Object.values(made)) if (BigInt(`0x${signature.slice(64)}`) > half) throw new Error("a high s");

const vectors = {
  command: "tests/vectors/migration.js > tests/vectors/migration.json",
  source: { chainId, contract, genesisHash: here.genesisHash, codeHash: here.codeHash, realm: source, threshold, roots, salt },
  target,
  blockNumber,
  heads,
  migrate: data(tuple(target, blockNumber)),
  migrated: data(tuple(here, blockNumber)),
  statement: {
    nonce,
    rootSetSlot,
    structHash,
    digest,
    signatures: [
      { root: 0, form: "ecdsa", signature: ecdsa(0xa1) },
      { root: 1, form: "ecdsa", signature: ecdsa(0xa2) },
      { root: 2, form: "p256", signature: bare(made.rawHash) },
      { root: 3, form: "webauthn", signature: webauthn(made.assertion) },
    ],
  },
};
process.stdout.write(`${JSON.stringify(vectors, null, 2)}\n`);
