// P-256 signatures over a digest, for registry.js: node's crypto signs messages only and not deterministically. Checks itself against
// RFC 6979 A.2.5, and OpenSSL (node's crypto) verifies what it makes of messages. For vectors only: it takes no care of secrets.
"use strict";
const crypto = require("node:crypto");

const P = 0xffffffff00000001000000000000000000000000ffffffffffffffffffffffffn;
const N = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const G = [0x6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296n, 0x4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5n];

const mod = (value, by) => ((value % by) + by) % by;
function inverse(value, by) {
  let [a, b, x, y] = [mod(value, by), by, 1n, 0n];
  while (a !== 0n) [a, b, x, y] = [b % a, a, y - (b / a) * x, x];
  return mod(y, by);
}
function add(left, right) {
  if (!left) return right;
  const [x1, y1] = left;
  const [x2, y2] = right;
  if (x1 === x2 && y1 !== y2) return null;
  const slope = x1 === x2 ? (3n * x1 * x1 - 3n) * inverse(2n * y1, P) : (y2 - y1) * inverse(x2 - x1, P);
  const x = mod(slope * slope - x1 - x2, P);
  return [x, mod(slope * (x1 - x) - y1, P)];
}
function multiply(number) {
  let [sum, point] = [null, G];
  for (let rest = number; rest > 0n; rest >>= 1n) {
    if (rest & 1n) sum = add(sum, point);
    point = add(point, point);
  }
  return sum;
}

const word = (value) => Buffer.from(value.toString(16).padStart(64, "0"), "hex");
const number = (bytes) => BigInt(`0x${bytes.toString("hex")}`);
const hmac = (key, ...parts) => crypto.createHmac("sha256", key).update(Buffer.concat(parts)).digest();
const sha256 = (data) => crypto.createHash("sha256").update(data).digest();

/** RFC 6979, the first candidate (the next is needed once in 2^32). */
function nonce(key, digest) {
  const seed = Buffer.concat([word(key), word(mod(number(digest), N))]);
  let [k, v] = [Buffer.alloc(32, 0), Buffer.alloc(32, 1)];
  for (const byte of [0, 1]) {
    k = hmac(k, v, Buffer.from([byte]), seed);
    v = hmac(k, v);
  }
  const candidate = number(hmac(k, v));
  if (candidate === 0n || candidate >= N) throw new Error("take another key");
  return candidate;
}

function signature(key, digest) {
  const k = nonce(key, digest);
  const r = mod(multiply(k)[0], N);
  return [r, mod(inverse(k, N) * (number(digest) + r * key), N)];
}

const publicKey = (key) => Buffer.concat(multiply(key).map(word));

/** r ‖ s ‖ x ‖ y with the lower s. */
function sign(key, digest) {
  const [r, s] = signature(key, digest);
  return Buffer.concat([word(r), word(s > N / 2n ? N - s : s), publicKey(key)]);
}

/** As a browser and a passkey make it for the page https://countersign.example. */
function assertion(key, digest) {
  const data = Buffer.concat([sha256("countersign.example"), Buffer.from([5, 0, 0, 0, 7])]);
  const rest = ',"origin":"https://countersign.example","crossOrigin":false}';
  const client = `{"type":"webauthn.get","challenge":"${digest.toString("base64url")}"${rest}`;
  const message = Buffer.concat([data, sha256(client)]);
  const signed = sign(key, sha256(message));
  const [x, y] = [signed.subarray(64, 96), signed.subarray(96)].map((part) => part.toString("base64url"));
  const verifier = crypto.createPublicKey({ key: { kty: "EC", crv: "P-256", x, y }, format: "jwk" });
  if (!crypto.verify("sha256", message, { key: verifier, dsaEncoding: "ieee-p1363" }, signed.subarray(0, 64))) {
    throw new Error("OpenSSL does not take the signature");
  }
  return Buffer.concat([signed, Buffer.from([0, data.length]), data, Buffer.from(rest)]);
}

const rfc = 0xc9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721n;
const expected = [0xf1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367n, 0x019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083n];
if (signature(rfc, sha256("test")).some((part, index) => part !== expected[index])) throw new Error("not RFC 6979 A.2.5");

module.exports = { publicKey, sign, assertion };
