package upload

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
)

// Kind says what was wrong with a body; its text is usable as an error code.
// What is wrong with a picture in it has the text of its [picture.Kind].
type Kind string

// The kinds of [Error].
const (
	KindBadBody       Kind = "invalid_body"        // malformed or truncated multipart or JSON
	KindContentType   Kind = "unsupported_content" // neither multipart/form-data nor application/json, no boundary, a charset or an encoding that is not read here
	KindNotUTF8       Kind = "invalid_value"       // a form's text that is not UTF-8
	KindTooManyImages Kind = "too_many_images"     // more than the caller takes
	KindUnknownFile   Kind = "unknown_file"        // a file under another name than the image fields
	KindTooManyFields Kind = "too_many_fields"     // more than Limits.MaxFields
	KindFieldTooLarge Kind = "field_too_large"     // text over Limits.MaxTextBytes
	KindFileTooLarge  Kind = "image_too_large"     // a file over Limits.MaxFileBytes
	KindBodyTooLarge  Kind = "body_too_large"      // over what the largest body of good files takes
	KindTooSlow       Kind = "upload_too_slow"     // stalled, over Limits.Timeout, or slow while others wait for memory
	KindNotADataURL   Kind = "invalid_data_url"    // image_url holds a data: URL that is malformed
)

// Error is a body that cannot be used, in words its sender can act on.
type Error struct {
	Kind    Kind
	Param   string // the request's field, such as image[1]; empty for the body as a whole
	Message string // complete sentence without the field's name
	Err     error  // cause, may be nil
}

func (e *Error) Error() string {
	if e.Param != "" {
		return e.Param + ": " + e.Message
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

func errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// ofImage names the field of a picture in an error about that picture.
func ofImage(param string, err error) error {
	if e := (*picture.Error)(nil); errors.As(err, &e) {
		return &Error{Kind: Kind(e.Kind), Param: param, Message: e.Message, Err: e}
	}
	if e := (*Error)(nil); errors.As(err, &e) && (e.Kind == KindFileTooLarge || e.Kind == KindNotADataURL) {
		return &Error{Kind: e.Kind, Param: param, Message: e.Message, Err: e.Err}
	}
	return err
}

// bodyError makes an [*Error] of what reading a body returned. An error that is
// one already comes first: the server ends the context of a request whose read
// deadline has passed, and that says less.
func bodyError(ctx context.Context, err error) error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, new(flate.CorruptInputError)):
		return &Error{Kind: KindBadBody, Message: fmt.Sprintf("the content encoding is gzip, but the request body is no valid gzip (%v)", err), Err: err}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &Error{Kind: KindBadBody, Message: "the request body is cut off before its end", Err: err}
	}
	return &Error{Kind: KindBadBody, Message: fmt.Sprintf("the request body is malformed (%v)", err), Err: err}
}

func mebibytes(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%.4g KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.4g MiB", float64(n)/(1<<20))
}
