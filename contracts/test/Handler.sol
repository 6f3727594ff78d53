// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Kinds, MemberSet, Roles, RootSet} from "../src/Entries.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Model} from "./Model.sol";
import {Packed} from "./Packed.sol";
import {Log} from "./Test.sol";

/// @dev Two realms, five actors and a dozen root keys that use the registry as they please, in blocks around 2^32. Every action says
/// beforehand whether the registry must take it, by the model of the events so far.
contract Handler is Model {
    enum Action {
        Append,
        Many,
        Signed,
        ByRoots,
        RoleSet,
        MemberSet,
        RootSet,
        Revocation,
        Attempt,
        Attack
    }

    uint256 internal constant ACTORS = 5;
    uint256 internal constant ACTOR_KEY = 0xac7000;
    uint256 internal constant REALMS = 2;

    bytes32[REALMS] public realms;
    mapping(bytes32 realm => uint256[]) private rootKeys;
    mapping(address => uint256) private keyOf;
    address[ACTORS] private actors;
    mapping(bytes32 realm => bytes32) private saltOf;
    mapping(bytes32 slot => bool) private mayChange;

    uint256 private time;
    uint256 private height;
    uint256 private draws;

    /// @dev Entries whose call was compared with the storage that it wrote.
    uint256 private checked;

    /// @dev Signed calls that were taken, which must be good no more.
    bytes[] private spent;
    uint256 public calls;
    mapping(Action => uint256) public taken;
    mapping(Action => uint256) public refused;

    // --- The beginning

    function setUp() public virtual override {
        super.setUp();
        time = START;
        height = 2 ** 32 - 60;
        tick();
        for (uint256 i = 0; i < REALMS; ++i) {
            bytes32 salt = keccak256(abi.encode("realm", i));
            uint256[] memory keys = newKeys(i, 3 - i);
            address[] memory set = addressesOf(keys);
            uint256 m = 2 - i;
            realms[i] = realmOf(m, set, salt);
            saltOf[realms[i]] = salt;
            rootKeys[realms[i]] = keys;
            sets[realms[i]] = RootSetInForce(0, m, set);
        }
        for (uint256 i = 0; i < ACTORS; ++i) {
            actors[i] = addressOf(ACTOR_KEY + i);
            keyOf[actors[i]] = ACTOR_KEY + i;
            // Roles enough that most actions have somebody to do them; in the first realm only.
            bytes memory data = roleSet(actorAt(i), (0x2d2d >> i) & 0xffff);
            succeed(Action.RoleSet, realms[0], rootsCall(realms[0], one(0, Kinds.ROLE_SET, data)), address(0), true);
        }
        calls = 0;
        taken[Action.RoleSet] = 0;
    }

    function actorAt(uint256 index) internal view returns (address) {
        return actors[index % ACTORS];
    }

    // --- Actions

    function append(uint256 seed) external turn(seed) {
        (bytes32 inRealm, address actor, IRegistry.Write memory write) = entitled();
        bytes memory call = abi.encodeCall(IRegistry.append, (inRealm, write.shard, write.kind, write.data));
        succeed(Action.Append, inRealm, call, actor, false);
    }

    function appendMany(uint256 seed) external turn(seed) {
        (bytes32 inRealm, address actor, IRegistry.Write[] memory writes) = severalEntitled();
        succeed(Action.Many, inRealm, abi.encodeCall(IRegistry.appendMany, (inRealm, writes)), actor, false);
    }

    function appendBySig(uint256 seed) external turn(seed) {
        (bytes32 inRealm, address actor, IRegistry.Write[] memory writes) = severalEntitled();
        bytes memory call = signedCall(inRealm, actor, writes, nonces[inRealm][actor], block.timestamp + draw(2));
        succeed(Action.Signed, inRealm, call, member("relay"), true);
        spent.push(call);
    }

    function appendByRoots(uint256 seed) external turn(seed) {
        bytes32 inRealm = anyRealm();
        IRegistry.Write[] memory writes = new IRegistry.Write[](1 + draw(3));
        for (uint256 i = 0; i < writes.length; ++i) {
            uint256 class = draw(5);
            writes[i] = anyWrite(class == 4 ? 9 : class);
        }
        bytes memory call = rootsCall(inRealm, writes);
        succeed(Action.ByRoots, inRealm, call, member("relay"), true);
        spent.push(call);
    }

    function setRoles(uint256 seed) external turn(seed) {
        bytes32 inRealm = anyRealm();
        // Half of the time all of the first eight roles but some, so that realms do not run out of writers.
        uint256 given = draw(2) == 0 ? draw(0x10000) : 0xff & ~(1 << draw(8));
        bytes memory data = roleSet(actorAt(draw(ACTORS)), given);
        bytes memory call = rootsCall(inRealm, one(0, Kinds.ROLE_SET, data));
        succeed(Action.RoleSet, inRealm, call, member("relay"), true);
        spent.push(call);
    }

    function setMember(uint256 seed) external turn(seed) {
        bytes32 inRealm = anyRealm();
        IRegistry.Write[] memory writes =
            one(shardOf(1, 0), Kinds.MEMBER_SET, memberSet(actorAt(draw(ACTORS)), draw(2) == 0));
        (address admin, bool found) = holderOf(inRealm, 1);
        if (found) {
            bytes memory call =
                abi.encodeCall(IRegistry.append, (inRealm, shardOf(1, 0), writes[0].kind, writes[0].data));
            succeed(Action.MemberSet, inRealm, call, admin, false);
        } else {
            succeed(Action.MemberSet, inRealm, rootsCall(inRealm, writes), member("relay"), true);
        }
    }

    function setRoots(uint256 seed) external turn(seed) {
        bytes32 inRealm = anyRealm();
        uint256[] memory keys = newKeys(2 + draw(1000), 1 + draw(4));
        uint256 m = 1 + draw(keys.length);
        bytes memory data = bytes.concat(hex"00", abi.encode(RootSet(m, addressesOf(keys))));
        bytes memory call = rootsCall(inRealm, one(0, Kinds.ROOT_SET, data));
        succeed(Action.RootSet, inRealm, call, member("relay"), true);
        rootKeys[inRealm] = keys;
        spent.push(call);
    }

    function revoke(uint256 seed) external turn(seed) {
        bytes32 inRealm = anyRealm();
        uint256 class = 2 + draw(2);
        IRegistry.Write memory write = anyWrite(class);
        (address actor, bool found) = holderOf(inRealm, class);
        if (found) {
            bytes memory call = abi.encodeCall(IRegistry.append, (inRealm, write.shard, write.kind, write.data));
            succeed(Action.Revocation, inRealm, call, actor, false);
        } else {
            IRegistry.Write[] memory writes = one(write.shard, write.kind, write.data);
            succeed(Action.Revocation, inRealm, rootsCall(inRealm, writes), member("relay"), true);
        }
    }

    /// @dev Anybody tries anything: the model says whether it works.
    function attempt(uint256 seed) external turn(seed) {
        bytes32 inRealm = anyRealm();
        address actor = draw(6) == 0 ? (draw(2) == 0 ? address(0) : member("stranger")) : actorAt(draw(ACTORS));
        uint256 class = draw(0x1a);
        IRegistry.Write memory write = anyWrite(class);
        if (draw(4) == 0) write.shard = shardOf(draw(18), draw(2) == 0 ? 0 : draw(2 ** 32));
        bool exists = class < 10 || (class >= 0x10 && class < 0x18);
        bool fits = class == 3 ? landedIn(3, write.shard) : write.shard == shardOf(shardClassOf(class), 0);
        bytes memory call = abi.encodeCall(IRegistry.append, (inRealm, write.shard, write.kind, write.data));
        if (exists && fits && mayWrite(inRealm, actor, false, class)) {
            succeed(Action.Attempt, inRealm, call, actor, false);
        } else {
            refuse(Action.Attempt, call, actor);
        }
    }

    /// @dev What must never work, whoever has which role.
    function attack(uint256 seed) external turn(seed) {
        bytes32 inRealm = anyRealm();
        address actor = actorAt(draw(ACTORS));
        IRegistry.Write[] memory writes = one(0, Kinds.ROLE_SET, roleSet(actor, 0xffff));
        RootSetInForce memory set = sets[inRealm];
        uint256 variant = draw(11);
        bytes memory call;
        if (variant == 0) {
            call = abi.encodeCall(IRegistry.appendMany, (inRealm, writes));
        } else if (variant == 1) {
            call =
                spent.length == 0 ? abi.encodeCall(IRegistry.appendMany, (inRealm, writes)) : spent[draw(spent.length)];
        } else if (variant == 2) {
            call = rootsCallBy(inRealm, writes, set, rootKeys[inRealm], set.threshold - 1);
        } else if (variant == 3) {
            call = rootsCallBy(inRealm, writes, set, newKeys(5000, set.roots.length), set.threshold);
        } else if (variant == 4) {
            // The other realm's roots, under their own proof.
            bytes32 other = inRealm == realms[0] ? realms[1] : realms[0];
            call = rootsCallBy(inRealm, writes, sets[other], rootKeys[other], sets[other].threshold);
        } else if (variant == 5) {
            // The right roots under a proof that says that fewer are enough, or of a later nonce.
            if (draw(2) == 0) ++set.nonce;
            else set.threshold = 0;
            call = rootsCallBy(inRealm, writes, set, rootKeys[inRealm], set.threshold);
        } else if (variant == 6) {
            uint256 count = draw(4);
            RootSet memory next = RootSet(draw(2) == 0 ? 0 : count + 1, addressesOf(newKeys(6000, count)));
            call = rootsCall(inRealm, one(0, Kinds.ROOT_SET, bytes.concat(hex"00", abi.encode(next))));
        } else if (variant == 7) {
            writes = one(shardOf(7, 0), Kinds.ENROL, hex"00");
            call = signedCall(inRealm, actor, writes, nonces[inRealm][actor] + 1 + draw(3), block.timestamp);
        } else if (variant == 8) {
            writes = one(shardOf(7, 0), Kinds.ENROL, hex"00");
            call = signedCall(inRealm, actor, writes, nonces[inRealm][actor], block.timestamp - 1 - draw(1000));
        } else {
            // What anybody may write, in the name of an actor who did not sign it.
            writes = new IRegistry.Write[](variant == 9 ? 1 : 2);
            for (uint256 i = 0; i < writes.length; ++i) {
                writes[i] = anyWrite(9);
            }
            address other = actorAt(draw(ACTORS));
            (keyOf[actor], keyOf[other]) = (keyOf[other], keyOf[actor]);
            call = signedCall(inRealm, actor, writes, nonces[inRealm][actor], block.timestamp + draw(2));
            (keyOf[actor], keyOf[other]) = (keyOf[other], keyOf[actor]);
            if (other == actor) call = abi.encodeCall(IRegistry.appendMany, (inRealm, new IRegistry.Write[](0)));
        }
        refuse(Action.Attack, call, actor);
    }

    // --- Turns

    /// @dev Time never goes back; sometimes it stays, since several entries may share a block. Block numbers leap over the next
    /// multiple of 2^32 now and then.
    modifier turn(uint256 seed) {
        draws = seed;
        ++calls;
        uint256 leap = draw(32);
        if (leap == 0) {
            height = (height / 2 ** 32 + 1) * 2 ** 32 - draw(3);
            time += draw(40 days);
        } else if (leap < 20) {
            height += draw(4);
            time += draw(4) * 7200;
        }
        tick();
        _;
    }

    function tick() private {
        vm.warp(time);
        vm.roll(height);
    }

    function draw(uint256 below) private returns (uint256) {
        draws = uint256(keccak256(abi.encode(draws)));
        return draws % below;
    }

    function anyRealm() private returns (bytes32) {
        return realms[draw(REALMS)];
    }

    /// @dev A kind of the class that the contract does not interpret.
    function anyWrite(uint256 class) private returns (IRegistry.Write memory write) {
        write.shard = askedShard(class);
        write.kind = uint16((class << 8) | (2 + draw(254)));
        write.data = new bytes(class == 3 ? 17 + 8 * (1 + draw(4)) : 1 + draw(70));
        write.data[draw(write.data.length)] = bytes1(uint8(draw(256)));
    }

    /// @dev One of the actors who may write the class in the realm, if there is one.
    function holderOf(bytes32 inRealm, uint256 class) private returns (address holder, bool found) {
        uint256 first = draw(ACTORS);
        for (uint256 i = 0; i < ACTORS && !found; ++i) {
            holder = actorAt(first + i);
            found = roles[inRealm][holder] & writersOf(class) != 0;
        }
    }

    function entitled() private returns (bytes32 inRealm, address actor, IRegistry.Write memory write) {
        inRealm = anyRealm();
        uint256 class = 1 + draw(17);
        if (class > 9) class += 6;
        bool found;
        (actor, found) = holderOf(inRealm, class);
        write = anyWrite(found ? class : 9);
    }

    function severalEntitled() private returns (bytes32 inRealm, address actor, IRegistry.Write[] memory writes) {
        writes = new IRegistry.Write[](1 + draw(3));
        (inRealm, actor, writes[0]) = entitled();
        for (uint256 i = 1; i < writes.length; ++i) {
            writes[i] = draw(2) == 0 ? anyWrite(9) : anyWrite(writes[0].kind >> 8);
        }
    }

    // --- Signing

    function newKeys(uint256 group, uint256 count) internal pure returns (uint256[] memory keys) {
        keys = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            keys[i] = (group + 1) * 1_000_000 + i;
        }
    }

    function addressesOf(uint256[] memory keys) internal pure returns (address[] memory set) {
        set = new address[](keys.length);
        for (uint256 i = 0; i < keys.length; ++i) {
            set[i] = addressOf(keys[i]);
        }
    }

    /// @dev Every third key is one of P-256, every other third a passkey.
    function addressOf(uint256 key) internal pure returns (address) {
        if (key % 3 == 0) return vm.addr(key);
        return key % 3 == 1 ? addressP256(key) : addressPasskey(key);
    }

    function signedBy(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        if (key % 3 == 0) return signed(key, digest);
        return key % 3 == 1 ? signedP256(key, digest) : signedByPasskey(key, digest);
    }

    function memberSet(address actor, bool isMember) internal pure returns (bytes memory) {
        return
            bytes.concat(
                hex"00", Packed.memberSet(MemberSet(actor, isMember, bytes16(uint128(5)), bytes32(uint256(7))))
            );
    }

    function signedCall(
        bytes32 inRealm,
        address actor,
        IRegistry.Write[] memory writes,
        uint256 nonce,
        uint256 deadline
    ) private view returns (bytes memory) {
        bytes memory signature = signedBy(keyOf[actor], typed(appendMessage(actor, inRealm, writes, nonce, deadline)));
        if (writes.length != 1) {
            return abi.encodeCall(IRegistry.appendManyBySig, (actor, inRealm, writes, nonce, deadline, signature));
        }
        IRegistry.Write memory write = writes[0];
        return abi.encodeCall(
            IRegistry.appendBySig, (actor, inRealm, write.shard, write.kind, write.data, nonce, deadline, signature)
        );
    }

    function rootsCall(bytes32 inRealm, IRegistry.Write[] memory writes) private returns (bytes memory) {
        RootSetInForce memory set = sets[inRealm];
        uint256 count = set.threshold + draw(set.roots.length - set.threshold + 1);
        return rootsCallBy(inRealm, writes, set, rootKeys[inRealm], count);
    }

    /// @dev Signed by `count` of the keys, from any one on.
    function rootsCallBy(
        bytes32 inRealm,
        IRegistry.Write[] memory writes,
        RootSetInForce memory set,
        uint256[] memory keys,
        uint256 count
    ) private returns (bytes memory) {
        bytes32 digest = typed(rootsMessage(inRealm, set.nonce, writes));
        RootSignature[] memory signatures = new RootSignature[](count);
        uint256 first = draw(keys.length);
        for (uint256 i = 0; i < count; ++i) {
            uint256 index = (first + i) % keys.length;
            signatures[i] = RootSignature(uint8(index), signedBy(keys[index], digest));
        }
        IRegistry.RootProof memory proof = IRegistry.RootProof(set.nonce, set.threshold, set.roots, saltOf[inRealm]);
        return abi.encodeCall(IRegistry.appendByRoots, (inRealm, proof, writes, pack(signatures)));
    }

    // --- One call

    function succeed(Action action, bytes32 inRealm, bytes memory call, address sender, bool isSigned) private {
        vm.recordLogs();
        vm.record();
        vm.prank(sender);
        (bool success, bytes memory reason) = address(registry).call(call);
        if (!success) bubble(reason);
        (, bytes32[] memory changed) = vm.accesses(address(registry));
        Log[] memory logs = vm.getRecordedLogs();
        vm.assertTrue(logs.length > 0, "a call that succeeds writes");
        uint256 before = log.length;
        for (uint256 i = 0; i < logs.length; ++i) {
            take(logs[i]);
        }
        if (isSigned) advance(inRealm, bytes4(call), logs[0]);
        expectOnly(inRealm, changed, before, isSigned);
        ++taken[action];
    }

    /// @dev What a signed call moves besides what its entries say.
    function advance(bytes32 inRealm, bytes4 selector, Log memory first) private {
        if (selector == IRegistry.appendByRoots.selector) ++sets[inRealm].nonce;
        else ++nonces[inRealm][address(uint160(uint256(first.topics[3])))];
    }

    /// @dev Of the contract's storage, only the slots of the entries' shards, of the actors that they are about, and of the
    /// signer's nonce were written.
    function expectOnly(bytes32 inRealm, bytes32[] memory changed, uint256 from, bool isSigned) private {
        bytes32[] memory allowed = new bytes32[](2 * (log.length - from) + 1);
        for (uint256 i = from; i < log.length; ++i) {
            Placed storage entry = log[i];
            vm.assertEq(entry.realm, inRealm, "the realm of the call");
            allowed[2 * (i - from)] = headSlot(inRealm, entry.shard);
            uint16 kind = uint16(entry.meta >> 96);
            address subject;
            if (kind == Kinds.ROLE_SET) (subject,) = roleSetIn(entry.data);
            if (kind == Kinds.MEMBER_SET) (subject,) = memberSetIn(entry.data);
            if (subject != address(0)) allowed[2 * (i - from) + 1] = actorSlot(inRealm, subject);
        }
        address signer = log[from].actor;
        if (isSigned) {
            allowed[allowed.length - 1] = signer == address(0) ? rootSetSlot(inRealm) : actorSlot(inRealm, signer);
        }
        for (uint256 i = 0; i < allowed.length; ++i) {
            mayChange[allowed[i]] = true;
        }
        for (uint256 i = 0; i < changed.length; ++i) {
            vm.assertTrue(mayChange[changed[i]], "a call writes the slots of its own shards and actors only");
        }
        for (uint256 i = 0; i < allowed.length; ++i) {
            mayChange[allowed[i]] = false;
        }
        checked += log.length - from;
    }

    function refuse(Action action, bytes memory call, address sender) private {
        vm.prank(sender);
        (bool success,) = address(registry).call(call);
        vm.assertTrue(!success, "refused");
        ++refused[action];
    }

    function bubble(bytes memory reason) private pure {
        vm.assertEq(reason, bytes("success"), "the registry refused what it must take");
    }

    // --- What the invariants ask

    function expectHeads() external view {
        for (uint256 i = 0; i < shards.length; ++i) {
            ShardKey storage key = shards[i];
            vm.assertEq(
                registry.slotOf(key.realm, key.shard),
                folded[key.realm][key.shard],
                "the slot is the fold of the events"
            );
        }
    }

    function expectRoles() external view {
        for (uint256 i = 0; i < REALMS; ++i) {
            for (uint256 j = 0; j < ACTORS; ++j) {
                uint256 record = registry.actorOf(realms[i], actorAt(j));
                vm.assertEq(record & type(uint64).max, roles[realms[i]][actorAt(j)], "the roles that the log gave");
            }
            vm.assertEq(registry.actorOf(realms[i], address(0)) & type(uint64).max, 0, "the zero address has no role");
            vm.assertEq(registry.actorOf(realms[i], member("relay")), 0, "a relay has no record");
        }
    }

    function expectNonces() external view {
        for (uint256 i = 0; i < REALMS; ++i) {
            for (uint256 j = 0; j < ACTORS; ++j) {
                uint256 nonce = registry.actorOf(realms[i], actorAt(j)) >> 64;
                vm.assertEq(nonce, nonces[realms[i]][actorAt(j)], "one for each signed call that was taken");
            }
        }
    }

    function expectRootSets() external view {
        for (uint256 i = 0; i < REALMS; ++i) {
            RootSetInForce storage set = sets[realms[i]];
            vm.assertTrue(set.threshold > 0 && set.threshold <= set.roots.length, "1 <= threshold <= roots");
            bytes32 expected = keccak256(abi.encode(set.nonce, set.threshold, set.roots));
            vm.assertEq(
                registry.rootSetOf(realms[i]), set.nonce == 0 ? bytes32(0) : expected, "the set that the log gave"
            );
        }
    }

    /// @dev Every entry of the shards of denials and revocations, from the first on, is in the slot as it stands now.
    function expectRevocations() external view returns (uint256 found) {
        for (uint256 i = 0; i < shards.length; ++i) {
            ShardKey storage key = shards[i];
            if (key.shard >> 32 != 2 && key.shard >> 32 != 3) continue;
            uint256 slot = genesis(key.realm, key.shard);
            uint256[] storage indices = entriesOf[key.realm][key.shard];
            for (uint256 j = 0; j < indices.length; ++j) {
                slot = extended(slot, log[indices[j]]);
                ++found;
            }
            vm.assertEq(registry.slotOf(key.realm, key.shard), slot, "all revocations ever made are in the slot");
        }
    }

    function extended(uint256 slot, Placed storage entry) private view returns (uint256) {
        bytes memory words = bytes.concat(bytes32(slot), entry.realm, bytes32(uint256(entry.shard)));
        bytes memory more =
            bytes.concat(bytes32(uint256(uint160(entry.actor))), bytes32(entry.meta), keccak256(entry.data));
        return uint256(bytes32(bytes28(keccak256(bytes.concat(words, more))))) | uint32(entry.number);
    }

    function expectBlocks() external view returns (bool wrapped) {
        for (uint256 i = 0; i < shards.length; ++i) {
            ShardKey storage key = shards[i];
            uint256[] storage indices = entriesOf[key.realm][key.shard];
            uint256 before = 0;
            for (uint256 j = 0; j < indices.length; ++j) {
                Placed storage entry = log[indices[j]];
                vm.assertEq((entry.meta >> 64) & type(uint32).max, before % 2 ** 32, "hops to the entry before");
                wrapped = wrapped || before / 2 ** 32 != entry.number / 2 ** 32;
                before = entry.number;
            }
            vm.assertEq(
                registry.slotOf(key.realm, key.shard) % 2 ** 32, before % 2 ** 32, "the slot tells its last block"
            );
        }
    }

    /// @dev Beside what each call may write (`expectOnly`): a realm that nobody wrote to, and the shards and actors of one realm that
    /// only the other has, are empty.
    function expectApart() external view {
        bytes32 untouched = realmOf(1, addressesOf(newKeys(0, 1)), keccak256("untouched"));
        for (uint256 i = 0; i < shards.length; ++i) {
            vm.assertEq(registry.slotOf(untouched, shards[i].shard), 0, "no shard of a realm without entries");
            for (uint256 j = 0; j < REALMS; ++j) {
                uint256 expected = folded[realms[j]][shards[i].shard];
                vm.assertEq(registry.slotOf(realms[j], shards[i].shard), expected, "a shard is its own realm's");
            }
        }
        for (uint256 i = 0; i < ACTORS; ++i) {
            vm.assertEq(registry.actorOf(untouched, actorAt(i)), 0, "no actor");
        }
        vm.assertEq(registry.rootSetOf(untouched), 0, "no root set");
        vm.assertTrue(checked == log.length, "every entry's call was compared with the storage it wrote");
    }

    // --- For readers in other languages

    struct Trace {
        uint256 chain;
        address target;
        Placed[] log;
        ShardKey[] shards;
        uint256[] slots;
    }

    /// @dev Everything that was logged, and the slots as they stand.
    function trace() external view returns (bytes memory) {
        uint256[] memory slots = new uint256[](shards.length);
        for (uint256 i = 0; i < slots.length; ++i) {
            slots[i] = uint256(vm.load(address(registry), headSlot(shards[i].realm, shards[i].shard)));
        }
        return abi.encode(Trace(block.chainid, address(registry), log, shards, slots));
    }
}
