//! Mistakes in the agent's configuration: refused at the start, by `run` and `once` as by `check-config`, with a hint.
#![expect(clippy::unwrap_used, reason = "what tests share fails loudly")]

use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use harness::mistakes::{Folder, Mistake, REALM_FILE, STRANGER, refuses};

/// What makes no difference between a good configuration and a bad one is left out: keys that never come to be opened.
fn good() -> Folder {
    let folder = Folder::default();
    folder.realm_file();
    let text = "realm-file = \"ROOT/realm.toml\"\nhost = \"000102030405060708090a0b0c0d0e0f\"\n\
                state-dir = \"ROOT/state\"\ngroup = \"root\"\n";
    folder.write("agent.toml", text, 0o644);
    folder
}

fn program(folder: &Folder, command: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_countersign-agent"));
    program.arg(command).arg("--config").arg(folder.path("agent.toml")).stdin(Stdio::null());
    program.env_remove("NOTIFY_SOCKET").env_remove("COUNTERSIGN_AGENT_CONFIG");
    program
}

fn started(folder: &Folder) -> Output {
    program(folder, "once").output().unwrap()
}

const DEVICE: &str = "[device]\nledger-key = \"ROOT/ledger\"\nledger-password-file = \"ROOT/password\"\n\
                      sealing-key = \"ROOT/x25519\"\n[[block-store]]\ndirectory = \"ROOT\"\n";

fn with_device(folder: &Folder, more: &str) {
    folder.append("agent.toml", DEVICE);
    folder.append("agent.toml", more);
    for name in ["ledger", "password", "x25519"] {
        folder.write(name, "secret", 0o600);
    }
}

const FIELDS: &str = "countersign-agent(8) lists the fields, docs/examples/agent.toml shows them";

