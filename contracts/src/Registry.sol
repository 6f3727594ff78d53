// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "./IRegistry.sol";
import {Kinds, MemberSet, RoleSet, Roles, RootSet} from "./Entries.sol";

/// @title Registry
/// @notice See `IRegistry`. Readers pin the hash of this contract's runtime code, hence no immutables, and prove its storage, hence
/// the order of the state variables is part of the format.
contract Registry is IRegistry {
    /// @dev Besides the role bits 0 to 15, who may write a class: a threshold of roots, or anybody.
    uint256 private constant ROOTS = 1 << 16;
    uint256 private constant ANYBODY = type(uint256).max;
    uint256 private constant ROLE_BITS = 0xffff;

    uint256 private constant CLASS_REVOCATION = 0x03;
    uint256 private constant CLASS_DELIVERY = 0x08;
    uint256 private constant CLASS_INBOX = 0x09;

    uint256 private constant SIZE_LIMIT = 4 * 1024;
    uint256 private constant SIZE_LIMIT_DELIVERY = 24 * 1024;
    uint256 private constant SIZE_LIMIT_INBOX = 1024;
    uint256 private constant REVOCATION_HEAD = 1 + 16;
    uint256 private constant SERIAL_SIZE = 8;

    uint256 private constant REVOCATION_PERIOD = 30 days;
    uint256 private constant PERIODS_BACK = 1;
    uint256 private constant PERIODS_AHEAD = 13;

    uint256 private constant MAX_ROOTS = 64;

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
        "Append(address actor,bytes32 realm,Write[] writes,uint256 nonce,uint256 deadline)Write(uint64 shard,uint16 kind,bytes data)"
    );
    bytes32 private constant APPEND_BY_ROOTS_TYPEHASH = keccak256(
        "AppendByRoots(bytes32 realm,uint256 nonce,Write[] writes)Write(uint64 shard,uint16 kind,bytes data)"
    );
    /// @dev ERC-1271: `isValidSignature(bytes32,bytes)` returns its own selector.
    bytes4 private constant ERC1271_MAGIC = 0x1626ba7e;

    mapping(bytes32 realm => mapping(uint64 shard => uint256)) private heads;
    mapping(bytes32 realm => bytes32) private rootSet;
    mapping(bytes32 realm => mapping(address who => uint256)) private actors;

    // --- Writing

    /// @inheritdoc IRegistry
    function append(bytes32 realm, uint64 shard, uint16 kind, bytes calldata data) external {
        _append(realm, msg.sender, false, shard, kind, data);
    }

    /// @inheritdoc IRegistry
    function appendMany(bytes32 realm, Write[] calldata writes) external {
        _appendAll(realm, msg.sender, false, writes);
    }

    /// @inheritdoc IRegistry
    function appendBySig(
        address actor,
        bytes32 realm,
        Write[] calldata writes,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external {
        // forge-lint: disable-next-line(block-timestamp) -- a deadline of minutes; a producer's seconds do not matter
        if (block.timestamp > deadline) revert DeadlinePassed(deadline, block.timestamp);
        uint256 record = actors[realm][actor];
        if (nonce != record >> 64) revert WrongNonce(nonce, record >> 64);
        actors[realm][actor] = record + (1 << 64);

        bytes32 message = keccak256(abi.encode(APPEND_TYPEHASH, actor, realm, _hash(writes), nonce, deadline));
        _requireSignature(actor, _digest(message), signature);
        _appendAll(realm, actor, false, writes);
    }

    /// @inheritdoc IRegistry
    function appendByRoots(
        bytes32 realm,
        RootProof calldata proof,
        Write[] calldata writes,
        RootSignature[] calldata signatures
    ) external {
        _requireRootSet(realm, proof);
        bytes32 message = keccak256(abi.encode(APPEND_BY_ROOTS_TYPEHASH, realm, proof.nonce, _hash(writes)));
        _requireThreshold(proof, _digest(message), signatures);

        rootSet[realm] = _nextRootSet(proof, writes);
        _appendAll(realm, address(0), true, writes);
    }

    // --- Reading

    /// @inheritdoc IRegistry
    function slotOf(bytes32 realm, uint64 shard) external view returns (uint256) {
        return heads[realm][shard];
    }

    /// @inheritdoc IRegistry
    function rootSetOf(bytes32 realm) external view returns (bytes32) {
        return rootSet[realm];
    }

    /// @inheritdoc IRegistry
    function actorOf(bytes32 realm, address who) external view returns (uint256) {
        return actors[realm][who];
    }

    /// @inheritdoc IRegistry
    function realmId(uint256 threshold, address[] calldata roots, bytes32 salt) public view returns (bytes32) {
        return keccak256(abi.encode("countersign.realm.v1", block.chainid, address(this), threshold, roots, salt));
    }

    // --- One entry

    function _appendAll(bytes32 realm, address actor, bool byRoots, Write[] calldata writes) private {
        if (writes.length == 0) revert NoWrites();
        for (uint256 i = 0; i < writes.length; ++i) {
            Write calldata write = writes[i];
            _append(realm, actor, byRoots, write.shard, write.kind, write.data);
        }
    }

    /// @dev `byRoots` rather than `actor == address(0)`: a simulated call may come from the zero address.
    function _append(bytes32 realm, address actor, bool byRoots, uint64 shard, uint16 kind, bytes calldata data)
        private
    {
        (uint256 writers, uint64 shardClass, bool daily) = _rule(kind);
        if (!_isAmong(writers, realm, actor, byRoots)) revert NotAllowed(realm, actor, byRoots, kind);
        _requireSize(kind, data.length);
        shard = _targetShard(kind, shard, shardClass, daily);

        if (kind == Kinds.ROLE_SET) _setRoles(realm, data);
        else if (kind == Kinds.MEMBER_SET) _setMember(realm, data);

        _chain(realm, shard, actor, kind, data);
    }

    function _chain(bytes32 realm, uint64 shard, address actor, uint16 kind, bytes calldata data) private {
        uint256 slot = heads[realm][shard];
        uint256 meta = (uint256(kind) << 96) | ((slot & LAST_BLOCK) << 64) | uint64(block.timestamp);
        if (slot == 0) {
            slot = uint256(keccak256(abi.encode("countersign.head.v1", block.chainid, address(this), realm, shard)));
        }
        uint256 head = uint256(keccak256(abi.encode(slot, realm, shard, actor, meta, keccak256(data)))) >> 32;
        heads[realm][shard] = (head << 32) | uint32(block.number);
        emit Entry(realm, shard, actor, meta, data);
    }

    // --- The table of classes

    /// @return writers Role bits, ROOTS, or ANYBODY.
    /// @return shardClass The upper half of the shard.
    /// @return daily Whether the shard's epoch is the day.
    function _rule(uint16 kind) private pure returns (uint256 writers, uint64 shardClass, bool daily) {
        uint16 class = kind >> 8;
        if (class == 0x00) return (ROOTS, 0, false);
        if (class == 0x01) return (ROOTS | Roles.ADMIN, 1, false);
        if (class == 0x02) return (ROOTS | Roles.REVOKER, 2, false);
        if (class == 0x03) return (ROOTS | Roles.REVOKER | Roles.ISSUER, 3, false);
        if (class == 0x04) return (Roles.ISSUER, 4, true);
        if (class == 0x05) return (Roles.WATCHDOG, 4, true);
        if (class == 0x06) return (Roles.APPROVER, 4, true);
        if (class == 0x07) return (Roles.MEMBER, 5, true);
        if (class == 0x08) return (Roles.ADMIN | Roles.ISSUER, 6, true);
        if (class == 0x09) return (ANYBODY, 7, true);
        // Spare: class 10 belongs to role bit 8 and shard class 8, and so on to class 17.
        if (class >= 0x10 && class <= 0x17) return (uint256(1) << (class - 8), class - 8, true);
        revert UndefinedClass(kind);
    }

    function _isAmong(uint256 writers, bytes32 realm, address actor, bool byRoots) private view returns (bool) {
        if (writers == ANYBODY) return true;
        if (byRoots) return writers & ROOTS != 0;
        return writers & ROLE_BITS & actors[realm][actor] != 0;
    }

    function _requireSize(uint16 kind, uint256 size) private pure {
        uint256 class = kind >> 8;
        uint256 limit =
            class == CLASS_DELIVERY ? SIZE_LIMIT_DELIVERY : class == CLASS_INBOX ? SIZE_LIMIT_INBOX : SIZE_LIMIT;
        if (size == 0 || size > limit) revert WrongSize(kind, size, limit);
        if (class == CLASS_REVOCATION) {
            if (size < REVOCATION_HEAD + SERIAL_SIZE || (size - REVOCATION_HEAD) % SERIAL_SIZE != 0) {
                revert WrongRevocationWidth(kind, size);
            }
        }
    }

    /// @dev The shard that the entry goes to. The epochs are 32 bits wide until the years 355,000 (periods) and 11 million (days).
    function _targetShard(uint16 kind, uint64 shard, uint64 shardClass, bool daily) private view returns (uint64) {
        uint64 expected = shardClass << 32;
        if (kind >> 8 == CLASS_REVOCATION) {
            if (shard >> 32 != shardClass) revert WrongShard(kind, shard, expected);
            uint256 period = shard - expected;
            uint256 current = block.timestamp / REVOCATION_PERIOD;
            if (period + PERIODS_BACK < current || period > current + PERIODS_AHEAD) {
                revert PeriodOutOfRange(shard, current);
            }
            return shard;
        }
        if (shard != expected) revert WrongShard(kind, shard, expected);
        return daily ? expected | uint32(block.timestamp / 1 days) : expected;
    }

    // --- The three kinds that are interpreted

    function _setRoles(bytes32 realm, bytes calldata data) private {
        bytes calldata payload = _clear(Kinds.ROLE_SET, data);
        RoleSet memory set = abi.decode(payload, (RoleSet));
        _requireCanonical(Kinds.ROLE_SET, payload, abi.encode(set));
        if (set.actor == address(0)) revert ZeroActor(Kinds.ROLE_SET);
        if (set.roles > ROLE_BITS) revert UndefinedRoles(set.roles);
        uint256 record = actors[realm][set.actor];
        actors[realm][set.actor] = ((record >> 64) << 64) | set.roles;
    }

    function _setMember(bytes32 realm, bytes calldata data) private {
        bytes calldata payload = _clear(Kinds.MEMBER_SET, data);
        MemberSet memory set = abi.decode(payload, (MemberSet));
        _requireCanonical(Kinds.MEMBER_SET, payload, abi.encode(set));
        if (set.actor == address(0)) revert ZeroActor(Kinds.MEMBER_SET);
        uint256 record = actors[realm][set.actor];
        actors[realm][set.actor] = set.member ? record | Roles.MEMBER : record & ~uint256(Roles.MEMBER);
    }

    /// @dev The root set's hash after these writes; of several new sets the last counts.
    function _nextRootSet(RootProof calldata proof, Write[] calldata writes) private pure returns (bytes32 next) {
        next = keccak256(abi.encode(proof.nonce + 1, proof.threshold, proof.roots));
        for (uint256 i = 0; i < writes.length; ++i) {
            if (writes[i].kind != Kinds.ROOT_SET) continue;
            bytes calldata payload = _clear(Kinds.ROOT_SET, writes[i].data);
            RootSet memory set = abi.decode(payload, (RootSet));
            _requireCanonical(Kinds.ROOT_SET, payload, abi.encode(set));
            _requireWellFormed(set);
            next = keccak256(abi.encode(proof.nonce + 1, set.threshold, set.roots));
        }
    }

    /// @dev The payload after an encoding byte that must be 0 (clear).
    function _clear(uint16 kind, bytes calldata data) private pure returns (bytes calldata) {
        if (data.length == 0 || data[0] != 0) revert NotCanonical(kind);
        return data[1:];
    }

    /// @dev Readers take only what encodes to the very same bytes. Were the contract to take more, it and they could disagree
    /// about who holds a role.
    function _requireCanonical(uint16 kind, bytes calldata payload, bytes memory encoded) private pure {
        if (keccak256(payload) != keccak256(encoded)) revert NotCanonical(kind);
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

    /// @dev A set that the contract stored was checked when it was written; the one in a realm id is checked here.
    function _requireRootSet(bytes32 realm, RootProof calldata proof) private view {
        bytes32 expected = rootSet[realm];
        if (expected != 0) {
            bytes32 given = keccak256(abi.encode(proof.nonce, proof.threshold, proof.roots));
            if (given != expected) revert WrongRootSet(given, expected);
        } else {
            bytes32 given = realmId(proof.threshold, proof.roots, proof.salt);
            if (given != realm) revert WrongRootSet(given, realm);
            if (proof.nonce != 0) revert WrongNonce(proof.nonce, 0);
            _requireWellFormed(RootSet(proof.threshold, proof.roots));
        }
    }

    function _requireThreshold(RootProof calldata proof, bytes32 digest, RootSignature[] calldata signatures)
        private
        view
    {
        if (signatures.length < proof.threshold) revert BelowThreshold(signatures.length, proof.threshold);
        uint256 seen = 0;
        for (uint256 i = 0; i < signatures.length; ++i) {
            uint8 index = signatures[i].index;
            if (index >= proof.roots.length) revert NoSuchRoot(index, proof.roots.length);
            uint256 bit = uint256(1) << index;
            if (seen & bit != 0) revert DuplicateRoot(index);
            seen |= bit;
            _requireSignature(proof.roots[index], digest, signatures[i].signature);
        }
    }

    /// @dev The key is tried first: to ask whether an account has code costs as much as its signature. Where both a key and
    /// code can answer for an address (EIP-7702), either does; the holder of the key could replace the code anyway.
    function _requireSignature(address signer, bytes32 digest, bytes calldata signature) private view {
        if (_isByKey(signer, digest, signature)) return;
        if (signer.code.length != 0 && _isByWallet(signer, digest, signature)) return;
        revert WrongSignature(signer);
    }

    function _isByKey(address signer, bytes32 digest, bytes calldata signature) private pure returns (bool) {
        if (signature.length != 65) return false;
        bytes32 r = bytes32(signature[0:32]);
        bytes32 s = bytes32(signature[32:64]);
        if (uint256(s) > HALF_ORDER) return false;
        address recovered = ecrecover(digest, uint8(signature[64]), r, s);
        return recovered != address(0) && recovered == signer;
    }

    function _isByWallet(address wallet, bytes32 digest, bytes calldata signature) private view returns (bool) {
        (bool success, bytes memory result) =
            wallet.staticcall(abi.encodeWithSelector(ERC1271_MAGIC, digest, signature));
        return success && result.length >= 32 && abi.decode(result, (bytes32)) == bytes32(ERC1271_MAGIC);
    }

    function _digest(bytes32 message) private view returns (bytes32) {
        bytes32 domain = keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this)));
        return keccak256(abi.encodePacked(hex"1901", domain, message));
    }

    /// @dev EIP-712: an array is the hash of its members' hashes.
    function _hash(Write[] calldata writes) private pure returns (bytes32) {
        bytes32[] memory hashes = new bytes32[](writes.length);
        for (uint256 i = 0; i < writes.length; ++i) {
            Write calldata write = writes[i];
            hashes[i] = keccak256(abi.encode(WRITE_TYPEHASH, write.shard, write.kind, keccak256(write.data)));
        }
        return keccak256(abi.encodePacked(hashes));
    }
}
