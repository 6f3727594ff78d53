//! The text of sshd's configuration: where a setting stands, and to whom a `Match` applies. What it comes to is sshd's to say
//! ([`crate::sshd`]); this is for naming lines, for the order of two of them, and for knowing whom to ask about.

use std::fs;
use std::path::{Path, PathBuf};

/// As sshd.
const MOST_DEPTH: usize = 16;
const INCLUDE_BASE: &str = "/etc/ssh";

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) file: PathBuf,
    pub(crate) number: usize,
    /// In lower case.
    pub(crate) keyword: String,
    pub(crate) argument: String,
    /// Which `Match` it stands in, of those of [`Config::blocks`].
    pub(crate) block: Option<usize>,
}

impl Line {
    /// `FILE:LINE`.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.number)
    }
}

/// A `Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) file: PathBuf,
    pub(crate) number: usize,
    /// Criterion in lower case and its patterns; `all` has none. Those of a `Match` around the `Include` come first.
    pub(crate) criteria: Vec<(String, String)>,
}

/// All lines of a configuration and of what it includes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) lines: Vec<Line>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) files: Vec<PathBuf>,
}

impl Config {
    /// Reads what can be read: sshd says what is wrong with it.
    pub(crate) fn read(path: &Path) -> Self {
        let mut config = Self::default();
        config.take(path, None, 0);
        config
    }

    fn take(&mut self, path: &Path, outer: Option<usize>, depth: usize) {
        let mut block = outer;
        let Ok(text) = fs::read(path) else { return };
        self.files.push(path.to_owned());
        for (index, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            let number = index.saturating_add(1);
            let Some((keyword, argument)) = setting(line) else { continue };
            match keyword.as_str() {
                "match" => {
                    // A `Match` around an `Include` has to apply as well.
                    let outer = outer.and_then(|outer| self.blocks.get(outer));
                    let mut all = outer.map_or_else(Vec::new, |outer| outer.criteria.clone());
                    all.extend(criteria(&argument));
                    block = Some(self.blocks.len());
                    self.blocks.push(Block { file: path.to_owned(), number, criteria: all });
                }
                "include" if depth < MOST_DEPTH => {
                    for file in words(&argument).iter().flat_map(|pattern| matching(pattern)) {
                        // A `Match` in there ends with the file.
                        self.take(&file, block, depth.saturating_add(1));
                    }
                }
                _ => self.lines.push(Line { file: path.to_owned(), number, keyword, argument, block }),
            }
        }
    }

    /// The lines with this keyword (lower case) in this block.
    pub(crate) fn lines_of<'a>(&'a self, keyword: &'a str, block: Option<usize>) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.keyword == keyword && line.block == block)
    }

    /// The first of these blocks in which a setting stands.
    pub(crate) fn block_of(&self, keyword: &str, blocks: &[usize]) -> Option<usize> {
        blocks.iter().copied().find(|block| self.lines_of(keyword, Some(*block)).next().is_some())
    }

    /// Where a setting stands: `FILE:LINE`, of the first in these blocks or else outside of any.
    pub(crate) fn place(&self, keyword: &str, blocks: &[usize]) -> Option<String> {
        let line = self.lines_of(keyword, self.block_of(keyword, blocks)).next()?;
        Some(line.place())
    }
}

/// `Keyword argument` or `Keyword=argument`.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|character: char| character.is_whitespace() || character == '=').unwrap_or(line.len());
    let (keyword, rest) = line.split_at_checked(end)?;
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim();
    Some((keyword.to_ascii_lowercase(), rest.to_owned()))
}

fn criteria(argument: &str) -> Vec<(String, String)> {
    let mut words = words(argument).into_iter();
    let mut criteria = Vec::new();
    while let Some(word) = words.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_ascii_lowercase(), value.to_owned()),
            None if matches!(word.to_ascii_lowercase().as_str(), "all" | "invalid-user") => {
                (word.to_ascii_lowercase(), String::new())
            }
            None => (word.to_ascii_lowercase(), words.next().unwrap_or_default()),
        };
        criteria.push((name, value));
    }
    criteria
}

/// Splits at blanks outside of quotes, as sshd splits commands and lists. A backslash takes the next quote, backslash or blank as it is.
pub(crate) fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', _) if characters.peek().is_some_and(|next| matches!(next, '\'' | '"' | '\\' | ' ')) => {
                word.extend(characters.next());
                begun = true;
            }
            ('\'' | '"', None) => {
                quote = Some(character);
                begun = true;
            }
            (_, Some(open)) if open == character => quote = None,
            (' ' | '\t', None) => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            _ => {
                word.push(character);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// The files that an `Include` means, in their order. Patterns in folders' names are as rare as they are legal.
fn matching(pattern: &str) -> Vec<PathBuf> {
    let path = Path::new(INCLUDE_BASE).join(pattern);
    let mut found = vec![PathBuf::new()];
    for part in path.components() {
        let name = part.as_os_str().to_string_lossy();
        let is_pattern = name.contains(['*', '?', '[', '\\']);
        let mut next = Vec::new();
        for folder in found {
            if !is_pattern {
                next.push(folder.join(part));
                continue;
            }
            let names = fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok);
            let names = names.filter(|entry| {
                let entry = entry.file_name();
                let entry = entry.to_string_lossy();
                (!entry.starts_with('.') || name.starts_with('.')) && is_named(&entry, &name)
            });
            next.extend(names.map(|entry| entry.path()));
        }
        next.sort();
        found = next;
    }
    found.retain(|path| path.is_file());
    found
}

