// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "../src/IRegistry.sol";
import {Roles} from "../src/Entries.sol";

bytes4 constant MAGIC = 0x1626ba7e;

/// @dev A wallet of two owners, both of whom must sign.
contract TwoOfTwoWallet {
    address private immutable FIRST;
    address private immutable SECOND;

    constructor(address first, address second) {
        FIRST = first;
        SECOND = second;
    }

    function isValidSignature(bytes32 digest, bytes calldata signatures) external view returns (bytes4) {
        require(signatures.length == 130, "two signatures");
        bool valid = signerOf(digest, signatures[:65]) == FIRST && signerOf(digest, signatures[65:]) == SECOND;
        return valid ? MAGIC : bytes4(0xffffffff);
    }

    function signerOf(bytes32 digest, bytes calldata signature) private pure returns (address) {
        return ecrecover(digest, uint8(signature[64]), bytes32(signature[:32]), bytes32(signature[32:64]));
    }
}

/// @dev A wallet of m of n owners that works as a Safe does: owners sign the Safe's own typed message, which holds the hash that it is
/// asked about, in the order of their addresses; or they approve the message on the chain, and then nothing is signed.
contract SafeLikeWallet {
    bytes32 private constant DOMAIN_TYPEHASH = keccak256("EIP712Domain(uint256 chainId,address verifyingContract)");
    bytes32 private constant MESSAGE_TYPEHASH = keccak256("SafeMessage(bytes message)");

    address[] private owners; // ascending
    uint256 private threshold;
    mapping(bytes32 message => mapping(address owner => bool)) private approved;

    constructor(address[] memory given, uint256 m) {
        threshold = m;
        for (uint256 i = 0; i < given.length; ++i) {
            owners.push(given[i]);
            for (uint256 j = i; j > 0 && owners[j] < owners[j - 1]; --j) {
                (owners[j], owners[j - 1]) = (owners[j - 1], owners[j]);
            }
        }
    }

    function place(address owner) public view returns (uint256) {
        for (uint256 i = 0; i < owners.length; ++i) {
            if (owners[i] == owner) return i;
        }
        revert("no owner");
    }

    function messageHash(bytes32 digest) public view returns (bytes32) {
        bytes32 domain = keccak256(abi.encode(DOMAIN_TYPEHASH, block.chainid, address(this)));
        bytes32 message = keccak256(abi.encode(MESSAGE_TYPEHASH, keccak256(abi.encode(digest))));
        return keccak256(abi.encodePacked(hex"1901", domain, message));
    }

    function approve(bytes32 message) external {
        place(msg.sender);
        approved[message][msg.sender] = true;
    }

    function isValidSignature(bytes32 digest, bytes calldata signatures) external view returns (bytes4) {
        bytes32 message = messageHash(digest);
        if (signatures.length == 0) {
            uint256 count = 0;
            for (uint256 i = 0; i < owners.length; ++i) {
                if (approved[message][owners[i]]) ++count;
            }
            require(count >= threshold, "hash not approved");
            return MAGIC;
        }
        require(signatures.length >= threshold * 65, "signatures data too short");
        address last = address(0);
        for (uint256 i = 0; i < threshold; ++i) {
            bytes calldata one = signatures[i * 65:(i + 1) * 65];
            address owner = ecrecover(message, uint8(one[64]), bytes32(one[:32]), bytes32(one[32:64]));
            place(owner);
            require(owner > last, "owners out of order");
            last = owner;
        }
        return MAGIC;
    }
}

/// @dev A wallet that answers every question with the bytes it was made with.
contract ParrotWallet {
    bytes private answer;

    constructor(bytes memory given) {
        answer = given;
    }

    fallback(bytes calldata) external returns (bytes memory) {
        return answer;
    }
}

contract AgreeingWallet {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return MAGIC;
    }
}

contract RevertingWallet {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        revert("no");
    }
}

/// @dev A wallet that would spend a storage write on its answer.
contract WritingWallet {
    uint256 public asked;

    function isValidSignature(bytes32, bytes calldata) external returns (bytes4) {
        ++asked;
        return MAGIC;
    }
}

/// @dev A wallet that agrees where the registry turns its question down with this error.
contract AskingWallet {
    address private immutable REGISTRY;
    bytes4 private immutable REFUSAL;
    bytes private question;

    constructor(address registry, bytes memory given, bytes4 refusal) {
        (REGISTRY, question, REFUSAL) = (registry, given, refusal);
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        (bool success, bytes memory answer) = REGISTRY.staticcall(question);
        bool turnedDown = !success && bytes4(answer) == REFUSAL;
        return turnedDown ? MAGIC : bytes4(0xffffffff);
    }
}

/// @dev A wallet for which every member of a realm may sign.
contract MembersWallet {
    IRegistry private immutable REGISTRY;
    bytes32 private immutable REALM;

    constructor(IRegistry registry, bytes32 realm) {
        (REGISTRY, REALM) = (registry, realm);
    }

    function isValidSignature(bytes32, bytes calldata signature) external view returns (bytes4) {
        return REGISTRY.actorOf(REALM, address(bytes20(signature))) & Roles.MEMBER != 0 ? MAGIC : bytes4(0xffffffff);
    }
}
