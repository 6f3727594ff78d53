//! Why a login was granted or refused: stable codes, listed with what to do about each in `docs/reason-codes.md`.
//!
//! Codes are added, never renamed or used for something else.

use std::fmt;

/// How loud a reason is in syslog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The host cannot answer at all (3).
    Error,
    /// This login was refused (5).
    Notice,
    /// Granted (6).
    Info,
}

/// What a reason that comes up after a login does to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// Nothing: it is about the moment of a login, or about the host and not about the access.
    Never,
    /// The access is over.
    AtOnce,
    /// What is missing may come back by itself, after a reorganisation of the chain: over if it stays.
    IfItStays,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal),+ $(,)?) => {
        /// The outcome of a decision, as one stable code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name),+
        }

        impl Reason {
            /// All of them, in the order in which they are looked for.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The code, in kebab-case.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code),+
                }
            }
        }
    };
}

reasons! {
    /// The login may go on.
    Granted = "granted",
    /// sshd passed something other than the documented arguments, or they contradict the certificate.
    BadArguments = "bad-arguments",
    /// The login holds characters that are never printed to sshd.
    LoginUnsafe = "login-unsafe",
    /// There is no snapshot.
    NoSnapshot = "no-snapshot",
    /// The system does not let the snapshot be read.
    SnapshotUnreadable = "snapshot-unreadable",
    /// Somebody other than root could have written the snapshot.
    SnapshotUntrusted = "snapshot-untrusted",
    /// The snapshot is not as its format says.
    SnapshotCorrupt = "snapshot-corrupt",
    /// The host's clock cannot be right.
    Clock = "clock",
    /// The snapshot is from before the last boot.
    BootChanged = "boot-changed",
    /// The snapshot is too old.
    SnapshotStale = "snapshot-stale",
    /// The realm does not know this host (any more).
    HostUnknown = "host-unknown",
    /// This host is locked or revoked.
    HostLocked = "host-locked",
    /// The login is a ledger user's, and the system has another uid for it.
    UidMismatch = "uid-mismatch",
    /// Uid 0 without `allow-root` in the host's configuration.
    RootNotAllowed = "root-not-allowed",
    /// The user is not there or removed.
    UserUnknown = "user-unknown",
    /// The user is locked.
    UserLocked = "user-locked",
    /// The key is not one canonical key of an accepted type.
    KeyMalformed = "key-malformed",
    /// The certificate is not one canonical certificate.
    CertificateMalformed = "certificate-malformed",
    /// Not a user certificate.
    CertificateType = "certificate-type",
    /// The key is locked.
    KeyLocked = "key-locked",
    /// The key is revoked.
    KeyRevoked = "key-revoked",
    /// The key is not registered.
    KeyUnknown = "key-unknown",
    /// The key is registered, but not for logins.
    KeyPurpose = "key-purpose",
    /// The key's registration has ended.
    KeyExpired = "key-expired",
    /// No CA of the realm has this key.
    CaUnknown = "ca-unknown",
    /// The CA is locked.
    CaLocked = "ca-locked",
    /// The CA is revoked.
    CaRevoked = "ca-revoked",
    /// The CA may not certify this login.
    CaLogin = "ca-login",
    /// The certificate is not valid yet.
    CertificateNotYetValid = "certificate-not-yet-valid",
    /// The certificate is not valid any more.
    CertificateExpired = "certificate-expired",
    /// The certificate is valid for longer than the realm, its CA or its grant allows.
    TtlTooLong = "ttl-too-long",
    /// The login is not among the principals, or they are empty or unsafe.
    Principals = "principals",
    /// A critical option that is not known or not in its form.
    CriticalOption = "critical-option",
    /// The source addresses cannot be enforced.
    SourceAddress = "source-address",
    /// No `scope@countersign`.
    ScopeMissing = "scope-missing",
    /// `scope@countersign` is not in its one form.
    ScopeMalformed = "scope-malformed",
    /// The scope names another realm.
    ScopeRealm = "scope-realm",
    /// The scope does not take this host in.
    ScopeHost = "scope-host",
    /// The grant is not there or removed.
    GrantUnknown = "grant-unknown",
    /// The grant is there and does not cover this host.
    HostNotCovered = "host-not-covered",
    /// No grant is this user's, or not the one named.
    NoGrant = "no-grant",
    /// The grant does not list this login.
    LoginNotGranted = "login-not-granted",
    /// The grant has ended.
    GrantExpired = "grant-expired",
    /// The grant does not count at this hour.
    GrantHours = "grant-hours",
    /// The grant is not for plain keys.
    GrantNotViaKey = "grant-not-via-key",
    /// The grant is not for certificates.
    GrantNotViaCert = "grant-not-via-cert",
    /// The certificate's serial is revoked.
    CertificateRevoked = "certificate-revoked",
    /// The realm takes logged certificates only, and this one has no proof.
    LogProofMissing = "log-proof-missing",
    /// `log-proof@countersign` is not in its one form.
    LogProofMalformed = "log-proof-malformed",
    /// The batch is not known (yet, or any more).
    BatchUnknown = "batch-unknown",
    /// The batch waits for countersignatures.
    BatchWaiting = "batch-waiting",
    /// The batch is locked.
    BatchLocked = "batch-locked",
    /// The batch's issuer has lost its role, or is not one that the CA lists.
    BatchIssuer = "batch-issuer",
    /// The proof does not lead from this certificate to the batch's root.
    LogProofMismatch = "log-proof-mismatch",
    /// The certificate's validity does not fit the time of its batch.
    BatchTime = "batch-time",
    /// The CA is retired, and the certificate was not logged before.
    CaRetired = "ca-retired",
    /// The grant asks for approvals, and the request is not there.
    RequestUnknown = "request-unknown",
    /// The request is another user's.
    ScopeUser = "scope-user",
    /// The request asked for something else than what was certified.
    RequestMismatch = "request-mismatch",
    /// An approver said no.
    ApprovalDenied = "approval-denied",
    /// Fewer approvals than the grant asks for.
    ApprovalsMissing = "approvals-missing",
    /// Approved, but picked up too late.
    PickupLate = "pickup-late",
    /// The forced command cannot be enforced: the certificate's differs, or it cannot be written down for sshd.
    ForceCommand = "force-command",
    /// No decision in time.
    Deadline = "deadline",
    /// The realm has nothing to say about this login, and the earlier command has the key: the login may go on.
    Chained = "chained",
    /// Nor has the earlier command: it does not print this key.
    ChainNoKey = "chain-no-key",
    /// Somebody other than root could have chosen what runs as the earlier command.
    ChainUnsafe = "chain-unsafe",
    /// The earlier command cannot be run, failed, or printed too much.
    ChainFailed = "chain-failed",
    /// The earlier command was not done in time.
    ChainTimeout = "chain-timeout",
}

