//! Settings beside the two commands that let somebody in past the ledger, or keep out whom it lets in.

use std::fs;
use std::path::Path;

use crate::asked::Asked;
use crate::code::Code;
use crate::commands::keys_helper;
use crate::config::words;
use crate::finding::Finding;
use crate::pattern::{is_like, is_plain};
use crate::trust::{Fault, fault, fault_of_directory};

const KEYS_FILE: &str = "AuthorizedKeysFile";
const PRINCIPALS_FILE: &str = "AuthorizedPrincipalsFile";
const METHODS: &str = "AuthenticationMethods";
/// Beside public keys, each with the setting that switches it off.
const OTHER_METHODS: &[(&str, &str)] = &[
    ("password", "PasswordAuthentication"),
    ("keyboard-interactive", "KbdInteractiveAuthentication"),
    ("keyboard-interactive", "ChallengeResponseAuthentication"),
    ("gssapi-with-mic", "GSSAPIAuthentication"),
    // As Debian's and Red Hat's know it.
    ("gssapi-keyex", "GSSAPIAuthentication"),
    ("hostbased", "HostbasedAuthentication"),
    ("kerberos", "KerberosAuthentication"),
];
/// A client may offer the plain key before its certificate, and another key before both.
const FEWEST_TRIES: u64 = 3;

/// Everything that `Match` can change, and what stands for all.
pub(crate) fn judge(asked: &Asked<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    keys_file(asked, &mut found);
    principals_file(asked, &mut found);
    methods(asked, &mut found);
    algorithms(asked, &mut found);
    numbers(asked, &mut found);
    without_pam(asked, &mut found);
    // What is written QUIET is printed SILENT.
    if matches!(asked.get("LogLevel"), "SILENT" | "QUIET" | "FATAL" | "ERROR") {
        found.push(asked.finding(Code::LogLevel, "LogLevel", asked.get("LogLevel")).change("LogLevel INFO"));
    }
    found
}

/// Then only systemd's journal tells what sshd accepted, in words that the agent understands.
fn without_pam(asked: &Asked<'_>, found: &mut Vec<Finding>) {
    let ends_sessions = asked.host.agent.as_ref().is_ok_and(|agent| agent.ends_sessions && !agent.only_helper);
    if asked.get("UsePAM") != "no" || !ends_sessions {
        return;
    }
    let hash = asked.get("FingerprintHash");
    let text = if !asked.host.journal.exists() {
        "no, and there is no journal of systemd's".to_owned()
    } else if hash.eq_ignore_ascii_case("sha256") {
        return;
    } else {
        format!("no, and FingerprintHash is {hash}: the agent does not know the keys in the journal by that")
    };
    let change =
        "UsePAM yes\nor, where nobody logs in but through the helper, only-helper = true in [sessions] of agent.toml";
    found.push(asked.finding(Code::PamOff, "UsePAM", text).change(change));
}

fn keys_file(asked: &Asked<'_>, found: &mut Vec<Finding>) {
    if !asked.is_set(KEYS_FILE) {
        return;
    }
    for file in words(asked.get(KEYS_FILE)) {
        if is_users(&file) || has_users(&file) {
            let change = format!("{KEYS_FILE} none");
            found.push(asked.finding(Code::KeysFileUsers, KEYS_FILE, file).change(change));
            continue;
        }
        match roots_alone(&file) {
            Some(fault) => {
                let change = fault.change(Path::new(&file));
                found.push(asked.finding(Code::KeysFileUnsafe, KEYS_FILE, format!("{file}: {fault}")).change(change));
            }
            None if is_break_glass(asked, &file) => {}
            None => {
                let file_of_one = if file.contains('%') { "/etc/countersign/break-glass.keys" } else { &file };
                let change = format!("{KEYS_FILE} none\nMatch User LOGIN\n    {KEYS_FILE} {file_of_one}");
                found.push(asked.finding(Code::KeysFileForAll, KEYS_FILE, file).change(change));
            }
        }
    }
}

/// Whether it lies where its user writes: in the home, or in a folder that bears the login's name, whosever such folders are today.
fn is_users(file: &str) -> bool {
    let depends = file.replace("%%", "");
    !file.starts_with('/')
        || depends.contains("%h")
        || depends.split_once('%').is_some_and(|(_, rest)| rest.contains('/'))
}

/// Whether a file whose name depends on the login is not root's alone for somebody.
fn has_users(file: &str) -> bool {
    let Some((folder, name)) = file.rsplit_once('/').filter(|(_, name)| name.replace("%%", "").contains('%')) else {
        return false;
    };
    let pattern = name.replace("%u", "*").replace("%U", "*").replace("%%", "%");
    let files = fs::read_dir(if folder.is_empty() { "/" } else { folder }).into_iter().flatten().filter_map(Result::ok);
    let theirs = |entry: &fs::DirEntry| {
        is_like(&entry.file_name().to_string_lossy(), &pattern)
            && fault(&entry.path()).is_some_and(|fault| matches!(fault, Fault::Owner(..) | Fault::Writable(..)))
    };
    files.into_iter().any(|entry| theirs(&entry))
}

/// Whether it is one file for logins that a `Match` names, and nobody else's.
fn is_break_glass(asked: &Asked<'_>, file: &str) -> bool {
    let block = asked.config.block_of(&KEYS_FILE.to_ascii_lowercase(), asked.blocks);
    let Some(block) = block.and_then(|block| asked.config.blocks.get(block)) else { return false };
    !file.contains('%') && block.criteria.iter().any(|(criterion, value)| criterion == "user" && is_plain(value))
}

