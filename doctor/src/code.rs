//! The codes: stable words for what can be wrong, listed in `docs/doctor-codes.md`.
//!
//! Codes are added, never renamed or used for something else. Where the helper has a reason for the same thing, it is the same word.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::finding::Severity;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $severity:ident, $consequence:literal;)+) => {
        /// What is wrong, as one stable code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $name),+
        }

        impl Code {
            /// All of them, in the order of the page.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The code, in kebab-case.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code),+
                }
            }

            /// How bad it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity),+
                }
            }

            /// What follows from it.
            #[must_use]
            pub const fn consequence(self) -> &'static str {
                match self {
                    $(Self::$name => $consequence),+
                }
            }
        }
    };
}

codes! {
    /// Not root.
    NotRoot = "not-root", Error,
        "sshd's keys, the snapshot and other users' files cannot be read: not everything was looked at";
    /// There is no sshd.
    SshdMissing = "sshd-missing", Error,
        "nothing else about sshd could be looked at";
    /// `sshd -T` fails.
    SshdRefuses = "sshd-refuses", Error,
        "sshd does not start with this configuration: the one that runs goes on with an older one until it is restarted";
    /// The configuration was changed after sshd had read it.
    SshdOlder = "sshd-older-than-config", Warning,
        "what was looked at here is not what logins meet until sshd has read it";
    /// The sshd that listens reads another file.
    SshdElsewhere = "sshd-other-config", Warning,
        "what was looked at here is not what logins meet";
    /// No keys command.
    KeysCommandNone = "keys-command-none", Error,
        "the helper is not asked: nobody gets in by the ledger";
    /// Another keys command.
    KeysCommandOther = "keys-command-other", Error,
        "sshd knows one such command, and it is not the helper: nobody gets in by the ledger";
    /// The keys command has other arguments.
    KeysCommandArguments = "keys-command-arguments", Error,
        "the helper refuses every login: bad-arguments";
    /// No principals command.
    PrincipalsCommandNone = "principals-command-none", Error,
        "where sshd trusts a CA by itself, a certificate that names the login gets in whatever the ledger says of it";
    /// Another principals command.
    PrincipalsCommandOther = "principals-command-other", Error,
        "where sshd trusts a CA by itself, another program than the helper decides about its certificates";
    /// The principals command has other arguments.
    PrincipalsCommandArguments = "principals-command-arguments", Error,
        "the helper refuses every certificate: bad-arguments";
    /// OpenSSH 8.7 to 9.3 forgets it.
    PrincipalsCommandForgotten = "principals-command-forgotten", Error,
        "this sshd forgets a principals command that stands after a keys command, and says nothing: where it trusts a CA by itself, a certificate that names the login gets in whatever the ledger says of it";
    /// As before, with another version.
    CommandOrder = "command-order", Warning,
        "an sshd of OpenSSH 8.7 to 9.3 would forget the principals command, and say nothing";
    /// sshd does not know a token.
    TokenUnknown = "token-unknown", Error,
        "`sshd -t` says nothing, and sshd ends every login at which it would run the command";
    /// No command user, or none of that name.
    CommandUserMissing = "command-user-missing", Error,
        "sshd does not run the command: nobody gets in by the ledger";
    /// The command runs as root.
    CommandUserRoot = "command-user-root", Error,
        "a fault in a program that reads what strangers send would be root's";
    /// The command user may not read the snapshot.
    CommandUserGroup = "command-user-group", Error,
        "the helper cannot read the snapshot and refuses every login: snapshot-unreadable";
    /// The helper is not there.
    HelperMissing = "helper-missing", Error,
        "nobody gets in by the ledger";
    /// Somebody other than root could replace the helper.
    HelperUnsafe = "helper-unsafe", Error,
        "sshd does not run such a program: nobody gets in by the ledger";
    /// Root's group could replace the helper.
    HelperGroupWritable = "helper-group-writable", Warning,
        "sshd as OpenSSH ships it does not run such a program; Debian's does while nobody else is in that group";
    /// The command user may not run the helper.
    HelperNotExecutable = "helper-not-executable", Error,
        "sshd cannot run it: nobody gets in by the ledger";
    /// Not a static program.
    HelperDynamic = "helper-dynamic", Warning,
        "each login loads shared libraries: it takes longer, and breaks with them";
    /// The helper may be read, and there is an earlier command.
    HelperReadable = "helper-readable", Warning,
        "an earlier command that is hostile, which runs as the same user, has an instant in which it can write in the helper's place";
    /// countersign-sshd-chain is not there.
    ChainMissing = "chain-missing", Error,
        "the helper refuses every login: chain-failed";
    /// Somebody other than root could have chosen the earlier command.
    ChainUnsafe = "chain-unsafe", Error,
        "the helper does not run it: logins that are left to it are refused";
    /// The earlier command is not there or may not be run.
    ChainFailed = "chain-failed", Error,
        "logins that are left to it are refused";
    /// Users write their own keys file.
    KeysFileUsers = "keys-file-users", Error,
        "a key that a session plants there lets its owner in for good";
    /// Somebody other than root may write the keys file.
    KeysFileUnsafe = "keys-file-unsafe", Error,
        "whoever writes it lets in whom they like";
    /// A keys file for everybody.
    KeysFileForAll = "keys-file-for-all", Warning,
        "keys in it let in without the ledger, and their sessions are never ended";
    /// Users write their own principals file.
    PrincipalsFileUsers = "principals-file-users", Error,
        "users decide themselves which certificates of a CA that sshd trusts open their login";
    /// A principals file that lists somebody.
    PrincipalsFileFilled = "principals-file-filled", Warning,
        "whom it lists gets in by any certificate of a CA that sshd trusts by itself, whatever the ledger says of it";
    /// `none` in a `Match`.
    PrincipalsFileNone = "principals-file-none-in-match", Warning,
        "sshd does not clear it there: some look for a file named none in the user's home";
    /// The CA file cannot be read.
    CaFileUnreadable = "ca-file-unreadable", Error,
        "sshd trusts no CA by itself";
    /// A line that is no CA.
    CaLine = "ca-line", Error,
        "sshd stops there: no CA on that line or after it is trusted, and nothing says so";
    /// A private key.
    CaPrivateKey = "ca-private-key", Error,
        "whoever reads the file can make certificates; sshd trusts no CA on that line or after it";
    /// The realm does not know it.
    CaUnknown = "ca-unknown", Warning,
        "sshd trusts a CA that the realm knows nothing of: only the helper stands between its certificates and a login";
    /// The realm does not trust it any more.
    CaDenied = "ca-denied", Error,
        "sshd trusts a CA that the realm has taken its trust from: only the helper stands between its certificates and a login";
    /// The agent's list, and no agent.
    CaListStale = "ca-list-stale", Error,
        "the list stands still while the agent does: a CA that is revoked now stays in it";
    /// sshd does not read the list that the agent writes.
    CaKeysUnused = "ca-keys-unused", Warning,
        "what the agent writes there has no effect";
    /// The revocation list cannot be read.
    RevokedKeysUnreadable = "revoked-keys-unreadable", Error,
        "sshd refuses EVERYBODY's keys and certificates, break-glass included";
    /// The revocation list is none.
    RevokedKeysMalformed = "revoked-keys-malformed", Error,
        "sshd refuses EVERYBODY's keys and certificates, break-glass included";
    /// The revocation list is long.
    RevokedKeysLong = "revoked-keys-long", Warning,
        "sshd reads all of it four times for each certificate: logins take a second and more";
    /// sshd does not read the list that the agent writes.
    RevokedKeysUnused = "revoked-keys-unused", Warning,
        "what the agent writes there has no effect";
    /// Somebody other than root may write a list.
    ListWritable = "list-writable", Error,
        "whoever writes it decides whom sshd trusts or refuses";
    /// No public keys.
    PublickeyOff = "publickey-off", Error,
        "sshd takes neither keys nor certificates: nobody gets in by the ledger";
    /// Other ways in.
    OtherMethods = "other-methods", Warning,
        "whoever knows a password (or what else is asked there) gets in without the ledger, and the session is never ended";
    /// No certificates.
    CertificatesOff = "certificates-off", Error,
        "sshd takes no certificate: nobody gets in by one";
    /// No Ed25519 CA.
    CaAlgorithmOff = "ca-algorithm-off", Warning,
        "sshd takes no certificate by an Ed25519 CA, which is what CAs are by default";
    /// sshd refuses root, the agent does not.
    RootLoginOff = "root-login-off", Warning,
        "grants that lead into root on this host do nothing";
    /// sshd refuses whom a grant lets in.
    LoginNotAdmitted = "login-not-admitted", Warning,
        "sshd refuses that login without asking the helper: grants that lead into it on this host do nothing";
    /// Few tries.
    FewTries = "few-tries", Warning,
        "a client that offers another key or the plain key first is cut off before it offers the certificate";
    /// Little time.
    GraceShort = "grace-time-short", Warning,
        "sshd gives up on a login while the earlier command may still take its time";
    /// sshd logs no logins.
    LogLevel = "log-level", Warning,
        "who was let in stands nowhere, uses of the break-glass key included";
    /// No PAM.
    PamOff = "pam-off", Warning,
        "nobody says what sshd accepted: sessions end with their access only where nothing else can have let them in, and no home is made at a first login";
    /// PAM does not tell of sessions.
    SessionHookMissing = "session-hook-missing", Warning,
        "sessions go on when their access has ended, except where nothing else can have let them in";
    /// Something comes before it.
    SessionHookLate = "session-hook-late", Warning,
        "a module that reads users' files before it lets a user hide what sshd accepted: such a session goes on when its access has ended";
    /// The program is not there, or not root's.
    SessionHookUnsafe = "session-hook-unsafe", Error,
        "what runs there as root at each login is missing or somebody else's to choose";
    /// The folders of notes are not as they must be.
    SessionNotes = "session-notes", Warning,
        "the helper leaves no notes: sessions go on when their access has ended";
    /// A group that the host does not have itself.
    MatchGroup = "match-group", Warning,
        "who is in it depends on the name service: the settings come and go with the snapshot";
    /// Named, and not there.
    NameServiceMissing = "name-service-missing", Error,
        "users of the ledger do not exist on this host: sshd refuses them without asking the helper";
    /// There, and not named.
    NameServiceUnused = "name-service-unused", Warning,
        "users of the ledger do not exist on this host: sshd refuses them without asking the helper";
    /// Never asked, or asked first.
    NameServiceOrder = "name-service-order", Error,
        "users of the ledger do not exist on this host, or names are looked for there before the host's own";
    /// What the module reads cannot be read.
    NameServiceClosed = "name-service-closed", Error,
        "programs of users see numbers instead of the names of the ledger's users, or find no such user";
    /// Users without groups.
    NameServiceGroups = "name-service-groups", Warning,
        "users of the ledger are in none of its groups on this host";
    /// Of another machine, or not root's alone.
    NameServiceLibrary = "name-service-library", Error,
        "programs cannot load it, or somebody else chooses what runs in each of them";
    /// It does not answer as the ledger says.
    NameServiceSilent = "name-service-silent", Error,
        "sshd refuses users of the ledger without asking the helper, or lets them in as somebody else";
    /// Nobody makes homes.
    HomeNotMade = "home-not-made", Warning,
        "users of the ledger find no home at their first login";
    /// A local account of a ledger user's name.
    UidMismatch = "uid-mismatch", Error,
        "the helper refuses that login: uid-mismatch";
    /// No such shell.
    LoginShell = "login-shell", Error,
        "sshd refuses that login without asking the helper";
    /// A locked account, and no PAM.
    AccountLocked = "account-locked", Error,
        "sshd refuses that login without asking the helper";
    /// SELinux keeps sshd from it.
    SelinuxType = "selinux-type", Error,
        "sshd may not run the helper, or the helper may not read the snapshot: nobody gets in by the ledger";
    /// agent.toml is wrong.
    AgentConfig = "agent-config", Error,
        "the agent does not start: the snapshot grows old, and then nobody gets in";
    /// No agent.
    AgentStopped = "agent-not-running", Warning,
        "the snapshot grows old, and then nobody gets in; sessions do not end";
    /// The agent says that it fails.
    AgentFailing = "agent-failing", Warning,
        "nothing new is published: the snapshot grows old, and then nobody gets in";
    /// The helper reads another one.
    SnapshotElsewhere = "snapshot-elsewhere", Error,
        "the helper does not answer from what the agent publishes";
    /// There is none.
    NoSnapshot = "no-snapshot", Error,
        "the helper refuses every login";
    /// It cannot be read.
    SnapshotUnreadable = "snapshot-unreadable", Error,
        "the helper refuses every login";
    /// Somebody else could have written it.
    SnapshotUntrusted = "snapshot-untrusted", Error,
        "the helper refuses every login";
    /// It is damaged.
    SnapshotCorrupt = "snapshot-corrupt", Error,
        "the helper refuses every login, or those that it cannot look up";
    /// Others may read it.
    SnapshotOpen = "snapshot-open-to-all", Warning,
        "every user of this host can read who may log in to it";
    /// The clock is behind.
    Clock = "clock", Error,
        "the helper refuses every login";
    /// It is from before the last boot.
    BootChanged = "boot-changed", Error,
        "the helper refuses every login";
    /// It is too old.
    SnapshotStale = "snapshot-stale", Error,
        "the helper refuses every login";
    /// The realm does not know the host.
    HostUnknown = "host-unknown", Error,
        "the helper refuses every login";
    /// The host is locked.
    HostLocked = "host-locked", Error,
        "the helper refuses every login";
    /// A stranger gets in.
    ThrowawayAccepted = "throwaway-accepted", Error,
        "anybody gets into this login: no key, certificate or revocation counts";
    /// sshd asked, and the helper did not answer.
    HelperNoAnswer = "helper-no-answer", Error,
        "sshd refuses whoever the helper does not answer for: nobody gets in through it";
    /// A login that should work is refused.
    LoginRefused = "login-refused", Error,
        "this login does not get in";
    /// A login comes to no good end.
    LoginBroken = "login-broken", Error,
        "this login does not get to a session";
    /// A login works, and not by the helper's word.
    LoginWithoutHelper = "login-without-helper", Error,
        "what the ledger says has no effect on this login: it goes on when the access is revoked";
    /// The running sshd does not answer.
    SshdUnreachable = "sshd-unreachable", Error,
        "nobody can log in there";
    /// What listens there has none of the host's keys.
    OtherHostKey = "other-host-key", Error,
        "clients refuse to connect, or speak to something else than this host's sshd";
    /// The running sshd has another configuration.
    SshdOutdated = "sshd-outdated", Error,
        "sshd runs with an older configuration and decides without the helper: what the ledger says has no effect";
    /// `--enable` was killed.
    SwitchUnfinished = "switch-unfinished", Error,
        "sshd may run with settings that no login has proved; they end with the next boot or `countersign doctor --disable`";
    /// What would be written is not root's alone.
    SwitchUntrusted = "switch-untrusted", Error,
        "somebody else could choose what sshd, PAM or the name service does: nothing was written";
    /// Something else decides.
    SwitchWithoutEffect = "switch-without-effect", Error,
        "sshd would go on as before, or half so: nothing was written";
    /// Another AuthorizedKeysCommand is there, and nobody has said what becomes of it.
    SwitchEarlier = "switch-earlier-command", Error,
        "whoever gets in by it alone would be kept out without a word: nothing was written";
    /// Another run is at work.
    SwitchBusy = "switch-busy", Error,
        "two at once would undo each other: nothing was done";
    /// The last login failed.
    SwitchTakenBack = "switch-taken-back", Error,
        "everything is as it was before";
    /// It could not be taken back.
    SwitchStuck = "switch-stuck", Error,
        "the host is neither as it was nor as it should be";
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.code())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_lists_every_code_with_its_severity_and_consequence_in_order_and_no_other() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/doctor-codes.md");
        let page = std::fs::read_to_string(page).unwrap();
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let declared: Vec<String> = Code::ALL
            .iter()
            .map(|code| format!("| `{code}` | {} | {} |", code.severity(), code.consequence()))
            .collect();
        assert_eq!(listed, declared);
        assert_eq!(Code::ALL.iter().map(|code| code.code()).collect::<BTreeSet<_>>().len(), Code::ALL.len());
    }
}
