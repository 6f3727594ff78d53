// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "../src/IRegistry.sol";
import {RegistryTest} from "./RegistryTest.sol";

/// @dev Who may write which class, where it goes, and how long it may be: the table of docs/spec/registry.md, line by line.
contract ClassesTest is RegistryTest {
    enum Epoch {
        None,
        Period,
        Day
    }

    struct Row {
        uint256 class;
        uint256 roles; // role bits
        bool roots;
        bool anybody;
        uint256 shardClass;
        Epoch epoch;
        uint256 limit;
    }

    Row[] internal rows;
    uint256[] internal roleBits;

    function setUp() public override {
        super.setUp();
        rows.push(Row(0x00, 0, true, false, 0, Epoch.None, 4096));
        rows.push(Row(0x01, 0x01, true, false, 1, Epoch.None, 4096));
        rows.push(Row(0x02, 0x10, true, false, 2, Epoch.None, 24_576));
        rows.push(Row(0x03, 0x12, true, false, 3, Epoch.Period, 24_576));
        rows.push(Row(0x04, 0x02, false, false, 4, Epoch.Day, 4096));
        rows.push(Row(0x05, 0x04, false, false, 4, Epoch.Day, 4096));
        rows.push(Row(0x06, 0x08, false, false, 4, Epoch.Day, 4096));
        rows.push(Row(0x07, 0x20, false, false, 5, Epoch.Day, 4096));
        rows.push(Row(0x08, 0x03, false, false, 6, Epoch.Day, 24_576));
        rows.push(Row(0x09, 0, true, true, 7, Epoch.Day, 1024));
        rows.push(Row(0x10, 0x0100, false, false, 8, Epoch.Day, 4096));
        rows.push(Row(0x11, 0x0200, false, false, 9, Epoch.Day, 4096));
        rows.push(Row(0x12, 0x0400, false, false, 10, Epoch.Day, 4096));
        rows.push(Row(0x13, 0x0800, false, false, 11, Epoch.Day, 4096));
        rows.push(Row(0x14, 0x1000, false, false, 12, Epoch.Day, 4096));
        rows.push(Row(0x15, 0x2000, false, false, 13, Epoch.Day, 4096));
        rows.push(Row(0x16, 0x4000, false, false, 14, Epoch.Day, 4096));
        rows.push(Row(0x17, 0x8000, false, false, 15, Epoch.Day, 4096));
        for (uint256 bit = 0; bit < 16; ++bit) {
            grantRoles(actorWith(1 << bit), 1 << bit);
        }
    }

    function actorWith(uint256 roles) internal pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("actor with", roles)))));
    }

    /// @dev A number that the contract does not interpret in any class.
    function kindOf(Row memory row) internal pure returns (uint16) {
        return uint16((row.class << 8) | 0x7f);
    }

    /// @dev The shard as a writer gives it.
    function asked(Row memory row) internal view returns (uint64) {
        return shardOf(row.shardClass, row.epoch == Epoch.Period ? block.timestamp / 30 days : 0);
    }

    /// @dev The shard that the entry lands in.
    function landed(Row memory row) internal view returns (uint64) {
        return row.epoch == Epoch.Day ? shardOf(row.shardClass, block.timestamp / 1 days) : asked(row);
    }

    /// @dev An actor that may write the class.
    function writerOf(Row memory row) internal returns (address actor) {
        if (row.anybody) return member("stranger");
        actor = actorWith(row.roles);
        if (rolesOf(actor) != row.roles) grantRoles(actor, row.roles);
    }

    function test_each_role_writes_its_classes_and_no_other() public {
        uint256 accepted = 0;
        for (uint256 i = 0; i < rows.length; ++i) {
            Row memory row = rows[i];
            for (uint256 bit = 0; bit < 16; ++bit) {
                bool allowed = row.anybody || row.roles & (1 << bit) != 0;
                if (tryAs(actorWith(1 << bit), row, allowed)) ++accepted;
            }
        }
        // 1 + 1 + 2 + 1 + 1 + 1 + 1 + 2 + 8 spare ones, and the inbox by all sixteen.
        vm.assertEq(accepted, 34, "accepted pairs of role and class");
    }

    function test_all_roles_but_the_right_ones_are_not_enough() public {
        address actor = member("everything else");
        for (uint256 i = 0; i < rows.length; ++i) {
            grantRoles(actor, 0xffff & ~rows[i].roles);
            tryAs(actor, rows[i], rows[i].anybody);
        }
    }

    function test_an_actor_without_roles_writes_the_inbox_only() public {
        for (uint256 i = 0; i < rows.length; ++i) {
            tryAs(member("stranger"), rows[i], rows[i].class == 0x09);
        }
    }

    function test_the_roots_write_governance_directory_denials_revocations_and_inbox_only() public {
        for (uint256 i = 0; i < rows.length; ++i) {
            Row memory row = rows[i];
            IRegistry.Write[] memory writes = one(asked(row), kindOf(row), anything());
            if (row.roots) {
                uint256 before = registry.slotOf(realm, landed(row));
                byRoots(writes);
                vm.assertTrue(registry.slotOf(realm, landed(row)) != before, "the roots' entry is in its shard");
            } else {
                expectRefusalByRoots(
                    abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, address(0), true, kindOf(row)), writes
                );
            }
        }
    }

    function test_a_simulated_call_from_the_zero_address_is_not_the_roots() public {
        vm.prank(address(0));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, address(0), false, uint16(0x0002)));
        registry.append(realm, 0, 0x0002, anything());
    }

    function test_a_role_in_one_realm_is_none_in_another() public {
        bytes32 other = realmOf(threshold, roots, keccak256("other"));
        address admin = actorWith(1);
        vm.prank(admin);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotAllowed.selector, other, admin, false, uint16(0x0101)));
        registry.append(other, shardOf(1, 0), 0x0101, anything());
    }

    function test_undefined_classes_are_refused_even_from_those_with_all_roles() public {
        address actor = member("everything");
        grantRoles(actor, 0xffff);
        uint256 refused = 0;
        for (uint256 class = 0; class <= 0xff; ++class) {
            if (class <= 0x09 || (class >= 0x10 && class <= 0x17)) continue;
            uint16 kind = uint16(class << 8);
            vm.prank(actor);
            vm.expectRevert(abi.encodeWithSelector(IRegistry.UndefinedClass.selector, kind));
            registry.append(realm, 0, kind, anything());
            expectRefusalByRoots(
                abi.encodeWithSelector(IRegistry.UndefinedClass.selector, kind), one(0, kind, anything())
            );
            ++refused;
        }
        vm.assertEq(refused, 238, "undefined classes");
    }

    function testFuzz_authority_follows_the_table(uint16 roles, uint256 which, uint8 number) public {
        Row memory row = rows[which % rows.length];
        // The three interpreted kinds have tests of their own.
        if (row.class <= 1 && number <= 1) number += 2;
        address actor = member("fuzzed");
        grantRoles(actor, roles);
        uint16 kind = uint16((row.class << 8) | number);
        bool allowed = row.anybody || row.roles & roles != 0;
        if (!allowed) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, actor, false, kind));
        }
        uint64 shard = asked(row);
        vm.prank(actor);
        registry.append(realm, shard, kind, anything());
    }

    function test_a_shard_other_than_the_classes_own_is_refused() public {
        for (uint256 i = 0; i < rows.length; ++i) {
            Row memory row = rows[i];
            for (uint256 shardClass = 0; shardClass < 18; ++shardClass) {
                if (shardClass == row.shardClass) continue;
                expectWrongShard(row, (asked(row) & type(uint32).max) | shardOf(shardClass, 0));
            }
            if (row.epoch != Epoch.Period) {
                expectWrongShard(row, asked(row) + 1);
                expectWrongShard(row, shardOf(row.shardClass, block.timestamp / 1 days));
            }
            expectWrongShard(row, asked(row) | (1 << 63));
        }
    }

    function test_the_contract_fills_in_the_day() public {
        uint256 midnight = 20_000 days;
        address issuer = actorWith(2);
        vm.warp(midnight - 1);
        vm.prank(issuer);
        registry.append(realm, shardOf(4, 0), 0x0400, anything());
        vm.warp(midnight);
        vm.prank(issuer);
        registry.append(realm, shardOf(4, 0), 0x0400, anything());
        vm.assertTrue(registry.slotOf(realm, shardOf(4, 19_999)) != 0, "the last second belongs to the old day");
        vm.assertTrue(registry.slotOf(realm, shardOf(4, 20_000)) != 0, "midnight belongs to the new day");
        vm.assertEq(registry.slotOf(realm, shardOf(4, 0)), 0, "epoch 0 stays empty");
    }

    function test_revocation_periods_run_from_one_back_to_thirteen_ahead() public {
        uint256 current = 700;
        for (uint256 edge = 0; edge < 2; ++edge) {
            vm.warp(edge == 0 ? current * 30 days : (current + 1) * 30 days - 1);
            for (uint256 period = current - 4; period <= current + 16; ++period) {
                uint64 shard = shardOf(3, period);
                bool allowed = period >= 699 && period <= 713;
                if (!allowed) {
                    vm.expectRevert(abi.encodeWithSelector(IRegistry.PeriodOutOfRange.selector, shard, current));
                }
                vm.prank(actorWith(0x10));
                registry.append(realm, shard, 0x0300, anything());
                vm.assertEq(registry.slotOf(realm, shard) != 0 ? 1 : 0, allowed ? 1 : 0, "written where allowed");
            }
        }
    }

    function test_revocation_periods_far_away_do_not_wrap() public {
        uint64 shard = shardOf(3, type(uint32).max);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.PeriodOutOfRange.selector, shard, block.timestamp / 30 days));
        vm.prank(actorWith(0x10));
        registry.append(realm, shard, 0x0300, anything());
    }

    function test_each_class_takes_one_byte_to_its_limit() public {
        for (uint256 i = 0; i < rows.length; ++i) {
            Row memory row = rows[i];
            expectWrongSize(row, 0);
            expectWrongSize(row, row.limit + 1);
            // 1 + 16 + 8 n: 25 to 24,569.
            expectFits(row, row.class == 3 ? 25 : 1);
            expectFits(row, row.class == 3 ? 24_569 : row.limit);
        }
    }

    function test_revocations_have_a_fixed_width() public {
        Row memory row = rows[3];
        uint256 accepted = 0;
        for (uint256 size = 1; size <= 200; ++size) {
            bool fits = size >= 25 && (size - 17) % 8 == 0;
            if (!fits) {
                vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongRevocationWidth.selector, uint16(0x0300), size));
            } else {
                ++accepted;
            }
            uint64 shard = asked(row);
            vm.prank(actorWith(0x10));
            registry.append(realm, shard, 0x0300, new bytes(size));
        }
        vm.assertEq(accepted, 22, "1 to 22 serials fit in 200 bytes");
    }

    // --- One attempt

    function tryAs(address actor, Row memory row, bool allowed) internal returns (bool) {
        uint256 before = registry.slotOf(realm, landed(row));
        if (!allowed) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, actor, false, kindOf(row)));
        }
        uint64 shard = asked(row);
        vm.prank(actor);
        registry.append(realm, shard, kindOf(row), anything());
        bool written = registry.slotOf(realm, landed(row)) != before;
        vm.assertTrue(written == allowed, "an allowed entry changes its shard's slot, a refused one does not");
        return written;
    }

    /// @dev Writes as somebody who may; an empty `refusal` expects success.
    function write(Row memory row, uint64 shard, bytes memory data, bytes memory refusal) internal {
        if (row.roles == 0 && !row.anybody) {
            if (refusal.length != 0) expectRefusalByRoots(refusal, one(shard, kindOf(row), data));
            else byRoots(one(shard, kindOf(row), data));
            return;
        }
        address writer = writerOf(row);
        if (refusal.length != 0) vm.expectRevert(refusal);
        vm.prank(writer);
        registry.append(realm, shard, kindOf(row), data);
    }

    function expectFits(Row memory row, uint256 size) internal {
        uint256 before = registry.slotOf(realm, landed(row));
        write(row, asked(row), new bytes(size), "");
        vm.assertTrue(registry.slotOf(realm, landed(row)) != before, "written");
    }

    function expectWrongSize(Row memory row, uint256 size) internal {
        write(
            row,
            asked(row),
            new bytes(size),
            abi.encodeWithSelector(IRegistry.WrongSize.selector, kindOf(row), size, row.limit)
        );
    }

    function expectWrongShard(Row memory row, uint64 shard) internal {
        write(
            row,
            shard,
            anything(),
            abi.encodeWithSelector(IRegistry.WrongShard.selector, kindOf(row), shard, shardOf(row.shardClass, 0))
        );
    }
}
