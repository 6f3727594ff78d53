//! Mistakes in a configuration, one after the other: each is made in a folder where all is well, and the program has to refuse to
//! start, with its exit code, a message that names the object and what was expected, and a hint. The mistakes that every program
//! must see, those of the realm file, are listed here.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::PathBuf,
    process::Output,
};

use alloy_primitives::{Address, B256};
use countersign_chain::{
    profile::ProfileName,
    realm_file::{HeaderTrust, RealmFile},
};
use countersign_registry::{RealmPin, sign};

/// Who owns files that are somebody else's.
pub const STRANGER: u32 = 4711;

/// A folder of a test's own.
pub struct Folder(tempfile::TempDir);

impl Default for Folder {
    fn default() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.chmod("", 0o755);
        folder
    }
}

impl Folder {
    /// Something in it; the folder itself for an empty name.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.0.path().to_owned() } else { self.0.path().join(name) }
    }

    /// Its path, as text.
    #[must_use]
    pub fn root(&self) -> String {
        self.0.path().display().to_string()
    }

    /// Writes a file; `ROOT` in its text is this folder.
    pub fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text.replace("ROOT", &self.root())).unwrap();
        self.chmod(name, mode);
    }

    /// Makes a directory.
    pub fn mkdir(&self, name: &str, mode: u32) {
        fs::create_dir(self.path(name)).unwrap();
        self.chmod(name, mode);
    }

    /// Changes a mode.
    pub fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Gives something away.
    pub fn chown(&self, name: &str, uid: u32) {
        chown(self.path(name), Some(uid), None)
            .expect("only root can give files away: run as root, as ./run-tests does");
    }

    /// Moves a file, and leaves a link to it.
    pub fn replace_by_link(&self, name: &str, target: &str) {
        fs::rename(self.path(name), self.path(target)).unwrap();
        symlink(self.path(target), self.path(name)).unwrap();
    }

    /// Changes a file's text, which must contain `from`.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        let from = from.replace("ROOT", &self.root());
        assert!(text.contains(&from), "{name} has no {from:?}:\n{text}");
        fs::write(self.path(name), text.replace(&from, &to.replace("ROOT", &self.root()))).unwrap();
    }

    /// Adds lines at the end of a file.
    pub fn append(&self, name: &str, lines: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        fs::write(self.path(name), text + &lines.replace("ROOT", &self.root())).unwrap();
    }

    /// `realm.toml`: two of three nodes of Ethereum. Nobody is asked by a program that refuses to start.
    pub fn realm_file(&self) {
        let roots = vec![Address::repeat_byte(1), Address::repeat_byte(2)];
        let (contract, salt) = (Address::repeat_byte(9), B256::repeat_byte(7));
        let pin = RealmPin {
            chain_id: 1,
            contract,
            code_hash: B256::repeat_byte(8),
            realm: sign::realm_id(1, contract, 2, &roots, salt),
            threshold: 2,
            roots,
            salt,
            deployed_block: 5,
            genesis_hash: B256::repeat_byte(6),
        };
        let nodes = ["https://one.invalid", "https://two.invalid", "https://three.invalid"];
        let nodes = nodes.map(|node| node.parse().unwrap()).to_vec();
        let realm = RealmFile::new(pin, ProfileName::Ethereum, HeaderTrust::Quorum(2), nodes).unwrap();
        realm.create(&self.path("realm.toml")).unwrap();
    }
}

