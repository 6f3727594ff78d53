// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, Roles} from "../src/Entries.sol";
import {RegistryTest} from "./RegistryTest.sol";

/// @dev slotOf, rootSetOf, actorOf, realmId.
contract ViewsTest is RegistryTest {
    address internal admin = member("admin");

    function setUp() public override {
        super.setUp();
        grantRoles(admin, 0xffff);
    }

    function headSlot(bytes32 ofRealm, uint64 shard) internal pure returns (bytes32) {
        return keccak256(abi.encode(shard, keccak256(abi.encode(ofRealm, uint256(0)))));
    }

    function rootSetSlot(bytes32 ofRealm) internal pure returns (bytes32) {
        return keccak256(abi.encode(ofRealm, uint256(1)));
    }

    function actorSlot(bytes32 ofRealm, address who) internal pure returns (bytes32) {
        return keccak256(abi.encode(who, keccak256(abi.encode(ofRealm, uint256(2)))));
    }

    function stored(bytes32 slot) internal view returns (bytes32) {
        return vm.load(address(registry), slot);
    }

    // --- slotOf

    function test_the_slot_of_a_shard_lies_in_mapping_0() public {
        vm.prank(admin);
        registry.append(realm, shardOf(1, 0), Kinds.USER_ADD, hex"00");
        vm.assertEq(
            registry.slotOf(realm, shardOf(1, 0)),
            uint256(stored(headSlot(realm, shardOf(1, 0)))),
            "heads are mapping 0"
        );
        vm.assertTrue(registry.slotOf(realm, shardOf(1, 0)) != 0, "and it is written");
    }

    function testFuzz_any_shards_slot_is_what_storage_holds(bytes32 ofRealm, uint64 shard, uint256 value) public {
        vm.store(address(registry), headSlot(ofRealm, shard), bytes32(value));
        vm.assertEq(registry.slotOf(ofRealm, shard), value, "the slot");
    }

    function test_a_shard_never_written_has_the_slot_zero() public view {
        vm.assertEq(registry.slotOf(keccak256("no realm"), 0), 0, "another realm");
        vm.assertEq(registry.slotOf(realm, shardOf(2, 0)), 0, "another shard of this one");
    }

    // --- rootSetOf

    function test_the_root_set_lies_in_mapping_1_and_is_the_hash_of_nonce_threshold_and_roots() public {
        byRoots(one(0, Kinds.SETTINGS, hex"00"));
        vm.assertEq(registry.rootSetOf(realm), stored(rootSetSlot(realm)), "root sets are mapping 1");
        vm.assertEq(registry.rootSetOf(realm), keccak256(abi.encode(rootNonce, threshold, roots)), "its preimage");
    }

    function testFuzz_any_realms_root_set_is_what_storage_holds(bytes32 ofRealm, bytes32 value) public {
        vm.store(address(registry), rootSetSlot(ofRealm), value);
        vm.assertEq(registry.rootSetOf(ofRealm), value, "the hash");
    }

    function test_a_realm_whose_roots_never_wrote_has_the_root_set_zero() public view {
        vm.assertEq(registry.rootSetOf(realmOf(1, roots, SALT)), 0, "root set");
    }

    // --- actorOf

    function test_an_actors_record_lies_in_mapping_2() public view {
        vm.assertEq(registry.actorOf(realm, admin), 0xffff, "all roles, nonce 0");
        vm.assertEq(uint256(stored(actorSlot(realm, admin))), 0xffff, "actors are mapping 2");
        vm.assertTrue(Roles.ADMIN == 1 && Roles.MEMBER == 32, "role bits as in the table");
    }

    function testFuzz_any_actors_record_is_what_storage_holds(bytes32 ofRealm, address who, uint256 value) public {
        vm.store(address(registry), actorSlot(ofRealm, who), bytes32(value));
        vm.assertEq(registry.actorOf(ofRealm, who), value, "the record");
    }

    function test_an_actor_never_named_has_the_record_zero() public view {
        vm.assertEq(registry.actorOf(realm, member("nobody")), 0, "another actor");
        vm.assertEq(registry.actorOf(keccak256("no realm"), admin), 0, "another realm");
    }

    // --- realmId

    function testFuzz_the_realm_id_is_the_hash_of_its_first_roots(uint256 m, address[] memory set, bytes32 salt)
        public
        view
    {
        vm.assertEq(registry.realmId(m, set, salt), realmOf(m, set, salt), "realm id");
    }

    function test_the_same_roots_have_another_realm_on_another_chain_or_contract() public {
        vm.chainId(block.chainid + 1);
        bytes32 onOtherChain = registry.realmId(threshold, roots, SALT);
        vm.assertEq(onOtherChain, realmOf(threshold, roots, SALT), "realm id there");
        vm.assertTrue(onOtherChain != realm, "another chain");
        vm.chainId(block.chainid - 1);
        vm.assertTrue(deploy().realmId(threshold, roots, SALT) != realm, "another contract");
    }
}
