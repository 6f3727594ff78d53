//! The helper's programs and the earlier command, as files: who could replace them, who may run and read them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

use crate::asked::Asked;
use crate::code::Code;
use crate::commands::{Helper, KEYS};
use crate::elf::Elf;
use crate::finding::Finding;
use crate::trust::{Fault, OTHER_USER_OR_GROUP, Who, fault};

const READ_BY_OTHERS: u32 = 0o044;

/// Everything about the programs of one command.
pub(crate) fn judge(asked: &Asked<'_>, setting: &str, helper: &Helper, user: Option<&(String, Who)>) -> Vec<Finding> {
    let mut found = Vec::new();
    let program = &helper.program;
    match fault(program) {
        None => {}
        Some(fault) => {
            let code = match fault {
                Fault::Missing(..) | Fault::Type => Code::HelperMissing,
                Fault::RootsGroup(..) => Code::HelperGroupWritable,
                _ => Code::HelperUnsafe,
            };
            let change = fault.change(program);
            found.push(asked.finding(code, setting, format!("{}: {fault}", program.display())).change(change));
            if code == Code::HelperMissing {
                return found;
            }
        }
    }
    if let Some((name, who)) = user
        && let Some((text, change)) = not_run_by(program, name, *who)
    {
        found.push(asked.finding(Code::HelperNotExecutable, setting, text).change(change));
    }
    if Elf::read(program).is_none_or(|elf| elf.is_dynamic) {
        let text = format!("{}: no static program", program.display());
        let change = "install the program that .ci/login-path builds, or the package's";
        found.push(asked.finding(Code::HelperDynamic, setting, text).change(change));
    }
    if let Some(chain) = &helper.chain {
        earlier(asked, helper, chain, user, &mut found);
    }
    found
}

/// Why this user cannot run it, and what changes that.
fn not_run_by(program: &Path, name: &str, who: Who) -> Option<(String, String)> {
    if let Some((part, mode)) = who.is_kept_from(program, 1) {
        let text = format!("{} (mode {mode:04o}) does not let {name} through to run it", part.display());
        return Some((text, format!("chmod a+x {}", part.display())));
    }
    let is_noexec = statvfs(program).is_ok_and(|system| system.flags().contains(FsFlags::ST_NOEXEC));
    is_noexec.then(|| {
        let text = format!("{} lies on a file system that is mounted noexec", program.display());
        (text, "install it elsewhere, or mount that without noexec".to_owned())
    })
}

fn earlier(
    asked: &Asked<'_>,
    helper: &Helper,
    chain: &[String],
    user: Option<&(String, Who)>,
    found: &mut Vec<Finding>,
) {
    let with_chain = helper.program.with_file_name("countersign-sshd-chain");
    let mut missing = fault(&with_chain)
        .filter(|fault| !matches!(fault, Fault::RootsGroup(..)))
        .map(|fault| (format!("{}: {fault}", with_chain.display()), fault.change(&with_chain)));
    if missing.is_none() {
        missing = user.and_then(|(name, who)| not_run_by(&with_chain, name, *who));
    }
    if let Some((text, change)) = missing {
        found.push(asked.finding(Code::ChainMissing, KEYS, text).change(change));
    }
    for program in [&helper.program, &with_chain] {
        let mode = fs::metadata(program).map_or(0, |metadata| metadata.mode() & 0o7777);
        if mode & READ_BY_OTHERS != 0 {
            let text = format!("{}: mode {mode:04o}, expected 0711", program.display());
            let change = format!("chmod 0711 {}", program.display());
            found.push(asked.finding(Code::HelperReadable, KEYS, text).change(change));
        }
    }
    let Some(program) = chain.first().map(Path::new) else { return };
    let shown = program.display();
    let unsafe_because = match fault(program) {
        Some(Fault::Missing(_, error)) => {
            let text = format!("{shown}: {error}");
            let change = format!("{KEYS} without --chain and what follows it, or the program's right path");
            found.push(asked.finding(Code::ChainFailed, KEYS, text).change(change));
            return;
        }
        Some(fault) => Some((format!("{shown}: {fault}"), fault.change(program))),
        None if fs::canonicalize(program).is_ok_and(|real| real != program) => {
            let real = fs::canonicalize(program).map_or_else(|_| String::new(), |real| real.display().to_string());
            let change = format!("in {KEYS}: --chain {real}");
            Some((format!("{shown} has a link in it: it is {real}"), change))
        }
        None if fs::metadata(program).is_ok_and(|metadata| metadata.mode() & OTHER_USER_OR_GROUP != 0) => {
            let change = format!("name a script of root's that runs it, not {shown} itself");
            Some((format!("{shown} is setuid or setgid"), change))
        }
        None => None,
    };
    if let Some((text, change)) = unsafe_because {
        found.push(asked.finding(Code::ChainUnsafe, KEYS, text).change(change));
    } else if let Some((text, change)) = user.and_then(|(name, who)| not_run_by(program, name, *who)) {
        found.push(asked.finding(Code::ChainFailed, KEYS, text).change(change));
    }
}
