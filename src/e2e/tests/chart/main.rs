//! The chart on a real control plane: installed by Helm, the operator a process under the chart's own account, pods played.
//! And what is made of the chart: manifests, alerts, dashboard, documentation. One file per topic.

mod alerts;
mod argo;
mod bills;
mod bypass;
mod examples;
mod files;
mod hooks;
mod install;
mod renders;
mod rights;
mod upgrade;
mod waiting;
mod world;
