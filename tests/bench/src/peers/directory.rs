//! A directory (slapd) with the people and their keys, and an sssd that asks it: set up as where keys are kept in a directory, but for
//! the network between them, and TLS.

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use super::people::People;
use crate::bed::{Server, succeed, wait_until};

const FOLDER: &str = "/run/bench-directory";
const URI: &str = "ldap://127.0.0.1:3890";
/// Classes of the people, and the attribute that keys are commonly kept in (OpenSSH-LPK).
const SLAPD: &str = "\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
attributetype ( 1.3.6.1.4.1.24552.500.1.1.1.13 NAME 'sshPublicKey' EQUALITY octetStringMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )
objectclass ( 1.3.6.1.4.1.24552.500.1.1.2.0 NAME 'ldapPublicKey' SUP top AUXILIARY MAY sshPublicKey )
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix dc=bench
directory /run/bench-directory
maxsize 8589934592
dbnosync
index objectClass,uid,uidNumber,gidNumber,memberUid,cn eq
";
const SSSD: &str = "\
[sssd]
services = nss, ssh
domains = bench
[nss]
[ssh]
[domain/bench]
id_provider = ldap
auth_provider = none
access_provider = permit
auto_private_groups = true
ldap_uri = ldap://127.0.0.1:3890
ldap_search_base = dc=bench
ldap_user_ssh_public_key = sshPublicKey
";

/// Both servers, ended when dropped.
pub struct Directory {
    _servers: [Server; 2],
}

impl Directory {
    /// Fills the directory and starts both; returns when keys are answered.
    ///
    /// # Errors
    /// Where one of them does not start, or does not answer in time.
    pub fn start(people: People) -> Result<Self, Box<dyn Error>> {
        let folder = Path::new(FOLDER);
        fs::create_dir_all(folder)?;
        let config = folder.join("slapd.conf");
        fs::write(&config, SLAPD)?;
        let entries = folder.join("people.ldif");
        fs::write(&entries, ldif(people)?)?;
        succeed(Command::new("slapadd").arg("-q").arg("-f").arg(&config).arg("-l").arg(&entries))?;
        let mut slapd = Command::new("slapd");
        slapd.arg("-f").arg(&config).args(["-h", URI, "-d", "0"]).stderr(Stdio::null());
        let slapd = Server::start(&mut slapd)?;

        fs::create_dir_all("/etc/sssd")?;
        fs::write("/etc/sssd/sssd.conf", SSSD)?;
        fs::set_permissions("/etc/sssd/sssd.conf", fs::Permissions::from_mode(0o600))?;
        let mut sssd = Command::new("sssd");
        let sssd = Server::start(sssd.args(["-i", "--logger=files"]).stderr(Stdio::null()))?;
        let directory = Self { _servers: [slapd, sssd] };
        let (mut ask, key) = (keys_of(&people.middle().name()), people.middle().key());
        wait_until("sss_ssh_authorizedkeys answers", || {
            ask.output().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&key))
        })?;
        Ok(directory)
    }
}

/// What sshd would run for this user.
#[must_use]
pub fn keys_of(name: &str) -> Command {
    let mut ask = Command::new("/usr/bin/sss_ssh_authorizedkeys");
    ask.arg(name).stderr(Stdio::null());
    ask
}

fn ldif(people: People) -> Result<String, std::fmt::Error> {
    let mut text = "dn: dc=bench\nobjectClass: dcObject\nobjectClass: organization\no: bench\ndc: bench\n\n".to_owned();
    for person in people.all() {
        let (name, uid) = (person.name(), person.uid());
        writeln!(
            text,
            "dn: uid={name},dc=bench\nobjectClass: account\nobjectClass: posixAccount\nobjectClass: ldapPublicKey\n\
             uid: {name}\ncn: Somebody\nuidNumber: {uid}\ngidNumber: {uid}\nhomeDirectory: /home/{name}\n\
             loginShell: /bin/bash\nsshPublicKey: ssh-ed25519 {}\n",
            person.key()
        )?;
    }
    for (gid, name, members) in people.teams() {
        writeln!(text, "dn: cn={name},dc=bench\nobjectClass: posixGroup\ncn: {name}\ngidNumber: {gid}")?;
        for member in members {
            writeln!(text, "memberUid: {member}")?;
        }
        text.push('\n');
    }
    Ok(text)
}
