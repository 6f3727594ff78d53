// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

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
