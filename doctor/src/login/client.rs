//! A login by the system's own `ssh`: by one identity, with no agent, no configuration of anybody's, the host's own keys as the only
//! ones known, and an end within [`PATIENCE`].

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ssh_key::Certificate;

use crate::run::{run, run_within};

/// The program.
pub(crate) const SSH: &str = "/usr/bin/ssh";
/// What tells a key's fingerprint, whatever its form.
pub(crate) const KEYGEN: &str = "/usr/bin/ssh-keygen";
/// How long one login may take; sshd's own limit, where it was not changed, is 120 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The one name under which the host's keys are known.
pub(crate) const ALIAS: &str = "countersign-doctor";

/// What logs in, as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The login.
    pub login: String,
    /// The private key's file.
    pub identity: PathBuf,
    /// The certificate's file; without one `ssh` takes that which stands beside the key as `…-cert.pub`, if there is one.
    pub certificate: Option<PathBuf>,
}

impl Credential {
    /// `SHA256:…` of the key, and the certificate's serial, where there is one: how the helper names them.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) fn name(&self) -> io::Result<(String, Option<u64>)> {
        let named = |path: &Path, why: String| io::Error::other(format!("{}: {why}", path.display()));
        let ran = run(Command::new(KEYGEN).args(["-l", "-E", "sha256", "-f"]).arg(&self.identity))?;
        let fingerprint = ran.stdout.split_ascii_whitespace().nth(1).filter(|word| word.starts_with("SHA256:"));
        let fingerprint = fingerprint.ok_or_else(|| named(&self.identity, ran.stderr.trim().to_owned()))?;
        let beside = || {
            let mut path = self.identity.clone().into_os_string();
            path.push("-cert.pub");
            Some(PathBuf::from(path)).filter(|path| path.is_file())
        };
        let Some(certificate) = self.certificate.clone().or_else(beside) else {
            return Ok((fingerprint.to_owned(), None));
        };
        let read = Certificate::read_file(&certificate).map_err(|error| named(&certificate, error.to_string()))?;
        Ok((fingerprint.to_owned(), Some(read.serial())))
    }
}

/// How a login ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// sshd let it in; `true` ran, or did not, with these words.
    LetIn(Result<(), String>),
    /// sshd took none of what was offered.
    Refused(String),
    /// Something else than the host's sshd answers: none of its keys.
    OtherHost(String),
    /// Nobody answers, or not to the end.
    NoAnswer(String),
}

/// Logs in and runs `true`.
pub(crate) fn log_in(credential: &Credential, address: SocketAddr, known_hosts: &Path) -> Ended {
    let mut ssh = Command::new(SSH);
    // Nothing of whoever runs this: no agent, no askpass, no display.
    ssh.env_clear().env("PATH", "/usr/bin:/bin").args(["-v", "-F", "none", "-T", "-a", "-x"]);
    for option in [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=none",
        "UpdateHostKeys=no",
        "CheckHostIP=no",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "PreferredAuthentications=publickey",
        "ControlMaster=no",
        "ControlPath=none",
        "ClearAllForwardings=yes",
        "ConnectionAttempts=1",
        "ConnectTimeout=20",
    ] {
        ssh.args(["-o", option]);
    }
    ssh.arg("-o").arg(format!("HostKeyAlias={ALIAS}"));
    ssh.arg("-o").arg(option_of_path("UserKnownHostsFile", known_hosts));
    ssh.arg("-i").arg(&credential.identity);
    if let Some(certificate) = &credential.certificate {
        ssh.arg("-o").arg(option_of_path("CertificateFile", certificate));
    }
    ssh.arg("-p").arg(address.port().to_string()).arg("-l").arg(&credential.login);
    ssh.args(["--", &address.ip().to_string(), "true"]);
    match run_within(&mut ssh, PATIENCE) {
        Ok(ran) => read(ran.status, &ran.stderr),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Ended::NoAnswer(format!("no end within {} s", PATIENCE.as_secs()))
        }
        Err(error) => Ended::NoAnswer(format!("{SSH}: {error}")),
    }
}

/// A path with a `%` or a quote in it would mean another.
fn option_of_path(name: &str, path: &Path) -> std::ffi::OsString {
    let path = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("{name}=\"{path}\"").into()
}

