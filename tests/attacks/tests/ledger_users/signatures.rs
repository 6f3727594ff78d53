//! Signatures that are good for something else: another time, realm, contract, chain, actor or set of bytes. Each is refused with
//! the contract's exact error when asked, and really sent leaves nothing behind.

use alloy_primitives::{Address, B256, Bytes, U256, hex, keccak256};
use countersign_chain::{
    contract::{IRegistry, Refusal},
    keys::ActorKey,
    send::RootSignature,
};
use countersign_registry::{
    entries::{Entry, Kind, Roles, payload},
    sign::{self, Write},
};
use serde_json::json;

use crate::{
    ground::{Call, Ground, NEVER, Realm, THRESHOLD, asked_shard, key, sign_with},
    samples::{role, settings, write},
};

/// The order of secp256k1.
const ORDER: U256 = U256::from_be_bytes(hex!("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"));

fn wrong_signature(signer: Address) -> Refusal {
    Refusal::WrongSignature(IRegistry::WrongSignature { signer })
}

fn not_allowed(realm: B256, actor: Address, writes: &[Write]) -> Refusal {
    Refusal::NotAllowed(IRegistry::NotAllowed { realm, actor, byRoots: false, kind: writes[0].kind })
}

fn wrong_nonce(given: u64, expected: u64) -> Refusal {
    let (given, expected) = (U256::from(given), U256::from(expected));
    Refusal::WrongNonce(IRegistry::WrongNonce { given, expected })
}

/// The same signature with the other s: whoever sees one can make it.
fn other_s(signature: &Bytes) -> Bytes {
    let s = ORDER - U256::from_be_slice(&signature[32..64]);
    let v = if signature[64] == 27 { 28 } else { 27 };
    [&signature[..32], &s.to_be_bytes::<32>(), &[v]].concat().into()
}

/// What else can be done to 65 good bytes.
fn misshapen(good: &Bytes) -> Vec<(&'static str, Bytes)> {
    let last = |v: u8| [&good[..64], &[v]].concat().into();
    let compact = {
        let mut bytes = good[..64].to_vec();
        bytes[32] |= (good[64] - 27) << 7;
        bytes.into()
    };
    let mut flipped = good.to_vec();
    flipped[0] ^= 1;
    vec![
        ("the other s", other_s(good)),
        ("v 0 or 1", last(good[64] - 27)),
        ("the other v", last(55 - good[64])),
        ("v 255", last(255)),
        ("64 bytes, as EIP-2098 has it", compact),
        ("a byte too many", [&good[..], &[0]].concat().into()),
        ("a flipped bit", flipped.into()),
        ("nothing", Bytes::new()),
        ("zeros", vec![0; 65].into()),
        ("r zero", [&[0; 32], &good[32..]].concat().into()),
        ("s zero", [&good[..32], &[0; 32], &good[64..]].concat().into()),
    ]
}

