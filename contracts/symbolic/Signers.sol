// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IRegistry} from "../src/IRegistry.sol";
import {Design} from "./Design.sol";
import {Symbolic} from "./Symbolic.sol";

/// @dev Answers with whatever its storage holds for what it is asked. Storage is any, so this is any pure function of the question.
abstract contract Oracle {
    mapping(bytes32 question => uint256) internal answers;
}

/// @dev The precompile that checks P-256 signatures: 1 or nothing. It has no functions: a digest may begin with any selector.
contract Precompile is Oracle {
    fallback(bytes calldata input) external returns (bytes memory) {
        return answers[keccak256(input)] == 1 ? abi.encode(uint256(1)) : bytes("");
    }
}

contract Wallet is Oracle {
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (uint256) {
        return answers[keccak256(abi.encode(digest, signature))];
    }
}

/// @dev What the design says of signatures: the digests, and who has signed one. `ecrecover` is any function of its four arguments.
abstract contract Signers is Symbolic {
    uint256 private constant HALF_OF_SECP256K1 = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;
    uint256 private constant HALF_OF_P256 = 0x7fffffff800000007fffffffffffffffde737d56d38bcf4279dce5617e3192a8;
    string private constant WRITE = "Write(uint64 shard,uint16 kind,bytes data)";

    address internal constant PRECOMPILE = address(0x100);
    Wallet internal wallet;

    function setUp() public virtual override {
        super.setUp();
        vm.etch(PRECOMPILE, address(new Precompile()).code);
        svm.enableSymbolicStorage(PRECOMPILE);
        wallet = new Wallet();
        svm.enableSymbolicStorage(address(wallet));
    }

    // --- The digests

    function digestOf(bytes32 message) internal view returns (bytes32) {
        // forgefmt: disable-next-item
        bytes32 domain = keccak256(bytes.concat(
            keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
            keccak256("Countersign Registry"), keccak256("1"), bytes32(block.chainid), bytes32(uint256(uint160(address(registry))))
        ));
        return keccak256(bytes.concat(hex"1901", domain, message));
    }

    function hashOf(IRegistry.Write[] memory writes) internal pure returns (bytes32) {
        bytes memory hashes;
        for (uint256 i = 0; i < writes.length; ++i) {
            // forgefmt: disable-next-item
            bytes32 hash = keccak256(bytes.concat(
                keccak256(bytes(WRITE)), bytes32(uint256(writes[i].shard)), bytes32(uint256(writes[i].kind)), keccak256(writes[i].data)
            ));
            hashes = bytes.concat(hashes, hash);
        }
        return keccak256(hashes);
    }

    function appendDigest(address actor, bytes32 realm, IRegistry.Write memory write, uint256 nonce, uint256 deadline)
        internal
        view
        returns (bytes32)
    {
        // forgefmt: disable-next-item
        return digestOf(keccak256(bytes.concat(
            keccak256("Append(address actor,bytes32 realm,uint64 shard,uint16 kind,bytes data,uint256 nonce,uint256 deadline)"),
            bytes32(uint256(uint160(actor))), realm, bytes32(uint256(write.shard)), bytes32(uint256(write.kind)), keccak256(write.data),
            bytes32(nonce), bytes32(deadline)
        )));
    }

    function appendManyDigest(
        address actor,
        bytes32 realm,
        IRegistry.Write[] memory writes,
        uint256 nonce,
        uint256 deadline
    ) internal view returns (bytes32) {
        // forgefmt: disable-next-item
        return digestOf(keccak256(bytes.concat(
            keccak256(bytes.concat("AppendMany(address actor,bytes32 realm,Write[] writes,uint256 nonce,uint256 deadline)", bytes(WRITE))),
            bytes32(uint256(uint160(actor))), realm, hashOf(writes), bytes32(nonce), bytes32(deadline)
        )));
    }

    function rootsDigest(bytes32 realm, uint256 nonce, IRegistry.Write[] memory writes)
        internal
        view
        returns (bytes32)
    {
        // forgefmt: disable-next-item
        return digestOf(keccak256(bytes.concat(
            keccak256(bytes.concat("AppendByRoots(bytes32 realm,uint256 nonce,Write[] writes)", bytes(WRITE))),
            realm, bytes32(nonce), hashOf(writes)
        )));
    }

    // --- Who has signed one

    function byKey(address signer, bytes32 digest, uint8 v, bytes32 r, bytes32 s) internal pure returns (bool) {
        address recovered = ecrecover(digest, v, r, s);
        return Design.both(recovered == signer, Design.both(signer != address(0), uint256(s) <= HALF_OF_SECP256K1));
    }

    function byP256(address signer, bytes32 message, bytes32 r, bytes32 s, bytes32 x, bytes32 y)
        internal
        view
        returns (bool)
    {
        bool named = signer == address(uint160(uint256(keccak256(bytes.concat("p256", x, y)))));
        (, bytes memory answer) = PRECOMPILE.staticcall(bytes.concat(message, r, s, x, y));
        return Design.both(named, Design.both(answer.length == 32, uint256(s) <= HALF_OF_P256));
    }

    function byWallet(address signer, bytes32 digest, bytes memory signature) internal view returns (bool) {
        uint256 answer = wallet.isValidSignature(digest, signature);
        return Design.both(signer == address(wallet), answer == uint256(0x1626ba7e) << 224);
    }
}
