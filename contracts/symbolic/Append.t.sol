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

    function appendTwo(address caller, bytes32 realm, IRegistry.Write memory first, IRegistry.Write memory second)
        internal
        returns (bool)
    {
        return send(caller, abi.encodeCall(IRegistry.appendMany, (realm, two(first, second))));
    }

    /// @dev The second by the roles that the first left: a MEMBER_SET may be about its own writer.
    /// @custom:slow minutes
    /// @custom:halmos --array-lengths first.data=70,second.data=25
    function check_the_second_of_two_entries_is_by_the_roles_that_the_first_left(
        address caller,
        bytes32 realm,
        Any memory first,
        Any memory second
    ) public {
        vm.assume(first.class == 1);
        (IRegistry.Write memory one_, IRegistry.Write memory other) = (writeOf(first), writeOf(second));
        uint256 record = registry.actorOf(realm, caller);
        bool takesOne = Design.takes(one_, uint64(record), false);
        record = Design.recordAfter(record, caller, one_);
        bool takesOther = Design.takes(other, uint64(record), false);
        assert(appendTwo(caller, realm, one_, other) == Design.both(takesOne, takesOther));
    }

    /// @dev One after the other, in one shard or in two. (The second is an inbox entry.)
    /// @custom:slow minutes
    /// @custom:halmos --array-lengths first.data={25,70},second.data=25
    function check_two_entries_in_a_call_change_what_each_would(
        address caller,
        bytes32 realm,
        Any memory first,
        Any memory second,
        Place memory place
    ) public {
        vm.assume(second.class == 9);
        (IRegistry.Write memory one_, IRegistry.Write memory other) = (writeOf(first), writeOf(second));
        State memory wanted = stateOf(place);
        vm.assume(appendTwo(caller, realm, one_, other));
        fold(wanted, realm, caller, one_);
        fold(wanted, realm, caller, other);
        assertState(wanted);
    }
}
