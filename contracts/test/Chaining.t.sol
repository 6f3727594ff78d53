// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {RegistryTest} from "./RegistryTest.sol";
import {Log} from "./Test.sol";

/// @dev Heads, events and storage, against a fold of the events that shares no code with the contract.
contract ChainingTest is RegistryTest {
    address internal admin = member("admin");
    mapping(bytes32 => mapping(uint64 => uint256)) internal folded;

    function setUp() public override {
        super.setUp();
        grantRoles(admin, 0xffff);
        vm.recordLogs();
    }

    /// @dev Folds what was logged since the last call, all of it in the present block; returns the number of entries.
    function foldLogs() internal returns (uint256) {
        Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            vm.assertEq(logs[i].emitter, address(registry), "only the registry logs");
            vm.assertEq(
                logs[i].topics[0], keccak256("Entry(bytes32,uint64,address,uint256,bytes)"), "the one event there is"
            );
            bytes32 ofRealm = logs[i].topics[1];
            uint64 shard = uint64(uint256(logs[i].topics[2]));
            uint256 slot = folded[ofRealm][shard];
            (uint256 meta,) = abi.decode(logs[i].data, (uint256, bytes));
            vm.assertEq(uint256(uint64(meta)), block.timestamp, "the low 64 bits of meta are the block's time");
            vm.assertEq((meta >> 64) & type(uint32).max, slot & type(uint32).max, "then the shard's last block");
            vm.assertEq(meta >> 112, 0, "nothing above the kind");
            folded[ofRealm][shard] = fold(slot, logs[i], block.number);
        }
        return logs.length;
    }

    function assertFolded(bytes32 ofRealm, uint64 shard) internal view {
        vm.assertEq(registry.slotOf(ofRealm, shard), folded[ofRealm][shard], "the slot is the fold of the log");
    }

    function test_the_first_entry_starts_from_the_shards_genesis_and_hops_to_zero() public {
        vm.prank(admin);
        registry.append(realm, shardOf(1, 0), Kinds.USER_ADD, anything());
        Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, 1, "one event");
        vm.assertEq(logs[0].topics.length, 4, "three indexed fields");
        vm.assertEq(logs[0].topics[1], realm, "realm");
        vm.assertEq(uint256(logs[0].topics[2]), uint256(1) << 32, "shard");
        vm.assertEq(address(uint160(uint256(logs[0].topics[3]))), admin, "actor");
        (uint256 meta, bytes memory data) = abi.decode(logs[0].data, (uint256, bytes));
        vm.assertEq(meta, (uint256(Kinds.USER_ADD) << 96) | block.timestamp, "meta with no previous block");
        vm.assertEq(data, anything(), "data");
        vm.assertEq(registry.slotOf(realm, shardOf(1, 0)), fold(0, logs[0], block.number), "slot");
    }

    function test_the_order_of_two_entries_is_in_the_head() public {
        uint64 shard = shardOf(7, block.timestamp / 1 days);
        bytes32 other = keccak256("other");
        registry.append(realm, shardOf(7, 0), Kinds.ENROL, hex"0001");
        registry.append(realm, shardOf(7, 0), Kinds.ENROL, hex"0002");
        registry.append(other, shardOf(7, 0), Kinds.ENROL, hex"0002");
        registry.append(other, shardOf(7, 0), Kinds.ENROL, hex"0001");
        vm.assertEq(foldLogs(), 4, "entries");
        assertFolded(realm, shard);
        assertFolded(other, shard);
    }

    function test_the_block_number_wraps_without_harm() public {
        uint64 shard = shardOf(1, 0);
        uint256[4] memory numbers = [uint256(2 ** 32 - 1), 2 ** 32, 2 ** 32 + 1, 3 * 2 ** 32 + 9];
        for (uint256 i = 0; i < 4; ++i) {
            vm.roll(numbers[i]);
            vm.prank(admin);
            registry.append(realm, shard, Kinds.USER_ADD, hex"00");
            vm.assertEq(foldLogs(), 1, "entries");
            assertFolded(realm, shard);
            vm.assertEq(registry.slotOf(realm, shard) & type(uint32).max, numbers[i] % 2 ** 32, "low 32 bits");
        }
    }

    function test_seconds_have_more_than_32_bits_and_days_more_than_16() public {
        vm.warp(2 ** 33 + 7 hours);
        uint64 shard = shardOf(7, block.timestamp / 1 days);
        vm.assertEq(shard & type(uint32).max, 99420, "a day of the year 2242");
        registry.append(realm, shardOf(7, 0), Kinds.ENROL, hex"0001");
        vm.assertEq(foldLogs(), 1, "entries");
        assertFolded(realm, shard);
        vm.assertTrue(registry.slotOf(realm, shard) != 0, "in that day's shard");
    }

    function testFuzz_heads_equal_the_fold_of_the_events(uint256 seed, uint8 count) public {
        uint16[8] memory kinds = [
            Kinds.USER_ADD,
            Kinds.KEY_LOCK,
            Kinds.BATCH,
            Kinds.COUNTERSIGN,
            Kinds.REQUEST,
            Kinds.DELIVERY,
            Kinds.ENROL,
            0x1234
        ];
        uint8[8] memory classes = [1, 2, 4, 4, 5, 6, 7, 10];
        uint256 written = 0;
        for (uint256 i = 0; i < count % 24; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            if (seed % 3 == 0) {
                written += foldLogs();
                vm.roll(block.number + 1 + ((seed >> 8) % 1000));
                vm.warp(block.timestamp + 1 + ((seed >> 24) % 1 days));
            }
            bytes memory data = new bytes(1 + ((seed >> 64) % 300));
            data[data.length / 2] = bytes1(uint8(seed >> 80));
            vm.prank(admin);
            registry.append(
                seed & 1 << 100 == 0 || classes[(seed >> 96) % 8] != 7 ? realm : keccak256("other"),
                shardOf(classes[(seed >> 96) % 8], 0),
                kinds[(seed >> 96) % 8],
                data
            );
        }
        written += foldLogs();
        vm.assertEq(written, count % 24, "every entry was logged");
        uint256 first = START / 1 days;
        for (uint256 shardClass = 1; shardClass <= 10; ++shardClass) {
            assertFolded(realm, shardOf(shardClass, 0));
            for (uint256 day = first; day <= block.timestamp / 1 days; ++day) {
                assertFolded(realm, shardOf(shardClass, day));
                assertFolded(keccak256("other"), shardOf(shardClass, day));
            }
        }
    }
}
