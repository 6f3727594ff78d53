//! A client that offers whatever bytes it is given as a public key. `ssh` and russh read a certificate before they send it, and so
//! keep the worst ones from sshd; somebody who attacks does not.
//!
//! It speaks just enough of SSH (RFC 4253, 4252; curve25519-sha256, aes128-ctr, hmac-sha2-256) to ask whether a key would do. sshd
//! answers yes only after every check but that of the client's own signature. The server's host key is not looked at.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    thread,
};

use aes::Aes128;
use ctr::{
    Ctr128BE,
    cipher::{KeyIvInit as _, StreamCipher as _},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::{realm, sshd::PORT, wait::DEADLINE};

const VERSION: &[u8] = b"SSH-2.0-scenario";
const MAC_BYTES: usize = 32;
/// Enough of them to tell about any key, few enough that sshd (`MaxAuthTries 6`) keeps the connection.
const OFFERS: usize = 5;

const DISCONNECT: u8 = 1;
const SERVICE_REQUEST: u8 = 5;
const SERVICE_ACCEPT: u8 = 6;
const KEXINIT: u8 = 20;
const NEWKEYS: u8 = 21;
const ECDH_INIT: u8 = 30;
const ECDH_REPLY: u8 = 31;
const USERAUTH_REQUEST: u8 = 50;
const USERAUTH_FAILURE: u8 = 51;
const USERAUTH_PK_OK: u8 = 60;

/// What sshd says to an offered key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It would do, with the client's signature.
    Taken,
    /// It would not.
    Refused,
}

/// An SSH string.
///
/// # Panics
/// Where it is longer than 4 GiB.
#[must_use]
pub fn string(content: &[u8]) -> Vec<u8> {
    [&u32::try_from(content.len()).expect("a short string").to_be_bytes()[..], content].concat()
}

/// Offers public keys, each by its algorithm's name and its blob, for `login`.
///
/// # Panics
/// Where sshd does anything but answer each offer.
#[must_use]
pub fn offer(login: &str, keys: &[(&str, &[u8])]) -> Vec<Offer> {
    keys.chunks(OFFERS).flat_map(|keys| Connection::open(PORT).offers(login, keys)).collect()
}

/// Offers all blobs for `login`, under one algorithm's name, over as many connections at a time as told. The answers are in the order
/// of the blobs. sshd has to allow for that many on one connection (`MaxAuthTries`).
///
/// # Panics
/// As [`offer`].
#[must_use]
pub fn offer_all(login: &str, algorithm: &str, blobs: &[Vec<u8>], connections: usize) -> Vec<Offer> {
    let keys: Vec<(&str, &[u8])> = blobs.iter().map(|blob| (algorithm, blob.as_slice())).collect();
    offer_each(PORT, login, &keys, connections)
}

/// The same at any port, each blob under a name of its own.
///
/// # Panics
/// As [`offer`].
#[must_use]
pub fn offer_each(port: u16, login: &str, keys: &[(&str, &[u8])], connections: usize) -> Vec<Offer> {
    let share = keys.len().div_ceil(connections.max(1)).max(1);
    thread::scope(|scope| {
        let threads: Vec<_> =
            keys.chunks(share).map(|keys| scope.spawn(move || Connection::open(port).offers(login, keys))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("an answer to each offer")).collect()
    })
}

/// One direction's cipher and MAC key; none before keys are exchanged.
struct Half {
    sequence: u32,
    keys: Option<(Ctr128BE<Aes128>, [u8; 32])>,
}

impl Half {
    fn mac(&self, packet: &[u8]) -> Option<[u8; MAC_BYTES]> {
        let (_, key) = self.keys.as_ref()?;
        let mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
        Some(mac.chain_update(self.sequence.to_be_bytes()).chain_update(packet).finalize().into_bytes().into())
    }

    fn apply(&mut self, bytes: &mut [u8]) {
        if let Some((cipher, _)) = &mut self.keys {
            cipher.apply_keystream(bytes);
        }
    }
}

struct Connection {
    stream: BufReader<TcpStream>,
    out: Half,
    into: Half,
}

impl Connection {
    fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("sshd listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        let half = || Half { sequence: 0, keys: None };
        let mut connection = Self { stream: BufReader::new(stream), out: half(), into: half() };
        connection.exchange_keys();
        let request = [&[SERVICE_REQUEST][..], &string(b"ssh-userauth")].concat();
        connection.send(&request);
        assert_eq!(connection.receive().first(), Some(&SERVICE_ACCEPT));
        connection
    }

    fn offers(mut self, login: &str, keys: &[(&str, &[u8])]) -> Vec<Offer> {
        let mut answers = Vec::new();
        for (algorithm, blob) in keys {
            let mut request = vec![USERAUTH_REQUEST];
            for field in [login.as_bytes(), b"ssh-connection", b"publickey"] {
                request.extend_from_slice(&string(field));
            }
            request.push(0);
            request.extend_from_slice(&string(algorithm.as_bytes()));
            request.extend_from_slice(&string(blob));
            self.send(&request);
            let answer = self.receive();
            answers.push(match answer.first() {
                Some(&USERAUTH_PK_OK) => Offer::Taken,
                Some(&USERAUTH_FAILURE) => Offer::Refused,
                _ => panic!("sshd answered an offered key with {answer:?}"),
            });
        }
        answers
    }

