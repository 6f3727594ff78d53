use super::*;

const MINIMAL: &str = "realm-file = \"/etc/countersign/realm.toml\"\nhost = \"000102030405060708090a0b0c0d0e0f\"\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("agent.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn the_shipped_example_parses_and_names_every_field() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/agent.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let config = parse(&text).unwrap();
    assert_eq!(config.payload.len(), 5);
    assert!(config.device.is_some() && config.payload.iter().any(|rule| rule.reload.is_some()));
    for field in [
        "realm-file",
        "host",
        "state-dir",
        "snapshot-dir",
        "group",
        "poll-interval-ms",
        "max-staleness-secs",
        "allow-root",
        "[sessions]",
        "[earlier-command]",
        "release",
        "[device]",
        "ledger-key",
        "ledger-password-file",
        "sealing-key",
        "[[block-store]]",
        "directory",
        "[[payload]]",
        "name",
        "path",
        "owner",
        "mode",
        "kind",
        "prekeys",
        "key-pairs",
        "reload",
        "[payload.renew]",
        "login",
        "ttl-secs",
        "before-secs",
        "answer-secs",
        "reason",
    ] {
        assert!(text.contains(field), "the example does not show `{field}`");
    }
}

#[test]
fn what_is_not_said_has_the_documented_default() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.state_dir.as_path(), Path::new("/var/lib/countersign"));
    assert_eq!(config.snapshot_dir(), Path::new("/var/lib/countersign/snapshot"));
    assert_eq!(config.group, "countersign");
    assert!(!config.allow_root);
    assert!(config.earlier_command.release.is_empty());
    assert_eq!(config.max_staleness_secs, None);
}

