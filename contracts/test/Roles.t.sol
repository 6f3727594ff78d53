// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, MemberSet, RoleSet, Roles} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Packed} from "./Packed.sol";
import {RegistryTest} from "./RegistryTest.sol";

/// @dev Role set and member set: what they change, and which bytes the contract takes for one.
contract RolesTest is RegistryTest {
    address internal admin = member("admin");
    address internal device = member("device");

    function setUp() public override {
        super.setUp();
        grantRoles(admin, Roles.ADMIN);
    }

    function memberSet(address actor, bool isMember) internal pure returns (bytes memory) {
        return
            bytes.concat(
                hex"00", Packed.memberSet(MemberSet(actor, isMember, bytes16(uint128(5)), bytes32(uint256(7))))
            );
    }

    function setMember(bytes memory refusal, bytes memory data) internal {
        if (refusal.length != 0) vm.expectRevert(refusal);
        vm.prank(admin);
        registry.append(realm, shardOf(1, 0), Kinds.MEMBER_SET, data);
    }

    function test_a_role_set_replaces_all_roles() public {
        grantRoles(device, Roles.ISSUER | Roles.WATCHDOG);
        grantRoles(device, Roles.APPROVER);
        grantRoles(device, 0xffff);
        grantRoles(device, 0);
        vm.assertEq(registry.actorOf(realm, device), 0, "nothing is left");
    }

    function test_a_role_set_takes_effect_within_its_own_call_and_ends_likewise() public {
        grantRoles(device, Roles.REVOKER);
        vm.prank(device);
        registry.append(realm, shardOf(2, 0), Kinds.KEY_LOCK, hex"00");
        grantRoles(device, 0);
        vm.prank(device);
        vm.expectRevert(
            abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, device, false, uint16(Kinds.KEY_LOCK))
        );
        registry.append(realm, shardOf(2, 0), Kinds.KEY_LOCK, hex"00");
    }

    function test_roles_of_one_actor_and_realm_leave_others_alone() public {
        grantRoles(device, Roles.ISSUER);
        vm.assertEq(rolesOf(admin), Roles.ADMIN, "another actor");
        vm.assertEq(registry.actorOf(keccak256("other"), device), 0, "another realm");
    }

    function test_undefined_role_bits_are_refused() public {
        for (uint256 bit = 16; bit < 64; ++bit) {
            uint256 roles = (uint256(1) << bit) | Roles.ADMIN;
            expectRefusalByRoots(
                abi.encodeWithSelector(IRegistry.UndefinedRoles.selector, roles),
                one(0, Kinds.ROLE_SET, roleSet(device, roles))
            );
        }
    }

    function test_the_zero_actor_gets_no_role() public {
        expectRefusalByRoots(
            abi.encodeWithSelector(IRegistry.ZeroActor.selector, uint16(Kinds.ROLE_SET)),
            one(0, Kinds.ROLE_SET, roleSet(address(0), Roles.ADMIN))
        );
        setMember(
            abi.encodeWithSelector(IRegistry.ZeroActor.selector, uint16(Kinds.MEMBER_SET)), memberSet(address(0), true)
        );
    }

    function test_an_admin_makes_and_unmakes_members() public {
        setMember("", memberSet(device, true));
        vm.assertEq(rolesOf(device), Roles.MEMBER, "a member");
        vm.prank(device);
        registry.append(realm, shardOf(5, 0), Kinds.REQUEST, hex"00");
        setMember("", memberSet(device, false));
        vm.assertEq(rolesOf(device), 0, "no member");
        vm.prank(device);
        vm.expectRevert(
            abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, device, false, uint16(Kinds.REQUEST))
        );
        registry.append(realm, shardOf(5, 0), Kinds.REQUEST, hex"00");
    }

    function testFuzz_a_member_set_touches_one_bit_and_no_nonce(uint16 roles, bool isMember, uint192 nonce) public {
        grantRoles(device, roles);
        bytes32 slot = keccak256(abi.encode(device, keccak256(abi.encode(realm, uint256(2)))));
        (bool stored,) = address(vm)
            .call(
                abi.encodeWithSignature(
                    "store(address,bytes32,bytes32)", address(registry), slot, bytes32((uint256(nonce) << 64) | roles)
                )
            );
        vm.assertTrue(stored, "stored");
        setMember("", memberSet(device, isMember));
        uint256 expected = isMember ? roles | Roles.MEMBER : roles & ~uint256(Roles.MEMBER);
        vm.assertEq(registry.actorOf(realm, device), (uint256(nonce) << 64) | expected, "only the MEMBER bit");
        grantRoles(device, roles);
        vm.assertEq(nonceOf(device), nonce, "a role set leaves the nonce too");
    }

    function test_a_member_set_by_the_roots_counts() public {
        byRoots(one(shardOf(1, 0), Kinds.MEMBER_SET, memberSet(device, true)));
        vm.assertEq(rolesOf(device), Roles.MEMBER, "a member");
    }

    function test_an_admin_cannot_set_roles() public {
        vm.prank(admin);
        vm.expectRevert(
            abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, admin, false, uint16(Kinds.ROLE_SET))
        );
        registry.append(realm, 0, Kinds.ROLE_SET, roleSet(admin, 0xffff));
    }

    function test_nobody_but_admins_and_roots_makes_members() public {
        grantRoles(device, 0xffff & ~uint256(Roles.ADMIN));
        vm.prank(device);
        vm.expectRevert(
            abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, device, false, uint16(Kinds.MEMBER_SET))
        );
        registry.append(realm, shardOf(1, 0), Kinds.MEMBER_SET, memberSet(device, true));
    }

    function test_role_sets_in_another_form_are_refused() public {
        bytes memory notCanonical = abi.encodeWithSelector(IRegistry.NotCanonical.selector, uint16(Kinds.ROLE_SET));
        bytes memory good = roleSet(device, Roles.ADMIN);
        vm.assertEq(good.length, 61, "actor, roles and key behind the encoding byte");
        refuseRoleSet(notCanonical, bytes.concat(good, hex"00"));
        refuseRoleSet(notCanonical, bytes.concat(good, bytes32(0)));
        for (uint256 size = 1; size < 61; ++size) {
            refuseRoleSet(notCanonical, cut(good, size));
        }
        for (uint256 encoding = 1; encoding < 256; ++encoding) {
            bytes memory other = roleSet(device, Roles.ADMIN);
            other[0] = bytes1(uint8(encoding));
            refuseRoleSet(notCanonical, other);
        }
        bytes memory padded = bytes.concat(hex"00", abi.encode(RoleSet(device, Roles.ADMIN, bytes32(uint256(7)))));
        refuseRoleSet(notCanonical, padded);
    }

    function test_member_sets_in_another_form_are_refused() public {
        bytes memory notCanonical = abi.encodeWithSelector(IRegistry.NotCanonical.selector, uint16(Kinds.MEMBER_SET));
        bytes memory good = memberSet(device, true);
        vm.assertEq(good.length, 70, "actor, member, subject and key behind the encoding byte");
        refuseMemberSet(notCanonical, bytes.concat(good, hex"00"));
        for (uint256 size = 1; size < 70; ++size) {
            refuseMemberSet(notCanonical, cut(good, size));
        }
        for (uint256 value = 1; value < 256; ++value) {
            bytes memory other = memberSet(device, true);
            other[0] = bytes1(uint8(value));
            refuseMemberSet(notCanonical, other);
            if (value == 1) continue;
            other[0] = 0;
            other[21] = bytes1(uint8(value));
            refuseMemberSet(notCanonical, other);
        }
        MemberSet memory set = MemberSet(device, true, bytes16(uint128(5)), bytes32(uint256(7)));
        refuseMemberSet(notCanonical, bytes.concat(hex"00", abi.encode(set)));
    }

    function cut(bytes memory data, uint256 size) internal pure returns (bytes memory head) {
        head = new bytes(size);
        for (uint256 i = 0; i < size; ++i) {
            head[i] = data[i];
        }
    }

    function refuseRoleSet(bytes memory refusal, bytes memory data) internal {
        expectRefusalByRoots(refusal, one(0, Kinds.ROLE_SET, data));
        vm.assertEq(registry.actorOf(realm, device), 0, "no role");
    }

    function refuseMemberSet(bytes memory refusal, bytes memory data) internal {
        uint256 before = registry.slotOf(realm, shardOf(1, 0));
        vm.prank(admin);
        (bool success, bytes memory reason) =
            address(registry).call(abi.encodeCall(IRegistry.append, (realm, shardOf(1, 0), Kinds.MEMBER_SET, data)));
        vm.assertTrue(!success, "refused");
        vm.assertEq(reason, refusal, "with this reason");
        vm.assertEq(registry.actorOf(realm, device), 0, "no role");
        vm.assertEq(registry.slotOf(realm, shardOf(1, 0)), before, "nothing written");
    }
}
