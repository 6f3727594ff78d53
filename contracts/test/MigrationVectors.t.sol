// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, Migrate, Migrated, ShardHead} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {P256} from "../src/P256.sol";
import {RegistryTest} from "./RegistryTest.sol";
import {Log} from "./Test.sol";

/// @dev What tests/vectors/migration.json says of a move: both payloads, and the statement that stands in for one. The contract interprets neither;
/// hashes are written out here, signatures judged by what the contract takes.
contract MigrationVectorsTest is RegistryTest {
    uint256 internal constant FIRST_KEY = 0xa1;
    string internal json;

    function setUp() public override {
        json = vm.readFile("../tests/vectors/migration.json");
        vm.chainId(vm.parseJsonUint(json, ".source.chainId"));
        super.setUp();
        threshold = vm.parseJsonUint(json, ".source.threshold");
        roots = vm.parseJsonAddressArray(json, ".source.roots");
        realm = hash(".source.realm");
    }

    function deploy() internal override returns (IRegistry) {
        address target = account(".source.contract");
        vm.etch(target, vm.parseJsonBytes(vm.readFile("artifact/Registry.json"), ".deployedBytecode"));
        return IRegistry(target);
    }

    function number(string memory key) internal view returns (uint256) {
        return vm.parseJsonUint(json, key);
    }

    function hash(string memory key) internal view returns (bytes32) {
        return vm.parseJsonBytes32(json, key);
    }

    function account(string memory key) internal view returns (address) {
        return vm.parseJsonAddress(json, key);
    }

    function heads() internal view returns (ShardHead[] memory list) {
        list = new ShardHead[](4);
        for (uint256 i = 0; i < list.length; ++i) {
            string memory path = string.concat(".heads[", vm.toString(i), "]");
            list[i] =
                ShardHead(uint64(number(string.concat(path, ".shard"))), uint256(hash(string.concat(path, ".slot"))));
        }
        vm.assertTrue(!vm.keyExistsJson(json, ".heads[4]"), "no more heads");
    }

    function migrate() internal view returns (Migrate memory) {
        return Migrate({
            chainId: uint64(number(".target.chainId")),
            genesisHash: hash(".target.genesisHash"),
            registry: account(".target.registry"),
            codeHash: hash(".target.codeHash"),
            realm: hash(".target.realm"),
            blockNumber: uint64(number(".blockNumber")),
            heads: heads()
        });
    }

    function test_both_payloads_are_the_encodings_of_their_structs() public view {
        vm.assertEq(vm.parseJsonBytes(json, ".migrate"), bytes.concat(hex"00", abi.encode(migrate())), "MIGRATE");
        Migrated memory source = Migrated({
            chainId: uint64(block.chainid),
            genesisHash: hash(".source.genesisHash"),
            registry: address(registry),
            codeHash: hash(".source.codeHash"),
            realm: registry.realmId(threshold, roots, hash(".source.salt")),
            blockNumber: uint64(number(".blockNumber")),
            heads: heads()
        });
        vm.assertEq(source.realm, realm, "the source's realm id");
        vm.assertEq(vm.parseJsonBytes(json, ".migrated"), bytes.concat(hex"00", abi.encode(source)), "MIGRATED");
    }

    function test_roots_write_the_move() public {
        IRegistry.Write[] memory writes = one(0, Kinds.MIGRATE, vm.parseJsonBytes(json, ".migrate"));
        bytes32 digest = typed(rootsMessage(realm, 0, writes));
        RootSignature[] memory signatures = new RootSignature[](2);
        signatures[0] = RootSignature(0, signed(FIRST_KEY, digest));
        signatures[1] = RootSignature(1, signed(FIRST_KEY + 1, digest));
        vm.recordLogs();
        registry.appendByRoots(
            realm, IRegistry.RootProof(0, threshold, roots, hash(".source.salt")), writes, pack(signatures)
        );
        Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, 1, "one entry");
        (uint256 meta, bytes memory data) = abi.decode(logs[0].data, (uint256, bytes));
        vm.assertEq(meta >> 96, Kinds.MIGRATE, "kind");
        vm.assertEq(data, writes[0].data, "as it stands in the vectors");
    }

    function statement() internal view returns (bytes32) {
        string memory head = "ShardHead(uint64 shard,uint256 slot)";
        Migrate memory to = migrate();
        bytes memory hashes;
        for (uint256 i = 0; i < to.heads.length; ++i) {
            bytes32 each = keccak256(abi.encode(keccak256(bytes(head)), to.heads[i].shard, to.heads[i].slot));
            hashes = bytes.concat(hashes, each);
        }
        bytes32 typeHash = keccak256(
            bytes.concat(
                "Migrate(bytes32 source,uint256 nonce,uint64 chainId,bytes32 genesisHash,address registry,bytes32 codeHash,bytes32 realm,uint64 blockNumber,ShardHead[] heads)",
                bytes(head)
            )
        );
        bytes memory fields = abi.encode(to.chainId, to.genesisHash, to.registry, to.codeHash, to.realm, to.blockNumber);
        return keccak256(bytes.concat(typeHash, realm, bytes32(number(".statement.nonce")), fields, keccak256(hashes)));
    }

    function test_a_statement_is_hashed_in_the_source_contracts_domain() public view {
        vm.assertEq(statement(), hash(".statement.structHash"), "struct hash");
        vm.assertEq(typed(statement()), hash(".statement.digest"), "digest");
        bytes32 set = keccak256(abi.encode(number(".statement.nonce"), threshold, roots));
        vm.assertEq(set, hash(".statement.rootSetSlot"), "the slot of the roots that sign it");
    }

    /// @dev As the contract judges a P-256 key.
    function byP256(bytes calldata signature, bytes32 digest, address root) external view returns (bool) {
        return P256.names(signature, root) && P256.verifies(signature, digest);
    }

    function test_a_statements_signatures_are_by_its_roots_over_nothing_else() public view {
        bytes32 digest = hash(".statement.digest");
        for (uint256 i = 0; i < roots.length; ++i) {
            string memory path = string.concat(".statement.signatures[", vm.toString(i), "]");
            vm.assertEq(number(string.concat(path, ".root")), i, "in the order of the roots");
            bytes memory signature = vm.parseJsonBytes(json, string.concat(path, ".signature"));
            if (signature.length == 65) {
                vm.assertEq(signature, signed(FIRST_KEY + i, digest), "by the root's key");
                vm.assertEq(vm.addr(FIRST_KEY + i), roots[i], "which is the root's");
            } else {
                vm.assertTrue(this.byP256(signature, digest, roots[i]), "by the root's key");
                vm.assertTrue(!this.byP256(signature, keccak256("other"), roots[i]), "over nothing else");
            }
        }
        vm.assertTrue(!vm.keyExistsJson(json, ".statement.signatures[4]"), "no more signatures");
    }
}
