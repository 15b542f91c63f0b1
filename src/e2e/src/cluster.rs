//! One control plane: etcd, API server and controllers, with the resources of this project installed.

use crate::access::{self, Who};
use crate::certificates::Certificates;
use crate::kubectl::{self, Output};
use crate::namespace::Namespace;
use crate::node::{self, Network, Nodes, Plane};
use crate::process::{Folder, Process};
use crate::{port, tools, wait};
use anyhow::{Context, Result, ensure};
use backfill_core::api::crds;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{GetParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::conditions::is_crd_established;
use kube::{Api, Client, Config, ResourceExt};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The controllers that take part: what makes and counts pods of Jobs, what tidies up, and what fills aggregated roles.
const CONTROLLERS: &str = "job-controller,garbage-collector-controller,pod-garbage-collector-controller,namespace-controller,\
                           serviceaccount-controller,resourcequota-controller,clusterrole-aggregation-controller";

/// The controllers that real pods and their Services need besides.
const NODE_CONTROLLERS: &str = "deployment-controller,replicaset-controller,endpointslice-controller,\
                                root-ca-certificate-publisher-controller,disruption-controller,node-lifecycle-controller,\
                                taint-eviction-controller,persistentvolume-binder-controller,\
                                persistentvolumeclaim-protection-controller";

/// How a cluster is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Requests per second of the controllers. Kubernetes' own default is 20, which makes about 8 pods a second.
    pub controller_qps: u32,
    /// Requests of the controllers at once. Kubernetes' own default is 30.
    pub controller_burst: u32,
    /// How many nodes run real pods, at most three. Without nodes pods can only be played.
    pub nodes: u8,
    /// Further flags of the API server.
    pub server_flags: Vec<String>,
    /// Further flags of the controllers.
    pub controller_flags: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { controller_qps: 1000, controller_burst: 2000, nodes: 0, server_flags: Vec::new(), controller_flags: Vec::new() }
    }
}

impl Options {
    /// The controllers' rates as Kubernetes ships them.
    pub fn as_shipped() -> Self {
        Self { controller_qps: 20, controller_burst: 30, ..Self::default() }
    }
}

/// A running control plane. It ends, and its folder vanishes, on drop and when this process ends in any way.
///
/// Belongs to the tokio runtime in which it was started.
pub struct Cluster {
    // Dropped in this order: each talks to the next.
    nodes: Option<Nodes>,
    controllers: Process,
    server: Process,
    store: Process,
    client: Client,
    url: String,
    token: String,
    kubeconfig: PathBuf,
    certificates: Certificates,
    files: AtomicU32,
    folder: Folder,
}

impl Cluster {
    /// Starts a cluster for tests.
    pub async fn start() -> Result<Self> {
        Self::start_with(&Options::default()).await
    }

    /// Starts a cluster. It is ready when this returns: the resources are established, only namespaces' accounts take a moment.
    pub async fn start_with(options: &Options) -> Result<Self> {
        // Fails when there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = Folder::create()?;
        let network = if options.nodes > 0 { Some(Network::start(folder.path()).await?) } else { None };
        let place = Place::new(network.as_ref(), options)?;
        let certificates = Certificates::write(folder.path(), &place.names)?;
        let token = uuid::Uuid::new_v4().to_string();
        let url = format!("https://{}:{}", place.address, place.port);
        let kubeconfig = folder.path().join("admin.kubeconfig");
        std::fs::write(&kubeconfig, access::kubeconfig(&url, &certificates.authority, &token, None).to_string())?;

        let mut store = start_store(folder.path()).await?;
        let mut server = start_server(folder.path(), &certificates, &token, &place)?;
        let client = client(&kubeconfig).await?;
        let mut alive = || server.check().and(store.check());
        install(&client, &mut alive).await?;
        // The garbage collector looks for new resources every 30 s only: it starts when ours are there.
        let controllers = start_controllers(folder.path(), &kubeconfig, &certificates, options)?;
        ready(&client, &mut alive).await?;
        let plane =
            Plane { folder: folder.path(), certificates: &certificates, kubeconfig: &kubeconfig, url: &url, client: &client };
        let nodes = match network {
            Some(network) => Some(Nodes::start(&plane, network, &place.node_tokens).await?),
            None => None,
        };
        let files = AtomicU32::new(0);
        Ok(Self { nodes, controllers, server, store, client, url, token, kubeconfig, certificates, files, folder })
    }

