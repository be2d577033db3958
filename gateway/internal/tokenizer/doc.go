// Package tokenizer turns a prompt into the 77 token ids that CLIP's text encoder reads, and finds
// the token of each subject.
//
// The ids equal those of transformers' CLIPTokenizerFast (v5.23.0, on tokenizers v0.23); why this
// is own code and not a library is recorded in docs/adr/0002-own-clip-tokenizer.md. Where a subject
// stands is decided on one token stream, see docs/adr/0003-one-token-stream.md.
package tokenizer
