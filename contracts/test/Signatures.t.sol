// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, MemberSet, Roles} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Registry} from "../src/Registry.sol";
import {Packed} from "./Packed.sol";
import {RegistryTest} from "./RegistryTest.sol";
import {Log} from "./Test.sol";
import {
    AgreeingWallet,
    AskingWallet,
    MAGIC,
    MembersWallet,
    ParrotWallet,
    RevertingWallet,
    SafeLikeWallet,
    TwoOfTwoWallet,
    WritingWallet
} from "./Wallets.sol";

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
        appendSigned(actor, lock(), nonce, deadline, signature);
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
        appendSigned(actor, lock(), 0, deadline, signature);
        Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, 1, "one entry");
        vm.assertEq(address(uint160(uint256(logs[0].topics[3]))), actor, "written by the signer");
        vm.assertEq(registry.slotOf(realm, shardOf(2, 0)), fold(0, logs[0], block.number), "the head follows");
        vm.assertEq(registry.actorOf(realm, actor), (uint256(1) << 64) | Roles.REVOKER, "nonce 1, same roles");
    }

    function test_a_signature_is_good_once() public {
        bytes memory signature = sign(lock(), 0);
        appendSigned(actor, lock(), 0, deadline, signature);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongNonce.selector, 0, 1));
        appendSigned(actor, lock(), 0, deadline, signature);
        vm.expectRevert(wrongSignature());
        appendSigned(actor, lock(), 1, deadline, signature);
    }

    function test_nonces_run_without_gaps_and_survive_a_change_of_roles() public {
        for (uint256 nonce = 0; nonce < 5; ++nonce) {
            bytes memory early = sign(lock(), nonce + 1);
            vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongNonce.selector, nonce + 1, nonce));
            appendSigned(actor, lock(), nonce + 1, deadline, early);
            appendSigned(actor, lock(), nonce, deadline, sign(lock(), nonce));
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
        appendSigned(actor, lock(), nonce, deadline, signature);
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
        appendSigned(actor, lock(), 0, deadline, signature);
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
        appendSigned(actor, lock(), 0, deadline, abi.encodePacked(r, s, v));
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
        appendSigned(address(0), one(shardOf(7, 0), Kinds.ENROL, hex"00"), 0, deadline, new bytes(65));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongSignature.selector, address(0)));
        appendSigned(
            address(0),
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
        appendSigned(actor, writes, 0, deadline, signature);
    }

    function test_an_actor_never_seen_may_write_the_inbox_by_signature() public {
        actor = vm.addr(0xd0d0);
        IRegistry.Write[] memory writes = one(shardOf(7, 0), Kinds.ENROL, hex"00");
        bytes memory signature = signed(0xd0d0, typed(appendMessage(actor, realm, writes, 0, deadline)));
        appendSigned(actor, writes, 0, deadline, signature);
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
        appendSigned(actor, writes, 0, deadline, signature);
        vm.assertEq(vm.getRecordedLogs().length, writes.length, "every write is an entry");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongNonce.selector, 0, 1));
        appendSigned(actor, writes, 0, deadline, signature);
    }

    // --- P-256

    uint256 internal constant PASSKEY = 0x70617373;

    /// @dev The actor is a P-256 key's from here on.
    function digestForKey() internal returns (bytes32) {
        actor = addressP256(PASSKEY);
        grantRoles(actor, Roles.REVOKER);
        return typed(appendMessage(actor, realm, lock(), 0, deadline));
    }

    /// @dev The actor is an authenticator's from here on.
    function digestForPasskey() internal returns (bytes32) {
        actor = addressPasskey(PASSKEY);
        grantRoles(actor, Roles.REVOKER);
        return typed(appendMessage(actor, realm, lock(), 0, deadline));
    }

    function accept(bytes memory signature) internal {
        uint256 nonce = nonceOf(actor);
        registry.appendBySig(actor, realm, shardOf(2, 0), Kinds.KEY_LOCK, anything(), nonce, deadline, signature);
        vm.assertEq(nonceOf(actor), nonce + 1, "taken");
    }

    function with(bytes memory signature, uint256 place, bytes1 value) internal pure returns (bytes memory changed) {
        changed = bytes.concat(signature);
        changed[place] = value;
    }

    function head(bytes memory signature, uint256 size) internal pure returns (bytes memory cut) {
        cut = new bytes(size);
        for (uint256 i = 0; i < size; ++i) {
            cut[i] = signature[i];
        }
    }

    function test_a_p256_key_signs_as_the_address_of_its_public_key() public {
        vm.recordLogs();
        accept(signedP256(PASSKEY, digestForKey()));
        Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(address(uint160(uint256(logs[logs.length - 1].topics[3]))), actor, "written by the key's address");
    }

    function test_several_writes_by_a_p256_key_are_one_whole() public {
        digestForKey();
        IRegistry.Write[] memory writes = new IRegistry.Write[](2);
        (writes[0], writes[1]) = (lock()[0], lock()[0]);
        bytes32 digest = typed(appendMessage(actor, realm, writes, 0, deadline));
        vm.recordLogs();
        registry.appendManyBySig(actor, realm, writes, 0, deadline, signedP256(PASSKEY, digest));
        vm.assertEq(vm.getRecordedLogs().length, 2, "both");
    }

    function testFuzz_p256_signatures_are_taken_in_both_forms(uint256 key, bytes memory data) public {
        key = 1 + (key % (P256_ORDER - 1));
        vm.assume(data.length > 0 && data.length <= 4096);
        actor = addressP256(key);
        grantRoles(actor, Roles.REVOKER);
        IRegistry.Write[] memory writes = one(shardOf(2, 0), Kinds.KEY_LOCK, data);
        bytes32 digest = typed(appendMessage(actor, realm, writes, 0, deadline));
        appendSigned(actor, writes, 0, deadline, signedP256(key, digest));
        vm.assertEq(nonceOf(actor), 1, "by the key itself");
        actor = addressPasskey(key);
        grantRoles(actor, Roles.REVOKER);
        digest = typed(appendMessage(actor, realm, writes, 0, deadline));
        appendSigned(actor, writes, 0, deadline, signedByPasskey(key, digest));
        vm.assertEq(nonceOf(actor), 1, "by the authenticator");
    }

    function test_p256_signatures_that_are_not_the_actors_over_these_writes_are_refused() public {
        bytes32 digest = digestForKey();
        bytes memory good = signedP256(PASSKEY, digest);
        refuse(wrongSignature(), 0, signedP256(PASSKEY, keccak256("other")));
        // Another key, named or not.
        bytes memory other = signedP256(PASSKEY + 1, digest);
        refuse(wrongSignature(), 0, other);
        (uint256 x, uint256 y) = vm.publicKeyP256(PASSKEY);
        refuse(wrongSignature(), 0, abi.encodePacked(head(other, 64), x, y));
        // Each quarter of a good one altered: r, s, x, y.
        for (uint256 place = 31; place < 128; place += 32) {
            refuse(wrongSignature(), 0, with(good, place, bytes1(uint8(good[place]) ^ 1)));
        }
        // The same key as a secp256k1 key, and the reverse.
        refuse(wrongSignature(), 0, signed(PASSKEY, digest));
        actor = vm.addr(KEY);
        refuse(wrongSignature(), 0, signedP256(KEY, typed(appendMessage(actor, realm, lock(), 0, deadline))));
        actor = addressP256(PASSKEY);
        accept(good);
    }

    function test_the_high_s_twin_of_a_p256_signature_is_refused() public {
        bytes32 digest = digestForKey();
        bytes memory good = signedP256(PASSKEY, digest);
        (bytes32 r, bytes32 s) = (word(good, 0), word(good, 32));
        bytes memory twin = abi.encodePacked(r, P256_ORDER - uint256(s), word(good, 64), word(good, 96));
        (, bytes memory answer) = address(0x100).staticcall(bytes.concat(digest, twin));
        vm.assertEq(answer, abi.encode(uint256(1)), "the precompile would take the twin");
        refuse(wrongSignature(), 0, twin);
        accept(good);
    }

    function word(bytes memory data, uint256 place) internal pure returns (bytes32 value) {
        for (uint256 i = 0; i < 32; ++i) {
            value |= bytes32(data[place + i]) >> (8 * i);
        }
    }

    function test_s_at_the_edges_of_the_lower_half_of_p256s_order_is_told_apart() public {
        bytes memory good = signedP256(PASSKEY, digestForKey());
        // Neither verifies; above the half the precompile is not even asked.
        bytes memory half = abi.encodePacked(word(good, 0), P256_ORDER / 2, word(good, 64), word(good, 96));
        bytes memory above = abi.encodePacked(word(good, 0), P256_ORDER / 2 + 1, word(good, 64), word(good, 96));
        vm.mockCall(address(0x100), "", abi.encode(uint256(1)));
        refuse(wrongSignature(), 0, above);
        accept(half);
        vm.clearMockedCalls();
    }

    function test_p256_signatures_of_another_length_are_refused() public {
        bytes32 digest = digestForKey();
        bytes memory good = signedP256(PASSKEY, digest);
        for (uint256 size = 0; size < 128; ++size) {
            refuse(wrongSignature(), 0, head(good, size));
        }
        refuse(wrongSignature(), 0, bytes.concat(good, hex"00"));
        refuse(wrongSignature(), 0, bytes.concat(good, hex"0000"));
        refuse(wrongSignature(), 0, bytes.concat(good, bytes32(0), bytes32(0)));
    }

    function test_a_chain_without_the_precompile_says_so_instead_of_blaming_the_signature() public {
        bytes memory asserted = signedByPasskey(PASSKEY, digestForPasskey());
        address passkey = actor;
        bytes memory raw = signedP256(PASSKEY, digestForKey());
        bytes memory noP256 = abi.encodeWithSelector(IRegistry.NoP256.selector);
        // What a call to an address without code gives, and what else could stand in the precompile's place.
        bytes[5] memory answers =
            [bytes(""), abi.encode(uint256(0)), abi.encode(uint256(2)), hex"01", abi.encode(uint256(1), uint256(0))];
        for (uint256 i = 0; i < answers.length; ++i) {
            vm.mockCall(address(0x100), "", answers[i]);
            refuse(noP256, 0, raw);
            actor = passkey;
            refuse(noP256, 0, asserted);
            actor = addressP256(PASSKEY);
        }
        vm.mockCallRevert(address(0x100), "", abi.encode(uint256(1)));
        refuse(noP256, 0, raw);
        // Other keys and malformed assertions have nothing to do with it.
        refuse(wrongSignature(), 0, signedP256(PASSKEY + 1, keccak256("other")));
        refuse(wrongSignature(), 0, bytes.concat(raw, hex"00"));
        vm.clearMockedCalls();
        accept(raw);
    }

    function test_a_passkey_signs_by_a_webauthn_assertion() public {
        accept(signedByPasskey(PASSKEY, digestForPasskey()));
        // Extension data, and no more client data than the challenge.
        bytes32 digest = typed(appendMessage(actor, realm, lock(), 1, deadline));
        bytes memory extended = bytes.concat(authenticatorData(0x85), hex"a0");
        accept(assertion(PASSKEY, extended, clientData("webauthn.get", digest, "}"), "}"));
    }

    function test_a_key_is_another_actor_as_an_authenticator_than_by_itself() public {
        bytes32 digest = digestForPasskey();
        refuse(wrongSignature(), 0, signedP256(PASSKEY, digest));
        digest = digestForKey();
        refuse(wrongSignature(), 0, signedByPasskey(PASSKEY, digest));
    }

    function test_what_an_ssh_agent_signs_for_others_writes_nothing() public {
        bytes32 digest = digestForKey();
        // `ssh-keygen -Y sign -n release-notes@example.org` over client data: what comes before their hash passes for
        // authenticator data, with both bits of the flags.
        bytes memory preamble = bytes.concat(
            "SSHSIG", hex"00000019", "release-notes@example.org", hex"0000000000000006", "sha256", hex"00000020"
        );
        vm.assertEq(uint8(preamble[32]) & 0x05, 0x05, "flags");
        bytes memory client = clientData("webauthn.get", digest, "}");
        refuse(wrongSignature(), 0, assertion(PASSKEY, preamble, client, "}"));
        accept(signedP256(PASSKEY, digest));
    }

    function test_an_assertion_needs_a_user_who_is_present_and_verified() public {
        bytes32 digest = digestForPasskey();
        bytes memory client = clientData("webauthn.get", digest, "}");
        for (uint256 flags = 0; flags < 256; ++flags) {
            if (flags & 0x05 == 0x05) continue;
            refuse(wrongSignature(), 0, assertion(PASSKEY, authenticatorData(uint8(flags)), client, "}"));
        }
        accept(assertion(PASSKEY, authenticatorData(0x05), client, "}"));
        for (uint256 flags = 0x0d; flags < 256; flags = (flags + 1) | 0x05) {
            digest = typed(appendMessage(actor, realm, lock(), nonceOf(actor), deadline));
            accept(assertion(PASSKEY, authenticatorData(uint8(flags)), clientData("webauthn.get", digest, "}"), "}"));
        }
    }

    function test_assertions_of_anything_else_are_refused() public {
        bytes32 digest = digestForPasskey();
        bytes memory data = authenticatorData(0x05);
        bytes memory rest = ',"origin":"https://countersign.example"}';
        // Another challenge, a registration, another type.
        refuse(wrongSignature(), 0, signedByPasskey(PASSKEY, keccak256("other")));
        refuse(wrongSignature(), 0, assertion(PASSKEY, data, clientData("webauthn.create", digest, rest), rest));
        refuse(wrongSignature(), 0, assertion(PASSKEY, data, clientData("payment.get", digest, rest), rest));
        // Other client data, or other authenticator data, than those that were signed.
        bytes memory client = clientData("webauthn.get", digest, rest);
        refuse(wrongSignature(), 0, assertion(PASSKEY, data, client, "}"));
        bytes memory good = assertion(PASSKEY, data, client, rest);
        for (uint256 place = 130; place < good.length; ++place) {
            if (place != 130 + 32) refuse(wrongSignature(), 0, with(good, place, bytes1(uint8(good[place]) ^ 1)));
        }
        // The challenge in the rest does not count.
        bytes memory smuggled = bytes.concat(',"challenge":"', base64url(digest), '"}');
        bytes memory outer = clientData("webauthn.get", keccak256("other"), smuggled);
        refuse(wrongSignature(), 0, assertion(PASSKEY, data, outer, smuggled));
        // Signed over the digest itself, in the longer form.
        bytes memory raw = signedP256(PASSKEY, digest);
        refuse(wrongSignature(), 0, abi.encodePacked(raw, uint16(data.length), data, rest));
        accept(good);
    }

    function test_assertions_of_wrong_lengths_are_refused() public {
        bytes32 digest = digestForPasskey();
        bytes memory good = signedByPasskey(PASSKEY, digest);
        for (uint256 size = 129; size < good.length; ++size) {
            refuse(wrongSignature(), 0, head(good, size));
        }
        refuse(wrongSignature(), 0, bytes.concat(good, " "));
        // Authenticator data said to be shorter or longer than they are, or too short to hold flags and counter.
        for (uint256 size = 0; size < 70; ++size) {
            if (size != 37) refuse(wrongSignature(), 0, with(good, 129, bytes1(uint8(size))));
        }
        refuse(wrongSignature(), 0, with(good, 128, 0xff));
        bytes memory short = head(authenticatorData(0x05), 36);
        refuse(wrongSignature(), 0, assertion(PASSKEY, short, clientData("webauthn.get", digest, "}"), "}"));
        accept(good);
    }

    // --- ERC-1271

    function walletAppend(address wallet, bytes memory refusal, bytes memory signature) internal {
        grantRoles(wallet, Roles.REVOKER);
        if (refusal.length != 0) vm.expectRevert(refusal);
        appendSigned(wallet, lock(), 0, deadline, signature);
    }

    function refuseWallet(address wallet) internal {
        walletAppend(wallet, abi.encodeWithSelector(IRegistry.WrongSignature.selector, wallet), "anything");
        vm.assertEq(nonceOf(wallet), 0, "nonce");
    }

    /// @dev Its wallet agrees only if the question that it puts to the registry meanwhile is turned down.
    function acceptWhereTurnedDown(bytes memory question) internal {
        address wallet = address(new AskingWallet(address(registry), question, IRegistry.WalletIsAsked.selector));
        walletAppend(wallet, "", "anything");
        vm.assertEq(nonceOf(wallet), 1, "taken, and the registry answers again");
    }

    function test_the_registry_tells_nothing_to_the_wallet_that_it_asks() public {
        acceptWhereTurnedDown(abi.encodeCall(IRegistry.actorOf, (realm, actor)));
        acceptWhereTurnedDown(abi.encodeCall(IRegistry.slotOf, (realm, shardOf(2, 0))));
        acceptWhereTurnedDown(abi.encodeCall(IRegistry.rootSetOf, (realm)));
    }

    function test_a_wallet_cannot_agree_to_a_write_because_of_that_write() public {
        // Whoever is a MEMBER may sign for it: the write makes the stranger one.
        MembersWallet wallet = new MembersWallet(registry, realm);
        grantRoles(address(wallet), Roles.ADMIN);
        address stranger = member("stranger");
        bytes memory set = Packed.memberSet(MemberSet(stranger, true, bytes16(uint128(5)), bytes32(uint256(7))));
        IRegistry.Write[] memory writes = one(shardOf(1, 0), Kinds.MEMBER_SET, bytes.concat(hex"00", set));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongSignature.selector, address(wallet)));
        appendSigned(address(wallet), writes, 0, deadline, abi.encodePacked(stranger));
        vm.assertEq(registry.actorOf(realm, stranger), 0, "no member");
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

    function test_a_safe_signs_by_its_threshold_of_owners_and_messages_it_approved() public {
        address[] memory owners = new address[](3);
        for (uint256 i = 0; i < 3; ++i) {
            owners[i] = vm.addr(i + 1);
        }
        SafeLikeWallet wallet = new SafeLikeWallet(owners, 2);
        address safe = address(wallet);
        bytes32 message = wallet.messageHash(typed(appendMessage(safe, realm, lock(), 0, deadline)));
        bytes memory refusal = abi.encodeWithSelector(IRegistry.WrongSignature.selector, safe);
        bytes[3] memory given;
        for (uint256 i = 0; i < 3; ++i) {
            given[wallet.place(owners[i])] = signed(i + 1, message);
        }
        walletAppend(safe, refusal, given[0]);
        walletAppend(safe, refusal, bytes.concat(given[0], given[0]));
        walletAppend(safe, refusal, bytes.concat(given[1], given[0]));
        walletAppend(safe, refusal, bytes.concat(given[0], signed(9, message)));
        // Signed as if the Safe were not there: over the registry's digest.
        bytes32 digest = typed(appendMessage(safe, realm, lock(), 0, deadline));
        walletAppend(safe, refusal, bytes.concat(signed(1, digest), signed(2, digest)));
        walletAppend(safe, refusal, "");
        walletAppend(safe, "", bytes.concat(given[0], given[2]));
        vm.assertEq(nonceOf(safe), 1, "by two of three");
        // Three signatures are longer than a P-256 key's and are no such key's.
        bytes32 next = wallet.messageHash(typed(appendMessage(safe, realm, lock(), 1, deadline)));
        for (uint256 i = 0; i < 3; ++i) {
            given[wallet.place(owners[i])] = signed(i + 1, next);
        }
        bytes memory three = bytes.concat(given[0], given[1], given[2]);
        registry.appendBySig(safe, realm, shardOf(2, 0), Kinds.KEY_LOCK, anything(), 1, deadline, three);
        // A message that the owners approved on the chain needs no signature.
        next = wallet.messageHash(typed(appendMessage(safe, realm, lock(), 2, deadline)));
        vm.prank(owners[0]);
        wallet.approve(next);
        vm.expectRevert(refusal);
        registry.appendBySig(safe, realm, shardOf(2, 0), Kinds.KEY_LOCK, anything(), 2, deadline, "");
        vm.prank(owners[2]);
        wallet.approve(next);
        registry.appendBySig(safe, realm, shardOf(2, 0), Kinds.KEY_LOCK, anything(), 2, deadline, "");
        vm.assertEq(nonceOf(safe), 3, "all three");
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
        appendSigned(actor, lock(), 0, deadline, sign(lock(), 0));
        vm.assertEq(nonceOf(actor), 1, "by the key");
        vm.etch(actor, address(new AgreeingWallet()).code);
        appendSigned(actor, lock(), 1, deadline, "anything");
        vm.assertEq(nonceOf(actor), 2, "by the code");
    }
}
