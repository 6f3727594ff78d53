//! Speaks to a running ssh-agent: lists its keys and has it sign. Nothing else of the agent protocol
//! (draft-ietf-sshm-ssh-agent) is implemented: no key is added, removed or exported.
//!
//! An agent is a local program of the same user, but its answers are still checked for length, type and shape.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::wire::{put_string, take_string};

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// Asks an RSA key for `rsa-sha2-512`.
const RSA_SHA2_512: u32 = 4;
/// The longest answer that OpenSSH's own client takes.
const MAX_ANSWER: usize = 256 * 1024;

/// Why the agent could not do what was asked.
#[derive(Debug, Error)]
pub enum AgentError {
    /// `SSH_AUTH_SOCK` is not set and no socket was named.
    #[error("ssh-agent: no socket; expected SSH_AUTH_SOCK to name one")]
    NoSocket,
    /// The socket cannot be used.
    #[error("ssh-agent {path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The answer is not what the protocol allows.
    #[error("ssh-agent {path}: malformed answer")]
    Malformed {
        /// The socket.
        path: PathBuf,
    },
    /// The agent refused, or its user did.
    #[error("ssh-agent {path}: refused to {what}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        what: &'static str,
    },
}

/// A key that the agent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentKey {
    /// SSH wire form; a certificate's blob for a certificate.
    pub blob: Vec<u8>,
    /// As the agent was told.
    pub comment: String,
}

/// An ssh-agent's socket.
#[derive(Debug, Clone)]
pub struct SshAgent {
    socket: PathBuf,
    patience: Duration,
}

impl SshAgent {
    /// The agent behind `socket`. `patience` bounds each read: a person may have to touch a key or type a PIN.
    pub fn new(socket: impl Into<PathBuf>, patience: Duration) -> Self {
        Self { socket: socket.into(), patience }
    }

    /// The agent that `SSH_AUTH_SOCK` names.
    ///
    /// # Errors
    /// [`AgentError::NoSocket`] when it names none.
    pub fn from_environment(patience: Duration) -> Result<Self, AgentError> {
        match std::env::var_os("SSH_AUTH_SOCK") {
            Some(path) if !path.is_empty() => Ok(Self::new(PathBuf::from(path), patience)),
            _ => Err(AgentError::NoSocket),
        }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The keys that the agent offers, in its order.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub fn keys(&self) -> Result<Vec<AgentKey>, AgentError> {
        let answer = self.ask(&[REQUEST_IDENTITIES])?;
        let body = self.body(&answer, IDENTITIES_ANSWER, "list its keys")?;
        let malformed = || AgentError::Malformed { path: self.socket.clone() };
        let (count, mut rest) = body.split_first_chunk::<4>().ok_or_else(malformed)?;
        let mut keys = Vec::new();
        for _ in 0..u32::from_be_bytes(*count) {
            let (blob, after) = take_string(rest).ok_or_else(malformed)?;
            let (comment, after) = take_string(after).ok_or_else(malformed)?;
            rest = after;
            keys.push(AgentKey { blob: blob.to_vec(), comment: String::from_utf8_lossy(comment).into_owned() });
        }
        if rest.is_empty() { Ok(keys) } else { Err(malformed()) }
    }

    /// Has the key `blob` sign `data`. Returns the signature in SSH wire form.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub fn sign(&self, blob: &[u8], data: &[u8]) -> Result<Vec<u8>, AgentError> {
        let malformed = || AgentError::Malformed { path: self.socket.clone() };
        let rsa = take_string(blob).is_some_and(|(key_type, _)| key_type == b"ssh-rsa");
        let flags = if rsa { RSA_SHA2_512 } else { 0 };
        let mut question = vec![SIGN_REQUEST];
        put_string(&mut question, blob).map_err(|_| malformed())?;
        put_string(&mut question, data).map_err(|_| malformed())?;
        question.extend_from_slice(&flags.to_be_bytes());
        let answer = self.ask(&question)?;
        let body = self.body(&answer, SIGN_RESPONSE, "sign with that key")?;
        match take_string(body) {
            Some((signature, [])) => Ok(signature.to_vec()),
            _ => Err(malformed()),
        }
    }

