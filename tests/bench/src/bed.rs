//! What figures of whole logins need: one user, keys, and sshds that differ in how they find them. Inside a bed only (`tests/bed`),
//! where users may be added and files below `/etc` written.

use std::{
    error::Error,
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::snapshot::key_pair;

/// Where the helper is installed.
pub const HELPER: &str = "/usr/lib/countersign/countersign-sshd";
/// The group that may read the snapshot.
pub const GROUP: u32 = 979;
/// The snapshot that the helper reads.
pub const SNAPSHOT: &str = "/var/lib/countersign/snapshot";

const START_DEADLINE: Duration = Duration::from_secs(180);

/// The user `deploy`, its key, and a host's key.
pub struct Bed {
    folder: PathBuf,
    /// The user's key, in base64.
    pub key: String,
}

/// Says where this runs.
///
/// # Errors
/// Outside a bed.
pub fn inside() -> Result<(), Box<dyn Error>> {
    let inside = std::env::var_os("COUNTERSIGN_BED").is_some();
    inside.then_some(()).ok_or_else(|| "runs inside a bed only: tests/bed PROGRAM".into())
}

impl Bed {
    /// Adds the users, installs the helper, and makes the keys.
    ///
    /// # Errors
    /// Outside a bed, or where one of these cannot be done.
    pub fn new(helper: &Path) -> Result<Self, Box<dyn Error>> {
        inside()?;
        let group = GROUP.to_string();
        succeed(Command::new("groupadd").args(["--system", "--gid", &group, "countersign"]))?;
        succeed(Command::new("useradd").args(["--system", "--gid", &group, "--no-create-home", "countersign"]))?;
        succeed(Command::new("useradd").args(["--create-home", "--password", "*", "deploy"]))?;
        fs::create_dir_all("/usr/lib/countersign")?;
        fs::copy(helper, HELPER)?;
        fs::set_permissions(HELPER, fs::Permissions::from_mode(0o755))?;
        fs::create_dir_all("/run/sshd")?;
        fs::create_dir_all("/var/lib/countersign")?;

        let folder = PathBuf::from("/etc/countersign");
        fs::create_dir_all(&folder)?;
        let key = key_pair(&folder, "client")?;
        let host_key = key_pair(&folder, "host")?;
        fs::write(folder.join("keys"), format!("ssh-ed25519 {key}\n"))?;
        fs::write(folder.join("empty"), "")?;
        fs::write(folder.join("known_hosts"), format!("* ssh-ed25519 {host_key}\n"))?;

        serve_helper("countersign")?;
        Ok(Self { folder, key })
    }

    /// The lines of sshd's configuration that let the user in by a file.
    #[must_use]
    pub fn by_file(&self) -> String {
        format!("AuthorizedKeysFile {}\n", self.path("keys").display())
    }

    /// The lines that let it in by the helper.
    #[must_use]
    pub fn by_helper() -> String {
        format!(
            "AuthorizedPrincipalsCommand {HELPER} principals %u %U %t %k %i %s %K\n\
             AuthorizedPrincipalsCommandUser countersign\n\
             AuthorizedKeysCommand {HELPER} keys %u %U %t %k\nAuthorizedKeysCommandUser countersign\nAuthorizedKeysFile none\n"
        )
    }

    /// A file beside the keys.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts an sshd with these lines, which count before the common ones, and waits until it listens.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn serve(&self, port: u16, lines: &str) -> Result<Server, Box<dyn Error>> {
        let config = self.path(&format!("sshd_config.{port}"));
        let text = format!(
            "{lines}Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nPidFile none\nUsePAM no\nMaxStartups 300\n\
             LoginGraceTime 600\nAuthenticationMethods publickey\nAuthorizedPrincipalsFile {empty}\nTrustedUserCAKeys {empty}\n",
            host = self.path("host").display(),
            empty = self.path("empty").display(),
        );
        fs::write(&config, text)?;
        let mut sshd = Command::new("/usr/sbin/sshd");
        let server = Server(sshd.arg("-D").arg("-f").arg(config).stderr(Stdio::inherit()).spawn()?);
        wait_until(&format!("sshd listens on port {port}"), || {
            TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
        })?;
        Ok(server)
    }

    /// A login that runs `true`, with this identity beside the keys.
    #[must_use]
    pub fn login(&self, port: u16, identity: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"])
            .args(["-o", "KexAlgorithms=curve25519-sha256", "-o"])
            .arg(format!("UserKnownHostsFile={}", self.path("known_hosts").display()))
            .arg("-i")
            .arg(self.path(identity))
            .args(["-p", &port.to_string(), "deploy@127.0.0.1", "true"]);
        ssh
    }
}

/// What the helper speaks to on a host, when it runs as this user: a log that somebody reads, and a folder for notes.
///
/// # Errors
/// Outside a bed, or where they cannot be made.
pub fn serve_helper(user: &str) -> Result<(), Box<dyn Error>> {
    inside()?;
    let log = UnixDatagram::bind("/dev/log")?;
    fs::set_permissions("/dev/log", fs::Permissions::from_mode(0o666))?;
    thread::spawn(move || while log.recv(&mut [0; 4096]).is_ok() {});
    fs::create_dir("/run/countersign")?;
    fs::set_permissions("/run/countersign", fs::Permissions::from_mode(0o755))?;
    succeed(Command::new("install").args(["-d", "-m", "700", "-o", user, "/run/countersign/offers"]))
}

/// A server, ended when dropped.
pub struct Server(Child);

impl Server {
    /// Starts one.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self, Box<dyn Error>> {
        Ok(Self(command.stdin(Stdio::null()).spawn()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has gone already where this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a state of the machine.
///
/// # Errors
/// Where it does not come within three minutes.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    while !is_so() {
        if begun.elapsed() > START_DEADLINE {
            return Err(format!("expected that {what} within {} s", START_DEADLINE.as_secs()).into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Runs a command to its good end.
///
/// # Errors
/// Where it ends otherwise.
pub fn succeed(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.status()?;
    status.success().then_some(()).ok_or_else(|| format!("{command:?} ended with {status}").into())
}
