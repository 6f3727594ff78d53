// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, Roles} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Registry} from "../src/Registry.sol";
import {RegistryTest} from "./RegistryTest.sol";
import {Log} from "./Test.sol";
import {AgreeingWallet, MAGIC, ParrotWallet, RevertingWallet, TwoOfTwoWallet, WritingWallet} from "./Wallets.sol";

/// @dev appendBySig: what one actor signed, sent by anybody.
contract SignaturesTest is RegistryTest {
    uint256 internal constant KEY = 0xb0b;
    uint256 internal constant ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
    address internal actor = vm.addr(KEY);
    uint256 internal deadline = START + 60;

    function setUp() public override {
        super.setUp();
        grantRoles(actor, Roles.REVOKER);
    }

    function lock() internal pure returns (IRegistry.Write[] memory) {
        return one(shardOf(2, 0), Kinds.KEY_LOCK, anything());
    }

    function sign(IRegistry.Write[] memory writes, uint256 nonce) internal view returns (bytes memory) {
        return signed(KEY, typed(appendMessage(actor, realm, writes, nonce, deadline)));
    }

    function refuse(bytes memory refusal, uint256 nonce, bytes memory signature) internal {
        uint256 before = registry.actorOf(realm, actor);
        vm.expectRevert(refusal);
        registry.appendBySig(actor, realm, lock(), nonce, deadline, signature);
        vm.assertEq(registry.actorOf(realm, actor), before, "a refused call leaves roles and nonce");
        vm.assertEq(registry.slotOf(realm, shardOf(2, 0)), 0, "and writes nothing");
    }

    function wrongSignature() internal view returns (bytes memory) {
        return abi.encodeWithSelector(IRegistry.WrongSignature.selector, actor);
    }

    function test_anybody_may_send_what_the_actor_signed_and_the_actor_is_the_signer() public {
        bytes memory signature = sign(lock(), 0);
        vm.recordLogs();
        vm.prank(member("relay"));
        registry.appendBySig(actor, realm, lock(), 0, deadline, signature);
        Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, 1, "one entry");
        vm.assertEq(address(uint160(uint256(logs[0].topics[3]))), actor, "written by the signer");
        vm.assertEq(registry.slotOf(realm, shardOf(2, 0)), fold(0, logs[0], block.number), "the head follows");
        vm.assertEq(registry.actorOf(realm, actor), (uint256(1) << 64) | Roles.REVOKER, "nonce 1, same roles");
    }

    function test_a_signature_is_good_once() public {
        bytes memory signature = sign(lock(), 0);
        registry.appendBySig(actor, realm, lock(), 0, deadline, signature);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongNonce.selector, 0, 1));
        registry.appendBySig(actor, realm, lock(), 0, deadline, signature);
        vm.expectRevert(wrongSignature());
        registry.appendBySig(actor, realm, lock(), 1, deadline, signature);
    }

    function test_nonces_run_without_gaps_and_survive_a_change_of_roles() public {
        for (uint256 nonce = 0; nonce < 5; ++nonce) {
            bytes memory early = sign(lock(), nonce + 1);
            vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongNonce.selector, nonce + 1, nonce));
            registry.appendBySig(actor, realm, lock(), nonce + 1, deadline, early);
            registry.appendBySig(actor, realm, lock(), nonce, deadline, sign(lock(), nonce));
            grantRoles(actor, Roles.REVOKER | (Roles.MEMBER * (nonce % 2)));
            vm.assertEq(nonceOf(actor), nonce + 1, "nonce");
        }
    }

    function test_a_nonce_does_not_spill_into_the_roles_nor_wrap() public {
        bytes32 slot = keccak256(abi.encode(actor, keccak256(abi.encode(realm, uint256(2)))));
        storeSlot(slot, bytes32((uint256(type(uint192).max) << 64) | Roles.REVOKER));
        uint256 nonce = type(uint192).max;
        bytes memory signature = sign(lock(), nonce);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        registry.appendBySig(actor, realm, lock(), nonce, deadline, signature);
    }

    function storeSlot(bytes32 slot, bytes32 value) internal {
        (bool success,) =
            address(vm).call(abi.encodeWithSignature("store(address,bytes32,bytes32)", address(registry), slot, value));
        vm.assertTrue(success, "stored");
    }

    function test_the_deadline_is_the_last_second() public {
        bytes memory signature = sign(lock(), 0);
        vm.warp(deadline + 1);
        refuse(abi.encodeWithSelector(IRegistry.DeadlinePassed.selector, deadline, deadline + 1), 0, signature);
        vm.warp(deadline);
        registry.appendBySig(actor, realm, lock(), 0, deadline, signature);
    }

    function test_a_later_deadline_than_the_signed_one_is_refused() public {
        bytes memory signature = sign(lock(), 0);
        deadline += 1;
        refuse(wrongSignature(), 0, signature);
    }

    function test_a_signature_for_another_realm_is_refused() public {
        bytes32 message = appendMessage(actor, keccak256("other"), lock(), 0, deadline);
        refuse(wrongSignature(), 0, signed(KEY, typed(message)));
    }

    function test_a_signature_for_another_contract_is_refused() public {
        bytes32 message = appendMessage(actor, realm, lock(), 0, deadline);
        bytes32 elsewhere = domain(block.chainid, address(new Registry()));
        refuse(wrongSignature(), 0, signed(KEY, keccak256(bytes.concat(hex"1901", elsewhere, message))));
    }

    function test_a_signature_for_another_chain_is_refused() public {
        bytes memory signature = sign(lock(), 0);
        vm.chainId(block.chainid + 1);
        refuse(wrongSignature(), 0, signature);
    }

    function test_a_signature_over_other_writes_is_refused() public {
        IRegistry.Write[] memory writes = lock();
        writes[0].data = hex"00";
        refuse(wrongSignature(), 0, sign(writes, 0));
        writes = lock();
        writes[0].kind = Kinds.USER_LOCK;
        refuse(wrongSignature(), 0, sign(writes, 0));
        writes = lock();
        writes[0].shard += 1;
        refuse(wrongSignature(), 0, sign(writes, 0));
        writes = new IRegistry.Write[](2);
        writes[0] = lock()[0];
        writes[1] = lock()[0];
        refuse(wrongSignature(), 0, sign(writes, 0));
        refuse(wrongSignature(), 0, sign(new IRegistry.Write[](0), 0));
    }

    function test_a_signature_naming_another_actor_is_refused() public {
        bytes32 message = appendMessage(member("somebody"), realm, lock(), 0, deadline);
        refuse(wrongSignature(), 0, signed(KEY, typed(message)));
    }

    function test_a_signature_by_another_key_is_refused() public {
        refuse(wrongSignature(), 0, signed(KEY + 1, typed(appendMessage(actor, realm, lock(), 0, deadline))));
    }

    function test_a_roots_message_is_no_actors_message() public {
        refuse(wrongSignature(), 0, signed(KEY, typed(rootsMessage(realm, 0, lock()))));
    }

    function test_the_high_s_twin_of_a_signature_is_refused() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, typed(appendMessage(actor, realm, lock(), 0, deadline)));
        bytes32 high = bytes32(ORDER - uint256(s));
        uint8 flipped = v == 27 ? 28 : 27;
        bytes32 digest = typed(appendMessage(actor, realm, lock(), 0, deadline));
        vm.assertEq(ecrecover(digest, flipped, r, high), actor, "the twin does recover to the actor");
        refuse(wrongSignature(), 0, abi.encodePacked(r, high, flipped));
        registry.appendBySig(actor, realm, lock(), 0, deadline, abi.encodePacked(r, s, v));
    }

    function test_signatures_of_another_shape_are_refused() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, typed(appendMessage(actor, realm, lock(), 0, deadline)));
        refuse(wrongSignature(), 0, "");
        refuse(wrongSignature(), 0, abi.encodePacked(r, s));
        refuse(wrongSignature(), 0, abi.encodePacked(r, s, v, uint8(0)));
        refuse(wrongSignature(), 0, abi.encodePacked(r, s, v - 27));
        refuse(wrongSignature(), 0, abi.encodePacked(r, s, uint8(29)));
        refuse(wrongSignature(), 0, new bytes(65));
    }

    function test_a_signature_that_recovers_to_nobody_is_not_the_zero_actors() public {
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongSignature.selector, address(0)));
        registry.appendBySig(address(0), realm, one(shardOf(7, 0), Kinds.ENROL, hex"00"), 0, deadline, new bytes(65));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongSignature.selector, address(0)));
        registry.appendBySig(
            address(0),
            realm,
            one(shardOf(7, 0), Kinds.ENROL, hex"00"),
            0,
            deadline,
            abi.encodePacked(new bytes(64), uint8(27))
        );
    }

    function test_a_good_signature_without_the_role_is_refused_and_keeps_its_nonce() public {
        grantRoles(actor, Roles.MEMBER);
        refuse(
            abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, actor, false, uint16(Kinds.KEY_LOCK)),
            0,
            sign(lock(), 0)
        );
    }

    function test_an_empty_list_of_signed_writes_is_refused() public {
        IRegistry.Write[] memory writes = new IRegistry.Write[](0);
        bytes memory signature = sign(writes, 0);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoWrites.selector));
        registry.appendBySig(actor, realm, writes, 0, deadline, signature);
    }

    function test_an_actor_never_seen_may_write_the_inbox_by_signature() public {
        actor = vm.addr(0xd0d0);
        IRegistry.Write[] memory writes = one(shardOf(7, 0), Kinds.ENROL, hex"00");
        bytes memory signature = signed(0xd0d0, typed(appendMessage(actor, realm, writes, 0, deadline)));
        registry.appendBySig(actor, realm, writes, 0, deadline, signature);
        vm.assertEq(registry.actorOf(realm, actor), uint256(1) << 64, "nonce 1, no roles");
    }

    function testFuzz_several_signed_writes_are_one_whole(uint256 key, uint256 seed, bytes memory data) public {
        key = 1 + (key % (ORDER - 1));
        actor = vm.addr(key);
        vm.assume(actor.code.length == 0);
        vm.assume(data.length > 0 && data.length <= 4096);
        grantRoles(actor, Roles.REVOKER | Roles.ISSUER);
        IRegistry.Write[] memory writes = new IRegistry.Write[](1 + (seed % 5));
        for (uint256 i = 0; i < writes.length; ++i) {
            writes[i] = seed & (1 << (8 + i)) == 0
                ? IRegistry.Write(shardOf(2, 0), Kinds.KEY_LOCK, data)
                : IRegistry.Write(shardOf(4, 0), Kinds.BATCH, data);
        }
        bytes memory signature = signed(key, typed(appendMessage(actor, realm, writes, 0, deadline)));
        vm.recordLogs();
        registry.appendBySig(actor, realm, writes, 0, deadline, signature);
        vm.assertEq(vm.getRecordedLogs().length, writes.length, "every write is an entry");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongNonce.selector, 0, 1));
        registry.appendBySig(actor, realm, writes, 0, deadline, signature);
    }

    // --- ERC-1271

    function walletAppend(address wallet, bytes memory refusal, bytes memory signature) internal {
        grantRoles(wallet, Roles.REVOKER);
        if (refusal.length != 0) vm.expectRevert(refusal);
        registry.appendBySig(wallet, realm, lock(), 0, deadline, signature);
    }

    function refuseWallet(address wallet) internal {
        walletAppend(wallet, abi.encodeWithSelector(IRegistry.WrongSignature.selector, wallet), "anything");
        vm.assertEq(nonceOf(wallet), 0, "nonce");
    }

    function test_a_wallet_signs_by_its_own_rule() public {
        address wallet = address(new TwoOfTwoWallet(vm.addr(1), vm.addr(2)));
        bytes32 digest = typed(appendMessage(wallet, realm, lock(), 0, deadline));
        bytes memory first = signed(1, digest);
        bytes memory second = signed(2, digest);
        bytes memory refusal = abi.encodeWithSelector(IRegistry.WrongSignature.selector, wallet);
        walletAppend(wallet, refusal, bytes.concat(first, first));
        walletAppend(wallet, refusal, first);
        walletAppend(wallet, "", bytes.concat(first, second));
        vm.assertEq(nonceOf(wallet), 1, "nonce");
    }

    function test_a_wallets_other_answers_are_refusals() public {
        refuseWallet(address(new RevertingWallet()));
        refuseWallet(address(new ParrotWallet(abi.encode(bytes4(0xffffffff)))));
        refuseWallet(address(new ParrotWallet("")));
        refuseWallet(address(new ParrotWallet(abi.encodePacked(MAGIC))));
        refuseWallet(address(new ParrotWallet(abi.encode(uint256(1)))));
        refuseWallet(address(new ParrotWallet(abi.encode(bytes32(MAGIC) | bytes32(uint256(1))))));
        walletAppend(address(new ParrotWallet(abi.encode(MAGIC))), "", "anything");
    }

    function test_a_wallet_cannot_write_while_it_answers() public {
        WritingWallet wallet = new WritingWallet();
        refuseWallet(address(wallet));
        vm.assertEq(wallet.asked(), 0, "nothing written");
    }

    function test_an_account_with_a_key_and_code_signs_by_either() public {
        vm.etch(actor, address(new ParrotWallet("")).code);
        refuse(wrongSignature(), 0, "anything");
        registry.appendBySig(actor, realm, lock(), 0, deadline, sign(lock(), 0));
        vm.assertEq(nonceOf(actor), 1, "by the key");
        vm.etch(actor, address(new AgreeingWallet()).code);
        registry.appendBySig(actor, realm, lock(), 1, deadline, "anything");
        vm.assertEq(nonceOf(actor), 2, "by the code");
    }
}
