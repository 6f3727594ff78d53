//! `countersign doctor` on a host with a real sshd: logins that are tried, and Countersign switched on and off.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a scenario: a failure is its result")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{
    cli, in_bed, machine,
    machine::{HELPER, KeyFile},
    process::{self, Background},
    story::{Setup, Story},
    tools, wait,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// The harness's own sshd asks the helper; the host's does not, at first.
const SCENARIO: &str = "/etc/ssh/sshd_config.scenario";
const FOLDER: &str = "/etc/ssh/sshd_config.d";
const DROP_IN: &str = "/etc/ssh/sshd_config.d/00-countersign.conf";
const BEFORE: &str = "/var/lib/countersign/doctor/before.json";
const TRIAL: &str = "/run/countersign-doctor.sshd_config";

/// What doctor says, whatever its exit code.
fn doctor(arguments: &[&str]) -> Value {
    let output = cli::run(None, &[&["doctor"], arguments].concat());
    let told: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let is_well = told["findings"].as_array().unwrap().is_empty()
        && told["not-checked"].as_array().is_none_or(|missed| missed.is_empty());
    assert_eq!(output.status, Some(if is_well { 0 } else { 1 }), "{output:?}");
    told
}

/// The findings about logins and switching, as `code about: first line found`.
fn findings(told: &Value) -> Vec<String> {
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let all = told["findings"].as_array().unwrap();
    let all = all.iter().map(|finding| {
        assert!(!text(finding, "consequence").is_empty(), "{finding}");
        format!("{} {}: {}", text(finding, "code"), text(finding, "about"), text(finding, "found"))
    });
    all.filter(|finding| {
        ["throwaway-", "helper-no-answer", "login-", "sshd-un", "sshd-out", "other-host-key", "switch-"]
            .iter()
            .any(|code| finding.starts_with(code))
    })
    .collect()
}

/// Exactly one finding about logins, which begins so.
fn one(told: &Value, begins: &str) {
    let found = findings(told);
    assert!(matches!(found.as_slice(), [only] if only.starts_with(begins)), "expected {begins}: {found:#?}");
}

fn credential<'a>(key: &'a str, certificate: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["--login", "deploy", "--identity", key];
    if !certificate.is_empty() {
        arguments.extend(["--certificate", certificate]);
    }
    arguments
}

/// A certificate of the story, and the arguments that name it.
struct Friend {
    key: String,
    certificate: String,
}

impl Friend {
    fn of(story: &Story) -> Self {
        let minted = story.mint().make();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        Self { key: text(&story.key.path), certificate: text(&minted.path) }
    }

    fn with<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&credential(&self.key, &self.certificate), more].concat()
    }
}

// On one chain and one host.
#[test]
fn doctor_tries_logins_and_switches_countersign_on_by_one_and_off_to_the_byte() {
    in_bed!(|| {
        let story = Story::begin(Setup::default());
        tries_logins_and_says_why_one_is_refused_or_a_stranger_gets_in(&story);
        switches_on_by_a_login_that_went_through_it_and_off_to_the_byte(&story);
    });
}

