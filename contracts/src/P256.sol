// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "./IRegistry.sol";

/// @title Signatures by keys of the curve P-256
/// @notice What TPMs, smart cards, secure enclaves, security keys and passkeys hold. The chain's own precompile checks them
/// (RIP-7212, EIP-7951); nothing here is arithmetic. Layouts: docs/spec/registry.md.
library P256 {
    /// @dev r ‖ s ‖ x ‖ y.
    uint256 internal constant SIZE = 128;

    address private constant PRECOMPILE = address(0x100);

    /// @dev Half of the curve's order: of the two signatures (r, s) and (r, n − s) only the lower is taken.
    uint256 private constant HALF_ORDER = 0x7fffffff800000007fffffffffffffffde737d56d38bcf4279dce5617e3192a8;

    /// @dev Hash, signature and key of RFC 6979, A.2.5 (SHA-256 of "test"): a precompile that is there takes it.
    bytes private constant KNOWN_GOOD =
        hex"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f008360fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";

    /// @dev Authenticator data are the RP id's hash, a byte of flags and a counter, and then what extensions add.
    uint256 private constant AUTHENTICATOR_DATA_SIZE = 37;
    uint256 private constant FLAGS_AT = 32;
    /// @dev The user was there (bit 0), and was verified by PIN, finger or face (bit 2).
    uint8 private constant PRESENT_AND_VERIFIED = 0x05;

    /// @dev The 64 digits of base64url.
    bytes32 private constant DIGITS_LOW = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef";
    bytes32 private constant DIGITS_HIGH = "ghijklmnopqrstuvwxyz0123456789-_";

    /// @dev Whether the signature names the key that `signer` stands for. A key that signs assertions has another address than
    /// one that signs digests: other programs sign SHA-256 of what somebody else chooses with their keys (SSH agents do), and
    /// that can be made to look like an assertion. What is kept for authenticators never meets such a program.
    function names(bytes calldata signature, address signer) internal pure returns (bool) {
        if (signature.length < SIZE) return false;
        string memory tag = signature.length == SIZE ? "p256" : "webauthn";
        return address(uint160(uint256(keccak256(abi.encodePacked(tag, signature[64:SIZE]))))) == signer;
    }

    /// @dev Whether the key that the signature names signed the digest, itself or as a WebAuthn challenge. Reverts where the chain
    /// cannot tell.
    function verifies(bytes calldata signature, bytes32 digest) internal view returns (bool) {
        if (uint256(bytes32(signature[32:64])) > HALF_ORDER) return false;
        bytes32 message = digest;
        if (signature.length != SIZE) {
            bool wellFormed;
            (wellFormed, message) = _assertion(signature[SIZE:], digest);
            if (!wellFormed) return false;
        }
        if (_ask(bytes.concat(message, signature[:SIZE]))) return true;
        if (!_ask(KNOWN_GOOD)) revert IRegistry.NoP256();
        return false;
    }

    /// @dev What an authenticator signs when a browser or system asks it about `digest`. The client data are made here up to the
    /// challenge, so that whatever else they hold, they are an assertion (not a registration) over this very digest.
    function _assertion(bytes calldata assertion, bytes32 digest) private pure returns (bool, bytes32) {
        if (assertion.length < 2) return (false, 0);
        uint256 end = 2 + uint256(uint16(bytes2(assertion[:2])));
        if (end < 2 + AUTHENTICATOR_DATA_SIZE || end > assertion.length) return (false, 0);
        bytes calldata authenticatorData = assertion[2:end];
        if (uint8(authenticatorData[FLAGS_AT]) & PRESENT_AND_VERIFIED != PRESENT_AND_VERIFIED) return (false, 0);
        bytes memory clientData =
            bytes.concat('{"type":"webauthn.get","challenge":"', _base64url(digest), '"', assertion[end:]);
        return (true, sha256(bytes.concat(authenticatorData, sha256(clientData))));
    }

    /// @dev 43 digits, without padding.
    function _base64url(bytes32 value) private pure returns (bytes memory text) {
        text = new bytes(43);
        for (uint256 i = 0; i < 42; ++i) {
            text[i] = _digit((uint256(value) >> (250 - 6 * i)) & 63);
        }
        text[42] = _digit((uint256(value) & 15) << 2);
    }

    function _digit(uint256 number) private pure returns (bytes1) {
        return number < 32 ? DIGITS_LOW[number] : DIGITS_HIGH[number - 32];
    }

    function _ask(bytes memory input) private view returns (bool) {
        (bool success, bytes memory result) = PRECOMPILE.staticcall(input);
        return success && result.length == 32 && abi.decode(result, (uint256)) == 1;
    }
}
