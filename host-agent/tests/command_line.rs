//! The program as systemd and people run it: exit codes, exact errors, notification, signals, one instance.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use countersign_certificate::Id;
use countersign_registry::shard;
use countersign_snapshot::Denial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{HostFiles, World, key_lock};

fn agent(host: &HostFiles, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign-agent"));
    command.args(arguments).arg("--config").arg(host.path("agent.toml")).stdin(Stdio::null());
    command.env_remove("NOTIFY_SOCKET").env_remove("COUNTERSIGN_AGENT_CONFIG");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Exit code, standard output and standard error.
fn ended(output: &Output) -> (Option<i32>, String, String) {
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn check_config_accepts_what_works_and_names_the_one_thing_that_does_not() {
    let world = World::new().await;
    let host = HostFiles::new(&world, Id([1; 16]), "");
    let root = host.directory.path().display().to_string();
    let check = || ended(&agent(&host, &["check-config"]).output().unwrap());
    assert_eq!(check(), (Some(0), format!("{root}/agent.toml: good\n"), String::new()));

    let good = std::fs::read_to_string(host.path("agent.toml")).unwrap();
    let device = "[device]\nledger-key = \"ROOT/k\"\nledger-password-file = \"ROOT/p\"\nsealing-key = \"ROOT/x\"\n";
    let cases = [
        (
            "allow-roots = true\n",
            "ROOT/agent.toml:5: unknown field `allow-roots`, expected one of `realm-file`, `host`, `state-dir`, \
             `snapshot-dir`, `group`, `poll-interval-ms`, `max-staleness-secs`, `allow-root`, `plain-sshd`, `sessions`, `earlier-command`, \
             `device`, `block-store`, \
             `payload`\nhint: countersign-agent(8) lists the fields, docs/examples/agent.toml shows them\n"
                .to_owned(),
        ),
        (
            "group = \"root\"\n",
            "ROOT/agent.toml:5: duplicate key `group`\n\
             hint: countersign-agent(8) lists the fields, docs/examples/agent.toml shows them\n"
                .to_owned(),
        ),
        (
            "snapshot-dir = \"ROOT/open/snapshot\"\n",
            "ROOT/agent.toml: snapshot-dir: ROOT/open may be written by others (mode 0777)\nhint: chmod go-w ROOT/open\n"
                .to_owned(),
        ),
        (
            device,
            "device: ledger-password-file: ROOT/p may be read by others (mode 0644)\nhint: chmod go= ROOT/p\n".to_owned(),
        ),
    ];
    std::fs::create_dir(host.path("open")).unwrap();
    std::fs::set_permissions(host.path("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["k", "x"] {
        support::write_private(&host.path(name), "opened after the password");
    }
    std::fs::write(host.path("p"), "secret").unwrap();
    std::fs::set_permissions(host.path("p"), std::fs::Permissions::from_mode(0o644)).unwrap();
    for (lines, message) in cases {
        std::fs::write(host.path("agent.toml"), format!("{good}{}", lines.replace("ROOT", &root))).unwrap();
        assert_eq!(check(), (Some(1), String::new(), format!("error: {}", message.replace("ROOT", &root))), "{lines}");
    }

    std::fs::write(host.path("agent.toml"), good.replace("group = \"root\"", "group = \"no-such-group\"")).unwrap();
    let message = "error: group \"no-such-group\": not found (it is made when the package is installed)\n\
                   hint: groupadd --system no-such-group, or name another group\n";
    assert_eq!(check(), (Some(1), String::new(), message.to_owned()));

    std::fs::write(host.path("agent.toml"), &good).unwrap();
    std::fs::set_permissions(host.path("realm.toml"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let message =
        format!("error: {root}/realm.toml may be written by others (mode 0666)\nhint: chmod go-w {root}/realm.toml\n");
    assert_eq!(check(), (Some(1), String::new(), message));
}

#[tokio::test]
async fn check_config_finds_owners_groups_directories_and_programs_that_are_not_there() {
    let world = World::new().await;
    world.anvil.mine(3).await;
    let host = HostFiles::new(&world, Id([1; 16]), "");
    let root = host.directory.path().display().to_string();
    let good = std::fs::read_to_string(host.path("agent.toml")).unwrap();
    support::write_private(&host.path("p"), "password");
    countersign_chain::keys::ActorKey::from_hex(support::DEVICE_KEY)
        .unwrap()
        .store(&host.path("k"), "password")
        .unwrap();
    countersign_delivery::SecretKey::generate().unwrap().create_file(&host.path("x")).unwrap();
    std::fs::create_dir(host.path("blocks")).unwrap();
    let device = "[device]\nledger-key = \"ROOT/k\"\nledger-password-file = \"ROOT/p\"\nsealing-key = \"ROOT/x\"\n\
                  [[block-store]]\ndirectory = \"ROOT/blocks\"\n[[payload]]\nname = \"deploy\"\n";
    let cases = [
        (
            "path = \"ROOT/key\"\nowner = \"nobody-here\"\n",
            "payload deploy: owner: no user \"nobody-here\" on this host\n\
             hint: countersign-agent(8) lists the fields, docs/examples/agent.toml shows them",
        ),
        (
            "path = \"ROOT/key\"\ngroup = \"nobody-here\"\n",
            "payload deploy: group: no group \"nobody-here\" on this host\n\
             hint: countersign-agent(8) lists the fields, docs/examples/agent.toml shows them",
        ),
        (
            "path = \"ROOT/none/key\"\n",
            "payload deploy: path: cannot open ROOT/none: No such file or directory (os error 2)",
        ),
        (
            "path = \"ROOT/key\"\nreload = [\"/no/program\"]\n",
            "payload deploy: reload: cannot run /no/program: No such file or directory (os error 2)",
        ),
    ];
    for (lines, message) in cases {
        let lines = format!("{device}{lines}").replace("ROOT", &root);
        std::fs::write(host.path("agent.toml"), format!("{good}{lines}")).unwrap();
        let message = format!("error: {root}/agent.toml: {}\n", message.replace("ROOT", &root));
        let output = agent(&host, &["check-config"]).output().unwrap();
        assert_eq!(ended(&output), (Some(1), String::new(), message), "{lines}");
        // A service that owns such a directory, or a directory server that is late, does not keep everybody out of the host.
        let (code, _, log) = ended(&agent(&host, &["once"]).output().unwrap());
        assert_eq!(code, Some(0), "{lines}: {log}");
        assert!(log.contains("reason=delivery-setting ") && log.contains("event=published"), "{log}");
    }
}

#[tokio::test]
async fn once_and_status_exit_0_when_the_snapshot_is_fresh_and_1_when_it_is_not() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "");
    let output = agent(&host, &["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let root = host.directory.path().display();
    assert_eq!(
        text(&output.stderr),
        format!(
            "error: cannot open {root}/state: No such file or directory (os error 2)\n\
             hint: countersign-agent run, or once, writes it\n"
        )
    );

    let output = agent(&host, &["once"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "", "standard output is for data only");
    assert!(text(&output.stderr).starts_with("event=published generation=1 block="), "{}", text(&output.stderr));

    let output = agent(&host, &["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let shown = text(&output.stdout);
    assert!(shown.contains("snapshot      generation 1, fresh for "), "{shown}");
    assert!(shown.contains("last failure  never\n"), "{shown}");
    let output = agent(&host, &["status", "--format", "json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["fresh"], true);
    assert_eq!(json["host"], records.host.to_string());

    drop(world);
    let output = agent(&host, &["once"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let status = agent(&host, &["status"]).output().unwrap();
    assert_eq!(status.status.code(), Some(0), "the snapshot still counts");
    assert!(text(&status.stdout).contains("failing       1 times, last "), "{}", text(&status.stdout));
    let manifest = host.path("state/snapshot/access/manifest");
    std::fs::set_permissions(&manifest, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::remove_file(host.path("state/snapshot/accounts/manifest")).unwrap();
    let status = agent(&host, &["status"]).output().unwrap();
    assert_eq!(status.status.code(), Some(1));
    assert!(text(&status.stdout).contains("snapshot      generation 2, not usable: "), "{}", text(&status.stdout));
    assert!(text(&output.stderr).contains("\nerror: endpoints-silent: http://127.0.0.1:"), "{}", text(&output.stderr));
    assert_eq!(agent(&host, &["no-such-command"]).output().unwrap().status.code(), Some(2));
}

/// A supervised agent, as systemd runs one.
struct Service {
    child: Child,
    socket: UnixDatagram,
}

impl Service {
    fn start(host: &HostFiles) -> Self {
        let path = host.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let child = agent(host, &["run"])
            .env("NOTIFY_SOCKET", Path::new(&path))
            .env("JOURNAL_STREAM", "1:1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, socket }
    }

    /// Waits for a notification that has this in it, and returns it.
    fn notified(&self, wanted: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            let length = self.socket.recv(&mut bytes).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
            let message = text(&bytes[..length]);
            if message.contains(wanted) {
                return message;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn run_tells_systemd_of_each_cycle_publishes_revocations_and_stops_cleanly() {
    let world = World::new().await;
    let records = world.populate().await;
    let host = HostFiles::new(&world, records.host, "poll-interval-ms = 100\n");
    let service = Service::start(&host);
    let ready = service.notified("READY=1");
    assert!(ready.contains(" published"), "{ready}");
    assert_eq!(host.snapshot().key_revoked(records.key).unwrap(), None);

    let output = agent(&host, &["once"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let holder = format!("another agent (pid {}) is running on this state directory\n", service.child.id());
    assert!(text(&output.stderr).ends_with(&holder), "{}", text(&output.stderr));

    world.append(shard::DENIALS, &key_lock(records.key)).await;
    let block = world.latest_number().await;
    service.notified(&format!("STATUS=block {block} published"));
    assert_eq!(host.snapshot().key_revoked(records.key).unwrap(), Some(Denial::Locked));

    // A wrong configuration is refused, a right one taken, without a restart.
    let good = std::fs::read_to_string(host.path("agent.toml")).unwrap();
    std::fs::write(host.path("agent.toml"), "nonsense").unwrap();
    service.signal(Signal::SIGHUP);
    service.notified("WATCHDOG=1");
    service.notified("WATCHDOG=1");
    std::fs::write(host.path("agent.toml"), format!("{good}max-staleness-secs = 30\n")).unwrap();
    service.signal(Signal::SIGHUP);
    while host.snapshot().manifest().freshness.max_staleness_secs != 30 {
        service.notified("WATCHDOG=1");
    }

    service.signal(Signal::SIGTERM);
    service.notified("STOPPING=1");
    let (code, log) = service_log(service);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.starts_with("<5>event=started version="), "{log}");
    assert!(log.contains("\n<3>event=reload-refused message="), "{log}");
    assert!(log.contains("\n<5>event=reloaded\n"), "{log}");
    assert!(log.ends_with("<5>event=stopped\n"), "{log}");
    // The lock ended with the process.
    assert_eq!(agent(&host, &["once"]).output().unwrap().status.code(), Some(0));
}

fn service_log(mut service: Service) -> (Option<i32>, String) {
    let mut log = String::new();
    service.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    (service.child.wait().unwrap().code(), log)
}

#[tokio::test]
async fn run_stops_at_once_although_an_endpoint_never_answers() {
    let mut world = World::new().await;
    // Takes connections, and nothing else.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    world.anvil.url = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let host = HostFiles::new(&world, Id([1; 16]), "");
    let service = Service::start(&host);
    // Connected: the agent waits for an answer.
    let _connection = silent.accept().unwrap();
    let asked = std::time::Instant::now();
    service.signal(Signal::SIGTERM);
    service.notified("STOPPING=1");
    let (code, log) = service_log(service);
    assert_eq!(code, Some(0), "{log}");
    assert!(asked.elapsed() < Duration::from_secs(5), "a call takes up to 10 s, stopping must not");
}
