// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @title The registry: the append-only logs of any number of realms
/// @notice A realm is one organisation's trust domain. Its log is split into shards; each shard is a hash chain whose head is one
/// storage slot, so that a storage proof of that slot vouches for every entry of the shard, in order, with none left out.
///
/// The contract decides two things only: who may write an entry of a class, and into which shard. It interprets three kinds
/// (root set, role set, member set) because they decide who may write; all else is for readers.
///
/// Trust assumptions:
/// - No owner, no proxy, no pause, no way to change or delete what was written. The runtime code is the same at every address
///   on every chain (no immutables); readers pin its hash.
/// - A realm is named by its first roots: `realmId(threshold, roots, salt)`. It exists without a transaction, and nobody but a
///   threshold of these roots can give the first role. Realms share nothing.
/// - The block producer chooses `block.timestamp` within its chain's rules; day shards and revocation periods follow it.
/// - Who signs for an address: its key (ECDSA over secp256k1, or P-256), or, where it has code, its own `isValidSignature` (ERC-1271),
///   called statically. An account with an EIP-7702 delegation has a key and code; either signs. P-256 is checked by the
///   chain's precompile at 0x100 (RIP-7212, EIP-7951); on a chain without it, signatures by such keys revert with `NoP256`.
/// - Signed writes are made first and their signatures checked last, in one transaction: nothing stays of a call that reverts. While a
///   wallet is asked, the reading functions revert with `WalletIsAsked`: no write can be the reason for which it is agreed to.
/// - A threshold of roots signs one hash that does not name them. A wallet that is a root must therefore bind its own address, as Safe
///   does: one that takes its owner's plain signature takes the one that this owner gave as another root.
/// - A P-256 key that is an actor or root serves nothing else.
/// - Entries of class 09 (inbox) are written by anybody: readers bound what they take from them.
///
/// Signatures, in the order tried:
/// - 65 bytes: r ‖ s ‖ v, by the secp256k1 key of the signer's address; s in the lower half, v 27 or 28.
/// - 128 bytes: r ‖ s ‖ x ‖ y, by the P-256 key (x, y) over the hash itself; s in the lower half. The key's address is the last 20 bytes
///   of keccak256("p256" ‖ x ‖ y).
/// - more: r ‖ s ‖ x ‖ y ‖ length of authenticatorData (2 bytes) ‖ authenticatorData ‖ rest of clientDataJSON, by the P-256 key as a
///   WebAuthn authenticator (passkey, security key) that was asked about the hash. The key's address is the last 20 bytes of
///   keccak256("webauthn" ‖ x ‖ y): never that of a key that signs hashes itself. clientDataJSON is
///   `{"type":"webauthn.get","challenge":"` ‖ base64url of the hash ‖ `"` ‖ the rest, and authenticatorData say that the user was
///   present and verified.
/// - otherwise, and where the key is not the signer's: what its wallet contract takes.
///
/// Preimages, kinds and layouts: docs/spec/registry.md.
interface IRegistry {
    /// @notice One entry to be written.
    /// @param shard Shard class << 32 | epoch. Epoch 0 for the classes with no epoch and for day shards (the contract fills in the
    /// day); expiry time / 30 days for class 03.
    /// @param kind Class << 8 | number.
    /// @param data One encoding byte, then the payload.
    struct Write {
        uint64 shard;
        uint16 kind;
        bytes data;
    }

    /// @notice What the hash in the root set's slot was made from.
    /// @param nonce Number of `appendByRoots` calls so far.
    /// @param threshold How many roots must sign.
    /// @param roots The roots in force.
    /// @param salt Read only while the realm's root set slot is empty: the salt of the realm id.
    struct RootProof {
        uint256 nonce;
        uint256 threshold;
        address[] roots;
        bytes32 salt;
    }

    /// @notice One entry was appended. Every field is in the preimage of the shard's head.
    /// @param actor Who wrote it; zero for a threshold of roots.
    /// @param meta kind << 96 | prevBlock << 64 | block time; prevBlock is the low 32 bits of the number of the block in which the
    /// shard was last written, 0 for its first entry.
    event Entry(bytes32 indexed realm, uint64 indexed shard, address indexed actor, uint256 meta, bytes data);

