//! SELinux, where it is enforced: that sshd may run the helper by its type, and the helper's files have one at all.

use std::fs;
use std::path::Path;

use crate::code::Code;
use crate::finding::{Finding, Report};
use crate::host::Host;

const ATTRIBUTE: &str = "security.selinux";

/// Looks at the programs and the snapshot.
pub(crate) fn examine(host: &Host, programs: &[&Path], snapshot: &Path, report: &mut Report) {
    let is_enforced = fs::read_to_string(host.selinux.join("enforce")).is_ok_and(|text| text.trim() == "1");
    if !is_enforced {
        return;
    }
    report.checked("selinux");
    for program in programs {
        let Some(kind) = type_of(program) else { continue };
        if !may_be_run(&kind) {
            let text = format!("its type is {kind}, expected bin_t");
            let shown = program.display();
            let change = format!("semanage fcontext -a -t bin_t '{shown}' && restorecon -v {shown}");
            report.find(Finding::new(Code::SelinuxType, shown.to_string(), text).change(change));
        }
    }
    let manifest = snapshot.join("access/manifest");
    let misplaced = ["unlabeled_t", "default_t", "tmp_t", "user_tmp_t", "user_home_t", "admin_home_t"];
    if let Some(kind) = type_of(&manifest).filter(|kind| misplaced.contains(&kind.as_str())) {
        let text = format!("its type is {kind}");
        let change = format!("restorecon -Rv {}", snapshot.display());
        report.find(Finding::new(Code::SelinuxType, manifest.display().to_string(), text).change(change));
    }
}

/// The third part of `user:role:type:level`; `unlabeled_t` where there is no label.
fn type_of(path: &Path) -> Option<String> {
    if !path.exists() {
        return None;
    }
    let mut value = [0_u8; 512];
    let length = rustix::fs::getxattr(path, ATTRIBUTE, &mut value[..]).ok();
    let kind = length.and_then(|length| type_in(value.get(..length)?));
    Some(kind.unwrap_or_else(|| "unlabeled_t".to_owned()))
}

fn type_in(label: &[u8]) -> Option<String> {
    let label = String::from_utf8_lossy(label).into_owned();
    Some(label.trim_end_matches('\0').split(':').nth(2)?.to_owned())
}

/// What every confined service may run; and the entry points of programs.
fn may_be_run(kind: &str) -> bool {
    kind == "bin_t" || kind.ends_with("_exec_t")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_from_labels_and_judged() {
        let kind = |label: &[u8]| type_in(label).unwrap();
        assert!(may_be_run(&kind(b"system_u:object_r:bin_t:s0\0")));
        assert!(may_be_run(&kind(b"system_u:object_r:sshd_exec_t:s0-s0:c0.c1023")));
        for label in
            [b"system_u:object_r:lib_t:s0\0".as_slice(), b"unconfined_u:object_r:user_home_t:s0", b"a:b:binx_t"]
        {
            assert!(!may_be_run(&kind(label)));
        }
        assert_eq!(type_in(b"nonsense"), None);
    }
}
