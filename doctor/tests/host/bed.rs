//! A host of one's own: this thread's view of the file system, with everything in it that is right. Gone with the thread.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_certificate::{Id, RealmId};
use countersign_doctor::{Agent, Host, Report, examine};
use countersign_snapshot::{
    AccessTables, AccountsTables, BlockRef, Clock, Facts, Freshness, Gid, HostState, PublishInfo, Salt, publish,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

pub(crate) const HELPER: &str = "/usr/lib/countersign/countersign-sshd";
pub(crate) const CONFIG: &str = "/etc/ssh/sshd_config";
pub(crate) const SNAPSHOT: &str = "/var/lib/countersign/snapshot";
pub(crate) const KEYS: &str = "AuthorizedKeysCommand /usr/lib/countersign/countersign-sshd keys %u %U %t %k\n";
pub(crate) const PRINCIPALS: &str =
    "AuthorizedPrincipalsCommand /usr/lib/countersign/countersign-sshd principals %u %U %t %k %i %s %K\n";
const HELPER_ID: u32 = 979;
const REALM: RealmId = RealmId([7; 32]);

/// The host. Files are written with their folders.
pub(crate) struct Bed {
    passwd: [(PathBuf, Vec<u8>); 3],
    pub(crate) host: Host,
    lock: Option<File>,
}

impl Bed {
    /// Overlays for this thread alone, so that `/etc`, `/usr` and `/var` may be written.
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "needs root, for a view of the file system of its own: sudo");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("bed"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        for folder in ["etc", "usr", "var"] {
            let (upper, work) = (format!("/run/bed/{folder}"), format!("/run/bed/{folder}.work"));
            fs::create_dir_all(&upper).unwrap();
            fs::create_dir_all(&work).unwrap();
            let options = format!("lowerdir=/{folder},upperdir={upper},workdir={work}");
            mount(
                Some("bed"),
                format!("/{folder}").as_str(),
                Some("overlay"),
                MsFlags::empty(),
                Some(options.as_str()),
            )
            .unwrap();
        }
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/bed_key"]));
        let passwd = ["/etc/passwd", "/etc/group", "/etc/shadow"].map(|path| (path.into(), fs::read(path).unwrap()));
        let agent = Agent {
            snapshot: SNAPSHOT.into(),
            state: "/var/lib/countersign".into(),
            group: "countersign".to_owned(),
            helper_user: "countersign".to_owned(),
            revoked_keys: Some("/etc/ssh/countersign.revoked".into()),
            ca_keys: None,
            ends_sessions: true,
            only_helper: false,
            problem: None,
        };
        let host = Host {
            agent: Ok(agent),
            nsswitch: "/etc/countersign/nsswitch.conf".into(),
            libraries: vec!["/usr/lib/countersign-libraries".into()],
            selinux: "/run/selinux".into(),
            journal: "/run/no-journal".into(),
            ..Host::default()
        };
        Self { passwd, host, lock: None }
    }

    /// Everything as it is meant to be, whatever was done to it before.
    pub(crate) fn mend(&mut self) {
        self.lock = None;
        fs::create_dir_all("/run/sshd").unwrap();
        fs::set_permissions("/run/sshd", Permissions::from_mode(0o755)).unwrap();
        for folder in [
            "/etc/countersign",
            "/usr/lib/countersign",
            "/usr/lib/countersign-libraries",
            "/var/lib/countersign",
            "/run/countersign",
            "/run/selinux",
        ] {
            if Path::new(folder).exists() {
                fs::remove_dir_all(folder).unwrap();
            }
        }
        for (path, bytes) in &self.passwd {
            fs::write(path, bytes).unwrap();
        }
        for (login, uid, shell) in
            [("countersign", HELPER_ID, "/usr/sbin/nologin"), ("deploy", 2001, "/bin/sh"), ("rescue", 2003, "/bin/sh")]
        {
            append("/etc/passwd", &format!("{login}:x:{uid}:{uid}::/nonexistent:{shell}\n"));
            append("/etc/group", &format!("{login}:x:{uid}:\n"));
            append("/etc/shadow", &format!("{login}:*:20000:0:99999:7:::\n"));
        }
        for name in ["", "-chain", "-session"] {
            write(&format!("{HELPER}{name}"), &static_program(), 0o711);
        }
        write("/etc/countersign/empty", b"", 0o644);
        write("/etc/countersign/cas", b"", 0o644);
        write("/etc/countersign/break-glass.keys", b"", 0o644);
        write("/etc/countersign/nsswitch.conf", b"passwd: files\ngroup: files\n", 0o644);
        write("/etc/pam.d/sshd", b"session optional pam_exec.so quiet /usr/lib/countersign/countersign-sshd-session\n@include common-session\n", 0o644);
        // Something else than a file may have been put there.
        let _ = fs::remove_file("/etc/ssh/countersign.revoked");
        let empty_krl = [b"SSHKRL\n\0\0\0\0\x01".as_slice(), &[0; 32]].concat();
        write("/etc/ssh/countersign.revoked", &empty_krl, 0o644);
        write(CONFIG, configuration().as_bytes(), 0o600);
        fs::create_dir_all("/run/countersign/offers").unwrap();
        chown("/run/countersign/offers", Some(HELPER_ID), Some(HELPER_ID)).unwrap();
        self.publish(|_, _| {});
        let lock = Path::new("/var/lib/countersign/agent.lock");
        fs::write(lock, format!("{}\n", std::process::id())).unwrap();
        self.lock = Some(File::open(lock).unwrap());
    }

    /// Publishes a snapshot of now, changed by `change`.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut AccessTables, &mut PublishInfo)) {
        let clock = Clock::now().unwrap();
        let block = BlockRef { number: 100, time_secs: clock.unix_secs };
        let mut info = PublishInfo {
            freshness: Freshness {
                valid_until_secs: clock.unix_secs.saturating_add(3_000),
                boot_id: clock.boot_id,
                boottime_secs: clock.boottime_secs,
                age_consumed_secs: 0,
                max_staleness_secs: 3_000,
                highest_wall_secs: clock.unix_secs,
            },
            facts: Facts {
                realm: REALM,
                host: Id([3; 16]),
                host_state: HostState::Active,
                require_logged: true,
                allow_root: false,
                pickup_secs: 600,
                max_ttl_secs: 3_600,
                latest_block: block,
                final_block: block,
            },
            salt: Salt([7; 16]),
            access_group: Some(Gid(HELPER_ID)),
            now_unix_secs: clock.unix_secs,
        };
        let mut access = AccessTables { granted_logins: vec!["deploy".to_owned()], ..AccessTables::default() };
        change(&mut access, &mut info);
        if Path::new(SNAPSHOT).exists() {
            fs::remove_dir_all(SNAPSHOT).unwrap();
        }
        for folder in [SNAPSHOT, "/var/lib/countersign"] {
            fs::create_dir_all(folder).unwrap();
            fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        }
        publish(Path::new(SNAPSHOT), &access, &AccountsTables::default(), &info).unwrap();
    }

    /// What the agent's configuration says.
    pub(crate) fn agent(&mut self) -> &mut Agent {
        self.host.agent.as_mut().unwrap()
    }

    /// The agent ends.
    pub(crate) fn stop_agent(&mut self) {
        self.lock = None;
    }

    pub(crate) fn examine(&self) -> Report {
        examine(&self.host)
    }
}

