// Writes the vectors of docs/spec/delivery.md to stdout, from Node's own crypto module alone: RFC 9180 in auth mode is spelled
// out here a second time, so that two implementations must agree.
//
//   node tests/vectors/delivery.mjs >tests/vectors/delivery.json
import { createCipheriv, createHash, createHmac, createPrivateKey, createPublicKey, diffieHellman } from 'node:crypto';

const ascii = (text) => Buffer.from(text, 'latin1');
const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts)).digest();
const integer = (value, length) => { const bytes = Buffer.alloc(length); bytes.writeUIntBE(value, 0, length); return bytes; };
const fill = (byte, length) => Buffer.alloc(length, byte);

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

// RFC 9180, 5.1: a context of one recipient; without a sender it is mode base. `seal` is its first message.
function context(sender, recipient, info, seed) {
  const ephemeral = expand(KEM, extract(KEM, none, 'dkp_prk', seed), 'sk', none, 32);
  const encapsulated = publicOf(ephemeral);
  const shared = Buffer.concat([agree(ephemeral, recipient), ...(sender ? [agree(sender, recipient)] : [])]);
  const kemContext = Buffer.concat([encapsulated, recipient, ...(sender ? [publicOf(sender)] : [])]);
  const sharedSecret = expand(KEM, extract(KEM, none, 'eae_prk', shared), 'shared_secret', kemContext, 32);
  const schedule = Buffer.concat([integer(sender ? 2 : 0, 1), extract(HPKE, none, 'psk_id_hash', none), extract(HPKE, none, 'info_hash', info)]);
  const keySecret = extract(HPKE, sharedSecret, 'secret', none);
  return {
    encapsulated,
    seal: (aad, plaintext) => aead(expand(HPKE, keySecret, 'key', schedule, 32), expand(HPKE, keySecret, 'base_nonce', schedule, 12), aad, plaintext),
    export: (label, length) => expand(HPKE, expand(HPKE, keySecret, 'exp', schedule, 32), 'sec', ascii(label), length),
  };
}

