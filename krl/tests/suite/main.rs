//! Lists against OpenSSH's own reader: `ssh-keygen -Q`.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests may")]
#![expect(clippy::panic, reason = "helpers of tests may panic as tests may")]

mod ca_list;
mod damage;
mod oracle;
mod support;
