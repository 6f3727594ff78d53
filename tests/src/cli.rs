//! `countersign`, as a person would type it: the real program, with the realm file of the scenario, as one of its actors.

use std::process::Command;

use serde_json::Value;

use crate::{
    process::{self, Output},
    realm::{Actor, REALM_FILE},
    tools,
};

fn command(actor: Option<&Actor>, arguments: &[&str]) -> Command {
    let mut command = Command::new(tools::binary("countersign"));
    // Each flag can come from the environment: nothing of the test's own may pass for one.
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/root");
    command.args(["--realm", REALM_FILE, "--format", "json"]).args(arguments);
    if let Some(actor) = actor {
        command.env("COUNTERSIGN_ACTOR_KEY", &actor.secret);
    }
    command
}

/// Runs a command to its end, whatever that is.
#[must_use]
pub fn run(actor: Option<&Actor>, arguments: &[&str]) -> Output {
    process::output(&mut command(actor, arguments))
}

/// Runs a command that has to succeed, and gives what it printed.
///
/// # Panics
/// Where it fails, or prints anything but JSON.
pub fn success(actor: Option<&Actor>, arguments: &[&str]) -> Value {
    let printed = process::success(&mut command(actor, arguments));
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{arguments:?} printed no JSON ({error}): {printed}"))
}

/// Runs a command that has to be refused (exit status 1, nothing on standard output), and gives its message.
///
/// # Panics
/// Where it ends in any other way.
pub fn refusal(actor: Option<&Actor>, arguments: &[&str]) -> String {
    let output = run(actor, arguments);
    assert_eq!((output.status, output.stdout.as_str()), (Some(1), ""), "{arguments:?}: {}", output.stderr);
    output.stderr
}
