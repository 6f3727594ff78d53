//! What is known about a chain before a node is asked: which header rule its blocks hash by, when a block is final, how far back
//! nodes prove, and how long it may be silent. There is no fallback from *final* to *latest*: a chain whose final block cannot be
//! had yields nothing new. Chains whose `block.number` is not the number logs carry (Arbitrum and its kin) are refused here.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::ChainError;

/// When a block counts as final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// The node's `finalized` tag.
    Finalized,
    /// That many blocks below the tip.
    Depth(u64),
}

/// How blocks hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderRule {
    /// keccak256 of the RLP of Ethereum's fields, all forks to date.
    Ethereum,
}

/// What a transaction costs beside its gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeeModel {
    /// Nothing: gas times price is all.
    Gas,
    /// A share of what it costs to publish the transaction's bytes on Ethereum, taken from the sender's balance: the OP stack.
    GasAndData,
}

/// Whether contracts can check P-256 signatures, by the precompile at 0x100 (RIP-7212, EIP-7951).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum P256 {
    /// They can.
    There,
    /// From the Osaka fork on, where the network's genesis file schedules it.
    FromOsaka,
}

/// A chain profile by name, as it stands in the realm file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileName {
    /// anvil (31337) or `geth --dev` (1337).
    Dev,
    /// Ethereum mainnet and its test networks.
    Ethereum,
    /// OP Mainnet and its test network.
    Optimism,
    /// Base and its test network.
    Base,
    /// Lisk and its test network.
    Lisk,
    /// A private network of geth.
    PrivateGeth,
    /// A private network of Besu whose blocks hash by Ethereum's rule (Clique, proof of stake).
    PrivateBesu,
}

/// What this crate relies on for one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainProfile {
    /// Its name.
    pub name: ProfileName,
    /// How blocks hash.
    pub header_rule: HeaderRule,
    /// When a block is final.
    pub finality: Finality,
    /// What a transaction costs.
    pub fee_model: FeeModel,
    /// Whether keys of TPMs, tokens and passkeys can sign.
    pub p256: P256,
    /// Blocks behind the tip that an ordinary node still proves state of.
    pub proof_window: u64,
    /// Seconds: a tip older than this means a halted chain or a node that stands still.
    pub longest_gap_secs: u64,
    /// Seconds between two looks at the chain.
    pub poll_secs: u64,
    /// Seconds after which a transaction that is not mined is sent again with a higher fee.
    pub stuck_secs: u64,
}

/// Chains whose logs carry another block number than the contract sees, by id.
const ARBITRUM_LIKE: [u64; 6] = [42161, 42170, 421_614, 421_613, 23_011_913, 660_279];

/// Chain ids on which one RPC may be believed, because nothing of worth is there.
pub const DEV_CHAIN_IDS: [u64; 2] = [31337, 1337];

/// Refuses the chains that are known to be of no use, whatever profile is asked for.
///
/// # Errors
/// `UnfitChain`.
pub fn fit(chain_id: u64) -> Result<(), ChainError> {
    if ARBITRUM_LIKE.contains(&chain_id) {
        let detail = "its contracts see another block number than its logs carry".into();
        return Err(ChainError::UnfitChain { chain_id, detail });
    }
    Ok(())
}

