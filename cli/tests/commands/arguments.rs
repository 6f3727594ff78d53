//! Arguments, configuration, help and completions: what needs no chain.

use crate::bed::countersign;

#[test]
fn help_and_version_are_results() {
    let directory = tempfile::tempdir().unwrap();
    let help = countersign(directory.path(), &["--help"], &[]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for noun in ["realm", "role", "ca", "user", "group", "host", "key", "grant", "issue", "revoke", "unlock", "log"] {
        assert!(help.stdout.lines().any(|line| line.trim_start().starts_with(noun)), "{noun}");
    }
    let version = countersign(directory.path(), &["--version"], &[]);
    assert_eq!(version.stdout, format!("countersign {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_exits_with_2_and_leaves_stdout_empty() {
    let directory = tempfile::tempdir().unwrap();
    let cases: [&[&str]; 9] = [
        &[],
        &["frobnicate"],
        &["user", "add"],
        &["user", "list", "--page", "0"],
        &["user", "add", "alice", "--root-key", "k", "--propose", "p"],
        &["issue", "alice@web1", "--as", "deploy"],
        &["grant", "add", "alice", "--host", "h", "--all-hosts", "--login", "l"],
        &["user", "list"],
        &["--format", "xml", "status"],
    ];
    for arguments in cases {
        let ran = countersign(directory.path(), arguments, &[]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(!ran.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_missing_realm_file_is_said_with_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let ran = countersign(directory.path(), &["status"], &[]);
    assert_eq!(
        ran.stderr,
        "countersign: a realm file is needed: expected --realm FILE\n\
         hint: make one with `countersign realm create`, or ask the realm's owner for it\n"
    );
}

#[test]
fn an_unknown_configuration_key_is_refused_with_name_and_line() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("c.toml"), "format = \"text\"\nkeystore = \"k\"\n").unwrap();
    let ran = countersign(directory.path(), &["--config", "c.toml", "status"], &[]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.starts_with("countersign: configuration c.toml, line 2: unknown field `keystore`, expected one of"),
        "{}",
        ran.stderr
    );
}

#[test]
fn the_environment_mirrors_flags_and_flags_win() {
    let directory = tempfile::tempdir().unwrap();
    let made = countersign(directory.path(), &["device", "new", "d"], &[("COUNTERSIGN_FORMAT", "json")]);
    assert!(made.json()["x25519"].as_str().unwrap().len() == 64);
    let shown =
        countersign(directory.path(), &["device", "show", "d", "--format", "text"], &[("COUNTERSIGN_FORMAT", "json")]);
    assert_eq!(shown.stdout, format!("x25519: {}\nfile:   d\n", made.json()["x25519"].as_str().unwrap()));
    let again = countersign(directory.path(), &["device", "new", "d"], &[]);
    assert_eq!(again.code, 1);
    let wrong = countersign(directory.path(), &["device", "show", "d"], &[("COUNTERSIGN_FORMAT", "xml")]);
    assert_eq!(wrong.code, 2);
}

#[test]
fn a_keystore_opens_only_with_its_password_and_none_is_taken_from_arguments() {
    let directory = tempfile::tempdir().unwrap();
    let made = countersign(directory.path(), &["actor", "new", "k.json"], &[]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let shown =
        countersign(directory.path(), &["actor", "show", "k.json"], &[("COUNTERSIGN_KEYSTORE_PASSWORD", "wrong")]);
    assert_eq!((shown.code, shown.stdout), (0, made.stdout));
    let flag = countersign(directory.path(), &["--password", "x", "actor", "new", "other.json"], &[]);
    assert_eq!(flag.code, 2);
    std::fs::write(directory.path().join("pw"), "secret\n").unwrap();
    let readable = countersign(directory.path(), &["--password-file", "pw", "actor", "new", "other.json"], &[]);
    assert_eq!(readable.code, 1);
    assert!(readable.stderr.contains("lets others read a password"), "{}", readable.stderr);
    let empty =
        countersign(directory.path(), &["actor", "new", "other.json"], &[("COUNTERSIGN_KEYSTORE_PASSWORD", "")]);
    assert_eq!(empty.stderr, "countersign: an empty password protects nothing\n");
}

#[test]
fn every_shell_gets_completions() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = countersign(directory.path(), &["completions", shell], &[]);
        assert_eq!(ran.code, 0, "{shell}");
        assert!(ran.stdout.contains("countersign") && ran.stdout.contains("unlock"), "{shell}");
    }
}

#[test]
fn inspect_reads_a_key_from_stdin_and_refuses_what_it_does_not_know() {
    let directory = tempfile::tempdir().unwrap();
    let inspect = |input: &str| {
        assert_cmd::Command::cargo_bin("countersign")
            .unwrap()
            .current_dir(directory.path())
            .env_clear()
            .args(["--format", "json", "inspect", "-"])
            .write_stdin(input)
            .output()
            .unwrap()
    };
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4gq5fEwHYm0bPWR6tGjpqCmRcUYXq0Y4YkOaVXZDkC someone\n";
    let known = inspect(key);
    let shown: serde_json::Value = serde_json::from_slice(&known.stdout).unwrap();
    assert_eq!((&shown["what"], &shown["key-type"]), (&"public-key".into(), &"ssh-ed25519".into()));
    let unknown = inspect("hello\n");
    assert_eq!(unknown.status.code(), Some(1));
    let error: serde_json::Value = serde_json::from_slice(&unknown.stderr).unwrap();
    assert_eq!(
        error["error"]["message"],
        "-: expected an OpenSSH certificate or public key, a proposal, signed writes, a statement or an archive"
    );
}
