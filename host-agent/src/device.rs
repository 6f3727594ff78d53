//! The device's two keys, loaded once: the ledger key, which acknowledges, and the sealing key, to which deliveries are sealed.
//! Neither is ever sent, printed or written again; files that others can reach are refused.

use std::path::Path;

use countersign_chain::ChainError;
use countersign_chain::keys::{ActorKey, KeySource};
use countersign_delivery::{DeliveryError, SecretKey};
use zeroize::Zeroizing;

use crate::config::Device;
use crate::files::{self, FileError, Owners, Secrecy};

const PASSWORD_LIMIT: u64 = 4096;

/// Why the keys were not had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The password file.
    #[error("device: ledger-password-file: {0}")]
    Password(#[source] FileError),
    /// The password file's text.
    #[error("device: ledger-password-file: {}: expected UTF-8 text", .0.display())]
    PasswordText(std::path::PathBuf),
    /// The keystore.
    #[error("device: ledger-key: {0}")]
    Ledger(#[source] ChainError),
    /// The sealing key's file.
    #[error("device: sealing-key: {0}")]
    SealingFile(#[source] FileError),
    /// The sealing key.
    #[error("device: sealing-key: {0}")]
    Sealing(#[source] DeliveryError),
}

impl DeviceError {
    /// What the reader can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Password(error) | Self::SealingFile(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
            Self::PasswordText(_) | Self::Sealing(_) => None,
        }
    }
}

/// The device's keys.
#[derive(Debug)]
pub struct DeviceKeys {
    /// Writes to the ledger.
    pub ledger: ActorKey,
    /// Opens what is sealed.
    pub sealing: SecretKey,
}

impl DeviceKeys {
    /// Loads both.
    ///
    /// # Errors
    /// The first file that is missing, unsafe or not a key.
    pub fn load(device: &Device) -> Result<Self, DeviceError> {
        let (owners, secrecy) = (Owners::process(), Secrecy::Private);
        files::check(device.ledger_key.as_path(), owners, secrecy)
            .map_err(|error| DeviceError::Ledger(ChainError::Unsafe(error)))?;
        files::check(device.sealing_key.as_path(), owners, secrecy).map_err(DeviceError::SealingFile)?;
        let password = password(device.ledger_password_file.as_path())?;
        let source = KeySource::File(device.ledger_key.as_path().to_owned());
        let ledger = ActorKey::load(&source, |_| None, |_| Ok(password)).map_err(DeviceError::Ledger)?;
        let sealing = SecretKey::load_file(device.sealing_key.as_path()).map_err(DeviceError::Sealing)?;
        Ok(Self { ledger, sealing })
    }
}

/// The first line of a password file.
fn password(path: &Path) -> Result<Zeroizing<String>, DeviceError> {
    let bytes =
        files::read(path, Owners::process(), Secrecy::Private, PASSWORD_LIMIT).map_err(DeviceError::Password)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| DeviceError::PasswordText(path.to_owned()))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}
