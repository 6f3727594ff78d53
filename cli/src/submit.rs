//! `countersign submit`: sends what an actor signed into a file (`--sign-to`). Whoever sends pays; the writes are the signer's.

use std::path::PathBuf;

use alloy_primitives::Address;
use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Show, now};
use crate::send::{Receipt, Sender};
use crate::signed::SignedWrites;
use crate::write::Wait;

/// What to send.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The signed file
    file: PathBuf,
    /// How long to wait
    #[arg(long, value_enum, default_value = "latest")]
    wait: Wait,
}

/// What was sent.
#[derive(Debug, Serialize)]
pub struct Submitted {
    /// Always `logged`.
    pub outcome: &'static str,
    /// Who signed.
    pub actor: Address,
    /// What each write says, decoded from its bytes.
    pub writes: Vec<String>,
    /// Where it was logged.
    pub receipt: Receipt,
}

impl Show for Submitted {
    fn text(&self) -> String {
        let mut text: String = self.writes.iter().map(|write| format!("logged {write}\n")).collect();
        text.push_str(&format!(
            "by {} in block {}, transaction {}\n",
            self.actor, self.receipt.block, self.receipt.transaction
        ));
        text
    }
}

/// Sends the file.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, args: SubmitArgs) -> Result<(), CliError> {
    let realm = context.realm()?;
    let name = args.file.display().to_string();
    let signed = SignedWrites::load(&args.file, &realm.pin, now())?;
    let writes = signed.writes.iter().map(|write| write.shown(&name)).collect::<Result<Vec<_>, _>>()?;
    let sender = Sender::new(context, &realm)?;
    let receipt = sender.append_signed(&context.actor_key()?, &signed, &name).await?;
    sender.wait(receipt.block, args.wait).await?;
    context.printer.result(&Submitted { outcome: "logged", actor: signed.actor, writes, receipt })
}
