//! The issuer's service: the real program, with the key of the scenario's issuer in a keystore and the scenario's CA key in a file.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use countersign_chain::keys::ActorKey;
use serde_json::Value;

use crate::{
    bed,
    machine::{self, KeyFile},
    process::Background,
    realm::{Actor, REALM_FILE},
    tools, wait,
};

const PASSWORD: &str = "correct horse";

/// A running `countersign-issuer run`.
pub struct Service {
    /// The process.
    pub process: Background,
    /// Its directory of blocks.
    pub store: PathBuf,
    config: PathBuf,
}

impl Service {
    /// Starts it for the CA named `ca1`; `delivery_key` is the file of the sealing key that `actor`'s role names.
    #[must_use]
    pub fn start(actor: &Actor, ca_key: &KeyFile, delivery_key: &str) -> Self {
        Self::start_with(actor, ca_key, delivery_key, "store = \"blocks\"\n")
    }

    /// As [`Service::start`], with other stores than the directory beside its configuration.
    ///
    /// # Panics
    /// Where its keys cannot be written.
    #[must_use]
    pub fn start_with(actor: &Actor, ca_key: &KeyFile, delivery_key: &str, stores: &str) -> Self {
        let folder = bed::folder("issuer");
        let (store, keystore, config) = (folder.join("blocks"), folder.join("actor.json"), folder.join("issuer.toml"));
        machine::write(folder.join("password"), PASSWORD, 0o600);
        ActorKey::from_hex(&actor.secret).expect("a key").store(&keystore, PASSWORD).expect("a keystore");
        fs::create_dir_all(&store).expect("the directory of blocks");
        fs::set_permissions(&store, fs::Permissions::from_mode(0o755)).expect("its mode");
        let text = format!(
            "realm = \"{REALM_FILE}\"\nactor = \"actor.json\"\nactor-password-file = \"password\"\nca = \"ca1\"\nca-key = \"{}\"\n\
             delivery-key = \"{delivery_key}\"\nstate = \"state\"\npayload = \"ssh\"\n{stores}",
            ca_key.path.display()
        );
        machine::write(&config, &text, 0o644);
        let mut command = Command::new(tools::binary("countersign-issuer"));
        let process = Background::start("countersign-issuer", command.arg("--config").arg(&config).arg("run"));
        Self { process, store, config }
    }

    /// What it last wrote into its status file; none before the first time.
    ///
    /// # Panics
    /// Where that is not JSON.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let text = fs::read_to_string(self.config.with_file_name("state").join("status.json")).ok()?;
        Some(serde_json::from_str(&text).expect("a status in JSON"))
    }

    /// Waits until it has judged what block `number` holds, and gives its status then.
    pub fn wait_block(&self, number: u64) -> Value {
        wait::until(&format!("the issuer to have looked at block {number}"), || {
            self.status().filter(|status| status.get("latest-block").and_then(Value::as_u64) >= Some(number))
        })
    }
}
