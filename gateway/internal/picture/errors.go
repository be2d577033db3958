package picture

import "fmt"

// Kind says what was wrong with an input; its text is usable as an error code.
type Kind string

// The kinds of [Error].
const (
	KindNotAnImage        Kind = "not_an_image"       // the bytes are no known image format
	KindUnsupportedFormat Kind = "unsupported_format" // a known format that is not decoded here, or a rare variant of one that is
	KindCorrupt           Kind = "corrupt_image"      // truncated or damaged
	KindTooManyPixels     Kind = "too_many_pixels"    // over Limits.MaxPixels or too much to hold decoded
)

// Error is a picture that cannot be used, in words its sender can act on.
type Error struct {
	Kind    Kind
	Message string // complete sentence
	Err     error  // cause, may be nil
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Err }

func errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}
