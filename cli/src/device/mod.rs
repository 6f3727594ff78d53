//! `countersign device`: what a device makes for itself (a ledger key, and a delivery key to which payloads are sealed), how it asks to
//! be enrolled, and how an admin lets it in and ends it. The keys never leave the device; an approval compares what the admin has from
//! the device itself with what the ledger's inbox says.

pub mod approve;
pub mod claim;
pub mod inbox;
pub mod init;
pub mod invitation;
pub mod status;

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
    /// On a device: make its keys, show them, ask to be enrolled
    Init(init::InitArgs),
    /// On a device: what the ledger says of it
    Status(status::StatusArgs),
    /// Make a one-time token, so that a device is let in without anybody at hand
    Invite(approve::InviteArgs),
    /// Let in the devices that ask with a good token
    Accept(approve::AcceptArgs),
    /// List the devices that ask
    Pending(approve::PendingArgs),
    /// Let in a device that asks, by its keys' fingerprints
    Approve(approve::ApproveArgs),
    /// Let in a device by what it shows: its QR code, or the line below it
    Add(approve::AddArgs),
    /// End a device: its ledger keys, its labels, its host
    Retire(approve::RetireArgs),
    /// Make a delivery key alone
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
pub async fn run(context: &Context, command: DeviceCommand) -> Result<(), CliError> {
    let (key, file) = match command {
        DeviceCommand::Init(args) => return init::run(context, args).await,
        DeviceCommand::Status(args) => return status::run(context, args).await,
        DeviceCommand::Invite(args) => return approve::invite(context, args).await,
        DeviceCommand::Accept(args) => return approve::accept(context, args).await,
        DeviceCommand::Pending(args) => return approve::pending(context, args).await,
        DeviceCommand::Approve(args) => return approve::approve(context, args).await,
        DeviceCommand::Add(args) => return approve::add(context, args).await,
        DeviceCommand::Retire(args) => return approve::retire(context, args).await,
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