    /// The admin's client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The URL of the API server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The nodes of a cluster that was started with some.
    pub fn nodes(&self) -> Result<&Nodes> {
        self.nodes.as_ref().context("this cluster was started without nodes")
    }

    /// The ids of the control plane's processes.
    pub fn processes(&self) -> Vec<u32> {
        vec![self.controllers.id(), self.server.id(), self.store.id()]
    }

    /// Where files of tests may be kept; it vanishes with the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new kubeconfig for somebody, by way of another server (`http://127.0.0.1:…`, a proxy) when one is given.
    ///
    /// kubectl sends no credentials over plain HTTP, kube does.
    pub async fn kubeconfig_of(&self, who: &Who, by_way_of: Option<&str>) -> Result<PathBuf> {
        let (token, user) = match who {
            Who::Admin => (self.token.clone(), None),
            Who::User { name, groups } => (self.token.clone(), Some((name.as_str(), groups.as_slice()))),
            Who::ServiceAccount { namespace, name } => (self.account_token(namespace, name).await?, None),
        };
        let config = access::kubeconfig(by_way_of.unwrap_or(&self.url), &self.certificates.authority, &token, user);
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("{number}.kubeconfig"));
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// A client of somebody.
    pub async fn client_of(&self, who: &Who) -> Result<Client> {
        client(&self.kubeconfig_of(who, None).await?).await
    }

    async fn account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await?;
        Ok(answer.status.context("a token request is answered at once")?.token)
    }

    /// Runs kubectl as admin.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_with(arguments, "").await
    }

    /// Runs kubectl as admin; `input` is what `-f -` reads.
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<Output> {
        kubectl::kubectl(&self.kubeconfig, arguments, input).await
    }

    /// What kstatus (Flux, Helm 4) says to each object: `Status\tmessage`.
    pub async fn kstatus(&self, objects: &[Value]) -> Result<Vec<String>> {
        kubectl::kstatus(objects).await
    }

    /// A new namespace whose name begins with `prefix`, ready for pods.
    pub async fn namespace(&self, prefix: &str) -> Result<Namespace> {
        Namespace::create(self.client(), self.kubeconfig.clone(), prefix).await
    }

    /// Applies manifests (YAML or JSON) as users do.
    pub async fn apply(&self, manifests: &str) -> Result<()> {
        self.kubectl_with(&["apply", "-f", "-"], manifests).await?.ok().map(drop)
    }
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Starts etcd, which is ready when its socket is there.
async fn start_store(folder: &Path) -> Result<Process> {
    let socket = folder.join("etcd.sock");
    let arguments = [
        format!("--data-dir={}", folder.join("etcd").display()),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=error".to_owned(),
        format!("--listen-client-urls=unix://{}", socket.display()),
        // Nobody asks for it, and a path is not allowed in it.
        "--advertise-client-urls=http://localhost:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
    ];
    let mut process = Process::start(&tools::path("etcd")?, &arguments, folder)?;
    wait::eventually("the socket of etcd", async || {
        process.check()?;
        Ok(socket.exists().then_some(()))
    })
    .await?;
    Ok(process)
}

/// Where the API server is found.
struct Place {
    address: IpAddr,
    port: u16,
    /// Its names and addresses.
    names: Vec<String>,
    /// The tokens of the nodes' kubelets.
    node_tokens: Vec<String>,
    /// Flags that belong to the place.
    flags: Vec<String>,
}

