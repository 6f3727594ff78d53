//! `countersign store`: needs no chain and no realm; against a directory here, against nodes in `delivery/tests/stores`.

use crate::bed::{countersign, documented};

/// The CID of `sealed`, by `add` of the node in `tests/ipfs-node` with `cid-version=1`.
const CID: &str = "bafkreigj2abwx3lhis6n62jpzganq4l5pzpvut2oqjtljkcjqjqc7monbe";

#[test]
fn a_file_is_put_found_got_and_let_go_of() {
    let directory = tempfile::tempdir().unwrap();
    let at = |arguments: &[&str]| {
        let ran = countersign(directory.path(), arguments, &[("COUNTERSIGN_STORE", "blocks")]);
        (ran.code, ran.stdout, ran.stderr)
    };
    let json = |arguments: &[&str]| {
        let (code, stdout, _) = at(&[&["--format", "json"], arguments].concat());
        let value: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        documented(&value);
        (code, value)
    };
    std::fs::write(directory.path().join("file"), b"sealed").unwrap();
    let (code, put) = json(&["store", "put", "file"]);
    let cid = put["cid"].as_str().unwrap().to_owned();
    assert_eq!((code, put["bytes"].as_u64(), put["blocks"].as_u64()), (0, Some(6), Some(1)));
    assert_eq!(put["stores"][0], serde_json::json!({ "store": "blocks", "outcome": "stored" }));
    assert_eq!(at(&["store", "put", "file"]), (0, format!("{cid}\nstored blocks\n"), String::new()));
    assert_eq!(at(&["store", "get", &cid]), (0, "sealed".to_owned(), String::new()));
    let (code, got) = json(&["store", "get", &cid, "--out", "got"]);
    assert_eq!((code, got["file"].as_str()), (0, Some("got")));
    assert_eq!(std::fs::read(directory.path().join("got")).unwrap(), b"sealed");
    assert_eq!(json(&["store", "pin", &cid]).1["stores"][0]["outcome"], "pinned");
    assert_eq!(json(&["store", "check"]).1["stores"][0]["message"], "1 blocks");
    assert_eq!(json(&["store", "check", &cid]).1["stores"][0]["outcome"], "pinned");
    assert_eq!(json(&["store", "unpin", &cid]).1["stores"][0]["outcome"], "unpinned");
    let (code, checked) = json(&["store", "check", &cid]);
    assert_eq!((code, checked["stores"][0]["outcome"].as_str()), (1, Some("absent")));
    let (code, stdout, stderr) = at(&["store", "get", &cid]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_eq!(stderr, format!("countersign: block {cid}: from no store: block {cid}: not in blocks\n"));
    // The content stands in the name: no store is asked.
    assert_eq!(at(&["store", "get", "bafkqabtimvwgy3yk"]), (0, "hello\n".to_owned(), String::new()));
    assert_eq!(cid, CID);
}

#[test]
fn stores_are_asked_in_the_order_given_and_puts_need_all_or_any() {
    let directory = tempfile::tempdir().unwrap();
    let at = |arguments: &[&str]| countersign(directory.path(), arguments, &[]);
    std::fs::write(directory.path().join("file"), b"sealed").unwrap();
    // A port of loopback that nobody listens at.
    let dead = "kubo:http://127.0.0.1:9";
    let all = at(&["store", "put", "file", "--store", dead, "--store", "blocks"]);
    assert_eq!((all.code, all.stdout.as_str()), (1, ""));
    assert!(all.stderr.contains("not stored: kubo http://127.0.0.1:9: block/put: "), "{}", all.stderr);
    let any = at(&["store", "put", "file", "--store", dead, "--store", "blocks", "--puts", "any"]);
    assert_eq!(any.code, 0, "{}", any.stderr);
    assert!(any.stdout.starts_with(&format!("{CID}\nfailed kubo http://127.0.0.1:9: ")), "{}", any.stdout);
    assert!(any.stdout.ends_with("\nstored blocks\n"), "{}", any.stdout);
    let got = at(&["store", "get", CID, "--store", "gateway:http://127.0.0.1:9", "--store", "blocks"]);
    assert_eq!((got.code, got.stdout.as_str()), (0, "sealed"), "{}", got.stderr);
    let checked = at(&["store", "check", "--store", dead, "--store", "blocks"]);
    assert_eq!((checked.code, checked.stdout.lines().count()), (1, 2), "{}", checked.stdout);
}

#[test]
fn wrong_stores_are_refused_before_anything_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, code, message) in [
        (&["store", "check"][..], 2, "a block store is needed: expected --store WHERE"),
        (&["store", "check", "--store", "http://127.0.0.1:5001"], 2, "expected kubo:http://127.0.0.1:5001 or gateway:"),
        (
            &["store", "check", "--store", "kubo:http://a:b@127.0.0.1"],
            1,
            "expected credentials in an authorization file",
        ),
        (&["store", "check", "--store", "blocks", "--puts", "most"], 2, "`most`: expected all or any"),
        (
            &["store", "check", "--store", "blocks", "--store-authorization", "f"],
            2,
            "expected a --store kubo:URL that it is for",
        ),
        (
            &["store", "get", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH", "--store", "blocks"],
            2,
            "expected version 1",
        ),
    ] {
        let ran = countersign(directory.path(), arguments, &[]);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{arguments:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("a:b"), "{}", ran.stderr);
    }
}
