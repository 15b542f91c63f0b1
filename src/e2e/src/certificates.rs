//! The keys and certificates of a cluster, made anew for each.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::{Path, PathBuf};

/// Files of one cluster.
#[derive(Debug)]
pub struct Certificates {
    /// The certificate of the authority, which clients trust.
    pub authority: PathBuf,
    /// The API server's certificate.
    pub server: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// The key with which tokens of service accounts are signed.
    pub token_key: PathBuf,
    /// Its public half, by which they are checked.
    pub token_public_key: PathBuf,
}

impl Certificates {
    /// Makes and writes all of them.
    pub fn write(folder: &Path) -> Result<Self> {
        let write = |name: &str, pem: String| -> Result<PathBuf> {
            let path = folder.join(name);
            std::fs::write(&path, pem)?;
            Ok(path)
        };
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let (key, tokens) = (KeyPair::generate()?, KeyPair::generate()?);
        let server = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?.signed_by(&key, &authority)?;
        Ok(Self {
            authority: write("authority.crt", authority.pem())?,
            server: write("server.crt", server.pem())?,
            server_key: write("server.key", key.serialize_pem())?,
            token_key: write("tokens.key", tokens.serialize_pem())?,
            token_public_key: write("tokens.pub", tokens.public_key_pem())?,
        })
    }
}
