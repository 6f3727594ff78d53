//! Certificates that are wrong in one place or a few: a good one's fields are laid out, some of them are replaced by what a CA could
//! write there, or the bytes are cut, stretched and flipped; then it is signed, or not quite.

use super::keys::{Hash, Key, string};

/// Numbers that are always the same for a seed (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// Those of one case, whatever the other cases need of theirs.
    pub(crate) fn of(seed: u64, case: usize) -> Self {
        let mut random = Self(seed);
        random.0 = random.next() ^ u64::try_from(case).unwrap();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_be_bytes()[0]).collect()
    }
}

type Options = Vec<(Vec<u8>, Vec<u8>)>;

/// A certificate's fields.
#[derive(Clone)]
pub(crate) struct Draft {
    /// The type of the certificate.
    pub(crate) kind: Vec<u8>,
    /// The CA's random bytes.
    pub(crate) nonce: Vec<u8>,
    /// The fields of the certified key, as they stand there.
    pub(crate) key: Vec<u8>,
    /// The serial.
    pub(crate) serial: u64,
    /// 1 user, 2 host.
    pub(crate) cert_type: u32,
    /// The key id.
    pub(crate) key_id: Vec<u8>,
    /// The principals.
    pub(crate) principals: Vec<Vec<u8>>,
    /// Unix seconds.
    pub(crate) valid_after: u64,
    /// Unix seconds.
    pub(crate) valid_before: u64,
    /// Names and data.
    pub(crate) critical: Options,
    /// Names and data.
    pub(crate) extensions: Options,
    /// What is reserved.
    pub(crate) reserved: Vec<u8>,
    /// The key that is said to have signed it.
    pub(crate) signature_key: Vec<u8>,
}

impl Draft {
    /// A user certificate for `key` by `ca`, valid from `times.0` to before `times.1`.
    pub(crate) fn new(key: &Key, ca: &Key, login: &[u8], times: (u64, u64), extensions: Options) -> Self {
        Self {
            kind: certificate_name(key.name()),
            nonce: vec![9; 32],
            key: key.fields().to_vec(),
            serial: 5,
            cert_type: 1,
            key_id: b"alice/0123".to_vec(),
            principals: vec![login.to_vec()],
            valid_after: times.0,
            valid_before: times.1,
            critical: Vec::new(),
            extensions,
            reserved: Vec::new(),
            signature_key: ca.blob.clone(),
        }
    }

    fn fields(&self) -> Vec<Vec<u8>> {
        let options = |options: &Options| -> Vec<u8> {
            options.iter().flat_map(|(name, data)| [string(name), string(data)].concat()).collect()
        };
        vec![
            string(&self.kind),
            string(&self.nonce),
            self.key.clone(),
            self.serial.to_be_bytes().to_vec(),
            self.cert_type.to_be_bytes().to_vec(),
            string(&self.key_id),
            string(&self.principals.iter().flat_map(|name| string(name)).collect::<Vec<u8>>()),
            self.valid_after.to_be_bytes().to_vec(),
            self.valid_before.to_be_bytes().to_vec(),
            string(&options(&self.critical)),
            string(&options(&self.extensions)),
            string(&self.reserved),
            string(&self.signature_key),
        ]
    }
}

fn certificate_name(key: &[u8]) -> Vec<u8> {
    match key.strip_suffix(b"@openssh.com") {
        Some(token) => [token, b"-cert-v01@openssh.com"].concat(),
        None => [key, b"-cert-v01@openssh.com"].concat(),
    }
}

/// A certificate, and what was done to it.
pub(crate) struct Mutant {
    /// In words.
    pub(crate) what: Vec<&'static str>,
    /// The certificate.
    pub(crate) blob: Vec<u8>,
    /// The name of the certificate's type, as it would be written before it.
    pub(crate) kind: Vec<u8>,
    /// The CA that signed it.
    pub(crate) ca: Vec<u8>,
    /// Whether it did, before the signature was touched.
    pub(crate) signed: bool,
}

