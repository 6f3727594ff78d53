//! What a plain sshd reads beside or without the helper: a key revocation list (`RevokedKeys`) and a list of CAs
//! (`TrustedUserCAKeys`), as bytes.
//!
//! Both fail hard at sshd: a revocation list that does not parse refuses everybody, and one bad line in a list of CAs disables every
//! CA after it, silently. So nothing leaves this crate that it has not read back and found to say what was asked for. It does no
//! I/O, and decides nothing about who is revoked.

mod ca_list;
mod decode;
mod encode;
mod key;
mod line;
mod serials;

pub use ca_list::{CaListError, ca_list};
pub use decode::{KrlReadError, Revoked};
pub use encode::{Krl, KrlError, RevokedCertificates};
pub use key::KeyError;
pub use line::read_key_line;
