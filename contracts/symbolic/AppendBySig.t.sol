// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "../src/IRegistry.sol";
import {Design} from "./Design.sol";
import {Signers} from "./Signers.sol";

/// @dev `appendBySig`: what is taken was signed by the actor, for this realm, contract and chain, in time, and counts once.
contract AppendBySigProof is Signers {
    struct Signed {
        address actor;
        bytes32 realm;
        uint256 nonce;
        uint256 deadline;
    }

    function appendBySig(Signed memory it, IRegistry.Write memory write, bytes memory signature)
        internal
        returns (bool)
    {
        return send(
            msg.sender,
            abi.encodeCall(
                IRegistry.appendBySig,
                (it.actor, it.realm, write.shard, write.kind, write.data, it.nonce, it.deadline, signature)
            )
        );
    }

    /// @dev If it is taken: the nonce is the next, the deadline not over, and the table gives the actor this entry.
    /// @return digest What must have been signed.
    function takenRightly(Signed memory it, IRegistry.Write memory write, bytes memory signature)
        internal
        returns (bytes32 digest)
    {
        uint256 record = registry.actorOf(it.realm, it.actor);
        vm.assume(appendBySig(it, write, signature));
        assert(Design.both(it.nonce == record >> 64, block.timestamp <= it.deadline));
        assert(Design.takes(write, uint64(record), false));
        return appendDigest(it.actor, it.realm, write, it.nonce, it.deadline);
    }

    /// @custom:halmos --default-bytes-lengths 25
    function check_a_signed_entry_is_by_a_key_of_secp256k1(
        Signed memory it,
        Any memory any,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) public {
        IRegistry.Write memory write = writeOf(any);
        bytes memory signature = abi.encodePacked(r, s, v);
        bytes32 digest = takenRightly(it, write, signature);
        assert(Design.either(byKey(it.actor, digest, v, r, s), byWallet(it.actor, digest, signature)));
    }

    /// @custom:slow minutes
    /// @custom:halmos --default-bytes-lengths 25
    function check_a_signed_entry_is_by_a_key_of_p256(
        Signed memory it,
        Any memory any,
        bytes32 r,
        bytes32 s,
        bytes32 x,
        bytes32 y
    ) public {
        IRegistry.Write memory write = writeOf(any);
        bytes memory signature = abi.encodePacked(r, s, x, y);
        bytes32 digest = takenRightly(it, write, signature);
        assert(Design.either(byP256(it.actor, digest, r, s, x, y), byWallet(it.actor, digest, signature)));
    }

    /// @custom:slow minutes
    /// @custom:halmos --array-lengths any.data=25,signature={64,66}
    function check_an_entry_signed_in_another_form_is_by_a_wallet(
        Signed memory it,
        Any memory any,
        bytes memory signature
    ) public {
        IRegistry.Write memory write = writeOf(any);
        bytes32 digest = takenRightly(it, write, signature);
        assert(byWallet(it.actor, digest, signature));
    }

    /// @custom:slow minutes
    /// @custom:halmos --array-lengths any.data=25,signature=65
    function check_a_signed_entry_changes_one_slot_and_the_nonce(
        Signed memory it,
        Any memory any,
        bytes memory signature,
        Place memory place
    ) public {
        IRegistry.Write memory write = writeOf(any);
        vm.assume(it.actor.code.length == 0);
        State memory wanted = stateOf(place);
        vm.assume(appendBySig(it, write, signature));
        if (place.realm == it.realm && place.who == it.actor) {
            unchecked {
                wanted.record += 1 << 64;
            }
        }
        fold(wanted, it.realm, it.actor, write);
        assertState(wanted);
    }

    /// @dev With any other entry, deadline and signature either. (The first is an inbox entry: that every other counts the nonce up in the
    /// same way is shown above.)
    /// @custom:halmos --array-lengths any.data=25,signature=65,other.data=25,otherSignature={65,66} --solver-timeout-branching 2s
    function check_a_nonce_is_taken_once(
        Signed memory it,
        Any memory any,
        bytes memory signature,
        IRegistry.Write memory other,
        uint256 otherDeadline,
        bytes memory otherSignature
    ) public {
        vm.assume(any.class == 9);
        IRegistry.Write memory write = writeOf(any);
        vm.assume(appendBySig(it, write, signature));
        it.deadline = otherDeadline;
        assert(!appendBySig(it, other, otherSignature));
    }

    /// @return digest What must have been signed.
    function takenTogether(Signed memory it, IRegistry.Write[] memory writes, bytes memory signature)
        internal
        returns (bytes32 digest)
    {
        uint256 record = registry.actorOf(it.realm, it.actor);
        // forgefmt: disable-next-item
        vm.assume(send(msg.sender, abi.encodeCall(
            IRegistry.appendManyBySig, (it.actor, it.realm, writes, it.nonce, it.deadline, signature)
        )));
        assert(Design.both(it.nonce == record >> 64, block.timestamp <= it.deadline));
        assert(registry.actorOf(it.realm, it.actor) == record + (1 << 64));
        return appendManyDigest(it.actor, it.realm, writes, it.nonce, it.deadline);
    }

    /// @dev Both in one digest, and one nonce for both. (Two inbox entries; which entries are taken is shown for `append`.)
    /// @custom:halmos --array-lengths first.data=25,second.data=25
    function check_entries_signed_together_are_in_one_digest(
        Signed memory it,
        Any memory first,
        Any memory second,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) public {
        vm.assume(Design.both(first.class == 9, second.class == 9));
        bytes memory signature = abi.encodePacked(r, s, v);
        bytes32 digest = takenTogether(it, two(writeOf(first), writeOf(second)), signature);
        assert(Design.either(byKey(it.actor, digest, v, r, s), byWallet(it.actor, digest, signature)));
    }
}
