//! The two clients: OpenSSH's `ssh`, and russh, which shares no code with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use russh::{
    ChannelMsg,
    client::{self, AuthResult},
    keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_openssh_certificate, load_secret_key},
};

use tempfile::TempDir;

use crate::{
    machine::KeyFile,
    process::{self, Background, Output},
    sshd::{PORT, Sshd},
    wait::DEADLINE,
};

/// What a client offers: a key, alone or with a certificate.
#[derive(Clone, Debug)]
pub struct Credential {
    key: PathBuf,
    certificate: Option<PathBuf>,
}

impl Credential {
    /// The plain key.
    #[must_use]
    pub fn key(key: &KeyFile) -> Self {
        Self { key: key.path.clone(), certificate: None }
    }

    /// The key's certificate.
    #[must_use]
    pub fn certificate(key: &KeyFile, certificate: &Path) -> Self {
        Self { key: key.path.clone(), certificate: Some(certificate.to_owned()) }
    }

    /// Files that did not come from [`KeyFile`].
    #[must_use]
    pub fn files(key: &Path, certificate: Option<&Path>) -> Self {
        Self { key: key.to_owned(), certificate: certificate.map(Path::to_owned) }
    }
}

/// How a login ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// The command ran; this is its standard output.
    Accepted(String),
    /// The server took none of the credentials.
    Refused,
}

/// Logs in with `ssh` and runs `command`.
///
/// # Panics
/// Where it ends in any other way than by running the command or being refused.
#[must_use]
pub fn ssh(sshd: &Sshd, login: &str, credential: &Credential, command: &str) -> Login {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-T", "-o", "BatchMode=yes"])
        .args(["-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes", "-o"])
        .arg(format!("UserKnownHostsFile={}", sshd.known_hosts().display()))
        .args(["-o", "PreferredAuthentications=publickey", "-p", &PORT.to_string()]);
    let agent =
        credential.certificate.as_deref().map(|certificate| CertificateAgent::start(&credential.key, certificate));
    match &agent {
        None => ssh.args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i"]).arg(&credential.key),
        Some(agent) => {
            ssh.args(["-o", "IdentityFile=none", "-o"]).arg(format!("IdentityAgent={}", agent.socket.display()))
        }
    };
    let output = process::output(ssh.args(["-l", login, "127.0.0.1", command]));
    let refused = format!("{login}@127.0.0.1: Permission denied (publickey).\r\n");
    match output {
        Output { status: Some(0), stdout, .. } => Login::Accepted(stdout),
        Output { status: Some(255), ref stderr, .. } if *stderr == refused => Login::Refused,
        other => panic!("ssh neither logged in nor was it refused: {other:?}"),
    }
}

/// An `ssh-agent` that holds a certificate and nothing else: from files, `ssh` would offer the plain key as well.
struct CertificateAgent {
    socket: PathBuf,
    _process: Background,
    _folder: TempDir,
}

impl CertificateAgent {
    fn start(key: &Path, certificate: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the agent");
        let (socket, copy) = (folder.path().join("agent"), folder.path().join("key"));
        fs::copy(key, &copy).expect("the private key");
        fs::copy(key.with_added_extension("pub"), folder.path().join("key.pub")).expect("the public key");
        fs::copy(certificate, folder.path().join("key-cert.pub")).expect("the certificate");
        let mut process = Background::start("ssh-agent", Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket));
        process.wait_line("SSH_AUTH_SOCK=");
        // Adds both, then takes the plain key (`-k`) out again: `ssh-add -C` is younger than Debian 12.
        for arguments in [&["-q"][..], &["-q", "-k", "-d"]] {
            process::success(Command::new("ssh-add").args(arguments).arg(&copy).env("SSH_AUTH_SOCK", &socket));
        }
        Self { socket, _process: process, _folder: folder }
    }
}

/// Logs in with russh and runs `command`.
///
/// # Panics
/// As [`ssh`].
#[must_use]
pub fn russh(sshd: &Sshd, login: &str, credential: &Credential, command: &str) -> Login {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let session = russh_session(sshd.host_key_line(), login, credential, command);
    runtime
        .block_on(async { tokio::time::timeout(DEADLINE, session).await })
        .expect("russh within the deadline")
        .expect("russh")
}

async fn russh_session(
    host_key: String,
    login: &str,
    credential: &Credential,
    command: &str,
) -> Result<Login, russh::Error> {
    let key = Arc::new(load_secret_key(&credential.key, None)?);
    let config = Arc::new(client::Config::default());
    let mut session = client::connect(config, ("127.0.0.1", PORT), HostKey(host_key)).await?;
    let answer = match &credential.certificate {
        None => session.authenticate_publickey(login, PrivateKeyWithHashAlg::new(key, None)).await?,
        Some(path) => {
            let certificate = load_openssh_certificate(path).expect("a certificate that russh reads");
            session.authenticate_openssh_cert(login, key, certificate).await?
        }
    };
    if !matches!(answer, AuthResult::Success) {
        return Ok(Login::Refused);
    }
    let mut channel = session.channel_open_session().await?;
    channel.exec(true, command).await?;
    let mut output = Vec::new();
    let mut status = None;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => output.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            _ => {}
        }
    }
    assert_eq!(status, Some(0), "the command's exit status; it printed {:?}", String::from_utf8_lossy(&output));
    Ok(Login::Accepted(String::from_utf8_lossy(&output).into_owned()))
}

/// Takes the one host key that the scenario made.
struct HostKey(String);

impl client::Handler for HostKey {
    type Error = russh::Error;

    async fn check_server_key(&mut self, offered: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = offered else { return Ok(false) };
        let mine = russh::keys::PublicKey::from_openssh(&self.0);
        Ok(mine.is_ok_and(|mine| mine.key_data() == key.key_data()))
    }
}