/// Whether a file's name is like a pattern as `glob` knows them: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before what stands for itself.
fn is_named(name: &str, pattern: &str) -> bool {
    let mut signs = pattern.chars();
    let mut letters = name.chars();
    match (signs.next(), letters.next()) {
        (None, letter) => letter.is_none(),
        (Some('*'), letter) => {
            is_named(name, signs.as_str()) || (letter.is_some() && is_named(letters.as_str(), pattern))
        }
        (Some(_), None) => false,
        (Some('?'), Some(_)) => is_named(letters.as_str(), signs.as_str()),
        (Some('['), Some(letter)) => match set(signs.as_str(), letter) {
            Some((has, rest)) => has && is_named(letters.as_str(), rest),
            None => letter == '[' && is_named(letters.as_str(), signs.as_str()),
        },
        (Some('\\'), Some(letter)) => signs.next() == Some(letter) && is_named(letters.as_str(), signs.as_str()),
        (Some(sign), Some(letter)) => sign == letter && is_named(letters.as_str(), signs.as_str()),
    }
}

/// Whether a set, without its `[`, has the letter; and what comes after the set. None where it does not end.
fn set(text: &str, letter: char) -> Option<(bool, &str)> {
    let (is_not, text) = match text.strip_prefix(['!', '^']) {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    // A `]` that comes first is in the set.
    let first = text.chars().next()?;
    let end = text.get(first.len_utf8()..)?.find(']')?.checked_add(first.len_utf8())?;
    let (inside, rest) = (text.get(..end)?, text.get(end..)?.strip_prefix(']')?);
    let inside: Vec<char> = inside.chars().collect();
    let (mut index, mut has) = (0_usize, false);
    while let Some(from) = inside.get(index) {
        let to = inside.get(index.saturating_add(2)).filter(|_| inside.get(index.saturating_add(1)) == Some(&'-'));
        has |= to.map_or(*from == letter, |to| (*from..=*to).contains(&letter));
        index = index.saturating_add(if to.is_some() { 3 } else { 1 });
    }
    Some((has != is_not, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_every_form_that_sshd_takes() {
        for line in ["UsePAM yes", " usepam\tyes ", "USEPAM=yes", "UsePAM = yes"] {
            assert_eq!(setting(line), Some(("usepam".to_owned(), "yes".to_owned())), "{line}");
        }
        assert_eq!(setting("# UsePAM yes"), None);
        assert_eq!(setting("  "), None);
    }

    #[test]
    fn words_end_at_blanks_outside_of_quotes() {
        assert_eq!(words(r#"a "b c" 'd "e' f\ g"#), ["a", "b c", "d \"e", "f g"]);
        assert_eq!(words("  "), Vec::<String>::new());
        assert_eq!(words("''"), [""]);
    }

    #[test]
    fn a_match_in_an_included_file_ends_with_that_file_and_one_around_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("d")).unwrap();
        fs::write(path("d/2.conf"), "X11Forwarding no\n").unwrap();
        fs::write(path("d/1.conf"), "Match User a,b Address 10.0.0.0/8\nPasswordAuthentication yes\n").unwrap();
        fs::write(path("d/3.txt"), "MaxAuthTries 1\n").unwrap();
        let main = format!(
            "Include {}/*.conf\nUsePAM yes\nMatch all\nInclude {}\nLogLevel QUIET\n",
            path("d").display(),
            path("d/2.conf").display()
        );
        fs::write(path("main"), main).unwrap();
        let config = Config::read(&path("main"));
        let found: Vec<_> = config.lines.iter().map(|line| (line.keyword.as_str(), line.block)).collect();
        let expected = [
            ("passwordauthentication", Some(0)),
            ("x11forwarding", None),
            ("usepam", None),
            ("x11forwarding", Some(1)),
            ("loglevel", Some(1)),
        ];
        assert_eq!(found, expected);
        let criteria: Vec<_> = config.blocks.iter().map(|block| block.criteria.clone()).collect();
        let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let first = vec![text(("user", "a,b")), text(("address", "10.0.0.0/8"))];
        assert_eq!(criteria, [first, vec![text(("all", ""))]]);
        assert_eq!(config.files.len(), 4);
        assert_eq!(config.place("usepam", &[1]), Some(format!("{}:2", path("main").display())));
    }

    #[test]
    fn a_match_in_a_file_that_a_match_includes_takes_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("1.conf"), "Match User a\nPasswordAuthentication yes\n").unwrap();
        fs::write(path("main"), format!("Match Address 10.0.0.0/8\nInclude {}/[0-9]*.conf\n", folder.path().display()))
            .unwrap();
        let config = Config::read(&path("main"));
        let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        assert_eq!(config.blocks[1].criteria, [text(("address", "10.0.0.0/8")), text(("user", "a"))]);
        assert_eq!(config.lines[0].block, Some(1));
    }

    #[test]
    fn files_are_named_as_glob_names_them() {
        for (name, pattern) in [
            ("10-a.conf", "[0-9]*.conf"),
            ("a.conf", "[!0-9]*.conf"),
            ("].conf", "[]a].conf"),
            ("-x", "[a-]x"),
            ("[x", "[x"),
            ("a*", "a\\*"),
            ("abc", "a?c"),
            ("", "*"),
        ] {
            assert!(is_named(name, pattern), "{name} {pattern}");
        }
        for (name, pattern) in [("a.conf", "[0-9]*.conf"), ("1", "[!0-9]"), ("ab", "a\\*"), ("b", "[a]"), ("a", "a?")] {
            assert!(!is_named(name, pattern), "{name} {pattern}");
        }
    }
}
