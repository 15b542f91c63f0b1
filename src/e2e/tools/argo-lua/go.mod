// The interpreter by which Argo CD judges a resource, as a filter.
module backfill-operator/e2e/argo-lua

go 1.26.0

require github.com/yuin/gopher-lua v1.1.2
