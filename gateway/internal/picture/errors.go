package picture

import "fmt"

// Kind says what was wrong with an input; its text is usable as an error code.
type Kind string

// The kinds of [Error].
const (
	// Pictures.
	KindNotAnImage        Kind = "not_an_image"       // the bytes are no known image format
	KindUnsupportedFormat Kind = "unsupported_format" // a known format that is not decoded here, or a rare variant of one that is
	KindCorrupt           Kind = "corrupt_image"      // truncated or damaged
	KindTooManyBytes      Kind = "image_too_large"    // a file over Limits.MaxBytes
	KindTooManyPixels     Kind = "too_many_pixels"    // over Limits.MaxPixels or too much to hold decoded
	// Request bodies.
	KindBadBody       Kind = "invalid_body"        // malformed or truncated multipart or JSON
	KindContentType   Kind = "unsupported_content" // neither multipart/form-data nor application/json, or no boundary
	KindTooManyImages Kind = "too_many_images"     // more than FormLimits.MaxImages
	KindUnknownFile   Kind = "unknown_file"        // a file under another name than the image fields
	KindTooManyFields Kind = "too_many_fields"     // more than FormLimits.MaxFields
	KindFieldTooLarge Kind = "field_too_large"     // a text field over FormLimits.MaxFieldBytes
	KindBodyTooLarge  Kind = "body_too_large"      // over FormLimits.MaxBodyBytes
	KindUploadTooSlow Kind = "upload_too_slow"     // stalled, or too slow while others wait for memory
	KindNotADataURL   Kind = "invalid_data_url"    // image_url holds a data: URL that is malformed
)

// ofImage tells the faults of one picture from those of the whole body.
func (k Kind) ofImage() bool {
	switch k {
	case KindNotAnImage, KindUnsupportedFormat, KindCorrupt, KindTooManyBytes, KindTooManyPixels, KindNotADataURL:
		return true
	}
	return false
}

// Error is an input that cannot be used, in words its sender can act on.
type Error struct {
	Kind    Kind
	Param   string // the request's field, such as image[1]; empty for a picture on its own
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

func mebibytes(n int64) string { return fmt.Sprintf("%.4g MiB", float64(n)/(1<<20)) }
