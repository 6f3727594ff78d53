#!/usr/bin/env node
// Prints headers of every fork and EIP-1186 proofs as a real node gives them, with nothing of this project but the contract:
//     tests/vectors/proof.js > tests/vectors/proof.json
// Times are set by the script, so that two runs print the same. Node: anvil, on a free port of the loopback.
"use strict";
const { execFileSync, spawn } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const tools = path.resolve(process.env.COUNTERSIGN_TOOLS || path.join(__dirname, "..", "..", ".tools"));
const program = (name) => path.join(tools, `node_modules/@foundry-rs/${name}-linux-amd64/bin/${name}`);
for (const name of ["anvil", "cast"]) {
  if (!fs.existsSync(program(name))) {
    console.error(`no ${name} in ${tools}\nhint: run .ci/tools`);
    process.exit(1);
  }
}
const cast = (...args) => execFileSync(program("cast"), args.map(String), { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] }).trim();
const artifact = JSON.parse(fs.readFileSync(path.join(__dirname, "../../contracts/artifact/Registry.json"), "utf8"));
const creation = artifact.bytecode.object || artifact.bytecode;

// A node of one fork, until `work` is done.
async function node(hardfork, work) {
  const child = spawn(program("anvil"), ["--port", "0", "--hardfork", hardfork, "--timestamp", "1800000000", "--no-mining"], { stdio: ["ignore", "pipe", "inherit"] });
  try {
    const url = await new Promise((resolve, reject) => {
      let text = "";
      child.stdout.on("data", (data) => {
        text += data;
        const found = text.match(/Listening on ([0-9.:]+)/);
        if (found) resolve(`http://${found[1]}`);
      });
      child.on("exit", (code) => reject(new Error(`anvil --hardfork ${hardfork} ended with ${code}`)));
    });
    const rpc = async (method, ...params) => {
      const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
      const answer = await (await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body })).json();
      if (answer.error) throw new Error(`${method}: ${answer.error.message}`);
      return answer.result;
    };
    let time = 1800000000;
    const account = (await rpc("eth_accounts"))[0];
    const send = async (transaction) => {
      const hash = await rpc("eth_sendTransaction", { from: account, gas: "0x4c4b40", gasPrice: "0x77359400", ...transaction });
      await rpc("evm_setNextBlockTimestamp", (time += 12));
      await rpc("evm_mine");
      const receipt = await rpc("eth_getTransactionReceipt", hash);
      if (receipt?.status !== "0x1") throw new Error(`transaction failed: ${JSON.stringify(receipt)}`);
      return receipt;
    };
    return await work({ rpc, send, url });
  } finally {
    child.kill();
  }
}

// RLP of the header's fields in the order of the yellow paper and the EIPs since, by cast: independent of how the node hashes.
const order = ["parentHash", "sha3Uncles", "miner", "stateRoot", "transactionsRoot", "receiptsRoot", "logsBloom", "difficulty", "number", "gasLimit", "gasUsed", "timestamp", "extraData", "mixHash", "nonce", "baseFeePerGas", "withdrawalsRoot", "blobGasUsed", "excessBlobGas", "parentBeaconBlockRoot", "requestsHash"];
const quantities = new Set(["difficulty", "number", "gasLimit", "gasUsed", "timestamp", "baseFeePerGas", "blobGasUsed", "excessBlobGas"]);
function raw(block) {
  const items = order.filter((name) => block[name] !== undefined && block[name] !== null).map((name) => {
    if (!quantities.has(name)) return block[name];
    const digits = BigInt(block[name]).toString(16);
    return digits === "0" ? "0x" : `0x${digits.length % 2 ? "0" : ""}${digits}`;
  });
  const bytes = cast("to-rlp", JSON.stringify(items));
  const hash = cast("keccak", bytes);
  if (hash !== block.hash) throw new Error(`block ${block.number} hashes to ${hash}, node says ${block.hash}`);
  return bytes;
}

async function header(hardfork) {
  return node(hardfork, async ({ rpc, send }) => {
    await send({ to: `0x${"11".repeat(20)}`, value: "0x1" });
    const block = await rpc("eth_getBlockByNumber", "0x1", false);
    return { hardfork, block, raw: raw(block) };
  });
}

async function proofs() {
  return node("osaka", async ({ rpc, send }) => {
    const { contractAddress } = await send({ data: creation });
    // The inbox takes entries from anybody, in any realm.
    const shard = BigInt(7) << 32n;
    const realm = (number) => `0x${number.toString(16).padStart(64, "0")}`;
    for (let number = 1; number <= 40; number++) {
      const data = cast("calldata", "append(bytes32,uint64,uint16,bytes)", realm(number), shard, 0x0900, `0x00${number.toString(16).padStart(2, "0")}`);
      await send({ to: contractAddress, data });
    }
    const block = await rpc("eth_getBlockByNumber", "latest", false);
    const day = BigInt(Math.floor(Number(block.timestamp) / 86400));
    const slot = (number, of) => cast("index", "uint64", of, cast("index", "bytes32", realm(number), 0));
    const present = [1, 2, 7, 40].map((number) => slot(number, shard | day));
    const absent = [slot(1, shard), slot(41, shard | day), realm(5)];
    const proof = await rpc("eth_getProof", contractAddress, [...present, ...absent], block.number);
    const values = {};
    for (const key of [...present, ...absent]) values[key] = await rpc("eth_getStorageAt", contractAddress, key, block.number);
    const code = await rpc("eth_getCode", contractAddress, block.number);
    // An account that does not exist, and one without storage.
    const nobody = await rpc("eth_getProof", `0x${"42".repeat(20)}`, [present[0]], block.number);
    const payer = await rpc("eth_getProof", (await rpc("eth_accounts"))[0], [present[0]], block.number);
    return { block, contract: contractAddress, codeHash: cast("keccak", code), present, absent, values, proof, nobody, payer };
  });
}

(async () => {
  const headers = [];
  for (const hardfork of ["frontier", "london", "paris", "shanghai", "cancun", "prague", "osaka"]) headers.push(await header(hardfork));
  const vectors = { command: "tests/vectors/proof.js > tests/vectors/proof.json", headers, ...(await proofs()) };
  console.log(JSON.stringify(vectors, null, 2));
})().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
