//! Whom to ask sshd about: somebody for every combination of `Match`es that a login can meet; and which lines were in no answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::address::{addresses, is_in_networks};
use crate::code::Code;
use crate::config::{Block, Config, Line, words};
use crate::finding::{Finding, Report};
use crate::host::Host;
use crate::pattern::{examples, is_excluded, is_in};
use crate::sshd::{Effective, Spec};

const FIRST_PERSON: u32 = 1000;
/// A user whom no file of the host knows, as those of a name service.
const NOBODY: &str = "countersign-doctor";
/// What `sshd -T -C` can be told, and `all`.
const KNOWN: &[&str] = &["all", "user", "group", "host", "address", "localaddress", "localport"];
/// As many questions take some seconds.
const MOST_KINDS: usize = 200;
const MOST_LOOKS: usize = 100_000;
/// What lets somebody in, or leaves it to somebody else who does.
const LETS_IN: &[&str] = &[
    "authorizedkeyscommand",
    "authorizedprincipalscommand",
    "authorizedkeysfile",
    "authorizedprincipalsfile",
    "trustedusercakeys",
    "authenticationmethods",
    "passwordauthentication",
    "kbdinteractiveauthentication",
    "challengeresponseauthentication",
    "skeyauthentication",
    "gssapiauthentication",
    "hostbasedauthentication",
    "kerberosauthentication",
    "permitemptypasswords",
];

/// The host's own users and groups, as the files say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Local {
    /// Name to number, its own group's number, and shell.
    pub(crate) users: BTreeMap<String, (u32, u32, String)>,
    /// Name to number and members.
    pub(crate) groups: BTreeMap<String, (u32, Vec<String>)>,
}

impl Local {
    pub(crate) fn read(host: &Host) -> Self {
        let fields = |path: &Path| -> Vec<Vec<String>> {
            let text =
                fs::read(path).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned());
            let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            lines.map(|line| line.trim_start().split(':').map(str::to_owned).collect()).collect()
        };
        let mut local = Self::default();
        for line in fields(&host.passwd) {
            if let [name, _, uid, gid, _, _, shell, ..] = line.as_slice()
                && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
            {
                local.users.entry(name.clone()).or_insert((uid, gid, shell.clone()));
            }
        }
        for line in fields(&host.group) {
            if let [name, _, gid, rest @ ..] = line.as_slice()
                && let Ok(gid) = gid.parse()
            {
                let members = rest.first().map(String::as_str).unwrap_or_default();
                let members = members.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
                local.groups.entry(name.clone()).or_insert((gid, members));
            }
        }
        local
    }

    fn groups_of(&self, user: &str) -> impl Iterator<Item = &str> {
        let own = self.users.get(user).map(|(_, gid, _)| *gid);
        let groups = self.groups.iter();
        let is_in =
            move |(gid, members): &(u32, Vec<String>)| own == Some(*gid) || members.iter().any(|name| name == user);
        groups.filter(move |(_, group)| is_in(group)).map(|(name, _)| name.as_str())
    }
}

/// Logins to which the same `Match`es apply.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    /// One of them.
    pub(crate) spec: Spec,
    /// The blocks that apply, in their order; where none does, it is as sshd says in general.
    pub(crate) blocks: Vec<usize>,
    /// Who else logs in so.
    pub(crate) users: Vec<String>,
}

/// What one part of a login may be, and to which blocks each has a part.
#[derive(Debug)]
struct Part<T> {
    one: T,
    blocks: Vec<bool>,
    all: Vec<T>,
}

/// Every combination of `Match`es that a login can meet, as far as a login can be made up for it.
pub(crate) fn kinds(host: &Host, config: &Config, local: &Local, report: &mut Report) -> Vec<Kind> {
    for block in &config.blocks {
        foreign_groups(block, &place(block), local, report);
    }
    let values = |names: &[&str]| -> Vec<&str> {
        let criteria = config.blocks.iter().flat_map(|block| &block.criteria);
        criteria.filter(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value.as_str()).collect()
    };
    let with = |first: &[&str], more: Vec<String>| -> Vec<String> {
        first.iter().map(|word| (*word).to_owned()).chain(more).collect()
    };
    let usual = Spec::of_login("");
    let users = parts(config, users(host, local, &values(&["user"])), |user, criterion, value| match criterion {
        "user" => Some(is_in(user, value)),
        // One group that is excluded excludes its members.
        "group" => Some(
            local.groups_of(user).any(|group| is_in(group, value))
                && !local.groups_of(user).any(|group| is_excluded(group, value)),
        ),
        _ => None,
    });
    let names = values(&["host"]).into_iter().flat_map(|list| examples(&list.to_lowercase())).collect();
    let hosts = parts(config, with(&["localhost", "client.invalid"], names), |name, criterion, value| {
        (criterion == "host").then(|| is_in(&name.to_lowercase(), &value.to_lowercase()))
    });
    let of = |criterion: &str| values(&[criterion]).into_iter().flat_map(addresses).collect();
    let from = parts(config, with(&["127.0.0.1", "192.0.2.1"], of("address")), |address, criterion, value| {
        (criterion == "address").then(|| is_in_networks(address, value))
    });
    let to = parts(config, with(&["127.0.0.1", "192.0.2.2"], of("localaddress")), |address, criterion, value| {
        (criterion == "localaddress").then(|| is_in_networks(address, value))
    });
    let is_port = |port: &u16, list: &str| list.split(',').any(|one| one.trim().parse() == Ok(*port));
    let named =
        values(&["localport"]).into_iter().flat_map(|list| list.split(',')).filter_map(|port| port.trim().parse().ok());
    let ports = parts(config, [usual.local_port, u16::MAX].into_iter().chain(named), |port, criterion, value| {
        (criterion == "localport").then(|| is_port(port, value))
    });

    let mut kinds: Vec<Kind> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut looks = 0_usize;
    for (user, from) in users.iter().flat_map(|user| from.iter().map(move |from| (user, from))) {
        for (host, to) in hosts.iter().flat_map(|host| to.iter().map(move |to| (host, to))) {
            for port in &ports {
                looks = looks.saturating_add(1);
                if looks > MOST_LOOKS || kinds.len() >= MOST_KINDS {
                    report.not_checked("match", "there are more combinations of Match than are asked about");
                    return kinds;
                }
                let sets = [&user.blocks, &from.blocks, &host.blocks, &to.blocks, &port.blocks];
                let applies = |block: &usize| sets.iter().all(|set| set.get(*block) == Some(&true));
                let blocks: Vec<usize> = (0..config.blocks.len()).filter(applies).collect();
                // A few combinations of parts may come to the same.
                if !seen.insert((user.one.clone(), blocks.clone())) {
                    continue;
                }
                if kinds.iter().any(|kind| kind.blocks == blocks) {
                    let known = kinds.iter_mut().find(|kind| kind.blocks == blocks);
                    known.into_iter().for_each(|kind| kind.users.extend(user.all.iter().cloned()));
                    continue;
                }
                let spec = Spec {
                    user: user.one.clone(),
                    host: host.one.clone(),
                    address: from.one.clone(),
                    local_address: to.one.clone(),
                    local_port: port.one,
                };
                kinds.push(Kind { spec, blocks, users: user.all.clone() });
            }
        }
    }
    kinds
}

