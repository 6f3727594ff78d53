//! Ledger keys (secp256k1): read from an encrypted keystore file (version 3 JSON with scrypt, as geth, Foundry and others write
//! it) or from the environment, and made anew. Refuses key files that group or others may read, key files of another owner,
//! links, parameters that would take more than 1 GiB of memory, and never takes a key or password from the command line.

use std::{
    fmt,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aes::cipher::{KeyIvInit, StreamCipher};
use alloy_primitives::{Address, B256, Signature, U256, hex, keccak256};
use k256::ecdsa::SigningKey;
use nix::{libc, unistd::geteuid};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::ChainError;

/// Environment variable with the password of a keystore file.
pub const PASSWORD_VARIABLE: &str = "COUNTERSIGN_KEYSTORE_PASSWORD";
/// Environment variable with a raw key: 64 hexadecimal digits, `0x` allowed.
pub const KEY_VARIABLE: &str = "COUNTERSIGN_ACTOR_KEY";

/// scrypt's log2(N) for new files: with r = 8 that is 128 MiB and about half a second.
const LOG_N: u8 = 17;
const MAX_FILE: u64 = 64 * 1024;
const MAX_SCRYPT_MEMORY: u64 = 1 << 30;

type Aes128Ctr = ctr::Ctr128BE<aes::Aes128>;

/// A ledger key. Wiped from memory when dropped; `Debug` shows the address only.
#[derive(Clone)]
pub struct ActorKey {
    key: SigningKey,
    address: Address,
}

impl fmt::Debug for ActorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActorKey").field(&self.address).finish()
    }
}

/// Where a key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `COUNTERSIGN_ACTOR_KEY`.
    Environment,
    /// A keystore file.
    File(PathBuf),
}

impl ActorKey {
    /// A fresh key from the system's randomness.
    ///
    /// # Errors
    /// `Setting` when the system gives none.
    pub fn generate() -> Result<Self, ChainError> {
        let mut secret = Zeroizing::new([0u8; 32]);
        loop {
            random(secret.as_mut_slice())?;
            // Fails for zero and for numbers above the group order only: once in 2^128.
            if let Ok(key) = Self::from_secret(&secret) {
                return Ok(key);
            }
        }
    }

    /// The key with this secret scalar, big-endian.
    ///
    /// # Errors
    /// `Setting` when it is zero or not below the group order.
    pub fn from_secret(secret: &[u8; 32]) -> Result<Self, ChainError> {
        let key = SigningKey::from_slice(secret).map_err(|_| ChainError::Setting {
            what: "key",
            detail: "expected a number between 1 and the group order".into(),
        })?;
        let address = Address::from_public_key(key.verifying_key());
        Ok(Self { key, address })
    }

    /// From 64 hexadecimal digits, `0x` allowed. The text itself never appears in the error.
    ///
    /// # Errors
    /// `Setting` for anything else.
    pub fn from_hex(text: &str) -> Result<Self, ChainError> {
        let mut secret = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(text.trim(), secret.as_mut_slice())
            .map_err(|_| ChainError::Setting { what: "key", detail: "expected 64 hexadecimal digits".into() })?;
        Self::from_secret(&secret)
    }

    /// The account.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Signs a 32-byte hash (EIP-712 digest, transaction hash); low s, deterministic nonce.
    ///
    /// # Errors
    /// `Signing`, which no valid key meets.
    pub fn sign(&self, hash: &B256) -> Result<Signature, ChainError> {
        let (signature, recovery) = self
            .key
            .sign_prehash_recoverable(hash.as_slice())
            .map_err(|error| ChainError::Signing { account: self.address, detail: error.to_string() })?;
        Ok(Signature::from((signature, recovery)))
    }

