//! `countersign device`: delivery keys (X25519), to which payloads are sealed. Each is made on its device and never leaves; the public
//! half goes on the ledger with `countersign member set` or `countersign role grant`.

use std::path::PathBuf;

use clap::Subcommand;
use countersign_delivery::SecretKey;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Show, fields};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Make a delivery key
    New {
        /// The key file to write, mode 0600
        file: PathBuf,
    },
    /// Show a delivery key's public half
    Show {
        /// The key file
        file: PathBuf,
    },
}

/// A delivery key as printed.
#[derive(Debug, Serialize)]
pub struct DeviceShown {
    /// The public half, 64 hexadecimal digits.
    pub x25519: String,
    /// The key file.
    pub file: PathBuf,
}

impl Show for DeviceShown {
    fn text(&self) -> String {
        fields(&[("x25519", self.x25519.clone()), ("file", self.file.display().to_string())])
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub fn run(context: &Context, command: DeviceCommand) -> Result<(), CliError> {
    let (key, file) = match command {
        DeviceCommand::New { file } => {
            let key = SecretKey::generate()?;
            key.create_file(&file)?;
            (key, file)
        }
        DeviceCommand::Show { file } => (SecretKey::load_file(&file)?, file),
    };
    let x25519 = alloy_primitives::hex::encode(key.public().to_bytes());
    context.printer.result(&DeviceShown { x25519, file })
}
