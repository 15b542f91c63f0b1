{{- define "backfill-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "backfill-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "backfill-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "backfill-operator.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The name of what belongs to no namespace: two releases do not meet. */}}
{{- define "backfill-operator.clusterName" -}}
{{- $name := include "backfill-operator.fullname" . }}
{{- if eq $name .Release.Namespace }}{{ $name }}{{ else }}{{ printf "%s.%s" $name .Release.Namespace }}{{ end }}
{{- end }}

{{- define "backfill-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "backfill-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "backfill-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "backfill-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "backfill-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "backfill-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The name by which the API server knows the operator. */}}
{{- define "backfill-operator.user" -}}
{{- printf "system:serviceaccount:%s:%s" .Release.Namespace (include "backfill-operator.serviceAccountName" .) }}
{{- end }}

{{/* An image of values `image` in the context `root`. */}}
{{- define "backfill-operator.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) }}
{{- end }}
{{- end }}

{{/* What the operator asks of the API server in a namespace whose backfills it looks after. No Secrets. */}}
{{- define "backfill-operator.rules" -}}
- apiGroups: [featureset.dev]
  resources: [featuresetbackfills, featuresets]
  verbs: [get, list, watch, patch]
- apiGroups: [featureset.dev]
  resources: [featurestores]
  verbs: [get, list, watch]
- apiGroups: [featureset.dev]
  resources: [featuresetbackfills/status, featuresets/status, featurestores/status]
  verbs: [update]
# Orders and Jobs are owned by their backfill and block its deletion; some clusters ask for this right then.
- apiGroups: [featureset.dev]
  resources: [featuresetbackfills/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete, deletecollection]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, deletecollection]
{{- if .Values.spark.enabled }}
# What several pods of Spark need beside their Job. What is secret is written once and never read.
- apiGroups: [""]
  resources: [services]
  verbs: [create, deletecollection]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, deletecollection]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
{{- end }}
# Why a pod does not start is read from events.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* What it asks about the cluster. */}}
{{- define "backfill-operator.clusterRules" -}}
- apiGroups: [featureset.dev]
  resources: [clustertemplates]
  verbs: [{{ if .Values.clusterTemplates.create }}get, create, {{ end }}list, watch]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
{{- end }}

{{/* Where `helm test` works: in a namespace that the operator looks after. */}}
{{- define "backfill-operator.testNamespace" -}}
{{- first (append .Values.watchNamespaces .Release.Namespace) }}
{{- end }}