/// Whom to ask about: the one who is named, people, the others, and such as no file knows.
fn users(host: &Host, local: &Local, lists: &[&str]) -> Vec<String> {
    let people = local.users.iter().filter(|(_, (uid, ..))| *uid >= FIRST_PERSON).map(|(name, _)| name);
    let known = host.login.iter().chain(people).chain(local.users.keys()).cloned();
    let made_up = lists.iter().flat_map(|list| examples(list)).chain([NOBODY.to_owned()]);
    known.chain(made_up).collect()
}

/// Groups what a part may be by the blocks to which it has a part. A criterion that is not known is met by nobody.
fn parts<T: Clone + PartialEq>(
    config: &Config,
    all: impl IntoIterator<Item = T>,
    is_meant: impl Fn(&T, &str, &str) -> Option<bool>,
) -> Vec<Part<T>> {
    let mut parts: Vec<Part<T>> = Vec::new();
    for one in all {
        let meets = |(criterion, value): &(String, String)| {
            KNOWN.contains(&criterion.as_str()) && is_meant(&one, criterion, value) != Some(false)
        };
        let blocks: Vec<bool> = config.blocks.iter().map(|block| block.criteria.iter().all(meets)).collect();
        match parts.iter_mut().find(|part| part.blocks == blocks) {
            Some(part) if !part.all.contains(&one) => part.all.push(one),
            Some(_) => {}
            None => parts.push(Part { one: one.clone(), blocks, all: vec![one] }),
        }
    }
    parts
}

/// Says which lines of a `Match` let in, and were in no answer: nobody was found to whom they apply, or another `Match` hides them.
pub(crate) fn unseen(config: &Config, general: &Effective, answers: &[(Kind, Effective)], report: &mut Report) {
    for line in &config.lines {
        let Some(block) = line.block.filter(|_| LETS_IN.contains(&line.keyword.as_str())) else { continue };
        let is_first = config.lines_of(&line.keyword, Some(block)).next() == Some(line);
        let own = answers.iter().filter(|(kind, _)| kind.blocks.contains(&block)).map(|(_, answer)| answer);
        if is_first && !own.chain([general]).any(|answer| is_shown(line, answer)) {
            let text = format!(
                "{} {} ({}): for nobody who could be made up does sshd say so; whom it lets in was not looked at",
                line.keyword,
                line.argument,
                line.place()
            );
            report.not_checked("match", text);
        }
    }
}

/// Whether sshd says of a setting what the line says. Of what it does not know it says nothing.
fn is_shown(line: &Line, answer: &Effective) -> bool {
    let argument: Vec<String> = words(&line.argument).into_iter().take_while(|word| !word.starts_with('#')).collect();
    let keyword = match line.keyword.as_str() {
        "challengeresponseauthentication" | "skeyauthentication" if !answer.has(&line.keyword) => {
            "kbdinteractiveauthentication"
        }
        keyword => keyword,
    };
    let as_said = |text: &str| match text.to_ascii_lowercase().as_str() {
        "true" => "yes".to_owned(),
        "false" => "no".to_owned(),
        "" => "none".to_owned(),
        _ => text.to_owned(),
    };
    let is_same = |said: &str| as_said(&words(said).join(" ")).eq_ignore_ascii_case(&as_said(&argument.join(" ")));
    !answer.has(keyword) || is_same(answer.get(keyword))
}

fn place(block: &Block) -> String {
    format!("Match ({}:{})", block.file.display(), block.number)
}

/// A group that only a name service knows comes and goes with it.
fn foreign_groups(block: &Block, place: &str, local: &Local, report: &mut Report) {
    for list in block.criteria.iter().filter(|(name, _)| name == "group").map(|(_, value)| value) {
        for group in list.split(',').map(str::trim).filter(|group| !group.contains(['*', '?'])) {
            let name = group.trim_start_matches('!');
            if !local.groups.contains_key(name) {
                let change = format!("Match User with the logins that are meant, or: groupadd {name}");
                report.find(Finding::new(Code::MatchGroup, place, format!("Group {group}")).change(change));
            }
        }
    }
}
