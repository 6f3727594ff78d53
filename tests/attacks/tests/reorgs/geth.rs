//! The second client reorganises too: `debug_setHead` on `geth --dev`, and other transactions behind it. Its finality comes in steps of 32
//! blocks.

use attacks::{
    cast::{BOB_KEY, Cast, Question, Who},
    node::Client,
    paper::blob,
    world::World,
};
use countersign_registry::entries::{Entry, Targets};
use countersign_sshd::Reason;

use crate::protocol::{Case, Questions};

#[tokio::test]
async fn on_geth_too_denials_survive_reorgs_authority_waits_for_finality_and_deeds_count_while_they_are_there() {
    let cast = Cast::on(World::of(Client::Geth).await).await;
    let (ask, granted) = (Questions::new(&cast), Reason::Granted);
    let batch = cast.batch(2, &cast.paper());
    let in_batch = Question::new(cast.paper().logged(cast.id_of(Who::Issuer, &batch)), "deploy");
    Case::new("BATCH", (Who::Issuer, batch), &in_batch, Reason::BatchUnknown, granted).deed(&cast).await;
    let (bob, grant) = (Question::new(blob(BOB_KEY), "deploy"), cast.grant(0x30, cast.ids.bob, "deploy"));
    Case::new("GRANT_ADD", (Who::Second, grant), &bob, Reason::NoGrant, granted).authority(&cast).await;
    let lock = Entry::Lock(Targets::Keys(vec![cast.alice_key]));
    Case::new("KEY_LOCK", (Who::Admin, lock), &ask.key, granted, Reason::KeyLocked).denial(&cast).await;
}
