//! What the helper's user leaves about sessions, what is recorded of them, and what sshd says to PAM.

use countersign_certificate::encode_base64;
use countersign_snapshot::{BootId, Uid};
use countersign_sshd::{Accepted, Granter, Note, ProcessName, Record, accepted};

/// What is read is written the same, a note is no record, and each key that sshd is taken to have said stands in a line of its own.
pub fn try_on(data: &[u8]) {
    let (note, record) = (Note::decode(data), Record::decode(data));
    assert!(note.is_err() || record.is_err());
    if let Ok(note) = &note {
        assert_eq!(note.encode().as_bytes(), data, "one form for each note");
    }
    if let Ok(record) = &record {
        assert_eq!(record.encode().as_bytes(), data, "one form for each record");
    }
    for note in note.iter().chain(record.iter().map(|record| &record.note)) {
        assert_eq!(note.process.to_string().parse(), Ok(note.process));
        assert!(!note.login.bytes().any(|byte| byte.is_ascii_control()), "it is shown on terminals");
        let is_certificate = note.blob.get(4..).is_some_and(|rest| {
            let length = u32::from_be_bytes(note.blob[..4].try_into().unwrap());
            rest.get(..length as usize).is_some_and(|name| name.ends_with(b"-cert-v01@openssh.com"))
        });
        assert!(!(is_certificate && note.by == Granter::Earlier), "only denials would end it");
    }
    for blob in accepted(data) {
        let text = encode_base64(&blob);
        let is_said = |line: &[u8]| {
            let mut words = line.split(|byte| *byte == b' ');
            words.next() == Some(b"publickey") && words.nth(1).is_some_and(|word| word == text.as_bytes())
        };
        assert!(data.split(|byte| *byte == b'\n').any(is_said), "sshd has not said {text}");
    }
}

/// A note and a record of each sort, and lines as sshd says them.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let note = Note {
        process: ProcessName { pid: 77, start_ticks: 1234 },
        boot_id: BootId([0xab; 16]),
        login: "deploy".to_owned(),
        uid: Uid(2001),
        by: Granter::Realm,
        blob: [&[0, 0, 0, 11][..], b"ssh-ed25519", &[0, 0, 0, 32], &[7; 32]].concat(),
        asked: 2,
        alone: true,
        unix_secs: 1_800_000_000,
        boottime_secs: 100,
    };
    let record = Record {
        note: note.clone(),
        accepted: Accepted::Pam,
        connection: Some("192.0.2.1 50000 192.0.2.2 22".to_owned()),
        audit_before: u32::MAX,
        audit: Some(26),
        scope: None,
    };
    let texts = [
        note.encode(),
        Note { by: Granter::Earlier, alone: false, ..note.clone() }.encode(),
        record.encode(),
        Record { accepted: Accepted::Journal, connection: None, audit: None, ..record.clone() }.encode(),
        Record { accepted: Accepted::Alone, scope: Some("/user.slice/session-7.scope".to_owned()), ..record }.encode(),
        format!("publickey ssh-ed25519 {}\npassword\n", encode_base64(&note.blob)),
        "publickey a AAAA\nkeyboard-interactive\npublickey a BBBB b".to_owned(),
    ];
    texts.map(String::into_bytes).to_vec()
}
