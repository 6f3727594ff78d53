//! `/etc/countersign/nss.conf`: where homes are, which shell, and which names this host has for others. Three lines at most,
//! `home-base = /home`, `shell = /bin/bash` and `refuse = deploy builders`; without the file, `/home`, bash or, where there is none,
//! sh, and no names beside those that are refused everywhere.
//!
//! Refuses a file that somebody other than root could have written, and any line that it does not understand: then the module
//! answers nothing, which shows at once.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::rules::is_well_formed;

const MOST_BYTES: u64 = 4096;
const GROUP_OR_OTHER_WRITE: u32 = 0o022;
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];
const DEFAULT_HOME_BASE: &str = "/home";

/// What a removed or locked user has for a shell.
pub(crate) const NO_LOGIN: &str = "/usr/sbin/nologin";

/// What the host says about its ledger users.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    pub(crate) home_base: String,
    pub(crate) shell: String,
    /// Names of users and groups that the ledger does not get here.
    pub(crate) refused: Vec<String>,
}

impl Settings {
    /// Reads the file, trusted if `owner` owns it and nobody else may write it.
    ///
    /// # Errors
    /// Where it is there and cannot be read, is not trusted, or has a line without meaning.
    pub(crate) fn read(path: &Path, owner: u32) -> io::Result<Self> {
        // A FIFO must be refused, not waited for.
        let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::parse("").unwrap_or_default()),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        let trusted = metadata.is_file() && metadata.uid() == owner && metadata.mode() & GROUP_OR_OTHER_WRITE == 0;
        if !trusted || metadata.len() > MOST_BYTES {
            return Err(invalid("expected a small file that only root can write"));
        }
        let mut text = String::new();
        file.take(MOST_BYTES).read_to_string(&mut text)?;
        Self::parse(&text).ok_or_else(|| invalid("expected `home-base = PATH`, `shell = PATH` and `refuse = NAME…`"))
    }

    fn parse(text: &str) -> Option<Self> {
        let (mut home_base, mut shell, mut refused) = (None, None, None);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once('=')?;
            let value = value.trim();
            let place = match key.trim() {
                "home-base" => &mut home_base,
                "shell" => &mut shell,
                "refuse" => {
                    let names: Vec<String> = value.split_ascii_whitespace().map(str::to_owned).collect();
                    // A comma, say: a line that means to refuse a name must not miss it.
                    if names.is_empty() || !names.iter().all(|name| is_well_formed(name.as_bytes())) {
                        return None;
                    }
                    if refused.replace(names).is_some() {
                        return None;
                    }
                    continue;
                }
                _ => return None,
            };
            if place.is_some() || !is_path(value) {
                return None;
            }
            *place = Some(value.to_owned());
        }
        let default = Self::default();
        Some(Self {
            home_base: home_base.unwrap_or(default.home_base),
            shell: shell.unwrap_or(default.shell),
            refused: refused.unwrap_or_default(),
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        let shell = SHELLS.into_iter().find(|shell| Path::new(shell).exists()).unwrap_or(NO_LOGIN);
        Self { home_base: DEFAULT_HOME_BASE.to_owned(), shell: shell.to_owned(), refused: Vec::new() }
    }
}

/// Absolute, and nothing that would end a field of passwd.
fn is_path(value: &str) -> bool {
    value.starts_with('/') && value.len() <= 256 && value.chars().all(|c| !c.is_control() && c != ':')
}

fn invalid(expected: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, expected)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn each_line_is_taken_and_each_may_be_left_out() {
        let all = Settings {
            home_base: "/srv/home".to_owned(),
            shell: "/bin/zsh".to_owned(),
            refused: vec!["deploy".to_owned(), "_ops-1".to_owned()],
        };
        let text = "# ours\nhome-base = /srv/home\n\nshell=/bin/zsh\nrefuse =  deploy\t_ops-1\n";
        assert_eq!(Settings::parse(text), Some(all));
        assert_eq!(Settings::parse("shell = /bin/sh").unwrap().home_base, "/home");
        assert_eq!(Settings::parse(""), Some(Settings::default()));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "shell",
            "colour = red",
            "shell = sh",
            "shell = /a:b",
            "shell = /a\nshell = /b",
            "shell =",
            "refuse =",
            "refuse = a,b",
            "refuse = Alice",
            "refuse = a\nrefuse = b",
        ] {
            assert_eq!(Settings::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_a_link_and_a_wrong_owner_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nss.conf");
        fs::write(&path, "shell = /bin/sh\n").unwrap();
        let owner = fs::metadata(&path).unwrap().uid();
        assert!(Settings::read(&path, owner).is_ok());
        assert!(Settings::read(&path, owner.wrapping_add(1)).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        assert!(Settings::read(&path, owner).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(Settings::read(&link, owner).is_err());
        assert_eq!(Settings::read(&directory.path().join("none"), owner).unwrap(), Settings::default());
    }
}
