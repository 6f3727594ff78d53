//! Mistakes in the configurations of issuer and watchdog: refused at the start, with a hint, before anything is written or asked.
#![expect(clippy::unwrap_used, reason = "what tests share fails loudly")]

use std::process::{Command, Output, Stdio};

use harness::mistakes::{Folder, LINKED_REALM_FILE, Mistake, REALM_FILE, STRANGER, refuses};

const SECRETS: [&str; 5] = ["actor.json", "actor.password", "ca", "ca.password", "x25519"];

fn good() -> Folder {
    let folder = Folder::default();
    folder.realm_file();
    let common = "realm = \"realm.toml\"\nactor = \"actor.json\"\nactor-password-file = \"actor.password\"\n\
                  delivery-key = \"x25519\"\nstore = \"blocks\"\nstate = \"state\"\n";
    let issuer = format!("{common}ca = \"prod\"\nca-key = \"ca\"\nca-password-file = \"ca.password\"\n");
    folder.write("issuer.toml", &issuer, 0o644);
    folder.write("watchdog.toml", common, 0o644);
    for name in SECRETS {
        folder.write(name, "secret", 0o600);
    }
    folder
}

fn program(folder: &Folder, arguments: &[&str], config: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_countersign-issuer"));
    program.args(arguments).arg("--config").arg(folder.path(config)).stdin(Stdio::null());
    // Relative paths are relative to the configuration, not to this.
    program.current_dir("/").output().unwrap()
}

fn issuer(folder: &Folder) -> Output {
    program(folder, &["run"], "issuer.toml")
}

/// 2 where the file itself says something wrong, 1 where something that it names does.
fn exit(what: &str) -> i32 {
    if what.starts_with("configuration: ") { 2 } else { 1 }
}

const KEYS: &str = "countersign-issuer(8) lists the keys, docs/examples/issuer.toml shows them";

const MISTAKES: &[Mistake] = &[
    (
        "configuration: an unknown key",
        |folder| folder.append("issuer.toml", "windows = \"1s\"\n"),
        "configuration ROOT/issuer.toml, line 10: unknown field `windows`",
        KEYS,
    ),
    (
        "configuration: a CA key twice",
        |folder| folder.append("issuer.toml", "ca-agent = \"/run/agent\"\n"),
        "configuration ROOT/issuer.toml: expected one of ca-key and ca-agent",
        KEYS,
    ),
    (
        "configuration: a duration without a unit",
        |folder| folder.append("issuer.toml", "window = \"1\"\n"),
        "configuration ROOT/issuer.toml, line 10: duration `1`",
        "write a number and its unit, as in 5m",
    ),
    (
        "configuration: others may write it",
        |folder| folder.chmod("issuer.toml", 0o662),
        "configuration: ROOT/issuer.toml may be written by others (mode 0662)",
        "chmod go-w ROOT/issuer.toml",
    ),
    (
        "configuration: somebody else's",
        |folder| folder.chown("issuer.toml", STRANGER),
        "configuration: ROOT/issuer.toml belongs to uid 4711; expected uid 0",
        "chown 0 ROOT/issuer.toml",
    ),
    (
        "configuration: a link to a file that others may write",
        |folder| {
            folder.replace_by_link("issuer.toml", "elsewhere");
            folder.chmod("elsewhere", 0o666);
        },
        "configuration: ROOT/elsewhere may be written by others (mode 0666)",
        "chmod go-w ROOT/elsewhere",
    ),
    (
        "configuration: in a directory of the group's",
        |folder| folder.chmod("", 0o775),
        "configuration: ROOT may be written by others (mode 0775)",
        "chmod go-w ROOT",
    ),
    (
        "a ledger key that others can read",
        |folder| folder.chmod("actor.json", 0o644),
        "actor: ROOT/actor.json may be read by others (mode 0644)",
        "chmod go= ROOT/actor.json",
    ),
    (
        "its password that the group can read",
        |folder| folder.chmod("actor.password", 0o640),
        "actor-password-file: ROOT/actor.password may be read by others (mode 0640)",
        "chmod go= ROOT/actor.password",
    ),
    (
        "a CA key that others can read",
        |folder| folder.chmod("ca", 0o604),
        "ca-key: ROOT/ca may be read by others (mode 0604)",
        "chmod go= ROOT/ca",
    ),
    (
        "its password that others can read",
        |folder| folder.chmod("ca.password", 0o604),
        "ca-password-file: ROOT/ca.password may be read by others (mode 0604)",
        "chmod go= ROOT/ca.password",
    ),
    (
        "a sealing key that others can read",
        |folder| folder.chmod("x25519", 0o444),
        "delivery-key: ROOT/x25519 may be read by others (mode 0444)",
        "chmod go= ROOT/x25519",
    ),
    (
        "somebody else's CA key",
        |folder| folder.chown("ca", STRANGER),
        "ca-key: ROOT/ca belongs to uid 4711; expected uid 0",
        "chown 0 ROOT/ca",
    ),
    (
        "a state directory that all may write",
        |folder| folder.mkdir("state", 0o777),
        "state: ROOT/state may be written by others (mode 0777)",
        "chmod go-w ROOT/state",
    ),
    (
        "a state directory in /tmp",
        |folder| folder.edit("issuer.toml", "state = \"state\"", "state = \"/tmp/countersign-state\""),
        "state: /tmp may be written by others (mode 1777)",
        "choose a directory that only root or you may write: in /tmp anybody can take a name first",
    ),
];

#[test]
fn a_mistake_in_the_issuer_s_configuration_is_refused_at_the_start_with_a_hint() {
    for rows in [MISTAKES, REALM_FILE, LINKED_REALM_FILE] {
        refuses("countersign-issuer: ", exit, rows, good, issuer);
    }
}

#[test]
fn the_watchdog_s_configuration_is_looked_at_as_closely() {
    let rows: &[Mistake] = &[
        (
            "configuration: others may write it",
            |folder| folder.chmod("watchdog.toml", 0o666),
            "configuration: ROOT/watchdog.toml may be written by others (mode 0666)",
            "chmod go-w ROOT/watchdog.toml",
        ),
        (
            "a ledger key that others can read",
            |folder| folder.chmod("actor.json", 0o644),
            "actor: ROOT/actor.json may be read by others (mode 0644)",
            "chmod go= ROOT/actor.json",
        ),
        (
            "a state directory that all may write",
            |folder| folder.mkdir("state", 0o777),
            "state: ROOT/state may be written by others (mode 0777)",
            "chmod go-w ROOT/state",
        ),
    ];
    let watchdog = |folder: &Folder| program(folder, &["watch", "run"], "watchdog.toml");
    refuses("countersign-issuer: ", exit, rows, good, watchdog);
    refuses("countersign-issuer: ", exit, REALM_FILE, good, watchdog);
}
