//! X25519 keys: those that devices and senders publish at enrolment, and the files that keep the secret halves.
//!
//! A secret key file is made once, mode 0600, never overwritten, and refused when others can read or write it, when it is a link or
//! when it belongs to somebody else. Public keys of low order and non-canonical encodings are refused when parsed.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::error::{DeliveryError, hex};

const FILE_HEAD: &str = "countersign-x25519-secret-v1 ";

/// An X25519 public key: 32 bytes as the ledger holds them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes the bytes of a role or member entry.
    ///
    /// # Errors
    /// [`DeliveryError::PublicKey`] for all zeros (which means "none"), other points of low order, and encodings of a coordinate
    /// that is not below 2^255 − 19.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, DeliveryError> {
        // Any clamped scalar does: the product is zero for points of low order only.
        let probe = StaticSecret::from([0x40; 32]);
        let contributory = probe.diffie_hellman(&bytes.into()).was_contributory();
        if contributory && is_canonical(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(DeliveryError::PublicKey { found: hex(&bytes) })
        }
    }

    /// The 32 bytes that go into a role or member entry.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

/// Below 2^255 − 19, little endian.
fn is_canonical(bytes: &[u8; 32]) -> bool {
    let [lowest, middle @ .., highest] = bytes;
    *highest < 0x7f || (*highest == 0x7f && (*lowest < 0xed || middle.iter().any(|byte| *byte != 0xff)))
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({})", hex(&self.0))
    }
}

/// An X25519 secret key. Wiped from memory when dropped; never printed.
#[derive(Clone)]
pub struct SecretKey(StaticSecret);

impl SecretKey {
    /// Makes a key from the operating system's randomness.
    ///
    /// # Errors
    /// [`DeliveryError::Randomness`].
    pub fn generate() -> Result<Self, DeliveryError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(DeliveryError::Randomness)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Takes 32 secret bytes (clamped when used, as RFC 7748 says).
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(StaticSecret::from(*bytes))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    pub(crate) fn secret_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Writes a new key file, mode 0600, and syncs it and its directory.
    ///
    /// # Errors
    /// [`DeliveryError::Io`]; an existing file, link or not, is an error and stays as it is. Where it cannot be written whole, none
    /// is left.
    pub fn create_file(&self, path: &Path) -> Result<(), DeliveryError> {
        let mut text = Zeroizing::new(String::with_capacity(FILE_HEAD.len().saturating_add(65)));
        text.push_str(FILE_HEAD);
        for byte in self.secret_bytes() {
            text.push(hex_digit(byte >> 4));
            text.push(hex_digit(byte & 15));
        }
        text.push('\n');

        create_whole(path, |file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(DeliveryError::io("sync", directory))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`DeliveryError::KeyFileUnsafe`] for a link, another owner than this process's user or root, or any right of group or others;
    /// [`DeliveryError::KeyFileFormat`]; [`DeliveryError::Io`].
    pub fn load_file(path: &Path) -> Result<Self, DeliveryError> {
        let uid = effective_uid()?;
        let unsafe_file = |found: String| DeliveryError::KeyFileUnsafe { path: path.to_owned(), found, uid };
        // O_NONBLOCK: a fifo in its place must not hold the caller.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::ELOOP) => unsafe_file("a symbolic link".to_owned()),
                _ => DeliveryError::Io { action: "open", path: path.to_owned(), source },
            })?;
        let metadata = file.metadata().map_err(DeliveryError::io("read", path))?;
        if !metadata.is_file() {
            return Err(unsafe_file("not a regular file".to_owned()));
        }
        if metadata.uid() != uid && metadata.uid() != 0 {
            return Err(unsafe_file(format!("owned by uid {}", metadata.uid())));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(unsafe_file(format!("mode {:04o}", metadata.mode() & 0o7777)));
        }

        // Longer than any key file, so that nothing is reallocated and left behind in memory.
        let mut text = Zeroizing::new(Vec::with_capacity(256));
        file.take(128).read_to_end(&mut text).map_err(DeliveryError::io("read", path))?;
        parse_file(&text).ok_or_else(|| DeliveryError::KeyFileFormat { path: path.to_owned() })
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SecretKey(of {})", hex(&self.public().0))
    }
}

/// A new file, filled by `fill`; none where that fails.
fn create_whole(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), DeliveryError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(DeliveryError::io("create", path))?;
    fill(&mut file).map_err(|error| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(path);
        DeliveryError::io("write", path)(error)
    })
}

fn parse_file(text: &[u8]) -> Option<SecretKey> {
    let digits = text.strip_prefix(FILE_HEAD.as_bytes())?.strip_suffix(b"\n")?;
    let mut bytes = Zeroizing::new([0; 32]);
    unhex_into(digits, bytes.as_mut_slice())?;
    Some(SecretKey::from_bytes(&bytes))
}