    /// Loads the key. `environment` looks a variable up (`std::env::var_os` in a program); `prompt` asks the person and is called
    /// for a file only when the environment has no password.
    ///
    /// # Errors
    /// `Setting` for a missing or malformed variable, `File` and `KeyFile` for the file.
    pub fn load(
        source: &KeySource,
        environment: impl Fn(&str) -> Option<std::ffi::OsString>,
        prompt: impl FnOnce(&Path) -> std::io::Result<Zeroizing<String>>,
    ) -> Result<Self, ChainError> {
        let text = |name: &'static str| -> Result<Option<Zeroizing<String>>, ChainError> {
            environment(name)
                .map(|value| value.into_string().map(Zeroizing::new))
                .transpose()
                .map_err(|_| ChainError::Setting { what: name, detail: "expected UTF-8".into() })
        };
        match source {
            KeySource::Environment => {
                let key = text(KEY_VARIABLE)?.ok_or_else(|| ChainError::Setting {
                    what: KEY_VARIABLE,
                    detail: "expected a key, it is not set".into(),
                })?;
                Self::from_hex(&key)
            }
            KeySource::File(path) => {
                let file = read_private(path)?;
                let password = match text(PASSWORD_VARIABLE)? {
                    Some(password) => password,
                    None => prompt(path).map_err(|source| ChainError::File { path: path.clone(), source })?,
                };
                decrypt(path, &file, password.as_bytes())
            }
        }
    }

    /// Writes the key to a new keystore file, 0600, whole or not at all.
    ///
    /// # Errors
    /// `File`, also when the file exists already.
    pub fn store(&self, path: &Path, password: &str) -> Result<(), ChainError> {
        self.store_with_cost(path, password, LOG_N)
    }

    fn store_with_cost(&self, path: &Path, password: &str, log_n: u8) -> Result<(), ChainError> {
        let keystore = encrypt(self, password.as_bytes(), log_n)?;
        let json = serde_json::to_vec_pretty(&keystore)
            .map_err(|error| ChainError::KeyFile { path: path.to_owned(), detail: error.to_string() })?;
        let failed = |source| ChainError::File { path: path.to_owned(), source };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Made with mode 0600 before a byte is in it; takes its name only when it is complete, never over another file.
        let mut temporary = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        temporary.write_all(&json).map_err(failed)?;
        temporary.as_file().sync_all().map_err(failed)?;
        temporary.persist_noclobber(path).map_err(|error| failed(error.error))?;
        std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

/// The address that a keystore file says it holds, without its password; a hint for people, not a proof.
///
/// # Errors
/// `File` and `KeyFile`.
pub fn address_hint(path: &Path) -> Result<Option<Address>, ChainError> {
    let file = read_private(path)?;
    Ok(parse(path, &file)?.address.and_then(|text| text.parse().ok()))
}

#[derive(Serialize, Deserialize)]
struct Keystore {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    crypto: Crypto,
    #[serde(default)]
    id: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    kdf: String,
    kdfparams: serde_json::Value,
    mac: String,
}

#[derive(Serialize, Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Serialize, Deserialize)]
struct ScryptParams {
    dklen: u64,
    n: u64,
    p: u32,
    r: u32,
    salt: String,
}

pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, ChainError> {
    let failed = |source| ChainError::File { path: path.to_owned(), source };
    let refuse = |detail: String| Err(ChainError::KeyFile { path: path.to_owned(), detail });
    // O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK (a FIFO must not hang us); checks below are on this very descriptor.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return refuse("expected a regular file".into());
    }
    if metadata.mode() & 0o077 != 0 {
        return refuse(format!("expected mode 0600, got {:04o}", metadata.mode() & 0o7777));
    }
    let own = geteuid().as_raw();
    if metadata.uid() != own && metadata.uid() != 0 {
        return refuse(format!("expected owner uid {own}, got {}", metadata.uid()));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return refuse(format!("expected at most {MAX_FILE} bytes"));
    }
    Ok(bytes)
}

fn parse(path: &Path, file: &[u8]) -> Result<Keystore, ChainError> {
    serde_json::from_slice(file).map_err(|error| ChainError::KeyFile {
        path: path.to_owned(),
        detail: format!("expected a version 3 keystore: {error}"),
    })
}

fn decrypt(path: &Path, file: &[u8], password: &[u8]) -> Result<ActorKey, ChainError> {
    let refuse = |detail: &str| ChainError::KeyFile { path: path.to_owned(), detail: detail.to_owned() };
    let keystore = parse(path, file)?;
    let crypto = keystore.crypto;
    if keystore.version != 3 {
        return Err(refuse(&format!("expected version 3, got {}", keystore.version)));
    }
    if crypto.kdf != "scrypt" || crypto.cipher != "aes-128-ctr" {
        let detail = format!("expected scrypt and aes-128-ctr, got {:?} and {:?}", crypto.kdf, crypto.cipher);
        return Err(refuse(&detail));
    }
    let params: ScryptParams =
        serde_json::from_value(crypto.kdfparams).map_err(|error| refuse(&format!("scrypt parameters: {error}")))?;
    let memory = params.n.checked_mul(u64::from(params.r)).and_then(|product| product.checked_mul(128));
    let fits = memory.is_some_and(|memory| memory <= MAX_SCRYPT_MEMORY);
    if params.dklen != 32 || !params.n.is_power_of_two() || params.n < 2 || !fits || !(1..=64).contains(&params.p) {
        return Err(refuse("scrypt parameters: expected dklen 32, n a power of two, at most 1 GiB, p at most 64"));
    }
    let log_n = u8::try_from(params.n.trailing_zeros()).map_err(|_| refuse("scrypt parameters: n"))?;
    let bytes =
        |what: &str, text: &str| hex::decode(text).map_err(|_| refuse(&format!("{what}: expected hexadecimal digits")));
    let derived = derive(password, &bytes("salt", &params.salt)?, log_n, params.r, params.p)
        .ok_or_else(|| refuse("scrypt parameters out of range"))?;
    let mut secret = Zeroizing::new([0u8; 32]);
    let ciphertext = bytes("ciphertext", &crypto.ciphertext)?;
    if mac(&derived, &ciphertext).as_slice() != bytes("mac", &crypto.mac)? {
        return Err(refuse("wrong password"));
    }
    if ciphertext.len() != secret.len() {
        return Err(refuse("ciphertext: expected 32 bytes"));
    }
    secret.copy_from_slice(&ciphertext);
    let iv: [u8; 16] = bytes("iv", &crypto.cipherparams.iv)?.try_into().map_err(|_| refuse("iv: expected 16 bytes"))?;
    apply_cipher(&derived, &iv, secret.as_mut_slice());
    let key = ActorKey::from_secret(&secret)?;
    let named: Option<Address> = keystore.address.and_then(|text| text.parse().ok());
    if named.is_some_and(|named| named != key.address) {
        return Err(refuse(&format!("holds the key of {}, its address field says otherwise", key.address)));
    }
    Ok(key)
}

