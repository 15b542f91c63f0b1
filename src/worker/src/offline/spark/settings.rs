//! How a template's size becomes settings of Spark. Pure: what is known goes in, properties come out.

use crate::failure::{Failure, Result};
use crate::storage::Location;
use backfill_core::condition::Reason;
use backfill_core::contract::Size;
use object_store::ClientConfigKey;
use object_store::aws::AmazonS3ConfigKey;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// What Java needs beside its heap, and the worker and Python beside Java, at least.
const RESERVED_BYTES_MIN: u64 = 640 * MIB;

/// The same where one of Spark's daemons runs, too: a second Java process.
const RESERVED_OF_EXECUTOR_BYTES_MIN: u64 = 1024 * MIB;

/// The share of a pod's memory that is no heap: one fifth.
const RESERVED_PART: u64 = 5;

/// The master's port when the environment does not say.
const PORT: u16 = 7077;

/// A secret that is shorter could be guessed.
const SECRET_BYTES_MIN: usize = 32;

/// Settings of Spark by their names.
pub type Properties = BTreeMap<String, String>;

/// Which part of a Spark cluster a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// All of it, in one process.
    Alone,
    /// Master and driver.
    Driver(Cluster),
}

/// How the parts of a cluster find and trust each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The name under which workers find the master.
    pub host: String,
    /// The master's port.
    pub port: u16,
    /// The address of this pod.
    pub address: String,
    /// What all of them know and nobody else.
    pub secret: String,
    /// How many workers compute.
    pub workers: u32,
}

impl Cluster {
    /// As the environment says.
    pub fn find(workers: u32) -> Result<Self> {
        let read = |name: &str| {
            std::env::var(name).map_err(|_| {
                let message = format!("{name} is not set; several nodes of Spark find each other by it");
                Failure::permanent(Reason::SparkUnavailable, message)
            })
        };
        let port = std::env::var("SPARK_MASTER_PORT").ok().and_then(|text| text.parse().ok()).unwrap_or(PORT);
        let file = read("SPARK_SECRET_FILE")?;
        let secret = std::fs::read_to_string(&file).map_err(|error| {
            Failure::permanent(Reason::SecretNotFound, format!("cannot read the secret of the Spark cluster, {file}: {error}"))
        })?;
        if secret.trim().len() < SECRET_BYTES_MIN {
            let message = format!("the secret of the Spark cluster, {file}, is shorter than {SECRET_BYTES_MIN} characters");
            return Err(Failure::permanent(Reason::SecretNotFound, message));
        }
        let (host, address) = (read("SPARK_MASTER_HOST")?, read("POD_IP")?);
        Ok(Self { host, port, address, secret: secret.trim().to_owned(), workers })
    }
}

/// What is installed, and where a driver may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The folder of the jars that Spark does not bring.
    pub jars: Option<PathBuf>,
    /// Scratch space of this step.
    pub scratch: PathBuf,
}

/// The heap of the process that drives and computes, alone.
pub fn driver_heap_bytes(size: &Size) -> u64 {
    size.memory_bytes.saturating_sub(RESERVED_BYTES_MIN.max(size.memory_bytes / RESERVED_PART)).max(256 * MIB)
}

/// The heap of a driver or an executor beside which a daemon runs.
pub fn executor_heap_bytes(size: &Size) -> u64 {
    size.memory_bytes.saturating_sub(RESERVED_OF_EXECUTOR_BYTES_MIN.max(size.memory_bytes / RESERVED_PART)).max(512 * MIB)
}