const MISTAKES: &[Mistake] = &[
    (
        "an unknown key",
        |folder| folder.append("agent.toml", "allow-roots = true\n"),
        "ROOT/agent.toml:5: unknown field `allow-roots`, expected one of `realm-file`",
        FIELDS,
    ),
    (
        "a relative path",
        |folder| folder.edit("agent.toml", "state-dir = \"ROOT/state\"", "state-dir = \"state\""),
        "ROOT/agent.toml:3: expected an absolute path without `.` and `..`, found `state`",
        "write the path from / on",
    ),
    (
        "a path that leads back",
        |folder| folder.edit("agent.toml", "ROOT/state", "ROOT/x/../state"),
        "ROOT/agent.toml:3: expected an absolute path without `.` and `..`",
        "write the path from / on",
    ),
    (
        "staleness above what any realm takes",
        |folder| folder.append("agent.toml", "max-staleness-secs = 604801\n"),
        "ROOT/agent.toml: max-staleness-secs: expected at most 604800, a week, above which no realm can set it",
        "leave it out: the realm's own setting holds then",
    ),
    (
        "a reload command for a shell",
        |folder| with_device(folder, "[[payload]]\nname = \"a\"\npath = \"/a\"\nreload = \"systemctl reload a\"\n"),
        "ROOT/agent.toml:14: invalid type: string \"systemctl reload a\", expected a sequence",
        "write an array, program first, as in [\"/usr/bin/systemctl\", \"reload\", \"ssh\"]: no shell takes it apart",
    ),
    (
        "two payloads in one place",
        |folder| {
            let payloads =
                "[[payload]]\nname = \"a\"\npath = \"ROOT/a\"\n[[payload]]\nname = \"b\"\npath = \"ROOT/a.pub\"\n";
            with_device(folder, payloads);
        },
        "ROOT/agent.toml: payload b: path: another payload goes there too",
        "give each payload a path of its own; PATH.pub and PATH-cert.pub are its too",
    ),
    (
        "a configuration that others may write",
        |folder| folder.chmod("agent.toml", 0o666),
        "ROOT/agent.toml may be written by others (mode 0666)",
        "chmod go-w ROOT/agent.toml",
    ),
    (
        "somebody else's configuration",
        |folder| folder.chown("agent.toml", STRANGER),
        "ROOT/agent.toml belongs to uid 4711; expected uid 0",
        "chown 0 ROOT/agent.toml",
    ),
    (
        "a linked configuration",
        |folder| folder.replace_by_link("agent.toml", "elsewhere"),
        "ROOT/agent.toml is a symbolic link; expected the thing itself",
        "write the path that `realpath ROOT/agent.toml` prints",
    ),
    (
        "a linked realm file",
        |folder| folder.replace_by_link("realm.toml", "elsewhere"),
        "ROOT/realm.toml is a symbolic link; expected the thing itself",
        "write the path that `realpath ROOT/realm.toml` prints",
    ),
    (
        "a configuration in a directory of the group's",
        |folder| folder.chmod("", 0o775),
        "ROOT may be written by others (mode 0775)",
        "chmod go-w ROOT",
    ),
    (
        "a configuration in a directory like /tmp",
        |folder| folder.chmod("", 0o1777),
        "ROOT may be written by others (mode 1777)",
        "choose a directory that only root or you may write: in ROOT anybody can take a name first",
    ),
    (
        "a configuration in somebody else's directory",
        |folder| folder.chown("", STRANGER),
        "ROOT belongs to uid 4711; expected uid 0",
        "chown 0 ROOT",
    ),
    (
        "a state directory that all may write",
        |folder| folder.mkdir("state", 0o777),
        "ROOT/agent.toml: state-dir: ROOT/state may be written by others (mode 0777)",
        "chmod go-w ROOT/state",
    ),
    (
        "a state directory under one that all may write",
        |folder| {
            folder.mkdir("open", 0o777);
            folder.mkdir("open/inner", 0o755);
            folder.edit("agent.toml", "ROOT/state", "ROOT/open/inner/state");
        },
        "ROOT/agent.toml: state-dir: ROOT/open may be written by others (mode 0777)",
        "chmod go-w ROOT/open",
    ),
    (
        "a state directory that is a link",
        |folder| {
            folder.mkdir("state", 0o755);
            folder.replace_by_link("state", "elsewhere");
        },
        "ROOT/agent.toml: state-dir: ROOT/state is a symbolic link; expected the thing itself",
        "write the path that `realpath ROOT/state` prints",
    ),
    (
        "a snapshot in /tmp",
        |folder| folder.append("agent.toml", "snapshot-dir = \"/tmp/countersign-snapshot\"\n"),
        "ROOT/agent.toml: snapshot-dir: /tmp may be written by others (mode 1777)",
        "choose a directory that only root or you may write: in /tmp anybody can take a name first",
    ),
    (
        "a snapshot in a directory like /tmp, where it is already",
        |folder| {
            folder.mkdir("sticky", 0o1777);
            folder.mkdir("sticky/snapshot", 0o755);
            folder.append("agent.toml", "snapshot-dir = \"ROOT/sticky/snapshot\"\n");
        },
        "ROOT/agent.toml: snapshot-dir: ROOT/sticky may be written by others (mode 1777)",
        "choose a directory that only root or you may write: in ROOT/sticky anybody can take a name first",
    ),
    (
        "a ledger key that others can read",
        |folder| {
            with_device(folder, "");
            folder.chmod("ledger", 0o644);
        },
        "device: ledger-key: ROOT/ledger may be read by others (mode 0644)",
        "chmod go= ROOT/ledger",
    ),
    (
        "a sealing key that the group can read",
        |folder| {
            with_device(folder, "");
            folder.chmod("x25519", 0o640);
        },
        "device: sealing-key: ROOT/x25519 may be read by others (mode 0640)",
        "chmod go= ROOT/x25519",
    ),
    (
        "a password that others can read",
        |folder| {
            with_device(folder, "");
            folder.chmod("password", 0o604);
        },
        "device: ledger-password-file: ROOT/password may be read by others (mode 0604)",
        "chmod go= ROOT/password",
    ),
    (
        "somebody else's ledger key",
        |folder| {
            with_device(folder, "");
            folder.chown("ledger", STRANGER);
        },
        "device: ledger-key: ROOT/ledger belongs to uid 4711; expected uid 0",
        "chown 0 ROOT/ledger",
    ),
    (
        "a group that is not there",
        |folder| folder.edit("agent.toml", "group = \"root\"", "group = \"nobody-here\""),
        "group \"nobody-here\": not found",
        "groupadd --system nobody-here, or name another group",
    ),
];

#[test]
fn a_mistake_in_the_configuration_is_refused_at_the_start_with_a_hint() {
    refuses("error: ", |_| 1, MISTAKES, good, started);
    refuses("error: ", |_| 1, REALM_FILE, good, started);
}

#[test]
fn run_and_check_config_refuse_what_once_refuses() {
    for command in ["run", "check-config"] {
        refuses("error: ", |_| 1, &MISTAKES[..8], good, |folder| program(folder, command).output().unwrap());
    }
    let folder = good();
    let output = program(&folder, "check-config").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn files_of_the_process_s_own_user_and_of_root_are_taken_and_those_of_a_third_are_not() {
    let check = |owner: u32| {
        let folder = good();
        for name in ["agent.toml", "realm.toml"] {
            folder.chown(name, owner);
        }
        program(&folder, "check-config").uid(STRANGER).gid(STRANGER).output().unwrap()
    };
    for owner in [0, STRANGER] {
        let output = check(owner);
        assert_eq!(output.status.code(), Some(0), "{owner}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let refused = String::from_utf8(check(4712).stderr).unwrap();
    assert!(refused.contains("agent.toml belongs to uid 4712; expected uid 4711\nhint: chown 4711 "), "{refused}");
}
