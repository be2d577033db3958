package httpapi

import (
	"maps"
	"slices"
)

// FieldNames are the fields that a request can set.
func FieldNames() []string {
	return slices.Collect(maps.Keys(into))
}

// Statuses are the codes of errors and the status that each answers with.
func Statuses() map[string]int {
	statuses := map[string]int{}
	for k, a := range answers {
		statuses[string(k)] = a.status
	}
	return statuses
}

// WarningsText is the header for warnings.
var WarningsText = warningsHeader
