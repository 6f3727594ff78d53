// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @title Entry payloads
/// @notice What the entries of a realm's log say. An entry's data is one encoding byte (0 = clear, 1 = sealed to the realm's
/// readers, reserved) followed by the payload: `abi.encode` of the struct named beside its kind, or, for the kinds marked
/// "packed", the bytes described there: where that is a struct, its fields one after the other in their own width, without
/// padding. Readers accept only `encode(decode(x)) == x`. The kinds' numbers are in `Kinds`.
///
/// No imports and no enums here: Rust reads this file as it stands, and an unknown kind must still parse. Times are Unix
/// seconds, durations seconds, ids 16 bytes (see `docs/spec/registry.md`), keys in SSH wire form ("blob") unless said.
library Kinds {
    // 00 governance: written by a threshold of roots (0x80 and above are critical)
    uint16 internal constant ROOT_SET = 0x0000; // RootSet, interpreted by the contract
    uint16 internal constant ROLE_SET = 0x0001; // packed: RoleSet, interpreted by the contract
    uint16 internal constant CA_ADD = 0x0002; // CaAdd
    uint16 internal constant CA_LOOSEN = 0x0003; // CaLimits: replaces the limits of a CA
    uint16 internal constant UNLOCK = 0x0004; // Unlock
    uint16 internal constant RESTORE = 0x0005; // Restore
    uint16 internal constant SETTINGS = 0x0006; // Settings
    uint16 internal constant REVOKE = 0x0007; // Revoke: permanent
    uint16 internal constant MIGRATE = 0x0080; // Migrate: the realm goes on elsewhere
    uint16 internal constant MIGRATED = 0x0081; // Migrated: the realm comes from elsewhere; first entry of shard 0

    // 01 directory: ADMIN or roots
    uint16 internal constant MEMBER_SET = 0x0100; // packed: MemberSet, interpreted by the contract
    uint16 internal constant USER_ADD = 0x0101; // UserAdd
    uint16 internal constant GROUP_ADD = 0x0102; // GroupAdd
    uint16 internal constant HOST_ADD = 0x0103; // HostAdd
    uint16 internal constant LABEL_ADD = 0x0104; // LabelAdd
    uint16 internal constant KEY_ADD = 0x0105; // KeyAdd
    uint16 internal constant GRANT_ADD = 0x0106; // GrantAdd
    uint16 internal constant GROUP_MEMBER_ADD = 0x0107; // GroupMemberAdd
    uint16 internal constant PAYLOAD_NAME_ADD = 0x0108; // PayloadNameAdd
    uint16 internal constant REMOVE = 0x0109; // packed: n x 16-byte record ids of this shard
    uint16 internal constant CONFIRM = 0x010a; // packed: n x 16-byte record ids of this shard

    // 02 denial: REVOKER or roots
    uint16 internal constant KEY_LOCK = 0x0200; // packed: n x 20 bytes, each the head of a key blob's SHA-256
    uint16 internal constant USER_LOCK = 0x0201; // packed: n x 16-byte record ids
    uint16 internal constant HOST_LOCK = 0x0202; // packed: n x 16-byte record ids
    uint16 internal constant CA_LOCK = 0x0203; // packed: n x 16-byte record ids
    uint16 internal constant ACTOR_LOCK = 0x0204; // packed: n x 20-byte addresses
    uint16 internal constant BATCH_LOCK = 0x0205; // packed: n x 16-byte record ids
    uint16 internal constant CA_RETIRE = 0x0206; // packed: n x 16-byte record ids
    uint16 internal constant CA_TIGHTEN = 0x0207; // CaLimits: intersected with the limits in force
    uint16 internal constant SETTINGS_TIGHTEN = 0x0208; // Settings: each counts where stricter than the one in force

    // 03 certificate revocation: REVOKER, ISSUER or roots
    uint16 internal constant CERT_REVOKE = 0x0300; // packed: 16-byte CA id, then n x 8-byte big-endian serials, n >= 1

    // 04 batch, 05 countersignature, 06 approval
    uint16 internal constant BATCH = 0x0400; // packed: Batch
    uint16 internal constant COUNTERSIGN = 0x0500; // packed: Countersign
    uint16 internal constant APPROVE = 0x0600; // packed: Approve
    uint16 internal constant DENY = 0x0601; // packed: one 16-byte request id

    // 07 member
    uint16 internal constant REQUEST = 0x0700; // Request
    uint16 internal constant ACKNOWLEDGE = 0x0701; // packed: Acknowledge
    uint16 internal constant PREKEYS = 0x0702; // packed: Prekeys

    // 08 delivery
    uint16 internal constant DELIVERY = 0x0800; // packed: Delivery
    uint16 internal constant PUBLIC_DATA = 0x0801; // PublicData
    uint16 internal constant ENVELOPE = 0x0802; // packed: Envelope

    // 09 inbox
    uint16 internal constant ENROL = 0x0900; // Enrol
}

