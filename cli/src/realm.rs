//! `countersign realm`: makes a realm (which takes no transaction: its id is the hash of its first roots), shows it, and carries
//! proposals from root to root.

use std::collections::BTreeSet;
use std::path::PathBuf;

use alloy_primitives::{Address, B256, U256};
use clap::{Args, Subcommand};
use countersign_chain::contract::Artifact;
use countersign_chain::deployment::address_by_factory;
use countersign_chain::profile::ProfileName;
use countersign_chain::realm_file::RealmFile;
use countersign_issuer::duration::format_duration;
use countersign_registry::entries::{Entry, payload};
use countersign_registry::{RealmPin, migration, sign};
use serde::Serialize;

use crate::context::Context;
use crate::deploy::{self, ChainArgs, DeployArgs, Ground};
use crate::error::CliError;
use crate::migrate::{self, ArchiveArgs, MigrateArgs};
use crate::output::{Show, fields};
use crate::proposal::{Proposal, SignatureText};
use crate::realm_sign;
use crate::resolve;
use crate::roots::RootState;
use crate::send::{Receipt, Sender};
use crate::values;
use crate::write::{By, Draft, Wait, WriteArgs};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum RealmCommand {
    /// Make a realm file: the pins that every host, issuer and person of the realm holds
    Create(CreateArgs),
    /// Deploy the registry contract, or prove that it is there: one for all realms of a chain
    Deploy(DeployArgs),
    /// Show the realm, its roots and settings
    Show {
        /// Only what the realm file says; ask no node
        #[arg(long)]
        offline: bool,
    },
    /// Propose settings or new roots
    Propose(ProposeArgs),
    /// Show a proposal and sign it as a root
    Sign(realm_sign::SignArgs),
    /// Send a proposal that enough roots have signed; the actor pays
    Submit {
        /// The proposal
        file: PathBuf,
        /// How long to wait
        #[arg(long, value_enum, default_value = "latest")]
        wait: Wait,
    },
    /// Plan the move to another contract or chain, and prepare what the roots sign
    Migrate(MigrateArgs),
    /// Write the realm's log into a file, for when its chain is gone
    Archive(ArchiveArgs),
}

/// A new realm.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// A root's address; once per root
    #[arg(long, value_name = "ADDRESS", required = true)]
    root: Vec<String>,
    /// How many roots must sign
    #[arg(long, value_name = "COUNT")]
    threshold: u64,
    #[command(flatten)]
    chain: ChainArgs,
    /// The registry contract, whose code is proved [default: where `realm deploy` puts it through the factory]
    #[arg(long, value_name = "ADDRESS")]
    contract: Option<String>,
    /// Makes realms of the same roots differ [default: random]
    #[arg(long, value_name = "HEX")]
    salt: Option<String>,
    /// Where reading starts, for a realm that has entries already [default: the final block]
    #[arg(long, value_name = "BLOCK")]
    from_block: Option<u64>,
    /// Where to write the realm file
    #[arg(long, value_name = "FILE", default_value = "realm.toml")]
    out: PathBuf,
}

/// What only the roots can change.
#[derive(Debug, Args)]
pub struct ProposeArgs {
    /// The proposal file to write
    file: PathBuf,
    /// A setting, such as require-logged=true or max-ttl=1h; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// New roots, replacing all; once per root
    #[arg(long, value_name = "ADDRESS", requires = "new_threshold", conflicts_with = "replace_root")]
    new_root: Vec<String>,
    /// A new root in the place of another, the rest stays; may be given several times
    #[arg(long, value_name = "OLD=NEW")]
    replace_root: Vec<String>,
    /// How many of the roots must sign from then on
    #[arg(long, value_name = "COUNT")]
    new_threshold: Option<u64>,
    /// Add to the file, which nobody has signed yet
    #[arg(long)]
    append: bool,
}

/// A realm as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RealmShown {
    /// Realm id.
    pub realm: B256,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The chain's profile.
    pub profile: ProfileName,
    /// The registry.
    pub contract: Address,
    /// Its code's hash.
    pub code_hash: B256,
    /// How many of the roots in force must sign (the first ones', offline).
    pub threshold: u64,
    /// The roots in force (the first ones, offline).
    pub roots: Vec<Address>,
    /// The roots' next nonce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_nonce: Option<u64>,
    /// In force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<countersign_registry::effective::Settings>,
    /// Up to where authority counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_block: Option<u64>,
    /// Up to where denials count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_block: Option<u64>,
    /// The file that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

