//! Where things are on a host.

use std::path::PathBuf;

/// The paths that are looked at; the default is where a package puts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// sshd.
    pub sshd: PathBuf,
    /// What it was started with beside its configuration, as `-o` and what follows.
    pub sshd_options: Vec<String>,
    /// Its configuration.
    pub sshd_config: PathBuf,
    /// The agent's configuration, for messages.
    pub agent_config: PathBuf,
    /// What that says, or why it says nothing.
    pub agent: Result<Agent, String>,
    /// Which services answer for names.
    pub nsswitch: PathBuf,
    /// Folders in which the C library looks for these services.
    pub libraries: Vec<PathBuf>,
    /// The host's users.
    pub passwd: PathBuf,
    /// Their passwords.
    pub shadow: PathBuf,
    /// The host's groups.
    pub group: PathBuf,
    /// The folder of PAM's services; sshd's is `sshd` in it.
    pub pam: PathBuf,
    /// Where notes about sessions lie.
    pub runtime: PathBuf,
    /// The kernel's view of SELinux.
    pub selinux: PathBuf,
    /// Where systemd's journal takes messages.
    pub journal: PathBuf,
    /// A login to ask about, beside those that the configuration names.
    pub login: Option<String>,
}

/// What the agent's configuration says, as far as a login depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Where the snapshot is published.
    pub snapshot: PathBuf,
    /// The agent's own state.
    pub state: PathBuf,
    /// The group that may read the snapshot.
    pub group: String,
    /// The user that sshd runs the helper as.
    pub helper_user: String,
    /// The `RevokedKeys` file that the agent writes.
    pub revoked_keys: Option<PathBuf>,
    /// The `TrustedUserCAKeys` file that the agent writes.
    pub ca_keys: Option<PathBuf>,
    /// Whether sessions end when their access does.
    pub ends_sessions: bool,
    /// Whether nobody logs in but through the helper.
    pub only_helper: bool,
    /// Why the agent publishes nothing new, where it says so itself.
    pub problem: Option<String>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            sshd: PathBuf::from("/usr/sbin/sshd"),
            sshd_options: Vec::new(),
            sshd_config: PathBuf::from("/etc/ssh/sshd_config"),
            agent_config: PathBuf::from("/etc/countersign/agent.toml"),
            agent: Err("not read".to_owned()),
            nsswitch: PathBuf::from("/etc/nsswitch.conf"),
            libraries: Vec::new(),
            passwd: PathBuf::from("/etc/passwd"),
            shadow: PathBuf::from("/etc/shadow"),
            group: PathBuf::from("/etc/group"),
            pam: PathBuf::from("/etc/pam.d"),
            runtime: PathBuf::from(countersign_sshd::RUNTIME),
            selinux: PathBuf::from("/sys/fs/selinux"),
            journal: PathBuf::from("/run/systemd/journal/socket"),
            login: None,
        }
    }
}
