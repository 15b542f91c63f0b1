//! What several pods of Spark need beside their Job.

use crate::shell::{Answer, Error, Shell, call};
use backfill_core::plan::manifest::spark::{Company, SECRET_KEY, entrust, keep_secret, secret_of};
use backfill_core::plan::run::Run;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};

/// The length of what is secret, in bytes before it is written as hexadecimal digits.
const SECRET_BYTES: usize = 32;

impl Shell {
    /// Makes what is beside the Job; returns order and Job with the Secret's name in them.
    ///
    /// The Secret comes before the order that names it, since nothing but the order tells which one it is: one that a crash left
    /// without an order is of no use to anybody, and goes with the backfill.
    pub async fn together(
        &self,
        run: &Run<'_>,
        company: &Company,
        order: &ConfigMap,
        job: &Job,
    ) -> Result<(ConfigMap, Job), Error> {
        let orders = self.api::<ConfigMap>(run.namespace);
        let made = call("get", "the order", orders.get(&order.name_any())).await?.found();
        let secret = match made.as_ref().and_then(secret_of) {
            Some(secret) => secret.to_owned(),
            None => self.secret(run, company).await?,
        };
        let (mut order, mut job) = (order.clone(), job.clone());
        keep_secret(&mut order, &secret);
        entrust(&mut job, &secret);
        let once = PostParams::default();
        let (services, policies) = (self.api::<Service>(run.namespace), self.api::<NetworkPolicy>(run.namespace));
        call("create", "the service", services.create(&once, &company.service)).await?;
        call("create", "the network policy", policies.create(&once, &company.policy)).await?;
        Ok((order, job))
    }

    async fn secret(&self, run: &Run<'_>, company: &Company) -> Result<String, Error> {
        let mut bytes = [0; SECRET_BYTES];
        let unavailable = |error: getrandom::Error| Error::Unavailable {
            verb: "make up",
            what: "the secret of a run".to_owned(),
            message: error.to_string(),
            retry_after: None,
        };
        getrandom::fill(&mut bytes).map_err(unavailable)?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let secret = Secret { string_data: Some([(SECRET_KEY.to_owned(), text)].into()), ..company.secret.clone() };
        let made =
            call("create", "the secret", self.api::<Secret>(run.namespace).create(&PostParams::default(), &secret)).await?;
        match made {
            Answer::Ok(made) => Ok(made.name_any()),
            Answer::Exists | Answer::NotFound => Err(Error::Conflict { what: "the secret of a run".to_owned() }),
        }
    }

    /// Removes what was beside the Jobs of a backfill. Its Secrets go with itself: nobody but their pods may read them.
    pub async fn dissolve(&self, run: &Run<'_>, ours: &ListParams) -> Result<(), Error> {
        if self.settings.spark_image.is_none() {
            return Ok(());
        }
        let background = DeleteParams::background();
        call("delete", "services", self.api::<Service>(run.namespace).delete_collection(&background, ours)).await?;
        call("delete", "network policies", self.api::<NetworkPolicy>(run.namespace).delete_collection(&background, ours)).await?;
        Ok(())
    }
}
