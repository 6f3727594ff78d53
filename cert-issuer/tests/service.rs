//! The program's face: arguments, configuration, status.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use countersign_issuer::config::Config;

fn issuer(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_countersign-issuer"))
        .current_dir(directory)
        .env_clear()
        .args(["--config", "issuer.toml"])
        .args(arguments)
        .output()
        .unwrap()
}

/// Files that hold nothing and that nobody else can read: what they hold is looked at later.
fn secrets(directory: &Path, names: &[&str]) {
    for name in names {
        let path = directory.join(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
}

fn no_realm(directory: &Path) -> String {
    let path = directory.join("realm.toml");
    format!("countersign-issuer: cannot open {}: No such file or directory (os error 2)\n", path.display())
}

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/examples/issuer.toml");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_example_that_is_shipped_reads() {
    let config = Config::parse(Path::new("/etc/countersign/issuer.toml"), &example()).unwrap();
    assert_eq!(config.ca, "prod");
    assert_eq!(config.realm, Path::new("/etc/countersign/realm.toml"));
}

#[test]
fn the_rotations_that_the_example_shows_read_and_name_every_key() {
    let text: String = example()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = Config::parse(Path::new("/etc/countersign/issuer.toml"), &text).unwrap();
    let names: Vec<&str> = config.rotate.iter().map(|rotation| rotation.name.as_str()).collect();
    assert_eq!(names, ["api-token", "www", "replication", "host-certificate"]);
    for key in [
        "name",
        "make",
        "kind",
        "to",
        "label",
        "every",
        "before",
        "bytes",
        "command",
        "each",
        "deadline",
        "publish",
        "lead",
        "resend",
        "[rotate.certificate]",
        "[rotate.host-ca]",
        "ca-agent",
    ] {
        assert!(text.contains(key), "the example does not show `{key}`");
    }
}

#[test]
fn a_configuration_that_is_missing_or_has_an_unknown_key_exits_with_2() {
    let directory = tempfile::tempdir().unwrap();
    let missing = issuer(directory.path(), &["check-config"]);
    assert_eq!(missing.status.code(), Some(2));
    let message = String::from_utf8(missing.stderr).unwrap();
    let file = directory.path().join("issuer.toml");
    let expected = format!("configuration: cannot open {}: No such file or directory (os error 2)", file.display());
    assert_eq!(message, format!("countersign-issuer: {expected}\n"));
    std::fs::write(directory.path().join("issuer.toml"), format!("port = 22\n{}", example())).unwrap();
    let unknown = issuer(directory.path(), &["run"]);
    assert_eq!(unknown.status.code(), Some(2));
    let message = String::from_utf8(unknown.stderr).unwrap();
    assert!(
        message.starts_with("countersign-issuer: configuration issuer.toml, line 1: unknown field `port`"),
        "{message}"
    );
}

#[test]
fn status_without_a_service_says_which_file_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("issuer.toml"), example().replace("/var/lib/countersign-issuer/", ""))
        .unwrap();
    let status = issuer(directory.path(), &["status"]);
    assert_eq!((status.status.code(), status.stdout.as_slice()), (Some(1), b"".as_slice()));
    assert_eq!(
        String::from_utf8(status.stderr).unwrap(),
        "countersign-issuer: state/status.json: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_realm_file_that_is_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("issuer.toml"), example().replace("/var/lib/countersign-issuer/", ""))
        .unwrap();
    secrets(directory.path(), &["issuer.json", "issuer.password", "ca", "ca.password", "issuer.x25519"]);
    let checked = issuer(directory.path(), &["check-config"]);
    assert_eq!(checked.status.code(), Some(1));
    let message = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(message, no_realm(directory.path()));
}

fn watchdog_example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/examples/watchdog.toml");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_watchdog_s_example_reads_with_all_that_it_leaves_out() {
    use countersign_issuer::watch::WatchConfig;
    let path = Path::new("/etc/countersign/watchdog.toml");
    let config = WatchConfig::parse(path, &watchdog_example()).unwrap();
    assert_eq!(config.policy.max_ttl.map(|ttl| ttl.secs()), Some(3_600));
    let whole = watchdog_example();
    let whole: String = whole
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = [\"") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = WatchConfig::parse(path, &whole).unwrap();
    assert_eq!((config.policy.logins.len(), config.policy.hosts.len(), config.policy.cas.len()), (1, 1, 1));
}

#[test]
fn the_watchdog_names_its_own_files() {
    let directory = tempfile::tempdir().unwrap();
    let text = watchdog_example().replace("/var/lib/", "");
    std::fs::write(directory.path().join("issuer.toml"), text).unwrap();
    secrets(directory.path(), &["watchdog.json", "watchdog.password", "watchdog.x25519"]);
    let message = |output: Output| (output.status.code(), String::from_utf8(output.stderr).unwrap());
    let (code, text) = message(issuer(directory.path(), &["watch", "check-config"]));
    assert_eq!((code, text), (Some(1), no_realm(directory.path())));
    let (code, text) = message(issuer(directory.path(), &["check-config"]));
    assert_eq!(code, Some(2));
    assert!(
        text.contains("unknown field `patience`")
            || text.contains("unknown field `policy`")
            || text.contains("missing field"),
        "{text}"
    );
    let (code, text) = message(issuer(directory.path(), &["watch", "status"]));
    assert_eq!(code, Some(1));
    assert!(text.contains("countersign-watchdog/status.json"), "{text}");
}