    fn body<'a>(&self, answer: &'a [u8], expected: u8, what: &'static str) -> Result<&'a [u8], AgentError> {
        match answer.split_first() {
            Some((kind, body)) if *kind == expected => Ok(body),
            Some(_) => Err(AgentError::Refused { path: self.socket.clone(), what }),
            None => Err(AgentError::Malformed { path: self.socket.clone() }),
        }
    }

    fn ask(&self, question: &[u8]) -> Result<Vec<u8>, AgentError> {
        let socket = |source| AgentError::Socket { path: self.socket.clone(), source };
        let malformed = || AgentError::Malformed { path: self.socket.clone() };
        let mut stream = UnixStream::connect(&self.socket).map_err(socket)?;
        stream.set_read_timeout(Some(self.patience)).map_err(socket)?;
        stream.set_write_timeout(Some(self.patience)).map_err(socket)?;
        let mut framed = Vec::new();
        put_string(&mut framed, question).map_err(|_| malformed())?;
        stream.write_all(&framed).map_err(socket)?;
        let mut length = [0_u8; 4];
        stream.read_exact(&mut length).map_err(socket)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| malformed())?;
        if length == 0 || length > MAX_ANSWER {
            return Err(malformed());
        }
        let mut answer = vec![0_u8; length];
        stream.read_exact(&mut answer).map_err(socket)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command};

    /// OpenSSH's own agent, on a socket in a directory of the test.
    struct RunningAgent {
        child: Child,
        directory: tempfile::TempDir,
    }

    impl RunningAgent {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("agent");
            let child = Command::new("ssh-agent")
                .args(["-D", "-a"])
                .arg(&socket)
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("ssh-agent is part of openssh-client: install it");
            while UnixStream::connect(&socket).is_err() {
                std::thread::yield_now();
            }
            Self { child, directory }
        }

        fn client(&self) -> SshAgent {
            SshAgent::new(self.directory.path().join("agent"), Duration::from_secs(5))
        }

        fn add(&self, key: &PrivateKey) {
            let file = self.directory.path().join("key");
            key.write_openssh_file(&file, LineEnding::LF).unwrap();
            let status = Command::new("ssh-add")
                .arg("-q")
                .arg(&file)
                .env("SSH_AUTH_SOCK", self.client().socket())
                .status()
                .unwrap();
            assert!(status.success());
        }
    }

    impl Drop for RunningAgent {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn openssh_s_agent_lists_its_key_and_signs_with_it() {
        let agent = RunningAgent::start();
        assert_eq!(agent.client().keys().unwrap(), []);
        let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        key.set_comment("ca");
        agent.add(&key);
        let blob = key.public_key().to_bytes().unwrap();
        assert_eq!(agent.client().keys().unwrap(), [AgentKey { blob: blob.clone(), comment: "ca".to_owned() }]);
        let signature = agent.client().sign(&blob, b"to be signed").unwrap();
        assert_eq!(signature, crate::ca_key::sign_with(&key, b"to be signed").unwrap());
    }

    #[test]
    fn a_key_that_the_agent_does_not_hold_is_refused() {
        let agent = RunningAgent::start();
        let stranger = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        let refused = agent.client().sign(&stranger.public_key().to_bytes().unwrap(), b"x");
        assert!(matches!(refused, Err(AgentError::Refused { .. })));
    }

    #[test]
    fn an_answer_that_promises_more_keys_than_it_holds_is_malformed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0_u8; 5];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&[0, 0, 0, 5, IDENTITIES_ANSWER, 0, 0, 0, 9]).unwrap();
        });
        let answer = SshAgent::new(&path, Duration::from_secs(5)).keys();
        server.join().unwrap();
        assert!(matches!(answer, Err(AgentError::Malformed { .. })));
    }

    #[test]
    fn an_answer_longer_than_the_protocol_allows_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0_u8; 5];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&[0xff; 5]).unwrap();
        });
        let answer = SshAgent::new(&path, Duration::from_secs(5)).keys();
        server.join().unwrap();
        assert!(matches!(answer, Err(AgentError::Malformed { .. })));
    }

    #[test]
    fn a_socket_that_is_not_there_is_named() {
        let missing = SshAgent::new("/nonexistent/agent", Duration::from_secs(1)).keys().unwrap_err();
        assert_eq!(missing.to_string(), "ssh-agent /nonexistent/agent: No such file or directory (os error 2)");
    }
}
