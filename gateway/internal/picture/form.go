package picture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"strings"
)

// FormLimits of one request body. Zero fields take the defaults.
type FormLimits struct {
	MaxImages    int   // default 4
	MaxFields    int   // text fields of a form; default 100
	MaxTextBytes int64 // a form's text fields together, or a JSON body without its pictures; default 1 MiB
	MaxBodyBytes int64 // default: what MaxImages files of Limits.MaxBytes and the text take on the wire
}

func (l FormLimits) withDefaults(d *Decoder) FormLimits {
	if l.MaxImages <= 0 {
		l.MaxImages = 4
	}
	if l.MaxFields <= 0 {
		l.MaxFields = 100
	}
	setDefault(&l.MaxTextBytes, 1<<20)
	// Base64 takes 4 bytes for 3. A body that long is still no memory problem.
	setDefault(&l.MaxBodyBytes, int64(l.MaxImages)*d.limits.MaxBytes/3*4+2*l.MaxTextBytes)
	return l
}

// Form is a request body whose pictures have been decoded.
type Form struct {
	Fields []Field      // text fields in their order; none for a JSON body
	JSON   []byte       // the JSON body with pictures replaced, see ReadJSON; nil for a form
	Images []*Reference // in their order
}

// Field is a text field of a form.
type Field struct{ Name, Value string }

// ReadForm reads a multipart/form-data body as it arrives: pictures in the file
// fields image and image[], repeated at will, and text fields, in any order.
// Nothing goes to disk, and of each picture only the reference stays.
//
// An error that the client can mend is an [*Error] with the field in Param: one
// for a file in another field has [KindUnknownFile]. Pictures count from 0 in
// the order they arrive, as image[0].
func (d *Decoder) ReadForm(ctx context.Context, body Body, limits FormLimits) (form *Form, err error) {
	limits = limits.withDefaults(d)
	media, params, err := mime.ParseMediaType(body.ContentType)
	if err != nil || media != "multipart/form-data" || params["boundary"] == "" {
		return nil, errorf(KindContentType, "the content type must be multipart/form-data with a boundary, not %.100q", body.ContentType)
	}
	r := body.open(limits.MaxBodyBytes)
	defer func() { r.finish(err) }()
	form = &Form{}
	text := limits.MaxTextBytes
	// mime/multipart takes an end amid the headers of a part for the end of the
	// form. Here the form ends with its last boundary, perhaps without a newline.
	closed := io.MultiReader(r, strings.NewReader("\r\n"), errorReader{io.ErrUnexpectedEOF})
	for parts := multipart.NewReader(closed, params["boundary"]); ; {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return form, nil
		}
		if err != nil {
			return nil, bodyError(ctx, err)
		}
		name := part.FormName()
		if isFile(part) {
			if name != "image" && name != "image[]" {
				e := errorf(KindUnknownFile, "no file is expected in this field; pictures go into image, several into image[]")
				e.Param = name
				return nil, e
			}
			param := fmt.Sprintf("image[%d]", len(form.Images))
			if err := d.addImage(ctx, form, param, r, part, limits); err != nil {
				return nil, err
			}
			continue
		}
		if len(form.Fields) == limits.MaxFields {
			return nil, errorf(KindTooManyFields, "the form has more than %d text fields", limits.MaxFields)
		}
		value, err := io.ReadAll(io.LimitReader(part, text+1))
		if err != nil {
			return nil, bodyError(ctx, err)
		}
		if text -= int64(len(name) + len(value)); text < 0 {
			e := errorf(KindFieldTooLarge, "the text fields are over the limit of %s together", mebibytes(limits.MaxTextBytes))
			e.Param = name
			return nil, e
		}
		form.Fields = append(form.Fields, Field{name, string(value)})
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// isFile tells files from text: by a file name, or by a media type of its own,
// which some clients send instead.
func isFile(part *multipart.Part) bool {
	if part.FileName() != "" {
		return true
	}
	media := part.Header.Get("Content-Type")
	return strings.HasPrefix(media, "image/") || strings.HasPrefix(media, "application/octet-stream")
}

// addImage reads one more picture from r, which is a part of body.
func (d *Decoder) addImage(ctx context.Context, form *Form, param string, body *bodyReader, r io.Reader, limits FormLimits) error {
	if len(form.Images) == limits.MaxImages {
		return &Error{Kind: KindTooManyImages, Param: param, Message: fmt.Sprintf("at most %d images are accepted", limits.MaxImages)}
	}
	u := d.intake.open(body.cutOff)
	defer u.close()
	reference, err := d.receive(ctx, u, r)
	if err != nil {
		err = bodyError(ctx, err)
		if e := (*Error)(nil); errors.As(err, &e) && e.Kind.ofImage() {
			err = &Error{Kind: e.Kind, Param: param, Message: e.Message, Err: e.Err}
		}
		return err
	}
	form.Images = append(form.Images, reference)
	return nil
}

// bodyError makes an [*Error] of what reading a body returned.
func bodyError(ctx context.Context, err error) error {
	var e *Error
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &e):
		return e
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &Error{Kind: KindBadBody, Message: "the request body is cut off before its end", Err: err}
	}
	return &Error{Kind: KindBadBody, Message: fmt.Sprintf("the request body is malformed (%v)", err), Err: err}
}
