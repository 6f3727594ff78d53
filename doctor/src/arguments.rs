//! What an sshd that listens was started with: it writes that into its title, without the quotes. What cannot be told from there is
//! said to be so.

use std::path::PathBuf;

const BEGIN: &str = "sshd: ";
const END: &str = " [listener]";
const DEFAULT_FILE: &str = "/etc/ssh/sshd_config";
/// sshd's options that take a word.
const WITH_WORD: &str = "CEbcfghkopu";
const WITHOUT_WORD: &str = "46DGQRTVdeiqrt";
/// Those that change what its configuration comes to.
const SETTINGS: &str = "cghop";

/// Its configuration's file, and what counts more than that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) file: PathBuf,
    /// As `sshd -T` takes them.
    pub(crate) options: Vec<String>,
}

/// Whether a title is that of an sshd that listens. A session's is a login's name, which has no `/`; a long one is cut off.
pub(crate) fn is_listener(title: &str) -> bool {
    title.contains(END) || title.starts_with("sshd: /")
}

impl Arguments {
    /// What the title says; none where it is cut off, or says nothing that sshd takes.
    pub(crate) fn of(title: &str) -> Option<Self> {
        let title = title.trim_start().strip_prefix(BEGIN)?;
        let (line, _) = title.rsplit_once(END)?;
        let mut found: Vec<(char, String)> = Vec::new();
        let mut is_open = false;
        for word in line.split([' ', '\t', '\n']).filter(|word| !word.is_empty()).skip(1) {
            let Some(letters) = word.strip_prefix('-') else {
                // A word of the option before it: sshd takes none of its own. One that begins with `-` could not be told from an option.
                let (_, value) = found.last_mut().filter(|_| is_open)?;
                if !value.is_empty() {
                    value.push(' ');
                }
                value.push_str(word);
                continue;
            };
            is_open = false;
            let mut letters = letters.chars();
            let mut is_first = true;
            while let Some(letter) = letters.next() {
                is_first = false;
                if WITH_WORD.contains(letter) {
                    found.push((letter, letters.as_str().to_owned()));
                    is_open = true;
                    break;
                }
                if !WITHOUT_WORD.contains(letter) {
                    return None;
                }
            }
            if is_first {
                return None;
            }
        }
        if found.iter().any(|(_, value)| value.is_empty()) {
            return None;
        }
        let file = found.iter().rev().find(|(letter, _)| *letter == 'f');
        let file = file.map_or_else(|| PathBuf::from(DEFAULT_FILE), |(_, file)| PathBuf::from(file));
        let settings = found.into_iter().filter(|(letter, _)| SETTINGS.contains(*letter));
        Some(Self { file, options: settings.flat_map(|(letter, value)| [format!("-{letter}"), value]).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<(String, Vec<String>)> {
        let arguments = Arguments::of(&format!("sshd: {line} [listener] 0 of 10-100 startups"))?;
        Some((arguments.file.display().to_string(), arguments.options))
    }

    #[test]
    fn options_are_told_in_every_form_that_sshd_takes() {
        for (line, file, options) in [
            ("/usr/sbin/sshd -D", DEFAULT_FILE, &[][..]),
            ("/usr/sbin/sshd -D -f /x -o A=b", "/x", &["-o", "A=b"][..]),
            ("/usr/sbin/sshd -Df/x -oA=b", "/x", &["-o", "A=b"][..]),
            ("/usr/sbin/sshd -o A b c -g 5 -e", DEFAULT_FILE, &["-o", "A b c", "-g", "5"][..]),
            ("/usr/sbin/sshd -o A=-b -E /log -p 2222", DEFAULT_FILE, &["-o", "A=-b", "-p", "2222"][..]),
        ] {
            let options = options.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(of(line), Some((file.to_owned(), options)), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_not_made_up() {
        for line in [
            "/usr/sbin/sshd -D word",
            "/usr/sbin/sshd -o",
            "/usr/sbin/sshd -o A=/x --word",
            "/usr/sbin/sshd -",
            "/usr/sbin/sshd -o A=/x -y",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
        assert_eq!(Arguments::of("sshd: /usr/sbin/sshd -D -o AuthorizedKeysFi"), None);
        assert!(is_listener("sshd: /usr/sbin/sshd -D -o AuthorizedKeysFi"));
        assert!(!is_listener("sshd: deploy@pts/0") && !is_listener("sshd: deploy [priv]"));
    }
}
