// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "../src/IRegistry.sol";
import {Design} from "./Design.sol";

/// @dev What the proofs use of halmos' cheatcodes.
interface Cheats {
    function getCode(string calldata path) external view returns (bytes memory);
    function etch(address target, bytes calldata code) external;
    function prank(address sender) external;
    function warp(uint256 time) external;
    function roll(uint256 number) external;
    function chainId(uint256 id) external;
    function assume(bool condition) external pure;
    function enableSymbolicStorage(address target) external;
    function createUint(uint256 bits, string calldata name) external returns (uint256);
}

/// @dev The code that hosts pin, with any storage whatever, at any time (until the year 36,000), in any block, on any chain.
abstract contract Symbolic {
    Cheats internal constant vm = Cheats(address(uint160(uint256(keccak256("hevm cheat code")))));
    Cheats internal constant svm = Cheats(address(uint160(uint256(keccak256("svm cheat code")))));

    IRegistry internal constant registry = IRegistry(address(0xC0DE));

    function setUp() public virtual {
        vm.etch(address(registry), vm.getCode("out/symbolic/code.json"));
        svm.enableSymbolicStorage(address(registry));
        vm.warp(svm.createUint(40, "time"));
        vm.roll(svm.createUint(256, "number"));
        vm.chainId(svm.createUint(256, "chain"));
    }

    function one(uint64 shard, uint16 kind, bytes memory data) internal pure returns (IRegistry.Write[] memory writes) {
        writes = new IRegistry.Write[](1);
        writes[0] = IRegistry.Write(shard, kind, data);
    }

    function two(IRegistry.Write memory first, IRegistry.Write memory second)
        internal
        pure
        returns (IRegistry.Write[] memory writes)
    {
        writes = new IRegistry.Write[](2);
        (writes[0], writes[1]) = (first, second);
    }

    struct Any {
        uint64 shard;
        uint8 class;
        uint8 number;
        bytes data;
    }

    function writeOf(Any memory any) internal pure returns (IRegistry.Write memory) {
        return IRegistry.Write(any.shard, kindOf(any.class, any.number), any.data);
    }

    /// @dev Any class there is, each on a path of its own, or any there is not; with any number.
    function kindOf(uint8 class, uint8 number) internal pure returns (uint16) {
        for (uint256 i = 0; i < 0x18; ++i) {
            if (class == i) return uint16(i << 8 | number);
        }
        return uint16(uint256(class) << 8 | number);
    }

    /// @dev Whether the call succeeds.
    function send(address caller, bytes memory call) internal returns (bool success) {
        vm.prank(caller);
        (success,) = address(registry).call(call);
    }

    // --- All that the contract knows of any one realm, shard and actor

    struct Place {
        bytes32 realm;
        uint64 shard;
        address who;
    }

    struct State {
        Place place;
        uint256 slot;
        uint256 record;
        bytes32 rootSet;
    }

    function stateOf(Place memory place) internal view returns (State memory) {
        return State(
            place,
            registry.slotOf(place.realm, place.shard),
            registry.actorOf(place.realm, place.who),
            registry.rootSetOf(place.realm)
        );
    }

    /// @dev What an entry that was taken makes of it.
    function fold(State memory state, bytes32 realm, address actor, IRegistry.Write memory write) internal view {
        if (state.place.realm != realm) return;
        if (state.place.shard == Design.shardOf(write.kind, write.shard)) {
            state.slot = Design.slotAfter(state.slot, address(registry), realm, actor, write);
        }
        state.record = Design.recordAfter(state.record, state.place.who, write);
    }

    function assertState(State memory wanted) internal view {
        State memory found = stateOf(wanted.place);
        assert(found.slot == wanted.slot);
        assert(found.record == wanted.record);
        assert(found.rootSet == wanted.rootSet);
    }
}
