// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Packed} from "./Packed.sol";
import {RegistryTest} from "./RegistryTest.sol";
import {Log} from "./Test.sol";

/// @dev The shipped artefact, at the address and on the chain that tests/vectors/registry.json names, does what the vectors say.
contract VectorsTest is RegistryTest {
    string internal json;

    function setUp() public override {
        json = vm.readFile("../tests/vectors/registry.json");
        vm.chainId(vm.parseJsonUint(json, ".chainId"));
        super.setUp();
        realm = vm.parseJsonBytes32(json, ".realms[0].realm");
        threshold = vm.parseJsonUint(json, ".realms[0].threshold");
        roots = vm.parseJsonAddressArray(json, ".realms[0].roots");
    }

    function deploy() internal override returns (IRegistry) {
        address target = vm.parseJsonAddress(json, ".contract");
        vm.etch(target, vm.parseJsonBytes(vm.readFile("artifact/Registry.json"), ".deployedBytecode"));
        return IRegistry(target);
    }

    function field(string memory list, uint256 index, string memory name) internal pure returns (string memory) {
        return string.concat(".", list, "[", vm.toString(index), "]", name);
    }

    function lengthOf(string memory list) internal view returns (uint256 length) {
        while (vm.keyExistsJson(json, field(list, length, ""))) ++length;
    }

    function number(string memory list, uint256 index, string memory name) internal view returns (uint256) {
        return vm.parseJsonUint(json, field(list, index, name));
    }

    function hash(string memory list, uint256 index, string memory name) internal view returns (bytes32) {
        return vm.parseJsonBytes32(json, field(list, index, name));
    }

    function account(string memory list, uint256 index, string memory name) internal view returns (address) {
        return vm.parseJsonAddress(json, field(list, index, name));
    }

    function blob(string memory list, uint256 index, string memory name) internal view returns (bytes memory) {
        return vm.parseJsonBytes(json, field(list, index, name));
    }

    function writesOf(string memory list, uint256 index) internal view returns (IRegistry.Write[] memory writes) {
        string memory inner = string.concat(list, "[", vm.toString(index), "].writes");
        writes = new IRegistry.Write[](lengthOf(inner));
        for (uint256 i = 0; i < writes.length; ++i) {
            writes[i] = IRegistry.Write(
                uint64(number(inner, i, ".shard")), uint16(number(inner, i, ".kind")), blob(inner, i, ".data")
            );
        }
    }

    function test_realm_ids() public view {
        uint256 count = lengthOf("realms");
        vm.assertEq(count, 3, "realms");
        for (uint256 i = 0; i < count; ++i) {
            bytes32 id = registry.realmId(
                number("realms", i, ".threshold"),
                vm.parseJsonAddressArray(json, field("realms", i, ".roots")),
                hash("realms", i, ".salt")
            );
            vm.assertEq(id, hash("realms", i, ".realm"), "realm id");
        }
    }

    function test_the_log_yields_the_slots() public {
        uint256 count = lengthOf("entries");
        vm.assertEq(count, 17, "entries");
        for (uint256 i = 0; i < count; ++i) {
            vm.roll(number("entries", i, ".block"));
            vm.warp(number("entries", i, ".time"));
            uint64 shard = uint64(number("entries", i, ".shard"));
            vm.assertEq(registry.slotOf(realm, shard), number("entries", i, ".slotBefore"), "slot before");
            vm.recordLogs();
            writeEntry(i, shard);
            Log[] memory logs = vm.getRecordedLogs();
            vm.assertEq(logs.length, 1, "one entry");
            vm.assertEq(uint256(logs[0].topics[2]), shard, "shard");
            vm.assertEq(address(uint160(uint256(logs[0].topics[3]))), account("entries", i, ".actor"), "actor");
            (uint256 meta,) = abi.decode(logs[0].data, (uint256, bytes));
            vm.assertEq(meta, uint256(hash("entries", i, ".meta")), "meta");
            vm.assertEq((meta >> 64) & type(uint32).max, number("entries", i, ".prevBlock"), "previous block");
            vm.assertEq(registry.slotOf(realm, shard), uint256(hash("entries", i, ".slot")), "slot");
        }
    }

    function writeEntry(uint256 i, uint64 shard) internal {
        uint16 kind = uint16(number("entries", i, ".kind"));
        bytes memory data = blob("entries", i, ".data");
        address actor = account("entries", i, ".actor");
        uint256 shardClass = shard >> 32;
        uint64 asked = shardClass <= 3 ? shard : shardOf(shardClass, 0);
        if (actor != address(0)) {
            vm.prank(actor);
            registry.append(realm, asked, kind, data);
            return;
        }
        IRegistry.Write[] memory writes = one(asked, kind, data);
        bytes32 digest = typed(rootsMessage(realm, rootNonce, writes));
        RootSignature[] memory signatures = new RootSignature[](2);
        signatures[0] = RootSignature(0, signed(rootKey("root0"), digest));
        signatures[1] = RootSignature(1, signed(rootKey("root1"), digest));
        IRegistry.RootProof memory proof = IRegistry.RootProof(rootNonce, threshold, roots, hash("realms", 0, ".salt"));
        registry.appendByRoots(realm, proof, writes, pack(signatures));
        ++rootNonce;
    }

    function rootKey(string memory name) internal view returns (uint256) {
        return uint256(vm.parseJsonBytes32(json, string.concat(".keys.", name, ".privateKey")));
    }

    function storeSlot(bytes32 slot, uint256 value) internal {
        (bool success,) = address(vm)
            .call(abi.encodeWithSignature("store(address,bytes32,bytes32)", address(registry), slot, bytes32(value)));
        vm.assertTrue(success, "stored");
    }

    function test_storage_slots() public {
        storeSlot(hash("storageSlots.heads", 0, ".slot"), 11);
        storeSlot(hash("storageSlots.heads", 1, ".slot"), 12);
        storeSlot(hash("storageSlots.rootSet", 0, ".slot"), 13);
        storeSlot(hash("storageSlots.actors", 0, ".slot"), 14);
        vm.assertEq(registry.slotOf(realm, uint64(number("storageSlots.heads", 0, ".shard"))), 11, "heads");
        vm.assertEq(registry.slotOf(realm, uint64(number("storageSlots.heads", 1, ".shard"))), 12, "heads");
        vm.assertEq(uint256(registry.rootSetOf(realm)), 13, "root set");
        vm.assertEq(registry.actorOf(realm, account("storageSlots.actors", 0, ".actor")), 14, "actors");
    }

    function test_actors_signatures_are_accepted() public {
        uint256 count = lengthOf("append");
        vm.assertEq(count, 5, "signed writes");
        for (uint256 i = 0; i < count; ++i) {
            address actor = account("append", i, ".actor");
            uint256 nonce = number("append", i, ".nonce");
            uint256 deadline = number("append", i, ".deadline");
            // The actor comes with all roles and the vector's nonce.
            storeSlot(keccak256(abi.encode(actor, keccak256(abi.encode(realm, uint256(2))))), (nonce << 64) | 0xffff);
            IRegistry.Write[] memory writes = writesOf("append", i);
            bytes32 digest = typed(appendMessage(actor, realm, writes, nonce, deadline));
            vm.assertEq(digest, hash("append", i, ".digest"), "digest");
            appendSigned(actor, writes, nonce, deadline, blob("append", i, ".signature"));
            vm.assertEq(nonceOf(actor), nonce + 1, "accepted");
        }
    }

    function test_roots_signatures_are_accepted() public {
        uint256 count = lengthOf("appendByRoots");
        vm.assertEq(count, 2, "signed writes");
        for (uint256 i = 0; i < count; ++i) {
            uint256 nonce = number("appendByRoots", i, ".nonce");
            if (nonce != 0) {
                bytes32 stored = keccak256(abi.encode(nonce, threshold, roots));
                storeSlot(keccak256(abi.encode(realm, uint256(1))), uint256(stored));
            }
            IRegistry.Write[] memory writes = writesOf("appendByRoots", i);
            vm.assertEq(typed(rootsMessage(realm, nonce, writes)), hash("appendByRoots", i, ".digest"), "digest");
            string memory inner = string.concat("appendByRoots[", vm.toString(i), "].signatures");
            RootSignature[] memory signatures = new RootSignature[](lengthOf(inner));
            for (uint256 j = 0; j < signatures.length; ++j) {
                signatures[j] = RootSignature(uint8(number(inner, j, ".index")), blob(inner, j, ".signature"));
            }
            IRegistry.RootProof memory proof = IRegistry.RootProof(nonce, threshold, roots, hash("realms", 0, ".salt"));
            registry.appendByRoots(realm, proof, writes, pack(signatures));
            vm.assertTrue(registry.rootSetOf(realm) != 0, "accepted");
        }
    }

    function test_root_sets_and_record_ids() public view {
        for (uint256 i = 0; i < lengthOf("rootSets"); ++i) {
            bytes32 expected = keccak256(
                abi.encode(
                    number("rootSets", i, ".nonce"),
                    number("rootSets", i, ".threshold"),
                    vm.parseJsonAddressArray(json, field("rootSets", i, ".roots"))
                )
            );
            vm.assertEq(hash("rootSets", i, ".hash"), expected, "root set");
        }
        for (uint256 i = 0; i < lengthOf("recordIds"); ++i) {
            bytes16 r = bytes16(blob("recordIds", i, ".r"));
            bytes32 id =
                keccak256(abi.encode(uint16(number("recordIds", i, ".kind")), account("recordIds", i, ".actor"), r));
            vm.assertEq(bytes32(bytes16(blob("recordIds", i, ".id"))), bytes32(bytes16(id)), "record id");
        }
        for (uint256 i = 0; i < lengthOf("genesis"); ++i) {
            vm.assertEq(
                hash("genesis", i, ".hash"),
                bytes32(genesis(hash("genesis", i, ".realm"), uint64(number("genesis", i, ".shard")))),
                "genesis"
            );
        }
    }

    function test_every_payload_is_the_encoding_of_its_struct() public view {
        uint256 count = lengthOf("payloads");
        vm.assertEq(count, 32, "a payload for each kind that has a struct, and a second BATCH");
        for (uint256 i = 0; i < count; ++i) {
            bytes memory data = blob("payloads", i, ".data");
            bytes memory again = this.encodeAgain(uint16(number("payloads", i, ".kind")), data);
            vm.assertEq(data, bytes.concat(hex"00", again), vm.parseJsonString(json, field("payloads", i, ".name")));
        }
    }

    function encodeAgain(uint16 kind, bytes calldata data) external pure returns (bytes memory) {
        bytes calldata x = data[1:];
        if (kind == Kinds.ROOT_SET) return abi.encode(abi.decode(x, (RootSet)));
        if (kind == Kinds.ROLE_SET) {
            return Packed.roleSet(RoleSet(address(bytes20(x[:20])), uint64(bytes8(x[20:28])), bytes32(x[28:60])));
        }
        if (kind == Kinds.CA_ADD) return abi.encode(abi.decode(x, (CaAdd)));
        if (kind == Kinds.CA_LOOSEN || kind == Kinds.CA_TIGHTEN) return abi.encode(abi.decode(x, (CaLimits)));
        if (kind == Kinds.UNLOCK) return abi.encode(abi.decode(x, (Unlock)));
        if (kind == Kinds.RESTORE) return abi.encode(abi.decode(x, (Restore)));
        if (kind == Kinds.SETTINGS || kind == Kinds.SETTINGS_TIGHTEN) return abi.encode(abi.decode(x, (Settings)));
        if (kind == Kinds.REVOKE) return abi.encode(abi.decode(x, (Revoke)));
        if (kind == Kinds.MIGRATE) return abi.encode(abi.decode(x, (Migrate)));
        if (kind == Kinds.MIGRATED) return abi.encode(abi.decode(x, (Migrated)));
        if (kind == Kinds.MEMBER_SET) {
            return
                Packed.memberSet(MemberSet(address(bytes20(x[:20])), x[20] != 0, bytes16(x[21:37]), bytes32(x[37:69])));
        }
        if (kind == Kinds.USER_ADD) return abi.encode(abi.decode(x, (UserAdd)));
        if (kind == Kinds.GROUP_ADD) return abi.encode(abi.decode(x, (GroupAdd)));
        if (kind == Kinds.HOST_ADD) return abi.encode(abi.decode(x, (HostAdd)));
        if (kind == Kinds.LABEL_ADD) return abi.encode(abi.decode(x, (LabelAdd)));
        if (kind == Kinds.KEY_ADD) return abi.encode(abi.decode(x, (KeyAdd)));
        if (kind == Kinds.GRANT_ADD) return abi.encode(abi.decode(x, (GrantAdd)));
        if (kind == Kinds.GROUP_MEMBER_ADD) return abi.encode(abi.decode(x, (GroupMemberAdd)));
        if (kind == Kinds.PAYLOAD_NAME_ADD) return abi.encode(abi.decode(x, (PayloadNameAdd)));
        if (kind == Kinds.BATCH) {
            return Packed.batch(
                Batch({
                    r: bytes16(x[:16]),
                    ca: bytes16(x[16:32]),
                    root: bytes32(x[32:64]),
                    size: uint32(bytes4(x[64:68])),
                    notAfter: uint64(bytes8(x[68:76])),
                    leavesCid: x[76:]
                })
            );
        }
        if (kind == Kinds.COUNTERSIGN) return Packed.countersign(Countersign(bytes16(x[:16]), bytes32(x[16:48])));
        if (kind == Kinds.APPROVE) return Packed.approve(Approve(bytes16(x[:16]), bytes32(x[16:48])));
        if (kind == Kinds.REQUEST) return abi.encode(abi.decode(x, (Request)));
        if (kind == Kinds.ACKNOWLEDGE) return Packed.acknowledge(Acknowledge(bytes16(x[:16]), bytes32(x[16:48])));
        if (kind == Kinds.DELIVERY) {
            uint256 end = 70 + uint256(uint8(x[69]));
            return Packed.delivery(
                Delivery({
                    r: bytes16(x[:16]),
                    recipient: address(bytes20(x[16:36])),
                    payloadKind: uint8(x[36]),
                    digest: bytes32(x[37:69]),
                    payloadName: string(x[70:end]),
                    sealedCid: x[end:]
                })
            );
        }
        if (kind == Kinds.PREKEYS) {
            bytes32[] memory keys = new bytes32[]((x.length - 1) / 32);
            for (uint256 i = 0; i < keys.length; ++i) {
                keys[i] = bytes32(x[1 + 32 * i:33 + 32 * i]);
            }
            return Packed.prekeys(Prekeys(uint8(x[0]), keys));
        }
        if (kind == Kinds.ENVELOPE) {
            return Packed.envelope(
                Envelope({
                    r: bytes16(x[:16]), payloadKind: uint8(x[16]), index: bytes32(x[17:49]), payloadName: string(x[50:])
                })
            );
        }
        if (kind == Kinds.PUBLIC_DATA) return abi.encode(abi.decode(x, (PublicData)));
        if (kind == Kinds.ENROL) return abi.encode(abi.decode(x, (Enrol)));
        revert("no struct for this kind");
    }
}
