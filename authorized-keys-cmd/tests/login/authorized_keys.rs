//! The reader of `authorized_keys` lines, against ssh-keygen.

use std::io::Write as _;
use std::process::{Command, Stdio};

use countersign_certificate::{encode_base64, fingerprint_sha256, fingerprint_text};
use countersign_sshd::authorized_keys::{KeyLine, Line, lines};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::*;

fn key(byte: u8) -> String {
    format!("ssh-ed25519 {}", encode_base64(&ed25519(byte)))
}

/// The keys on the lines of `text`, by their options.
fn keys(text: &[u8]) -> Vec<(String, Vec<u8>)> {
    let options = |line: KeyLine<'_>| (String::from_utf8(line.options.to_vec()).unwrap(), line.blob);
    lines(text).filter_map(|line| if let Line::Key(line) = line { Some(options(line)) } else { None }).collect()
}

#[test]
fn keys_are_found_behind_options_comments_and_blanks() {
    let bare = key(1);
    for (text, options) in [
        (bare.clone(), ""),
        (format!("{bare}\n"), ""),
        (format!("{bare}\r\n"), ""),
        (format!(" \t{bare} a comment # with more\n"), ""),
        (format!("{}\t\t{}", "ssh-ed25519", &bare[12..]), ""),
        (format!("restrict,pty {bare}"), "restrict,pty"),
        (format!("command=\"a # b \\\" c\" \t {bare} me"), "command=\"a # b \\\" c\""),
        (format!("from=\"10.0.0.0/8,::1\",no-pty {bare}"), "from=\"10.0.0.0/8,::1\",no-pty"),
        (format!("command=\"ssh-ed25519 AAAA\" {bare}"), "command=\"ssh-ed25519 AAAA\""),
        (format!("no-such-option=\"\" {bare}"), "no-such-option=\"\""),
    ] {
        assert_eq!(keys(text.as_bytes()), [(options.to_owned(), ed25519(1))], "{text:?}");
    }
    let text = format!("# {}\n\n   \n{}\n#\n{} x\n", key(9), key(1), key(2));
    assert_eq!(keys(text.as_bytes()), [(String::new(), ed25519(1)), (String::new(), ed25519(2))]);
    assert_eq!(lines(text.as_bytes()).filter(|line| *line == Line::Empty).count(), 4);
    assert_eq!(keys(b""), []);
}

#[test]
fn what_is_not_one_plain_key_in_its_one_form_is_none() {
    let bare = key(1);
    let blob = encode_base64(&ed25519(1));
    let trailing = encode_base64(&[ed25519(1), vec![0]].concat());
    // A number with a zero before it: the same RSA key to sshd, another fingerprint to the ledger.
    let rsa = |zeros: usize| {
        let modulus = [vec![0; zeros], vec![0xc1; 256]].concat();
        encode_base64(&[string(b"ssh-rsa"), string(&[1, 0, 1]), string(&modulus)].concat())
    };
    assert_eq!(keys(format!("ssh-rsa {}", rsa(1)).as_bytes()).len(), 1);
    let certificate = encode_base64(&World::new().blob());
    for text in [
        format!("cert-authority {bare}"),
        format!("restrict,CERT-Authority,pty {bare}"),
        format!("principals=\"a\",cert-authority {bare}"),
        format!("ssh-ed25519-cert-v01@openssh.com {certificate}"),
        format!("ssh-ed25519 {certificate}"),
        format!("restrict ssh-ed25519-cert-v01@openssh.com {certificate}"),
        format!("ssh-rsa {blob}"),
        format!("ssh-rsa {}", rsa(2)),
        format!("ssh-ed25519 {trailing}"),
        format!("ssh-ed25519 {}", blob.trim_end_matches('=').strip_suffix('B').unwrap()),
        format!("ssh-ed25519 {blob}="),
        format!("ssh-dss {blob}"),
        format!("SSH-ED25519 {blob}"),
        format!("command=\"open {bare}"),
        format!("restrict, pty {bare}"),
        format!("a b {bare}"),
        format!("ssh-ed25519 {bare}"),
        format!("{}\0 {}", key(2), bare),
        format!("\u{b}{bare}"),
        format!("{bare}\rx"),
        "ssh-ed25519".to_owned(),
        "ssh-ed25519 ".to_owned(),
        blob,
    ] {
        assert_eq!(keys(text.as_bytes()), [], "{text:?}");
        assert!(lines(text.as_bytes()).all(|line| line == Line::Other), "{text:?}");
    }
}

