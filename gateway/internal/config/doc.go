// Package config holds the settings of the gateway: their defaults, where they come from and what makes them invalid.
//
// A setting has one name in three spellings: the flag --max-queue, the variable FACEDIFFUSER_MAX_QUEUE and the key max_queue of a
// YAML or JSON file. Flags win over variables, variables over the file, the file over the defaults. Every fault of every source is
// reported at once; nothing that was said wrongly is replaced by a default.
package config