/// What is wrong with a file that is to be root's alone; one that is not there is nobody's. Where its name depends on the login, the
/// directory is looked at.
fn roots_alone(file: &str) -> Option<Fault> {
    let found = match file.split_once('%') {
        Some((before, _)) => fault_of_directory(Path::new(before.rsplit_once('/').map_or("/", |(folder, _)| folder))),
        None => fault(Path::new(file)),
    };
    found.filter(|fault| !matches!(fault, Fault::Missing(..) | Fault::RootsGroup(..)))
}

fn principals_file(asked: &Asked<'_>, found: &mut Vec<Finding>) {
    let of_block = |block: &usize| asked.config.lines_of("authorizedprincipalsfile", Some(*block));
    if asked.blocks.iter().flat_map(of_block).any(|line| line.argument == "none") {
        let change = format!(
            "{PRINCIPALS_FILE} /etc/countersign/empty\nan empty file of root's: install -m 644 /dev/null /etc/countersign/empty"
        );
        found.push(asked.finding(Code::PrincipalsFileNone, PRINCIPALS_FILE, "none, in a Match").change(change));
    }
    if !asked.is_set(PRINCIPALS_FILE) {
        return;
    }
    let file = asked.get(PRINCIPALS_FILE);
    let change = format!("{PRINCIPALS_FILE} none");
    if is_users(file) {
        found.push(asked.finding(Code::PrincipalsFileUsers, PRINCIPALS_FILE, file).change(change));
    } else if let Some(fault) = roots_alone(file) {
        let text = format!("{file}: {fault}");
        found.push(asked.finding(Code::ListWritable, PRINCIPALS_FILE, text).change(fault.change(Path::new(file))));
    } else if file.contains('%') || lists_somebody(Path::new(file)) {
        let change = format!("{PRINCIPALS_FILE} /etc/countersign/empty");
        found.push(asked.finding(Code::PrincipalsFileFilled, PRINCIPALS_FILE, file).change(change));
    }
}

fn lists_somebody(file: &Path) -> bool {
    let text = fs::read(file).unwrap_or_default();
    let is_entry = |line: &str| !line.is_empty() && !line.starts_with('#');
    String::from_utf8_lossy(&text).lines().map(str::trim).any(is_entry)
}

fn methods(asked: &Asked<'_>, found: &mut Vec<Finding>) {
    let lists = asked.get(METHODS);
    let is_any = matches!(lists, "any" | "");
    let has_key = |list: &str| list.split(',').any(|method| method.split(':').next() == Some("publickey"));
    let change = format!("{METHODS} publickey");
    if asked.get("PubkeyAuthentication") == "no" {
        let change = "PubkeyAuthentication yes";
        found.push(asked.finding(Code::PublickeyOff, "PubkeyAuthentication", "no").change(change));
    } else if !is_any && !lists.split(' ').any(has_key) {
        found.push(asked.finding(Code::PublickeyOff, METHODS, lists).change(change.clone()));
    }
    // A list without a public key leads in if all of its methods are on.
    let is_on = |method: &str| {
        let is_empty_password = method == "none"
            && asked.get("PermitEmptyPasswords") == "yes"
            && asked.get("PasswordAuthentication") == "yes";
        is_empty_password || OTHER_METHODS.iter().any(|(name, setting)| *name == method && asked.get(setting) == "yes")
    };
    let mut open: Vec<&str> = if is_any {
        OTHER_METHODS.iter().map(|(name, _)| *name).filter(|name| is_on(name)).collect()
    } else {
        let lists = lists.split(' ').filter(|list| !has_key(list));
        lists.filter(|list| list.split(',').all(|method| is_on(method.split(':').next().unwrap_or(method)))).collect()
    };
    open.dedup();
    if !open.is_empty() {
        found.push(
            asked
                .finding(Code::OtherMethods, METHODS, format!("{lists}, and {} would do", open.join(", ")))
                .change(change),
        );
    }
}

fn algorithms(asked: &Asked<'_>, found: &mut Vec<Finding>) {
    // As OpenSSH before 8.5 calls it.
    for setting in ["PubkeyAcceptedAlgorithms", "PubkeyAcceptedKeyTypes"] {
        let taken = asked.get(setting);
        if !taken.is_empty() && !taken.contains("-cert-v01@openssh.com") {
            let change = format!("{setting} +ssh-ed25519-cert-v01@openssh.com");
            found.push(asked.finding(Code::CertificatesOff, setting, taken).change(change));
        }
    }
    let taken = asked.get("CASignatureAlgorithms");
    if !taken.is_empty() && !taken.split(',').any(|name| name == "ssh-ed25519") {
        let change = "CASignatureAlgorithms +ssh-ed25519";
        found.push(asked.finding(Code::CaAlgorithmOff, "CASignatureAlgorithms", taken).change(change));
    }
}

fn numbers(asked: &Asked<'_>, found: &mut Vec<Finding>) {
    let number = |setting: &str| asked.get(setting).parse::<u64>().ok();
    if let Some(tries) = number("MaxAuthTries").filter(|tries| *tries < FEWEST_TRIES) {
        found.push(asked.finding(Code::FewTries, "MaxAuthTries", tries.to_string()).change("MaxAuthTries 6"));
    }
    let chain_secs = keys_helper(asked).filter(|helper| helper.chain.is_some()).map(|helper| helper.chain_secs);
    if let (Some(grace), Some(chain_secs)) = (number("LoginGraceTime"), chain_secs)
        && grace != 0
        // The program may be asked once for the question and once for the signature.
        && grace <= chain_secs.saturating_mul(2)
    {
        let text = format!("{grace} s, and the earlier command may take {chain_secs} s, twice");
        found.push(asked.finding(Code::GraceShort, "LoginGraceTime", text).change("LoginGraceTime 120"));
    }
}
