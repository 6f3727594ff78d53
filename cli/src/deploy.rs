//! `countersign realm deploy`: the registry contract, one for all realms of a chain. Shows what it would do and what that may cost,
//! asks, deploys, and proves the code that is there then; where the contract is there already it proves that and sends nothing.
//! Whether it is there is never a node's bare word.

use std::io::IsTerminal;

use alloy_primitives::{Address, B256};
use clap::Args;
use countersign_chain::contract::Artifact;
use countersign_chain::deployment::{Deployed, Deployment, Plan, Proved, Way, coins};
use countersign_chain::endpoints::{Endpoints, Limits};
use countersign_chain::profile::{ChainProfile, DEV_CHAIN_IDS, ProfileName};
use countersign_chain::realm_file::{HeaderTrust, is_loopback, voices};
use countersign_chain::send::{FeeCaps, Patience, Progress, Sender};
use countersign_chain::source::HeaderSource;
use countersign_chain::survey::survey;
use serde::Serialize;
use url::Url;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{self, Show, fields};
use crate::send::{self, Receipt};
use crate::write::Wait;

/// A chain that no realm file describes yet.
#[derive(Debug, Args)]
pub struct ChainArgs {
    /// A node's URL; may be given several times
    #[arg(long, value_name = "URL", required = true)]
    pub rpc: Vec<Url>,
    /// The chain's profile [default: by the chain's id]
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// How many nodes must agree on a header; not needed for a development chain on this machine
    #[arg(long, value_name = "COUNT")]
    quorum: Option<usize>,
    /// Believe one node of a development chain, wherever it is
    #[arg(long, conflicts_with = "quorum")]
    dev: bool,
}

impl ChainArgs {
    /// Whose headers count. That it is a development chain is what its node says, and is not enough to believe it: a node on this
    /// machine, or a flag, has to say so too.
    fn trust(&self, chain_id: u64) -> Result<HeaderTrust, CliError> {
        let here = DEV_CHAIN_IDS.contains(&chain_id) && self.rpc.iter().all(is_loopback);
        match self.quorum {
            Some(count) => Ok(HeaderTrust::Quorum(count)),
            None if self.dev || here => Ok(HeaderTrust::Dev),
            None => Err(CliError::Missing { what: "how many nodes must agree", flag: "--quorum COUNT" }),
        }
    }
}

/// A deployment.
#[derive(Debug, Args)]
pub struct DeployArgs {
    #[command(flatten)]
    chain: ChainArgs,
    /// Do not ask; without the factory only if --plain is given too
    #[arg(long, conflicts_with = "plan")]
    yes: bool,
    /// Show what would be done, and send nothing
    #[arg(long)]
    plan: bool,
    /// Without the factory: to an address that follows from the account and its nonce
    #[arg(long)]
    plain: bool,
    /// How long to wait; the ledger can be read once the contract is final
    #[arg(long, value_enum, default_value = "final")]
    wait: Wait,
}

/// A chain as it was found, and whom to believe about it.
#[derive(Debug)]
pub struct Ground {
    endpoints: Endpoints,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Hash of block 0.
    pub genesis_hash: B256,
    /// What is relied on.
    pub profile: ChainProfile,
    /// Whose headers count.
    pub trust: HeaderTrust,
    p256: bool,
}

impl Ground {
    /// Asks the nodes what chain they serve; refuses one that cannot be used.
    ///
    /// # Errors
    /// [`CliError::Chain`], [`CliError::Missing`], [`CliError::Argument`].
    pub async fn look(context: &Context, args: &ChainArgs) -> Result<Self, CliError> {
        let endpoints = Endpoints::new(&args.rpc, Limits::default())?;
        let _progress = context.printer.progress("asking the chain");
        let found = survey(&endpoints).await?;
        let chain_id = found.chain_id;
        let profile = ChainProfile::new(profile_name(args.profile.as_deref(), chain_id)?, chain_id)?;
        let trust = args.trust(chain_id)?;
        voices(trust, chain_id, &args.rpc)?;
        Ok(Self { endpoints, chain_id, genesis_hash: found.genesis_hash, profile, trust, p256: found.p256 })
    }

    /// Headers to trust.
    #[must_use]
    pub fn source(&self) -> HeaderSource {
        let endpoints = self.endpoints.clone();
        HeaderSource::of_chain(endpoints, self.profile, self.chain_id, self.genesis_hash, self.trust)
    }

    /// The place for a contract.
    #[must_use]
    pub fn deployment(&self, artifact: Artifact) -> Deployment {
        Deployment::new(self.endpoints.clone(), self.source(), self.profile.fee_model, artifact)
    }
}

