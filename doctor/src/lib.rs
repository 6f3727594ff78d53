//! What is wrong with a host on which sshd asks Countersign's helper: each thing with a stable code, what follows from it, and the line
//! or command that mends it (`docs/doctor-codes.md`).
//!
//! It asks the programs and files that a login really meets: `sshd -T`, also for those to whom a `Match` applies, owners and modes as sshd
//! judges them, the snapshot by the helper's own reader, the lists by a strict parser. It changes nothing on the host, starts no daemon and
//! asks no network. What it cannot look at it names as not looked at: no finding is never for want of looking.

mod code;
mod finding;
mod host;
mod run;
mod sshd;

pub use code::Code;
pub use finding::{Finding, Report, Severity, Unchecked};
pub use host::{Agent, Host};
pub use sshd::{Effective, Spec, Version};

/// Looks at everything.
#[must_use]
pub fn examine(host: &Host) -> Report {
    let mut report = Report::default();
    if !nix::unistd::geteuid().is_root() {
        report.find(
            Finding::new(Code::NotRoot, "this program", "it does not run as root").change("sudo countersign doctor"),
        );
    }
    sshd::examine(host, &mut report);
    report
}
