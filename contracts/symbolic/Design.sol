// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "../src/IRegistry.sol";

/// @dev docs/design.md, "The registry contract", written down a second time: the table of classes, the preimages, the two packed payloads.
/// Nothing here comes from the contract. Where it can be said without a branch it is, since each branch doubles the paths of a proof.
library Design {
    uint16 internal constant ROOT_SET = 0x0000;
    uint16 internal constant ROLE_SET = 0x0001;
    uint16 internal constant MEMBER_SET = 0x0100;

    // The table turned round: the classes that each may write, as bits.
    uint256 private constant BY_ROOTS = 1 << 0x00 | 1 << 0x01 | 1 << 0x02 | 1 << 0x03;
    uint256 private constant BY_ADMIN = 1 << 0x01 | 1 << 0x08;
    uint256 private constant BY_ISSUER = 1 << 0x03 | 1 << 0x04 | 1 << 0x08;
    uint256 private constant BY_WATCHDOG = 1 << 0x05;
    uint256 private constant BY_APPROVER = 1 << 0x06;
    uint256 private constant BY_REVOKER = 1 << 0x02 | 1 << 0x03;
    uint256 private constant BY_MEMBER = 1 << 0x07;
    uint256 private constant BY_ANYBODY = 1 << 0x09;
    uint256 private constant MEMBER_BIT = 1 << 5;

    // Byte n is the shard class of class n (classes 0a to 0f and those from 18 do not exist).
    bytes32 private constant SHARD_CLASSES = hex"00010203040404050607ffffffffffff08090a0b0c0d0e0fffffffffffffffff";

    function mayWrite(uint16 kind, uint64 roles, bool byRoots) internal pure returns (bool) {
        uint256 r = roles;
        uint256 open = BY_ROOTS;
        if (!byRoots) {
            open = pick(r & 1 != 0, BY_ADMIN, 0) | pick(r & 2 != 0, BY_ISSUER, 0) | pick(r & 4 != 0, BY_WATCHDOG, 0)
                | pick(r & 8 != 0, BY_APPROVER, 0) | pick(r & 16 != 0, BY_REVOKER, 0) | pick(r & 32 != 0, BY_MEMBER, 0)
                // The spare roles 8 to 15: the classes 10 to 17.
                | (r >> 8 & 0xff) << 0x10;
        }
        return (open | BY_ANYBODY) >> (kind >> 8) & 1 == 1;
    }

    /// @dev Sizes are never symbolic, so only the class can branch here.
    function fits(uint16 kind, uint256 size) internal pure returns (bool) {
        uint256 class = kind >> 8;
        if (size == 0 || size > 24 * 1024) return false;
        if (size > 4 * 1024) return either(either(class == 2, class == 8), both(class == 3, isRevocation(size)));
        return both(either(class != 9, size <= 1024), either(class != 3, isRevocation(size)));
    }

    /// @dev Encoding byte, CA id and at least one serial of eight bytes.
    function isRevocation(uint256 size) private pure returns (bool) {
        return size >= 25 && (size - 17) % 8 == 0;
    }

    /// @dev Whether an entry may be sent to `shard`: its class's, with a period from one back to 13 ahead, or with no epoch.
    function goesTo(uint16 kind, uint64 shard) internal view returns (bool) {
        uint256 class = kind >> 8;
        uint256 epoch = shard & 0xffffffff;
        uint256 period = block.timestamp / 30 days;
        bool inRange = both(class == 3, both(epoch + 1 >= period, epoch <= period + 13));
        return
            both(
                shard >> 32 == uint256(SHARD_CLASSES << class * 8) >> 248, either(inRange, both(class != 3, epoch == 0))
            );
    }

    /// @dev The shard that such an entry lands in: from class 04 on, the day's.
    function shardOf(uint16 kind, uint64 shard) internal view returns (uint64) {
        uint256 class = kind >> 8;
        if (class == 3) return shard;
        uint256 day = class < 4 ? 0 : uint32(block.timestamp / 1 days);
        return uint64((uint256(SHARD_CLASSES << class * 8) >> 248) << 32 | day);
    }

    /// @dev Whether a class takes this entry from such an actor.
    function takes(IRegistry.Write memory write, uint64 roles, bool byRoots) internal view returns (bool) {
        bool can = both(mayWrite(write.kind, roles, byRoots), fits(write.kind, write.data.length));
        can = both(can, goesTo(write.kind, write.shard));
        bool roleSet = either(write.kind != ROLE_SET, isRoleSet(write.data));
        return both(can, both(roleSet, either(write.kind != MEMBER_SET, isMemberSet(write.data))));
    }

    /// @dev 0x00 ‖ actor 20 ‖ roles 8 ‖ X25519 key 32.
    function isRoleSet(bytes memory data) internal pure returns (bool) {
        bool well = both(uint256(bytes32(data)) >> 248 == 0, subjectOf(data) != address(0));
        return both(data.length == 61, both(well, rolesOf(data) <= 0xffff));
    }

    function rolesOf(bytes memory data) internal pure returns (uint64) {
        return uint64(uint256(bytes32(data)) >> 24);
    }

    /// @dev 0x00 ‖ actor 20 ‖ member 1 ‖ subject 16 ‖ X25519 key 32.
    function isMemberSet(bytes memory data) internal pure returns (bool) {
        bool well = both(uint256(bytes32(data)) >> 248 == 0, subjectOf(data) != address(0));
        return both(data.length == 70, both(well, memberOf(data) <= 1));
    }

    function memberOf(bytes memory data) internal pure returns (uint256) {
        return uint8(uint256(bytes32(data)) >> 80);
    }

    /// @dev Whose record these two are about.
    function subjectOf(bytes memory data) internal pure returns (address) {
        return address(uint160(uint256(bytes32(data)) >> 88));
    }

    /// @dev An actor's record, nonce << 64 | roles, after an entry that was taken.
    function recordAfter(uint256 record, address who, IRegistry.Write memory write) internal pure returns (uint256) {
        bool about = subjectOf(write.data) == who;
        uint256 roles = record >> 64 << 64 | rolesOf(write.data);
        uint256 member = record & ~MEMBER_BIT | memberOf(write.data) << 5;
        record = pick(both(about, write.kind == ROLE_SET), roles, record);
        return pick(both(about, write.kind == MEMBER_SET), member, record);
    }

    /// @dev A shard's slot after an entry that was taken.
    function slotAfter(uint256 slot, address registry, bytes32 realm, address actor, IRegistry.Write memory write)
        internal
        view
        returns (uint256)
    {
        bytes32 shard = bytes32(uint256(shardOf(write.kind, write.shard)));
        bytes32 before = bytes32(slot);
        if (slot == 0) {
            // forgefmt: disable-next-item
            before = keccak256(bytes.concat(
                bytes32(uint256(0xa0)), bytes32(block.chainid), bytes32(uint256(uint160(registry))), realm, shard,
                bytes32(uint256(19)), bytes32("countersign.head.v1")
            ));
        }
        uint256 meta = uint256(write.kind) << 96 | (slot & 0xffffffff) << 64 | uint64(block.timestamp);
        // forgefmt: disable-next-item
        bytes32 hash = keccak256(bytes.concat(
            before, realm, shard, bytes32(uint256(uint160(actor))), bytes32(meta), keccak256(write.data)
        ));
        return uint256(bytes32(bytes28(hash))) | block.number & 0xffffffff;
    }

    // These do not branch: `&&`, `||` and `?:` would, and each branch doubles the paths. (What is hashed is better branched on: the
    // solver then compares preimages as they stand.)

    function both(bool left, bool right) internal pure returns (bool result) {
        assembly {
            result := and(left, right)
        }
    }

    function either(bool left, bool right) internal pure returns (bool result) {
        assembly {
            result := or(left, right)
        }
    }

    function pick(bool condition, uint256 yes, uint256 no) internal pure returns (uint256 result) {
        assembly {
            let mask := sub(0, condition)
            result := or(and(yes, mask), and(no, not(mask)))
        }
    }
}