/// What would be done, or was.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeploymentShown {
    /// `planned`, `deployed`, or `found`: it was there already.
    pub outcome: &'static str,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The chain's profile.
    pub profile: ProfileName,
    /// Whether the chain has the precompile for P-256 signatures, as one node says.
    pub p256: bool,
    /// Where the contract is or will be.
    pub contract: Address,
    /// Its code's hash.
    pub code_hash: B256,
    /// `factory`, `place-factory` or `plain`; absent if it was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way: Option<&'static str>,
    /// Why not through the factory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Address>,
    /// What it holds, wei in decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
    /// At most so much gas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gas: Option<u64>,
    /// At most so many wei, in decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee: Option<String>,
    /// The block under whose header the code was proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proved_block: Option<u64>,
    /// The transaction that made it; absent if it was found, or somebody else was faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    #[serde(skip)]
    costs: Option<String>,
}

impl DeploymentShown {
    fn new(ground: &Ground, outcome: &'static str, contract: Address, code_hash: B256) -> Self {
        Self {
            outcome,
            chain_id: ground.chain_id,
            profile: ground.profile.name,
            p256: ground.p256,
            contract,
            code_hash,
            way: None,
            reason: None,
            account: None,
            balance: None,
            gas: None,
            fee: None,
            proved_block: None,
            receipt: None,
            costs: None,
        }
    }

    fn planned(ground: &Ground, plan: &Plan, code_hash: B256) -> Self {
        let (way, reason) = match &plan.way {
            Way::Factory => ("factory", None),
            Way::PlaceFactory { .. } => ("place-factory", None),
            Way::Plain { reason } => ("plain", Some(reason.clone())),
        };
        Self {
            way: Some(way),
            reason,
            account: Some(plan.account),
            balance: Some(plan.balance.to_string()),
            gas: Some(plan.gas),
            fee: Some(plan.fee.to_string()),
            costs: Some(format!("{} gas, {} coins of {}", plan.gas, coins(plan.fee), coins(plan.balance))),
            ..Self::new(ground, "planned", plan.contract, code_hash)
        }
    }

    fn found(ground: &Ground, proved: Proved) -> Self {
        Self { proved_block: Some(proved.block), ..Self::new(ground, "found", proved.contract, proved.code_hash) }
    }

    fn deployed(self, deployed: Deployed) -> Self {
        Self {
            outcome: if deployed.mined.is_some() { "deployed" } else { "found" },
            contract: deployed.proved.contract,
            code_hash: deployed.proved.code_hash,
            proved_block: Some(deployed.proved.block),
            receipt: deployed.mined.map(Receipt::from),
            ..self
        }
    }
}

impl Show for DeploymentShown {
    fn text(&self) -> String {
        let mut pairs = vec![
            ("outcome", self.outcome.to_owned()),
            ("chain", format!("{} ({})", self.chain_id, self.profile)),
            ("contract", self.contract.to_string()),
            ("code hash", self.code_hash.to_string()),
            ("P-256 keys", if self.p256 { "can sign" } else { "cannot sign on this chain" }.to_owned()),
        ];
        if let Some(way) = self.way {
            let text = match way {
                "factory" => "through the factory".to_owned(),
                "place-factory" => "through the factory, which is placed first".to_owned(),
                _ => format!("plain ({})", self.reason.as_deref().unwrap_or_default()),
            };
            pairs.push(("way", text));
        }
        if let Some(account) = self.account {
            pairs.push(("account", account.to_string()));
        }
        if let Some(costs) = &self.costs {
            pairs.push(("at most", costs.clone()));
        }
        if let Some(block) = self.proved_block {
            pairs.push(("proved", format!("in block {block}")));
        }
        if let Some(receipt) = &self.receipt {
            pairs.push(("transaction", format!("{} in block {}", receipt.transaction, receipt.block)));
            pairs.push(("gas used", receipt.gas_used.to_string()));
        }
        fields(&pairs)
    }
}

