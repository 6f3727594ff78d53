// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {
    Acknowledge,
    Approve,
    Batch,
    Countersign,
    Delivery,
    Envelope,
    MemberSet,
    Prekeys,
    RoleSet
} from "../src/Entries.sol";

/// @dev The packed forms of payload structs (docs/spec/registry.md), without the encoding byte.
library Packed {
    function roleSet(RoleSet memory x) internal pure returns (bytes memory) {
        return abi.encodePacked(x.actor, x.roles, x.x25519);
    }

    function memberSet(MemberSet memory x) internal pure returns (bytes memory) {
        return abi.encodePacked(x.actor, x.member, x.subject, x.x25519);
    }

    function batch(Batch memory x) internal pure returns (bytes memory) {
        return abi.encodePacked(x.r, x.ca, x.root, x.size, x.notAfter, x.leavesCid);
    }

    function countersign(Countersign memory x) internal pure returns (bytes memory) {
        return abi.encodePacked(x.batch, x.entryHash);
    }

    function approve(Approve memory x) internal pure returns (bytes memory) {
        return abi.encodePacked(x.request, x.approvalHash);
    }

    function acknowledge(Acknowledge memory x) internal pure returns (bytes memory) {
        return abi.encodePacked(x.delivery, x.digest);
    }

    function delivery(Delivery memory x) internal pure returns (bytes memory) {
        uint8 nameLength = uint8(bytes(x.payloadName).length);
        return abi.encodePacked(x.r, x.recipient, x.payloadKind, x.digest, nameLength, x.payloadName, x.sealedCid);
    }

    function envelope(Envelope memory x) internal pure returns (bytes memory) {
        return abi.encodePacked(x.r, x.payloadKind, x.index, uint8(bytes(x.payloadName).length), x.payloadName);
    }

    function prekeys(Prekeys memory x) internal pure returns (bytes memory) {
        return abi.encodePacked(x.drop, x.keys);
    }
}