/// Where mutants come from.
pub(crate) struct Source<'a> {
    /// Keys of CAs, the good one's first.
    pub(crate) cas: &'a [Key],
    /// Keys of users, the good one's first.
    pub(crate) users: &'a [Key],
    /// Times to choose from.
    pub(crate) times: &'a [u64],
    /// The name of the good principal.
    pub(crate) login: &'a [u8],
    /// A good one's times.
    pub(crate) valid: (u64, u64),
    /// A good one's extensions.
    pub(crate) extensions: Options,
}

const STRANGE: [&[u8]; 20] = [
    b"",
    b" ",
    b"\0",
    b"deploy\0",
    b"\0deploy",
    b"deploy,root",
    b"*",
    b"?",
    b"!root",
    b"deploy ",
    b"\tdeploy",
    b"\"",
    b"\\",
    b"a\nb",
    b"\r",
    b"\x1b[2J",
    "d\u{e9}ploy".as_bytes(),
    b"\xff\xfe",
    b"\xc0\x80",
    "\u{202e}yolped".as_bytes(),
];

impl Source<'_> {
    /// One of them.
    pub(crate) fn mutant(&self, random: &mut Random) -> Mutant {
        // Mostly the good one's key and CA: what the mutation does shall be seen.
        let ca = if random.below(6) == 0 { random.one(self.cas) } else { &self.cas[0] };
        let user = if random.below(3) == 0 { random.one(self.users) } else { &self.users[0] };
        let mut draft = Draft::new(user, ca, self.login, self.valid, self.extensions.clone());
        let mut what = Vec::new();
        let mut hash = *random.one(&[Hash::Usual, Hash::Usual, Hash::Usual, Hash::Sha256, Hash::Sha1]);
        for _ in 0..random.below(4) {
            what.push(self.change(&mut draft, random));
        }
        if random.below(16) == 0 {
            hash = Hash::Sha1;
        }
        if draft.signature_key != ca.blob {
            what.push("another signature key");
        }
        let mut fields = draft.fields();
        if random.below(5) == 0 {
            what.push(stretch(&mut fields, random));
        }
        let mut bytes = fields.concat();
        if random.below(6) == 0 {
            what.push(scratch(&mut bytes, random));
        }
        let mut signature = ca.sign(&bytes, hash);
        let mut signed = true;
        if random.below(6) == 0 {
            what.push(spoil(&mut signature, random));
            signed = false;
        }
        bytes.extend_from_slice(&string(&signature));
        if random.below(24) == 0 {
            what.push("bytes behind");
            let count = random.below(4) + 1;
            bytes.extend_from_slice(&random.bytes(count));
        }
        Mutant { what, blob: bytes, kind: draft.kind, ca: ca.blob.clone(), signed }
    }

    fn change(&self, draft: &mut Draft, random: &mut Random) -> &'static str {
        match random.below(18) {
            0 => {
                let length = *random.one(&[0, 1, 31, 33, 64, 65, 1000]);
                draft.nonce = random.bytes(length);
                "nonce"
            }
            1 => {
                draft.serial = *random.one(&[0, 1, u64::MAX, 1 << 63, 0x0123_4567_89ab_cdef]);
                "serial"
            }
            2 => {
                draft.cert_type = *random.one(&[0, 2, 2, 3, 0x0100_0000, u32::MAX]);
                "type"
            }
            3 => {
                let strange = random.one(&STRANGE).to_vec();
                draft.key_id = if random.below(4) == 0 { vec![b'x'; 5000] } else { strange };
                "key id"
            }
            4 => {
                draft.principals = match random.below(4) {
                    0 => Vec::new(),
                    1 => vec![random.one(&STRANGE).to_vec()],
                    2 => vec![random.one(&STRANGE).to_vec(), self.login.to_vec()],
                    _ => vec![self.login.to_vec(); *random.one(&[2, 3, 255, 256, 257])],
                };
                "principals"
            }
            5 => {
                draft.valid_after = *random.one(self.times);
                "valid after"
            }
            6 => {
                draft.valid_before = *random.one(self.times);
                "valid before"
            }
            7 | 8 => {
                let option = critical(random);
                draft.critical.push(option);
                if random.below(2) == 0 {
                    let option = critical(random);
                    draft.critical.push(option);
                }
                if random.below(2) == 0 {
                    draft.critical.sort();
                }
                "critical options"
            }
            9 => {
                let name = random.one(&STRANGE).to_vec();
                let data = string(&name);
                let options = if random.below(2) == 0 { &mut draft.critical } else { &mut draft.extensions };
                options.push((name, data));
                options.sort();
                "an option's name"
            }
            10 => {
                let count = *random.one(&[63, 64, 65, 200]);
                draft.extensions.extend((0..count).map(|at| (format!("x{at:03}@example").into_bytes(), Vec::new())));
                draft.extensions.sort();
                "many extensions"
            }
            11 => {
                if let Some(first) = draft.extensions.first().cloned() {
                    let second = (first.0.clone(), string(b"again"));
                    draft.extensions.insert(random.below(2), second);
                }
                "an extension twice"
            }
            12 => {
                draft.extensions.reverse();
                "extensions in another order"
            }
            13 => {
                match random.below(3) {
                    0 => draft.extensions.clear(),
                    1 => draft.extensions.truncate(1),
                    _ => {
                        let at = random.below(draft.extensions.len().max(1));
                        let data =
                            random.one(&[&b""[..], b"\0", b"\0\0\0\x01x", b"\0\0\0\x09x", b"\0\0\0\x01xy"]).to_vec();
                        if let Some(option) = draft.extensions.get_mut(at) {
                            option.1 = data;
                        }
                    }
                }
                "an extension"
            }
            14 => {
                let count = random.below(9);
                draft.reserved = random.bytes(count);
                "reserved"
            }
            15 => self.signature_key(draft, random),
            16 => {
                draft.kind = match random.below(3) {
                    0 => certificate_name(random.one(self.users).name()),
                    1 => draft.kind.to_ascii_uppercase(),
                    _ => random
                        .one(&[
                            &b"ssh-ed25519"[..],
                            b"ssh-rsa",
                            b"ssh-dss-cert-v01@openssh.com",
                            b"rsa-sha2-512-cert-v01@openssh.com",
                            b"ssh-ed25519-cert-v00@openssh.com",
                            b"",
                            b"ssh-ed25519-cert-v01@openssh.com\0",
                            b"\xff",
                        ])
                        .to_vec(),
                };
                // For OpenSSH this is a name of the same type.
                if draft.kind.starts_with(b"rsa-sha2-512-cert") {
                    draft.key = self.users[1].fields().to_vec();
                }
                "certificate type"
            }
            _ => self.certified_key(draft, random),
        }
    }

    /// Something else in the place of the CA's key.
    fn signature_key(&self, draft: &mut Draft, random: &mut Random) -> &'static str {
        let own = draft.signature_key.clone();
        draft.signature_key = match random.below(6) {
            // Signed by a certificate, which for sshd is no key that signs.
            0 | 1 => {
                let inner = draft.fields().concat();
                let signature = self.cas[0].sign(&inner, Hash::Usual);
                [inner, string(&signature)].concat()
            }
            2 => [&own[..], &[0]].concat(),
            3 => own[..random.below(own.len().max(1))].to_vec(),
            4 => Vec::new(),
            _ => random.one(self.cas).blob.clone(),
        };
        "signature key"
    }

    /// Another way to write down the certified key, or no key at all.
    fn certified_key(&self, draft: &mut Draft, random: &mut Random) -> &'static str {
        let modulus = [&[0, 0xc1][..], &random.bytes(127), &[1]].concat();
        let point = |first: u8, size: usize| [&[first][..], &vec![7; size]].concat();
        let (kind, parts): (&[u8], Vec<Vec<u8>>) = match random.below(16) {
            0 => (b"ssh-ed25519", vec![vec![1; 31]]),
            1 => (b"ssh-ed25519", vec![vec![1; 33]]),
            2 => (b"ssh-ed25519", vec![Vec::new()]),
            3 => (b"ssh-rsa", vec![vec![1, 0, 1], modulus]),
            4 => (b"ssh-rsa", vec![vec![1, 0, 1], [&[0][..], &modulus].concat()]),
            5 => (b"ssh-rsa", vec![vec![0, 1, 0, 1], modulus]),
            6 => (b"ssh-rsa", vec![vec![1, 0, 1], modulus[1..].to_vec()]),
            7 => (b"ssh-rsa", vec![vec![*random.one(&[0, 1, 2, 3])], modulus]),
            8 => (b"ssh-rsa", vec![vec![1, 0, 1], vec![0x7f; *random.one(&[1, 64, 127, 2048, 2049])]]),
            9 => (b"ssh-rsa", vec![vec![1; 9], modulus]),
            10 => (
                b"ecdsa-sha2-nistp256",
                vec![b"nistp256".to_vec(), point(*random.one(&[4, 3, 2, 0, 6]), *random.one(&[64, 32, 0]))],
            ),
            11 => {
                (b"ecdsa-sha2-nistp256", vec![random.one(&[&b"nistp384"[..], b"", b"NISTP256"]).to_vec(), point(4, 64)])
            }
            12..15 => (
                b"sk-ssh-ed25519@openssh.com",
                vec![vec![1; 32], random.one(&[&b""[..], b"ssh:", b"ssh:\0", b"\xff"]).to_vec()],
            ),
            _ => {
                // A point of its curve, written in its other form.
                let key = &self.users[2];
                let fields = key.fields();
                let x = &fields[fields.len() - 64..fields.len() - 32];
                let sign = 2 + (fields[fields.len() - 1] & 1);
                (b"ecdsa-sha2-nistp256", vec![b"nistp256".to_vec(), [&[sign][..], x].concat()])
            }
        };
        draft.kind = certificate_name(kind);
        draft.key = parts.iter().flat_map(|part| string(part)).collect();
        "certified key"
    }
}

