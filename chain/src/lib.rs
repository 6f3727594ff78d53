//! Talking to EVM nodes: trusted headers, proofs, logs, transactions
