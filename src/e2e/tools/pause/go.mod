// The program that holds a pod's namespaces.
module backfill-operator/e2e/pause

go 1.25.0
