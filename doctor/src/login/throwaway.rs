//! A key, and a certificate for it by a CA, both made a moment ago: nobody knows them, so whoever lets them in lets anybody in.
//!
//! The CA's key never leaves this process's memory. The certified key lies in the room, where `ssh` reads it.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ssh_key::certificate::{Builder, CertType};
use ssh_key::rand_core::{OsRng, RngCore as _};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey};

use super::client::Credential;
use super::room::Room;

/// Before now, for clocks that differ within a machine's own processes.
const BACKDATED: Duration = Duration::from_secs(60);
const LASTS: Duration = Duration::from_secs(300);

/// A key that nobody knows, with a certificate that nobody made.
pub(crate) struct Throwaway {
    /// The files.
    pub(crate) credential: Credential,
    /// `SHA256:…` of the key.
    pub(crate) fingerprint: String,
    /// The certificate's.
    pub(crate) serial: u64,
}

impl Throwaway {
    /// Makes one that says `login`.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub(crate) fn make(room: &Room, login: &str) -> io::Result<Self> {
        Self::try_make(room, login).map_err(io::Error::other)
    }

    fn try_make(room: &Room, login: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519)?;
        let ca = PrivateKey::random(&mut OsRng, Algorithm::Ed25519)?;
        let serial = OsRng.next_u64();
        let now = SystemTime::now();
        let (after, before) = (now.checked_sub(BACKDATED).unwrap_or(now), now.checked_add(LASTS).unwrap_or(now));
        let public = key.public_key();
        let mut builder = Builder::new_with_random_nonce(&mut OsRng, public, unix_secs(after)?, unix_secs(before)?)?;
        builder.serial(serial)?;
        builder.cert_type(CertType::User)?;
        builder.key_id("countersign doctor/throwaway")?;
        builder.valid_principal(login)?;
        builder.extension("permit-pty", "")?;
        let certificate = builder.sign(&ca)?;
        let identity = room.path(&format!("throwaway.{serial}"));
        let signed: PathBuf = room.path(&format!("throwaway.{serial}-cert.pub"));
        key.write_openssh_file(&identity, LineEnding::LF)?;
        certificate.write_file(&signed)?;
        let fingerprint = public.fingerprint(HashAlg::Sha256).to_string();
        let credential = Credential { login: login.to_owned(), identity, certificate: Some(signed) };
        Ok(Self { credential, fingerprint, serial })
    }
}

fn unix_secs(time: SystemTime) -> Result<u64, std::time::SystemTimeError> {
    Ok(time.duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}