/// What the pages ask for, with a break-glass login.
fn configuration() -> String {
    format!(
        "HostKey /etc/ssh/bed_key\n\
         UsePAM yes\n\
         AuthenticationMethods publickey\n\
         {PRINCIPALS}AuthorizedPrincipalsCommandUser countersign\n\
         {KEYS}AuthorizedKeysCommandUser countersign\n\
         AuthorizedKeysFile none\n\
         AuthorizedPrincipalsFile /etc/countersign/empty\n\
         TrustedUserCAKeys /etc/countersign/cas\n\
         RevokedKeys /etc/ssh/countersign.revoked\n\
         Match User rescue\n    AuthorizedKeysFile /etc/countersign/break-glass.keys\n    RevokedKeys none\n"
    )
}

/// The header of a program without segments: enough for who looks at its form, and nothing that runs.
fn static_program() -> Vec<u8> {
    let mut header = fs::read("/usr/sbin/sshd").unwrap();
    header.truncate(64);
    header[56] = 0;
    header[57] = 0;
    header
}

pub(crate) fn write(path: &str, bytes: &[u8], mode: u32) {
    fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn append(path: &str, line: &str) {
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, text + line).unwrap();
}

pub(crate) fn replace(path: &str, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {path}:\n{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

pub(crate) fn chmod(path: &str, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