fn tries_logins_and_says_why_one_is_refused_or_a_stranger_gets_in(story: &Story) {
    let friend = Friend::of(story);
    let scenario = ["--sshd-config", SCENARIO];

    let told = doctor(&friend.with(&scenario));
    assert_eq!(findings(&told), Vec::<String>::new());
    assert!(told["checked"].as_array().unwrap().contains(&"logins".into()), "{told}");

    // A key that nobody registered: the helper's own reason, and what the documentation says of it.
    let stranger = KeyFile::generate("stranger");
    let stranger = stranger.path.to_str().unwrap();
    let told = doctor(&[&credential(stranger, "")[..], &scenario].concat());
    let found = findings(&told);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("login-refused login deploy: key-unknown: the key is not registered\nreason="));
    assert!(found[1].starts_with("login-refused login deploy at sshd at 127.0.0.1:2222: "), "{found:#?}");
    let change = &told["findings"].as_array().unwrap().iter().find(|f| f["code"] == "login-refused").unwrap()["change"];
    assert_eq!(change, "register it, or use a certificate");

    // The helper is not where the configuration says.
    let config = fs::read_to_string(SCENARIO).unwrap();
    let variant = |name: &str, from: &str, to: &str| {
        let path = format!("/etc/ssh/sshd_config.{name}");
        assert!(config.contains(from));
        machine::write(&path, &config.replace(from, to), 0o600);
        path
    };
    let broken = variant("broken", HELPER, "/usr/lib/countersign/lost/countersign-sshd");
    let found = findings(&doctor(&["--sshd-config", &broken, "--login", "deploy"]));
    assert!(found.iter().all(|found| found.starts_with("helper-no-answer login ")), "{found:#?}");
    assert!(found[0].contains("AuthorizedKeysCommand \"/usr/lib/countersign/lost/countersign-sshd"), "{found:#?}");

    // A command that prints whatever key it is asked about.
    machine::write("/usr/lib/countersign/yes", "#!/bin/sh\necho \"$1 $2\"\n", 0o755);
    let yes = variant("yes", &format!("{HELPER} keys %u %U %t %k"), "/usr/lib/countersign/yes %t %k");
    let found = findings(&doctor(&["--sshd-config", &yes, "--login", "deploy"]));
    assert!(found.iter().any(|found| found.starts_with("throwaway-accepted login deploy: ")), "{found:#?}");
    assert!(found.iter().any(|found| found.starts_with("throwaway-accepted login root: ")), "{found:#?}");

    // The one that runs is another, or was started with another configuration, or does not run.
    let running =
        |begins: &str| one(&doctor(&[&scenario[..], &["--login", "deploy", "--port", "22"]].concat()), begins);
    let other = Host::start(&[]);
    running("other-host-key sshd at 127.0.0.1:22: ");
    drop(other);
    let key = story.sshd.known_hosts().with_file_name("ssh_host_ed25519_key");
    let other = Host::start(&["-o", &format!("HostKey={}", key.display())]);
    running("sshd-outdated sshd at 127.0.0.1:22: ");
    drop(other);
    running("sshd-unreachable sshd at 127.0.0.1:22: ");

    // Nothing of the trials is left, and nobody else can look.
    assert_eq!(fs::read_dir("/run/countersign-doctor").unwrap().count(), 0);
    assert_eq!(fs::metadata("/run/countersign-doctor").unwrap().permissions().mode() & 0o7777, 0o700);
    assert!(!fs::read_to_string("/proc/mounts").unwrap().contains("countersign-doctor"));
}

/// The host's own sshd, at its own port, by its own configuration.
struct Host {
    sshd: Background,
}

impl Host {
    fn start(options: &[&str]) -> Self {
        process::success(Command::new("ssh-keygen").arg("-A"));
        let sshd = Background::start("host's sshd", Command::new("/usr/sbin/sshd").arg("-D").args(options));
        wait::until("the host's sshd", || std::net::TcpStream::connect("127.0.0.1:22").ok());
        Self { sshd }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.sshd.pid()), signal).unwrap();
    }
}

/// Whether a key opens the host's sshd.
fn opens(key: &str, certificate: &str) -> bool {
    opens_to("deploy", key, certificate)
}

fn opens_to(login: &str, key: &str, certificate: &str) -> bool {
    let known = "/run/known_hosts";
    let line = fs::read_to_string("/etc/ssh/ssh_host_ed25519_key.pub").unwrap();
    machine::write(known, &format!("127.0.0.1 {line}"), 0o644);
    let mut ssh = client(key);
    ssh.arg("-o").arg(format!("UserKnownHostsFile={known}"));
    if !certificate.is_empty() {
        ssh.arg("-o").arg(format!("CertificateFile={certificate}"));
    }
    process::output(ssh.args([&format!("{login}@127.0.0.1"), "true"])).status == Some(0)
}

fn client(key: &str) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args([
        "-F",
        "none",
        "-T",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "IdentityAgent=none",
        "-i",
        key,
    ]);
    ssh
}

/// Every file that could be written, with its bytes and mode.
fn written() -> Vec<(PathBuf, Vec<u8>, u32)> {
    let mut files: Vec<PathBuf> = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.extend(["/etc/nsswitch.conf", "/etc/pam.d/sshd", "/etc/ssh/sshd_config"].map(PathBuf::from));
    files.sort();
    let mut all: Vec<_> = files
        .into_iter()
        .map(|path| {
            let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
            let bytes = fs::read(&path).unwrap_or_default();
            (path, bytes, mode)
        })
        .collect();
    for path in [BEFORE, TRIAL].map(PathBuf::from) {
        if path.exists() {
            all.push((path, Vec::new(), 0));
        }
    }
    all
}

/// A run of `--enable` beside the scenario, up to where its files are written and sshd, which is stopped, has not read them.
fn held_up(host: &Host, friend: &Friend) -> Background {
    host.signal(Signal::SIGSTOP);
    let mut doctor = Command::new(tools::binary("countersign"));
    doctor.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/root").args(["--format", "json", "doctor"]);
    let mut doctor = Background::start("doctor", doctor.args(friend.with(&["--enable", "--yes"])));
    doctor.wait_line("have sshd, process ");
    doctor
}

