//! sshd's PAM service: that it tells of sessions before any module that reads users' files, and makes homes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::code::Code;
use crate::finding::{Finding, Report};
use crate::host::Host;
use crate::trust::fault;

const HOOK: &str = "countersign-sshd-session";
const MOST_DEPTH: usize = 8;

/// A `session` line, in the order in which PAM runs them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    place: String,
    module: String,
    arguments: Vec<String>,
}

/// Looks at the service where sshd asks PAM. `users_of_ledger`: whether the name service gives the host users that have no home yet.
pub(crate) fn examine(host: &Host, helper: &Path, users_of_ledger: bool, report: &mut Report) {
    let Ok(agent) = &host.agent else { return };
    let service = host.pam.join("sshd");
    let mut lines = Vec::new();
    read(&host.pam, &service, 0, &mut lines);
    report.checked("pam");
    let about = service.display().to_string();
    let line = format!("session optional pam_exec.so quiet {}", helper.with_file_name(HOOK).display());
    if agent.ends_sessions {
        hook(&lines, &about, &line, report);
    }
    if users_of_ledger
        && !lines
            .iter()
            .any(|line| ["pam_mkhomedir", "pam_oddjob_mkhomedir"].iter().any(|name| line.module.contains(name)))
    {
        let change = "session required pam_mkhomedir.so umask=0077";
        report.find(Finding::new(Code::HomeNotMade, about, "no session line with pam_mkhomedir").change(change));
    }
}

fn hook(lines: &[Line], about: &str, wanted: &str, report: &mut Report) {
    let is_hook = |line: &Line| line.arguments.iter().any(|word| word.ends_with(HOOK));
    let Some((position, line)) = lines.iter().enumerate().find(|(_, line)| is_hook(line)) else {
        let change = format!("{wanted}\nas the first session line of {about}");
        report.find(
            Finding::new(Code::SessionHookMissing, about, "no session line with countersign-sshd-session")
                .change(change),
        );
        return;
    };
    if let Some(first) = lines.first().filter(|_| position > 0) {
        let text = format!("{} comes before it ({}): it has to be the first session line", first.module, first.place);
        let change = format!("move {wanted} to before {}", first.place);
        report.find(Finding::new(Code::SessionHookLate, line.place.clone(), text).change(change));
    }
    let program = line.arguments.iter().find(|word| word.ends_with(HOOK)).map(PathBuf::from);
    if let Some((program, fault)) = program.and_then(|program| fault(&program).map(|fault| (program, fault))) {
        let text = format!("{}: {fault}", program.display());
        report.find(Finding::new(Code::SessionHookUnsafe, line.place.clone(), text).change(fault.change(&program)));
    }
}

fn read(folder: &Path, file: &Path, depth: usize, lines: &mut Vec<Line>) {
    let Ok(text) = fs::read(file) else { return };
    if depth > MOST_DEPTH {
        return;
    }
    let text = String::from_utf8_lossy(&text).replace("\\\n", " ");
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let place = format!("{}:{}", file.display(), index.saturating_add(1));
        let mut words = fields(line).into_iter();
        let (Some(kind), Some(control)) = (words.next(), words.next()) else { continue };
        if kind == "@include" {
            read(folder, &folder.join(control), depth.saturating_add(1), lines);
            continue;
        }
        if !kind.trim_start_matches('-').eq_ignore_ascii_case("session") {
            continue;
        }
        let Some(module) = words.next() else { continue };
        if matches!(control.as_str(), "include" | "substack") {
            read(folder, &folder.join(&module), depth.saturating_add(1), lines);
            continue;
        }
        lines.push(Line { place, module, arguments: words.collect() });
    }
}

/// Words, of which one may stand in brackets with blanks in it.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut is_in_brackets) = (Vec::new(), String::new(), false);
    for character in line.chars() {
        match character {
            '[' => is_in_brackets = true,
            ']' => is_in_brackets = false,
            _ => {}
        }
        if character.is_whitespace() && !is_in_brackets {
            if !field.is_empty() {
                fields.push(std::mem::take(&mut field));
            }
        } else {
            field.push(character);
        }
    }
    if !field.is_empty() {
        fields.push(field);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_lines_stand_in_the_order_in_which_pam_runs_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        file(
            "sshd",
            "auth required pam_a.so\n# session required pam_no.so\nsession [success=ok default=bad] pam_one.so close\n@include common\n-session optional pam_last.so a b\n",
        );
        file("common", "session include more\nsession required pam_three.so\n");
        file("more", "session required \\\n pam_two.so x\n");
        let mut lines = Vec::new();
        read(folder.path(), &folder.path().join("sshd"), 0, &mut lines);
        let found: Vec<_> = lines.iter().map(|line| (line.module.as_str(), line.arguments.join(" "))).collect();
        let text = |words: &str| words.to_owned();
        let expected = [
            ("pam_one.so", text("close")),
            ("pam_two.so", text("x")),
            ("pam_three.so", text("")),
            ("pam_last.so", text("a b")),
        ];
        assert_eq!(found, expected);
    }
}
