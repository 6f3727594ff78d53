// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "./IRegistry.sol";
import {Kinds, Roles, RootSet} from "./Entries.sol";
import {P256} from "./P256.sol";

/// @title Registry
/// @notice See `IRegistry`. Readers pin the hash of this contract's runtime code, hence no immutables, and prove its storage, hence
/// the order of the state variables is part of the format.
contract Registry is IRegistry {
    uint256 private constant CLASS_DIRECTORY = 0x01;
    uint256 private constant CLASS_REVOCATION = 0x03;
    uint256 private constant CLASS_INBOX = 0x09;
    /// @dev Spare: class 10 belongs to role bit 8 and shard class 8, and so on to class 17.
    uint256 private constant CLASS_SPARE = 0x10;
    uint256 private constant CLASS_SPARE_END = 0x18;
    uint256 private constant SPARE_OFFSET = 8;

    /// @dev The roles that may write the classes 00 to 09: 16 bits for each, the lowest for class 00. A threshold of roots may write
    /// the classes 00 to 03; anybody, class 09.
    uint256 private constant WRITERS = (Roles.ADMIN << 16) | (Roles.REVOKER << 32)
        | ((Roles.REVOKER | Roles.ISSUER) << 48) | (uint256(Roles.ISSUER) << 64) | (uint256(Roles.WATCHDOG) << 80)
        | (uint256(Roles.APPROVER) << 96) | (uint256(Roles.MEMBER) << 112)
        | (uint256(Roles.ADMIN | Roles.ISSUER) << 128);
    uint256 private constant ROLE_BITS = 0xffff;
    /// @dev The shard classes of the classes 00 to 09: one digit for each, the last for class 00.
    uint256 private constant SHARD_CLASSES = 0x7654443210;

    /// @dev The classes 02, 03 and 08, whose entries may be large: many items, or public data.
    uint256 private constant LARGE_CLASSES = (1 << 0x02) | (1 << 0x03) | (1 << 0x08);
    uint256 private constant SIZE_LIMIT = 4 * 1024;
    uint256 private constant SIZE_LIMIT_LARGE = 24 * 1024;
    uint256 private constant SIZE_LIMIT_INBOX = 1024;
    uint256 private constant REVOCATION_HEAD = 1 + 16;
    uint256 private constant SERIAL_SIZE = 8;

    /// @dev Encoding byte, actor, roles, X25519 key; and encoding byte, actor, member, subject, X25519 key.
    uint256 private constant ROLE_SET_SIZE = 1 + 20 + 8 + 32;
    uint256 private constant MEMBER_SET_SIZE = 1 + 20 + 1 + 16 + 32;

    uint256 private constant REVOCATION_PERIOD = 30 days;
    uint256 private constant PERIODS_BACK = 1;
    uint256 private constant PERIODS_AHEAD = 13;

    uint256 private constant MAX_ROOTS = 64;
    /// @dev Before each root's signature: index and length.
    uint256 private constant SIGNATURE_HEAD = 1 + 2;

    /// @dev The part of a shard's slot that holds the number of the block it was last written in.
    uint256 private constant LAST_BLOCK = 0xffffffff;

    /// @dev Half of secp256k1's order: of the two signatures (r, s) and (r, n − s) only the lower is taken.
    uint256 private constant HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant NAME_HASH = keccak256("Countersign Registry");
    bytes32 private constant VERSION_HASH = keccak256("1");
    bytes32 private constant WRITE_TYPEHASH = keccak256("Write(uint64 shard,uint16 kind,bytes data)");
    bytes32 private constant APPEND_TYPEHASH = keccak256(
        "Append(address actor,bytes32 realm,uint64 shard,uint16 kind,bytes data,uint256 nonce,uint256 deadline)"
    );
    bytes32 private constant APPEND_MANY_TYPEHASH = keccak256(
        "AppendMany(address actor,bytes32 realm,Write[] writes,uint256 nonce,uint256 deadline)Write(uint64 shard,uint16 kind,bytes data)"
    );
    bytes32 private constant APPEND_BY_ROOTS_TYPEHASH = keccak256(
        "AppendByRoots(bytes32 realm,uint256 nonce,Write[] writes)Write(uint64 shard,uint16 kind,bytes data)"
    );
    /// @dev ERC-1271: `isValidSignature(bytes32,bytes)` returns its own selector.
    bytes4 private constant ERC1271_MAGIC = 0x1626ba7e;

    mapping(bytes32 realm => mapping(uint64 shard => uint256)) private heads;
    mapping(bytes32 realm => bytes32) private rootSet;
    mapping(bytes32 realm => mapping(address who => uint256)) private actors;

    /// @dev Set while a wallet is asked: writes come before their signatures are looked at (`_appendSigned`), and a wallet that
    /// went by what is written here could agree to a write because of that very write.
    bool private transient asking;

    modifier whileNobodyIsAsked() {
        if (asking) revert WalletIsAsked();
        _;
    }

    // --- Writing

    /// @inheritdoc IRegistry
    function append(bytes32 realm, uint64 shard, uint16 kind, bytes calldata data) external {
        _append(realm, msg.sender, 0, shard, kind, data);
    }

    /// @inheritdoc IRegistry
    function appendMany(bytes32 realm, Write[] calldata writes) external {
        if (writes.length == 0) revert NoWrites();
        for (uint256 i = 0; i < writes.length; ++i) {
            Write calldata write = writes[i];
            _append(realm, msg.sender, 0, write.shard, write.kind, write.data);
        }
    }

    /// @inheritdoc IRegistry
    function appendBySig(
        address actor,
        bytes32 realm,
        uint64 shard,
        uint16 kind,
        bytes calldata data,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external {
        _useNonce(realm, actor, nonce, deadline);
        bytes32 dataHash = _append(realm, actor, 0, shard, kind, data);
        bytes32 message = keccak256(abi.encode(APPEND_TYPEHASH, actor, realm, shard, kind, dataHash, nonce, deadline));
        _requireSignature(actor, _digest(message), signature);
    }

    /// @inheritdoc IRegistry
    function appendManyBySig(
        address actor,
        bytes32 realm,
        Write[] calldata writes,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external {
        _useNonce(realm, actor, nonce, deadline);
        bytes32 writesHash = _appendSigned(realm, actor, 0, writes);
        bytes32 message = keccak256(abi.encode(APPEND_MANY_TYPEHASH, actor, realm, writesHash, nonce, deadline));
        _requireSignature(actor, _digest(message), signature);
    }

    /// @inheritdoc IRegistry
    function appendByRoots(bytes32 realm, RootProof calldata proof, Write[] calldata writes, bytes calldata signatures)
        external
    {
        (uint256 nonce, uint256 threshold, address[] calldata roots) = (proof.nonce, proof.threshold, proof.roots);
        _requireRootSet(realm, nonce, threshold, roots, proof.salt);
        rootSet[realm] = keccak256(abi.encode(nonce + 1, threshold, roots));

        bytes32 writesHash = _appendSigned(realm, address(0), nonce + 1, writes);
        bytes32 message = keccak256(abi.encode(APPEND_BY_ROOTS_TYPEHASH, realm, nonce, writesHash));
        _requireThreshold(threshold, roots, _digest(message), signatures);
    }

    // --- Reading

    /// @inheritdoc IRegistry
    function slotOf(bytes32 realm, uint64 shard) external view whileNobodyIsAsked returns (uint256) {
        return heads[realm][shard];
    }

    /// @inheritdoc IRegistry
    function rootSetOf(bytes32 realm) external view whileNobodyIsAsked returns (bytes32) {
        return rootSet[realm];
    }

    /// @inheritdoc IRegistry
    function actorOf(bytes32 realm, address who) external view whileNobodyIsAsked returns (uint256) {
        return actors[realm][who];
    }

    /// @inheritdoc IRegistry
    function realmId(uint256 threshold, address[] calldata roots, bytes32 salt) public view returns (bytes32) {
        return keccak256(abi.encode("countersign.realm.v1", block.chainid, address(this), threshold, roots, salt));
    }

    // --- Entries

    /// @dev The writes are made before their signatures are looked at: a signature that fails takes them back with all else.
    /// Wallets are asked last, and learn nothing of it (`asking`).
    /// @param rootNonce The nonce of the root set after this call where a threshold of roots writes; else zero.
    /// @return The EIP-712 hash of the writes: that of their hashes.
    function _appendSigned(bytes32 realm, address actor, uint256 rootNonce, Write[] calldata writes)
        private
        returns (bytes32)
    {
        uint256 count = writes.length;
        if (count == 0) revert NoWrites();
        bytes32[] memory hashes = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            Write calldata write = writes[i];
            (uint64 shard, uint16 kind) = (write.shard, write.kind);
            bytes32 dataHash = _append(realm, actor, rootNonce, shard, kind, write.data);
            hashes[i] = keccak256(abi.encode(WRITE_TYPEHASH, shard, kind, dataHash));
        }
        return keccak256(abi.encodePacked(hashes));
    }

    /// @return dataHash The hash of the data.
    function _append(bytes32 realm, address actor, uint256 rootNonce, uint64 shard, uint16 kind, bytes calldata data)
        private
        returns (bytes32 dataHash)
    {
        uint256 class = kind >> 8;
        if (class > CLASS_INBOX) {
            if (class < CLASS_SPARE || class >= CLASS_SPARE_END) revert UndefinedClass(kind);
        }
        if (!_mayWrite(realm, actor, rootNonce != 0, class)) revert NotAllowed(realm, actor, rootNonce != 0, kind);
        _requireSize(kind, class, data.length);
        shard = _targetShard(kind, class, shard);
        if (class <= CLASS_DIRECTORY) _interpret(realm, rootNonce, kind, data);

        dataHash = keccak256(data);
        uint256 meta = _chain(realm, shard, actor, kind, dataHash);
        emit Entry(realm, shard, actor, meta, data);
    }

    function _chain(bytes32 realm, uint64 shard, address actor, uint16 kind, bytes32 dataHash)
        private
        returns (uint256 meta)
    {
        mapping(uint64 => uint256) storage slots = heads[realm];
        uint256 slot = slots[shard];
        meta = (uint256(kind) << 96) | ((slot & LAST_BLOCK) << 64) | uint64(block.timestamp);
        // slither-disable-next-line timestamp -- the time is a part of what was hashed, nothing is decided by it
        if (slot == 0) {
            slot = uint256(keccak256(abi.encode("countersign.head.v1", block.chainid, address(this), realm, shard)));
        }
        uint256 head = uint256(keccak256(abi.encode(slot, realm, shard, actor, meta, dataHash))) >> 32;
        slots[shard] = (head << 32) | uint32(block.number);
    }

    // --- The table of classes

    function _mayWrite(bytes32 realm, address actor, bool byRoots, uint256 class) private view returns (bool) {
        if (class == CLASS_INBOX) return true;
        if (byRoots) return class <= CLASS_REVOCATION;
        uint256 writers =
            class < CLASS_SPARE ? (WRITERS >> (class << 4)) & ROLE_BITS : uint256(1) << (class - SPARE_OFFSET);
        return writers & actors[realm][actor] != 0;
    }

    function _requireSize(uint16 kind, uint256 class, uint256 size) private pure {
        uint256 limit = SIZE_LIMIT;
        if ((LARGE_CLASSES >> class) & 1 != 0) limit = SIZE_LIMIT_LARGE;
        else if (class == CLASS_INBOX) limit = SIZE_LIMIT_INBOX;
        if (size == 0) revert WrongSize(kind, size, limit);
        if (size > limit) revert WrongSize(kind, size, limit);
        if (class == CLASS_REVOCATION) {
            if (size < REVOCATION_HEAD + SERIAL_SIZE || (size - REVOCATION_HEAD) % SERIAL_SIZE != 0) {
                revert WrongRevocationWidth(kind, size);
            }
        }
    }

    /// @dev The shard that the entry goes to. The epochs are 32 bits wide until the years 350 million (periods) and 11 million (days).
    function _targetShard(uint16 kind, uint256 class, uint64 shard) private view returns (uint64) {
        uint256 shardClass = class < CLASS_SPARE ? (SHARD_CLASSES >> (class << 2)) & 0xf : class - SPARE_OFFSET;
        // forge-lint: disable-next-line(unsafe-typecast) -- a shard class has four bits
        uint64 expected = uint64(shardClass << 32);
        if (class == CLASS_REVOCATION) {
            if (shard >> 32 != shardClass) revert WrongShard(kind, shard, expected);
            uint256 period = shard - expected;
            uint256 current = block.timestamp / REVOCATION_PERIOD;
            // slither-disable-next-line timestamp -- periods of 30 days
            if (period + PERIODS_BACK < current || period > current + PERIODS_AHEAD) {
                revert PeriodOutOfRange(shard, current);
            }
            return shard;
        }
        if (shard != expected) revert WrongShard(kind, shard, expected);
        return class > CLASS_REVOCATION ? expected | uint32(block.timestamp / 1 days) : expected;
    }

    // --- The three kinds that are interpreted

    function _interpret(bytes32 realm, uint256 rootNonce, uint16 kind, bytes calldata data) private {
        if (kind == Kinds.ROOT_SET) _setRoots(realm, rootNonce, data);
        else if (kind == Kinds.ROLE_SET) _setRoles(realm, data);
        else if (kind == Kinds.MEMBER_SET) _setMember(realm, data);
    }

    // forge-lint: disable-start(unsafe-typecast) -- fields are cut out of the first word
    function _setRoles(bytes32 realm, bytes calldata data) private {
        if (data.length != ROLE_SET_SIZE || data[0] != 0) revert NotCanonical(Kinds.ROLE_SET);
        uint256 head = uint256(bytes32(data));
        address actor = address(uint160(head >> 88));
        uint64 roles = uint64(head >> 24);
        if (actor == address(0)) revert ZeroActor(Kinds.ROLE_SET);
        if (roles > ROLE_BITS) revert UndefinedRoles(roles);
        mapping(address => uint256) storage records = actors[realm];
        records[actor] = ((records[actor] >> 64) << 64) | roles;
    }

    function _setMember(bytes32 realm, bytes calldata data) private {
        if (data.length != MEMBER_SET_SIZE || data[0] != 0) revert NotCanonical(Kinds.MEMBER_SET);
        uint256 head = uint256(bytes32(data));
        uint256 member = uint8(head >> 80);
        if (member > 1) revert NotCanonical(Kinds.MEMBER_SET);
        address actor = address(uint160(head >> 88));
        if (actor == address(0)) revert ZeroActor(Kinds.MEMBER_SET);
        mapping(address => uint256) storage records = actors[realm];
        uint256 record = records[actor];
        records[actor] = member == 1 ? record | Roles.MEMBER : record & ~uint256(Roles.MEMBER);
    }

    // forge-lint: disable-end(unsafe-typecast)

    /// @dev Readers take only what encodes to the very same bytes. Were the contract to take more, it and they could disagree
    /// about who the roots are.
    function _setRoots(bytes32 realm, uint256 rootNonce, bytes calldata data) private {
        if (data[0] != 0) revert NotCanonical(Kinds.ROOT_SET);
        RootSet memory set = abi.decode(data[1:], (RootSet));
        if (keccak256(data[1:]) != keccak256(abi.encode(set))) revert NotCanonical(Kinds.ROOT_SET);
        _requireWellFormed(set);
        rootSet[realm] = keccak256(abi.encode(rootNonce, set.threshold, set.roots));
    }

    function _requireWellFormed(RootSet memory set) private pure {
        uint256 count = set.roots.length;
        if (set.threshold == 0 || set.threshold > count || count > MAX_ROOTS) {
            revert WrongThreshold(set.threshold, count);
        }
        for (uint256 i = 0; i < count; ++i) {
            address root = set.roots[i];
            if (root == address(0)) revert WrongRoot(root);
            for (uint256 j = 0; j < i; ++j) {
                if (set.roots[j] == root) revert WrongRoot(root);
            }
        }
    }

    // --- Signatures

    // slither-disable-next-line timestamp -- a deadline of minutes; a producer's seconds do not matter
    function _useNonce(bytes32 realm, address actor, uint256 nonce, uint256 deadline) private {
        // forge-lint: disable-next-line(block-timestamp) -- a deadline of minutes; a producer's seconds do not matter
        if (block.timestamp > deadline) revert DeadlinePassed(deadline, block.timestamp);
        mapping(address => uint256) storage records = actors[realm];
        uint256 record = records[actor];
        if (nonce != record >> 64) revert WrongNonce(nonce, record >> 64);
        records[actor] = record + (1 << 64);
    }

    /// @dev A set that the contract stored was checked when it was written; the one in a realm id is checked here.
    function _requireRootSet(bytes32 realm, uint256 nonce, uint256 threshold, address[] calldata roots, bytes32 salt)
        private
        view
    {
        bytes32 expected = rootSet[realm];
        if (expected != 0) {
            bytes32 given = keccak256(abi.encode(nonce, threshold, roots));
            if (given != expected) revert WrongRootSet(given, expected);
        } else {
            bytes32 given = realmId(threshold, roots, salt);
            if (given != realm) revert WrongRootSet(given, realm);
            if (nonce != 0) revert WrongNonce(nonce, 0);
            _requireWellFormed(RootSet(threshold, roots));
        }
    }

    /// @dev The signatures come one after the other, each as a byte with its root's index, two bytes with its length, and itself.
    function _requireThreshold(uint256 threshold, address[] calldata roots, bytes32 digest, bytes calldata signatures)
        private
    {
        uint256 seen = 0;
        uint256 count = 0;
        while (signatures.length != 0) {
            // forge-lint: disable-next-line(unsafe-typecast) -- the first three bytes
            uint256 head = uint24(bytes3(signatures));
            uint256 index = head >> 16;
            uint256 end = SIGNATURE_HEAD + (head & 0xffff);
            if (index >= roots.length) revert NoSuchRoot(index, roots.length);
            uint256 bit = uint256(1) << index;
            if (seen & bit != 0) revert DuplicateRoot(index);
            seen |= bit;
            ++count;
            _requireSignature(roots[index], digest, signatures[SIGNATURE_HEAD:end]);
            signatures = signatures[end:];
        }
        if (count < threshold) revert BelowThreshold(count, threshold);
    }

    /// @dev The key is tried first: to ask whether an account has code costs as much as its signature. Where both a key and
    /// code can answer for an address (EIP-7702), either does; the holder of the key could replace the code anyway.
    function _requireSignature(address signer, bytes32 digest, bytes calldata signature) private {
        if (_isByKey(signer, digest, signature)) return;
        if (P256.names(signature, signer)) {
            if (P256.verifies(signature, digest)) return;
            revert WrongSignature(signer);
        }
        if (signer.code.length != 0 && _isByWallet(signer, digest, signature)) return;
        revert WrongSignature(signer);
    }

    function _isByKey(address signer, bytes32 digest, bytes calldata signature) private pure returns (bool) {
        if (signature.length != 65) return false;
        (bytes32 r, bytes32 s) = (bytes32(signature[:32]), bytes32(signature[32:64]));
        if (uint256(s) > HALF_ORDER) return false;
        address recovered = ecrecover(digest, uint8(signature[64]), r, s);
        return recovered != address(0) && recovered == signer;
    }

    function _isByWallet(address wallet, bytes32 digest, bytes calldata signature) private returns (bool) {
        asking = true;
        // slither-disable-next-line calls-loop -- a threshold may be wallets; who sends the call pays for them
        (bool success, bytes memory result) =
            wallet.staticcall(abi.encodeWithSelector(ERC1271_MAGIC, digest, signature));
        asking = false;
        return success && result.length >= 32 && abi.decode(result, (bytes32)) == bytes32(ERC1271_MAGIC);
    }

    function _digest(bytes32 message) private view returns (bytes32) {
        bytes32 domain = keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this)));
        return keccak256(abi.encodePacked(hex"1901", domain, message));
    }
}