fn read(status: Option<i32>, stderr: &str) -> Ended {
    let lines: Vec<&str> = stderr.lines().map(|line| line.trim_end_matches('\r')).collect();
    let said: Vec<&str> = lines.iter().copied().filter(|line| is_for_people(line)).collect();
    let last = said.last().copied().unwrap_or("ssh said nothing").to_owned();
    let begins = |text: &str| lines.iter().any(|line| line.starts_with(text));
    // Older than 9.0 say the second.
    if begins("Authenticated to ") || begins("debug1: Authentication succeeded (") {
        return Ended::LetIn(match status {
            Some(0) => Ok(()),
            Some(status) => Err(format!("status {status}: {last}")),
            None => Err(last),
        });
    }
    if lines.iter().any(|line| line.contains(": Permission denied (")) || begins("Received disconnect from ") {
        return Ended::Refused(last);
    }
    if begins("Host key verification failed.") || begins("No ED25519 host key is known") {
        return Ended::OtherHost(last);
    }
    Ended::NoAnswer(last)
}

fn is_for_people(line: &str) -> bool {
    let is_noise = ["debug1: ", "OpenSSH_", "Authenticated to ", "Transferred: ", "Bytes per second: "];
    !line.trim().is_empty() && !is_noise.iter().any(|noise| line.starts_with(noise))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREAMBLE: &str = "OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026\r\ndebug1: Connecting\r\n";

    #[test]
    fn how_a_login_ended_is_read_from_what_ssh_says() {
        for (status, words, expected) in [
            (Some(0), "Authenticated to h ([127.0.0.1]:1) using \"publickey\".\n", Ended::LetIn(Ok(()))),
            (Some(0), "debug1: Authentication succeeded (publickey).\n", Ended::LetIn(Ok(()))),
            (
                Some(1),
                "Authenticated to h.\nThis account is currently not available.\nTransferred: sent 1\n",
                Ended::LetIn(Err("status 1: This account is currently not available.".to_owned())),
            ),
            (
                Some(255),
                "a@h: Permission denied (publickey).\r\n",
                Ended::Refused("a@h: Permission denied (publickey).".to_owned()),
            ),
            (
                Some(255),
                "Received disconnect from 127.0.0.1 port 22:2: Too many authentication failures\r\n",
                Ended::Refused(
                    "Received disconnect from 127.0.0.1 port 22:2: Too many authentication failures".to_owned(),
                ),
            ),
            (
                Some(255),
                "Host key verification failed.\r\n",
                Ended::OtherHost("Host key verification failed.".to_owned()),
            ),
            (
                Some(255),
                "ssh: connect to host 127.0.0.1 port 22: Connection refused\r\n",
                Ended::NoAnswer("ssh: connect to host 127.0.0.1 port 22: Connection refused".to_owned()),
            ),
            (None, "", Ended::NoAnswer("ssh said nothing".to_owned())),
        ] {
            assert_eq!(read(status, &format!("{PREAMBLE}{words}")), expected);
        }
    }

    #[test]
    fn what_a_program_of_the_host_prints_is_no_word_of_ssh() {
        let banner = "welcome. Authenticated to all\na@h: Permission denied (publickey).\n";
        assert_eq!(read(Some(255), banner), Ended::Refused("a@h: Permission denied (publickey).".to_owned()));
    }

    #[test]
    fn a_credential_is_named_as_the_helper_names_it() {
        use std::os::unix::fs::PermissionsExt as _;

        use ssh_key::certificate::Builder;
        use ssh_key::rand_core::OsRng;
        use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey};

        let folder = tempfile::tempdir().unwrap();
        let identity = folder.path().join("key");
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        key.write_openssh_file(&identity, LineEnding::LF).unwrap();
        std::fs::set_permissions(&identity, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut credential = Credential { login: "a".to_owned(), identity, certificate: None };
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        assert_eq!(credential.name().unwrap(), (fingerprint.clone(), None));

        let mut builder = Builder::new_with_random_nonce(&mut OsRng, key.public_key(), 0, 9).unwrap();
        builder.serial(7).unwrap().valid_principal("a").unwrap();
        let certificate = builder.sign(&PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap()).unwrap();
        certificate.write_file(&folder.path().join("key-cert.pub")).unwrap();
        assert_eq!(credential.name().unwrap(), (fingerprint.clone(), Some(7)), "the one beside it");
        credential.certificate = Some(folder.path().join("key-cert.pub"));
        assert_eq!(credential.name().unwrap(), (fingerprint, Some(7)));
        credential.identity = folder.path().join("none");
        assert!(credential.name().is_err());
    }

    #[test]
    fn a_path_is_handed_over_as_it_is() {
        assert_eq!(option_of_path("X", Path::new("/a b/%h\"c")), "X=\"/a b/%%h\\\"c\"");
    }
}
