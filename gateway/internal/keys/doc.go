// Package keys knows who asks: API keys, what each may do and how much of it.
//
//	secret.go  what a key looks like, and the hash that is kept of it
//	file.go    the list of keys: its JSON form, creating and revoking in a file
//	ring.go    the keys in force, reloaded while the gateway runs
//	limits.go  what a principal has used: rate, concurrency, daily quota
//
// A Ring owns the principals. A principal lives as long as its key is in force:
// a reload keeps what an unchanged key's holder has used, and a revoked key is
// refused from then on, while requests that it was admitted for are finished.
package keys
