//! `login`: a whole `ssh … true` through the helper, beside one through a static `AuthorizedKeysFile`, against two sshds of one
//! configuration in turn. Runs inside a bed only: `tests/bed bench-login HELPER [--quick]`.

use std::{
    error::Error,
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use countersign_bench::{
    figure, quick,
    snapshot::{key_pair, publish_granted},
    spawn_to_exit,
};

const HELPER: &str = "/usr/lib/countersign/countersign-sshd";
const STATIC_PORT: u16 = 2222;
const HELPER_PORT: u16 = 2223;
const START_DEADLINE: Duration = Duration::from_secs(20);

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::var_os("COUNTERSIGN_BED").is_none() {
        return Err("runs inside a bed only: tests/bed bench-login HELPER".into());
    }
    let helper = std::env::args_os().nth(1).ok_or("expected HELPER")?;
    let (rounds, users) = if quick() { (10, 1_000) } else { (100, 1_000_000) };

    succeed(Command::new("groupadd").args(["--system", "--gid", "979", "countersign"]))?;
    succeed(Command::new("useradd").args(["--system", "--gid", "979", "--no-create-home", "countersign"]))?;
    succeed(Command::new("useradd").args(["--create-home", "--password", "*", "deploy"]))?;
    fs::create_dir_all("/usr/lib/countersign")?;
    fs::copy(&helper, HELPER)?;
    fs::set_permissions(HELPER, fs::Permissions::from_mode(0o755))?;

    let folder = Path::new("/etc/countersign");
    fs::create_dir_all(folder)?;
    let key = key_pair(folder, "client")?;
    let host_key = key_pair(folder, "host")?;
    fs::write(folder.join("keys"), format!("ssh-ed25519 {key}\n"))?;
    fs::write(folder.join("empty"), "")?;
    let known = |port| format!("[127.0.0.1]:{port} ssh-ed25519 {host_key}\n");
    fs::write(folder.join("known_hosts"), known(STATIC_PORT) + &known(HELPER_PORT))?;
    fs::create_dir_all("/var/lib/countersign")?;
    publish_granted(Path::new("/var/lib/countersign/snapshot"), users, &key, Some(979))?;

    // Somebody has to read the log, or writers wait.
    let log = UnixDatagram::bind("/dev/log")?;
    fs::set_permissions("/dev/log", fs::Permissions::from_mode(0o666))?;
    thread::spawn(move || while log.recv(&mut [0; 4096]).is_ok() {});

    let _servers = [
        serve(folder, STATIC_PORT, "AuthorizedKeysFile /etc/countersign/keys")?,
        serve(
            folder,
            HELPER_PORT,
            &format!(
                "AuthorizedPrincipalsCommand {HELPER} principals %u %U %t %k %i %s %K\n\
                 AuthorizedPrincipalsCommandUser countersign\n\
                 AuthorizedKeysCommand {HELPER} keys %u %U %t %k\nAuthorizedKeysCommandUser countersign\nAuthorizedKeysFile none"
            ),
        )?,
    ];
    let mut logins = [login(STATIC_PORT), login(HELPER_PORT)];
    let medians = spawn_to_exit(&mut logins, rounds)?;
    let [fixed, helped] = medians.as_slice() else { return Err("two medians expected".into()) };
    figure("login static", fixed / 1e3, "ms", None, "ssh … true through a static AuthorizedKeysFile, p50")?;
    figure(&format!("login helper ({users} users)"), helped / 1e3, "ms", Some(helped / fixed), "the static file")?;
    Ok(())
}

/// An sshd, ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It has gone already where this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(folder: &Path, port: u16, keys: &str) -> Result<Server, Box<dyn Error>> {
    fs::create_dir_all("/run/sshd")?;
    let config = folder.join(format!("sshd_config.{port}"));
    let text = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nPidFile none\nUsePAM no\nMaxStartups 100\n\
         AuthenticationMethods publickey\nAuthorizedPrincipalsFile {empty}\nTrustedUserCAKeys {empty}\n{keys}\n",
        host = folder.join("host").display(),
        empty = folder.join("empty").display(),
    );
    fs::write(&config, text)?;
    let mut sshd = Command::new("/usr/sbin/sshd");
    let server = Server(sshd.arg("-D").arg("-f").arg(config).stderr(Stdio::inherit()).spawn()?);
    let begun = Instant::now();
    while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err() {
        if begun.elapsed() > START_DEADLINE {
            return Err(format!("sshd does not listen on port {port}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

fn login(port: u16) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args([
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "KexAlgorithms=curve25519-sha256",
    ])
    .args(["-o", "UserKnownHostsFile=/etc/countersign/known_hosts", "-i", "/etc/countersign/client"])
    .args(["-p", &port.to_string(), "deploy@127.0.0.1", "true"]);
    ssh
}

fn succeed(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.status()?;
    status.success().then_some(()).ok_or_else(|| format!("{command:?} ended with {status}").into())
}