function aead(key, nonce, aad, plaintext) {
  const cipher = createCipheriv('chacha20-poly1305', key, nonce, { authTagLength: 16 });
  cipher.setAAD(aad, { plaintextLength: plaintext.length });
  return Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

function sealAuth(sender, recipient, info, aad, plaintext, seed) {
  const { encapsulated, seal } = context(sender, recipient, info, seed);
  return Buffer.concat([integer(1, 1), encapsulated, seal(aad, plaintext)]);
}

const cidBytes = (block) => Buffer.concat([Buffer.from('01551220', 'hex'), sha256(block)]);
function cidText(block) {
  const bits = [...cidBytes(block)].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  return 'b' + bits.match(/.{1,5}/g).map((five) => 'abcdefghijklmnopqrstuvwxyz234567'[parseInt(five.padEnd(5, '0'), 2)]).join('');
}

function pad(container) {
  let bucket = 1024;
  while (bucket < container.length + 4) bucket *= 2;
  return Buffer.concat([integer(container.length, 4), container, Buffer.alloc(bucket - 4 - container.length)]);
}

function containerOf({ kind, salt, name, parts }) {
  return Buffer.concat([
    integer(1, 1), integer(kind, 1), salt, integer(name.length, 1), ascii(name), integer(parts.length, 1),
    ...parts.flatMap(({ tag, text }) => [integer(tag, 1), integer(text.length, 4), ascii(text)]),
  ]);
}

function delivery({ sender, recipient, realm, id, address, kind, name, parts, salt, seeds }) {
  const container = containerOf({ kind, salt, name, parts });
  const digest = sha256(ascii('countersign.payload.v1'), salt, container);
  const bound = Buffer.concat([realm, id, address, integer(kind, 1)]);
  const to = publicOf(recipient);
  const block = sealAuth(sender, to, Buffer.concat([ascii('countersign.delivery.v1'), bound]), integer(1, 1), pad(container), seeds[0]);
  const cidPlain = Buffer.concat([integer(36, 1), cidBytes(block), Buffer.alloc(64 - 37)]);
  const sealedCid = sealAuth(sender, to, Buffer.concat([ascii('countersign.delivery-cid.v1'), bound]), Buffer.concat([integer(1, 1), digest]), cidPlain, seeds[1]);
  const hex = (bytes) => bytes.toString('hex');
  return {
    'sender-secret': hex(sender), 'sender-public': hex(publicOf(sender)),
    'recipient-secret': hex(recipient), 'recipient-public': hex(to),
    realm: hex(realm), 'delivery-id': hex(id), 'recipient-address': hex(address), kind, name, parts,
    salt: hex(salt), 'block-seed': hex(seeds[0]), 'cid-seed': hex(seeds[1]),
    container: hex(container), digest: hex(digest), block: hex(block), cid: cidText(block), 'sealed-cid': hex(sealedCid),
  };
}

// Records of 164 bytes for some recipients, padded to the next of 16, 64, 256, …, in pages of 256 that an index leads to.
function envelope({ sender, realm, id, kind, name, payloads, recipients, seed, padding }) {
  const hex = (bytes) => bytes.toString('hex');
  const bound = Buffer.concat([realm, id, integer(kind, 1)]);
  const sealed = payloads.map(({ salt, key, parts }) => {
    const container = containerOf({ kind, salt, name, parts });
    const digest = sha256(ascii('countersign.payload.v1'), salt, container);
    const block = Buffer.concat([integer(2, 1), aead(key, Buffer.alloc(12), Buffer.concat([ascii('countersign.envelope-payload.v1'), bound]), pad(container))]);
    return { salt, key, parts, digest, block };
  });
  const found = recipients.map(({ secret: own, address, payload, prekey }) => {
    const to = publicOf(own);
    const info = (label) => Buffer.concat([ascii(label), realm, id, address, integer(kind, 1)]);
    const { key, digest, block } = sealed[payload];
    const item = Buffer.concat([cidBytes(block), key, digest]);
    let inner = Buffer.concat([Buffer.alloc(16), item, Buffer.alloc(16)]);
    let prekeyId;
    if (prekey) {
      prekeyId = sha256(ascii('countersign.prekey.v1'), realm, address, publicOf(prekey)).subarray(0, 16);
      const once = context(null, publicOf(prekey), info('countersign.envelope-prekey.v1'), seed);
      inner = Buffer.concat([prekeyId, once.seal(Buffer.concat([integer(1, 1), prekeyId]), item)]);
    }
    const { seal, encapsulated, export: exported } = context(sender, to, info('countersign.envelope.v1'), seed);
    const tag = exported('countersign.envelope-tag.v1', 16);
    const record = Buffer.concat([tag, seal(Buffer.concat([integer(1, 1), tag]), inner)]);
    return { own, to, address, payload, prekey, prekeyId, tag, record, encapsulated };
  });
  let count = 16;
  while (count < found.length) count *= 4;
  const filler = (place) => Buffer.concat([0, 1, 2, 3, 4, 5].map((number) => sha256(ascii('countersign.envelope-padding.v1'), padding, integer(place, 4), integer(number, 1)))).subarray(0, 164);
  const records = [...found.map(({ record }) => record), ...Array.from({ length: count - found.length }, (_, place) => filler(place))].sort(Buffer.compare);
  const pages = [];
  for (let at = 0; at < count; at += 256) pages.push(records.slice(at, at + 256));
  const pageBlocks = pages.map((page) => Buffer.concat([integer(1, 1), ...page]));
  const rows = pages.flatMap((page, number) => [page[0].subarray(0, 16), sha256(pageBlocks[number])]);
  const index = Buffer.concat([integer(1, 1), integer(count, 4), found[0].encapsulated, ...rows]);
  return {
    'sender-secret': hex(sender), realm: hex(realm), 'delivery-id': hex(id), kind, name,
    'ephemeral-seed': hex(seed), 'padding-seed': hex(padding),
    payloads: sealed.map(({ salt, key, parts, digest, block }) => ({ salt: hex(salt), key: hex(key), parts, digest: hex(digest), block: hex(block) })),
    recipients: found.map(({ own, address, payload, prekey, prekeyId, tag }) => ({
      secret: hex(own), address: hex(address), payload, ...(prekey ? { 'prekey-secret': hex(prekey), 'prekey-id': hex(prekeyId) } : {}), tag: hex(tag),
    })),
    index: hex(index), 'index-digest': hex(sha256(index)),
    // What is long is told by its hash alone.
    'page-bytes': pageBlocks.map((page) => page.length), 'page-digests': pageBlocks.map((page) => hex(sha256(page))),
    ...(count === 16 ? { page: hex(pageBlocks[0]) } : {}),
  };
}

const certificate = 'ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAx alice/0123456789abcdef\n';
const privateKey = `-----BEGIN OPENSSH PRIVATE KEY-----\n${'b3BlbnNzaC1rZXktdjEAAAAA'.repeat(40)}\n-----END OPENSSH PRIVATE KEY-----\n`;
const pemKey = '-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n';
const pemChain = '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n'.repeat(2);
const one = { salt: fill(0x67, 32), key: fill(0x68, 32), parts: [{ tag: 5, text: 'hunter2' }] };
const people = { sender: fill(0x11, 32), recipient: fill(0x22, 32), realm: fill(0xa1, 32), id: fill(0xb2, 16), address: fill(0xc3, 20) };

console.log(JSON.stringify({
  command: 'node tests/vectors/delivery.mjs >tests/vectors/delivery.json',
  cids: [0, 1, 36, 1023, 262144].map((length) => {
    const block = fill(0x63, length);
    return { 'bytes-of-0x63': length, binary: cidBytes(block).toString('hex'), text: cidText(block) };
  }),
  buckets: [0, 1, 1020, 1021, 2044, 2045, 65532, 65533, 131068].map((length) => ({ container: length, padded: pad(fill(0x63, length)).length })),
  deliveries: [
    delivery({ ...people, kind: 1, name: 'alice.laptop', parts: [{ tag: 1, text: certificate }], salt: fill(0x31, 32), seeds: [fill(0x41, 32), fill(0x51, 32)] }),
    delivery({ ...people, kind: 2, name: 'alice', parts: [{ tag: 2, text: privateKey }], salt: fill(0x32, 32), seeds: [fill(0x42, 32), fill(0x52, 32)] }),
    delivery({ ...people, kind: 2, name: 'alice', parts: [{ tag: 1, text: certificate }, { tag: 2, text: privateKey }], salt: fill(0x33, 32), seeds: [fill(0x43, 32), fill(0x53, 32)] }),
    delivery({ ...people, kind: 3, name: 'host', parts: [{ tag: 1, text: certificate }], salt: fill(0x34, 32), seeds: [fill(0x44, 32), fill(0x54, 32)] }),
    delivery({ ...people, kind: 4, name: 'www', parts: [{ tag: 3, text: pemKey }, { tag: 4, text: pemChain }], salt: fill(0x35, 32), seeds: [fill(0x45, 32), fill(0x55, 32)] }),
    delivery({ ...people, kind: 5, name: 'token', parts: [{ tag: 5, text: 'hunter2' }], salt: fill(0x36, 32), seeds: [fill(0x46, 32), fill(0x56, 32)] }),
  ],
  envelopes: [
    envelope({
      ...people, kind: 5, name: 'token', seed: fill(0x61, 32), padding: fill(0x62, 32),
      payloads: [one, { salt: fill(0x65, 32), key: fill(0x66, 32), parts: [{ tag: 5, text: 'hunter3' }] }],
      recipients: [
        { secret: fill(0x22, 32), address: fill(0xc3, 20), payload: 0 },
        { secret: fill(0x23, 32), address: fill(0xc4, 20), payload: 0, prekey: fill(0x24, 32) },
        { secret: fill(0x22, 32), address: fill(0xc5, 20), payload: 1 },
      ],
    }),
    envelope({
      ...people, kind: 5, name: 'token', seed: fill(0x63, 32), padding: fill(0x64, 32), payloads: [one],
      recipients: Array.from({ length: 257 }, (_, number) => ({ secret: sha256(integer(number, 2)), address: sha256(integer(number, 2)).subarray(0, 20), payload: 0 })),
    }),
  ],
}, null, 1));