impl RealmShown {
    fn offline(realm: &RealmFile) -> Self {
        Self {
            realm: realm.pin.realm,
            chain_id: realm.pin.chain_id,
            profile: realm.profile.name,
            contract: realm.pin.contract,
            code_hash: realm.pin.code_hash,
            threshold: realm.pin.threshold,
            roots: realm.pin.roots.clone(),
            root_nonce: None,
            settings: None,
            final_block: None,
            latest_block: None,
            file: None,
        }
    }
}

impl Show for RealmShown {
    fn text(&self) -> String {
        let mut pairs = vec![
            ("realm", self.realm.to_string()),
            ("chain", format!("{} ({})", self.chain_id, self.profile)),
            ("contract", self.contract.to_string()),
            ("code hash", self.code_hash.to_string()),
            ("roots", format!("{} of {}", self.threshold, self.roots.len())),
        ];
        pairs.extend(self.roots.iter().map(|root| ("", root.to_string())));
        if let Some(nonce) = self.root_nonce {
            pairs.push(("root nonce", nonce.to_string()));
        }
        if let Some(settings) = &self.settings {
            pairs.push(("require-logged", settings.require_logged.to_string()));
            pairs.push(("max-ttl", format_duration(settings.max_ttl)));
            pairs.push(("countersign-quorum", settings.countersign_quorum.to_string()));
            pairs.push(("max-staleness", format_duration(settings.max_staleness)));
            pairs.push(("directory-delay", format_duration(settings.directory_delay)));
            pairs.push(("directory-quorum", settings.directory_quorum.to_string()));
            pairs.push(("pickup", format_duration(settings.pickup)));
            pairs.push(("uid-base", settings.uid_base.to_string()));
        }
        if let (Some(final_block), Some(latest)) = (self.final_block, self.latest_block) {
            pairs.push(("blocks", format!("final {final_block}, latest {latest}")));
        }
        if let Some(file) = &self.file {
            pairs.push(("realm file", file.display().to_string()));
        }
        fields(&pairs)
    }
}

/// What a signer is shown, and what `submit` did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProposalShown {
    /// `signed` or `logged`.
    pub outcome: &'static str,
    /// The file.
    pub file: PathBuf,
    /// Root nonce.
    pub nonce: u64,
    /// What each write says, decoded from its bytes.
    pub writes: Vec<String>,
    /// Who has signed, each with a key: verified.
    pub signed: Vec<Address>,
    /// Who else is said to have signed, as contract wallets: only the contract can ask them.
    pub wallets: Vec<Address>,
    /// How many must.
    pub threshold: u64,
    /// Where it was logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

impl ProposalShown {
    pub(crate) fn new(
        outcome: &'static str,
        file: PathBuf,
        proposal: &Proposal,
        receipt: Option<Receipt>,
    ) -> Result<Self, CliError> {
        let name = file.display().to_string();
        let (wallets, signed): (Vec<_>, Vec<_>) = proposal.signatures.iter().partition(|signed| signed.wallet);
        let roots = |signed: Vec<&SignatureText>| signed.into_iter().map(|signed| signed.root).collect();
        Ok(Self {
            outcome,
            nonce: proposal.nonce,
            writes: proposal.writes.iter().map(|write| write.shown(&name)).collect::<Result<_, _>>()?,
            signed: roots(signed),
            wallets: roots(wallets),
            threshold: proposal.threshold,
            receipt,
            file,
        })
    }
}

impl Show for ProposalShown {
    fn text(&self) -> String {
        let mut text: String = self.writes.iter().map(|write| format!("{} {write}\n", self.outcome)).collect();
        text.push_str(&format!("signatures: {} of {}\n", self.signed.len(), self.threshold));
        for wallet in &self.wallets {
            text.push_str(&format!(
                "not counted: said to be of the contract wallet {wallet}, which only the contract can ask\n"
            ));
        }
        if let Some(receipt) = &self.receipt {
            text.push_str(&format!("in block {}, transaction {}\n", receipt.block, receipt.transaction));
        }
        text
    }
}

