// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, Roles} from "../src/Entries.sol";
import {RegistryTest} from "./RegistryTest.sol";
import {Log} from "./Test.sol";

/// @dev What a reader makes of the registry's events and nothing else: heads, roles, root sets, and who may write what. It refuses an
/// event that its own table does not allow, so whatever the contract lets happen without authority shows here.
abstract contract Model is RegistryTest {
    /// @dev An entry with the block that it was written in.
    struct Placed {
        bytes32 realm;
        uint64 shard;
        address actor;
        uint256 meta;
        bytes data;
        uint256 number;
    }

    struct RootSetInForce {
        uint256 nonce;
        uint256 threshold;
        address[] roots;
    }

    struct ShardKey {
        bytes32 realm;
        uint64 shard;
    }

    uint256 private constant MEMBER_BIT = 1 << 5;

    Placed[] internal log;
    ShardKey[] internal shards;
    mapping(bytes32 realm => mapping(uint64 shard => uint256[])) internal entriesOf;
    mapping(bytes32 realm => mapping(uint64 shard => uint256)) internal folded;
    mapping(bytes32 realm => mapping(address who => uint256)) internal roles;
    mapping(bytes32 realm => mapping(address who => uint256)) internal nonces;
    mapping(bytes32 realm => RootSetInForce) internal sets;

    // --- The table of classes

    /// @dev Role bits that may write the class; 0 for governance and for classes that do not exist.
    function writersOf(uint256 class) internal pure returns (uint256) {
        uint8[9] memory table = [0, 0x01, 0x10, 0x12, 0x02, 0x04, 0x08, 0x20, 0x03];
        if (class < 9) return table[class];
        return class >= 0x10 && class < 0x18 ? 1 << (class - 8) : 0;
    }

    function shardClassOf(uint256 class) internal pure returns (uint256) {
        uint8[10] memory table = [0, 1, 2, 3, 4, 4, 4, 5, 6, 7];
        return class < 10 ? table[class] : class - 8;
    }

    function mayWrite(bytes32 ofRealm, address actor, bool asRoots, uint256 class) internal view returns (bool) {
        if (class == 9) return true;
        if (asRoots) return class < 4;
        return writersOf(class) & roles[ofRealm][actor] != 0;
    }

    /// @dev The shard as the writer names it.
    function askedShard(uint256 class) internal view returns (uint64) {
        return shardOf(shardClassOf(class), class == 3 ? block.timestamp / 30 days : 0);
    }

    function landedIn(uint256 class, uint64 shard) internal view returns (bool) {
        uint256 epoch = uint32(shard);
        if (shard >> 32 != shardClassOf(class)) return false;
        if (class < 3) return epoch == 0;
        if (class > 3) return epoch == block.timestamp / 1 days;
        uint256 period = block.timestamp / 30 days;
        return epoch + 1 >= period && epoch <= period + 13;
    }

    // --- One event

    function take(Log memory found) internal {
        bytes32 ofRealm = found.topics[1];
        uint64 shard = uint64(uint256(found.topics[2]));
        address actor = address(uint160(uint256(found.topics[3])));
        (uint256 meta, bytes memory data) = abi.decode(found.data, (uint256, bytes));
        uint16 kind = uint16(meta >> 96);
        uint256 slot = folded[ofRealm][shard];

        vm.assertEq(found.emitter, address(registry), "only the registry logs");
        vm.assertTrue(mayWrite(ofRealm, actor, actor == address(0), kind >> 8), "no entry without authority");
        vm.assertTrue(landedIn(kind >> 8, shard), "an entry goes to its class's shard");
        // forgefmt: disable-next-item
        vm.assertEq(
            meta, (uint256(kind) << 96) | ((slot & type(uint32).max) << 64) | block.timestamp, "kind, block before, time"
        );

        if (slot == 0) shards.push(ShardKey(ofRealm, shard));
        folded[ofRealm][shard] = fold(slot, found, block.number);
        entriesOf[ofRealm][shard].push(log.length);
        log.push(Placed(ofRealm, shard, actor, meta, data, block.number));
        interpret(ofRealm, kind, data);
    }

    function interpret(bytes32 ofRealm, uint16 kind, bytes memory data) private {
        if (kind == Kinds.ROLE_SET) {
            (address subject, uint256 given) = roleSetIn(data);
            roles[ofRealm][subject] = given;
        } else if (kind == Kinds.MEMBER_SET) {
            (address subject, bool isMember) = memberSetIn(data);
            uint256 others = roles[ofRealm][subject] & ~MEMBER_BIT;
            roles[ofRealm][subject] = isMember ? others | Roles.MEMBER : others;
        } else if (kind == Kinds.ROOT_SET) {
            (uint256 m, address[] memory next) = rootSetIn(data);
            sets[ofRealm].threshold = m;
            sets[ofRealm].roots = next;
        }
    }

    // --- The payloads that decide who may write

    function roleSetIn(bytes memory data) internal pure returns (address subject, uint256 given) {
        subject = address(bytes20(cut(data, 1, 20)));
        given = uint64(bytes8(cut(data, 21, 8)));
    }

    function memberSetIn(bytes memory data) internal pure returns (address subject, bool isMember) {
        subject = address(bytes20(cut(data, 1, 20)));
        isMember = data[21] == 0x01;
    }

    function rootSetIn(bytes memory data) internal pure returns (uint256 m, address[] memory set) {
        (m, set) = abi.decode(cut(data, 33, data.length - 33), (uint256, address[]));
    }

    function cut(bytes memory data, uint256 start, uint256 size) internal pure returns (bytes memory part) {
        part = new bytes(size);
        for (uint256 i = 0; i < size; ++i) {
            part[i] = data[start + i];
        }
    }

    // --- Where the contract keeps things

    function headSlot(bytes32 ofRealm, uint64 shard) internal pure returns (bytes32) {
        return keccak256(abi.encode(shard, keccak256(abi.encode(ofRealm, uint256(0)))));
    }

    function rootSetSlot(bytes32 ofRealm) internal pure returns (bytes32) {
        return keccak256(abi.encode(ofRealm, uint256(1)));
    }

    function actorSlot(bytes32 ofRealm, address who) internal pure returns (bytes32) {
        return keccak256(abi.encode(who, keccak256(abi.encode(ofRealm, uint256(2)))));
    }
}
