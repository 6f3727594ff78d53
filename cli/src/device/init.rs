//! `countersign device init`: a device makes its two keys, says what they are, and asks to be enrolled. The keys never leave; running
//! it again makes nothing new and says the same again.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use alloy_primitives::B256;
use clap::Args;
use countersign_chain::keys::{ActorKey, KeySource, PASSWORD_VARIABLE};
use countersign_delivery::SecretKey;
use countersign_registry::entries::Entry;
use countersign_registry::{shard, sign};
use qrcode::QrCode;
use qrcode::render::unicode;
use serde::Serialize;
use zeroize::Zeroizing;

use super::claim::{Claim, Token};
use crate::context::Context;
use crate::error::CliError;
use crate::files::{self, Existing};
use crate::output::{Show, fields, now};
use crate::proposal::WriteText;
use crate::send::{Receipt, Sender};
use crate::signed::SignedWrites;

/// The keystore's name in a device's directory.
pub const LEDGER_KEY: &str = "ledger-key.json";
/// The password file's name, where the password was made here.
pub const LEDGER_PASSWORD: &str = "ledger-password";
/// The delivery key's name.
pub const DELIVERY_KEY: &str = "delivery-key";

/// How long signed writes of a device may be sent: they may travel on a stick.
const SIGNED_FOR_SECS: u64 = 86_400;

/// What to make, and how to ask.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The directory for the keys; made, mode 0700, where it is missing
    directory: PathBuf,
    /// The device's name, for people: [a-z0-9._-]{1,253}
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The device's SSH host key, if it runs an SSH server
    #[arg(long, value_name = "FILE.pub")]
    host_key: Option<PathBuf>,
    /// The one-time token from `countersign device invite`, in a file; - for stdin
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Ask at once, with a transaction that the device's ledger key pays for
    #[arg(long, conflicts_with = "sign_to")]
    send: bool,
    /// Sign the question into this file, for anybody to send with `countersign submit`: the device needs no coins
    #[arg(long, value_name = "FILE")]
    sign_to: Option<PathBuf>,
}

/// A device as it introduces itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Introduction {
    /// `made`, or `kept` where the keys were there.
    pub outcome: &'static str,
    /// For people.
    pub name: String,
    /// Address of the ledger key: its fingerprint.
    pub ledger_key: String,
    /// Public half of the delivery key.
    pub x25519: String,
    /// Its fingerprint.
    pub delivery_key: String,
    /// Fingerprint of the SSH host key.
    pub host_key: Option<String>,
    /// All of it, for `countersign device add`.
    pub uri: String,
    /// The files that hold the keys.
    pub files: Vec<PathBuf>,
    /// Where the question was logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// Where it was put.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    #[serde(skip)]
    next: String,
}

impl Show for Introduction {
    fn text(&self) -> String {
        let mut pairs = vec![
            ("device", self.name.clone()),
            ("ledger key", self.ledger_key.clone()),
            ("delivery key", self.delivery_key.clone()),
        ];
        pairs.extend(self.host_key.clone().map(|key| ("host key", key)));
        pairs.extend(self.files.iter().map(|file| ("file", file.display().to_string())));
        format!("{}\n{}\n{}\n\n{}\n", fields(&pairs), picture(&self.uri), self.uri, self.next)
    }
}

/// A QR code in half blocks; empty for a text that no QR code holds.
fn picture(text: &str) -> String {
    QrCode::new(text)
        .map(|code| {
            // Dark on light, as cameras expect it, on a dark terminal; the quiet zone is part of it.
            code.render::<unicode::Dense1x2>()
                .dark_color(unicode::Dense1x2::Light)
                .light_color(unicode::Dense1x2::Dark)
                .quiet_zone(true)
                .build()
        })
        .unwrap_or_default()
}

/// Makes what is missing, and asks.
///
/// # Errors
/// See [`CliError`].
pub async fn run(context: &Context, args: InitArgs) -> Result<(), CliError> {
    let realm = context.realm()?;
    let token = args.token_file.as_deref().map(token).transpose()?;
    if token.is_some() && !args.send && args.sign_to.is_none() {
        return Err(CliError::Missing { what: "a way to use the token", flag: "--send, or --sign-to FILE" });
    }
    let host_key = args.host_key.as_deref().map(files::public_key).transpose()?.unwrap_or_default();
    if !countersign_registry::enrolment::is_host_name(&args.name) {
        let problem = format!("`{}`: expected [a-z0-9._-]{{1,253}}", args.name);
        return Err(CliError::Argument { argument: "--name", problem });
    }
    let keys = Keys::ready(context, &args.directory)?;
    let claim = Claim {
        actor: keys.ledger.address(),
        x25519: B256::from(keys.delivery.public().to_bytes()),
        name: args.name,
        host_key,
    };
    claim.check()?;

    let entry = Entry::Enrol(claim.enrol(realm.pin.realm, token.as_ref()));
    let write = sign::write(shard::shard(shard::CLASS_INBOX, 0), &entry);
    let (receipt, file) = if args.send {
        (Some(Sender::new(context, &realm)?.append(&keys.ledger, vec![write]).await?), None)
    } else if let Some(path) = args.sign_to {
        let nonce = Sender::new(context, &realm)?.nonce(claim.actor).await?;
        let text = WriteText::new(&write, &format!("device {} asks to be enrolled", claim.name));
        SignedWrites::sign(
            &realm.pin,
            &keys.ledger.clone().into(),
            nonce,
            now().saturating_add(SIGNED_FOR_SECS),
            vec![text],
        )?
        .save(&path)?;
        (None, Some(path))
    } else {
        (None, None)
    };
    let next = next_step(&claim, &args.directory, receipt.is_some(), file.as_deref(), token.is_some());
    context.printer.result(&Introduction {
        outcome: if keys.made { "made" } else { "kept" },
        name: claim.name.clone(),
        ledger_key: claim.actor.to_string(),
        x25519: alloy_primitives::hex::encode(claim.x25519),
        delivery_key: claim.delivery_fingerprint(),
        host_key: claim.host_fingerprint(),
        uri: claim.uri(realm.pin.realm),
        files: keys.files,
        receipt,
        file,
        next,
    })
}