/// Runs the verb.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, command: RealmCommand) -> Result<(), CliError> {
    match command {
        RealmCommand::Create(args) => create(context, args).await,
        RealmCommand::Deploy(args) => deploy::run(context, args).await,
        RealmCommand::Show { offline: true } => context.printer.result(&RealmShown::offline(&context.realm()?)),
        RealmCommand::Show { offline: false } => {
            let view = context.view().await?;
            let state = Sender::new(context, &view.realm)?.root_state(&view).await?;
            context.printer.result(&RealmShown {
                threshold: state.threshold,
                roots: state.roots,
                root_nonce: Some(state.nonce),
                settings: Some(view.effective.settings),
                final_block: Some(migration::in_chain(view.effective.final_block.number)),
                latest_block: Some(migration::in_chain(view.effective.latest_block.number)),
                ..RealmShown::offline(&view.realm)
            })
        }
        RealmCommand::Propose(args) => propose(context, args).await,
        RealmCommand::Migrate(args) => migrate::run(context, args).await,
        RealmCommand::Archive(args) => migrate::archive(context, args).await,
        RealmCommand::Sign(args) => realm_sign::run(context, &args).await,
        RealmCommand::Submit { file, wait } => {
            let view = context.view().await?;
            let name = file.display().to_string();
            let proposal = Proposal::load(&file, &view.realm.pin)?;
            let sender = Sender::new(context, &view.realm)?;
            let state = sender.root_state(&view).await?;
            proposal.fits(&name, &state)?;
            proposal.indexed(&name)?;
            realm_sign::check_wallets(&sender, &proposal, &name).await?;
            let receipt = sender.append_by_roots(&context.actor_key()?, &proposal, &name, &state).await?;
            sender.wait(receipt.block, wait).await?;
            context.printer.result(&ProposalShown::new("logged", file, &proposal, Some(receipt))?)
        }
    }
}

async fn propose(context: &Context, args: ProposeArgs) -> Result<(), CliError> {
    let view = context.view().await?;
    let write = WriteArgs {
        propose: Some(args.file),
        append: args.append,
        root_key: Vec::new(),
        sign_to: None,
        wait: Wait::Latest,
    };
    let mut draft = Draft::begin(context, &write, By::Roots)?;
    let changes_roots = !args.new_root.is_empty() || !args.replace_root.is_empty() || args.new_threshold.is_some();
    if args.set.is_empty() && !changes_roots {
        return Err(CliError::Missing {
            what: "something to propose",
            flag: "--set, --new-root, --replace-root or --new-threshold",
        });
    }
    if !args.set.is_empty() {
        let items = args
            .set
            .iter()
            .map(|text| values::setting(text).map(|(key, value)| payload::Setting { key, value }))
            .collect::<Result<Vec<_>, _>>()?;
        let entry = Entry::Settings(payload::Settings { items });
        draft.entry(&format!("settings {}", args.set.join(" ")), None, entry)?;
    }
    if changes_roots {
        let state = Sender::new(context, &view.realm)?.root_state(&view).await?;
        let set = new_roots(&state, &args.new_root, &args.replace_root, args.new_threshold)?;
        let gone: Vec<String> =
            state.roots.iter().filter(|root| !set.roots.contains(root)).map(Address::to_string).collect();
        let came: Vec<String> =
            set.roots.iter().filter(|root| !state.roots.contains(root)).map(Address::to_string).collect();
        let or_none = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(" ") };
        let about = format!(
            "roots: {} of {}; new: {}; no longer: {}",
            set.threshold,
            set.roots.len(),
            or_none(came),
            or_none(gone)
        );
        draft.entry(&about, None, Entry::RootSet(set))?;
    }
    draft.commit(context, &view).await
}

/// The root set that comes of the flags, refused where the contract would refuse it.
fn new_roots(
    state: &RootState,
    new: &[String],
    replace: &[String],
    threshold: Option<u64>,
) -> Result<payload::RootSet, CliError> {
    let mut roots = if new.is_empty() {
        state.roots.clone()
    } else {
        new.iter().map(|text| resolve::address("--new-root", text)).collect::<Result<Vec<_>, _>>()?
    };
    for text in replace {
        let wrong = |problem: String| CliError::Argument { argument: "--replace-root", problem };
        let (old, new) =
            text.split_once('=').ok_or_else(|| wrong(format!("`{text}`: expected two addresses with `=` between")))?;
        let (old, new) = (resolve::address("--replace-root", old)?, resolve::address("--replace-root", new)?);
        let place = roots.iter_mut().find(|root| **root == old);
        *place.ok_or_else(|| wrong(format!("{old} is not a root of this realm")))? = new;
    }
    let threshold = threshold.unwrap_or(state.threshold);
    let wrong =
        |problem: String| CliError::Argument { argument: "--new-root, --replace-root, --new-threshold", problem };
    let distinct: BTreeSet<&Address> = roots.iter().collect();
    if distinct.len() != roots.len() || roots.contains(&Address::ZERO) {
        return Err(wrong("expected each root once, and none of them zero".to_owned()));
    }
    let enough = (1..=64).contains(&roots.len()) && u64::try_from(roots.len()).is_ok_and(|count| threshold <= count);
    if !enough || threshold == 0 {
        return Err(wrong(format!(
            "{threshold} of {} roots: expected 1 to as many as there are, 64 at most",
            roots.len()
        )));
    }
    Ok(payload::RootSet { threshold: U256::from(threshold), roots })
}