#[test]
fn files_of_a_plain_sshd_are_some_and_none_of_the_agents_own() {
    let host = "realm-file = \"/etc/r.toml\"\nhost = \"5b1f0c9a7e2d48c3b6a4d1e0f9873c21\"\n";
    let parse = |files: &str| {
        let text = format!("{host}[plain-sshd]\n{files}");
        Config::parse(Path::new("agent.toml"), &text).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(parse("revoked-keys = \"/etc/ssh/a\"\nca-keys = \"/etc/ssh/b\"\n"), Ok(()));
    assert_eq!(parse("ca-keys = \"/etc/ssh/b\"\n"), Ok(()));
    for (files, expected) in [
        ("", "agent.toml: plain-sshd: expected revoked-keys, ca-keys or both"),
        (
            "revoked-keys = \"/etc/ssh/a\"\nca-keys = \"/etc/ssh/a\"\n",
            "agent.toml: plain-sshd: ca-keys: expected a file of its own; another one of the agent's is there",
        ),
        (
            "revoked-keys = \"/etc/r.toml\"\n",
            "agent.toml: plain-sshd: revoked-keys: expected a file of its own; another one of the agent's is there",
        ),
        (
            "ca-keys = \"/var/lib/countersign/cas\"\n",
            "agent.toml: plain-sshd: ca-keys: the agent's own files are there",
        ),
    ] {
        assert_eq!(parse(files), Err(expected.to_owned()), "{files}");
    }
}

#[test]
fn an_unknown_field_is_named_with_its_line() {
    let expected = "`realm-file`, `host`, `state-dir`, `snapshot-dir`, `group`, `poll-interval-ms`, \
                    `max-staleness-secs`, `allow-root`, `plain-sshd`, `sessions`, `earlier-command`, `device`, `block-store`, `payload`";
    assert_eq!(
        parse(&format!("{MINIMAL}allow-rot = true\n")),
        Err(format!("agent.toml:3: unknown field `allow-rot`, expected one of {expected}"))
    );
}

#[test]
fn an_unknown_field_inside_a_table_is_named_with_its_line() {
    let text = format!("{MINIMAL}\n[[block-store]]\ndirectory = \"/srv/blocks\"\ngatway = \"http://x\"\n");
    let expected = "`directory`, `kubo`, `authorization-file`, `gateway`, `idle-secs`";
    assert_eq!(parse(&text), Err(format!("agent.toml:6: unknown field `gatway`, expected one of {expected}")));
}

#[test]
fn blocks_come_from_directories_nodes_and_gateways_in_order() {
    let stores = "[[block-store]]\nkubo = \"http://127.0.0.1:5001\"\nauthorization-file = \"/etc/token\"\n\
                  [[block-store]]\ngateway = \"https://gateway.example\"\nidle-secs = 5\n\
                  [[block-store]]\ndirectory = \"/srv/blocks\"\n";
    let config = parse(&format!("{MINIMAL}{stores}")).unwrap();
    let paths: Vec<_> = config.block_store.iter().flat_map(StoreSetting::paths).collect();
    assert_eq!(paths, [Path::new("/etc/token"), Path::new("/srv/blocks")]);
    assert_eq!(config.block_store[1].idle_secs.get(), 5);
    for relative in ["directory = \"blocks\"", "kubo = \"http://a\"\nauthorization-file = \"token\""] {
        let problem = parse(&format!("{MINIMAL}[[block-store]]\n{relative}\n")).unwrap_err();
        assert!(problem.starts_with("agent.toml: block-store: expected an absolute path"), "{problem}");
    }
    assert_eq!(
        parse(&format!("{MINIMAL}[[block-store]]\ndirectory = \"/b\"\ngateway = \"http://g\"\n")),
        Err("agent.toml:3: expected one of `directory`, `kubo`, `gateway`".to_owned())
    );
}

#[test]
fn each_wrong_value_is_one_exact_message() {
    let cases = [
        ("", "agent.toml:1: missing field `realm-file`"),
        ("realm-file = \"/r\"\n", "agent.toml:1: missing field `host`"),
        (
            "realm-file = \"realm.toml\"\n",
            "agent.toml:1: expected an absolute path without `.` and `..`, found `realm.toml`",
        ),
        (
            "realm-file = \"/etc/../realm.toml\"\n",
            "agent.toml:1: expected an absolute path without `.` and `..`, found `/etc/../realm.toml`",
        ),
        (
            "realm-file = \"/r\"\nhost = \"web1.example\"\n",
            "agent.toml:2: expected a record id of 32 hexadecimal digits, found `web1.example`",
        ),
        (
            "realm-file = \"/r\"\nhost = \"00000000000000000000000000000000\"\n",
            "agent.toml: host: expected the record id that enrolment gave this host, not zeros",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(parse(text), Err(message.to_owned()), "{text}");
    }
    let cases = [
        ("poll-interval-ms = 50\n", "agent.toml:3: expected 100 to 60000 milliseconds, found 50"),
        ("max-staleness-secs = 0\n", "agent.toml:3: invalid value: integer `0`, expected a nonzero u64"),
        ("allow-root = \"yes\"\n", "agent.toml:3: invalid type: string \"yes\", expected a boolean"),
    ];
    for (line, message) in cases {
        assert_eq!(parse(&format!("{MINIMAL}{line}")), Err(message.to_owned()), "{line}");
    }
}

#[test]
fn payload_rules_refuse_shells_open_modes_bad_names_and_collisions() {
    let device = "[device]\nledger-key = \"/k\"\nledger-password-file = \"/p\"\nsealing-key = \"/x\"\n\
                  [[block-store]]\ndirectory = \"/b\"\n";
    let cases = [
        (
            "name = \"../x\"\npath = \"/p\"\n",
            "agent.toml:10: expected a payload name of 1 to 63 of [a-z0-9._-] without a leading dot, found `../x`",
        ),
        ("name = \"x\"\npath = \"/p\"\nmode = \"0644\"\n", "agent.toml: payload x: mode: 0644 is for public data only"),
        (
            "name = \"x\"\npath = \"/p\"\nreload = \"systemctl reload x\"\n",
            "agent.toml:12: invalid type: string \"systemctl reload x\", expected a sequence",
        ),
        (
            "name = \"x\"\npath = \"/p\"\nreload = [\"systemctl\", \"reload\"]\n",
            "agent.toml:12: expected an absolute path without `.` and `..`, found `systemctl`",
        ),
        (
            "name = \"x\"\npath = \"/p\"\nreload = []\n",
            "agent.toml:12: expected a program and its arguments, found an empty array",
        ),
        (
            "name = \"x\"\npath = \"/p\"\n[[payload]]\nname = \"x\"\npath = \"/q\"\n",
            "agent.toml: payload x: named twice",
        ),
        (
            "name = \"x\"\npath = \"/p\"\n[[payload]]\nname = \"y\"\npath = \"/p\"\n",
            "agent.toml: payload y: path: another payload goes there too",
        ),
        (
            "name = \"x\"\npath = \"/p\"\n[[payload]]\nname = \"y\"\npath = \"//p.pub\"\n",
            "agent.toml: payload y: path: another payload goes there too",
        ),
        (
            "name = \"x\"\npath = \"/p-cert.pub\"\n[[payload]]\nname = \"y\"\npath = \"/p\"\n",
            "agent.toml: payload y: path: another payload goes there too",
        ),
    ];
    for (rule, message) in cases {
        assert_eq!(parse(&format!("{MINIMAL}{device}[[payload]]\n{rule}")), Err(message.to_owned()), "{rule}");
    }
}

#[test]
fn a_payload_never_takes_the_place_of_the_devices_keys_or_of_the_agents_own_files() {
    let device = "state-dir = \"/var/lib/agent\"\n[device]\nledger-key = \"/keys/ledger\"\n\
                  ledger-password-file = \"/keys/word.pub\"\nsealing-key = \"/keys/x.key\"\n\
                  [[block-store]]\ndirectory = \"/b\"\n";
    let renew = "[payload.renew]\nhost = \"000102030405060708090a0b0c0d0e0f\"\nlogin = \"deploy\"\nttl-secs = 600\n";
    let keys = "the agent's own configuration or one of the device's keys is there";
    for (path, problem) in [
        ("/keys/ledger", keys),
        ("//keys/ledger", keys),
        ("/keys/word", keys),
        ("/keys/x", keys),
        ("/etc/countersign/realm.toml", keys),
        ("/etc/countersign/agent.toml", keys),
        ("/var/lib/agent/state", "the agent's own files are there"),
        ("/var/lib/agent/prekeys/x", "the agent's own files are there"),
    ] {
        for more in ["", renew] {
            let text = format!("{MINIMAL}{device}[[payload]]\nname = \"x\"\npath = \"{path}\"\n{more}");
            let file = Path::new("/etc/countersign/agent.toml");
            let error = Config::parse(file, &text).unwrap_err().to_string();
            assert_eq!(error, format!("{}: payload x: path: {problem}", file.display()), "{path}");
        }
    }
}

#[test]
fn each_renewal_that_could_not_work_is_one_exact_message() {
    let parse = |payload: &str, renew: &str| {
        let device = "[device]\nledger-key = \"/k\"\nledger-password-file = \"/w\"\nsealing-key = \"/x\"\n\
                      [[block-store]]\ndirectory = \"/b\"\n";
        let whole = "host = \"000102030405060708090a0b0c0d0e0f\"\nlogin = \"deploy\"\nttl-secs = 600\n";
        let keys: Vec<&str> = renew.lines().filter_map(|line| line.split(' ').next()).collect();
        let kept: String = whole
            .lines()
            .filter(|line| !keys.iter().any(|key| line.starts_with(key)))
            .map(|line| format!("{line}\n"))
            .collect();
        let text = format!(
            "{MINIMAL}{device}[[payload]]\nname = \"x\"\npath = \"/p\"\n{payload}[payload.renew]\n{kept}{renew}"
        );
        Config::parse(Path::new("agent.toml"), &text).map_err(|error| error.to_string())
    };
    let config = parse("", "").unwrap();
    let renew = config.payload[0].renew.as_ref().unwrap();
    assert_eq!((renew.before_secs, renew.answer_secs.get(), renew.reason.as_str()), (None, 3_600, "renewal"));
    for (payload, renew, message) in [
        ("kind = \"opaque-secret\"\n", "", "is for ssh-certificate only"),
        ("key-pairs = true\n", "", "does not go with key-pairs: the key is made here and never replaced"),
        (
            "",
            "before-secs = 600\n",
            "expected before-secs below ttl-secs: else each certificate is replaced as soon as it comes",
        ),
        ("", "answer-secs = 59\n", "expected answer-secs of at least 60: requests cost gas"),
        ("", "login = \"a b\"\n", "expected a login of 1 to 32 letters, digits and ._-"),
        ("", "reason = \"a\\nb\"\n", "expected a reason of at most 256 bytes on one line"),
        (
            "",
            "host = \"00000000000000000000000000000000\"\n",
            "expected the record id of the host that the certificate is for, not zeros",
        ),
    ] {
        assert_eq!(parse(payload, renew), Err(format!("agent.toml: payload x: renew: {message}")));
    }
    let unknown = parse("", "every = 5\n").unwrap_err();
    assert!(unknown.contains("unknown field `every`"), "{unknown}");
}

#[test]
fn payloads_without_keys_or_without_a_store_are_refused() {
    let rule = "[[payload]]\nname = \"x\"\npath = \"/p\"\n";
    assert_eq!(
        parse(&format!("{MINIMAL}{rule}")),
        Err("agent.toml: payload: deliveries need a [device] table with this device's keys".to_owned())
    );
    let device = "[device]\nledger-key = \"/k\"\nledger-password-file = \"/p\"\nsealing-key = \"/x\"\n";
    assert_eq!(
        parse(&format!("{MINIMAL}{device}{rule}")),
        Err("agent.toml: payload: deliveries need a [[block-store]] to fetch from".to_owned())
    );
}

#[test]
fn a_configuration_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, MINIMAL).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = Config::load(&path).unwrap_err();
    assert_eq!(error.to_string(), format!("{} may be written by others (mode 0666)", path.display()));
    assert_eq!(error.hint(), Some(format!("chmod go-w {}", path.display())));
}
