//! Which names and numbers this module ever speaks for, whatever the snapshot says.
//!
//! Refuses the numbers that distributions give away (system users, `nobody`, dynamic users) and the two that mean "none", and
//! names that mean power on some distribution: a realm that could make a group `sudo` would be root on every host (CVE-2025-49012
//! in a peer). Numbers that this very host has given away, to containers for instance, are in its own files (see `local`).

/// The least number that a realm can give (`docs/spec/replay.md`, uid-base).
const LEAST: u32 = 65_536;

/// The two greatest mean "no user".
const END: u32 = 0xffff_fffe;

/// Names that a host, its image or its packages give power to: groups that own devices or sockets, and the first users of cloud
/// images, whose lines in sudoers outlive them. Those that exist on the host are found there; these are refused also where they do not
/// exist (yet, or any more). A host adds its own with `refuse` in nss.conf.
const POWERFUL: [&str; 73] = [
    "_ssh",
    "adm",
    "admin",
    "almalinux",
    "audio",
    "azureuser",
    "backup",
    "bin",
    "bluetooth",
    "cdrom",
    "centos",
    "cloud-user",
    "core",
    "countersign",
    "crontab",
    "daemon",
    "debian",
    "dialout",
    "disk",
    "docker",
    "ec2-user",
    "fedora",
    "floppy",
    "google-sudoers",
    "incus",
    "incus-admin",
    "input",
    "kmem",
    "kvm",
    "libvirt",
    "libvirtd",
    "lp",
    "lpadmin",
    "lxd",
    "mail",
    "messagebus",
    "microk8s",
    "netdev",
    "network",
    "nobody",
    "nogroup",
    "opc",
    "operator",
    "pi",
    "plugdev",
    "polkitd",
    "power",
    "render",
    "rocky",
    "root",
    "sgx",
    "shadow",
    "ssh",
    "ssh_keys",
    "sshd",
    "ssl-cert",
    "staff",
    "storage",
    "sudo",
    "sys",
    "tape",
    "tss",
    "tty",
    "ubuntu",
    "users",
    "utmp",
    "uucp",
    "vagrant",
    "vboxusers",
    "video",
    "wheel",
    "wireshark",
    "www-data",
];

/// Whether a realm may have given this number to a user or group.
#[must_use]
pub fn is_assignable(number: u32) -> bool {
    (LEAST..END).contains(&number)
}

/// `[a-z_][a-z0-9_-]{0,31}`.
pub(crate) fn is_well_formed(name: &[u8]) -> bool {
    let Some((first, rest)) = name.split_first() else { return false };
    matches!(first, b'a'..=b'z' | b'_')
        && rest.len() <= 31
        && rest.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

/// Whether this can be the name of a ledger user or group on any host: well-formed, and no name of power.
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    is_well_formed(name) && !name.starts_with(b"systemd-") && POWERFUL.iter().all(|power| power.as_bytes() != name)
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
            "ubuntu",
            "ec2-user",
            "google-sudoers",
            "_ssh",
            "www-data",
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
