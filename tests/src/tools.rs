//! Where the tools and our own binaries are. Binaries are built by the same cargo, into the same target folder as the tests, before
//! the first scenario enters its bed.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Packages whose binaries scenarios run.
const PACKAGES: [&str; 5] =
    ["countersign-sshd", "countersign-nss", "countersign-agent", "countersign-issuer", "countersign"];

/// The checkout.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// The folder with this profile's binaries.
#[must_use]
pub fn target_folder() -> PathBuf {
    if let Some(folder) = env::var_os("COUNTERSIGN_TARGET") {
        return folder.into();
    }
    let program = env::current_exe().expect("the path of this test program");
    program.ancestors().nth(2).expect("test programs lie in target/PROFILE/deps").to_owned()
}

/// The folder that `.ci/tools` fills.
#[must_use]
pub fn tools_folder() -> PathBuf {
    env::var_os("COUNTERSIGN_TOOLS").map_or_else(|| workspace().join(".tools"), PathBuf::from)
}

/// A native tool of Foundry's npm packages: `anvil`, `cast` or `forge`.
///
/// # Panics
/// Where it is not installed.
#[must_use]
pub fn foundry(name: &str) -> PathBuf {
    let package = format!("node_modules/@foundry-rs/{name}-linux-{}/bin/{name}", architecture());
    let path = tools_folder().join(package);
    assert!(path.is_file(), "{name} is not at {}: run .ci/tools", path.display());
    path
}

fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("no anvil for {other}"),
    }
}

/// A binary of this workspace.
///
/// # Panics
/// Where it is not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let path = target_folder().join(name);
    assert!(
        path.is_file(),
        "{} is not built: cargo build {}",
        path.display(),
        PACKAGES.map(|p| format!("-p {p}")).join(" ")
    );
    path
}

/// The helper: the one that `COUNTERSIGN_HELPER` names, such as the static one that is shipped, else this workspace's build.
///
/// # Panics
/// Where it is not there.
#[must_use]
pub fn helper() -> PathBuf {
    let Some(path) = env::var_os("COUNTERSIGN_HELPER").map(PathBuf::from) else { return binary("countersign-sshd") };
    assert!(path.is_file(), "COUNTERSIGN_HELPER: {} is not there", path.display());
    path
}

/// The name service module: the one that `COUNTERSIGN_NSS` names, such as the one that is shipped, else this workspace's build.
///
/// # Panics
/// Where it is not there.
#[must_use]
pub fn name_service() -> PathBuf {
    let Some(path) = env::var_os("COUNTERSIGN_NSS").map(PathBuf::from) else { return binary("libnss_countersign.so") };
    assert!(path.is_file(), "COUNTERSIGN_NSS: {} is not there", path.display());
    path
}

/// Builds our binaries, once per test program, so that scenarios never run old ones; `COUNTERSIGN_BUILT=1` says that the caller
/// has just done so.
///
/// # Panics
/// Where they do not build.
pub fn build() {
    static BUILT: OnceLock<()> = OnceLock::new();
    if env::var_os("COUNTERSIGN_BUILT").is_some_and(|built| built == "1") {
        return;
    }
    BUILT.get_or_init(|| {
        let target = target_folder();
        let profile = match target.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--quiet", "--profile", profile, "--target-dir"])
            .arg(target.parent().expect("target/PROFILE"));
        for package in PACKAGES {
            cargo.args(["-p", package]);
        }
        // What cargo tells its own children about this package would make build scripts that watch it run again, every time.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
                cargo.env_remove(&name);
            }
        }
        let status = cargo.current_dir(workspace()).status().expect("cargo is not installed");
        assert!(status.success(), "the binaries do not build");
    });
}
