//! Which names and numbers this module ever speaks for, whatever the snapshot says.
//!
//! Refuses every number that a host or its distribution may have given away (system users, `nobody`, dynamic users,
//! containers' and the two that mean "none"), and names that mean power on some distribution: a realm that could make a group
//! `sudo` would be root on every host (CVE-2025-49012 in a peer).

/// The least number that a realm can give (`docs/spec/replay.md`, uid-base).
const LEAST: u32 = 65_536;

/// From 2^31 on numbers are negative to some programs, and the two greatest mean "no user".
const END: u32 = 0xffff_fffe;

/// Names that a host or its packages give power to. Those that exist on the host are found there; these are refused
/// also where they do not exist (yet).
const POWERFUL: [&str; 28] = [
    "adm",
    "admin",
    "audio",
    "backup",
    "bin",
    "countersign",
    "daemon",
    "disk",
    "docker",
    "incus",
    "incus-admin",
    "input",
    "kmem",
    "kvm",
    "libvirt",
    "lxd",
    "lpadmin",
    "mail",
    "netdev",
    "nobody",
    "nogroup",
    "plugdev",
    "root",
    "shadow",
    "staff",
    "sudo",
    "video",
    "wheel",
];

/// Whether a realm may have given this number to a user or group.
#[must_use]
pub fn is_assignable(number: u32) -> bool {
    (LEAST..END).contains(&number)
}

/// Whether this can be the name of a ledger user or group on this host: `[a-z_][a-z0-9_-]{0,31}`, and no name of power.
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    let Some((first, rest)) = name.split_first() else { return false };
    let well_formed = matches!(first, b'a'..=b'z' | b'_')
        && rest.len() <= 31
        && rest.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    well_formed && !name.starts_with(b"systemd-") && POWERFUL.iter().all(|power| power.as_bytes() != name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_host_are_refused() {
        for number in [0, 1, 99, 999, 1_000, 60_000, 61_184, 65_519, 65_534, 65_535, u32::MAX - 1, u32::MAX] {
            assert!(!is_assignable(number), "{number}");
        }
        for number in [65_536, 1_900_000_000, 4_000_000_000, u32::MAX - 2] {
            assert!(is_assignable(number), "{number}");
        }
    }

    #[test]
    fn names_of_power_and_malformed_names_are_refused() {
        for name in [
            "sudo",
            "wheel",
            "root",
            "docker",
            "shadow",
            "systemd-journal",
            "",
            "-x",
            "9x",
            "Alice",
            "a b",
            "a:b",
            "a.b",
        ] {
            assert!(!is_name(name.as_bytes()), "{name}");
        }
        assert!(!is_name(&[b'a'; 33]) && is_name(&[b'a'; 32]));
        assert!(is_name(b"alice") && is_name(b"_svc-1") && !is_name(b"al\xffice") && !is_name(b"a\0b"));
    }
}