/// All settings of a driver. Those of the template come first: none of them replaces one of ours.
pub fn properties(role: &Role, size: &Size, conf: &Properties, places: &Places) -> Properties {
    let mut all = conf.clone();
    let mut set = |name: &str, value: String| _ = all.insert(name.to_owned(), value);
    for (name, value) in VALUES.into_iter().chain(REACH) {
        set(name, value.to_owned());
    }
    let scratch = places.scratch.display();
    set("spark.local.dir", scratch.to_string());
    set("spark.sql.warehouse.dir", format!("{scratch}/warehouse"));
    // Where S3's blocks wait until they are sent. Executors make the same folder on their own scratch.
    set("spark.hadoop.hadoop.tmp.dir", format!("{scratch}/hadoop"));
    if let Some(jars) = &places.jars {
        set("spark.driver.extraClassPath", format!("{}/*", jars.display()));
        set("spark.executor.extraClassPath", format!("{}/*", jars.display()));
    }
    // Zones and encodings of the machine must not reach the rows.
    let java = "-Duser.timezone=UTC -Dfile.encoding=UTF-8 -XX:+ExitOnOutOfMemoryError";
    set("spark.driver.extraJavaOptions", format!("{java} -Djava.io.tmpdir=\"{scratch}\""));
    // Its working directory is on the scratch of its own pod.
    set("spark.executor.extraJavaOptions", format!("{java} -Djava.io.tmpdir=."));
    match role {
        Role::Alone => {
            set("spark.driver.memory", mib(driver_heap_bytes(size)));
            set("spark.master", format!("local[{}]", size.cores));
            set("spark.driver.bindAddress", "127.0.0.1".to_owned());
            set("spark.driver.host", "127.0.0.1".to_owned());
        }
        Role::Driver(cluster) => {
            set("spark.master", format!("spark://{}:{}", cluster.host, cluster.port));
            // The master runs beside the driver, as a worker does beside its executor.
            set("spark.driver.memory", mib(executor_heap_bytes(size)));
            set("spark.driver.bindAddress", cluster.address.clone());
            set("spark.driver.host", cluster.address.clone());
            set("spark.executor.memory", mib(executor_heap_bytes(size)));
            set("spark.executor.cores", size.cores.to_string());
            set("spark.cores.max", (u64::from(size.cores) * u64::from(cluster.workers)).to_string());
            all.extend(trust(&cluster.secret));
        }
    }
    all
}

