//! What sshd makes of its configuration: `sshd -T`, in general and for one who logs in.

use std::collections::BTreeMap;
use std::process::Command;

use crate::host::Host;
use crate::run::run;

/// An sshd's version, as far as its behaviour depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Before the dot.
    pub major: u32,
    /// After it.
    pub minor: u32,
}

impl Version {
    /// Asks the program. None where it does not say.
    #[must_use]
    pub fn of(host: &Host) -> Option<Self> {
        // Before 9.2 `-V` is an unknown option, and the version stands above the usage.
        let ran = run(Command::new(&host.sshd).arg("-V")).ok()?;
        Self::parse(&ran.stderr).or_else(|| Self::parse(&ran.stdout))
    }

    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("OpenSSH_")?;
        let (major, rest) = rest.split_once('.')?;
        let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        Some(Self { major: major.parse().ok()?, minor: rest.get(..end)?.parse().ok()? })
    }
}

/// Who logs in, as `sshd -T -C` takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spec {
    /// The login.
    pub user: String,
    /// The client's name.
    pub host: String,
    /// The client's address.
    pub address: String,
    /// The address that it connects to.
    pub local_address: String,
    /// The port that it connects to.
    pub local_port: u16,
}

impl Spec {
    /// That login, from this machine.
    #[must_use]
    pub fn of_login(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            host: "localhost".to_owned(),
            address: "127.0.0.1".to_owned(),
            local_address: "127.0.0.1".to_owned(),
            local_port: 22,
        }
    }

    /// Whom no `Match` means but those that mean everybody. The addresses are for documentation.
    fn nobody() -> Self {
        Self {
            user: "countersign-doctor".to_owned(),
            host: "client.invalid".to_owned(),
            address: "192.0.2.1".to_owned(),
            local_address: "192.0.2.2".to_owned(),
            local_port: u16::MAX,
        }
    }

    fn text(&self) -> String {
        let Self { user, host, address, local_address, local_port } = self;
        format!("user={user},host={host},addr={address},laddr={local_address},lport={local_port}")
    }
}

/// What `sshd -T` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    settings: BTreeMap<String, Vec<String>>,
}

impl Effective {
    /// Asks sshd, in general or for one who logs in.
    ///
    /// # Errors
    /// sshd's own words.
    pub fn ask(host: &Host, spec: Option<&Spec>) -> Result<Self, String> {
        match (Self::ask_once(host, spec), spec) {
            // Where a `Match` asks for the port, say, sshd answers in general only about somebody. Nobody is meant by this one.
            (Err(message), None) if message.contains("not in connection test specification") => {
                Self::ask_once(host, Some(&Spec::nobody()))
            }
            (answer, _) => answer,
        }
    }

    fn ask_once(host: &Host, spec: Option<&Spec>) -> Result<Self, String> {
        let mut command = Command::new(&host.sshd);
        command.arg("-T").arg("-f").arg(&host.sshd_config).args(&host.sshd_options);
        if let Some(spec) = spec {
            command.arg("-C").arg(spec.text());
        }
        let ran = run(&mut command).map_err(|error| error.to_string())?;
        if !ran.success {
            return Err(ran.stderr.trim().replace("\r\n", "\n"));
        }
        Ok(Self::parse(&ran.stdout))
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            settings.entry(name.to_ascii_lowercase()).or_default().push(value.to_owned());
        }
        Self { settings }
    }

    /// A setting's value, by its name in lower case; empty where sshd does not print it, `none` as sshd does.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.settings.get(name).and_then(|values| values.first()).map_or("", String::as_str)
    }

    /// Whether sshd says anything about a setting.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.settings.contains_key(name)
    }

    /// All values of a setting that may stand more than once.
    #[must_use]
    pub fn all(&self, name: &str) -> &[String] {
        self.settings.get(name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_each_sshd_says() {
        let version = |major, minor| Some(Version { major, minor });
        assert_eq!(Version::parse("OpenSSH_9.2, OpenSSL 3.0.19 27 Jan 2026\n"), version(9, 2));
        assert_eq!(
            Version::parse("unknown option -- V\nOpenSSH_8.4p1 Debian-5+deb11u3, OpenSSL 1.1.1w\n"),
            version(8, 4)
        );
        assert_eq!(Version::parse("OpenSSH_10.0p2 Debian-7"), version(10, 0));
        assert_eq!(Version::parse("sshd of somebody else"), None);
    }
}
