package upload

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"strings"
)

// ReadForm reads a multipart/form-data body as it arrives: at most maxImages
// pictures in the file fields image and image[], repeated at will, and text
// fields, in any order. A file field of a browser's form in which no file was
// chosen is an empty text field.
//
// An error that the client can mend is an [*Error] with the field in Param: one
// for a file in another field has [KindUnknownFile]. Pictures count from 0 in
// the order they arrive, as image[0]. Other errors are the cause of ctx and
// those of the [Decoder].
func (in *Intake) ReadForm(ctx context.Context, body Body, maxImages int) (*Form, error) {
	media, params, err := mediaType(body.ContentType)
	if err != nil {
		body.Drop()
		return nil, err
	}
	if media != "multipart/form-data" || params["boundary"] == "" {
		body.Drop()
		return nil, errorf(KindContentType, "the content type must be multipart/form-data with a boundary, not %.100q", body.ContentType)
	}
	return in.read(ctx, body, maxImages, func(r *reading) error { return r.scanForm(params["boundary"]) })
}

func (r *reading) scanForm(boundary string) error {
	left := int(r.in.limits.MaxTextBytes)
	// mime/multipart takes an end amid the headers of a part for the end of the
	// form. Here the form ends with its last boundary, perhaps without a newline.
	body := bufio.NewReader(r.body)
	switch _, err := body.Peek(1); {
	case errors.Is(err, io.EOF):
		return errorf(KindBadBody, "the request body is empty; it must be a form")
	case err != nil:
		return err
	}
	begins := &search{r: body, text: "--" + boundary}
	closed := io.MultiReader(begins, strings.NewReader("\r\n"), errorReader{io.ErrUnexpectedEOF})
	for parts := multipart.NewReader(closed, boundary); ; {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !begins.found && !strings.HasPrefix(begins.text, string(begins.tail)) && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, bufio.ErrBufferFull)) {
			return errorf(KindBadBody, "the body does not begin with the boundary %.70q of the content type; leave the content type to the program that makes the form", boundary)
		}
		if err != nil {
			return err
		}
		p, err := partOf(part)
		if err != nil {
			return err
		}
		file, err := p.isFile()
		if err != nil {
			return err
		}
		if file {
			if p.name != "image" && p.name != "image[]" {
				e := errorf(KindUnknownFile, "no file is expected in this field; pictures go into image, several into image[]")
				e.Param = p.name
				return e
			}
			if err := r.addImage(fmt.Sprintf("image[%d]", len(r.form.Images)), p.content); err != nil {
				return err
			}
			continue
		}
		if len(r.form.Fields) == r.in.limits.MaxFields {
			return errorf(KindTooManyFields, "the form has more than %d text fields", r.in.limits.MaxFields)
		}
		over := func() error {
			e := errorf(KindFieldTooLarge, "the text fields are over the limit of %s together", mebibytes(r.in.limits.MaxTextBytes))
			e.Param = p.name
			return e
		}
		if left -= len(p.name); left < 0 {
			return over()
		}
		value := text{share: r.share, limit: left, over: over}
		if err := value.fill(r.ctx, p.content); err != nil {
			return err
		}
		if before, wrong, ok := notUTF8(value.buf); ok {
			e := errorf(KindNotUTF8, "the text is not UTF-8: byte 0x%02x after %q", wrong, before)
			e.Param = p.name
			return e
		}
		left -= len(value.buf)
		r.form.Fields = append(r.form.Fields, Field{p.name, strings.TrimPrefix(string(value.buf), byteOrderMark)})
	}
}

// search notes whether a text occurs in what is read.
type search struct {
	r     io.Reader
	text  string
	found bool
	tail  []byte // of what has come, as long as an occurrence can begin in it
}

func (s *search) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if !s.found {
		s.tail = append(s.tail, p[:n]...)
		s.found = bytes.Contains(s.tail, []byte(s.text))
		s.tail = append(s.tail[:0], s.tail[max(0, len(s.tail)-len(s.text)):]...)
	}
	return n, err
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }
