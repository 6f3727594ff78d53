//! What sshd asks, parsed once.
//!
//! Refuses anything that is not exactly the documented arguments: sshd hands over what a client sent (`%i` and `%k` raw), and the
//! login is printed back to sshd as a principal.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use countersign_certificate::{MAX_CERTIFICATE_BYTES, Serial, decode_base64};
use countersign_snapshot::{ReadError, Snapshot, Uid};

use crate::decide::Refusal;
use crate::reason::Reason;

const MAX_LOGIN_BYTES: usize = 255;
const MAX_KEY_BYTES: usize = MAX_CERTIFICATE_BYTES;
const CERTIFICATE_SUFFIX: &[u8] = b"-cert-v01@openssh.com";

/// Which of sshd's two questions it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `AuthorizedKeysCommand`: a key line, or a `cert-authority` line.
    Keys,
    /// `AuthorizedPrincipalsCommand`: a principal line.
    Principals,
}

impl Mode {
    /// Its name on the command line and in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Principals => "principals",
        }
    }
}

/// What sshd says about the certificate beside the certificate. Only compared with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `%i`
    pub key_id: Vec<u8>,
    /// `%s`
    pub serial: Serial,
    /// `%K`, decoded
    pub ca_blob: Vec<u8>,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    mode: Mode,
    login: String,
    uid: Uid,
    blob: Vec<u8>,
    claims: Option<Claims>,
}

impl Query {
    /// Reads the command line after the program's name and options: `keys %u %U %t %k` or
    /// `principals %u %U %t %k %i %s %K`.
    ///
    /// # Errors
    /// [`Reason::BadArguments`], [`Reason::LoginUnsafe`], [`Reason::KeyMalformed`].
    pub fn from_arguments(arguments: &[OsString]) -> Result<Self, Refusal> {
        let bytes: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
        let (mode, [login, uid, key_type, key], claims) = match bytes.as_slice() {
            [b"keys", login, uid, key_type, key] => (Mode::Keys, [login, uid, key_type, key], None),
            [b"principals", login, uid, key_type, key, key_id, serial, ca] => {
                (Mode::Principals, [login, uid, key_type, key], Some((key_id, serial, ca)))
            }
            _ => {
                let expected = "expected: keys %u %U %t %k [--chain PROGRAM ...], or: principals %u %U %t %k %i %s %K";
                return Err(Refusal::new(Reason::BadArguments, expected));
            }
        };
        let login = parse_login(login)?;
        let uid = Uid(decimal(uid).ok_or_else(|| Refusal::new(Reason::BadArguments, "%U is not a uid"))?);
        let blob =
            decode_base64(key, MAX_KEY_BYTES, "%k").map_err(|error| Refusal::new(Reason::KeyMalformed, error))?;
        if leading_type(&blob) != Some(key_type) {
            return Err(Refusal::new(Reason::BadArguments, "%t is not the type of %k"));
        }
        let claims = match claims {
            None => None,
            Some((key_id, serial, ca)) => Some(Claims {
                key_id: key_id.to_vec(),
                serial: Serial(
                    decimal(serial).ok_or_else(|| Refusal::new(Reason::BadArguments, "%s is not a serial number"))?,
                ),
                ca_blob: decode_base64(ca, MAX_KEY_BYTES, "%K")
                    .map_err(|error| Refusal::new(Reason::BadArguments, error))?,
            }),
        };
        Ok(Self { mode, login, uid, blob, claims })
    }

    /// The question that sshd would ask for `blob` (a key or certificate in SSH wire form) and `login` on the host that
    /// `snapshot` is for; for the issuer and `explain`. The uid is the ledger's, 0 for `root`, and otherwise that of some local
    /// account.
    ///
    /// # Errors
    /// [`Reason::LoginUnsafe`], and what a lookup in the snapshot refuses.
    pub fn offline(snapshot: &Snapshot, mode: Mode, login: &str, blob: &[u8]) -> Result<Self, Refusal> {
        const LOCAL: Uid = Uid(1000);
        let login = parse_login(login.as_bytes())?;
        let ledger = snapshot.login(login.as_bytes()).map_err(|error: ReadError| Refusal::from(error))?;
        let uid = match ledger {
            Some(ledger) => ledger.uid,
            None if login == "root" => Uid(0),
            None => LOCAL,
        };
        Ok(Self { mode, login, uid, blob: blob.to_vec(), claims: None })
    }

    /// The question about a session: may `blob` (a key or certificate in SSH wire form) still be in `login`, whose uid is `uid`?
    ///
    /// # Errors
    /// [`Reason::LoginUnsafe`].
    pub fn session(login: &str, uid: Uid, blob: &[u8]) -> Result<Self, Refusal> {
        let login = parse_login(login.as_bytes())?;
        Ok(Self { mode: Mode::Keys, login, uid, blob: blob.to_vec(), claims: None })
    }

    /// Which question it is.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The login asked for: 1 to 255 characters of `[A-Za-z0-9._@-]`.
    #[must_use]
    pub fn login(&self) -> &str {
        &self.login
    }

    /// The system's uid of that login.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// The key or certificate in SSH wire form.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// What sshd says about the certificate; none in keys mode.
    #[must_use]
    pub fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    /// Whether the blob calls itself a certificate.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        is_certificate(&self.blob)
    }
}