fn encrypt(key: &ActorKey, password: &[u8], log_n: u8) -> Result<Keystore, ChainError> {
    let (mut salt, mut iv, mut id) = ([0u8; 32], [0u8; 16], [0u8; 16]);
    random(&mut salt)?;
    random(&mut iv)?;
    random(&mut id)?;
    let derived = derive(password, &salt, log_n, 8, 1)
        .ok_or_else(|| ChainError::Setting { what: "scrypt", detail: "parameters out of range".into() })?;
    let mut text = Zeroizing::new([0u8; 32]);
    text.copy_from_slice(&key.key.to_bytes());
    apply_cipher(&derived, &iv, text.as_mut_slice());
    let n = 1u64.checked_shl(u32::from(log_n)).unwrap_or_default();
    Ok(Keystore {
        address: Some(hex::encode(key.address)),
        crypto: Crypto {
            cipher: "aes-128-ctr".into(),
            cipherparams: CipherParams { iv: hex::encode(iv) },
            ciphertext: hex::encode(text.as_slice()),
            kdf: "scrypt".into(),
            kdfparams: serde_json::json!({ "dklen": 32, "n": n, "p": 1, "r": 8, "salt": hex::encode(salt) }),
            mac: hex::encode(mac(&derived, text.as_slice())),
        },
        id: uuid(U256::from_be_slice(&id)),
        version: 3,
    })
}

