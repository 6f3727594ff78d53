//! The system's own sshd, on a port of the bed's loopback, with the configuration that hosts get: the principals command before the
//! keys command, no `authorized_keys`, empty files where `none` would not hold.

use std::{fs, path::PathBuf};

use crate::{
    machine::{self, HELPER, HELPER_USER, KeyFile},
    process::{self, Background},
    syslog::SystemLog,
};

/// The port sshd listens on.
pub const PORT: u16 = 2222;

const SSHD: &str = "/usr/sbin/sshd";
const CONFIG: &str = "/etc/ssh/sshd_config.scenario";
const EMPTY: &str = "/etc/countersign/empty";

/// What differs between scenarios.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `UsePAM`.
    pub pam: bool,
    /// Where `TrustedUserCAKeys` points: a CA file, or the empty file.
    pub ca_file: Option<&'static str>,
    /// A login that a root-owned key file opens, whatever the helper says.
    pub break_glass: Option<&'static str>,
    /// What follows `keys %u %U %t %k`: an earlier command.
    pub chain: &'static str,
    /// `AuthenticationMethods`.
    pub methods: &'static str,
    /// Whether [`PLAIN_PORT`] asks no command, as an sshd without us: CAs in [`PLAIN_CAS`], principals in [`PLAIN_PRINCIPALS`].
    pub plain_port: bool,
    /// How many keys one connection may offer: sshd hangs up at the last but one that it refuses.
    pub max_auth_tries: u32,
}

/// The port of [`Options::plain_port`].
pub const PLAIN_PORT: u16 = 2223;

/// The CAs that count at [`PLAIN_PORT`].
pub const PLAIN_CAS: &str = "/etc/countersign/plain-cas";

/// The principals that every login has at [`PLAIN_PORT`].
pub const PLAIN_PRINCIPALS: &str = "/etc/countersign/plain-principals";

/// The file of [`Options::break_glass`], in the form of `authorized_keys`.
pub const BREAK_GLASS_KEYS: &str = "/etc/countersign/break-glass.keys";

impl Default for Options {
    fn default() -> Self {
        Self {
            pam: true,
            ca_file: None,
            break_glass: None,
            chain: "",
            methods: "publickey",
            plain_port: false,
            max_auth_tries: 6,
        }
    }
}

/// A running sshd.
pub struct Sshd {
    process: Background,
    host_key: KeyFile,
}

impl Sshd {
    /// Writes the configuration, checks it with `sshd -t`, starts it and waits for its word that it listens.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(options: Options, log: &mut SystemLog) -> Self {
        let host_key = KeyFile::keep("ssh_host_ed25519_key");
        machine::write(EMPTY, "", 0o644);
        machine::write(CONFIG, &config(options, &host_key), 0o600);
        fs::create_dir_all("/run/sshd").expect("the folder of privilege separation");
        process::success(machine::command(SSHD).args(["-t", "-f", CONFIG]));
        let process = Background::start("sshd", machine::command(SSHD).args(["-D", "-f", CONFIG]).args(no_penalties()));
        log.wait("sshd", &format!("Server listening on 127.0.0.1 port {PORT}."));
        Self { process, host_key }
    }

    /// What `sshd -T` makes of the configuration, one setting a line.
    #[must_use]
    pub fn effective_config() -> String {
        process::success(machine::command(SSHD).args(["-T", "-f", CONFIG]))
    }

    /// The known-hosts file for this sshd.
    #[must_use]
    pub fn known_hosts(&self) -> PathBuf {
        let path = self.host_key.path.with_file_name("known_hosts");
        machine::write(&path, &format!("[127.0.0.1]:{PORT} {}\n", self.host_key.public_line()), 0o644);
        path
    }

    /// Its host key's public line.
    #[must_use]
    pub fn host_key_line(&self) -> String {
        self.host_key.public_line()
    }

    /// Its process id: the same through a scenario shows that it was never restarted.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }
}

/// From 9.8 on, an address that is refused often has to wait, also the only one that a scenario has.
fn no_penalties() -> &'static [&'static str] {
    const OFF: &[&str] = &["-o", "PerSourcePenalties=no"];
    let known = process::output(machine::command(SSHD).args(["-t", "-f", CONFIG]).args(OFF));
    if known.status == Some(0) { OFF } else { &[] }
}

fn config(options: Options, host_key: &KeyFile) -> String {
    let pam = if options.pam { "yes" } else { "no" };
    let ca_file = options.ca_file.unwrap_or(EMPTY);
    let break_glass = options
        .break_glass
        .map_or_else(String::new, |login| format!("Match User {login}\n    AuthorizedKeysFile {BREAK_GLASS_KEYS}\n"));
    let (listen, plain) = if options.plain_port {
        let plain = format!(
            "\
Match LocalPort {PLAIN_PORT}
    AuthorizedPrincipalsCommand none
    AuthorizedKeysCommand none
    AuthorizedPrincipalsFile {PLAIN_PRINCIPALS}
    TrustedUserCAKeys {PLAIN_CAS}
"
        );
        (format!("ListenAddress 127.0.0.1:{PLAIN_PORT}\n"), plain)
    } else {
        (String::new(), String::new())
    };
    let host_key = host_key.path.display();
    let Options { chain, methods, max_auth_tries, .. } = options;
    format!(
        "\
ListenAddress 127.0.0.1
Port {PORT}
{listen}HostKey {host_key}
PidFile none
UsePAM {pam}
LogLevel VERBOSE
MaxAuthTries {max_auth_tries}
AuthenticationMethods {methods}
AuthorizedPrincipalsCommand {HELPER} principals %u %U %t %k %i %s %K
AuthorizedPrincipalsCommandUser {HELPER_USER}
AuthorizedPrincipalsFile {EMPTY}
AuthorizedKeysCommand {HELPER} keys %u %U %t %k{chain}
AuthorizedKeysCommandUser {HELPER_USER}
AuthorizedKeysFile none
TrustedUserCAKeys {ca_file}
Subsystem sftp internal-sftp
{break_glass}{plain}"
    )
}
