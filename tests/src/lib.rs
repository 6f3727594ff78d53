//! Scenarios against real sshd, real chain nodes, real files
