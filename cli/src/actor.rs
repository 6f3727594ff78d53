//! `countersign actor`: ledger keys. Each is made where it is used and never leaves: only its address is shown.

use std::path::PathBuf;

use alloy_primitives::{Address, U256};
use clap::Subcommand;
use countersign_chain::endpoints::{Endpoints, Limits};
use countersign_chain::keys::{ActorKey, address_hint};
use serde::Serialize;
use serde_json::json;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Show, fields};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum ActorCommand {
    /// Make a ledger key, in an encrypted keystore
    New {
        /// The keystore to write
        file: PathBuf,
    },
    /// Show the address of a keystore, without its password
    Show {
        /// The keystore
        file: PathBuf,
        /// Ask the chain for its balance
        #[arg(long)]
        balance: bool,
    },
}

/// A ledger key as printed.
#[derive(Debug, Serialize)]
pub struct ActorShown {
    /// The address.
    pub address: Address,
    /// The keystore.
    pub keystore: PathBuf,
    /// In wei, as one node says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
}

impl Show for ActorShown {
    fn text(&self) -> String {
        let mut pairs = vec![("address", self.address.to_string()), ("keystore", self.keystore.display().to_string())];
        if let Some(balance) = &self.balance {
            pairs.push(("balance", format!("{balance} wei")));
        }
        fields(&pairs)
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: ActorCommand) -> Result<(), CliError> {
    match command {
        ActorCommand::New { file } => {
            let password = context.new_password("the new keystore")?;
            let key = ActorKey::generate()?;
            let progress = context.printer.progress("encrypting the key");
            key.store(&file, &password)?;
            drop(progress);
            context.printer.result(&ActorShown { address: key.address(), keystore: file, balance: None })
        }
        ActorCommand::Show { file, balance } => {
            let address = match address_hint(&file)? {
                Some(address) => address,
                None => context.keystore(&file)?.address(),
            };
            let balance = if balance {
                let realm = context.realm()?;
                let endpoints = Endpoints::new(&realm.endpoints, Limits::default())?;
                let ask = |endpoint: &'_ countersign_chain::endpoints::Endpoint| {
                    let endpoint = endpoint.clone();
                    async move { endpoint.call::<U256>("eth_getBalance", json!([address, "latest"])).await }
                };
                Some(endpoints.first("eth_getBalance", ask).await?.to_string())
            } else {
                None
            };
            context.printer.result(&ActorShown { address, keystore: file, balance })
        }
    }
}
