//! `countersign realm sign`: shows what a proposal says and signs it as a root, by a key at hand or with a signature that was made
//! elsewhere: by a wallet, a TPM, a smart card or a passkey. A signature that is not one over these writes never enters the file; one by
//! a contract wallet, which only its chain can judge, is marked as such after the wallet was asked.

use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B256, Bytes, Signature, hex};
use base64ct::{Base64UrlUnpadded, Encoding};
use clap::Args;
use countersign_chain::signing::p256_public_key;
use countersign_registry::p256_key::P256PublicKey;
use countersign_registry::signature::{P256Form, verify};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::Context;
use crate::error::CliError;
use crate::files::{self, Existing};
use crate::migrate;
use crate::output::{self, Show, escape};
use crate::proposal::Proposal;
use crate::realm::ProposalShown;
use crate::resolve;
use crate::send::Sender;

/// What to sign, and with what.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The proposal
    file: PathBuf,
    /// The root's keystore, or its P-256 key in a PEM file; --as-actor unless given
    #[arg(long, value_name = "KEYFILE", conflicts_with_all = ["typed_data", "signature", "assertion"])]
    root_key: Option<PathBuf>,
    /// Sign nothing: print the digest, and the typed data that a wallet shows and signs
    #[arg(long, conflicts_with_all = ["signature", "assertion"])]
    typed_data: bool,
    /// Add this signature over the digest: 65 bytes of a wallet; with --public-key, DER or r and s by a P-256 key; with --root, whatever a
    /// contract wallet takes (ERC-1271)
    #[arg(long, value_name = "HEX", conflicts_with = "assertion")]
    signature: Option<String>,
    /// Add a passkey's: its assertion over the digest as browsers put it into JSON (PublicKeyCredential.toJSON)
    #[arg(long, value_name = "FILE", requires = "public_key")]
    assertion: Option<PathBuf>,
    /// The P-256 public key that made it: PEM, or a point in hexadecimal digits
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// Do not compare nonce and roots with the ledger: on a machine without a network. Whoever made the proposal can then have it signed
    /// for a nonce that is still to come
    #[arg(long)]
    offline: bool,
    /// The root that the signature must be by; a contract wallet, where the signature is by no key of that address
    #[arg(long, value_name = "ADDRESS")]
    root: Option<String>,
}

/// What a root signs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ToSign {
    /// Always `to-sign`.
    pub outcome: &'static str,
    /// The file.
    pub file: PathBuf,
    /// What keys sign.
    pub digest: B256,
    /// What wallets show (EIP-712).
    pub typed_data: Value,
}

impl Show for ToSign {
    fn text(&self) -> String {
        format!("digest {}\n{:#}\n", self.digest, self.typed_data)
    }
}

/// A browser's JSON of an assertion; base64url throughout.
#[derive(Deserialize)]
struct Credential {
    response: AssertionResponse,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AssertionResponse {
    authenticator_data: String,
    #[serde(rename = "clientDataJSON")]
    client_data: String,
    signature: String,
}

/// Shows and signs.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, args: &SignArgs) -> Result<(), CliError> {
    let root = args.root.as_deref().map(|text| resolve::address("--root", text)).transpose()?;
    if migrate::is_statement(&args.file)? {
        if args.typed_data {
            let problem = "a statement is signed by keys: its digest is shown, wallets cannot sign it".to_owned();
            return Err(CliError::Argument { argument: "--typed-data", problem });
        }
        let made = |digest: &B256| match made(context, args, digest, root, |_| Ok(()))? {
            Made::ByKey(signer, signature) => Ok((signer, signature)),
            Made::ByWallet(root, _) => {
                let problem =
                    format!("the signature is not by the key of {root}; a contract wallet cannot sign a statement");
                Err(CliError::Argument { argument: "--root", problem })
            }
        };
        return migrate::sign_statement(context, args.file.clone(), args.offline, made).await;
    }
    let realm = context.realm()?;
    let name = args.file.display().to_string();
    let mut proposal = Proposal::load(&args.file, &realm.pin)?;
    if !args.offline {
        let view = context.view().await?;
        let state = Sender::new(context, &view.realm)?.root_state(&view).await?;
        proposal.fits(&name, &state)?;
    }
    // Read before the key is opened: what a root signs is on the screen when the password is asked for, however quiet the rest.
    output::message(&format!(
        "{name}: {} writes with root nonce {} in realm {}",
        proposal.writes.len(),
        proposal.nonce,
        proposal.realm
    ));
    for write in &proposal.writes {
        output::message(&format!("to sign: {}\n  remark: {}", write.shown(&name)?, escape(&write.about)));
    }
    let digest = proposal.digest(&name)?;
    if args.typed_data {
        proposal.check_readable(&name)?;
        let typed_data = proposal.typed_data(&name)?;
        let file = args.file.clone();
        return context.printer.result(&ToSign { outcome: "to-sign", file, digest, typed_data });
    }
    match made(context, args, &digest, root, |signer| Ok(proposal.may_sign(&name, signer)?))? {
        Made::ByKey(signer, signature) => proposal.attach(&name, signer, signature)?,
        Made::ByWallet(root, signature) => {
            proposal.may_sign(&name, root)?;
            if args.offline {
                output::message(&format!(
                    "{root}: not by its key, hence taken for a contract wallet's; nobody has asked the wallet"
                ));
            } else {
                Sender::new(context, &realm)?.check_wallet(root, &digest, &signature).await?;
            }
            proposal.attach_wallet(&name, root, signature)?;
        }
    }
    if !args.offline {
        check_wallets(&Sender::new(context, &realm)?, &proposal, &name).await?;
    }
    proposal.save(&args.file, Existing::Replace)?;
    context.printer.result(&ProposalShown::new("signed", args.file.clone(), &proposal, None)?)
}