impl ProfileName {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Dev, Self::Ethereum, Self::Optimism, Self::Base, Self::Lisk, Self::PrivateGeth, Self::PrivateBesu];

    /// As written in the realm file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Ethereum => "ethereum",
            Self::Optimism => "optimism",
            Self::Base => "base",
            Self::Lisk => "lisk",
            Self::PrivateGeth => "private-geth",
            Self::PrivateBesu => "private-besu",
        }
    }

    /// The ids of the public chains that go by this profile; empty for private networks, whose id is their own.
    const fn chain_ids(self) -> &'static [u64] {
        match self {
            Self::Dev => &DEV_CHAIN_IDS,
            Self::Ethereum => &[1, 11_155_111, 560_048, 17_000],
            Self::Optimism => &[10, 11_155_420],
            Self::Base => &[8453, 84532],
            Self::Lisk => &[1135, 4202],
            Self::PrivateGeth | Self::PrivateBesu => &[],
        }
    }

    /// The usual profile of a chain id; `None` for one that is not public.
    #[must_use]
    pub fn of_chain(chain_id: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.chain_ids().contains(&chain_id))
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ChainProfile {
    /// The profile of that name for a chain.
    ///
    /// # Errors
    /// `Setting` when the chain id belongs to another profile, or to a chain that this design cannot use.
    pub fn new(name: ProfileName, chain_id: u64) -> Result<Self, ChainError> {
        let refuse = |detail: String| Err(ChainError::Setting { what: "profile", detail });
        fit(chain_id)?;
        let ids = name.chain_ids();
        let elsewhere = ProfileName::of_chain(chain_id).filter(|known| *known != name);
        if let Some(known) = elsewhere {
            return refuse(format!("chain id {chain_id} goes by profile {known}, got {name}"));
        }
        if !ids.is_empty() && !ids.contains(&chain_id) {
            return refuse(format!("expected one of chain ids {ids:?} for {name}, got {chain_id}"));
        }
        let (finality, proof_window, longest_gap_secs, poll_secs, stuck_secs) = match name {
            ProfileName::Dev => (Finality::Finalized, 100_000, 60, 1, 15),
            ProfileName::Ethereum => (Finality::Finalized, 128, 180, 6, 60),
            ProfileName::Optimism | ProfileName::Base | ProfileName::Lisk => (Finality::Finalized, 128, 60, 6, 30),
            // Proof of authority has no final tag; 64 blocks is also what replay keeps a denial through a reorg for. Chains of
            // IBFT 2.0 and QBFT leave seals out of their hash: their headers do not re-hash here, so nothing of them is taken.
            ProfileName::PrivateGeth => (Finality::Depth(64), 128, 120, 6, 60),
            ProfileName::PrivateBesu => (Finality::Depth(64), 512, 120, 6, 60),
        };
        let (fee_model, p256) = match name {
            ProfileName::Optimism | ProfileName::Base | ProfileName::Lisk => (FeeModel::GasAndData, P256::There),
            ProfileName::Dev | ProfileName::Ethereum => (FeeModel::Gas, P256::There),
            ProfileName::PrivateGeth | ProfileName::PrivateBesu => (FeeModel::Gas, P256::FromOsaka),
        };
        Ok(Self {
            name,
            header_rule: HeaderRule::Ethereum,
            finality,
            fee_model,
            p256,
            proof_window,
            longest_gap_secs,
            poll_secs,
            stuck_secs,
        })
    }

    /// Whether the newest block known is older than the chain is ever silent for: a halted chain, or nodes that stand still.
    #[must_use]
    pub const fn stands_still(&self, latest_time_secs: u64, now_secs: u64) -> bool {
        now_secs.saturating_sub(latest_time_secs) > self.longest_gap_secs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arbitrum_is_refused_under_every_profile() {
        for name in ProfileName::ALL {
            assert_eq!(
                ChainProfile::new(name, 42161).unwrap_err().to_string(),
                "chain id 42161 is refused: its contracts see another block number than its logs carry"
            );
        }
    }

    #[test]
    fn a_public_chain_is_refused_under_a_private_profile() {
        assert_eq!(
            ChainProfile::new(ProfileName::PrivateBesu, 1).unwrap_err().to_string(),
            "profile: chain id 1 goes by profile ethereum, got private-besu"
        );
    }

    #[test]
    fn the_dev_profile_is_refused_on_any_other_chain() {
        assert!(ChainProfile::new(ProfileName::Dev, 31337).is_ok());
        assert!(ChainProfile::new(ProfileName::Dev, 1337).is_ok());
        assert_eq!(
            ChainProfile::new(ProfileName::Dev, 4711).unwrap_err().to_string(),
            "profile: expected one of chain ids [31337, 1337] for dev, got 4711"
        );
    }

    #[test]
    fn names_in_files_are_the_names_shown() {
        for name in ProfileName::ALL {
            assert_eq!(serde_json::to_string(&name).unwrap(), format!("\"{name}\""));
        }
    }

    #[test]
    fn a_chain_stands_still_only_beyond_its_longest_gap() {
        let profile = ChainProfile::new(ProfileName::Ethereum, 1).unwrap();
        assert!(!profile.stands_still(1000, 1000 + profile.longest_gap_secs));
        assert!(profile.stands_still(1000, 1001 + profile.longest_gap_secs));
        assert!(!profile.stands_still(1000, 900), "a clock behind the chain is another question");
    }

    #[test]
    fn the_table_in_the_documentation_says_the_same() {
        let page = include_str!("../../docs/chains.md").replace("100,000", "100000");
        for name in ProfileName::ALL {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
            let profile = ChainProfile::new(name, name.chain_ids().first().copied().unwrap_or(4711)).unwrap();
            let finality = match profile.finality {
                Finality::Finalized => "`finalized` tag".to_owned(),
                Finality::Depth(depth) => format!("{depth} blocks below the tip"),
            };
            let ChainProfile { proof_window, longest_gap_secs, poll_secs, stuck_secs, .. } = profile;
            let end = format!(
                "| {finality} | {proof_window} blocks | {longest_gap_secs} s | {poll_secs} s | {stuck_secs} s |"
            );
            assert!(row.ends_with(&end), "{row} does not end with {end}");
            for id in name.chain_ids() {
                assert!(row.contains(&id.to_string()), "{row} lacks {id}");
            }
            let HeaderRule::Ethereum = profile.header_rule;
            let fees = match profile.fee_model {
                FeeModel::Gas => "gas",
                FeeModel::GasAndData => "gas, and a share of the data's cost on Ethereum",
            };
            let p256 = match profile.p256 {
                P256::There => "yes",
                P256::FromOsaka => "from Osaka on",
            };
            let second = format!("| `{name}` | Ethereum's | {fees} | {p256} |");
            assert!(page.contains(&second), "{second} is missing");
        }
    }
}
