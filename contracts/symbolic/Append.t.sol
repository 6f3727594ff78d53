// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "../src/IRegistry.sol";
import {Design} from "./Design.sol";
import {Symbolic} from "./Symbolic.sol";

/// @dev `append` and `appendMany`: who succeeds, and what that changes.
contract AppendProof is Symbolic {
    function append(address caller, bytes32 realm, IRegistry.Write memory write) internal returns (bool) {
        return send(caller, abi.encodeCall(IRegistry.append, (realm, write.shard, write.kind, write.data)));
    }

    /// @custom:halmos --default-bytes-lengths 1,25,70
    function check_append_takes_exactly_what_the_table_says(address caller, bytes32 realm, Any memory any) public {
        IRegistry.Write memory write = writeOf(any);
        uint64 roles = uint64(registry.actorOf(realm, caller));
        assert(append(caller, realm, write) == Design.takes(write, roles, false));
    }

    /// @custom:halmos --default-bytes-lengths 25,70
    function check_append_changes_one_slot_and_at_most_one_member_bit(
        address caller,
        bytes32 realm,
        Any memory any,
        Place memory place
    ) public {
        IRegistry.Write memory write = writeOf(any);
        State memory wanted = stateOf(place);
        vm.assume(append(caller, realm, write));
        fold(wanted, realm, caller, write);
        assertState(wanted);
    }
}
