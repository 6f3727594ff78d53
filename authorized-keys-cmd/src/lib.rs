//! AuthorizedKeysCommand and AuthorizedPrincipalsCommand: one decision from the snapshot alone
