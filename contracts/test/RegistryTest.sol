// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, RoleSet} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Registry} from "../src/Registry.sol";
import {Log, Test} from "./Test.sol";

/// @dev A registry, a realm with a 2-of-3 root set, and what a client does: hashing, signing, folding the log. None of it calls
/// into the contract's own hashing.
abstract contract RegistryTest is Test {
    uint256 internal constant ROOT_KEY = 0xa11ce;
    uint256 internal constant START = 1_800_000_000;
    bytes32 internal constant SALT = keccak256("salt");

    IRegistry internal registry;
    bytes32 internal realm;
    uint256 internal threshold = 2;
    address[] internal roots;
    uint256 internal rootNonce;

    function setUp() public virtual {
        registry = deploy();
        vm.warp(START);
        vm.roll(1_000_000);
        for (uint256 i = 0; i < 3; ++i) {
            roots.push(vm.addr(ROOT_KEY + i));
        }
        realm = realmOf(threshold, roots, SALT);
    }

    function deploy() internal virtual returns (IRegistry) {
        return new Registry();
    }

    // --- What a client computes

    function realmOf(uint256 m, address[] memory set, bytes32 salt) internal view returns (bytes32) {
        return keccak256(abi.encode("countersign.realm.v1", block.chainid, address(registry), m, set, salt));
    }

    function domain(uint256 chain, address target) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes("Countersign Registry")),
                keccak256(bytes("1")),
                chain,
                target
            )
        );
    }

    function typed(bytes32 message) internal view returns (bytes32) {
        return keccak256(bytes.concat(hex"1901", domain(block.chainid, address(registry)), message));
    }

    function hashWrites(IRegistry.Write[] memory writes) internal pure returns (bytes32) {
        bytes memory hashes;
        for (uint256 i = 0; i < writes.length; ++i) {
            bytes32 hash = keccak256(
                abi.encode(
                    keccak256("Write(uint64 shard,uint16 kind,bytes data)"),
                    uint256(writes[i].shard),
                    uint256(writes[i].kind),
                    keccak256(writes[i].data)
                )
            );
            hashes = bytes.concat(hashes, hash);
        }
        return keccak256(hashes);
    }

    function appendMessage(
        address actor,
        bytes32 inRealm,
        IRegistry.Write[] memory writes,
        uint256 nonce,
        uint256 deadline
    ) internal pure returns (bytes32) {
        bytes32 typeHash = keccak256(
            "Append(address actor,bytes32 realm,Write[] writes,uint256 nonce,uint256 deadline)Write(uint64 shard,uint16 kind,bytes data)"
        );
        return keccak256(abi.encode(typeHash, actor, inRealm, hashWrites(writes), nonce, deadline));
    }

    function rootsMessage(bytes32 inRealm, uint256 nonce, IRegistry.Write[] memory writes)
        internal
        pure
        returns (bytes32)
    {
        bytes32 typeHash = keccak256(
            "AppendByRoots(bytes32 realm,uint256 nonce,Write[] writes)Write(uint64 shard,uint16 kind,bytes data)"
        );
        return keccak256(abi.encode(typeHash, inRealm, nonce, hashWrites(writes)));
    }

    function signed(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function one(uint64 shard, uint16 kind, bytes memory data) internal pure returns (IRegistry.Write[] memory writes) {
        writes = new IRegistry.Write[](1);
        writes[0] = IRegistry.Write(shard, kind, data);
    }

    function shardOf(uint256 shardClass, uint256 epoch) internal pure returns (uint64) {
        return uint64((shardClass << 32) | epoch);
    }

    /// @dev 25 bytes: a size that every class takes.
    function anything() internal pure returns (bytes memory) {
        return hex"00c0ffee00000000000000000000000000000000000000beef";
    }

    // --- The roots

    function proofNow() internal view returns (IRegistry.RootProof memory) {
        return IRegistry.RootProof(rootNonce, threshold, roots, SALT);
    }

    /// @dev Signatures of the first `count` roots of the first set.
    function rootSignatures(uint256 count, IRegistry.Write[] memory writes)
        internal
        view
        returns (IRegistry.RootSignature[] memory signatures)
    {
        bytes32 digest = typed(rootsMessage(realm, rootNonce, writes));
        signatures = new IRegistry.RootSignature[](count);
        for (uint256 i = 0; i < count; ++i) {
            signatures[i] = IRegistry.RootSignature(uint8(i), signed(ROOT_KEY + i, digest));
        }
    }

    function byRoots(IRegistry.Write[] memory writes) internal {
        registry.appendByRoots(realm, proofNow(), writes, rootSignatures(2, writes));
        ++rootNonce;
    }

    function expectRefusalByRoots(bytes memory refusal, IRegistry.Write[] memory writes) internal {
        expectRefusal(
            refusal, abi.encodeCall(IRegistry.appendByRoots, (realm, proofNow(), writes, rootSignatures(2, writes)))
        );
    }

    /// @dev The call reverts with exactly this; `vm.expectRevert` would take any reason for an empty one.
    function expectRefusal(bytes memory refusal, bytes memory call) internal {
        (bool success, bytes memory reason) = address(registry).call(call);
        vm.assertTrue(!success, "refused");
        vm.assertEq(reason, refusal, "with this reason");
    }

    function roleSet(address actor, uint256 roles) internal pure returns (bytes memory) {
        return bytes.concat(hex"00", abi.encode(RoleSet(actor, uint64(roles), bytes32(uint256(7)))));
    }

    function grantRoles(address actor, uint256 roles) internal {
        byRoots(one(0, Kinds.ROLE_SET, roleSet(actor, roles)));
        vm.assertEq(rolesOf(actor), roles, "the roots set these roles");
    }

    function rolesOf(address actor) internal view returns (uint256) {
        return registry.actorOf(realm, actor) & type(uint64).max;
    }

    function nonceOf(address actor) internal view returns (uint256) {
        return registry.actorOf(realm, actor) >> 64;
    }

    function member(string memory name) internal pure returns (address) {
        return address(uint160(uint256(keccak256(bytes(name)))));
    }

    // --- The log

    function genesis(bytes32 ofRealm, uint64 shard) internal view returns (uint256) {
        // forgefmt: disable-next-item
        return uint256(keccak256(bytes.concat(
            bytes32(uint256(0xa0)), bytes32(block.chainid), bytes32(uint256(uint160(address(registry)))), ofRealm,
            bytes32(uint256(shard)), bytes32(uint256(19)), bytes32("countersign.head.v1")
        )));
    }

    /// @dev The slot after an entry written in `number`.
    function fold(uint256 slot, Log memory log, uint256 number) internal view returns (uint256) {
        (uint256 meta, bytes memory data) = abi.decode(log.data, (uint256, bytes));
        uint256 before = slot == 0 ? genesis(log.topics[1], uint64(uint256(log.topics[2]))) : slot;
        // forgefmt: disable-next-item
        bytes32 hash = keccak256(bytes.concat(
            bytes32(before), log.topics[1], log.topics[2], log.topics[3], bytes32(meta), keccak256(data)
        ));
        return uint256(bytes32(bytes28(hash))) | (number % 2 ** 32);
    }
}
