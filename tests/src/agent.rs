//! The agent on the scenario's host: the real program, its configuration in `/etc/countersign`, its state in `/var/lib`.

use std::process::Command;

use countersign_certificate::Id;

use crate::{
    machine::{self, HELPER_USER},
    process::{self, Background},
    realm::REALM_FILE,
    tools,
};

/// The agent's configuration file.
pub const CONFIG: &str = "/etc/countersign/agent.toml";

/// Where the agent publishes.
pub const SNAPSHOT: &str = "/var/lib/countersign/snapshot";

/// Writes the configuration of the agent on `host`; `more` is TOML that goes below it.
pub fn configure(host: Id, more: &str) {
    let text = format!(
        "\
realm-file = \"{REALM_FILE}\"
host = \"{host}\"
state-dir = \"/var/lib/countersign\"
snapshot-dir = \"{SNAPSHOT}\"
group = \"{HELPER_USER}\"
poll-interval-ms = 500
{more}"
    );
    machine::write(CONFIG, &text, 0o644);
}

fn command(verb: &str) -> Command {
    let mut command = Command::new(tools::binary("countersign-agent"));
    command.args(["--config", CONFIG, verb]);
    command
}

/// Syncs and publishes once.
///
/// # Panics
/// Where it fails.
pub fn once() {
    process::success(&mut command("once"));
}

/// Starts `run`.
#[must_use]
pub fn run() -> Background {
    Background::start("countersign-agent", &mut command("run"))
}

/// What `status --format json` prints.
#[must_use]
pub fn status() -> serde_json::Value {
    let output = process::output(command("status").args(["--format", "json"]));
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("status is not JSON ({error}): {output:?}"))
}

/// The latest block that the published snapshot speaks for, as `status` tells.
///
/// # Panics
/// Where `status` does not tell.
#[must_use]
pub fn published_block() -> u64 {
    let status = status();
    let block = status.pointer("/latest/number").and_then(serde_json::Value::as_u64);
    block.unwrap_or_else(|| panic!("status tells no block: {status}"))
}

/// Syncs once, whatever comes of it.
pub fn try_once() -> process::Output {
    process::output(&mut command("once"))
}
