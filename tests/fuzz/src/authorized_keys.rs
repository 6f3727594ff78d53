//! What an earlier `AuthorizedKeysCommand` prints.

use countersign_sshd::authorized_keys::{Line, lines};

/// A line that counts as a plain key's is one line of the text as it stands, and no certificate's or CA's. (The reader of the crate
/// ssh-key splits quoted options elsewhere than sshd does; ssh-keygen is the oracle, in the helper's own tests.)
pub fn try_on(data: &[u8]) {
    for line in lines(data) {
        let Line::Key(key) = line else { continue };
        assert!(!key.text.contains(&b'\n') && !key.blob.is_empty());
        assert!(data.windows(key.text.len()).any(|window| window == key.text));
        let lower = key.options.to_ascii_lowercase();
        let quoted = lower.contains(&b'"');
        assert!(
            quoted || !lower.windows(14).any(|window| window == b"cert-authority"),
            "a CA's line passes for a key's"
        );
        let kind = &key.blob[4..4 + usize::from(key.blob[3])];
        assert!(!kind.ends_with(b"-cert-v01@openssh.com"), "a certificate passes for a key");
    }
}

/// Lines as people write them.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    let lines = [
        format!("{key} alice\n"),
        format!("# comment\n\n{key}"),
        format!("restrict,command=\"echo \\\"a b\\\" # no\",from=\"10.0.0.0/8\" {key} x y\r\n"),
        format!("cert-authority,principals=\"a\" {key}\n"),
        format!("  \t{key}\n{key} again\n"),
    ];
    lines.map(String::into_bytes).to_vec()
}