/// Who does not know the secret cannot talk to a part of the cluster, and who listens understands nothing.
pub fn trust(secret: &str) -> Properties {
    [
        ("spark.authenticate", "true"),
        ("spark.authenticate.secret", secret),
        ("spark.network.crypto.enabled", "true"),
        ("spark.network.crypto.saslFallback", "false"),
        ("spark.io.encryption.enabled", "true"),
        ("spark.master.rest.enabled", "false"),
        ("spark.master.ui.decommission.allow.mode", "DENY"),
        ("spark.ui.enabled", "false"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Settings on which the rows depend.
const VALUES: [(&str, &str); 25] = [
    ("spark.sql.session.timeZone", "UTC"),
    ("spark.sql.timestampType", "TIMESTAMP_LTZ"),
    ("spark.sql.ansi.enabled", "true"),
    ("spark.sql.ansi.doubleQuotedIdentifiers", "true"),
    ("spark.sql.parser.escapedStringLiterals", "false"),
    ("spark.sql.variable.substitute", "false"),
    ("spark.sql.caseSensitive", "false"),
    ("spark.sql.parquet.compression.codec", "zstd"),
    ("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS"),
    ("spark.sql.parquet.writeLegacyFormat", "false"),
    ("spark.sql.parquet.datetimeRebaseModeInRead", "CORRECTED"),
    ("spark.sql.parquet.datetimeRebaseModeInWrite", "CORRECTED"),
    ("spark.sql.parquet.int96RebaseModeInRead", "CORRECTED"),
    ("spark.sql.parquet.binaryAsString", "false"),
    ("spark.sql.parquet.inferTimestampNTZ.enabled", "true"),
    ("spark.sql.legacy.parquet.nanosAsLong", "true"),
    ("spark.sql.files.ignoreMissingFiles", "false"),
    ("spark.sql.files.ignoreCorruptFiles", "false"),
    // A file per task and partition: rows of equal keys and time must not be parted.
    ("spark.sql.files.maxRecordsPerFile", "0"),
    ("spark.hadoop.parquet.block.row.count.limit", "131072"),
    ("spark.hadoop.parquet.block.size", "67108864"),
    ("spark.databricks.delta.optimizeWrite.enabled", "false"),
    ("spark.databricks.delta.autoCompact.enabled", "false"),
    ("spark.databricks.delta.snapshotPartitions", "2"),
    ("spark.speculation", "false"),
];

/// Settings that bound what a transformation, or somebody on the network, can reach.
const REACH: [(&str, &str); 11] = [
    ("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension"),
    ("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog"),
    ("spark.sql.catalogImplementation", "in-memory"),
    ("spark.sql.runSQLOnFiles", "false"),
    ("spark.ui.enabled", "false"),
    ("spark.ui.showConsoleProgress", "false"),
    ("spark.eventLog.enabled", "false"),
    ("spark.api.mode", "classic"),
    ("spark.hadoop.fs.s3.impl", "org.apache.hadoop.fs.s3a.S3AFileSystem"),
    ("spark.io.encryption.enabled", "true"),
    ("spark.redaction.regex", "(?i)secret|password|token|access[.]?key"),
];

/// The settings of the object store in Spark's words. Other stores than S3 are refused with the way out.
pub fn store(location: &Location) -> Result<Properties> {
    match location.url.scheme() {
        "file" => Ok(Properties::new()),
        "s3" | "s3a" => Ok(s3(&location.options)),
        other => Err(Failure::permanent(
            Reason::InvalidStore,
            format!(
                "engine Spark reads s3:// and file:// only, and {} is {other}://; choose a cluster template of engine DataFusion",
                location.url
            ),
        )),
    }
}

fn s3(options: &std::collections::HashMap<String, String>) -> Properties {
    let known: Vec<(AmazonS3ConfigKey, &String)> =
        options.iter().filter_map(|(key, value)| Some((key.parse().ok()?, value))).collect();
    let find = |wanted: AmazonS3ConfigKey| known.iter().find(|(key, _)| *key == wanted).map(|(_, value)| (*value).clone());
    let is_true = |value: String| value.eq_ignore_ascii_case("true") || value == "1";
    let mut all = Properties::new();
    let mut set = |name: &str, value: String| _ = all.insert(format!("spark.hadoop.fs.s3a.{name}"), value);
    let (key, secret) = (find(AmazonS3ConfigKey::AccessKeyId), find(AmazonS3ConfigKey::SecretAccessKey));
    let token = find(AmazonS3ConfigKey::Token);
    if let (Some(key), Some(secret)) = (key, secret) {
        let provider = match &token {
            Some(_) => "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider",
            None => "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
        };
        set("aws.credentials.provider", provider.to_owned());
        set("access.key", key);
        set("secret.key", secret);
    }
    if let Some(token) = token {
        set("session.token", token);
    }
    if let Some(endpoint) = find(AmazonS3ConfigKey::S3Endpoint).or_else(|| find(AmazonS3ConfigKey::Endpoint)) {
        set("endpoint", endpoint);
    }
    if let Some(region) = find(AmazonS3ConfigKey::Region).or_else(|| find(AmazonS3ConfigKey::DefaultRegion)) {
        set("endpoint.region", region);
    }
    let plain = find(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)).is_some_and(is_true);
    set("connection.ssl.enabled", (!plain).to_string());
    let virtual_hosted = find(AmazonS3ConfigKey::VirtualHostedStyleRequest).is_some_and(is_true);
    set("path.style.access", (!virtual_hosted).to_string());
    all
}

/// A location as Hadoop's file systems name it: nothing in it is escaped.
pub fn hadoop_uri(location: &Location) -> Result<String> {
    let (_, path) = location.store()?;
    Ok(hadoop_path(location, path.as_ref()))
}

/// A path of a location's object store, counted from the store's root.
pub fn hadoop_path(location: &Location, path: &str) -> String {
    match location.url.scheme() {
        "file" => format!("file:///{path}"),
        _ => format!("s3a://{}/{path}", location.url.host_str().unwrap_or_default()),
    }
}

/// Properties as Java reads them from a file.
pub fn file_of(properties: &Properties) -> String {
    let line = |(name, value): (&String, &String)| format!("{}={}\n", escaped(name), escaped(value));
    properties.iter().map(line).collect()
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | ' ' | '=' | ':' | '#' | '!' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_graphic() => out.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    out
}

/// Writes a file that only this user can read.
pub fn write_private(path: &Path, content: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()));
    written.map_err(|error| Failure::permanent(Reason::DiskFull, format!("cannot write {}: {error}", path.display())))
}