/// Refuses a file with a signature that stands there as a contract wallet's and is none, or that the wallet does not take: whoever carries
/// the file may have put it in, and it would be counted until the contract refuses the call.
pub(crate) async fn check_wallets(sender: &Sender<'_>, proposal: &Proposal, name: &str) -> Result<(), CliError> {
    let digest = proposal.digest(name)?;
    for signed in proposal.signatures.iter().filter(|signed| signed.wallet) {
        match sender.check_wallet(signed.root, &digest, &signed.signature).await {
            Err(CliError::Argument { problem, .. }) => {
                let text = format!("{name}: {problem}; take the signature of {} out of the file", signed.root);
                return Err(CliError::Refused(text));
            }
            checked => checked?,
        }
    }
    Ok(())
}

/// A signature with who made it.
enum Made {
    /// By the key of this address; still to be verified.
    ByKey(Address, Bytes),
    /// By no key of the root that was named, so that it is a contract wallet's, or nobody's.
    ByWallet(Address, Bytes),
}

/// The signature, by a key at hand that `may_sign`, or from elsewhere; and who made it.
fn made(
    context: &Context,
    args: &SignArgs,
    digest: &B256,
    root: Option<Address>,
    may_sign: impl FnOnce(Address) -> Result<(), CliError>,
) -> Result<Made, CliError> {
    let (signer, signature) = match attached(args, digest, root)? {
        Some(Made::ByKey(signer, signature)) => (signer, signature),
        Some(by_wallet) => return Ok(by_wallet),
        None => {
            let key = match &args.root_key {
                Some(path) => context.signing_key(path)?,
                None => context.actor_signing_key()?,
            };
            // Before anything is signed.
            may_sign(key.address())?;
            (key.address(), key.sign(digest)?)
        }
    };
    if root.is_some_and(|root| root != signer) {
        let problem = format!("the signature is by {signer}");
        return Err(CliError::Argument { argument: "--root", problem });
    }
    Ok(Made::ByKey(signer, signature))
}

/// A signature from elsewhere, with who made it, in the form that the contract takes.
fn attached(args: &SignArgs, digest: &B256, root: Option<Address>) -> Result<Option<Made>, CliError> {
    let key = args.public_key.as_deref().map(public_key).transpose()?;
    if let (Some(path), Some(key)) = (&args.assertion, key) {
        let (signer, signature) = assertion(path, &key, digest)?;
        return Ok(Some(Made::ByKey(signer, signature)));
    }
    let Some(text) = &args.signature else {
        if key.is_some() {
            return Err(CliError::Missing { what: "what the key signed", flag: "--signature or --assertion" });
        }
        return Ok(None);
    };
    let wrong = |problem: String| CliError::Argument { argument: "--signature", problem };
    let bytes = hex::decode(text.trim()).map_err(|_| wrong("expected hexadecimal digits".into()))?;
    if let Some(key) = key {
        let signature = key.signature(&bytes).map_err(|error| wrong(error.to_string()))?;
        return Ok(Some(Made::ByKey(key.address(P256Form::Digest), signature)));
    }
    if bytes.len() == 65 {
        let parsed = Signature::from_raw(&bytes).map_err(|error| wrong(error.to_string()))?;
        let signature = parsed.normalize_s().unwrap_or(parsed);
        let signer = signature.recover_address_from_prehash(digest).map_err(|error| wrong(error.to_string()));
        return Ok(Some(match (root, signer) {
            // The very bytes: what an owner of a wallet has signed is not for this program to put right.
            (Some(root), signer) if !signer.as_ref().is_ok_and(|signer| *signer == root) => {
                Made::ByWallet(root, bytes.into())
            }
            (_, signer) => Made::ByKey(signer?, signature.as_bytes().to_vec().into()),
        }));
    }
    let root = root.ok_or(CliError::Missing { what: "whose signature it is", flag: "--public-key, or --root" })?;
    // A P-256 key's or a passkey's, as it stands in files and calls already.
    if verify(root, digest, &bytes).is_ok() {
        return Ok(Some(Made::ByKey(root, bytes.into())));
    }
    Ok(Some(Made::ByWallet(root, bytes.into())))
}

fn public_key(path: &Path) -> Result<P256PublicKey, CliError> {
    let problem =
        |error: &dyn std::fmt::Display| CliError::Content { path: path.to_owned(), problem: error.to_string() };
    p256_public_key(&files::read_text(path)?).map_err(|error| problem(&error))
}

fn assertion(path: &Path, key: &P256PublicKey, digest: &B256) -> Result<(Address, Bytes), CliError> {
    let problem =
        |error: &dyn std::fmt::Display| CliError::Content { path: path.to_owned(), problem: error.to_string() };
    let Credential { response } = serde_json::from_str(&files::read_text(path)?).map_err(|error| problem(&error))?;
    let bytes = |text: &str| Base64UrlUnpadded::decode_vec(text).map_err(|_| problem(&"expected base64url"));
    let (data, client) = (bytes(&response.authenticator_data)?, bytes(&response.client_data)?);
    let signature =
        key.assertion(digest, &data, &client, &bytes(&response.signature)?).map_err(|error| problem(&error))?;
    Ok((key.address(P256Form::Assertion), signature))
}
