// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Approve, Batch, Countersign, Delivery, Envelope, Kinds, MemberSet, Roles, RootSet} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Packed} from "./Packed.sol";
import {RegistryTest} from "./RegistryTest.sol";

/// @dev Whole-transaction gas of the shipped artefact in steady state: run by script/check in the profile `gas`, where every
/// call is a transaction of its own. The script compares the results with snapshots/.
contract GasTest is RegistryTest {
    uint256 internal constant KEY = 0xb0b;
    address internal actor = vm.addr(KEY);

    function setUp() public override {
        super.setUp();
        grantRoles(actor, 0xffff);
        // The shards in use have been written before, and so has the actor's nonce.
        vm.roll(block.number + 1);
        for (uint64 shardClass = 1; shardClass <= 7; ++shardClass) {
            bool daily = shardClass > 3;
            uint64 epoch = shardClass == 3 ? uint64(block.timestamp / 30 days) : 0;
            vm.prank(actor);
            registry.append(realm, shardOf(shardClass, epoch), kindFor(shardClass, daily), anything());
        }
        bySignature(0, anything());
        vm.roll(block.number + 1);
    }

    function deploy() internal override returns (IRegistry deployed) {
        bytes memory code = vm.parseJsonBytes(vm.readFile("artifact/Registry.json"), ".deployedBytecode");
        deployed = IRegistry(member("registry"));
        vm.etch(address(deployed), code);
    }

    function kindFor(uint64 shardClass, bool daily) internal pure returns (uint16) {
        if (!daily) return uint16(shardClass << 8) | 0x7f;
        uint8[4] memory classes = [4, 7, 8, 9];
        return uint16(classes[shardClass - 4]) << 8;
    }

    function bySignature(uint256 nonce, bytes memory data) internal {
        IRegistry.Write[] memory writes = one(shardOf(2, 0), Kinds.KEY_LOCK, data);
        bytes memory signature = signed(KEY, typed(appendMessage(actor, realm, writes, nonce, START + 60)));
        vm.prank(member("relay"));
        registry.appendBySig(actor, realm, writes[0].shard, writes[0].kind, data, nonce, START + 60, signature);
    }

    function measure(string memory name, uint64 shard, uint16 kind, bytes memory data) internal {
        vm.prank(actor);
        registry.append(realm, shard, kind, data);
        vm.snapshotGasLastCall("registry", name);
    }

    function clear(bytes memory payload) internal pure returns (bytes memory) {
        return bytes.concat(hex"00", payload);
    }

    function batch(uint256 cidSize) internal pure returns (bytes memory) {
        bytes memory cid = random(cidSize);
        return clear(Packed.batch(Batch(id("r"), id("ca"), keccak256("root"), 4096, uint64(START + 3600), cid)));
    }

    function delivery() internal view returns (bytes memory) {
        return clear(Packed.delivery(Delivery(id("r"), actor, 1, keccak256("digest"), "ssh-cert", random(113))));
    }

    function id(string memory name) internal pure returns (bytes16) {
        return bytes16(keccak256(bytes(name)));
    }

    /// @dev An encoding byte, then bytes of which hardly any is zero.
    function random(uint256 size) internal pure returns (bytes memory data) {
        data = new bytes(size);
        for (uint256 i = 1; i < size; ++i) {
            data[i] = bytes1(uint8(uint256(keccak256(abi.encode(i)))) | 1);
        }
    }

    function test_gas_of_revocations() public {
        measure("one entry of 48 random bytes", shardOf(2, 0), Kinds.KEY_LOCK, random(48));
        bySignature(1, random(48));
        vm.snapshotGasLastCall("registry", "one entry of 48 random bytes by signature");
        measure("lock a key", shardOf(2, 0), Kinds.KEY_LOCK, random(21));
        measure("lock 200 keys in one entry", shardOf(2, 0), Kinds.KEY_LOCK, random(1 + 200 * 20));
        uint64 shard = shardOf(3, START / 30 days);
        measure("revoke a certificate", shard, Kinds.CERT_REVOKE, random(25));
        measure("revoke 500 certificates in one entry", shard, Kinds.CERT_REVOKE, random(17 + 500 * 8));
        measure("revoke a certificate, first write of its shard", shard + 1, Kinds.CERT_REVOKE, random(25));
    }

    function test_gas_of_batches_and_deliveries() public {
        measure("batch", shardOf(4, 0), Kinds.BATCH, batch(0));
        measure("batch with the leaves' CID", shardOf(4, 0), Kinds.BATCH, batch(36));
        bytes memory countersign = clear(Packed.countersign(Countersign(id("batch"), keccak256("entry"))));
        measure("countersignature", shardOf(4, 0), Kinds.COUNTERSIGN, countersign);
        measure(
            "approval", shardOf(4, 0), Kinds.APPROVE, clear(Packed.approve(Approve(id("request"), keccak256("hash"))))
        );
        measure("delivery", shardOf(6, 0), Kinds.DELIVERY, delivery());
        bytes memory envelope = clear(Packed.envelope(Envelope(id("r"), 5, keccak256("index"), "api-token")));
        measure("envelope, for a fleet", shardOf(6, 0), Kinds.ENVELOPE, envelope);
        measure("100 prekeys", shardOf(5, 0), Kinds.PREKEYS, random(2 + 100 * 32));
        IRegistry.Write[] memory writes = new IRegistry.Write[](2);
        writes[0] = IRegistry.Write(shardOf(4, 0), Kinds.BATCH, batch(0));
        writes[1] = IRegistry.Write(shardOf(6, 0), Kinds.DELIVERY, delivery());
        vm.prank(actor);
        registry.appendMany(realm, writes);
        vm.snapshotGasLastCall("registry", "batch and delivery in one call");
    }

    function test_gas_of_governance() public {
        byRoots(one(0, Kinds.ROLE_SET, roleSet(member("new"), Roles.ISSUER)));
        vm.snapshotGasLastCall("registry", "role set, new actor, by two roots");
        byRoots(one(0, Kinds.SETTINGS, random(48)));
        vm.snapshotGasLastCall("registry", "one entry of 48 random bytes by two roots");
        byRoots(one(0, Kinds.ROOT_SET, bytes.concat(hex"00", abi.encode(RootSet(2, roots)))));
        vm.snapshotGasLastCall("registry", "root set, by two roots");
        bytes memory data = Packed.memberSet(MemberSet(member("device"), true, id("subject"), keccak256("x25519")));
        vm.prank(actor);
        registry.append(realm, shardOf(1, 0), Kinds.MEMBER_SET, bytes.concat(hex"00", data));
        vm.snapshotGasLastCall("registry", "member set, new actor");
    }
}