fn switches_on_by_a_login_that_went_through_it_and_off_to_the_byte(story: &Story) {
    let friend = Friend::of(story);
    let old = KeyFile::generate("old");
    let old_key = old.path.to_str().unwrap();
    machine::write("/home/deploy/.ssh/authorized_keys", &format!("{}\n", old.public_line()), 0o600);
    for path in ["/home/deploy/.ssh", "/home/deploy/.ssh/authorized_keys"] {
        chown(path, Some(2001), Some(2001)).unwrap();
    }
    machine::write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\n", 0o644);
    let enable = friend.with(&["--enable", "--yes"]);
    let before = written();
    let host = Host::start(&["-o", "ForceCommand=/bin/false"]);

    // What is in the way, and nothing is written.
    let unchanged = |begins: &str, arguments: &[&str]| {
        let before = written();
        let told = doctor(arguments);
        one(&told, begins);
        assert_eq!((written(), &told["outcome"]), (before, &"refused".into()), "{told}");
    };
    symlink("/etc/shadow", DROP_IN).unwrap();
    unchanged("switch-untrusted /etc/ssh/sshd_config.d/00-countersign.conf: it is a link", &enable);
    fs::remove_file(DROP_IN).unwrap();
    machine::write(DROP_IN, "PermitRootLogin yes\n", 0o644);
    unchanged("switch-untrusted /etc/ssh/sshd_config.d/00-countersign.conf: a file of this name", &enable);
    fs::remove_file(DROP_IN).unwrap();
    fs::set_permissions(FOLDER, Permissions::from_mode(0o777)).unwrap();
    unchanged(
        "switch-untrusted /etc/ssh/sshd_config.d/00-countersign.conf: /etc/ssh/sshd_config.d: expected a folder",
        &enable,
    );
    fs::set_permissions(FOLDER, Permissions::from_mode(0o755)).unwrap();
    machine::write("/etc/ssh/sshd_config.d/00-a.conf", "AuthorizedKeysFile .ssh/authorized_keys\n", 0o644);
    unchanged("switch-without-effect AuthorizedKeysFile in /etc/ssh/sshd_config: ", &enable);
    let password = "Match User *\n    PasswordAuthentication yes\n    AuthenticationMethods publickey password\n";
    machine::write("/etc/ssh/sshd_config.d/00-a.conf", password, 0o644);
    let open = written();
    let told = doctor(&enable);
    assert_eq!((written(), &told["outcome"]), (open, &"refused".into()), "{told}");
    assert_eq!(told["findings"][0]["code"], "other-methods", "{told}");
    fs::remove_file("/etc/ssh/sshd_config.d/00-a.conf").unwrap();
    unchanged(
        "login-refused login deploy: key-unknown: ",
        &[&credential(old_key, "")[..], &["--enable", "--yes"]].concat(),
    );
    fs::rename(HELPER, "/usr/lib/countersign/away").unwrap();
    let told = doctor(&enable);
    assert_eq!((written(), &told["outcome"]), (before.clone(), &"refused".into()), "{told}");
    fs::rename("/usr/lib/countersign/away", HELPER).unwrap();
    let asked = cli::run(None, &[&["doctor"], &friend.with(&["--enable"])[..]].concat());
    assert_eq!((asked.status, written()), (Some(2), before.clone()), "{asked:?}");

    // The trial goes well, and the one that runs has an option that the trial cannot know.
    let told = doctor(&enable);
    let found = findings(&told);
    assert!(found[0].starts_with("login-broken the last login: it was let in, and `true` did not run: "), "{found:#?}");
    assert!(found[1].starts_with("switch-taken-back this host: "), "{found:#?}");
    assert_eq!((written(), &told["outcome"]), (before.clone(), &"taken-back".into()));
    drop(host);

    // From here on a session of before goes on through everything.
    let host = Host::start(&[]);
    assert!(opens(old_key, "") && !opens(&friend.key, &friend.certificate));
    let mut session = client(old_key);
    session.args(["-o", "UserKnownHostsFile=/run/known_hosts", "deploy@127.0.0.1", "echo here; exec sleep 1000"]);
    let mut session = Background::start("session", &mut session);
    session.wait_line("here");

    // Killed where nothing can be done about it: a boot brings back what was, and so does --disable.
    let killed = held_up(&host, &friend);
    unchanged("switch-busy /var/lib/countersign/doctor: another", &["--disable", "--yes"]);
    kill(Pid::from_raw(killed.pid()), Signal::SIGKILL).unwrap();
    drop(killed);
    host.signal(Signal::SIGCONT);
    one(&doctor(&["--no-login"]), "switch-unfinished /var/lib/countersign/doctor/before.json: ");
    unchanged("switch-unfinished /var/lib/countersign/doctor/before.json: ", &enable);
    let settings = |name: &str| {
        let all = process::success(Command::new("/usr/sbin/sshd").arg("-T"));
        all.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned())).unwrap()
    };
    assert_eq!(settings("authorizedkeysfile "), "none");
    fs::rename(TRIAL, "/run/elsewhere").unwrap();
    assert_eq!(settings("authorizedkeysfile "), ".ssh/authorized_keys .ssh/authorized_keys2");
    fs::rename("/run/elsewhere", TRIAL).unwrap();
    assert_eq!(doctor(&["--disable", "--yes"])["outcome"], "disabled");
    assert_eq!(written(), before);
    assert!(opens(old_key, ""));
    assert_eq!(doctor(&["--disable", "--yes"])["outcome"], "nothing-to-do");

    // Told to end in the same moment, it takes everything back itself.
    let mut ended = held_up(&host, &friend);
    kill(Pid::from_raw(ended.pid()), Signal::SIGTERM).unwrap();
    host.signal(Signal::SIGCONT);
    let status = wait::until("doctor to end", || ended.ended());
    assert_eq!((status.code(), written()), (Some(1), before.clone()), "{:?}", ended.lines());
    assert!(ended.lines().iter().any(|line| line.contains("taken-back")), "{:?}", ended.lines());

    // Switched on: the ledger decides, and with it PAM's hook and the name service.
    machine::install_name_service();
    machine::write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\n", 0o644);
    machine::write("/etc/countersign/breakglass.keys", &format!("{}\n", old.public_line()), 0o644);
    let everything = ["--enable", "--yes", "--accounts", "--sessions", "--break-glass", "rescue", "--keep-earlier"];
    // What sshd asked before goes on behind ours, for whom the realm has nothing: where somebody has said so.
    machine::add_user("operator", 2005);
    let script = format!("#!/bin/sh\n[ \"$1\" != operator ] || echo '{}'\n", old.public_line());
    machine::write("/usr/lib/countersign/earlier", &script, 0o755);
    let lines = "AuthorizedKeysCommand /usr/lib/countersign/earlier %u\nAuthorizedKeysCommandUser nobody\n";
    machine::write("/etc/ssh/sshd_config.d/50-earlier.conf", lines, 0o644);
    let before = written();
    unchanged(
        "switch-earlier-command AuthorizedKeysCommand: sshd asks /usr/lib/countersign/earlier %u so far (as nobody)",
        &friend.with(everything.split_last().unwrap().1),
    );
    let told = doctor(&friend.with(&everything));
    assert_eq!((&told["outcome"], told["files"].as_array().unwrap().len()), (&"enabled".into(), 3), "{told}");
    assert!(opens(&friend.key, &friend.certificate) && !opens(old_key, ""));
    assert!(opens_to("operator", old_key, ""));
    let drop_in = fs::read_to_string(DROP_IN).unwrap();
    assert!(drop_in.contains(" keys %u %U %t %k --chain /usr/lib/countersign/earlier %u\n"), "{drop_in}");
    assert!(
        drop_in.ends_with("Match User rescue\n    AuthorizedKeysFile /etc/countersign/breakglass.keys\n"),
        "{drop_in}"
    );
    assert_eq!(
        fs::read_to_string("/etc/nsswitch.conf").unwrap(),
        "passwd: files countersign\ngroup: files countersign\nshadow: files\n"
    );
    assert!(!Path::new(TRIAL).exists());
    assert_eq!(findings(&doctor(&friend.with(&[]))), Vec::<String>::new());

    // Switched off: what somebody else has changed since is left, and named.
    let nsswitch = fs::read_to_string("/etc/nsswitch.conf").unwrap();
    machine::write("/etc/nsswitch.conf", &format!("{nsswitch}hosts: files\n"), 0o644);
    let told = doctor(&["--disable", "--yes"]);
    one(&told, "switch-stuck /etc/nsswitch.conf: somebody has changed it since");
    assert_eq!(told["outcome"], "stuck");
    assert!(opens(old_key, "") && !Path::new(DROP_IN).exists());
    machine::write("/etc/nsswitch.conf", &nsswitch, 0o644);
    let told = doctor(&["--disable", "--yes", "--port", "4022"]);
    one(&told, "switch-stuck sshd at 127.0.0.1:4022: no sshd listens there");
    assert_eq!(told["outcome"], "stuck");
    assert_eq!(doctor(&["--disable", "--yes"])["outcome"], "disabled");
    assert_eq!(written(), before);
    assert!(session.ended().is_none(), "the session of before has ended");
}