/// Every case must be refused with its very error, and all of them, really sent in one block, must leave no trace.
async fn refused(ground: &Ground, cases: Vec<(String, Call, Refusal)>, contracts: &[Address]) {
    let mut wrong = Vec::new();
    for (name, call, refusal) in &cases {
        let answer = ground.ask(call).await;
        if answer != Err(Some(refusal.clone())) {
            wrong.push(format!("{name}: expected {refusal:?}, the contract says {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let calls: Vec<Call> = cases.into_iter().map(|(_, call, _)| call).collect();
    ground.refused_without_a_trace(&calls, contracts).await;
}

/// Two writes of an actor with every role, and what can be altered in them.
fn deny(number: u8) -> Vec<Write> {
    [number, number + 1].map(|number| write(&Entry::Deny(countersign_certificate::Id([number; 16])), 0)).to_vec()
}

/// The writes are looked at before the signatures; those that the contract would not take from anybody say so.
fn altered(writes: &[Write], wrong_signature: &Refusal) -> Vec<(&'static str, Vec<Write>, Refusal)> {
    let with = |change: &dyn Fn(&mut Vec<Write>)| {
        let mut writes = writes.to_vec();
        change(&mut writes);
        writes
    };
    let (kind, expected) = (writes[0].kind, writes[0].shard);
    let wrong_shard = Refusal::WrongShard(IRegistry::WrongShard { kind, shard: expected + 1, expected });
    let no_writes = Refusal::NoWrites(IRegistry::NoWrites {});
    let cases = vec![
        ("a byte of the data", with(&|writes| writes[0].data = [&writes[0].data[..16], &[0xff]].concat().into())),
        ("a byte after the data", with(&|writes| writes[1].data = [&writes[1].data[..], &[0]].concat().into())),
        ("the kind", with(&|writes| writes[0].kind += 1)),
        ("one write less", with(&|writes| drop(writes.pop()))),
        ("one write more", with(&|writes| writes.push(writes[0].clone()))),
        ("another order", with(&|writes| writes.reverse())),
    ];
    let mut cases: Vec<_> = cases.into_iter().map(|(name, writes)| (name, writes, wrong_signature.clone())).collect();
    cases.push(("the shard", with(&|writes| writes[0].shard += 1), wrong_shard));
    cases.push(("none", Vec::new(), no_writes));
    cases
}

#[tokio::test]
async fn what_an_actor_signed_is_good_once_and_for_its_realm_contract_chain_actor_and_bytes_alone() {
    let ground = Ground::new().await;
    let (own, other) = (&ground.own, &ground.other);
    let (actor, second) = (key(0x41), key(0x42));
    let (me, you) = (actor.address(), second.address());
    let chain = ground.world.pin.chain_id;
    for realm in [own, other] {
        let roles = [role(me, 0xffff), role(you, 0xffff)].map(|entry| write(&entry, 0));
        ground.govern(realm, &roles).await;
    }
    let another = ground.deploy_another().await;
    let writes = deny(1);
    let first = ground.by_signature(&actor, own.id, &writes, 0);
    ground.accepted(std::slice::from_ref(&first)).await;

    let mut cases = vec![
        ("sent again".to_owned(), first.clone(), wrong_nonce(0, 1)),
        ("the nonce after the next".to_owned(), ground.by_signature(&actor, own.id, &writes, 2), wrong_nonce(2, 1)),
        // Each realm counts for itself.
        (
            "sent to the other realm".to_owned(),
            relayed_as(&ground, &actor, own.id, other.id, &writes),
            wrong_signature(me),
        ),
        // Where nobody has a role yet.
        ("sent to the other contract".to_owned(), Call { to: another, ..first }, not_allowed(own.id, me, &writes)),
    ];
    let good = sign_with(&actor, &ground.append_digest(me, own.id, &writes, 1, NEVER));
    let call = |signature: Bytes| ground.relayed(me, own.id, &writes, 1, NEVER, signature);
    let digest = |chain: u64, contract: Address, actor: Address, realm: B256, nonce: u64, deadline: U256| {
        sign::append_digest(&sign::domain(chain, contract), actor, realm, &writes, U256::from(nonce), deadline)
    };
    let here = ground.contract;
    for (name, digest) in [
        ("for the other realm", digest(chain, here, me, other.id, 1, NEVER)),
        ("for the other contract", digest(chain, another, me, own.id, 1, NEVER)),
        ("for the chain with the next id", digest(chain + 1, here, me, own.id, 1, NEVER)),
        ("for mainnet", digest(1, here, me, own.id, 1, NEVER)),
        ("in another's name", digest(chain, here, you, own.id, 1, NEVER)),
        ("over the nonce before", digest(chain, here, me, own.id, 0, NEVER)),
        ("over another deadline", digest(chain, here, me, own.id, 1, NEVER - U256::ONE)),
        ("as roots sign", ground.roots_digest(own.id, 1, &writes)),
        ("over the digest's hash", keccak256(digest(chain, here, me, own.id, 1, NEVER))),
    ] {
        cases.push((format!("signed {name}"), call(sign_with(&actor, &digest)), wrong_signature(me)));
    }
    for (name, altered, refusal) in altered(&writes, &wrong_signature(me)) {
        let call = ground.relayed(me, own.id, &altered, 1, NEVER, good.clone());
        cases.push((format!("altered after signing: {name}"), call, refusal));
    }
    for (name, signature) in misshapen(&good) {
        cases.push((format!("misshapen: {name}"), call(signature), wrong_signature(me)));
    }
    let digest_of_mine = ground.append_digest(me, own.id, &writes, 1, NEVER);
    cases.push(("by another key".into(), call(sign_with(&second, &digest_of_mine)), wrong_signature(me)));
    let theirs = ground.relayed(you, own.id, &writes, 0, NEVER, good.clone());
    cases.push(("in the name of another actor".into(), theirs, wrong_signature(you)));
    // The zero address stands for the roots, and for what `ecrecover` says to nonsense.
    for signature in [vec![0; 65], vec![], good.to_vec()] {
        let nobody = ground.relayed(Address::ZERO, own.id, &writes, 0, NEVER, signature.clone().into());
        let refusal = not_allowed(own.id, Address::ZERO, &writes);
        cases.push(("in the name of the zero address".into(), nobody, refusal));
        let inbox = vec![Write { shard: 7 << 32, kind: 0x0900, data: vec![0].into() }];
        let nobody = ground.relayed(Address::ZERO, own.id, &inbox, 0, NEVER, signature.into());
        cases.push(("in its name, to the inbox".into(), nobody, wrong_signature(Address::ZERO)));
    }
    refused(&ground, cases, &[ground.contract, another]).await;

    deadlines(&ground, &actor, &writes).await;
    // Nothing of all that has used up the nonce.
    ground.accepted(&[ground.by_signature(&actor, own.id, &writes, 2)]).await;
}

/// Signed for one realm, sent to another, with the nonce that is next there.
fn relayed_as(ground: &Ground, actor: &ActorKey, signed: B256, sent: B256, writes: &[Write]) -> Call {
    let digest = ground.append_digest(actor.address(), signed, writes, 0, NEVER);
    ground.relayed(actor.address(), sent, writes, 0, NEVER, sign_with(actor, &digest))
}

/// A deadline is the last second in which a block may take it.
async fn deadlines(ground: &Ground, actor: &ActorKey, writes: &[Write]) {
    let (me, realm) = (actor.address(), ground.own.id);
    let signed = |deadline: u64, nonce: u64| {
        let deadline = U256::from(deadline);
        let digest = ground.append_digest(me, realm, writes, nonce, deadline);
        ground.relayed(me, realm, writes, nonce, deadline, sign_with(actor, &digest))
    };
    let time = ground.now().await + 100;
    match ground.ask(&signed(time - 101, 1)).await {
        Err(Some(Refusal::DeadlinePassed(error))) => {
            assert_eq!(error.deadline, U256::from(time - 101));
            assert!(error.time > error.deadline, "{error:?}");
        }
        answer => panic!("a deadline that has passed: {answer:?}"),
    }
    let before = ground.stored(&[ground.contract]).await;
    ground.call("evm_setNextBlockTimestamp", json!([time])).await;
    let receipts = ground.mine(&[signed(time - 1, 1), signed(time, 1), signed(time, 1)]).await;
    assert_eq!(ground.now().await, time);
    let accepted: Vec<bool> = receipts.iter().map(|receipt| receipt.accepted).collect();
    assert_eq!(accepted, [false, true, false], "a second too late; in time; the same again");
    assert_ne!(ground.stored(&[ground.contract]).await, before);
}

/// Who signs under which index, and what comes of it.
type Signers<'a> = (&'a str, &'a [(u8, &'a ActorKey)], Refusal);

fn signed_by(keys: &[(u8, &ActorKey)], digest: &B256) -> Vec<RootSignature> {
    let each = |(index, key): &(u8, &ActorKey)| RootSignature { index: *index, signature: sign_with(key, digest) };
    keys.iter().map(each).collect()
}

#[tokio::test]
async fn what_roots_signed_is_good_once_and_for_their_realm_contract_chain_and_bytes_alone() {
    let ground = Ground::new().await;
    let (own, other, here) = (&ground.own, &ground.other, ground.contract);
    let chain = ground.world.pin.chain_id;
    let another = ground.deploy_another().await;
    let roots: Vec<&ActorKey> = own.roots.iter().collect();
    let writes: Vec<Write> = [60, 90].map(|pickup| write(&Entry::Settings(settings(&[(8, pickup)])), 0)).to_vec();
    // Before the first write the slot is empty, and the nonce can only be 0.
    let early = ground.by_roots(own, &roots[..THRESHOLD], &writes, 1);
    refused(&ground, vec![("a nonce before the first".into(), early, wrong_nonce(1, 0))], &[here]).await;
    let first = ground.decided(own, &writes);
    ground.accepted(std::slice::from_ref(&first)).await;
    ground.govern(other, &writes).await;

    let hash = |nonce: u64, threshold: usize, roots: &[Address]| {
        sign::root_set_hash(U256::from(nonce), U256::from(threshold), roots)
    };
    let mine = own.addresses();
    let wrong_set = |given: B256| {
        let expected = hash(1, THRESHOLD, &mine);
        Refusal::WrongRootSet(IRegistry::WrongRootSet { given, expected })
    };
    let mut cases = vec![
        ("sent again".to_owned(), first.clone(), wrong_set(hash(0, THRESHOLD, &mine))),
        (
            "the nonce after the next".to_owned(),
            ground.by_roots(own, &roots[..THRESHOLD], &writes, 2),
            wrong_set(hash(2, THRESHOLD, &mine)),
        ),
        (
            "sent to the other contract".to_owned(),
            Call { to: another, ..first },
            Refusal::WrongRootSet(IRegistry::WrongRootSet {
                given: sign::realm_id(chain, another, 3, &mine, own.salt),
                expected: own.id,
            }),
        ),
    ];
    let digest = ground.roots_digest(own.id, 1, &writes);
    let rooted = |signatures: &[RootSignature]| ground.rooted(own.id, own.proof(1), &writes, signatures);
    let three = [(0, roots[0]), (1, roots[1]), (2, roots[2])];
    let good = signed_by(&three, &digest);

    // Who signs.
    let stranger = key(0x41);
    let below = |signatures: usize| {
        let (signatures, threshold) = (U256::from(signatures), U256::from(THRESHOLD));
        Refusal::BelowThreshold(IRegistry::BelowThreshold { signatures, threshold })
    };
    for count in 0..THRESHOLD {
        cases.push((format!("{count} signatures"), rooted(&good[..count]), below(count)));
    }
    let duplicate = |index: u8| Refusal::DuplicateRoot(IRegistry::DuplicateRoot { index: U256::from(index) });
    let beyond =
        |index: u8| Refusal::NoSuchRoot(IRegistry::NoSuchRoot { index: U256::from(index), roots: U256::from(4) });
    let signers: [Signers<'_>; 9] = [
        ("one root thrice", &[(0, roots[0]), (0, roots[0]), (0, roots[0])], duplicate(0)),
        ("one root twice of three", &[(2, roots[2]), (1, roots[1]), (2, roots[2])], duplicate(2)),
        ("one root under two indices", &[(0, roots[0]), (1, roots[1]), (2, roots[1])], wrong_signature(mine[2])),
        ("two roots exchanged", &[(1, roots[0]), (0, roots[1]), (2, roots[2])], wrong_signature(mine[1])),
        ("an index beyond the roots", &[(0, roots[0]), (1, roots[1]), (4, roots[2])], beyond(4)),
        ("index 255", &[(255, roots[0]), (1, roots[1]), (2, roots[2])], beyond(255)),
        ("a stranger among them", &[(0, roots[0]), (1, &stranger), (2, roots[2])], wrong_signature(mine[1])),
        (
            "a stranger beyond the threshold",
            &[(0, roots[0]), (1, roots[1]), (2, roots[2]), (3, &stranger)],
            wrong_signature(mine[3]),
        ),
        (
            "the other realm's roots",
            &[(0, &other.roots[0]), (1, &other.roots[1]), (2, &other.roots[2])],
            wrong_signature(mine[0]),
        ),
    ];
    for (name, keys, refusal) in signers {
        cases.push((format!("signed by {name}"), rooted(&signed_by(keys, &digest)), refusal));
    }
    for (name, signature) in misshapen(&good[1].signature) {
        let signatures = [good[0].clone(), RootSignature { index: 1, signature }, good[2].clone()];
        cases.push((format!("misshapen: {name}"), rooted(&signatures), wrong_signature(mine[1])));
    }

    // What they signed.
    let elsewhere = |chain: u64, contract: Address, realm: B256, nonce: u64| {
        sign::append_by_roots_digest(&sign::domain(chain, contract), realm, U256::from(nonce), &writes)
    };
    for (name, digest) in [
        ("for the other realm", elsewhere(chain, here, other.id, 1)),
        ("for the other contract", elsewhere(chain, another, own.id, 1)),
        ("for the chain with the next id", elsewhere(chain + 1, here, own.id, 1)),
        ("over the nonce before", elsewhere(chain, here, own.id, 0)),
        ("over the nonce after", elsewhere(chain, here, own.id, 2)),
        ("as an actor signs", ground.append_digest(mine[0], own.id, &writes, 1, NEVER)),
    ] {
        cases.push((format!("signed {name}"), rooted(&signed_by(&three, &digest)), wrong_signature(mine[0])));
    }
    for (name, altered, refusal) in altered(&writes, &wrong_signature(mine[0])) {
        let call = ground.rooted(own.id, own.proof(1), &altered, &good);
        cases.push((format!("altered after signing: {name}"), call, refusal));
    }
    // A root signs as itself nothing of the roots', and the roots nothing as an actor.
    let as_actor = ground.relayed(mine[0], own.id, &writes, 0, NEVER, good[0].signature.clone());
    cases.push(("a root's share as its own write".into(), as_actor, not_allowed(own.id, mine[0], &writes)));

    // Which set they name.
    let sets: [(&str, usize, Vec<Address>); 6] = [
        ("a lower threshold", 1, mine.clone()),
        ("a threshold of none", 0, mine.clone()),
        ("fewer roots", THRESHOLD, mine[..3].to_vec()),
        ("a root more", THRESHOLD, [&mine[..], &[stranger.address()]].concat()),
        ("another order", THRESHOLD, mine.iter().rev().copied().collect()),
        ("the other realm's", THRESHOLD, other.addresses()),
    ];
    for (name, threshold, named) in sets {
        let mut proof = own.proof(1);
        proof.threshold = U256::from(threshold);
        proof.roots.clone_from(&named);
        let call = ground.rooted(own.id, proof, &writes, &good);
        cases.push((format!("root set: {name}"), call, wrong_set(hash(1, threshold, &named))));
    }
    refused(&ground, cases, &[here, another]).await;
    replaced(&ground, own, &writes).await;
}

/// A root that was replaced signs nothing any more, under the old set or the new one.
async fn replaced(ground: &Ground, own: &Realm, writes: &[Write]) {
    let fresh = key(0x43);
    let mut next = own.addresses();
    next[0] = fresh.address();
    let set = payload::RootSet { threshold: U256::from(THRESHOLD), roots: next.clone() };
    ground.govern(own, &[write(&Entry::RootSet(set), 0)]).await;
    let nonce = own.nonce.get();
    let digest = ground.roots_digest(own.id, nonce, writes);
    let roots: Vec<&ActorKey> = own.roots.iter().collect();
    let old = signed_by(&[(0, roots[0]), (1, roots[1]), (2, roots[2])], &digest);
    let mut proof = own.proof(nonce);
    proof.roots.clone_from(&next);
    let hash = |roots: &[Address]| sign::root_set_hash(U256::from(nonce), U256::from(THRESHOLD), roots);
    let (given, expected) = (hash(&own.addresses()), hash(&next));
    let cases = vec![
        (
            "a replaced root under the old set".to_owned(),
            ground.rooted(own.id, own.proof(nonce), writes, &old),
            Refusal::WrongRootSet(IRegistry::WrongRootSet { given, expected }),
        ),
        (
            "a replaced root in its successor's place".to_owned(),
            ground.rooted(own.id, proof.clone(), writes, &old),
            wrong_signature(fresh.address()),
        ),
    ];
    refused(ground, cases, &[ground.contract]).await;
    let new = signed_by(&[(2, roots[2]), (0, &fresh), (1, roots[1])], &digest);
    ground.accepted(&[ground.rooted(own.id, proof, writes, &new)]).await;
}

#[tokio::test]
async fn nobody_makes_itself_an_actor_of_a_realm_whose_first_roots_are_not_well_formed() {
    let ground = Ground::new().await;
    let (me, chain) = (key(0x41), ground.world.pin.chain_id);
    let grab = |roots: &[Address], threshold: usize, signatures: usize| {
        let salt = B256::repeat_byte(3);
        let id = sign::realm_id(chain, ground.contract, threshold.try_into().unwrap(), roots, salt);
        let writes = [write(&role(me.address(), Roles::ADMIN), 0)];
        let digest = ground.roots_digest(id, 0, &writes);
        let signatures = (0..).zip(0..signatures).map(|(index, _)| (index, &me)).collect::<Vec<_>>();
        let mut proof = ground.own.proof(0);
        (proof.threshold, proof.roots, proof.salt) = (U256::from(threshold), roots.to_vec(), salt);
        ground.rooted(id, proof, &writes, &signed_by(&signatures, &digest))
    };
    let (mine, threshold) = (me.address(), |threshold: usize, roots: usize| {
        let (threshold, roots) = (U256::from(threshold), U256::from(roots));
        Refusal::WrongThreshold(IRegistry::WrongThreshold { threshold, roots })
    });
    let wrong_root = |root: Address| Refusal::WrongRoot(IRegistry::WrongRoot { root });
    let many: Vec<Address> = (0..65).map(|number| Address::repeat_byte(number + 1)).collect();
    let cases = vec![
        ("no threshold", grab(&[mine], 0, 0), threshold(0, 1)),
        ("no root", grab(&[], 0, 0), threshold(0, 0)),
        ("a threshold above the roots", grab(&[mine], 2, 1), threshold(2, 1)),
        ("65 roots", grab(&many, 1, 1), threshold(1, 65)),
        ("the zero address", grab(&[mine, Address::ZERO], 1, 1), wrong_root(Address::ZERO)),
        ("a root twice", grab(&[mine, mine], 2, 2), wrong_root(mine)),
    ];
    let cases = cases.into_iter().map(|(name, call, refusal)| (name.to_owned(), call, refusal)).collect();
    refused(&ground, cases, &[ground.contract]).await;
    let entry = Write { shard: asked_shard(Kind::USER_ADD, 0), kind: Kind::USER_ADD.0, data: sign::clear(&[]) };
    let (realm, kind) = (ground.own.id, Kind::USER_ADD.0);
    let nobody = Refusal::NotAllowed(IRegistry::NotAllowed { realm, actor: mine, byRoots: false, kind });
    assert_eq!(ground.ask(&ground.append(mine, realm, &entry)).await, Err(Some(nobody)));
}
