// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Handler} from "./Handler.sol";
import {Test} from "./Test.sol";

struct FuzzSelector {
    address addr;
    bytes4[] selectors;
}

/// @dev What holds after any calls by anybody. Each campaign ends with a look at what its calls came to.
abstract contract Campaign is Test {
    Handler internal handler;

    function setUp() public virtual {
        handler = made();
        handler.setUp();
    }

    function made() internal virtual returns (Handler) {
        return new Handler();
    }

    // forge's interface of campaigns

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[10] memory actions = [
            Handler.append.selector,
            Handler.appendMany.selector,
            Handler.appendBySig.selector,
            Handler.appendByRoots.selector,
            Handler.setRoles.selector,
            Handler.setMember.selector,
            Handler.setRoots.selector,
            Handler.revoke.selector,
            Handler.attempt.selector,
            Handler.attack.selector
        ];
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), new bytes4[](actions.length));
        for (uint256 i = 0; i < actions.length; ++i) {
            targets[0].selectors[i] = actions[i];
        }
    }

    /// @dev A campaign that hardly does anything proves nothing: each sort of call was taken, and most calls were.
    function afterInvariant() public virtual {
        uint256 all = 0;
        for (uint256 i = 0; i <= uint256(type(Handler.Action).max); ++i) {
            Handler.Action action = Handler.Action(i);
            all += handler.taken(action);
            bool refusals = action == Handler.Action.Attack || action == Handler.Action.Attempt;
            uint256 happened = refusals ? handler.refused(action) : handler.taken(action);
            vm.assertTrue(happened > 0, string.concat("action ", vm.toString(i), " was never as it is meant to be"));
        }
        vm.assertTrue(all * 4 >= handler.calls() * 3, "three calls of four were taken");
    }
}

contract InvariantsTest is Campaign {
    function invariant_heads_equal_the_fold_of_the_events() public view {
        handler.expectHeads();
    }

    function invariant_roles_are_those_that_roots_and_admins_gave() public view {
        handler.expectRoles();
    }

    function invariant_revocations_are_never_undone() public view {
        handler.expectRevocations();
    }

    function invariant_the_threshold_is_between_one_and_the_number_of_roots() public view {
        handler.expectRootSets();
    }

    function invariant_nonces_grow_by_one_with_each_signed_call() public view {
        handler.expectNonces();
    }

    function invariant_realms_shards_and_actors_do_not_touch_each_other() public view {
        handler.expectApart();
    }

    function invariant_block_numbers_wrap_without_harm() public view {
        handler.expectBlocks();
    }

    function afterInvariant() public override {
        super.afterInvariant();
        vm.assertTrue(handler.expectRevocations() > 5, "there were revocations");
        vm.assertTrue(handler.expectBlocks(), "a shard went over a multiple of 2^32");
    }
}