/// Deploys, or finds the contract there.
///
/// # Errors
/// See [`CliError`]; [`CliError::Missing`] where nobody can be asked and `--yes` is not given.
pub async fn run(context: &Context, args: DeployArgs) -> Result<(), CliError> {
    let ground = Ground::look(context, &args.chain).await?;
    let artifact = Artifact::built_in()?;
    let code_hash = artifact.code_hash;
    let deployment = ground.deployment(artifact);
    let progress = context.printer.progress("looking for the contract");
    if let Some(proved) = deployment.find(None, args.plain).await? {
        drop(progress);
        return context.printer.result(&DeploymentShown::found(&ground, proved));
    }
    drop(progress);
    let key = context.actor_key()?;
    let patience = Patience::of(&ground.profile);
    let sender = Sender::new(ground.endpoints.clone(), key, ground.chain_id, patience, FeeCaps::default());
    let progress = context.printer.progress("waiting for what the account sent before");
    sender.settle().await?;
    progress.step("looking for the contract, and what it would cost");
    if let Some(proved) = deployment.find(Some(sender.address()), args.plain).await? {
        drop(progress);
        return context.printer.result(&DeploymentShown::found(&ground, proved));
    }
    let plan = deployment.plan(&sender, args.plain).await?;
    drop(progress);
    let shown = DeploymentShown::planned(&ground, &plan, code_hash);
    if args.plan {
        return context.printer.result(&shown);
    }
    if args.yes {
        as_asked(&plan, args.plain)?;
    } else {
        confirm(&shown)?;
    }
    let progress = context.printer.progress("deploying the registry contract");
    let mut report = |step| {
        if let Progress::Sending { transaction, nonce, .. } = step {
            context.printer.note(&format!("sending transaction {transaction}, nonce {nonce}"));
        }
        send::show(&progress, step);
    };
    let mut deployed = deployment.carry_out(&sender, &plan, &mut report).await?;
    drop(progress);
    let block = deployed.proved.block;
    // Nothing can be proved about a contract that the final block does not have yet.
    send::wait_for(context.printer, &ground.source(), ground.profile.poll_secs, block, args.wait).await?;
    if args.wait == Wait::Final {
        deployed.proved = deployment.confirm(&deployed.proved).await?;
    }
    context.printer.result(&shown.deployed(deployed))
}

/// Where nobody is asked, the way that was not asked for is not gone.
fn as_asked(plan: &Plan, plain: bool) -> Result<(), CliError> {
    match plan.unasked(plain) {
        Some(why) => Err(CliError::Refused(format!("nothing was sent: {why}, with --plain"))),
        None => Ok(()),
    }
}

fn confirm(shown: &DeploymentShown) -> Result<(), CliError> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(CliError::Missing { what: "a confirmation", flag: "--yes, or a terminal to ask at" });
    }
    output::message(shown.text().trim_end());
    output::message("Deploy? [y/N]");
    let mut answer = String::new();
    stdin.read_line(&mut answer).map_err(|source| CliError::Stream { stream: "input", source })?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::Refused("not confirmed; nothing was sent".to_owned())),
    }
}

fn profile_name(name: Option<&str>, chain_id: u64) -> Result<ProfileName, CliError> {
    match name {
        Some(name) => ProfileName::ALL.into_iter().find(|known| known.as_str() == name).ok_or_else(|| {
            let names: Vec<&str> = ProfileName::ALL.iter().map(|known| known.as_str()).collect();
            CliError::Argument {
                argument: "--profile",
                problem: format!("`{name}`: expected one of {}", names.join(", ")),
            }
        }),
        None => ProfileName::of_chain(chain_id)
            .ok_or(CliError::Missing { what: "the chain's profile", flag: "--profile NAME" }),
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U256;

    use super::*;

    fn args(urls: &[&str], quorum: Option<usize>, dev: bool) -> ChainArgs {
        let rpc = urls.iter().map(|url| Url::parse(url).unwrap()).collect();
        ChainArgs { rpc, profile: None, quorum, dev }
    }

    #[test]
    fn a_node_elsewhere_does_not_decide_that_it_is_believed_without_a_quorum() {
        let (here, there) = ("http://127.0.0.1:8545", "https://node.example");
        for (urls, quorum, dev, expected) in [
            (&[here][..], None, false, Some(HeaderTrust::Dev)),
            (&["http://localhost:1", "http://[::1]:2"], None, false, Some(HeaderTrust::Dev)),
            (&[there], None, false, None),
            (&[here, there], None, false, None),
            (&[there], None, true, Some(HeaderTrust::Dev)),
            (&[here, there], Some(2), false, Some(HeaderTrust::Quorum(2))),
        ] {
            for chain_id in DEV_CHAIN_IDS {
                assert_eq!(args(urls, quorum, dev).trust(chain_id).ok(), expected, "{urls:?}");
            }
        }
        let error = args(&[here], None, false).trust(1).unwrap_err();
        assert_eq!(error.to_string(), "how many nodes must agree is needed: expected --quorum COUNT");
        // The flag is for development chains, as the realm file's key is.
        let trust = args(&[there], None, true).trust(1).unwrap();
        assert!(voices(trust, 1, &[Url::parse(there).unwrap()]).is_err());
    }

    #[test]
    fn a_yes_is_no_yes_to_an_address_that_nobody_asked_for() {
        let (account, way) = (Address::repeat_byte(1), Way::Plain { reason: "no factory".to_owned() });
        let (balance, fee, caps) = (U256::MAX, U256::ZERO, FeeCaps::default());
        let plan = Plan { account, balance, contract: account, way, gas: 1, fee, caps };
        assert!(as_asked(&plan, true).is_ok());
        assert_eq!(
            as_asked(&plan, false).unwrap_err().to_string(),
            "nothing was sent: it would not be at the address that all share (no factory); an address of the account's own has to be \
             asked for, with --plain"
        );
        assert!(as_asked(&Plan { way: Way::Factory, ..plan }, false).is_ok());
    }
}
