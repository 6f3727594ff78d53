// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "../src/IRegistry.sol";
import {Handler} from "./Handler.sol";
import {Campaign} from "./Invariants.t.sol";

contract ArtifactHandler is Handler {
    function deploy() internal override returns (IRegistry deployed) {
        deployed = IRegistry(member("registry"));
        vm.etch(address(deployed), vm.parseJsonBytes(vm.readFile("artifact/Registry.json"), ".deployedBytecode"));
    }
}

/// @dev Writes what a campaign against the shipped artefact logged, and the slots it ended with, a line for each run: run by
/// registry/tests/trace.rs in the profile `trace`, which folds it again in Rust.
contract TraceTest is Campaign {
    string internal constant TRACE = "out/trace/trace";

    function setUp() public override {
        super.setUp();
        vm.writeFile(TRACE, "");
    }

    function made() internal override returns (Handler) {
        return new ArtifactHandler();
    }

    function invariant_what_was_logged_is_written_down() public view {
        handler.expectHeads();
    }

    function afterInvariant() public override {
        super.afterInvariant();
        vm.writeLine(TRACE, vm.toString(handler.trace()));
    }
}