/// An amount of memory as Java reads it.
pub fn mib(bytes: u64) -> String {
    format!("{}m", bytes / MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(gib: u64) -> Size {
        Size { cores: 4, memory_bytes: gib << 30, scratch_bytes: 1 << 30 }
    }

    fn places() -> Places {
        Places { jars: Some("/opt/jars".into()), scratch: "/scratch/a".into() }
    }

    fn cluster() -> Cluster {
        Cluster { host: "h".into(), port: 7077, address: "10.0.0.1".into(), secret: "s3cret".into(), workers: 3 }
    }

    /// The table of docs/engines.md.
    #[test]
    fn heaps_leave_a_fifth_and_never_less_than_java_and_the_worker_need() {
        let heaps =
            [2, 4, 8, 16, 64].map(|gib| (gib, driver_heap_bytes(&size(gib)) / MIB, executor_heap_bytes(&size(gib)) / MIB));
        let expected = [(2, 1408, 1024), (4, 3276, 3072), (8, 6553, 6553), (16, 13107, 13107), (64, 52428, 52428)];
        assert_eq!(heaps, expected);
    }

    #[test]
    fn no_setting_of_a_template_replaces_one_of_ours() {
        let ours = properties(&Role::Driver(cluster()), &size(4), &Properties::new(), &places());
        let theirs = ours.keys().map(|name| (name.clone(), "theirs".to_owned())).collect();
        assert_eq!(properties(&Role::Driver(cluster()), &size(4), &theirs, &places()), ours);
        let own: Properties = [("spark.sql.shuffle.partitions".to_owned(), "400".to_owned())].into();
        let all = properties(&Role::Alone, &size(4), &own, &places());
        assert_eq!(all["spark.sql.shuffle.partitions"], "400");
        // Whatever a template can set, core has admitted.
        for name in ours.keys() {
            assert!(backfill_core::request::check_spark_conf(&[(name.clone(), "x".to_owned())].into()).is_err(), "{name}");
        }
    }

    #[test]
    fn a_cluster_of_three_uses_the_cores_of_all_and_shares_a_secret() {
        let all = properties(&Role::Driver(cluster()), &size(4), &Properties::new(), &places());
        assert_eq!((all["spark.cores.max"].as_str(), all["spark.executor.cores"].as_str()), ("12", "4"));
        assert_eq!((all["spark.master"].as_str(), all["spark.authenticate"].as_str()), ("spark://h:7077", "true"));
        let alone = properties(&Role::Alone, &size(4), &Properties::new(), &places());
        assert_eq!(alone["spark.master"], "local[4]");
        assert_eq!(alone.get("spark.authenticate.secret"), None);
    }

    #[test]
    fn a_properties_file_keeps_any_value() {
        let all: Properties = [("spark.a".to_owned(), " a=b:c\\d\n#é🚲 ".to_owned())].into();
        assert_eq!(file_of(&all), "spark.a=\\ a\\=b\\:c\\\\d\\n\\#\\u00e9\\ud83d\\udeb2\\ \n");
    }

    #[test]
    fn credentials_of_s3_are_spoken_in_hadoops_words() {
        let options = [
            ("aws_access_key_id", "id"),
            ("secret_access_key", "key"),
            ("endpoint", "http://s3:9000"),
            ("aws_allow_http", "true"),
            ("region", "eu"),
        ];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let url = |text: &str| url::Url::parse(text).expect("a URL");
        let all = store(&Location { url: url("s3://b/t"), options }).expect("S3");
        let get = |name: &str| all.get(&format!("spark.hadoop.fs.s3a.{name}")).map(String::as_str);
        assert_eq!((get("access.key"), get("secret.key"), get("session.token")), (Some("id"), Some("key"), None));
        assert_eq!((get("endpoint"), get("endpoint.region")), (Some("http://s3:9000"), Some("eu")));
        assert_eq!((get("connection.ssl.enabled"), get("path.style.access")), (Some("false"), Some("true")));
        let refused = store(&Location { url: url("gs://b/t"), options: Default::default() }).expect_err("not S3");
        assert!(refused.message.contains("gs://") && refused.message.contains("DataFusion"), "{refused}");
    }
}