fn next_step(claim: &Claim, directory: &Path, asked: bool, file: Option<&Path>, token: bool) -> String {
    let directory = directory.display();
    let then = format!("then, here: countersign device status {directory} --wait 10m");
    let by_hand = format!(
        "an admin compares both fingerprints with this screen and runs:\n  countersign device approve ENTRY --ledger-key {} --delivery-key {}\n(the entry's name is in `countersign device pending`); {then}",
        claim.actor,
        claim.delivery_fingerprint(),
    );
    match (asked, file, token) {
        (true, _, true) => format!("Asked, with a token: `countersign device accept` lets it in; {then}"),
        (true, _, false) => format!("Asked: {by_hand}"),
        (false, Some(file), true) => {
            format!("Send it from anywhere with `countersign submit {}`; {then}", file.display())
        }
        (false, Some(file), false) => {
            format!("Send it from anywhere with `countersign submit {}`; {by_hand}", file.display())
        }
        (false, None, _) => format!(
            "Nothing was sent. An admin scans the code, or copies the line below it, and runs:\n  countersign device add 'countersign:device?…'\n{then}"
        ),
    }
}

fn token(path: &Path) -> Result<Token, CliError> {
    let text = if path == Path::new("-") {
        Zeroizing::new(files::read_text(path)?.lines().next().unwrap_or_default().to_owned())
    } else {
        files::password(path)?
    };
    Token::parse(&text)
}

/// A device's two keys.
pub struct Keys {
    /// Writes to the ledger.
    pub ledger: ActorKey,
    /// Opens what is sealed to the device.
    pub delivery: SecretKey,
    made: bool,
    files: Vec<PathBuf>,
}

impl Keys {
    /// Loads the keys in `directory`, and makes those that are missing; nothing that is there is replaced.
    fn ready(context: &Context, directory: &Path) -> Result<Self, CliError> {
        let made = std::fs::DirBuilder::new().mode(0o700).create(directory);
        match made {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(CliError::File { path: directory.to_owned(), source });
            }
            _ => {}
        }
        let (ledger_path, delivery_path) = (directory.join(LEDGER_KEY), directory.join(DELIVERY_KEY));
        let mut made = false;
        let delivery = if delivery_path.symlink_metadata().is_ok() {
            SecretKey::load_file(&delivery_path)?
        } else {
            made = true;
            let key = SecretKey::generate()?;
            key.create_file(&delivery_path)?;
            key
        };
        let mut files = vec![ledger_path.clone(), delivery_path];
        let password = password(context, directory, &mut files)?;
        let ledger = if ledger_path.symlink_metadata().is_ok() {
            let source = KeySource::File(ledger_path);
            let given = |name: &str| (name == PASSWORD_VARIABLE).then(|| password.as_str().into());
            ActorKey::load(&source, given, |_| Ok(password.clone()))?
        } else {
            made = true;
            let key = ActorKey::generate()?;
            let progress = context.printer.progress("encrypting the key");
            key.store(&ledger_path, &password)?;
            drop(progress);
            key
        };
        Ok(Self { ledger, delivery, made, files })
    }
}

/// The keystore's password: as given, or one made for this device, in a file beside the keystore. A device has nobody to type it.
fn password(context: &Context, directory: &Path, files: &mut Vec<PathBuf>) -> Result<Zeroizing<String>, CliError> {
    if let Some(given) = context.given_password()? {
        return Ok(given);
    }
    let path = directory.join(LEDGER_PASSWORD);
    files.push(path.clone());
    if path.symlink_metadata().is_err() {
        if directory.join(LEDGER_KEY).symlink_metadata().is_ok() {
            return Err(CliError::Missing { what: "the keystore's password", flag: "--password-file FILE" });
        }
        let secret = Zeroizing::new(alloy_primitives::hex::encode(crate::write::random16()?));
        files::write(&path, format!("{}\n", secret.as_str()).as_bytes(), 0o600, Existing::Keep)?;
    }
    files::password(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_introduction_fits_a_qr_code() {
        let claim =
            Claim { actor: Default::default(), x25519: B256::ZERO, name: "a".repeat(253), host_key: vec![7; 600] };
        let picture = picture(&claim.uri(B256::ZERO));
        assert!(picture.lines().count() > 20);
        assert!(picture.chars().all(|pixel| matches!(pixel, ' ' | '█' | '▀' | '▄' | '\n')));
    }
}
