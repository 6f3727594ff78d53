//! The log: entry types, replay into a realm, proofs; pure
