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
    /// The certificate by which kubelets know the API server.
    pub kubelet_client: PathBuf,
    /// Its key.
    pub kubelet_client_key: PathBuf,
    /// The key with which tokens of service accounts are signed.
    pub token_key: PathBuf,
    /// Its public half, by which they are checked.
    pub token_public_key: PathBuf,
}

impl Certificates {
    /// Makes and writes all of them, for a server with these names and addresses.
    pub fn write(folder: &Path, names: &[String]) -> Result<Self> {
        let write = |name: &str, pem: String| -> Result<PathBuf> {
            let path = folder.join(name);
            std::fs::write(&path, pem)?;
            Ok(path)
        };
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let (key, client_key, tokens) = (KeyPair::generate()?, KeyPair::generate()?, KeyPair::generate()?);
        let server = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        let client = CertificateParams::new(["kube-apiserver".to_owned()])?.signed_by(&client_key, &authority)?;
        Ok(Self {
            authority: write("authority.crt", authority.pem())?,
            server: write("server.crt", server.pem())?,
            server_key: write("server.key", key.serialize_pem())?,
            kubelet_client: write("kubelet-client.crt", client.pem())?,
            kubelet_client_key: write("kubelet-client.key", client_key.serialize_pem())?,
            token_key: write("tokens.key", tokens.serialize_pem())?,
            token_public_key: write("tokens.pub", tokens.public_key_pem())?,
        })
    }
}
