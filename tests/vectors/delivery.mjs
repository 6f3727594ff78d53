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

function delivery({ sender, recipient, realm, id, address, kind, name, parts, salt, seeds }) {
  const container = Buffer.concat([
    integer(1, 1), integer(kind, 1), salt, integer(name.length, 1), ascii(name), integer(parts.length, 1),
    ...parts.flatMap(({ tag, text }) => [integer(tag, 1), integer(text.length, 4), ascii(text)]),
  ]);
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

const certificate = 'ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAx alice/0123456789abcdef\n';
const privateKey = `-----BEGIN OPENSSH PRIVATE KEY-----\n${'b3BlbnNzaC1rZXktdjEAAAAA'.repeat(40)}\n-----END OPENSSH PRIVATE KEY-----\n`;
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
  ],
}, null, 1));