/// A mistake: what it is, how it is made, how the message begins and what the hint is. `ROOT` stands for the folder.
pub type Mistake = (&'static str, fn(&Folder), &'static str, &'static str);

/// Makes one mistake after the other in a folder that `good` prepares and has `program` refuse each.
pub fn refuses(
    prefix: &str,
    exit: impl Fn(&str) -> i32,
    mistakes: &[Mistake],
    good: impl Fn() -> Folder,
    program: impl Fn(&Folder) -> Output,
) {
    for (what, make, message, hint) in mistakes {
        let folder = good();
        make(&folder);
        let output = program(&folder);
        let (told, stdout) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        let (message, hint) = (message.replace("ROOT", &folder.root()), hint.replace("ROOT", &folder.root()));
        assert_eq!((output.status.code(), stdout.as_ref()), (Some(exit(what)), ""), "{what}: {told}");
        assert!(told.starts_with(&format!("{prefix}{message}")), "{what}: expected {message:?}, got\n{told}");
        assert!(told.ends_with(&format!("\nhint: {hint}\n")), "{what}: expected hint {hint:?}, got\n{told}");
        assert_eq!(told.matches("hint:").count(), 1, "{what}: {told}");
    }
}

const OPERATORS: &str = "quorum = 2 with endpoints of three operators: one may fail or lie";
const NODES: &str = "name nodes of different operators by https://, one each, and at least as many as quorum says";

fn node(folder: &Folder, url: &str) {
    folder.edit("realm.toml", "https://three.invalid/", url);
}

/// What every program has to see in a realm file.
pub const REALM_FILE: &[Mistake] = &[
    (
        "a pin that does not give the realm id",
        |folder| folder.edit("realm.toml", &"01".repeat(20), &"03".repeat(20)),
        "ROOT/realm.toml:6: realm: realm 0x",
        "take the realm file from the realm's owner again: one of contract, threshold, roots and salt is not the realm's",
    ),
    (
        "an unknown key",
        |folder| folder.edit("realm.toml", "threshold = 2", "threshold = 2\nthreshhold = 2"),
        "ROOT/realm.toml:8: unknown field `threshhold`, expected one of `version`",
        "docs/spec/realm-file.md lists the keys, and which of them are needed",
    ),
    (
        "another version",
        |folder| folder.edit("realm.toml", "version = 1", "version = 2"),
        "ROOT/realm.toml:2: version is 2, expected 1",
        "this program is older or newer than the file: install the version that wrote it",
    ),
    (
        "dev on a chain of worth",
        |folder| folder.edit("realm.toml", "header-source = \"quorum\"\nquorum = 2", "header-source = \"dev\""),
        "ROOT/realm.toml:13: header-source: dev is for chain ids [31337, 1337], got 1",
        "header-source = \"quorum\" and quorum = 2, with endpoints of three operators",
    ),
    (
        "a profile of another chain",
        |folder| folder.edit("realm.toml", "profile = \"ethereum\"", "profile = \"dev\""),
        "ROOT/realm.toml:12: profile: ",
        "docs/chains.md lists the profiles and their chain ids",
    ),
    (
        "more voices wanted than there are",
        |folder| folder.edit("realm.toml", "quorum = 2", "quorum = 4"),
        "ROOT/realm.toml:15: endpoints: expected at least 4, got 3",
        NODES,
    ),
    (
        "one voice",
        |folder| folder.edit("realm.toml", "quorum = 2", "quorum = 1"),
        "ROOT/realm.toml:14: quorum: expected at least 2, got 1",
        OPERATORS,
    ),
    (
        "no voices",
        |folder| folder.edit("realm.toml", "quorum = 2", "quorum = 0"),
        "ROOT/realm.toml:14: quorum: expected at least 2, got 0",
        OPERATORS,
    ),
    (
        "one node twice",
        |folder| node(folder, "https://one.invalid"),
        "ROOT/realm.toml:15: endpoints: https://one.invalid is there twice",
        NODES,
    ),
    (
        "twice, with a slash",
        |folder| node(folder, "https://one.invalid/"),
        "ROOT/realm.toml:15: endpoints: https://one.invalid is there twice",
        NODES,
    ),
    (
        "twice, in capitals",
        |folder| node(folder, "https://ONE.invalid"),
        "ROOT/realm.toml:15: endpoints: https://one.invalid is there twice",
        NODES,
    ),
    (
        "twice, with its port",
        |folder| node(folder, "https://one.invalid:443"),
        "ROOT/realm.toml:15: endpoints: https://one.invalid is there twice",
        NODES,
    ),
    (
        "twice, with another port",
        |folder| node(folder, "https://one.invalid:444"),
        "ROOT/realm.toml:15: endpoints: https://one.invalid:444 is there twice",
        NODES,
    ),
    (
        "twice, with the root's dot",
        |folder| node(folder, "https://one.invalid."),
        "ROOT/realm.toml:15: endpoints: https://one.invalid. is there twice",
        NODES,
    ),
    (
        "twice, with another token",
        |folder| node(folder, "https://one.invalid/v2/token"),
        "ROOT/realm.toml:15: endpoints: https://one.invalid is there twice",
        NODES,
    ),
    (
        "plain http to as many as may decide",
        |folder| {
            folder.edit("realm.toml", "https://two.invalid/", "http://two.invalid/");
            node(folder, "http://three.invalid");
        },
        "ROOT/realm.toml:15: endpoints: http://three.invalid: expected https, or a quorum in which this is the only plain http endpoint",
        NODES,
    ),
    (
        "plain http without a quorum",
        |folder| {
            let path = folder.path("realm.toml");
            let text = fs::read_to_string(&path).unwrap();
            let file = RealmFile::parse(&path, &text).unwrap();
            let mut pin = file.pin;
            pin.chain_id = 31337;
            pin.realm = sign::realm_id(31337, pin.contract, pin.threshold, &pin.roots, pin.salt);
            let near = vec!["http://127.0.0.1:8545".parse().unwrap()];
            let dev = RealmFile::new(pin, ProfileName::Dev, HeaderTrust::Dev, near).unwrap();
            fs::write(path, dev.to_toml().unwrap().replace("127.0.0.1", "192.0.2.1")).unwrap();
        },
        "ROOT/realm.toml:14: endpoints: http://192.0.2.1:8545: expected https",
        NODES,
    ),
    (
        "writable by the group",
        |folder| folder.chmod("realm.toml", 0o664),
        "ROOT/realm.toml may be written by others (mode 0664)",
        "chmod go-w ROOT/realm.toml",
    ),
    (
        "writable by all",
        |folder| folder.chmod("realm.toml", 0o646),
        "ROOT/realm.toml may be written by others (mode 0646)",
        "chmod go-w ROOT/realm.toml",
    ),
    (
        "somebody else's",
        |folder| folder.chown("realm.toml", STRANGER),
        "ROOT/realm.toml belongs to uid 4711; expected uid 0",
        "chown 0 ROOT/realm.toml",
    ),
];

/// What programs that follow links have to see of the realm file's.
pub const LINKED_REALM_FILE: &[Mistake] = &[
    (
        "a link to a file that others may write",
        |folder| {
            folder.replace_by_link("realm.toml", "elsewhere");
            folder.chmod("elsewhere", 0o666);
        },
        "ROOT/elsewhere may be written by others (mode 0666)",
        "chmod go-w ROOT/elsewhere",
    ),
    (
        "a link to somebody else's file",
        |folder| {
            folder.replace_by_link("realm.toml", "elsewhere");
            folder.chown("elsewhere", STRANGER);
        },
        "ROOT/elsewhere belongs to uid 4711; expected uid 0",
        "chown 0 ROOT/elsewhere",
    ),
    (
        "a link into a directory that others may write",
        |folder| {
            folder.mkdir("open", 0o777);
            folder.replace_by_link("realm.toml", "open/realm.toml");
        },
        "ROOT/open may be written by others (mode 0777)",
        "chmod go-w ROOT/open",
    ),
    (
        "somebody else's link",
        |folder| {
            folder.replace_by_link("realm.toml", "elsewhere");
            std::os::unix::fs::lchown(folder.path("realm.toml"), Some(STRANGER), None).unwrap();
        },
        "ROOT/realm.toml belongs to uid 4711; expected uid 0",
        "chown 0 ROOT/realm.toml",
    ),
];
