//! Lists of CAs: each line is one that OpenSSH reads, or there is no list.

use base64ct::{Base64, Encoding as _};
use countersign_certificate::{fingerprint_sha256, fingerprint_text};
use countersign_krl::{CaListError, KeyError, ca_list};
use p256::elliptic_curve::sec1::ToEncodedPoint as _;

use crate::support::{Bench, blob, ecdsa_blob, key, keygen, off_the_curve};

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

/// The P-256 key whose x coordinate is the first from `x` on (counting in its last byte) that the curve has.
fn with_x_near(mut x: [u8; 32], step: i8) -> Vec<u8> {
    loop {
        let compressed = [&[2][..], &x].concat();
        if let Ok(key) = p256::PublicKey::from_sec1_bytes(&compressed) {
            return ecdsa_blob("nistp256", key.to_encoded_point(false).as_bytes());
        }
        x[31] = x[31].checked_add_signed(step).unwrap();
    }
}

#[test]
fn a_point_that_openssh_refuses_makes_no_list() {
    let bench = Bench::new();
    let reads = |blob: &[u8]| {
        let curve = std::str::from_utf8(&blob[4..23]).unwrap();
        let path = bench.write("key.pub", format!("{curve} {} x\n", Base64::encode_string(blob)));
        keygen(|command| command.arg("-l").arg("-f").arg(path)).status.success()
    };
    let field = [[0xff; 4], [0, 0, 0, 1], [0; 4], [0; 4], [0; 4], [0xff; 4], [0xff; 4], [0xff; 4]].concat();
    let field: [u8; 32] = field.try_into().unwrap();
    let points = [
        ("off the curve", off_the_curve()),
        ("off P-384", ecdsa_blob("nistp384", &[&[4][..], &[0x77; 96]].concat())),
        ("off P-521", ecdsa_blob("nistp521", &[&[4, 0][..], &[0x77; 65], &[0], &[0x77; 65]].concat())),
        ("a small coordinate", with_x_near([0; 32], 1)),
        ("a coordinate over the order", with_x_near(field, -1)),
    ];
    for (what, blob) in points {
        assert!(!reads(&blob), "OpenSSH reads {what}");
        let error = ca_list([("ca", &blob[..])]).unwrap_err();
        assert!(matches!(error, CaListError::Key { source: KeyError::Point, .. }), "{what}: {error}");
    }
    let good = with_x_near([0x55; 32], 1);
    assert!(reads(&good) && ca_list([("ca", &good[..])]).is_ok());
}

#[test]
fn a_name_cannot_add_a_line_or_an_option() {
    let good = blob(&key());
    let text = ca_list([("x\nssh-ed25519 AAAA evil\n", &good[..])]).unwrap();
    assert_eq!((text.lines().count(), text.split(' ').count()), (1, 3), "{text}");
    assert_eq!(ca_list([]).unwrap(), "");
}