/// Role bits, of actors and of `RoleSet.roles`.
library Roles {
    uint64 internal constant ADMIN = 1 << 0;
    uint64 internal constant ISSUER = 1 << 1;
    uint64 internal constant WATCHDOG = 1 << 2;
    uint64 internal constant APPROVER = 1 << 3;
    uint64 internal constant REVOKER = 1 << 4;
    uint64 internal constant MEMBER = 1 << 5;
}

// --- 00 governance

struct RootSet {
    uint256 threshold;
    address[] roots; // distinct, none zero; threshold <= roots.length <= 64
}

/// Replaces the actor's roles; 0 takes all of them away. Packed: 20, 8 and 32 bytes.
struct RoleSet {
    address actor;
    uint64 roles;
    bytes32 x25519; // the actor's sealing key; zero: none
}

/// The CA's record id comes from `r`.
struct CaAdd {
    bytes16 r;
    uint8 purpose; // 1 user certificates, 2 host certificates
    string name; // [a-z0-9._-]{1,63}
    bytes publicKey;
    uint64 maxTtl;
    string[] logins; // logins it may certify; empty: any
    address[] issuers; // actors whose batches carry it
}

struct CaLimits {
    bytes16 ca;
    uint64 maxTtl;
    string[] logins;
    address[] issuers;
}

/// Ends the locks that were logged in earlier blocks.
struct Unlock {
    uint16 kind; // the kind of the locks: KEY_LOCK to BATCH_LOCK
    bytes targets; // packed as that kind's data
}

/// A removed (or revoked) user or host comes back under its own id.
struct Restore {
    uint16 kind; // USER_ADD or HOST_ADD
    bytes16 id;
    string name; // as it was
    uint32 uid; // as it was; 0 for a host
}

/// Settings not named stay. Keys: 1 require-logged (0/1), 2 max-ttl, 3 countersign-quorum, 4 max-staleness, 5 directory-delay,
/// 6 directory-quorum, 7 uid-base (set once), 8 pickup. Unknown keys are ignored.
struct Settings {
    Setting[] items;
}

struct Setting {
    uint16 key;
    uint64 value;
}

struct Revoke {
    uint16 kind; // KEY_LOCK, USER_LOCK, HOST_LOCK, CA_LOCK: what the targets are
    bytes targets; // packed as that kind's data
}

/// Where the realm goes, and what of it counts there; see docs/spec/migration.md.
struct Migrate {
    uint64 chainId;
    bytes32 genesisHash; // of the target's chain
    address registry;
    bytes32 codeHash; // of the target's contract
    bytes32 realm; // the target's id
    uint64 blockNumber; // of this realm's chain: the heads' entries are in it or before it
    ShardHead[] heads; // of this realm, ascending by shard, at most 50
}

/// Where the realm comes from. The first entry of shard 0, or without meaning.
struct Migrated {
    uint64 chainId;
    bytes32 genesisHash; // of the source's chain
    address registry;
    bytes32 codeHash; // of the source's contract
    bytes32 realm; // the source's id
    uint64 blockNumber; // as in the source's Migrate
    ShardHead[] heads; // as in the source's Migrate
}

struct ShardHead {
    uint64 shard;
    uint256 slot; // not zero
}

// --- 01 directory

/// Makes `actor` a MEMBER bound to a user or host, or ends that. Packed: 20, 1, 16 and 32 bytes.
struct MemberSet {
    address actor;
    bool member; // one byte, 0 or 1
    bytes16 subject; // user or host record id
    bytes32 x25519; // its sealing key, made where it is used
}

struct UserAdd {
    bytes16 r;
    string login; // [a-z_][a-z0-9_-]{0,31}
    string displayName;
}

struct GroupAdd {
    bytes16 r;
    string name; // as a login
}

