//! What the fuzz targets try, one module each, and what must hold whatever the bytes are. `try_on` panics where it does not: that is
//! what a fuzzer looks for, beside a crash of the code itself.
//!
//! Inputs come from whoever could send them: a client of sshd, a node, a block store, a device, a faulty disk. Where something is
//! *accepted*, a second way to the same answer must agree, so that the fuzzer finds forgeries and not only crashes.

pub mod argv;
pub mod authorized_keys;
pub mod certificate;
pub mod decision;
pub mod entry;
pub mod envelope;
pub mod header;
pub mod krl;
pub mod log_proof;
pub mod notes;
pub mod proof;
pub mod replay;
pub mod signature;
pub mod snapshot;

/// The realm of the login tests: one certificate that is good, one key that is.
#[path = "../../../authorized-keys-cmd/tests/login/support.rs"]
#[allow(dead_code, unreachable_pub, reason = "the login tests use more of it")]
mod world;

/// Logs as the replay tests write them.
#[path = "../../../registry/tests/replay/history.rs"]
#[allow(dead_code, unreachable_pub, reason = "the replay tests use more of it")]
mod history;
#[path = "../../../registry/tests/replay/support.rs"]
#[allow(dead_code, unreachable_pub, reason = "the replay tests use more of it")]
mod support;

/// The bytes of an even number of hexadecimal digits.
///
/// # Panics
/// Where they are not.
#[must_use]
pub fn hex(digits: &str) -> Vec<u8> {
    let digits = digits.trim_start_matches("0x");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
