//! Lists of CAs: each line is one that OpenSSH reads, or there is no list.

use base64ct::{Base64, Encoding as _};
use countersign_certificate::{fingerprint_sha256, fingerprint_text};
use countersign_krl::ca_list;

use crate::support::{Bench, blob, key, keygen};

#[test]
fn openssh_reads_each_line_as_the_key_it_was_made_from() {
    let bench = Bench::new();
    let keys: Vec<_> = (0..3).map(|_| key()).collect();
    let mut blobs: Vec<Vec<u8>> = keys.iter().map(blob).collect();
    for (kind, bits) in [("rsa", "2048"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521")] {
        let path = bench.path(&format!("{kind}{bits}"));
        let made = keygen(|command| command.args(["-q", "-N", "", "-t", kind, "-b", bits, "-f"]).arg(&path));
        assert!(made.status.success(), "{made:?}");
        let line = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        blobs.push(Base64::decode_vec(line.split(' ').nth(1).unwrap()).unwrap());
    }
    let text = ca_list(blobs.iter().map(|blob| ("ca", &blob[..]))).unwrap();
    let path = bench.write("ca.pub", &text);
    let printed = keygen(|command| command.arg("-l").arg("-f").arg(&path));
    let printed = String::from_utf8(printed.stdout).unwrap();
    let fingerprints: Vec<&str> = printed.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    let wanted: Vec<String> = blobs.iter().map(|blob| fingerprint_text(&fingerprint_sha256(blob))).collect();
    assert_eq!(fingerprints, wanted);
}

#[test]
fn one_bad_key_and_there_is_no_list_at_all() {
    let good = blob(&key());
    for bad in [&b""[..], b"garbage", &good[..good.len() - 1], &[&good[..], b"\0"].concat()] {
        let error = ca_list([("first", &good[..]), ("second", bad), ("third", &good[..])]).unwrap_err();
        assert!(error.to_string().starts_with("CA second: "), "{error}");
    }
    let bench = Bench::new();
    let certificate = bench.certificate(&key(), &key(), 1, "x");
    let certificate = ssh_key::Certificate::from_openssh(&std::fs::read_to_string(certificate).unwrap()).unwrap();
    assert!(ca_list([("certificate", &certificate.to_bytes().unwrap()[..])]).is_err(), "a certificate is no CA key");
}

#[test]
fn a_name_cannot_add_a_line_or_an_option() {
    let good = blob(&key());
    let text = ca_list([("x\nssh-ed25519 AAAA evil\n", &good[..])]).unwrap();
    assert_eq!((text.lines().count(), text.split(' ').count()), (1, 3), "{text}");
    assert_eq!(ca_list([]).unwrap(), "");
}