/// What ssh-keygen finds on one line: the fingerprints of its keys.
fn of_ssh_keygen(line: &[u8]) -> Vec<String> {
    let mut child = Command::new("ssh-keygen")
        .args(["-l", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("ssh-keygen is installed (apt-get install openssh-client)");
    child.stdin.take().unwrap().write_all(line).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| line.split(' ').nth(1).unwrap_or_default().to_owned()).collect()
}

/// Pieces of which lines are put together, most of them in an order that means something.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(key(1)),
        1 => Just(key(2)),
        1 => Just("ssh-ed25519".to_owned()),
        1 => Just("restrict".to_owned()),
        1 => Just("command=\"a b # c\"".to_owned()),
        1 => Just("command=\"a \\\" b\"".to_owned()),
        1 => Just("command=\"a \\\\\"".to_owned()),
        4 => prop::sample::select(vec![" ", "\t", "  ", ",", "#", "\"", "\\", "\\\"", "x", "=", "\r"]).prop_map(str::to_owned),
    ]
}

#[test]
fn a_key_that_is_found_is_the_one_that_ssh_keygen_finds() {
    let config = Config { cases: 150, failure_persistence: None, ..Config::default() };
    let line = || prop::collection::vec(piece(), 1..7).prop_map(|pieces| pieces.concat());
    TestRunner::new(config)
        .run(&line(), |line| {
            let found = keys(line.as_bytes());
            prop_assert!(found.len() <= 1);
            // ssh-keygen finds more, such as keys in other forms, and skips one blank only after options, where sshd skips all.
            for (options, blob) in found {
                let (_, rest) = line.trim_start_matches([' ', '\t']).split_at(options.len());
                let line = format!(
                    "{options}{}{}",
                    if options.is_empty() { "" } else { " " },
                    rest.trim_start_matches([' ', '\t'])
                );
                prop_assert_eq!(of_ssh_keygen(line.as_bytes()), [fingerprint_text(&fingerprint_sha256(&blob))]);
            }
            Ok(())
        })
        .unwrap();
    // Options as people write them: both find the key.
    let quoted = prop::collection::vec(prop::sample::select(vec!["a", " ", "#", "\\\"", ",", "'", "\t"]), 0..8);
    let good = (quoted, any::<bool>(), 0_u8..4).prop_map(|(quoted, more, end)| {
        let options = format!("command=\"{}x\"{}", quoted.concat(), if more { ",no-pty" } else { "" });
        format!("{options} {}{}", key(3), ["", " ", " a \"comment\"", "\r\n"][usize::from(end)])
    });
    TestRunner::new(Config { cases: 50, failure_persistence: None, ..Config::default() })
        .run(&good, |line| {
            prop_assert_eq!(keys(line.as_bytes()).len(), 1);
            prop_assert_eq!(of_ssh_keygen(line.as_bytes()), [fingerprint_text(&fingerprint_sha256(&ed25519(3)))]);
            Ok(())
        })
        .unwrap();
}

proptest! {
    #[test]
    fn any_bytes_are_read_and_each_line_stands_as_it_was(text in prop::collection::vec(any::<u8>(), 0..400)) {
        for line in lines(&text) {
            if let Line::Key(line) = line {
                prop_assert!(text.windows(line.text.len()).any(|window| window == line.text));
            }
        }
        prop_assert_eq!(lines(&text).count(), text.split_inclusive(|byte| *byte == b'\n').count());
    }
}