    /// @notice No such kind class.
    error UndefinedClass(uint16 kind);
    /// @notice The writer may not write entries of this class. `byRoots`: the writer was a threshold of roots.
    error NotAllowed(bytes32 realm, address actor, bool byRoots, uint16 kind);
    /// @notice The kind's class goes to another shard.
    error WrongShard(uint16 kind, uint64 shard, uint64 expected);
    /// @notice Class 03: the period is more than one before or more than 13 after the current one.
    error PeriodOutOfRange(uint64 shard, uint256 currentPeriod);
    /// @notice The data is empty or longer than its class allows.
    error WrongSize(uint16 kind, uint256 size, uint256 limit);
    /// @notice Class 03: the data is not 1 + 16 + n × 8 bytes with n ≥ 1.
    error WrongRevocationWidth(uint16 kind, uint256 size);
    /// @notice An interpreted payload is not clear (encoding 0) or not in its one form: a role set or member set of another length,
    /// or a member byte above 1; a root set that is not what `abi.encode` makes of its decoded value. A root set that
    /// the ABI decoder refuses outright reverts without a reason.
    error NotCanonical(uint16 kind);
    /// @notice The subject of a role set or member set is the zero address, which stands for the roots.
    error ZeroActor(uint16 kind);
    /// @notice A role set names bits above 15.
    error UndefinedRoles(uint64 roles);
    /// @notice The threshold is zero or above the number of roots, or there are more than 64 roots.
    error WrongThreshold(uint256 threshold, uint256 roots);
    /// @notice A root is the zero address or appears twice.
    error WrongRoot(address root);
    /// @notice An empty list of writes.
    error NoWrites();
    /// @notice The signed write's deadline has passed.
    error DeadlinePassed(uint256 deadline, uint256 time);
    /// @notice The nonce signed is not the next one.
    error WrongNonce(uint256 given, uint256 expected);
    /// @notice The signature is not one by `signer` over these writes.
    error WrongSignature(address signer);
    /// @notice A signature by a P-256 key, on a chain without the precompile that checks them (0x100).
    error NoP256();
    /// @notice A wallet asked the registry while the registry was asking it about a signature.
    error WalletIsAsked();
    /// @notice The proof does not hash to the realm's root set (or, before its first change, to the realm id).
    error WrongRootSet(bytes32 given, bytes32 expected);
    /// @notice A signature's index is not that of a root.
    error NoSuchRoot(uint256 index, uint256 roots);
    /// @notice A root signed twice.
    error DuplicateRoot(uint256 index);
    /// @notice Fewer signatures than the threshold.
    error BelowThreshold(uint256 signatures, uint256 threshold);

    /// @notice Appends one entry as the caller.
    /// @param realm Any: a realm exists as soon as somebody may write to it.
    /// @param shard As in `Write`, like `kind` and `data`.
    function append(bytes32 realm, uint64 shard, uint16 kind, bytes calldata data) external;

    /// @notice Appends several entries as the caller: all of them, in order, or none.
    function appendMany(bytes32 realm, Write[] calldata writes) external;

    /// @notice Appends one entry that `actor` signed; anybody may send it.
    /// @param nonce The actor's nonce in this realm: `actorOf(realm, actor) >> 64`.
    /// @param deadline The last block time, in seconds, at which this may be included.
    /// @param signature By `actor`, over the EIP-712 hash of
    /// `Append(address actor,bytes32 realm,uint64 shard,uint16 kind,bytes data,uint256 nonce,uint256 deadline)`.
    function appendBySig(
        address actor,
        bytes32 realm,
        uint64 shard,
        uint16 kind,
        bytes calldata data,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /// @notice Appends entries that `actor` signed together: all of them, in order, or none; anybody may send them.
    /// @param signature By `actor`, over the EIP-712 hash of
    /// `AppendMany(address actor,bytes32 realm,Write[] writes,uint256 nonce,uint256 deadline)`.
    function appendManyBySig(
        address actor,
        bytes32 realm,
        Write[] calldata writes,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /// @notice Appends entries that a threshold of roots signed; anybody may send them. Their actor is the zero address.
    /// @param proof The root set in force.
    /// @param signatures One after the other, each as the root's place in `proof.roots` (1 byte), the length of its signature (2 bytes)
    /// and the signature, over the EIP-712 hash of `AppendByRoots(bytes32 realm,uint256 nonce,Write[] writes)`. At least
    /// `proof.threshold`, by distinct roots, in any order. One that does not verify refuses the call; bytes that are cut short revert
    /// without a reason.
    function appendByRoots(bytes32 realm, RootProof calldata proof, Write[] calldata writes, bytes calldata signatures)
        external;

    /// @notice The shard's slot: head << 32 | low 32 bits of the last block's number; zero while it is empty.
    function slotOf(bytes32 realm, uint64 shard) external view returns (uint256);

    /// @notice keccak256(abi.encode(nonce, threshold, roots)); zero while the set in the realm id is in force.
    function rootSetOf(bytes32 realm) external view returns (bytes32);

    /// @notice nonce << 64 | role bits.
    function actorOf(bytes32 realm, address who) external view returns (uint256);

    /// @notice The id of the realm with these first roots, on this chain and contract.
    function realmId(uint256 threshold, address[] calldata roots, bytes32 salt) external view returns (bytes32);
}