struct HostAdd {
    bytes16 r;
    string name; // [a-z0-9._-]{1,253}; for people, never decides access
    bytes16 owner; // user id; zero: none
    bytes hostKey; // SSH host key; may be empty
}

struct LabelAdd {
    bytes16 r;
    bytes16 target; // host or user id
    string label; // [a-z0-9._-]{1,63}
}

struct KeyAdd {
    bytes16 r;
    bytes16 user;
    bytes publicKey;
    uint8 purposes; // bit 0 login
    uint64 notAfter; // 0: no end
    string comment;
}

struct GrantAdd {
    bytes16 r;
    bytes16 subject; // user or group id
    bytes16[] hosts; // any of these, or
    string[] labels; // hosts that have all of these, or
    bool allHosts;
    string[] logins;
    uint8 via; // 1 certificate, 2 plain key, 3 both
    uint64 maxTtl; // 0: the CA's and the realm's
    uint8 approvals; // distinct approvers needed
    string forcedCommand; // empty: none
    string[] sourceAddresses; // CIDR; empty: any
    Hours[] intervals; // UTC; empty: always
    uint64 notAfter; // 0: no end
    uint8 permits; // bits: 0 pty, 1 port forwarding, 2 agent forwarding, 3 X11 forwarding, 4 user rc
}

/// One interval of a weekday: 0 is Monday; minutes of the day, `from` <= t < `to` <= 1440.
struct Hours {
    uint8 weekday;
    uint16 from;
    uint16 to;
}

struct GroupMemberAdd {
    bytes16 r;
    bytes16 group;
    bytes16 user;
}

struct PayloadNameAdd {
    bytes16 r;
    string name; // [a-z0-9._-]{1,63}
    uint8 payloadKind;
}

// --- 04 batch, 05 countersignature, 06 approval

/// Packed: 16, 16, 32, 4 and 8 bytes, and the rest.
struct Batch {
    bytes16 r;
    bytes16 ca;
    bytes32 root;
    uint32 size; // leaves, >= 1
    uint64 notAfter;
    bytes leavesCid; // binary CID of the leaves sealed to the watchdogs; empty: none
}

/// Packed: 16 and 32 bytes.
struct Countersign {
    bytes16 batch;
    bytes32 entryHash; // of the BATCH entry
}

/// Packed: 16 and 32 bytes.
struct Approve {
    bytes16 request;
    bytes32 approvalHash; // see docs/spec/certificate.md
}

// --- 07 member

struct Request {
    bytes16 r;
    bytes16 user;
    bytes16 host;
    string login;
    uint64 ttl;
    bytes publicKey;
    string reason;
}

/// Packed: 16 and 32 bytes.
struct Acknowledge {
    bytes16 delivery;
    bytes32 digest; // the delivery's, as seen by the recipient
}

/// X25519 keys of the actor's, each for one payload and for 30 days. Packed: 1 byte, then n x 32 bytes, 1 <= n <= 127.
struct Prekeys {
    uint8 drop; // 1: the actor's earlier prekeys are void; 0: they stay
    bytes32[] keys;
}

// --- 08 delivery

/// One sealed payload for one recipient. Packed: 16, 20, 1 and 32 bytes, the name after a byte with its length, and the rest.
struct Delivery {
    bytes16 r;
    address recipient;
    uint8 payloadKind; // 1 SSH certificate, 2 SSH key pair, 3 host certificate, 4 X.509 key pair, 5 opaque secret
    bytes32 digest; // salted, see docs/spec/delivery.md
    string payloadName;
    bytes sealedCid; // the block's CID, sealed to the recipient; not empty
}

/// Sealed payloads for any number of recipients, who are not named. Packed: 16, 1 and 32 bytes, and the name after a byte with its
/// length.
struct Envelope {
    bytes16 r;
    uint8 payloadKind; // as in Delivery
    bytes32 index; // SHA-256 of the envelope's index block, see docs/spec/delivery.md
    string payloadName;
}

struct PublicData {
    bytes16 r;
    string name; // [a-z0-9._-]{1,63}
    bytes data;
}

// --- 09 inbox

/// A device asks to be enrolled.
struct Enrol {
    address actor;
    bytes32 x25519;
    string name;
    bytes hostKey;
    bytes32 tokenMac; // zero: to be approved by hand
}
