// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, Roles, RootSet} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Registry} from "../src/Registry.sol";
import {RegistryTest} from "./RegistryTest.sol";
import {Log} from "./Test.sol";
import {RevertingWallet, TwoOfTwoWallet} from "./Wallets.sol";

/// @dev appendByRoots: proof of the set, signatures, rotation.
contract RootsTest is RegistryTest {
    uint256 internal constant NEW_KEY = 0xfee1;
    uint256 internal constant SECP256K1_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;

    function settings() internal pure returns (IRegistry.Write[] memory) {
        return one(0, Kinds.SETTINGS, hex"00");
    }

    function rootSet(uint256 m, address[] memory set) internal pure returns (bytes memory) {
        return bytes.concat(hex"00", abi.encode(RootSet(m, set)));
    }

    function addresses(uint256 firstKey, uint256 count) internal pure returns (address[] memory set) {
        set = new address[](count);
        for (uint256 i = 0; i < count; ++i) {
            set[i] = vm.addr(firstKey + i);
        }
    }

    function refuse(
        bytes memory refusal,
        IRegistry.RootProof memory proof,
        IRegistry.Write[] memory writes,
        RootSignature[] memory signatures
    ) internal {
        bytes32 before = registry.rootSetOf(realm);
        expectRefusal(refusal, abi.encodeCall(IRegistry.appendByRoots, (realm, proof, writes, pack(signatures))));
        vm.assertEq(registry.rootSetOf(realm), before, "a refused call leaves the root set");
        vm.assertEq(registry.slotOf(realm, 0), 0, "and writes nothing");
    }

    function refuse(bytes memory refusal, RootSignature[] memory signatures) internal {
        refuse(refusal, proofNow(), settings(), signatures);
    }

    function test_a_realm_needs_no_transaction_before_its_first_write() public {
        vm.assertEq(registry.rootSetOf(realm), 0, "nothing stored");
        vm.recordLogs();
        vm.prank(member("relay"));
        byRoots(settings());
        Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, 1, "one entry");
        vm.assertEq(logs[0].topics[3], 0, "the actor is zero");
        vm.assertEq(registry.slotOf(realm, 0), fold(0, logs[0], block.number), "the head follows");
        vm.assertEq(registry.rootSetOf(realm), keccak256(abi.encode(uint256(1), threshold, roots)), "nonce 1");
        byRoots(settings());
        vm.assertEq(registry.rootSetOf(realm), keccak256(abi.encode(uint256(2), threshold, roots)), "nonce 2");
    }

    function test_fewer_signatures_than_the_threshold_are_refused() public {
        refuse(abi.encodeWithSelector(IRegistry.BelowThreshold.selector, 0, 2), rootSignatures(0, settings()));
        refuse(abi.encodeWithSelector(IRegistry.BelowThreshold.selector, 1, 2), rootSignatures(1, settings()));
    }

    function test_more_signatures_than_the_threshold_are_taken() public {
        registry.appendByRoots(realm, proofNow(), settings(), pack(rootSignatures(3, settings())));
        vm.assertTrue(registry.slotOf(realm, 0) != 0, "written");
    }

    function test_a_root_that_signs_twice_counts_once() public {
        RootSignature[] memory signatures = rootSignatures(2, settings());
        signatures[1] = signatures[0];
        refuse(abi.encodeWithSelector(IRegistry.DuplicateRoot.selector, 0), signatures);
        signatures = rootSignatures(3, settings());
        signatures[2] = signatures[1];
        refuse(abi.encodeWithSelector(IRegistry.DuplicateRoot.selector, 1), signatures);
        signatures[2] = signatures[0];
        refuse(abi.encodeWithSelector(IRegistry.DuplicateRoot.selector, 0), signatures);
    }

    function test_the_order_of_signatures_does_not_matter() public {
        uint8[3][6] memory orders =
            [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [uint8(2), uint8(1), uint8(0)]];
        for (uint256 i = 0; i < 6; ++i) {
            RootSignature[] memory given = rootSignatures(3, settings());
            RootSignature[] memory signatures = new RootSignature[](2);
            signatures[0] = given[orders[i][0]];
            signatures[1] = given[orders[i][1]];
            registry.appendByRoots(realm, proofNow(), settings(), pack(signatures));
            ++rootNonce;
        }
        vm.assertEq(registry.rootSetOf(realm), keccak256(abi.encode(uint256(6), threshold, roots)), "six writes");
    }

    function test_a_signature_under_another_roots_index_is_refused() public {
        RootSignature[] memory signatures = rootSignatures(2, settings());
        signatures[1].index = 2;
        refuse(abi.encodeWithSelector(IRegistry.WrongSignature.selector, roots[2]), signatures);
    }

    function test_an_index_beyond_the_roots_is_refused() public {
        RootSignature[] memory signatures = rootSignatures(2, settings());
        signatures[1].index = 3;
        refuse(abi.encodeWithSelector(IRegistry.NoSuchRoot.selector, 3, 3), signatures);
        signatures[1].index = 255;
        refuse(abi.encodeWithSelector(IRegistry.NoSuchRoot.selector, 255, 3), signatures);
    }

    /// @dev Any r and s are somebody's signature of any hash: these two become roots, since what roots sign does not name them.
    function test_half_of_the_order_is_the_last_s_that_is_taken() public {
        bytes32 digest = typed(rootsMessage(realm, 1, settings()));
        (, bytes32 r,) = vm.sign(NEW_KEY, digest);
        address[] memory next = new address[](2);
        next[0] = ecrecover(digest, 27, r, bytes32(SECP256K1_ORDER / 2));
        next[1] = ecrecover(digest, 27, r, bytes32(SECP256K1_ORDER / 2 + 1));
        byRoots(one(0, Kinds.ROOT_SET, rootSet(1, next)));

        IRegistry.RootProof memory proof = IRegistry.RootProof(1, 1, next, 0);
        RootSignature[] memory signatures = new RootSignature[](1);
        signatures[0] = RootSignature(1, abi.encodePacked(r, SECP256K1_ORDER / 2 + 1, uint8(27)));
        expectRefusal(
            abi.encodeWithSelector(IRegistry.WrongSignature.selector, next[1]),
            abi.encodeCall(IRegistry.appendByRoots, (realm, proof, settings(), pack(signatures)))
        );
        signatures[0] = RootSignature(0, abi.encodePacked(r, SECP256K1_ORDER / 2, uint8(27)));
        registry.appendByRoots(realm, proof, settings(), pack(signatures));
        vm.assertEq(registry.rootSetOf(realm), keccak256(abi.encode(uint256(2), uint256(1), next)), "nonce 2");
    }

    function test_one_bad_signature_among_enough_good_ones_is_refused() public {
        RootSignature[] memory signatures = rootSignatures(3, settings());
        signatures[2].signature = signed(0xbad, typed(rootsMessage(realm, 0, settings())));
        refuse(abi.encodeWithSelector(IRegistry.WrongSignature.selector, roots[2]), signatures);
    }

    function test_signatures_over_other_writes_realm_nonce_chain_or_contract_are_refused() public {
        bytes memory refusal = abi.encodeWithSelector(IRegistry.WrongSignature.selector, roots[0]);
        refuse(refusal, rootSignatures(2, one(0, Kinds.SETTINGS, hex"01")));
        refuse(refusal, signedBy(rootsMessage(keccak256("other"), 0, settings()), block.chainid, address(registry)));
        refuse(refusal, signedBy(rootsMessage(realm, 1, settings()), block.chainid, address(registry)));
        refuse(refusal, signedBy(rootsMessage(realm, 0, settings()), block.chainid + 1, address(registry)));
        refuse(refusal, signedBy(rootsMessage(realm, 0, settings()), block.chainid, address(new Registry())));
        refuse(
            refusal, signedBy(appendMessage(roots[0], realm, settings(), 0, START), block.chainid, address(registry))
        );
    }

    function signedBy(bytes32 message, uint256 chain, address target)
        internal
        view
        returns (RootSignature[] memory signatures)
    {
        bytes32 digest = keccak256(bytes.concat(hex"1901", domain(chain, target), message));
        signatures = rootSignatures(2, settings());
        signatures[0].signature = signed(ROOT_KEY, digest);
        signatures[1].signature = signed(ROOT_KEY + 1, digest);
    }

    function test_signed_writes_of_the_roots_are_good_once() public {
        IRegistry.RootProof memory proof = proofNow();
        RootSignature[] memory signatures = rootSignatures(2, settings());
        registry.appendByRoots(realm, proof, settings(), pack(signatures));
        bytes32 stored = keccak256(abi.encode(uint256(1), threshold, roots));
        vm.expectRevert(
            abi.encodeWithSelector(
                IRegistry.WrongRootSet.selector, keccak256(abi.encode(uint256(0), threshold, roots)), stored
            )
        );
        registry.appendByRoots(realm, proof, settings(), pack(signatures));
        proof.nonce = 1;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongSignature.selector, roots[0]));
        registry.appendByRoots(realm, proof, settings(), pack(signatures));
    }

    function test_a_proof_of_another_set_than_the_realm_ids_is_refused() public {
        IRegistry.RootProof memory proof = proofNow();
        proof.threshold = 1;
        refuse(
            abi.encodeWithSelector(IRegistry.WrongRootSet.selector, realmOf(1, roots, SALT), realm),
            proof,
            settings(),
            rootSignatures(2, settings())
        );
        proof = proofNow();
        proof.salt = 0;
        refuse(
            abi.encodeWithSelector(IRegistry.WrongRootSet.selector, realmOf(2, roots, 0), realm),
            proof,
            settings(),
            rootSignatures(2, settings())
        );
        // Ids on both sides of the realm's own.
        (bool below, bool above) = (false, false);
        for (uint256 i = 1; !below || !above; ++i) {
            proof.salt = bytes32(i);
            bytes32 other = realmOf(2, roots, proof.salt);
            (below, above) = (below || other < realm, above || other > realm);
            refuse(
                abi.encodeWithSelector(IRegistry.WrongRootSet.selector, other, realm),
                proof,
                settings(),
                rootSignatures(2, settings())
            );
        }
        proof = proofNow();
        proof.roots = addresses(0xbad, 3);
        refuse(
            abi.encodeWithSelector(IRegistry.WrongRootSet.selector, realmOf(2, proof.roots, SALT), realm),
            proof,
            settings(),
            rootSignatures(2, settings())
        );
        proof = proofNow();
        proof.nonce = 1;
        refuse(
            abi.encodeWithSelector(IRegistry.WrongNonce.selector, 1, 0),
            proof,
            settings(),
            rootSignatures(2, settings())
        );
    }

    function test_a_realm_id_of_a_malformed_root_set_is_never_writable() public {
        address[] memory set = addresses(ROOT_KEY, 2);
        refuseSet(abi.encodeWithSelector(IRegistry.WrongThreshold.selector, 0, 2), 0, set);
        refuseSet(abi.encodeWithSelector(IRegistry.WrongThreshold.selector, 3, 2), 3, set);
        refuseSet(abi.encodeWithSelector(IRegistry.WrongThreshold.selector, 0, 0), 0, new address[](0));
        refuseSet(abi.encodeWithSelector(IRegistry.WrongThreshold.selector, 1, 65), 1, addresses(1, 65));
        set[1] = set[0];
        refuseSet(abi.encodeWithSelector(IRegistry.WrongRoot.selector, set[0]), 2, set);
        set[0] = address(0);
        refuseSet(abi.encodeWithSelector(IRegistry.WrongRoot.selector, address(0)), 1, set);
    }

    function refuseSet(bytes memory refusal, uint256 m, address[] memory set) internal {
        realm = realmOf(m, set, SALT);
        refuse(refusal, IRegistry.RootProof(0, m, set, SALT), settings(), new RootSignature[](0));
    }

    function test_a_rotation_replaces_roots_and_threshold_at_once() public {
        address[] memory next = addresses(NEW_KEY, 4);
        IRegistry.Write[] memory writes = new IRegistry.Write[](2);
        writes[0] = one(0, Kinds.ROOT_SET, rootSet(3, next))[0];
        writes[1] = settings()[0];
        byRoots(writes);
        vm.assertEq(registry.rootSetOf(realm), keccak256(abi.encode(uint256(1), uint256(3), next)), "the new set");

        RootSignature[] memory old = rootSignatures(3, settings());
        bytes32 given = keccak256(abi.encode(uint256(1), threshold, roots));
        bytes32 stored = registry.rootSetOf(realm);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongRootSet.selector, given, stored));
        registry.appendByRoots(realm, proofNow(), settings(), pack(old));

        IRegistry.RootProof memory proof = IRegistry.RootProof(1, 3, next, SALT);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongSignature.selector, next[0]));
        registry.appendByRoots(realm, proof, settings(), pack(old));

        bytes32 digest = typed(rootsMessage(realm, 1, settings()));
        RootSignature[] memory signatures = new RootSignature[](3);
        for (uint256 i = 0; i < 3; ++i) {
            signatures[i] = RootSignature(uint8(3 - i), signed(NEW_KEY + 3 - i, digest));
        }
        registry.appendByRoots(realm, proof, settings(), pack(signatures));
        vm.assertEq(registry.rootSetOf(realm), keccak256(abi.encode(uint256(2), uint256(3), next)), "nonce 2");
    }

    function test_the_salt_is_not_read_once_the_set_is_stored() public {
        byRoots(settings());
        IRegistry.RootProof memory proof = proofNow();
        proof.salt = keccak256("another");
        registry.appendByRoots(realm, proof, settings(), pack(rootSignatures(2, settings())));
        vm.assertEq(registry.rootSetOf(realm), keccak256(abi.encode(uint256(2), threshold, roots)), "written");
    }

    function test_of_two_new_sets_in_one_call_the_last_counts() public {
        IRegistry.Write[] memory writes = new IRegistry.Write[](2);
        writes[0] = one(0, Kinds.ROOT_SET, rootSet(1, addresses(NEW_KEY, 1)))[0];
        writes[1] = one(0, Kinds.ROOT_SET, rootSet(2, addresses(NEW_KEY, 2)))[0];
        byRoots(writes);
        vm.assertEq(
            registry.rootSetOf(realm),
            keccak256(abi.encode(uint256(1), uint256(2), addresses(NEW_KEY, 2))),
            "the last set"
        );
    }

    function test_malformed_new_sets_are_refused() public {
        address[] memory set = addresses(NEW_KEY, 3);
        refuseNew(abi.encodeWithSelector(IRegistry.WrongThreshold.selector, 0, 3), rootSet(0, set));
        refuseNew(abi.encodeWithSelector(IRegistry.WrongThreshold.selector, 4, 3), rootSet(4, set));
        refuseNew(abi.encodeWithSelector(IRegistry.WrongThreshold.selector, 0, 0), rootSet(0, new address[](0)));
        refuseNew(abi.encodeWithSelector(IRegistry.WrongThreshold.selector, 1, 65), rootSet(1, addresses(1, 65)));
        set[2] = set[0];
        refuseNew(abi.encodeWithSelector(IRegistry.WrongRoot.selector, set[0]), rootSet(2, set));
        set[2] = address(0);
        refuseNew(abi.encodeWithSelector(IRegistry.WrongRoot.selector, address(0)), rootSet(2, set));
    }

    function test_new_sets_in_another_encoding_are_refused() public {
        bytes memory notCanonical = abi.encodeWithSelector(IRegistry.NotCanonical.selector, uint16(Kinds.ROOT_SET));
        bytes memory good = rootSet(1, addresses(NEW_KEY, 1));
        refuseNew(notCanonical, bytes.concat(good, hex"00"));
        refuseNew(notCanonical, bytes.concat(good, bytes32(0)));
        bytes memory sealed_ = rootSet(1, addresses(NEW_KEY, 1));
        sealed_[0] = 0x01;
        refuseNew(notCanonical, sealed_);
        // The same set, its array one word further away.
        // forgefmt: disable-next-item
        refuseNew(notCanonical, bytes.concat(
            hex"00", bytes32(uint256(0x20)), bytes32(uint256(1)), bytes32(uint256(0x60)), bytes32(0), bytes32(uint256(1)),
            bytes32(uint256(uint160(vm.addr(NEW_KEY))))
        ));
        // The decoder's own refusals carry no reason.
        refuseNew("", hex"00");
        good[good.length - 32] = 0x01;
        refuseNew("", good);
    }

    function refuseNew(bytes memory refusal, bytes memory data) internal {
        IRegistry.Write[] memory writes = one(0, Kinds.ROOT_SET, data);
        refuse(refusal, proofNow(), writes, rootSignatures(2, writes));
    }

    function test_only_the_roots_write_a_root_set() public {
        address actor = member("everything");
        grantRoles(actor, 0xffff);
        bytes32 before = registry.rootSetOf(realm);
        vm.prank(actor);
        vm.expectRevert(
            abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, actor, false, uint16(Kinds.ROOT_SET))
        );
        registry.append(realm, 0, Kinds.ROOT_SET, rootSet(1, addresses(NEW_KEY, 1)));
        vm.assertEq(registry.rootSetOf(realm), before, "the set is the same");
    }

    function test_a_root_is_no_actor() public {
        vm.prank(roots[0]);
        vm.expectRevert(
            abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, roots[0], false, uint16(Kinds.USER_ADD))
        );
        registry.append(realm, shardOf(1, 0), Kinds.USER_ADD, hex"00");
    }

    function test_an_empty_list_of_the_roots_writes_is_refused() public {
        IRegistry.Write[] memory writes = new IRegistry.Write[](0);
        refuse(abi.encodeWithSelector(IRegistry.NoWrites.selector), proofNow(), writes, rootSignatures(2, writes));
    }

    function test_a_bad_write_among_the_roots_writes_undoes_all() public {
        IRegistry.Write[] memory writes = new IRegistry.Write[](3);
        writes[0] = one(0, Kinds.ROOT_SET, rootSet(1, addresses(NEW_KEY, 1)))[0];
        writes[1] = one(0, Kinds.ROLE_SET, roleSet(member("somebody"), 1))[0];
        writes[2] = one(shardOf(4, 0), Kinds.BATCH, hex"00")[0];
        refuse(
            abi.encodeWithSelector(IRegistry.NotAllowed.selector, realm, address(0), true, uint16(Kinds.BATCH)),
            proofNow(),
            writes,
            rootSignatures(2, writes)
        );
        vm.assertEq(rolesOf(member("somebody")), 0, "no role");
    }

    function test_a_wallet_may_be_a_root() public {
        roots[1] = address(new TwoOfTwoWallet(vm.addr(1), vm.addr(2)));
        realm = realmOf(threshold, roots, SALT);
        bytes32 digest = typed(rootsMessage(realm, 0, settings()));
        RootSignature[] memory signatures = rootSignatures(2, settings());
        refuse(abi.encodeWithSelector(IRegistry.WrongSignature.selector, roots[1]), signatures);
        signatures[1].signature = bytes.concat(signed(1, digest), signed(2, digest));
        registry.appendByRoots(realm, proofNow(), settings(), pack(signatures));
        vm.assertTrue(registry.slotOf(realm, 0) != 0, "written");
        vm.etch(roots[1], address(new RevertingWallet()).code);
        ++rootNonce;
        RootSignature[] memory again = rootSignatures(2, settings());
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongSignature.selector, roots[1]));
        registry.appendByRoots(realm, proofNow(), settings(), pack(again));
    }

    function test_an_ecdsa_key_a_p256_key_a_passkey_and_a_wallet_are_roots_together() public {
        (threshold, realm) = (4, 0);
        roots.push(addressPasskey(1));
        roots[1] = addressP256(2);
        roots[2] = address(new TwoOfTwoWallet(vm.addr(1), vm.addr(2)));
        realm = realmOf(threshold, roots, SALT);
        bytes32 digest = typed(rootsMessage(realm, 0, settings()));
        RootSignature[] memory signatures = new RootSignature[](4);
        signatures[0] = RootSignature(2, bytes.concat(signed(1, digest), signed(2, digest)));
        signatures[1] = RootSignature(3, signedByPasskey(1, digest));
        signatures[2] = RootSignature(0, signed(ROOT_KEY, digest));
        signatures[3] = RootSignature(1, signedP256(1, digest));
        refuse(abi.encodeWithSelector(IRegistry.WrongSignature.selector, roots[1]), signatures);
        signatures[3] = RootSignature(1, signedByPasskey(2, typed(rootsMessage(realm, 1, settings()))));
        refuse(abi.encodeWithSelector(IRegistry.WrongSignature.selector, roots[1]), signatures);
        signatures[3] = RootSignature(1, signedP256(2, digest));
        vm.mockCall(address(0x100), "", "");
        refuse(abi.encodeWithSelector(IRegistry.NoP256.selector), signatures);
        vm.clearMockedCalls();
        registry.appendByRoots(realm, proofNow(), settings(), pack(signatures));
        vm.assertEq(registry.rootSetOf(realm), keccak256(abi.encode(uint256(1), threshold, roots)), "written");
    }

    function test_signatures_that_are_cut_short_or_followed_by_more_are_refused() public {
        bytes memory good = pack(rootSignatures(2, settings()));
        vm.assertEq(good.length, 2 * 68, "index, length and signature, twice");
        for (uint256 size = 1; size < good.length; ++size) {
            bytes memory cut = new bytes(size);
            for (uint256 i = 0; i < size; ++i) {
                cut[i] = good[i];
            }
            bytes memory refusal =
                size == 68 ? abi.encodeWithSelector(IRegistry.BelowThreshold.selector, 1, 2) : bytes("");
            expectRefusal(refusal, abi.encodeCall(IRegistry.appendByRoots, (realm, proofNow(), settings(), cut)));
        }
        bytes[3] memory more = [bytes(hex"02"), hex"020000", hex"020001ff"];
        bytes[3] memory refusals = [bytes(""), abi.encodeWithSelector(IRegistry.WrongSignature.selector, roots[2]), ""];
        refusals[2] = refusals[1];
        for (uint256 i = 0; i < 3; ++i) {
            bytes memory longer = bytes.concat(good, more[i]);
            bytes memory call = abi.encodeCall(IRegistry.appendByRoots, (realm, proofNow(), settings(), longer));
            expectRefusal(refusals[i], call);
        }
    }

    function testFuzz_any_quorum_of_any_set_writes_and_one_less_does_not(uint256 seed, uint8 count, uint8 m) public {
        uint256 size = 1 + (count % 12);
        threshold = 1 + (m % size);
        roots = addresses(ROOT_KEY, size);
        realm = realmOf(threshold, roots, SALT);
        bytes32 digest = typed(rootsMessage(realm, 0, settings()));
        // A rotation of the roots, its first `threshold` members sign.
        RootSignature[] memory signatures = new RootSignature[](threshold);
        for (uint256 i = 0; i < threshold; ++i) {
            uint256 index = ((seed % size) + i) % size;
            signatures[i] = RootSignature(uint8(index), signed(ROOT_KEY + index, digest));
        }
        RootSignature[] memory fewer = new RootSignature[](threshold - 1);
        for (uint256 i = 0; i < threshold - 1; ++i) {
            fewer[i] = signatures[i];
        }
        refuse(abi.encodeWithSelector(IRegistry.BelowThreshold.selector, threshold - 1, threshold), fewer);
        registry.appendByRoots(realm, proofNow(), settings(), pack(signatures));
        vm.assertEq(registry.rootSetOf(realm), keccak256(abi.encode(uint256(1), threshold, roots)), "written");
    }

    function test_sixty_four_roots_are_allowed_and_all_may_sign() public {
        roots = addresses(ROOT_KEY, 64);
        threshold = 64;
        realm = realmOf(threshold, roots, SALT);
        registry.appendByRoots(realm, proofNow(), settings(), pack(rootSignatures(64, settings())));
        vm.assertTrue(registry.slotOf(realm, 0) != 0, "written");
        vm.assertTrue(Roles.REVOKER == 16, "role bits as in the table");
    }
}