/// So many bytes from lower-case hexadecimal digits.
pub(crate) fn unhex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    unhex_into(digits.as_bytes(), &mut bytes)?;
    Some(bytes)
}

fn unhex_into(digits: &[u8], bytes: &mut [u8]) -> Option<()> {
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    if pairs.len() != bytes.len() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => digit.checked_sub(b'0'),
        b'a'..=b'f' => digit.checked_sub(b'a')?.checked_add(10),
        _ => None,
    }
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0')
}

/// The effective uid, read without `unsafe`: `/proc/self` belongs to it.
pub(crate) fn effective_uid() -> Result<u32, DeliveryError> {
    let path = Path::new("/proc/self");
    std::fs::metadata(path).map(|metadata| metadata.uid()).map_err(DeliveryError::io("read", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_survives_its_file_and_the_file_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x25519");
        let key = SecretKey::generate().unwrap();
        key.create_file(&path).unwrap();
        assert_eq!(SecretKey::load_file(&path).unwrap().public(), key.public());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x25519");
        std::fs::write(&path, "mine").unwrap();
        let error = SecretKey::generate().unwrap().create_file(&path).unwrap_err();
        assert!(error.to_string().starts_with("create "), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn a_key_file_that_the_disk_has_no_room_for_is_not_left_behind_in_part() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x25519");
        let error = create_whole(&path, |file| {
            file.write_all(FILE_HEAD.as_bytes())?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.to_string().starts_with("write "), "{error}");
        assert!(!path.exists());
        SecretKey::generate().unwrap().create_file(&path).unwrap();
    }

    #[test]
    fn a_key_file_that_others_can_reach_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x25519");
        SecretKey::generate().unwrap().create_file(&path).unwrap();
        for mode in [0o604, 0o640, 0o620, 0o602, 0o610, 0o601] {
            set_mode(&path, mode);
            let error = SecretKey::load_file(&path).unwrap_err();
            assert!(error.to_string().contains(&format!("mode 0{mode:o}, expected a regular file")), "{error}");
        }
        set_mode(&path, 0o400);
        assert!(SecretKey::load_file(&path).is_ok());
    }

    #[test]
    fn a_link_a_directory_and_a_fifo_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x25519");
        SecretKey::generate().unwrap().create_file(&path).unwrap();
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        let fifo = directory.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&fifo).status().unwrap().success());
        for (path, found) in [
            (link.as_path(), "a symbolic link"),
            (directory.path(), "not a regular file"),
            (&fifo, "not a regular file"),
        ] {
            let error = SecretKey::load_file(path).unwrap_err();
            assert!(error.to_string().contains(found), "{error}");
        }
    }

    #[test]
    fn a_key_file_cut_short_lengthened_or_in_capitals_is_refused() {
        let text = format!("{FILE_HEAD}{}\n", "0a".repeat(32));
        assert!(parse_file(text.as_bytes()).is_some());
        for end in 0..text.len() {
            assert!(parse_file(&text.as_bytes()[..end]).is_none(), "{end} bytes were accepted");
        }
        for bad in [
            text.to_uppercase(),
            text.replace("0a", "0A"),
            text.replace("v1", "v2"),
            format!("{text}\n"),
            format!("{text}00"),
        ] {
            assert!(parse_file(bad.as_bytes()).is_none(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn points_of_low_order_are_refused_as_public_keys() {
        let order_eight = [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ];
        let mut one = [0; 32];
        one[0] = 1;
        for bytes in [[0; 32], one, order_eight] {
            assert!(PublicKey::from_bytes(bytes).is_err(), "{} was accepted", hex(&bytes));
        }
    }

    #[test]
    fn a_coordinate_is_accepted_in_its_canonical_encoding_only() {
        let nine = x25519_dalek::X25519_BASEPOINT_BYTES;
        assert!(PublicKey::from_bytes(nine).is_ok());
        let mut high_bit = nine;
        high_bit[31] |= 0x80;
        // 2^255 - 19 + 9, which names the same point as 9.
        let mut above = [0xff; 32];
        (above[0], above[31]) = (0xed + 9, 0x7f);
        for bytes in [high_bit, above] {
            assert!(PublicKey::from_bytes(bytes).is_err(), "{} was accepted", hex(&bytes));
        }
    }

    #[test]
    fn a_secret_key_prints_only_its_public_half() {
        let key = SecretKey::from_bytes(&[0x55; 32]);
        let text = format!("{key:?}");
        assert!(!text.contains("5555"), "{text}");
        assert!(text.contains(&hex(&key.public().to_bytes())));
    }
}
