// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Registry} from "../src/Registry.sol";
import {Test} from "./Test.sol";

/// @dev What the tests run is what ships.
contract ArtifactTest is Test {
    string internal artifact = vm.readFile("artifact/Registry.json");

    function test_the_artefact_is_the_code_that_is_tested() public view {
        vm.assertEq(vm.parseJsonBytes(artifact, ".bytecode"), type(Registry).creationCode, "creation code");
        vm.assertEq(vm.parseJsonBytes(artifact, ".deployedBytecode"), type(Registry).runtimeCode, "runtime code");
    }

    function test_the_code_hash_is_the_same_wherever_it_is_deployed() public {
        bytes32 expected = vm.parseJsonBytes32(artifact, ".codeHash");
        vm.assertEq(address(new Registry()).codehash, expected, "here");
        vm.chainId(10);
        vm.assertEq(address(new Registry()).codehash, expected, "at another address on another chain");
    }
}
