//! Certificates as the login helper is asked about them, laid out field by field. Nobody signs them: sshd verifies signatures, the
//! helper everything else, and it is the helper that is asked.

use countersign_certificate::{
    Digest32, Id, LogProof, RealmId, Scope, Serial, Target, insert_log_proof, leaf_hash, merkle,
};

/// A string in SSH wire form.
fn string(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("a short string");
    [&length.to_be_bytes()[..], content].concat()
}

/// An Ed25519 public key in wire form, of no known private key.
#[must_use]
pub fn blob(name: u8) -> Vec<u8> {
    [string(b"ssh-ed25519"), string(&[name; 32])].concat()
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub struct Paper {
    /// The realm of its scope.
    pub realm: RealmId,
    /// The host of its scope.
    pub host: Id,
    /// Whose it is.
    pub user: Id,
    /// By which grant.
    pub grant: Id,
    /// Its only principal.
    pub login: &'static str,
    /// The request it answers.
    pub request: Id,
    /// Name of the key that it certifies.
    pub key: u8,
    /// Its CA's record, and the name of that CA's key.
    pub ca: (Id, u8),
    /// Its serial.
    pub serial: Serial,
    /// Valid after, Unix seconds.
    pub after: u64,
    /// Valid before, Unix seconds.
    pub before: u64,
}

impl Paper {
    /// The bytes that are logged.
    fn pre_certificate(&self) -> Vec<u8> {
        let scope = Scope {
            realm: self.realm,
            user: self.user,
            grant: self.grant,
            target: Target::Host(self.host),
            request: self.request,
        };
        let extensions = [
            string(b"permit-pty"),
            string(b""),
            string(b"scope@countersign"),
            string(&string(scope.to_text().as_bytes())),
        ];
        [
            string(b"ssh-ed25519-cert-v01@openssh.com"),
            string(&[9; 32]),
            string(&[self.key; 32]),
            self.serial.0.to_be_bytes().to_vec(),
            1_u32.to_be_bytes().to_vec(),
            string(format!("someone/{}", self.request).as_bytes()),
            string(&string(self.login.as_bytes())),
            self.after.to_be_bytes().to_vec(),
            self.before.to_be_bytes().to_vec(),
            string(b""),
            string(&extensions.concat()),
            string(b""),
            string(&blob(self.ca.1)),
        ]
        .concat()
    }

    fn leaf(&self) -> Digest32 {
        leaf_hash(&self.realm, &self.ca.0, &self.pre_certificate())
    }

    /// The root of a batch that holds this certificate alone.
    #[must_use]
    pub fn root(&self) -> Digest32 {
        merkle::root(&[self.leaf()]).expect("one leaf")
    }

    /// The certificate with a proof that it is the only one of `batch`.
    #[must_use]
    pub fn logged(&self, batch: Id) -> Vec<u8> {
        let proof = LogProof::among(batch, &[self.leaf()], 0).expect("one leaf");
        let body = insert_log_proof(&self.pre_certificate(), &proof).expect("a certificate");
        [body, signature()].concat()
    }

    /// The certificate without a proof.
    #[must_use]
    pub fn unlogged(&self) -> Vec<u8> {
        [self.pre_certificate(), signature()].concat()
    }
}

fn signature() -> Vec<u8> {
    string(&[string(b"ssh-ed25519"), string(&[5; 64])].concat())
}