/// Whether `blob` calls itself a certificate.
pub(crate) fn is_certificate(blob: &[u8]) -> bool {
    leading_type(blob).is_some_and(|name| name.ends_with(CERTIFICATE_SUFFIX))
}

/// Whether `name` may be printed to sshd as a principal, and compared with one.
pub(crate) fn is_safe_principal(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte))
}

fn parse_login(login: &[u8]) -> Result<String, Refusal> {
    let unsafe_login = || Refusal::new(Reason::LoginUnsafe, "expected 1 to 255 characters of [A-Za-z0-9._@-]");
    let text = std::str::from_utf8(login).map_err(|_| unsafe_login())?;
    if text.len() > MAX_LOGIN_BYTES || !is_safe_principal(text) {
        return Err(unsafe_login());
    }
    Ok(text.to_owned())
}

/// Digits as sshd prints them: no sign, no white space, no leading zeros.
fn decimal<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    if !digits.iter().all(u8::is_ascii_digit) || matches!(digits, [b'0', _, ..]) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn leading_type(blob: &[u8]) -> Option<&[u8]> {
    let (length, rest) = blob.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB";

    fn reason(arguments: &[&str]) -> Result<Query, Reason> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        Query::from_arguments(&arguments).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn the_documented_arguments_are_read() {
        let query = reason(&["keys", "deploy", "1000", "ssh-ed25519", KEY]).unwrap();
        assert_eq!(
            (query.mode(), query.login(), query.uid(), query.blob().len()),
            (Mode::Keys, "deploy", Uid(1000), 51)
        );
        assert!(!query.is_certificate());
        let query =
            reason(&["principals", "a", "0", "ssh-ed25519", KEY, "any id; $(x)\n", "18446744073709551615", KEY]);
        assert_eq!(query.unwrap().claims().unwrap().serial, Serial(u64::MAX));
    }

    #[test]
    fn another_number_of_arguments_or_another_mode_is_refused() {
        let whole = ["principals", "a", "0", "ssh-ed25519", KEY, "id", "1", KEY, "more"];
        for count in (0..=9).filter(|count| *count != 8) {
            assert_eq!(reason(&whole[..count]), Err(Reason::BadArguments), "{count}");
        }
        assert_eq!(reason(&["KEYS", "a", "0", "ssh-ed25519", KEY]), Err(Reason::BadArguments));
        assert_eq!(reason(&["keys", "a", "0", "ssh-ed25519", KEY, "more"]), Err(Reason::BadArguments));
        assert_eq!(reason(&["--help"]), Err(Reason::BadArguments));
    }

    #[test]
    fn a_login_that_is_not_safe_to_print_is_refused() {
        let long = "a".repeat(256);
        for login in ["", " ", "a b", "a,b", "a\"", "a*", "!a", "a?", "é", "a\n", "a/b", "a=b", &long] {
            assert_eq!(reason(&["keys", login, "0", "ssh-ed25519", KEY]), Err(Reason::LoginUnsafe), "{login}");
        }
        assert!(reason(&["keys", "A.z_0@x-", "0", "ssh-ed25519", KEY]).is_ok());
    }

    #[test]
    fn numbers_with_signs_spaces_or_overflow_are_refused() {
        for uid in ["", "-1", "+1", " 1", "1 ", "4294967296", "0x1", "1.0", "01", "00"] {
            assert_eq!(reason(&["keys", "a", uid, "ssh-ed25519", KEY]), Err(Reason::BadArguments), "{uid}");
        }
        for serial in ["", "-1", "+1", "007", "18446744073709551616"] {
            let arguments = ["principals", "a", "0", "ssh-ed25519", KEY, "id", serial, KEY];
            assert_eq!(reason(&arguments), Err(Reason::BadArguments), "{serial}");
        }
    }

    #[test]
    fn a_key_that_is_not_base64_or_not_of_its_type_is_refused() {
        let long = "A".repeat(50_000);
        for key in ["", "AAA", "AAAA AAAA", &format!("{KEY}\n"), &long] {
            let found = reason(&["keys", "a", "0", "ssh-ed25519", key]);
            assert!(matches!(found, Err(Reason::KeyMalformed | Reason::BadArguments)), "{key}: {found:?}");
        }
        assert_eq!(reason(&["keys", "a", "0", "ssh-rsa", KEY]), Err(Reason::BadArguments));
        assert_eq!(reason(&["keys", "a", "0", "", KEY]), Err(Reason::BadArguments));
        assert_eq!(reason(&["principals", "a", "0", "ssh-ed25519", KEY, "id", "1", "?"]), Err(Reason::BadArguments));
    }

    fn any_argument() -> impl Strategy<Value = Vec<u8>> {
        let known =
            ["keys", "principals", "deploy", "0", "1000", "ssh-ed25519", KEY].map(|text| text.as_bytes().to_vec());
        prop_oneof![3 => prop::sample::select(known.to_vec()), 1 => prop::collection::vec(any::<u8>(), 0..40)]
    }

    proptest! {
        #[test]
        fn whatever_is_read_has_a_login_that_is_safe_to_print(arguments in prop::collection::vec(any_argument(), 0..9)) {
            let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from_vec).collect();
            if let Ok(query) = Query::from_arguments(&arguments) {
                prop_assert!(is_safe_principal(query.login()));
                prop_assert_eq!(query.claims().is_some(), query.mode() == Mode::Principals);
            }
        }
    }
}
