//! Whom to ask sshd about: for each `Match` somebody to whom it applies.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::code::Code;
use crate::config::{Block, Config};
use crate::finding::{Finding, Report};
use crate::host::Host;
use crate::pattern::{example, example_address, is_in};
use crate::sshd::Spec;

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

/// Somebody for each `Match`, with that block's number; what nobody is found for is said.
pub(crate) fn specs(host: &Host, config: &Config, local: &Local, report: &mut Report) -> Vec<(usize, Spec)> {
    let mut specs = Vec::new();
    for (index, block) in config.blocks.iter().enumerate() {
        let place = format!("Match ({}:{})", block.file.display(), block.number);
        foreign_groups(block, &place, local, report);
        match spec(host, block, local) {
            Ok(spec) => specs.push((index, spec)),
            Err(why) => report.not_checked("match", format!("{place}: {why}")),
        }
    }
    specs
}

fn spec(host: &Host, block: &Block, local: &Local) -> Result<Spec, String> {
    let mut spec = Spec::of_login("");
    let (mut users, mut groups) = (None, None);
    for (criterion, value) in &block.criteria {
        let none = || format!("nobody could be made up for {criterion} {value}");
        match criterion.as_str() {
            "all" => {}
            "user" => users = Some(value.as_str()),
            "group" => groups = Some(value.as_str()),
            "host" => spec.host = example(value).ok_or_else(none)?,
            "address" => spec.address = example_address(value).ok_or_else(none)?,
            "localaddress" => spec.local_address = example_address(value).ok_or_else(none)?,
            "localport" => {
                let port = value.split(',').next().and_then(|port| port.trim().parse().ok());
                spec.local_port = port.ok_or_else(none)?;
            }
            _ => return Err(format!("this program does not know the criterion {criterion}")),
        }
    }
    let is_meant = |user: &str| {
        users.is_none_or(|list| is_in(user, list))
            && groups.is_none_or(|list| local.groups_of(user).any(|group| is_in(group, list)))
    };
    let asked = host.login.iter().map(String::as_str);
    let people = local.users.iter().filter(|(_, (uid, ..))| *uid >= 1000).map(|(name, _)| name.as_str());
    let others = local.users.keys().map(String::as_str);
    let user = asked.chain(people).chain(others).find(|user| is_meant(user)).map(str::to_owned);
    let made_up = || users.filter(|_| groups.is_none()).and_then(example);
    spec.user = user.or_else(made_up).ok_or("the host has no such user itself")?;
    Ok(spec)
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