fn critical(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let name = *random.one(&[
        &b"force-command"[..],
        b"source-address",
        b"verify-required",
        b"no-touch-required",
        b"unknown@example",
        b"permit-pty",
    ]);
    let data = match random.below(6) {
        0 => Vec::new(),
        1 => string(b""),
        2 => string(b"127.0.0.1/32"),
        3 => [&string(b"id")[..], b"x"].concat(),
        4 => string(random.one::<&[u8]>(&[
            b"id",
            b"a\0b",
            b"10.0.0.0/8",
            b"127.0.0.1/8",
            b"127.0.0.0/8,::1",
            b"!127.0.0.1",
            b"host",
        ])),
        _ => random.one(&[&b"\0\0"[..], b"\0\0\0\xff", b"id", b"\0\0\0\x02i"]).to_vec(),
    };
    (name.to_vec(), data)
}

/// Changes the length before a field, or what stands there as a whole.
fn stretch(fields: &mut Vec<Vec<u8>>, random: &mut Random) -> &'static str {
    let at = random.below(fields.len());
    let length = fields[at].len();
    match random.below(5) {
        0 | 1 => {
            // Of numbers it is their own high bytes.
            let by = *random.one(&[1, 0xff, 4, 0x80]);
            if let Some(byte) = fields[at].get_mut(random.below(2) * 3) {
                *byte = byte.wrapping_add(by);
            }
            "a length"
        }
        2 => {
            fields.remove(at);
            "a field that is missing"
        }
        3 => {
            let twice = fields[at].clone();
            fields.insert(at, twice);
            "a field twice"
        }
        _ => {
            fields[at].truncate(random.below(length + 1));
            "a field cut off"
        }
    }
}

/// Flips, cuts or adds bytes anywhere.
fn scratch(bytes: &mut Vec<u8>, random: &mut Random) -> &'static str {
    let at = random.below(bytes.len());
    match random.below(4) {
        0 | 1 => {
            bytes[at] ^= 1 << random.below(8);
            "a flipped bit"
        }
        2 => {
            bytes.truncate(at + 1);
            "cut off"
        }
        _ => {
            let byte = random.bytes(1)[0];
            bytes.insert(at, byte);
            "a byte more"
        }
    }
}

/// Makes a signature not quite one.
fn spoil(signature: &mut Vec<u8>, random: &mut Random) -> &'static str {
    let at = random.below(signature.len());
    match random.below(5) {
        0 | 1 => {
            signature[at] ^= 1 << random.below(8);
            "a flipped bit in the signature"
        }
        2 => {
            signature.truncate(at);
            "a signature cut off"
        }
        3 => {
            signature.push(0);
            "a byte behind the signature proper"
        }
        _ => {
            *signature = [string(b"ssh-ed25519"), string(&[3; 64])].concat();
            "a signature by nobody"
        }
    }
}