    fn exchange_keys(&mut self) {
        self.stream.get_mut().write_all(&[VERSION, b"\r\n"].concat()).expect("sending the version");
        let mut server_version = String::new();
        self.stream.read_line(&mut server_version).expect("sshd's version");
        let mut kexinit = [&[KEXINIT][..], &realm::random::<16>()].concat();
        let (cipher, mac, none) = (b"aes128-ctr", b"hmac-sha2-256", b"none");
        let lists: [&[u8]; 10] = [b"curve25519-sha256", b"ssh-ed25519", cipher, cipher, mac, mac, none, none, b"", b""];
        for list in lists {
            kexinit.extend_from_slice(&string(list));
        }
        kexinit.extend_from_slice(&[0; 5]);
        self.send(&kexinit);
        let server_kexinit = self.receive();
        assert_eq!(server_kexinit.first(), Some(&KEXINIT));

        let secret = StaticSecret::from(realm::random::<32>());
        let public = PublicKey::from(&secret);
        self.send(&[&[ECDH_INIT][..], &string(public.as_bytes())].concat());
        let reply = self.receive();
        let (&ECDH_REPLY, fields) = reply.split_first().expect("a message") else { panic!("no key exchange") };
        let (host_key, fields) = split_string(fields);
        let (server_public, _) = split_string(fields);
        let theirs: [u8; 32] = server_public.try_into().expect("an X25519 key");
        let shared = mpint(secret.diffie_hellman(&PublicKey::from(theirs)).as_bytes());
        let mut hash = Sha256::new();
        for part in [VERSION, server_version.trim_end().as_bytes(), &kexinit, &server_kexinit, host_key] {
            hash.update(string(part));
        }
        hash.update(string(public.as_bytes()));
        hash.update(string(server_public));
        hash.update(&shared);
        let session: [u8; 32] = hash.finalize().into();

        let key = |letter: u8| -> [u8; 32] {
            let hash = Sha256::new().chain_update(&shared).chain_update(session).chain_update([letter]);
            hash.chain_update(session).finalize().into()
        };
        let keys = |iv: u8, cipher: u8, mac: u8| {
            let half = |letter| -> [u8; 16] { *key(letter).first_chunk().expect("32 bytes") };
            Some((Ctr128BE::<Aes128>::new(&half(cipher).into(), &half(iv).into()), key(mac)))
        };
        self.send(&[NEWKEYS]);
        assert_eq!(self.receive(), [NEWKEYS]);
        self.out.keys = keys(b'A', b'C', b'E');
        self.into.keys = keys(b'B', b'D', b'F');
    }

    fn send(&mut self, payload: &[u8]) {
        let unpadded = payload.len().saturating_add(5);
        let padding = 16_usize.saturating_sub(unpadded % 16).saturating_add(16);
        let length = u32::try_from(payload.len().saturating_add(padding).saturating_add(1)).expect("a short packet");
        let mut packet = length.to_be_bytes().to_vec();
        packet.push(u8::try_from(padding).expect("at most 32"));
        packet.extend_from_slice(payload);
        packet.resize(unpadded.saturating_add(padding), 0);
        let mac = self.out.mac(&packet);
        self.out.apply(&mut packet);
        packet.extend(mac.into_iter().flatten());
        self.out.sequence = self.out.sequence.wrapping_add(1);
        self.stream.get_mut().write_all(&packet).expect("sending to sshd");
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut packet = vec![0; 16];
        self.stream.read_exact(&mut packet).expect("sshd answers");
        self.into.apply(&mut packet);
        let length = packet.first_chunk().copied().map(u32::from_be_bytes).expect("16 bytes");
        let length = usize::try_from(length).expect("a length").saturating_add(4);
        assert!((16..=65_536).contains(&length), "a packet of {length} bytes");
        let mut rest = vec![0; length.saturating_sub(16)];
        self.stream.read_exact(&mut rest).expect("the rest of a packet");
        self.into.apply(&mut rest);
        packet.extend_from_slice(&rest);
        if let Some(expected) = self.into.mac(&packet) {
            let mut mac = [0; MAC_BYTES];
            self.stream.read_exact(&mut mac).expect("a packet's MAC");
            assert_eq!(mac, expected, "the MAC of sshd's packet");
        }
        self.into.sequence = self.into.sequence.wrapping_add(1);
        let padding = usize::from(packet.get(4).copied().expect("a padding length"));
        let payload = packet.get(5..length.saturating_sub(padding)).expect("a payload").to_vec();
        assert!(payload.first() != Some(&DISCONNECT), "sshd hung up: {}", String::from_utf8_lossy(&payload));
        payload
    }
}

fn split_string(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = bytes.split_first_chunk().expect("a length");
    rest.split_at(usize::try_from(u32::from_be_bytes(*length)).expect("a length"))
}

/// An unsigned number in the form of RFC 4251.
fn mpint(number: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
    let sign: &[u8] = if digits.first().is_some_and(|byte| *byte >= 0x80) { &[0] } else { &[] };
    string(&[sign, &digits].concat())
}
