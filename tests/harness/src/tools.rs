//! Where the tools are that `.ci/tools` and `.ci/geth` install.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The folder that they fill: what `COUNTERSIGN_TOOLS` names, else `.tools` in the workspace.
#[must_use]
pub fn folder() -> PathBuf {
    let workspace =
        || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/harness lies in the workspace");
    env::var_os("COUNTERSIGN_TOOLS").map_or_else(|| workspace().join(".tools"), PathBuf::from)
}

/// A native tool of Foundry's npm packages: `anvil`, `cast` or `forge`.
#[must_use]
pub fn foundry(name: &str) -> PathBuf {
    let architecture = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("no {name} for {other}"),
    };
    let path = folder().join(format!("node_modules/@foundry-rs/{name}-linux-{architecture}/bin/{name}"));
    assert!(path.is_file(), "{} is missing: run .ci/tools", path.display());
    path
}

/// The second client: what `COUNTERSIGN_GETH` names, else what `.ci/geth` has built.
#[must_use]
pub fn geth() -> PathBuf {
    let path = env::var_os("COUNTERSIGN_GETH").map_or_else(|| folder().join("bin/geth"), PathBuf::from);
    assert!(path.is_file(), "{} is missing: run .ci/geth", path.display());
    path
}
