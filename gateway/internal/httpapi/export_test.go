package httpapi

// FieldNames are the fields that each endpoint takes.
func FieldNames() map[string][]string {
	names := map[string][]string{}
	for _, on := range []endpoint{edits, generations} {
		for _, f := range fields {
			if f.on&on != 0 {
				names[on.path()] = append(names[on.path()], f.name)
			}
		}
	}
	return names
}

// Statuses are the codes of errors and the status that each answers with.
func Statuses() map[string]int {
	statuses := map[string]int{}
	for k, a := range answers {
		statuses[string(k)] = a.status
	}
	return statuses
}
