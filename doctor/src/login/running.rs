//! Logins through the sshd that runs. Whether it asked the helper is known from the kernel, which tells who opens the helper's file:
//! that works wherever the host's log goes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::client::{Credential, Ended, log_in};
use super::room::Room;
use super::{accepted, make};
use crate::code::Code;
use crate::finding::Finding;
use crate::host::Host;
use crate::sshd::Effective;

/// The sshd that runs.
pub(crate) struct Running<'a> {
    /// The host.
    pub(crate) host: &'a Host,
    /// Where keys are made.
    pub(crate) room: &'a Room,
    /// The host's own keys.
    pub(crate) known_hosts: &'a Path,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Running<'_> {
    /// Tries to get in by a certificate that nobody made; `helper` is the file that has to be asked.
    ///
    /// # Errors
    /// It could not be tried.
    pub(crate) fn stranger(&self, login: &str, helper: Option<PathBuf>) -> Result<Vec<Finding>, String> {
        let throwaway = make(self.room, login)?;
        let watch = helper.as_deref().and_then(|helper| Watch::begin(helper).ok());
        let found = match self.log_in(&throwaway.credential) {
            Ended::LetIn(_) => vec![accepted(login, &[])],
            Ended::Refused(_) if watch.is_some_and(|watch| !watch.was_opened()) => vec![
                Finding::new(Code::SshdOutdated, self.about(), "it refused a login and did not run the helper")
                    .change("systemctl reload ssh"),
            ],
            Ended::Refused(_) => Vec::new(),
            other => vec![self.unreachable(other)],
        };
        Ok(found)
    }

    /// Logs in by a credential that has to get in.
    pub(crate) fn friend(&self, credential: &Credential) -> Vec<Finding> {
        let about = format!("login {} at {}", credential.login, self.about());
        match self.log_in(credential) {
            Ended::LetIn(Ok(())) => Vec::new(),
            Ended::LetIn(Err(said)) => {
                let said = format!("it was let in, and `true` did not run: {said}");
                vec![Finding::new(Code::LoginBroken, about, said)]
            }
            Ended::Refused(said) => vec![
                Finding::new(Code::LoginRefused, about, said)
                    .change("the lines of countersign-sshd and sshd in the host's log"),
            ],
            other => vec![self.unreachable(other)],
        }
    }

    /// One login.
    pub(crate) fn log_in(&self, credential: &Credential) -> Ended {
        log_in(credential, self.address, self.known_hosts)
    }

    fn about(&self) -> String {
        format!("sshd at {}", self.address)
    }

    /// What it means that no login came to an end.
    pub(crate) fn unreachable(&self, ended: Ended) -> Finding {
        match ended {
            Ended::OtherHost(said) => Finding::new(Code::OtherHostKey, self.about(), said)
                .change("restart sshd after its host keys were replaced; else find out who listens there"),
            Ended::NoAnswer(said) | Ended::Refused(said) => Finding::new(Code::SshdUnreachable, self.about(), said)
                .change(format!(
                    "{} -t -f {}; systemctl start ssh",
                    self.host.sshd.display(),
                    self.host.sshd_config.display()
                )),
            Ended::LetIn(_) => Finding::new(Code::SshdUnreachable, self.about(), "it let somebody in"),
        }
    }
}

/// Sees whether a file is opened, as it is when it is run.
pub(crate) struct Watch(Inotify);

impl Watch {
    /// # Errors
    /// The file is not there, or the system does not tell.
    pub(crate) fn begin(file: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(file, AddWatchFlags::IN_OPEN)?;
        Ok(Self(inotify))
    }

    /// Whether it was, since the last call.
    pub(crate) fn was_opened(&self) -> bool {
        let mut opened = false;
        loop {
            match self.0.read_events() {
                Ok(events) => opened |= !events.is_empty(),
                Err(Errno::EINTR) => {}
                Err(_) => return opened,
            }
        }
    }
}

/// Where the running sshd is reached from here: at its first address, or at a port of one's own.
pub(crate) fn address(effective: &Effective, port: Option<u16>) -> Option<SocketAddr> {
    if let Some(port) = port {
        return Some((Ipv4Addr::LOCALHOST, port).into());
    }
    let addresses: Vec<SocketAddr> =
        effective.all("listenaddress").iter().filter_map(|address| address.parse().ok()).map(local).collect();
    addresses.iter().find(|address| address.is_ipv4()).or_else(|| addresses.first()).copied()
}

fn local(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