/// A random (version 4) UUID in text.
fn uuid(random: U256) -> String {
    let digits = format!("{random:032x}");
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default().to_owned();
    format!("{}-{}-4{}-a{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

fn derive(password: &[u8], salt: &[u8], log_n: u8, r: u32, p: u32) -> Option<Zeroizing<[u8; 32]>> {
    let params = scrypt::Params::new(log_n, r, p).ok()?;
    let mut derived = Zeroizing::new([0u8; 32]);
    scrypt::scrypt(password, salt, &params, derived.as_mut_slice()).ok()?;
    Some(derived)
}

/// keccak256(last half of the derived key ‖ ciphertext)
fn mac(derived: &[u8; 32], ciphertext: &[u8]) -> B256 {
    let (_, second) = derived.split_at(16);
    keccak256([second, ciphertext].concat())
}

fn apply_cipher(derived: &[u8; 32], iv: &[u8; 16], data: &mut [u8]) {
    let (first, _) = derived.split_at(16);
    let mut key = Zeroizing::new([0u8; 16]);
    key.copy_from_slice(first);
    Aes128Ctr::new((&*key).into(), iv.into()).apply_keystream(data);
}

fn random(bytes: &mut [u8]) -> Result<(), ChainError> {
    getrandom::fill(bytes).map_err(|error| ChainError::Setting { what: "randomness", detail: error.to_string() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    // The scrypt example of the Web3 Secret Storage Definition (ethereum.org), password "testpassword".
    const EXAMPLE: &str = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},
        "ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c","kdf":"scrypt",
        "kdfparams":{"dklen":32,"n":262144,"r":1,"p":8,"salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},
        "mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},
        "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;

    fn nothing(_: &str) -> Option<std::ffi::OsString> {
        None
    }

    fn answer(text: &'static str) -> impl FnOnce(&Path) -> std::io::Result<Zeroizing<String>> {
        move |_| Ok(Zeroizing::new(text.to_owned()))
    }

    fn stored(directory: &Path, key: &ActorKey) -> PathBuf {
        let path = directory.join("actor.json");
        key.store_with_cost(&path, "correct horse", 4).unwrap();
        path
    }

    #[test]
    fn the_published_example_opens() {
        let key = decrypt(Path::new("example"), EXAMPLE.as_bytes(), b"testpassword").unwrap();
        let expected = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
        assert_eq!(key.address(), ActorKey::from_hex(expected).unwrap().address());
    }

    #[test]
    fn a_wrong_password_is_told_apart_from_a_broken_file() {
        let error = decrypt(Path::new("example"), EXAMPLE.as_bytes(), b"testpasswore").unwrap_err();
        assert_eq!(error.to_string(), "key file example: wrong password");
        let cut = EXAMPLE.get(..EXAMPLE.len() - 1).unwrap();
        let error = decrypt(Path::new("example"), cut.as_bytes(), b"testpassword").unwrap_err();
        assert!(error.to_string().starts_with("key file example: expected a version 3 keystore: "), "{error}");
    }

    #[test]
    fn every_altered_digit_of_the_ciphertext_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = stored(directory.path(), &ActorKey::generate().unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        let start = text.find("\"ciphertext\": \"").unwrap() + 15;
        for offset in 0..64 {
            let mut altered = text.clone().into_bytes();
            let digit = altered.get_mut(start + offset).unwrap();
            *digit = if *digit == b'0' { b'1' } else { b'0' };
            let error = decrypt(&path, &altered, b"correct horse").unwrap_err();
            assert!(error.to_string().ends_with(": wrong password"), "{error}");
        }
    }

    #[test]
    fn parameters_that_would_eat_the_memory_are_refused() {
        let text = EXAMPLE.replace("262144", "1073741824");
        let error = decrypt(Path::new("example"), text.as_bytes(), b"testpassword").unwrap_err();
        assert_eq!(
            error.to_string(),
            "key file example: scrypt parameters: expected dklen 32, n a power of two, at most 1 GiB, p at most 64"
        );
    }

    #[test]
    fn a_stored_key_is_read_back_with_password_from_prompt_or_environment() {
        let directory = tempfile::tempdir().unwrap();
        let key = ActorKey::generate().unwrap();
        let path = stored(directory.path(), &key);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let source = KeySource::File(path.clone());
        assert_eq!(ActorKey::load(&source, nothing, answer("correct horse")).unwrap().address(), key.address());
        let environment = |name: &str| (name == PASSWORD_VARIABLE).then(|| "correct horse".into());
        let never = |_: &Path| panic!("the environment has the password");
        assert_eq!(ActorKey::load(&source, environment, never).unwrap().address(), key.address());
        assert_eq!(address_hint(&path).unwrap(), Some(key.address()));
    }

    #[test]
    fn a_raw_key_comes_from_its_variable_only() {
        let environment = |name: &str| (name == KEY_VARIABLE).then(|| format!("0x{}", "11".repeat(32)).into());
        let key = ActorKey::load(&KeySource::Environment, environment, answer("")).unwrap();
        assert_eq!(key.address(), "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A".parse::<Address>().unwrap());
        assert_eq!(
            ActorKey::load(&KeySource::Environment, nothing, answer("")).unwrap_err().to_string(),
            "COUNTERSIGN_ACTOR_KEY: expected a key, it is not set"
        );
        assert_eq!(format!("{key:?}"), "ActorKey(0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a)");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = stored(directory.path(), &ActorKey::generate().unwrap());
        for mode in [0o640, 0o604, 0o620, 0o644] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = ActorKey::load(&KeySource::File(path.clone()), nothing, answer("correct horse")).unwrap_err();
            let expected = format!("key file {}: expected mode 0600, got {mode:04o}", path.display());
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_link_and_a_directory_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = stored(directory.path(), &ActorKey::generate().unwrap());
        let link = directory.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(address_hint(&link), Err(ChainError::File { .. })));
        let error = address_hint(directory.path()).unwrap_err();
        assert!(error.to_string().ends_with(": expected a regular file"), "{error}");
    }

    #[test]
    fn an_existing_file_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let key = ActorKey::generate().unwrap();
        let path = stored(directory.path(), &key);
        assert!(matches!(
            ActorKey::generate().unwrap().store_with_cost(&path, "other", 4),
            Err(ChainError::File { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists
        ));
        assert_eq!(address_hint(&path).unwrap(), Some(key.address()));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_names_another_address_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = stored(directory.path(), &ActorKey::from_hex(&"11".repeat(32)).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        let altered = text.replace("19e7e376e7c213b7e7e7e46cc70a5dd086daff2a", &"22".repeat(20));
        assert_ne!(altered, text);
        let error = decrypt(&path, altered.as_bytes(), b"correct horse").unwrap_err();
        assert!(error.to_string().contains("its address field says otherwise"), "{error}");
    }
}
