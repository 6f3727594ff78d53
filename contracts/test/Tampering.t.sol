// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, Roles} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {RegistryTest} from "./RegistryTest.sol";
import {AgreeingWallet} from "./Wallets.sol";

/// @dev Signed calls of which one bit was changed on the way, anywhere in what they carry.
contract TamperingTest is RegistryTest {
    uint256 internal constant KEY = 0xb0b;
    address internal actor = vm.addr(KEY);

    function setUp() public override {
        super.setUp();
        grantRoles(actor, Roles.REVOKER | Roles.ISSUER);
    }

    function list(uint256 count, bytes memory data) internal pure returns (IRegistry.Write[] memory writes) {
        writes = new IRegistry.Write[](count);
        for (uint256 i = 0; i < count; ++i) {
            writes[i] = IRegistry.Write(shardOf(2, 0), Kinds.KEY_LOCK, data);
        }
    }

    /// @dev Whatever was turned, the call is refused and changes nothing; as it was signed, it works.
    function expectTampered(bytes memory turned, bytes memory call) internal {
        bytes memory before = state();
        (bool taken,) = address(registry).call(turned);
        vm.assertTrue(!taken, "a call with a bit turned is refused");
        vm.assertEq(state(), before, "and changes nothing");
        (bool works,) = address(registry).call(call);
        vm.assertTrue(works, "the call as it was signed works");
    }

    function state() internal view returns (bytes memory) {
        uint256 denials = registry.slotOf(realm, shardOf(2, 0));
        return abi.encode(denials, registry.slotOf(realm, 0), registry.actorOf(realm, actor), registry.rootSetOf(realm));
    }

    function turn(bytes memory data, uint256 bit) internal pure returns (bytes memory turned) {
        turned = bytes.concat(data);
        bit %= 8 * data.length;
        turned[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
    }

    function turn(IRegistry.Write[] memory writes, uint256 bit)
        internal
        pure
        returns (IRegistry.Write[] memory turned)
    {
        turned = list(writes.length, writes[0].data);
        IRegistry.Write memory write = turned[bit % writes.length];
        if (bit % 3 == 0) write.shard ^= uint64(1 << ((bit >> 8) % 64));
        else if (bit % 3 == 1) write.kind ^= uint16(1 << ((bit >> 8) % 16));
        else write.data = turn(write.data, bit >> 8);
    }

    function testFuzz_a_bit_turned_in_an_appendBySig_changes_nothing(uint256 bit, uint8 place, uint8 size) public {
        IRegistry.Write[] memory writes = list(1, new bytes(1 + uint256(size)));
        bytes memory signature = signed(KEY, typed(appendMessage(actor, realm, writes, 0, START + 60)));
        bytes memory call = bySig(actor, realm, writes[0], 0, START + 60, signature);
        bytes memory turned;
        uint256 word = uint256(1) << (bit % 256);
        if (place % 6 == 0) {
            turned =
                bySig(address(uint160(actor) ^ uint160(1 << (bit % 160))), realm, writes[0], 0, START + 60, signature);
        } else if (place % 6 == 1) {
            turned = bySig(actor, realm ^ bytes32(word), writes[0], 0, START + 60, signature);
        } else if (place % 6 == 2) {
            turned = bySig(actor, realm, turn(writes, bit)[0], 0, START + 60, signature);
        } else if (place % 6 == 3) {
            turned = bySig(actor, realm, writes[0], word, START + 60, signature);
        } else if (place % 6 == 4) {
            turned = bySig(actor, realm, writes[0], 0, (START + 60) ^ word, signature);
        } else {
            turned = bySig(actor, realm, writes[0], 0, START + 60, turn(signature, bit));
        }
        expectTampered(turned, call);
    }

    function bySig(
        address signer,
        bytes32 inRealm,
        IRegistry.Write memory write,
        uint256 nonce,
        uint256 deadline,
        bytes memory signature
    ) internal pure returns (bytes memory) {
        return abi.encodeCall(
            IRegistry.appendBySig, (signer, inRealm, write.shard, write.kind, write.data, nonce, deadline, signature)
        );
    }

    function testFuzz_a_bit_turned_in_an_appendManyBySig_changes_nothing(uint256 bit, uint8 place, uint8 count) public {
        IRegistry.Write[] memory writes = list(1 + (count % 4), anything());
        bytes memory signature = signed(KEY, typed(appendManyMessage(actor, realm, writes, 0, START + 60)));
        bytes memory call = manyBySig(actor, realm, writes, 0, START + 60, signature);
        bytes memory turned;
        uint256 word = uint256(1) << (bit % 256);
        if (place % 6 == 0) {
            turned =
                manyBySig(address(uint160(actor) ^ uint160(1 << (bit % 160))), realm, writes, 0, START + 60, signature);
        } else if (place % 6 == 1) {
            turned = manyBySig(actor, realm ^ bytes32(word), writes, 0, START + 60, signature);
        } else if (place % 6 == 2) {
            turned = manyBySig(actor, realm, turn(writes, bit), 0, START + 60, signature);
        } else if (place % 6 == 3) {
            turned = manyBySig(actor, realm, writes, word, START + 60, signature);
        } else if (place % 6 == 4) {
            turned = manyBySig(actor, realm, writes, 0, (START + 60) ^ word, signature);
        } else {
            turned = manyBySig(actor, realm, writes, 0, START + 60, turn(signature, bit));
        }
        expectTampered(turned, call);
    }

    function manyBySig(
        address signer,
        bytes32 inRealm,
        IRegistry.Write[] memory writes,
        uint256 nonce,
        uint256 deadline,
        bytes memory signature
    ) internal pure returns (bytes memory) {
        return abi.encodeCall(IRegistry.appendManyBySig, (signer, inRealm, writes, nonce, deadline, signature));
    }

    function testFuzz_a_bit_turned_in_an_appendByRoots_changes_nothing(uint256 bit, uint8 place, uint8 count) public {
        IRegistry.Write[] memory writes = list(1 + (count % 4), anything());
        bytes memory signatures = pack(rootSignatures(2, writes));
        bytes memory call = abi.encodeCall(IRegistry.appendByRoots, (realm, proofNow(), writes, signatures));
        IRegistry.RootProof memory proof = proofNow();
        bytes32 inRealm = realm;
        uint256 word = uint256(1) << (bit % 256);
        if (place % 6 == 0) {
            proof.threshold ^= word;
        } else if (place % 6 == 1) {
            inRealm ^= bytes32(word);
        } else if (place % 6 == 2) {
            writes = turn(writes, bit);
        } else if (place % 6 == 3) {
            proof.nonce ^= word;
        } else if (place % 6 == 4) {
            proof.roots[bit % 3] = address(uint160(proof.roots[bit % 3]) ^ uint160(1 << (bit % 160)));
        } else {
            signatures = turn(signatures, bit);
        }
        expectTampered(abi.encodeCall(IRegistry.appendByRoots, (inRealm, proof, writes, signatures)), call);
    }

    function test_a_wrong_signature_of_a_p256_key_is_not_put_to_code_at_its_address() public {
        address key = addressP256(KEY);
        grantRoles(key, Roles.REVOKER);
        vm.etch(key, address(new AgreeingWallet()).code);
        IRegistry.Write[] memory writes = list(1, anything());
        bytes memory signature = signedP256(KEY, keccak256("something else"));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongSignature.selector, key));
        registry.appendBySig(key, realm, shardOf(2, 0), Kinds.KEY_LOCK, writes[0].data, 0, START + 60, signature);
    }

    /// @dev What follows the challenge is the authenticator's affair: nothing of it is needed to tell what was signed.
    function test_client_data_may_end_with_the_challenge() public {
        address key = addressPasskey(KEY);
        grantRoles(key, Roles.REVOKER);
        IRegistry.Write[] memory writes = list(1, anything());
        bytes32 digest = typed(appendMessage(key, realm, writes, 0, START + 60));
        bytes memory signature = assertion(KEY, authenticatorData(0x05), clientData("webauthn.get", digest, ""), "");
        registry.appendBySig(key, realm, shardOf(2, 0), Kinds.KEY_LOCK, writes[0].data, 0, START + 60, signature);
        vm.assertEq(nonceOf(key), 1, "taken");
    }
}
