// Package job runs requests: every request of the gateway is a job underneath.
//
//	queued → running → succeeded | failed | canceled | expired
//
// Ownership:
//   - A job is finalised exactly once, by the goroutine that Submit started for
//     it; cancelling, expiring and draining only end that goroutine's context.
//   - A job's history is written by that goroutine alone (Generate never calls
//     its observer twice at once) and read by any number of subscribers. A
//     subscriber reads at its own pace from wherever it begins, so one that
//     comes late sees what was, and one that is slow holds up nobody.
//   - The runner counts pictures, not requests. It admits as many as run at
//     once plus MaxQueue; the pipeline hands out the running slots, first come
//     first served.
//
// This runner keeps jobs in memory and forgets one when it has been finalised
// and its holders drop it.
package job
