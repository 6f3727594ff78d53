//! The table of kinds as docs/spec/registry.md has it: what a payload of each kind looks like. A kind that is not in it, or in it
//! and not known, fails the tests.

use std::collections::BTreeMap;

use countersign_registry::Kind;

const PAGE: &str = include_str!("../../../../docs/spec/registry.md");

/// What the payload of a kind is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `abi.encode` of a struct of these members.
    Abi(Vec<String>),
    Packed,
}

/// Whether an ABI type takes its place by an offset.
pub(crate) fn is_dynamic(member: &str) -> bool {
    member.ends_with("[]") || member == "string" || member == "bytes"
}

fn members(tuple: &str) -> Vec<String> {
    let (mut members, mut depth) = (vec![String::new()], 0);
    for letter in tuple.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if letter == ',' && depth == 0 {
            members.push(String::new());
        } else {
            members.last_mut().unwrap().push(letter);
        }
    }
    members
}

/// Every kind with its layout.
pub(crate) fn kinds() -> BTreeMap<Kind, Layout> {
    let mut kinds = BTreeMap::new();
    for line in PAGE.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, name, layout, _] = cells[..] else { continue };
        let Some(number) = number.strip_prefix("0x") else { continue };
        let kind = Kind(u16::from_str_radix(number, 16).unwrap());
        assert_eq!(kind.name(), Some(name), "{line}");
        let layout = if layout.starts_with("packed") {
            Layout::Packed
        } else {
            let tuple = layout.split('`').nth(1).unwrap();
            Layout::Abi(members(tuple.strip_prefix('(').unwrap().strip_suffix(')').unwrap()))
        };
        assert_eq!(kinds.insert(kind, layout), None, "{line}");
    }
    kinds
}

#[test]
fn the_spec_has_a_layout_for_every_kind_and_for_no_other() {
    let kinds = kinds();
    let named: Vec<Kind> = Kind::NAMED.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), named);
    assert_eq!(kinds[&Kind::CERT_REVOKE], Layout::Packed);
    assert_eq!(kinds[&Kind::MIGRATE], kinds[&Kind::MIGRATED]);
    assert_eq!(kinds[&Kind::SETTINGS], Layout::Abi(vec!["(uint16,uint64)[]".into()]));
    assert_eq!(kinds[&Kind::USER_ADD], Layout::Abi(["bytes16", "string", "string"].map(String::from).to_vec()));
}
