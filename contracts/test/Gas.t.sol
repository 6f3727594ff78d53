// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Approve, Batch, Countersign, Delivery, Envelope, Kinds, MemberSet, Roles, RootSet} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Packed} from "./Packed.sol";
import {RegistryTest} from "./RegistryTest.sol";

/// @dev Whole-transaction gas of the shipped artefact in steady state: run by script/check in the profile `gas`, where every
/// call is a transaction of its own. The script compares the results with snapshots/, and with the goals there.
///
/// Beside the gas stands what no contract with this storage and this event could save: calldata, storage, log and precompiles, by
/// the rules of Osaka (EIP-2028, EIP-2929, EIP-2200, EIP-7623, EIP-7951). docs/gas.md shows the sums.
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

    // --- What cannot be saved

    uint256 internal constant COLD_LOAD = 2100;
    uint256 internal constant CHANGE = 2900; // a slot that was read and is not zero
    uint256 internal constant FILL = 20_000; // a slot that was read and is zero
    uint256 internal constant ECRECOVER = 3000;
    uint256 internal constant P256VERIFY = 6900;

    function slots(uint256 changed, uint256 filled) internal pure returns (uint256) {
        return changed * (COLD_LOAD + CHANGE) + filled * (COLD_LOAD + FILL);
    }

    /// @dev LOG4 over meta, and over the data's offset, length and words.
    function logged(uint256 size) internal pure returns (uint256) {
        return 375 * 5 + 8 * (32 * 3 + (size + 31) / 32 * 32);
    }

    function costOf(bytes memory call) internal pure returns (uint256 cost, uint256 atLeast, uint256 nonZero) {
        for (uint256 i = 0; i < call.length; ++i) {
            if (call[i] != 0) ++nonZero;
        }
        uint256 zero = call.length - nonZero;
        (cost, atLeast) = (4 * zero + 16 * nonZero, 10 * zero + 40 * nonZero);
    }

    /// @dev Sends the call as a transaction of its own and records what it costs, and of what.
    function record(string memory name, address from, bytes memory call, uint256 storing, uint256 log, uint256 signing)
        internal
    {
        vm.prank(from);
        (bool success,) = address(registry).call(call);
        vm.assertTrue(success, name);
        vm.snapshotGasLastCall("registry", name);
        (uint256 cost, uint256 atLeast, uint256 nonZero) = costOf(call);
        vm.snapshotValue("bytes", name, nonZero);
        // EIP-7623: so much a transaction with these bytes costs even if nothing else does.
        uint256 others = storing + log + signing;
        if (atLeast > cost + others + 5000) (cost, storing, log) = (atLeast, 0, 0);
        vm.snapshotValue("calldata", name, cost);
        vm.snapshotValue("storage", name, storing);
        vm.snapshotValue("log", name, log);
        vm.snapshotValue("signatures", name, signing);
    }

    function bySignature(uint256 nonce, bytes memory data) internal {
        IRegistry.Write[] memory writes = one(shardOf(2, 0), Kinds.KEY_LOCK, data);
        bytes memory signature = signed(KEY, typed(appendMessage(actor, realm, writes, nonce, START + 60)));
        vm.prank(member("relay"));
        registry.appendBySig(actor, realm, writes[0].shard, writes[0].kind, data, nonce, START + 60, signature);
    }

    /// @dev An entry of 48 bytes by the actor's signature, which `form` makes of the digest; its nonce is not the first.
    function measureSigned(
        string memory name,
        address signer,
        function(uint256, bytes32) internal pure returns (bytes memory) form,
        uint256 precompiles
    ) internal {
        bytes memory data = random(48);
        uint256 nonce = nonceOf(signer);
        IRegistry.Write[] memory writes = one(shardOf(2, 0), Kinds.KEY_LOCK, data);
        bytes memory signature = form(KEY, typed(appendMessage(signer, realm, writes, nonce, START + 60)));
        (uint64 shard, uint16 kind) = (writes[0].shard, writes[0].kind);
        bytes memory call =
            abi.encodeCall(IRegistry.appendBySig, (signer, realm, shard, kind, data, nonce, START + 60, signature));
        record(name, member("relay"), call, slots(2, 0), logged(48), precompiles);
    }

    function measure(string memory name, uint64 shard, uint16 kind, bytes memory data) internal {
        bytes memory call = abi.encodeCall(IRegistry.append, (realm, shard, kind, data));
        uint64 target = shard >> 32 > 3 ? shard | uint64(block.timestamp / 1 days) : shard;
        uint256 head = registry.slotOf(realm, target) == 0 ? slots(0, 1) : slots(1, 0);
        uint256 grant = kind == Kinds.MEMBER_SET ? slots(0, 1) : 0;
        record(name, actor, call, COLD_LOAD + head + grant, logged(data.length), 0);
    }

    function measureByRoots(string memory name, IRegistry.Write[] memory writes, uint256 filled) internal {
        bytes memory call =
            abi.encodeCall(IRegistry.appendByRoots, (realm, proofNow(), writes, pack(rootSignatures(2, writes))));
        record(name, member("relay"), call, slots(2, filled), logged(writes[0].data.length), 2 * (ECRECOVER + 100));
        ++rootNonce;
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
        measure("lock a key", shardOf(2, 0), Kinds.KEY_LOCK, random(21));
        measure("lock 1,000 keys in one entry", shardOf(2, 0), Kinds.KEY_LOCK, random(1 + 1000 * 20));
        uint64 shard = shardOf(3, START / 30 days);
        measure("revoke a certificate", shard, Kinds.CERT_REVOKE, random(25));
        measure("revoke 1,000 certificates in one entry", shard, Kinds.CERT_REVOKE, random(17 + 1000 * 8));
        measure("revoke a certificate, first write of its shard", shard + 1, Kinds.CERT_REVOKE, random(25));
    }

    function test_gas_of_signatures() public {
        measureSigned("one entry of 48 random bytes by signature", actor, signed, ECRECOVER + 100);
        address signer = seasoned(addressP256(KEY), signedP256);
        measureSigned("one entry of 48 random bytes by a P-256 key", signer, signedP256, P256VERIFY + 100);
        // Two hashes of at most 192 bytes: 60 + 12 for each word, and 100 for the call.
        uint256 hashes = 2 * (100 + 60) + 12 * (6 + 3);
        signer = seasoned(addressPasskey(KEY), signedByPasskey);
        measureSigned("one entry of 48 random bytes by a passkey", signer, signedByPasskey, P256VERIFY + 100 + hashes);
    }

    /// @dev An actor that has signed before.
    function seasoned(address signer, function(uint256, bytes32) internal pure returns (bytes memory) sign)
        internal
        returns (address)
    {
        grantRoles(signer, Roles.REVOKER);
        IRegistry.Write[] memory writes = one(shardOf(2, 0), Kinds.KEY_LOCK, anything());
        appendSigned(signer, writes, 0, START, sign(KEY, typed(appendMessage(signer, realm, writes, 0, START))));
        return signer;
    }

    function test_gas_of_batches_and_deliveries() public {
        measure("batch", shardOf(4, 0), Kinds.BATCH, batch(0));
        measure("batch with the leaves' CID", shardOf(4, 0), Kinds.BATCH, batch(36));
        bytes memory countersign = clear(Packed.countersign(Countersign(id("batch"), keccak256("entry"))));
        measure("countersignature", shardOf(4, 0), Kinds.COUNTERSIGN, countersign);
        bytes memory approve = clear(Packed.approve(Approve(id("request"), keccak256("hash"))));
        measure("approval", shardOf(4, 0), Kinds.APPROVE, approve);
        measure("delivery", shardOf(6, 0), Kinds.DELIVERY, delivery());
        bytes memory envelope = clear(Packed.envelope(Envelope(id("r"), 5, keccak256("index"), "api-token")));
        measure("envelope, for a fleet", shardOf(6, 0), Kinds.ENVELOPE, envelope);
        measure("100 prekeys", shardOf(5, 0), Kinds.PREKEYS, random(2 + 100 * 32));
        IRegistry.Write[] memory writes = new IRegistry.Write[](2);
        writes[0] = IRegistry.Write(shardOf(4, 0), Kinds.BATCH, batch(0));
        writes[1] = IRegistry.Write(shardOf(6, 0), Kinds.DELIVERY, delivery());
        bytes memory call = abi.encodeCall(IRegistry.appendMany, (realm, writes));
        uint256 log = logged(writes[0].data.length) + logged(writes[1].data.length);
        // Roles are looked up for each write; the second time the slot is warm.
        record("batch and delivery in one call", actor, call, COLD_LOAD + 100 + slots(2, 0), log, 0);
    }

    function test_gas_of_governance() public {
        measureByRoots("role set, new actor, by two roots", one(0, Kinds.ROLE_SET, roleSet(member("new"), 2)), 1);
        measureByRoots("one entry of 48 random bytes by two roots", one(0, Kinds.SETTINGS, random(48)), 0);
        bytes memory data = bytes.concat(hex"00", abi.encode(RootSet(2, roots)));
        measureByRoots("root set, by two roots", one(0, Kinds.ROOT_SET, data), 0);
        data = Packed.memberSet(MemberSet(member("device"), true, id("subject"), keccak256("x25519")));
        measure("member set, new actor", shardOf(1, 0), Kinds.MEMBER_SET, clear(data));
    }
}
