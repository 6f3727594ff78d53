// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, MemberSet, Roles} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Packed} from "./Packed.sol";
import {RegistryTest} from "./RegistryTest.sol";
import {Log} from "./Test.sol";

/// @dev appendMany: several entries as the caller, all or none.
contract AppendManyTest is RegistryTest {
    address internal admin = member("admin");

    function setUp() public override {
        super.setUp();
        grantRoles(admin, 0xffff);
        vm.recordLogs();
    }

    function many(uint256 count) internal pure returns (IRegistry.Write[] memory writes) {
        writes = new IRegistry.Write[](count);
        for (uint256 i = 0; i < count; ++i) {
            uint16 kind = i % 2 == 0 ? Kinds.USER_ADD : Kinds.KEY_LOCK;
            writes[i] = IRegistry.Write(shardOf(1 + (i % 2), 0), kind, abi.encode(i));
        }
    }

    function foldOf(Log[] memory logs, uint64 shard) internal view returns (uint256 slot) {
        for (uint256 i = 0; i < logs.length; ++i) {
            if (uint64(uint256(logs[i].topics[2])) == shard) slot = fold(slot, logs[i], block.number);
        }
    }

    function test_entries_of_one_block_and_shard_fold_in_log_order() public {
        vm.prank(admin);
        registry.appendMany(realm, many(5));
        vm.prank(admin);
        registry.append(realm, shardOf(1, 0), Kinds.USER_ADD, hex"00");
        Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, 6, "entries");
        vm.assertEq(registry.slotOf(realm, shardOf(1, 0)), foldOf(logs, shardOf(1, 0)), "directory");
        vm.assertEq(registry.slotOf(realm, shardOf(2, 0)), foldOf(logs, shardOf(2, 0)), "denials");
    }

    function test_each_write_is_logged_as_given_and_as_the_callers() public {
        IRegistry.Write[] memory writes = many(5);
        vm.prank(admin);
        registry.appendMany(realm, writes);
        Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, 5, "entries");
        for (uint256 i = 0; i < 5; ++i) {
            (uint256 meta, bytes memory data) = abi.decode(logs[i].data, (uint256, bytes));
            vm.assertEq(logs[i].topics[1], realm, "realm");
            vm.assertEq(uint256(logs[i].topics[2]), writes[i].shard, "shard");
            vm.assertEq(uint256(logs[i].topics[3]), uint256(uint160(admin)), "actor");
            vm.assertEq(meta >> 96, writes[i].kind, "kind");
            vm.assertEq(data, writes[i].data, "data");
        }
    }

    function test_an_empty_list_of_writes_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoWrites.selector));
        registry.appendMany(realm, new IRegistry.Write[](0));
    }

    function test_an_appendMany_with_one_bad_write_writes_nothing() public {
        IRegistry.Write[] memory writes = new IRegistry.Write[](2);
        writes[0] = IRegistry.Write(shardOf(1, 0), Kinds.USER_ADD, hex"00");
        writes[1] = IRegistry.Write(shardOf(0, 0), Kinds.SETTINGS, hex"00");
        vm.prank(admin);
        vm.expectRevert(
            abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, admin, false, uint16(Kinds.SETTINGS))
        );
        registry.appendMany(realm, writes);
        vm.assertEq(registry.slotOf(realm, shardOf(1, 0)), 0, "nothing written");
    }

    function test_an_admin_uses_the_membership_it_gave_itself_in_the_same_call() public {
        grantRoles(admin, Roles.ADMIN);
        MemberSet memory set = MemberSet(admin, true, bytes16(uint128(5)), bytes32(uint256(7)));
        IRegistry.Write[] memory writes = new IRegistry.Write[](2);
        writes[0] = IRegistry.Write(shardOf(1, 0), Kinds.MEMBER_SET, bytes.concat(hex"00", Packed.memberSet(set)));
        writes[1] = IRegistry.Write(shardOf(5, 0), Kinds.REQUEST, hex"00");
        vm.prank(admin);
        registry.appendMany(realm, writes);
        vm.assertEq(rolesOf(admin), Roles.ADMIN | Roles.MEMBER, "both roles");
    }

    function testFuzz_one_bad_write_anywhere_in_a_list_undoes_all_of_it(uint8 count, uint8 place, uint8 fault) public {
        IRegistry.Write[] memory writes = many(1 + (count % 12));
        IRegistry.Write memory bad = writes[place % writes.length];
        uint64 shard = bad.shard;
        bytes memory refusal;
        if (fault % 4 == 0) {
            bad.shard = shardOf(9, 1);
            refusal = abi.encodeWithSelector(IRegistry.WrongShard.selector, bad.kind, bad.shard, shard);
        } else if (fault % 4 == 1) {
            bad.kind = 0x0a00;
            refusal = abi.encodeWithSelector(IRegistry.UndefinedClass.selector, bad.kind);
        } else if (fault % 4 == 2) {
            bad.data = "";
            refusal = abi.encodeWithSelector(
                IRegistry.WrongSize.selector, bad.kind, 0, bad.kind == Kinds.KEY_LOCK ? 24_576 : 4096
            );
        } else {
            bad.kind = Kinds.SETTINGS;
            refusal = abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, admin, false, bad.kind);
        }
        vm.prank(admin);
        vm.expectRevert(refusal);
        registry.appendMany(realm, writes);
        vm.assertEq(registry.slotOf(realm, shardOf(1, 0)), 0, "nothing in the directory");
        vm.assertEq(registry.slotOf(realm, shardOf(2, 0)), 0, "no denial");
    }
}
