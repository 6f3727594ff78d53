//! Mistakes in what the command line reads: refused before anybody is asked, with a hint.
#![expect(clippy::unwrap_used, reason = "what tests share fails loudly")]

use std::process::{Command, Output, Stdio};

use harness::mistakes::{Folder, LINKED_REALM_FILE, Mistake, REALM_FILE, STRANGER, refuses};

fn good() -> Folder {
    let folder = Folder::default();
    folder.realm_file();
    folder.write(
        "config.toml",
        "realm = \"realm.toml\"\nas-actor = \"actor.json\"\npassword-file = \"password\"\n",
        0o644,
    );
    for name in ["actor.json", "password"] {
        folder.write(name, "secret", 0o600);
    }
    folder
}

fn program(folder: &Folder, arguments: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_countersign"));
    program.arg("--config").arg(folder.path("config.toml")).args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("COUNTERSIGN_")) {
            program.env_remove(name);
        }
    }
    // Relative paths are relative to the configuration, not to this.
    program.current_dir("/").output().unwrap()
}

fn lists(folder: &Folder) -> Output {
    program(folder, &["user", "list"])
}

fn exit(what: &str) -> i32 {
    if what.starts_with("configuration: ") { 2 } else { 1 }
}

const CONFIGURATION: &[Mistake] = &[
    (
        "configuration: an unknown key",
        |folder| folder.append("config.toml", "realms = \"x\"\n"),
        "configuration ROOT/config.toml, line 4: unknown field `realms`",
        "countersign(1) lists the keys",
    ),
    (
        "configuration: others may write it",
        |folder| folder.chmod("config.toml", 0o666),
        "configuration: ROOT/config.toml may be written by others (mode 0666)",
        "chmod go-w ROOT/config.toml",
    ),
    (
        "configuration: somebody else's",
        |folder| folder.chown("config.toml", STRANGER),
        "configuration: ROOT/config.toml belongs to uid 4711; expected uid 0",
        "chown 0 ROOT/config.toml",
    ),
    (
        "configuration: a link to somebody else's",
        |folder| {
            folder.replace_by_link("config.toml", "elsewhere");
            folder.chown("elsewhere", STRANGER);
        },
        "configuration: ROOT/elsewhere belongs to uid 4711; expected uid 0",
        "chown 0 ROOT/elsewhere",
    ),
    (
        "configuration: in a directory that all may write",
        |folder| folder.chmod("", 0o777),
        "configuration: ROOT may be written by others (mode 0777)",
        "chmod go-w ROOT",
    ),
];

const SECRETS: &[Mistake] = &[
    (
        "a ledger key that others can read",
        |folder| folder.chmod("actor.json", 0o644),
        "key file ROOT/actor.json: expected mode 0600, got 0644",
        "chmod 600 ROOT/actor.json",
    ),
    (
        "a password that others can read",
        |folder| folder.chmod("password", 0o644),
        "ROOT/password: mode 0644 lets others read a password; expected 0600",
        "chmod 600 ROOT/password",
    ),
    (
        "somebody else's ledger key",
        |folder| folder.chown("actor.json", STRANGER),
        "key file ROOT/actor.json: expected owner uid 0, got 4711",
        "use a key of your own, or chown ROOT/actor.json",
    ),
];

#[test]
fn a_mistake_in_the_configuration_is_refused_with_a_hint() {
    for rows in [CONFIGURATION, REALM_FILE, LINKED_REALM_FILE] {
        refuses("countersign: ", exit, rows, good, lists);
    }
}

#[test]
fn a_secret_that_others_can_reach_is_refused_with_a_hint() {
    let (passwords, keys): (Vec<Mistake>, Vec<Mistake>) = SECRETS.iter().partition(|row| row.0.contains("password"));
    let file = |folder: &Folder, name: &str| folder.path(name).display().to_string();
    refuses("countersign: ", exit, &keys, good, |folder| {
        program(folder, &["actor", "show", &file(folder, "actor.json")])
    });
    refuses("countersign: ", exit, &passwords, good, |folder| program(folder, &["actor", "new", &file(folder, "new")]));
}