impl Place {
    /// On the wire to the nodes, or on the loopback interface when there are none.
    fn new(network: Option<&Network>, options: &Options) -> Result<Self> {
        let address = IpAddr::from(network.map_or(Ipv4Addr::LOCALHOST, Network::machine));
        let mut names = vec![address.to_string(), "localhost".to_owned()];
        let mut flags = vec![format!("--bind-address={address}"), format!("--advertise-address={address}")];
        match network {
            Some(network) => {
                let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
                names.extend(service.into_iter().chain([network.kubernetes().to_string()]));
                flags.extend([
                    "--authorization-mode=Node,RBAC".to_owned(),
                    "--enable-admission-plugins=NodeRestriction".to_owned(),
                    "--kubelet-preferred-address-types=InternalIP".to_owned(),
                    format!("--service-cluster-ip-range={}", network.services()),
                ]);
            }
            None => flags.extend([
                "--authorization-mode=RBAC".to_owned(),
                "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
                // There is no Service for the API server: the loopback address cannot be one of its endpoints.
                "--endpoint-reconciler-type=none".to_owned(),
            ]),
        }
        flags.extend_from_slice(&options.server_flags);
        let port = port::free(address)?;
        let node_tokens = (0..options.nodes).map(|_| uuid::Uuid::new_v4().to_string()).collect();
        Ok(Self { address, port, names, node_tokens, flags })
    }
}

fn start_server(folder: &Path, certificates: &Certificates, token: &str, place: &Place) -> Result<Process> {
    let tokens = folder.join("tokens.csv");
    let mut known = format!("{token},admin,admin,\"system:masters\"\n");
    for (number, token) in (0..).zip(&place.node_tokens) {
        let name = node::name(number);
        known.push_str(&format!("{token},system:node:{name},{name},\"system:nodes\"\n"));
    }
    std::fs::write(&tokens, known)?;
    let mut arguments = vec![
        format!("--etcd-servers=unix://{}", folder.join("etcd.sock").display()),
        format!("--secure-port={}", place.port),
        format!("--tls-cert-file={}", certificates.server.display()),
        format!("--tls-private-key-file={}", certificates.server_key.display()),
        format!("--token-auth-file={}", tokens.display()),
        format!("--kubelet-client-certificate={}", certificates.kubelet_client.display()),
        format!("--kubelet-client-key={}", certificates.kubelet_client_key.display()),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", certificates.token_public_key.display()),
        format!("--service-account-signing-key-file={}", certificates.token_key.display()),
    ];
    arguments.extend_from_slice(&place.flags);
    Process::start(&tools::path("kube-apiserver")?, &arguments, folder)
}

fn start_controllers(folder: &Path, kubeconfig: &Path, certificates: &Certificates, options: &Options) -> Result<Process> {
    let of_nodes = if options.nodes > 0 { format!(",{NODE_CONTROLLERS}") } else { String::new() };
    let mut arguments = vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--controllers={CONTROLLERS}{of_nodes}"),
        format!("--root-ca-file={}", certificates.authority.display()),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        format!("--kube-api-qps={}", options.controller_qps),
        format!("--kube-api-burst={}", options.controller_burst),
    ];
    arguments.extend_from_slice(&options.controller_flags);
    Process::start(&tools::path("kube-controller-manager")?, &arguments, folder)
}

/// Creates the definitions as soon as the server takes them, which is before it calls itself ready.
async fn install(client: &Client, alive: &mut impl FnMut() -> Result<()>) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in crds() {
        wait::eventually(&format!("the server to take {}", crd.name_any()), async || {
            alive()?;
            match api.create(&PostParams::default(), &crd).await {
                Ok(_) => Ok(Some(())),
                Err(kube::Error::Api(status)) if status.code == 422 => Err(kube::Error::Api(status).into()),
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(Some(())),
                // Not listening, or not yet with all of its parts.
                Err(_) => Ok(None),
            }
        })
        .await?;
    }
    Ok(())
}

async fn ready(client: &Client, alive: &mut impl FnMut() -> Result<()>) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in crds() {
        let established = wait::until(&api, &crd.name_any(), is_crd_established()).await?;
        ensure!(established.is_some(), "{} was deleted", crd.name_any());
    }
    wait::eventually("the server to be ready", async || {
        alive()?;
        let request = kube::core::Request::new("").get("readyz", &GetParams::default())?;
        Ok(client.request_text(request).await.ok())
    })
    .await
    .map(drop)
}
