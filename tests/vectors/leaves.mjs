// Writes the vectors of docs/spec/leaves.md to stdout, from Node's own crypto module alone: RFC 9180 in auth mode is spelled out
// here a second time, so that two implementations must agree.
//
//   node tests/vectors/leaves.mjs >tests/vectors/leaves.json
import { createCipheriv, createHash, createHmac, createPrivateKey, createPublicKey, diffieHellman } from 'node:crypto';

const ascii = (text) => Buffer.from(text, 'latin1');
const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts)).digest();
const integer = (value, length) => { const bytes = Buffer.alloc(length); bytes.writeUIntBE(value, 0, length); return bytes; };
const fill = (byte, length) => Buffer.alloc(length, byte);
const hex = (bytes) => bytes.toString('hex');

// X25519 through the DER forms of RFC 8410.
const secret = (raw) => createPrivateKey({ key: Buffer.concat([Buffer.from('302e020100300506032b656e04220420', 'hex'), raw]), format: 'der', type: 'pkcs8' });
const publicKey = (raw) => createPublicKey({ key: Buffer.concat([Buffer.from('302a300506032b656e032100', 'hex'), raw]), format: 'der', type: 'spki' });
const publicOf = (raw) => createPublicKey(secret(raw)).export({ format: 'der', type: 'spki' }).subarray(12);
const agree = (own, other) => diffieHellman({ privateKey: secret(own), publicKey: publicKey(other) });

// RFC 9180 section 4: labelled HKDF-SHA256.
const hmac = (key, ...parts) => createHmac('sha256', key).update(Buffer.concat(parts)).digest();
const extract = (suite, salt, label, ikm) => hmac(salt, ascii('HPKE-v1'), suite, ascii(label), ikm);
const expand = (suite, prk, label, info, length) => {
  const labelled = Buffer.concat([integer(length, 2), ascii('HPKE-v1'), suite, ascii(label), info]);
  let block = Buffer.alloc(0), output = Buffer.alloc(0);
  for (let counter = 1; output.length < length; counter += 1) {
    block = hmac(prk, block, labelled, integer(counter, 1));
    output = Buffer.concat([output, block]);
  }
  return output.subarray(0, length);
};
const KEM = Buffer.concat([ascii('KEM'), integer(0x0020, 2)]);
const HPKE = Buffer.concat([ascii('HPKE'), integer(0x0020, 2), integer(0x0001, 2), integer(0x0003, 2)]);
const none = Buffer.alloc(0);

function sealAuth(sender, recipient, info, aad, plaintext, seed) {
  const ephemeral = expand(KEM, extract(KEM, none, 'dkp_prk', seed), 'sk', none, 32);
  const encapsulated = publicOf(ephemeral);
  const shared = Buffer.concat([agree(ephemeral, recipient), agree(sender, recipient)]);
  const kemContext = Buffer.concat([encapsulated, recipient, publicOf(sender)]);
  const sharedSecret = expand(KEM, extract(KEM, none, 'eae_prk', shared), 'shared_secret', kemContext, 32);
  const schedule = Buffer.concat([integer(2, 1), extract(HPKE, none, 'psk_id_hash', none), extract(HPKE, none, 'info_hash', info)]);
  const keySecret = extract(HPKE, sharedSecret, 'secret', none);
  const cipher = createCipheriv('chacha20-poly1305', expand(HPKE, keySecret, 'key', schedule, 32), expand(HPKE, keySecret, 'base_nonce', schedule, 12), { authTagLength: 16 });
  cipher.setAAD(aad, { plaintextLength: plaintext.length });
  return Buffer.concat([integer(1, 1), encapsulated, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}


function leaves({ issuer, realm, batch, watchdogs, leaves: list, contentKey }) {
  const container = Buffer.concat([integer(list.length, 4), ...list.flatMap((leaf) => [integer(leaf.length, 4), leaf])]);
  const used = 4 + container.length;
  const padded = Buffer.concat([integer(container.length, 4), container, Buffer.alloc(Math.ceil(used / 1024) * 1024 - used)]);
  const cipher = createCipheriv('chacha20-poly1305', contentKey, Buffer.alloc(12), { authTagLength: 16 });
  cipher.setAAD(Buffer.concat([integer(1, 1), realm, batch]), { plaintextLength: padded.length });
  const body = Buffer.concat([cipher.update(padded), cipher.final(), cipher.getAuthTag()]);
  const sorted = [...watchdogs].sort((one, other) => Buffer.compare(one.address, other.address));
  const slots = sorted.flatMap(({ address, secret: key, seed }) => {
    const info = Buffer.concat([ascii('countersign.leaves.v1'), realm, batch, address]);
    const aad = Buffer.concat([integer(1, 1), sha256(body)]);
    return [address, sealAuth(issuer, publicOf(key), info, aad, contentKey, seed)];
  });
  const block = Buffer.concat([integer(1, 1), integer(sorted.length, 1), ...slots, body]);
  return {
    'issuer-secret': hex(issuer), 'issuer-public': hex(publicOf(issuer)), realm: hex(realm), 'batch-id': hex(batch),
    watchdogs: watchdogs.map(({ address, secret: key, seed }) => ({ address: hex(address), secret: hex(key), public: hex(publicOf(key)), seed: hex(seed) })),
    leaves: list.map(hex), 'content-key': hex(contentKey), padded: hex(padded), block: hex(block),
  };
}

const watchdog = (byte) => ({ address: fill(byte, 20), secret: fill(byte + 1, 32), seed: fill(byte + 2, 32) });
const common = { issuer: fill(0x11, 32), realm: fill(0xa1, 32), batch: fill(0xb2, 16) };

console.log(JSON.stringify({
  command: 'node tests/vectors/leaves.mjs >tests/vectors/leaves.json',
  blocks: [
    leaves({ ...common, watchdogs: [watchdog(0x20)], leaves: [ascii('one leaf')], contentKey: fill(0x61, 32) }),
    leaves({ ...common, watchdogs: [watchdog(0x40), watchdog(0x30), watchdog(0x50)], leaves: [ascii('first'), fill(0x77, 700), fill(0x78, 400)], contentKey: fill(0x62, 32) }),
    // Exactly one page, and one byte more.
    leaves({ ...common, watchdogs: [watchdog(0x20)], leaves: [fill(0x79, 1012)], contentKey: fill(0x63, 32) }),
    leaves({ ...common, watchdogs: [watchdog(0x20)], leaves: [fill(0x79, 1013)], contentKey: fill(0x64, 32) }),
  ],
}, null, 1));