async fn create(context: &Context, args: CreateArgs) -> Result<(), CliError> {
    let roots = args.root.iter().map(|text| resolve::address("--root", text)).collect::<Result<Vec<_>, _>>()?;
    let salt = match &args.salt {
        Some(text) => values::bytes32("--salt", text)?,
        None => random32()?,
    };
    if args.out.exists() {
        let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(CliError::File { path: args.out, source });
    }
    let ground = Ground::look(context, &args.chain).await?;
    let artifact = Artifact::built_in()?;
    let contract = match &args.contract {
        Some(text) => resolve::address("--contract", text)?,
        None => address_by_factory(&artifact),
    };
    let progress = context.printer.progress("proving the contract's code");
    // The final block comes before whatever the realm will write. Its state may be too old to be proved: the tip's is.
    let final_block = ground.source().heads().await?.final_header.number;
    ground.deployment(artifact.clone()).at(contract).await?;
    drop(progress);
    let pin = RealmPin {
        chain_id: ground.chain_id,
        contract,
        code_hash: artifact.code_hash,
        realm: sign::realm_id(ground.chain_id, contract, args.threshold, &roots, salt),
        threshold: args.threshold,
        roots,
        salt,
        deployed_block: args.from_block.unwrap_or(final_block),
        genesis_hash: ground.genesis_hash,
    };
    let realm = RealmFile::new(pin, ground.profile.name, ground.trust, args.chain.rpc)?;
    realm.create(&args.out)?;
    context.printer.result(&RealmShown { file: Some(args.out), ..RealmShown::offline(&realm) })
}

fn random32() -> Result<B256, CliError> {
    let mut bytes = B256::ZERO;
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| CliError::Refused(format!("no random bytes: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(byte: u8) -> Address {
        Address::repeat_byte(byte)
    }

    fn state() -> RootState {
        RootState { nonce: 3, threshold: 2, roots: vec![address(1), address(2), address(3)], salt: B256::ZERO }
    }

    fn set(new: &[u8], replace: &[(u8, u8)], threshold: Option<u64>) -> Result<(u64, Vec<Address>), String> {
        let new: Vec<String> = new.iter().map(|byte| address(*byte).to_string()).collect();
        let replace: Vec<String> =
            replace.iter().map(|(old, new)| format!("{}={}", address(*old), address(*new))).collect();
        let set = new_roots(&state(), &new, &replace, threshold).map_err(|error| error.to_string())?;
        Ok((set.threshold.to::<u64>(), set.roots))
    }

    #[test]
    fn one_root_is_replaced_in_its_place_and_the_rest_stays() {
        assert_eq!(set(&[], &[(2, 9)], None), Ok((2, vec![address(1), address(9), address(3)])));
        assert_eq!(set(&[], &[], Some(3)), Ok((3, state().roots)));
        assert_eq!(set(&[7, 8], &[], Some(1)), Ok((1, vec![address(7), address(8)])));
    }

    #[test]
    fn a_root_set_that_the_contract_would_refuse_is_not_proposed() {
        for (bad, text) in [
            (set(&[], &[(9, 4)], None), "is not a root of this realm"),
            (set(&[], &[(2, 3)], None), "expected each root once"),
            (set(&[], &[(2, 0)], None), "none of them zero"),
            (set(&[], &[], Some(4)), "4 of 3 roots"),
            (set(&[], &[], Some(0)), "0 of 3 roots"),
            (set(&[1], &[], Some(2)), "2 of 1 roots"),
        ] {
            let message = bad.unwrap_err();
            assert!(message.contains(text), "{message}");
        }
        assert!(
            new_roots(&state(), &[], &["x".into()], None).unwrap_err().to_string().contains("expected two addresses")
        );
    }
}
