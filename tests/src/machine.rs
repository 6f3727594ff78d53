//! The bed as a machine: accounts, files with owner and mode, keys.

use std::{
    env,
    fs::{self, OpenOptions, Permissions},
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{bed, process, tools};

/// Where the helper is installed: root-owned all the way up, as sshd demands.
pub const HELPER: &str = "/usr/lib/countersign/countersign-sshd";

/// The user that sshd runs the helper as; `countersign` is its primary group.
pub const HELPER_USER: &str = "countersign";

const HELPER_ID: u32 = 979;

/// Where the other Debian release lies whose sshd this scenario has (`COUNTERSIGN_SUITE`, see `tests/bed`); none where it is the machine's.
#[must_use]
pub fn suite_root() -> Option<&'static str> {
    env::var_os("COUNTERSIGN_SUITE").map(|_| "/run/bed/suite")
}

/// A program of the release that sshd is of.
#[must_use]
pub fn command(program: &str) -> Command {
    let Some(root) = suite_root() else { return Command::new(program) };
    let mut chroot = Command::new("chroot");
    chroot.args([root, program]);
    chroot
}

/// Adds a local account with a home, a shell, and no password (`*`: not locked, but no password fits).
///
/// # Panics
/// Outside a bed.
pub fn add_user(login: &str, uid: u32) {
    assert!(bed::is_inside(), "accounts are added to a bed only");
    let home = format!("/home/{login}");
    append("/etc/group", &format!("{login}:x:{uid}:\n"));
    append("/etc/passwd", &format!("{login}:x:{uid}:{uid}::{home}:/bin/sh\n"));
    append("/etc/shadow", &format!("{login}:*:20000:0:99999:7:::\n"));
    fs::create_dir_all(&home).expect("a home");
    chown(&home, Some(uid), Some(uid)).expect("the home's owner");
}

/// Adds the user that sshd runs the helper as, without whom sshd does not start.
pub fn add_helper_user() {
    add_user(HELPER_USER, HELPER_ID);
}

/// Installs the helper and its user.
///
/// # Panics
/// Outside a bed, or where the helper is not built.
pub fn install_helper() {
    add_helper_user();
    let helper = tools::helper();
    // Beside it, the program that it becomes where an earlier command is named, and the one that PAM runs.
    let [chain, session] = ["chain", "session"].map(|name| helper.with_file_name(format!("countersign-sshd-{name}")));
    for (program, to) in
        [(&helper, HELPER.to_owned()), (&chain, format!("{HELPER}-chain")), (&session, format!("{HELPER}-session"))]
    {
        install(program, &to);
        // Who may run it and not read it cannot get at its descriptors either.
        fs::set_permissions(to, Permissions::from_mode(0o711)).expect("the helper's mode");
    }
}

/// Has PAM tell the helper of sessions, before any module in which users set PAM's environment.
///
/// # Panics
/// Outside a bed.
pub fn install_session_hook() {
    let pam = fs::read_to_string("/etc/pam.d/sshd").expect("sshd's PAM service");
    write("/etc/pam.d/sshd", &format!("session optional pam_exec.so quiet {HELPER}-session\n{pam}"), 0o644);
}

/// Installs the name service module as a package does: after `files`, and a home is made at the first login.
///
/// # Panics
/// Outside a bed, or where the module is not built.
pub fn install_name_service() {
    let libraries = process::success(Command::new("gcc").arg("-print-multiarch"));
    for root in [Some(""), suite_root()].into_iter().flatten() {
        install(&tools::name_service(), &format!("{root}/usr/lib/{}/libnss_countersign.so.2", libraries.trim_end()));
        let services = "passwd: files countersign\ngroup: files countersign\nshadow: files\n";
        write(format!("{root}/etc/nsswitch.conf"), services, 0o644);
    }
    let pam = fs::read_to_string("/etc/pam.d/sshd").expect("sshd's PAM service");
    write("/etc/pam.d/sshd", &format!("{pam}session required pam_mkhomedir.so umask=0077\n"), 0o644);
}

/// The group id that may read the snapshot, and the uid of the helper's user.
#[must_use]
pub fn helper_group() -> u32 {
    HELPER_ID
}

/// Copies a program to a path, owner root, mode 0755.
///
/// # Panics
/// Outside a bed.
pub fn install(program: &Path, to: &str) {
    assert!(bed::is_inside(), "programs are installed in a bed only");
    let to = Path::new(to);
    fs::create_dir_all(to.parent().expect("a folder")).expect("a folder for the program");
    fs::copy(program, to).expect("copying the program");
    chown(to, Some(0), Some(0)).expect("the program's owner");
    fs::set_permissions(to, Permissions::from_mode(0o755)).expect("the program's mode");
}

/// Writes a file of root's, with its folders.
///
/// # Panics
/// Outside a bed.
pub fn write(path: impl AsRef<Path>, text: &str, mode: u32) {
    assert!(bed::is_inside(), "files are written in a bed only");
    let path = path.as_ref();
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder for the file");
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("the file's mode");
}

fn append(path: &str, line: &str) {
    let mut file = OpenOptions::new().append(true).open(path).expect("an account file");
    file.write_all(line.as_bytes()).expect("adding an account");
}

/// An OpenSSH key on disk, made by `ssh-keygen`.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// The private half; the public one stands beside it with `.pub`.
    pub path: PathBuf,
}

impl KeyFile {
    /// Makes an Ed25519 key without a passphrase.
    ///
    /// # Panics
    /// Where `ssh-keygen` fails.
    #[must_use]
    pub fn generate(name: &str) -> Self {
        let path = bed::folder("keys").join(name);
        process::success(
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path),
        );
        Self { path }
    }

    /// The key of that name, made where there is none yet.
    ///
    /// # Panics
    /// As [`KeyFile::generate`].
    #[must_use]
    pub fn keep(name: &str) -> Self {
        let path = bed::folder("keys").join(name);
        if path.exists() { Self { path } } else { Self::generate(name) }
    }

    /// The public key file.
    #[must_use]
    pub fn public_path(&self) -> PathBuf {
        self.path.with_added_extension("pub")
    }

    /// The public key's line.
    #[must_use]
    pub fn public_line(&self) -> String {
        fs::read_to_string(self.public_path()).expect("a public key").trim_end().to_owned()
    }

    /// The public key in SSH wire form.
    ///
    /// # Panics
    /// Where the file is no public key.
    #[must_use]
    pub fn blob(&self) -> Vec<u8> {
        let key = ssh_key::PublicKey::from_openssh(&self.public_line()).expect("a public key");
        key.to_bytes().expect("a key that encodes")
    }

    /// `SHA256:…`, as sshd logs it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let line = process::success(Command::new("ssh-keygen").arg("-lf").arg(self.public_path()));
        line.split(' ').nth(1).expect("a fingerprint").to_owned()
    }
}
