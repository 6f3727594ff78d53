//! Whether OpenSSH reads a public key: beyond its form, whether an elliptic point lies on its curve.
//!
//! sshd refuses the file, or forgets the rest of it, at a key that it does not read. It asks more of a point than the curve
//! (`sshkey_ec_validate_public`): neither coordinate may be small, or reach the order less one.

use countersign_certificate::{CertificateError, KeyAlgorithm, PublicKey};
use p256::elliptic_curve::PrimeField as _;
use thiserror::Error;

/// Why OpenSSH would not read a key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not the form of a plain key.
    #[error("expected a plain public key in SSH wire form")]
    Form(#[from] CertificateError),
    /// A point that is none of its curve's, or one that OpenSSH refuses.
    #[error("expected a point on the curve that the key names, with coordinates that OpenSSH takes")]
    Point,
}

/// The key, if OpenSSH reads it.
pub(crate) fn check(blob: &[u8]) -> Result<PublicKey<'_>, KeyError> {
    let key = PublicKey::parse(blob)?;
    let good = match key.algorithm() {
        KeyAlgorithm::EcdsaP256 | KeyAlgorithm::SkEcdsaP256 => point(blob).is_some_and(|point| {
            p256::PublicKey::from_sec1_bytes(point).is_ok() && usable(point, &(-p256::Scalar::ONE).to_repr())
        }),
        KeyAlgorithm::EcdsaP384 => point(blob).is_some_and(|point| {
            p384::PublicKey::from_sec1_bytes(point).is_ok() && usable(point, &(-p384::Scalar::ONE).to_repr())
        }),
        KeyAlgorithm::EcdsaP521 => point(blob).is_some_and(|point| {
            p521::PublicKey::from_sec1_bytes(point).is_ok() && usable(point, &(-p521::Scalar::ONE).to_repr())
        }),
        _ => true,
    };
    if good { Ok(key) } else { Err(KeyError::Point) }
}

/// The third string of a blob whose form is known to be good: type, curve, point.
fn point(blob: &[u8]) -> Option<&[u8]> {
    let (_, rest) = string(blob)?;
    let (_, rest) = string(rest)?;
    string(rest).map(|(point, _)| point)
}

fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// Whether both coordinates have more than half of the order's bits, and are below `end`, the order less one. All are as long.
fn usable(point: &[u8], end: &[u8]) -> bool {
    let coordinates = point.split_first().and_then(|(_, both)| both.split_at_checked(end.len()));
    coordinates.is_some_and(|(x, y)| {
        // The orders are odd: the order less one has as many bits as the order.
        [x, y].iter().all(|number| bits(number) > bits(end).saturating_div(2) && *number < end)
    })
}

fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let rest = number.len().saturating_sub(zeros).saturating_mul(8);
    let top = number.get(zeros).map_or(0, |byte| byte.leading_zeros());
    rest.saturating_sub(usize::try_from(top).unwrap_or(0))
}
