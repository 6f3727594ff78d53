//! The agent's reason codes: one stable word for everything that can go wrong between the ledger and the snapshot, and between
//! a delivery and a file. Logs, the status file and `docs/agent-reason-codes.md` use the same words; a code never changes its
//! meaning, and a test compares the table with this enum.

use serde::{Deserialize, Serialize};

/// Declares the enum, its texts and the list of all of them in one place, so that none can be forgotten.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// Why a step of the agent failed, or what it noticed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Reason {
            /// Every code, in the order of the table in the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code of a stable text.
            #[must_use]
            pub fn from_text(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.as_str() == text)
            }

            /// The stable text.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// The wall clock is earlier than one that was seen before.
    ClockBack = "clock-back",
    /// The wall clock is behind the newest block's time.
    ClockBehind = "clock-behind",
    /// The clock or the boot id could not be read.
    ClockUnreadable = "clock-unreadable",
    /// The state file fails its checksum, is truncated or does not parse.
    StateCorrupt = "state-corrupt",
    /// The state file belongs to another realm, contract or host.
    StateOtherRealm = "state-other-realm",
    /// The state file has a version that this agent does not know.
    StateVersion = "state-version",
    /// The state file, or the one in which entries wait, could not be read or written.
    StateIo = "state-io",
    /// No endpoint gave a usable answer in time.
    EndpointsSilent = "endpoints-silent",
    /// The header source could not vouch for a header.
    HeaderUntrusted = "header-untrusted",
    /// The chain is not the pinned one.
    ChainMismatch = "chain-mismatch",
    /// The contract's code hash is not the pinned one.
    CodeHash = "code-hash",
    /// No endpoint gave a proof that verifies.
    ProofInvalid = "proof-invalid",
    /// No source gave logs that fold into the proved head.
    LogsIncomplete = "logs-incomplete",
    /// The nodes send more than may wait on disk to be verified.
    LedgerTooLarge = "ledger-too-large",
    /// The final block is lower than one that was final before.
    FinalWentBack = "final-went-back",
    /// The newest block is older than the one already published.
    LatestWentBack = "latest-went-back",
    /// The newest block is too old for its snapshot to be used.
    BlockTooOld = "block-too-old",
    /// A critical entry that this version does not know.
    UpgradeNeeded = "upgrade-needed",
    /// The realm has moved, and its realm file names no successor.
    Migrated = "migrated",
    /// The realm file of the successor is missing, unsafe or wrong.
    SuccessorFile = "successor-file",
    /// The successor's nodes gave no usable answer in time.
    SuccessorSilent = "successor-silent",
    /// The successor's log does not begin with the MIGRATED that says where it comes from, or that is not final yet.
    SuccessorNotArrived = "successor-not-arrived",
    /// The realm file of the predecessor is missing, unsafe or wrong.
    PredecessorFile = "predecessor-file",
    /// The realm says that it continues another one, and its realm file names no predecessor.
    PredecessorNeeded = "predecessor-needed",
    /// Neither archive nor nodes gave the predecessor's log up to the named heads.
    PredecessorLog = "predecessor-log",
    /// A realm that was left could not be asked what it denies since.
    PredecessorSilent = "predecessor-silent",
    /// The source names another target than the successor's realm file.
    MigrateTarget = "migrate-target",
    /// The target names another source than the predecessor's realm file.
    MigrateSource = "migrate-source",
    /// Source and target name different heads.
    MigrateHeads = "migrate-heads",
    /// The heads are not in their one form.
    MigrateHeadsMalformed = "migrate-heads-malformed",
    /// The log does not lead to the named heads.
    MigrateHeadsUnreached = "migrate-heads-unreached",
    /// The realm returns to where it was before.
    MigrateLoop = "migrate-loop",
    /// The realm has moved more often than readers follow.
    MigrateTooLong = "migrate-too-long",
    /// The statement that stands for MIGRATE is missing, unsafe or no statement.
    StatementFile = "statement-file",
    /// The statement is about another realm.
    StatementRealm = "statement-realm",
    /// The statement's threshold or roots are not those in force.
    StatementRoots = "statement-roots",
    /// Fewer roots than the threshold have signed the statement.
    StatementThreshold = "statement-threshold",
    /// A root has signed the statement twice.
    StatementDuplicate = "statement-duplicate",
    /// A signature of the statement names a root that there is not.
    StatementRootIndex = "statement-root-index",
    /// A signature of the statement is not by the root that it names.
    StatementSignature = "statement-signature",
    /// A signature of the statement can be checked by a contract only.
    StatementWallet = "statement-wallet",
    /// The log could not be replayed.
    ReplayFailed = "replay-failed",
    /// The effective view could not be compiled for this host.
    CompileFailed = "compile-failed",
    /// The snapshot could not be written.
    PublishFailed = "publish-failed",
    /// The files of a plain sshd could not be made or written.
    PlainSshdFailed = "plain-sshd-failed",
    /// The CAs were taken out of a plain sshd's list, since what is known is too old.
    PlainSshdStale = "plain-sshd-stale",
    /// The status file could not be written.
    StatusIo = "status-io",
    /// A cycle did not end within its deadline.
    CycleTimeout = "cycle-timeout",
    /// The device's keys could not be loaded.
    DeviceKeys = "device-keys",
    /// The realm lists no actor under the device's ledger key, or another sealing key than the device's.
    DeviceUnknown = "device-unknown",
    /// A delivery names a payload that the host's configuration does not.
    DeliveryName = "delivery-name",
    /// A delivery has a payload kind that this version does not know.
    DeliveryKind = "delivery-kind",
    /// The delivery's sender has neither role nor sealing key on the ledger any more.
    DeliverySender = "delivery-sender",
    /// The sealed CID does not open.
    DeliveryCid = "delivery-cid",
    /// No block store has the block.
    DeliveryBlockMissing = "delivery-block-missing",
    /// An envelope's index or page is not what the ledger's hash and the format ask for.
    DeliveryEnvelope = "delivery-envelope",
    /// The prekey was used for another delivery.
    DeliveryPrekeyUsed = "delivery-prekey-used",
    /// The prekey is dead, dropped or not of this device.
    DeliveryPrekeyUnknown = "delivery-prekey-unknown",
    /// The device's prekeys could not be kept or published.
    DeliveryPrekeys = "delivery-prekeys",
    /// The payload is of another kind than the configuration takes under its name.
    DeliveryOtherKind = "delivery-other-kind",
    /// The sealed payload does not open.
    DeliverySealed = "delivery-sealed",
    /// The payload does not have the digest on the ledger.
    DeliveryDigest = "delivery-digest",
    /// The payload does not parse as its kind.
    DeliveryMalformed = "delivery-malformed",
    /// The certificate's CA is not a live CA of the realm.
    DeliveryCaUnknown = "delivery-ca-unknown",
    /// The CA's signature is wrong, or the certificate is outside the CA's limits.
    DeliveryCaSignature = "delivery-ca-signature",
    /// A key pair came where only certificates for the device's own key may, or where a key is already.
    DeliveryKeyPair = "delivery-key-pair",
    /// The X.509 key does not belong to its certificate, or the chain is none.
    DeliveryX509 = "delivery-x509",
    /// The certificate or key pair is for another key.
    DeliveryNotOwnKey = "delivery-not-own-key",
    /// The certificate has expired.
    DeliveryExpired = "delivery-expired",
    /// A newer delivery of the same payload name was applied before.
    DeliverySuperseded = "delivery-superseded",
    /// The payload's files could not be written.
    DeliveryWrite = "delivery-write",
    /// The reload command failed.
    DeliveryReload = "delivery-reload",
    /// What the configuration says of one block store or payload cannot work.
    DeliverySetting = "delivery-setting",
    /// The acknowledgement could not be logged.
    DeliveryAcknowledge = "delivery-acknowledge",
    /// The device's own key, for which a certificate is to be asked, could not be made or read.
    RenewKey = "renew-key",
    /// The device's ledger key may not ask for certificates.
    RenewUser = "renew-user",
    /// No grant covers what is to be asked for.
    RenewGrant = "renew-grant",
    /// The device cannot pay for a request.
    RenewFunds = "renew-funds",
    /// A request could not be logged.
    RenewLedger = "renew-ledger",
    /// A request was denied.
    RenewDenied = "renew-denied",
    /// No certificate came for a request.
    RenewUnanswered = "renew-unanswered",
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn the_table_in_the_documentation_lists_every_code_in_order_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/agent-reason-codes.md");
        let page = std::fs::read_to_string(path).unwrap();
        let documented: Vec<&str> =
            page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(code, _)| code)).collect();
        let declared: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(documented, declared);
    }

    #[test]
    fn a_code_is_written_to_json_as_its_stable_text() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{}\"", reason.as_str()));
        }
    }
}