impl Reason {
    /// How loud it is in syslog.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::Granted | Self::Chained => Severity::Info,
            Self::NoSnapshot
            | Self::SnapshotUnreadable
            | Self::SnapshotUntrusted
            | Self::SnapshotCorrupt
            | Self::Clock
            | Self::BootChanged
            | Self::SnapshotStale
            | Self::Deadline
            | Self::ChainUnsafe
            | Self::ChainFailed
            | Self::ChainTimeout => Severity::Error,
            _ => Severity::Notice,
        }
    }

    /// What it does to a session that was let in and is judged again (`docs/spec/sessions.md` has the table).
    #[must_use]
    pub const fn session_end(self) -> SessionEnd {
        match self {
            Self::Granted
            | Self::BadArguments
            | Self::LoginUnsafe
            | Self::NoSnapshot
            | Self::SnapshotUnreadable
            | Self::SnapshotUntrusted
            | Self::SnapshotCorrupt
            | Self::Clock
            | Self::BootChanged
            | Self::SnapshotStale
            | Self::CertificateNotYetValid
            | Self::PickupLate
            | Self::Deadline
            | Self::Chained
            | Self::ChainNoKey
            | Self::ChainUnsafe
            | Self::ChainFailed
            | Self::ChainTimeout => SessionEnd::Never,
            Self::BatchUnknown | Self::BatchWaiting | Self::RequestUnknown | Self::ApprovalsMissing => {
                SessionEnd::IfItStays
            }
            Self::HostUnknown
            | Self::HostLocked
            | Self::UidMismatch
            | Self::RootNotAllowed
            | Self::UserUnknown
            | Self::UserLocked
            | Self::KeyMalformed
            | Self::CertificateMalformed
            | Self::CertificateType
            | Self::KeyLocked
            | Self::KeyRevoked
            | Self::KeyUnknown
            | Self::KeyPurpose
            | Self::KeyExpired
            | Self::CaUnknown
            | Self::CaLocked
            | Self::CaRevoked
            | Self::CaLogin
            | Self::CertificateExpired
            | Self::TtlTooLong
            | Self::Principals
            | Self::CriticalOption
            | Self::SourceAddress
            | Self::ScopeMissing
            | Self::ScopeMalformed
            | Self::ScopeRealm
            | Self::ScopeHost
            | Self::GrantUnknown
            | Self::HostNotCovered
            | Self::NoGrant
            | Self::LoginNotGranted
            | Self::GrantExpired
            | Self::GrantHours
            | Self::GrantNotViaKey
            | Self::GrantNotViaCert
            | Self::CertificateRevoked
            | Self::LogProofMissing
            | Self::LogProofMalformed
            | Self::BatchLocked
            | Self::BatchIssuer
            | Self::LogProofMismatch
            | Self::BatchTime
            | Self::CaRetired
            | Self::ScopeUser
            | Self::RequestMismatch
            | Self::ApprovalDenied
            | Self::ForceCommand => SessionEnd::AtOnce,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.code())
    }
}
