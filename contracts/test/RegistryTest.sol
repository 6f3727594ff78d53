// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, RoleSet} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Registry} from "../src/Registry.sol";
import {Packed} from "./Packed.sol";
import {Log, Test} from "./Test.sol";

/// @dev A registry, a realm with a 2-of-3 root set, and what a client does: hashing, signing, folding the log. None of it calls
/// into the contract's own hashing.
abstract contract RegistryTest is Test {
    struct RootSignature {
        uint8 index;
        bytes signature;
    }

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
        if (writes.length != 1) return appendManyMessage(actor, inRealm, writes, nonce, deadline);
        bytes32 typeHash = keccak256(
            "Append(address actor,bytes32 realm,uint64 shard,uint16 kind,bytes data,uint256 nonce,uint256 deadline)"
        );
        (uint256 shard, uint256 kind) = (writes[0].shard, writes[0].kind);
        bytes32 dataHash = keccak256(writes[0].data);
        return keccak256(abi.encode(typeHash, actor, inRealm, shard, kind, dataHash, nonce, deadline));
    }

    function appendManyMessage(
        address actor,
        bytes32 inRealm,
        IRegistry.Write[] memory writes,
        uint256 nonce,
        uint256 deadline
    ) internal pure returns (bytes32) {
        bytes32 typeHash = keccak256(
            "AppendMany(address actor,bytes32 realm,Write[] writes,uint256 nonce,uint256 deadline)Write(uint64 shard,uint16 kind,bytes data)"
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

    // --- P-256

    uint256 internal constant P256_ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551;

    function addressP256(uint256 key) internal pure returns (address) {
        (uint256 x, uint256 y) = vm.publicKeyP256(key);
        return address(uint160(uint256(keccak256(bytes.concat("p256", bytes32(x), bytes32(y))))));
    }

    /// @dev The address of the same key in an authenticator.
    function addressPasskey(uint256 key) internal pure returns (address) {
        (uint256 x, uint256 y) = vm.publicKeyP256(key);
        return address(uint160(uint256(keccak256(bytes.concat("webauthn", bytes32(x), bytes32(y))))));
    }

    /// @dev r ‖ s ‖ x ‖ y, with the lower s.
    function signedP256(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 s) = vm.signP256(key, digest);
        if (uint256(s) > P256_ORDER / 2) s = bytes32(P256_ORDER - uint256(s));
        (uint256 x, uint256 y) = vm.publicKeyP256(key);
        return abi.encodePacked(r, s, x, y);
    }

    /// @dev What an authenticator makes of a challenge, in the form that the contract takes.
    function assertion(uint256 key, bytes memory authenticator, bytes memory client, bytes memory rest)
        internal
        pure
        returns (bytes memory)
    {
        bytes memory signature = signedP256(key, sha256(bytes.concat(authenticator, sha256(client))));
        return abi.encodePacked(signature, uint16(authenticator.length), authenticator, rest);
    }

    /// @dev By the passkey with this key, asked by a web page.
    function signedByPasskey(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        bytes memory rest = ',"origin":"https://countersign.example","crossOrigin":false}';
        return assertion(key, authenticatorData(0x05), clientData("webauthn.get", digest, rest), rest);
    }

    function authenticatorData(uint8 flags) internal pure returns (bytes memory) {
        return abi.encodePacked(sha256("countersign.example"), flags, uint32(7));
    }

    function clientData(bytes memory ceremony, bytes32 challenge, bytes memory rest)
        internal
        pure
        returns (bytes memory)
    {
        return bytes.concat('{"type":"', ceremony, '","challenge":"', base64url(challenge), '"', rest);
    }

    /// @dev Three bytes at a time, unlike the contract.
    function base64url(bytes32 value) internal pure returns (bytes memory text) {
        bytes memory digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        for (uint256 i = 0; i < 33; i += 3) {
            uint256 group;
            for (uint256 j = i; j < i + 3; ++j) {
                group = (group << 8) | (j < 32 ? uint8(value[j]) : 0);
            }
            for (uint256 j = 0; j < 4 && text.length < 43; ++j) {
                text = bytes.concat(text, digits[(group >> (18 - 6 * j)) & 63]);
            }
        }
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

    /// @dev The salt counts before the first write only; later, zeros cost least.
    function proofNow() internal view returns (IRegistry.RootProof memory) {
        return IRegistry.RootProof(rootNonce, threshold, roots, rootNonce == 0 ? SALT : bytes32(0));
    }

    /// @dev Signatures of the first `count` roots of the first set.
    function rootSignatures(uint256 count, IRegistry.Write[] memory writes)
        internal
        view
        returns (RootSignature[] memory signatures)
    {
        bytes32 digest = typed(rootsMessage(realm, rootNonce, writes));
        signatures = new RootSignature[](count);
        for (uint256 i = 0; i < count; ++i) {
            signatures[i] = RootSignature(uint8(i), signed(ROOT_KEY + i, digest));
        }
    }

    /// @dev As `appendByRoots` takes them.
    function pack(RootSignature[] memory signatures) internal pure returns (bytes memory packed) {
        for (uint256 i = 0; i < signatures.length; ++i) {
            bytes memory signature = signatures[i].signature;
            packed = abi.encodePacked(packed, signatures[i].index, uint16(signature.length), signature);
        }
    }

    function byRoots(IRegistry.Write[] memory writes) internal {
        registry.appendByRoots(realm, proofNow(), writes, pack(rootSignatures(2, writes)));
        ++rootNonce;
    }

    /// @dev By the function for their number.
    function appendSigned(
        address actor,
        IRegistry.Write[] memory writes,
        uint256 nonce,
        uint256 deadline,
        bytes memory signature
    ) internal {
        if (writes.length == 1) {
            IRegistry.Write memory write = writes[0];
            registry.appendBySig(actor, realm, write.shard, write.kind, write.data, nonce, deadline, signature);
        } else {
            registry.appendManyBySig(actor, realm, writes, nonce, deadline, signature);
        }
    }

    function expectRefusalByRoots(bytes memory refusal, IRegistry.Write[] memory writes) internal {
        expectRefusal(
            refusal,
            abi.encodeCall(IRegistry.appendByRoots, (realm, proofNow(), writes, pack(rootSignatures(2, writes))))
        );
    }

    /// @dev The call reverts with exactly this; `vm.expectRevert` would take any reason for an empty one.
    function expectRefusal(bytes memory refusal, bytes memory call) internal {
        (bool success, bytes memory reason) = address(registry).call(call);
        vm.assertTrue(!success, "refused");
        vm.assertEq(reason, refusal, "with this reason");
    }

    function roleSet(address actor, uint256 roles) internal pure returns (bytes memory) {
        return bytes.concat(hex"00", Packed.roleSet(RoleSet(actor, uint64(roles), bytes32(uint256(7)))));
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
