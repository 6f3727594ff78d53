// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "../src/IRegistry.sol";
import {RootSet} from "../src/Entries.sol";
import {Design} from "./Design.sol";
import {Signers} from "./Signers.sol";

/// @dev `appendByRoots`: a threshold of the roots in force signed it, for this realm, contract and chain, and it counts once.
contract AppendByRootsProof is Signers {
    struct Signature {
        uint8 index;
        uint8 v;
        bytes32 r;
        bytes32 s;
    }

    function appendByRoots(
        bytes32 realm,
        IRegistry.RootProof memory proof,
        IRegistry.Write memory write,
        bytes memory signatures
    ) internal returns (bool) {
        IRegistry.Write[] memory writes = one(write.shard, write.kind, write.data);
        return send(msg.sender, abi.encodeCall(IRegistry.appendByRoots, (realm, proof, writes, signatures)));
    }

    function packed(Signature memory it, uint256 index) internal pure returns (bytes memory) {
        return abi.encodePacked(uint8(index), uint16(65), it.r, it.s, it.v);
    }

    /// @dev The index, each on a path of its own; those beyond `count` are all of one sort.
    function indexOf(Signature memory it, uint256 count) internal pure returns (uint256) {
        for (uint256 i = 0; i < count; ++i) {
            if (it.index == i) return i;
        }
        return count;
    }

    function setHash(uint256 nonce, uint256 threshold, address[] memory roots) internal pure returns (bytes32) {
        bytes memory set =
            bytes.concat(bytes32(nonce), bytes32(threshold), bytes32(uint256(0x60)), bytes32(roots.length));
        for (uint256 i = 0; i < roots.length; ++i) {
            set = bytes.concat(set, bytes32(uint256(uint160(roots[i]))));
        }
        return keccak256(set);
    }

    function realmOf(uint256 threshold, address[] memory roots, bytes32 salt) internal view returns (bytes32) {
        return keccak256(abi.encode("countersign.realm.v1", block.chainid, address(registry), threshold, roots, salt));
    }

    /// @dev That none of them has code. (Who may sign is shown first; here it would only multiply the paths.)
    function assumeKeys(address[] memory roots) internal view {
        for (uint256 i = 0; i < roots.length; ++i) {
            vm.assume(roots[i].code.length == 0);
        }
    }

    /// @dev A threshold of at least one and at most all, of roots that are distinct and none of them zero.
    function isWellFormed(uint256 threshold, address[] memory roots) internal pure returns (bool well) {
        well = Design.both(threshold != 0, threshold <= roots.length);
        for (uint256 i = 0; i < roots.length; ++i) {
            well = Design.both(well, roots[i] != address(0));
            for (uint256 j = 0; j < i; ++j) {
                well = Design.both(well, roots[i] != roots[j]);
            }
        }
    }

    /// @dev The set that is in force: the stored one, or before there is one, that of the realm's id.
    function isInForce(bytes32 realm, IRegistry.RootProof memory proof) internal view returns (bool) {
        bytes32 stored = registry.rootSetOf(realm);
        if (stored != 0) return stored == setHash(proof.nonce, proof.threshold, proof.roots);
        bool first = Design.both(proof.nonce == 0, realm == realmOf(proof.threshold, proof.roots, proof.salt));
        return Design.both(first, isWellFormed(proof.threshold, proof.roots));
    }

    /// @dev With an entry of class 02: which entries roots may write is shown below.
    /// @custom:slow minutes
    /// @custom:halmos --array-lengths proof.roots={1,2},any.data=25
    function check_a_threshold_of_the_roots_in_force_signed_it(
        bytes32 realm,
        IRegistry.RootProof memory proof,
        Any memory any,
        Signature memory first,
        Signature memory second
    ) public {
        vm.assume(any.class == 2);
        IRegistry.Write memory write = writeOf(any);
        uint256 count = proof.roots.length;
        (uint256 i, uint256 j) = (indexOf(first, count), indexOf(second, count));
        bool inForce = isInForce(realm, proof);
        vm.assume(appendByRoots(realm, proof, write, bytes.concat(packed(first, i), packed(second, j))));

        assert(Design.both(inForce, proof.threshold <= 2));
        assert(i != j && i < count && j < count);
        bytes32 digest = rootsDigest(realm, proof.nonce, one(write.shard, write.kind, write.data));
        assert(signedBy(proof.roots[i], digest, first));
        assert(signedBy(proof.roots[j], digest, second));
    }

    function signedBy(address root, bytes32 digest, Signature memory it) internal view returns (bool) {
        bool wallet_ = byWallet(root, digest, abi.encodePacked(it.r, it.s, it.v));
        return Design.either(byKey(root, digest, it.v, it.r, it.s), wallet_);
    }

    /// @custom:halmos --array-lengths proof.roots={1,2},any.data=25
    function check_one_signature_is_no_threshold_of_two(
        bytes32 realm,
        IRegistry.RootProof memory proof,
        Any memory any,
        Signature memory it
    ) public {
        vm.assume(any.class == 2);
        assumeKeys(proof.roots);
        vm.assume(appendByRoots(realm, proof, writeOf(any), packed(it, indexOf(it, proof.roots.length))));
        assert(proof.threshold <= 1);
    }

    /// @dev Given a set in force and the signature of its only root. (ROOT_SETs have a proof of their own.)
    /// @custom:slow minutes
    /// @custom:halmos --array-lengths proof.roots=1,any.data={25,61,70}
    function check_roots_write_exactly_what_the_table_says(
        bytes32 realm,
        IRegistry.RootProof memory proof,
        Any memory any,
        Signature memory it
    ) public {
        IRegistry.Write memory write = writeOf(any);
        vm.assume(write.kind != Design.ROOT_SET);
        vm.assume(proof.threshold == 1);
        vm.assume(proof.nonce != type(uint256).max);
        vm.assume(isInForce(realm, proof));
        bytes32 digest = rootsDigest(realm, proof.nonce, one(write.shard, write.kind, write.data));
        vm.assume(byKey(proof.roots[0], digest, it.v, it.r, it.s));
        assert(appendByRoots(realm, proof, write, packed(it, 0)) == Design.takes(write, 0, true));
    }

    /// @custom:slow minutes
    /// @custom:halmos --array-lengths proof.roots=1,any.data={25,61}
    function check_an_entry_by_roots_changes_one_slot_one_record_and_the_nonce(
        bytes32 realm,
        IRegistry.RootProof memory proof,
        Any memory any,
        Signature memory it,
        Place memory place
    ) public {
        IRegistry.Write memory write = writeOf(any);
        vm.assume(write.kind != Design.ROOT_SET);
        State memory wanted = stateOf(place);
        assumeKeys(proof.roots);
        vm.assume(appendByRoots(realm, proof, write, packed(it, indexOf(it, proof.roots.length))));
        fold(wanted, realm, address(0), write);
        if (place.realm == realm) wanted.rootSet = setHash(proof.nonce + 1, proof.threshold, proof.roots);
        assertState(wanted);
    }

    /// @dev A ROLE_SET and an entry of class 02, in one digest.
    /// @custom:slow minutes
    /// @custom:halmos --array-lengths proof.roots=1,first.data=61,second.data=25
    function check_two_entries_by_roots_are_signed_together_and_change_what_each_would(
        bytes32 realm,
        IRegistry.RootProof memory proof,
        Any memory first,
        Any memory second,
        Signature memory it,
        Place memory place
    ) public {
        vm.assume(Design.both(Design.both(first.class == 0, first.number == 1), second.class == 2));
        IRegistry.Write[] memory writes = two(writeOf(first), writeOf(second));
        State memory wanted = stateOf(place);
        assumeKeys(proof.roots);
        bytes memory call = abi.encodeCall(IRegistry.appendByRoots, (realm, proof, writes, packed(it, 0)));
        vm.assume(send(msg.sender, call));
        assert(byKey(proof.roots[0], rootsDigest(realm, proof.nonce, writes), it.v, it.r, it.s));
        fold(wanted, realm, address(0), writes[0]);
        fold(wanted, realm, address(0), writes[1]);
        if (place.realm == realm) wanted.rootSet = setHash(proof.nonce + 1, proof.threshold, proof.roots);
        assertState(wanted);
    }

    /// @custom:slow half a minute
    /// @custom:halmos --array-lengths proof.roots=1,roots={0,1,2}
    function check_a_new_root_set_is_well_formed_and_counts_from_the_next_nonce(
        bytes32 realm,
        IRegistry.RootProof memory proof,
        Signature memory it,
        uint256 threshold,
        address[] memory roots,
        Place memory place
    ) public {
        bytes memory data = bytes.concat(hex"00", abi.encode(RootSet(threshold, roots)));
        IRegistry.Write memory write = IRegistry.Write(0, Design.ROOT_SET, data);
        State memory wanted = stateOf(place);
        vm.assume(appendByRoots(realm, proof, write, packed(it, indexOf(it, 1))));
        assert(isWellFormed(threshold, roots));
        fold(wanted, realm, address(0), write);
        if (place.realm == realm) wanted.rootSet = setHash(proof.nonce + 1, threshold, roots);
        assertState(wanted);
    }

    /// @dev After a call that was taken, the stored set holds the next nonce (shown above); and only the nonce that is stored is taken.
    /// @custom:halmos --array-lengths proof.roots={1,2},roots={1,2},any.data=25 --solver-timeout-branching 2s
    function check_only_the_stored_root_nonce_is_taken(
        bytes32 realm,
        uint256 nonce,
        uint256 threshold,
        address[] memory roots,
        IRegistry.RootProof memory proof,
        Any memory any,
        Signature memory it
    ) public {
        vm.assume(registry.rootSetOf(realm) == setHash(nonce, threshold, roots));
        vm.assume(proof.nonce != nonce);
        vm.assume(any.class == 2);
        assert(!appendByRoots(realm, proof, writeOf(any), packed(it, 0)));
    }
}
