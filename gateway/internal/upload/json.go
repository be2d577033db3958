package upload

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
)

// ReadJSON reads a JSON body as it arrives and takes the pictures out of it: the
// value of every member "image_url" that is a data: URL with base64. In
// Form.JSON such a value is replaced by a short one for [Form.Image]; the rest
// stays as it was sent, for the caller to unmarshal. So a body of many
// megabytes needs little memory, where encoding/json would hold each string
// twice.
//
// Errors are as with [Intake.ReadForm]; the JSON is checked only as far as
// finding strings needs it.
func (in *Intake) ReadJSON(ctx context.Context, body Body, maxImages int) (*Form, error) {
	if media, _, err := mime.ParseMediaType(body.ContentType); err != nil || media != "application/json" {
		return nil, errorf(KindContentType, "the content type must be application/json, not %.100q", body.ContentType)
	}
	return in.read(ctx, body, maxImages, (*reading).scanJSON)
}

func (r *reading) scanJSON() error {
	s := &jsonScanner{r: bufio.NewReader(r.body), ctx: r.ctx}
	s.out = text{share: r.share, limit: int(r.in.limits.MaxTextBytes), over: func() error {
		return errorf(KindFieldTooLarge, "the JSON without its pictures is over the limit of %s", mebibytes(r.in.limits.MaxTextBytes))
	}}
	for {
		ok, err := s.nextDataURL()
		if errors.Is(err, io.EOF) {
			r.form.JSON = s.out.buf
			return nil
		}
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		index := len(r.form.Images)
		if err := r.addImage(fmt.Sprintf("images[%d].%s", index, imageURL), &dataURL{text: jsonString{r: s.r}}); err != nil {
			return err
		}
		for _, c := range fmt.Appendf(nil, `"%s%d"`, placeholder, index) {
			if err := s.put(c); err != nil {
				return err
			}
		}
	}
}

// placeholder starts what stands for a picture. It is itself a data: URL, so
// that no other URL is taken for one.
const placeholder = "data:,"

// Image returns the picture that an image_url of Form.JSON stands for; false
// if it is another URL.
func (f *Form) Image(url string) (*picture.Reference, bool) {
	digits, ok := strings.CutPrefix(url, placeholder)
	i, err := strconv.Atoi(digits)
	if !ok || err != nil || i < 0 || i >= len(f.Images) {
		return nil, false
	}
	return f.Images[i], true
}

// jsonScanner copies JSON to out and stops inside the strings that are wanted.
// It needs to know strings and which of them was the last before a colon, no
// more.
type jsonScanner struct {
	r   *bufio.Reader
	ctx context.Context //nolint:containedctx // of the one call that this value lives in
	out text

	last    []byte // the last string, as written, shortened
	isValue bool   // last was followed by a colon: what comes is the value of that member
}

const (
	imageURL   = "image_url"
	dataScheme = "data:"
)

// nextDataURL copies up to and including the next string, and returns false; or
// it stops after the opening quote of a wanted one, drops the quote, and returns
// true.
func (s *jsonScanner) nextDataURL() (bool, error) {
	for {
		c, err := s.r.ReadByte()
		if err != nil {
			return false, err
		}
		switch c {
		case '"':
			if s.isValue && string(s.last) == imageURL {
				if head, _ := s.r.Peek(len(dataScheme)); strings.EqualFold(string(head), dataScheme) {
					s.isValue = false
					return true, nil
				}
			}
			s.isValue = false
			return false, s.copyString()
		case ':':
			s.isValue = true
		case ' ', '\t', '\r', '\n':
		default:
			s.isValue = false
		}
		if err := s.put(c); err != nil {
			return false, err
		}
	}
}

func (s *jsonScanner) put(c byte) error { return s.out.put(s.ctx, c) }

func (s *jsonScanner) copyString() error {
	s.last = s.last[:0]
	if err := s.put('"'); err != nil {
		return err
	}
	for escaped := false; ; {
		c, err := s.r.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		if err := s.put(c); err != nil {
			return err
		}
		if c == '"' && !escaped {
			return nil
		}
		if len(s.last) <= len(imageURL) {
			s.last = append(s.last, c)
		}
		escaped = c == '\\' && !escaped
	}
}

// dataURL reads the decoded content of a data: URL that is a JSON string.
type dataURL struct {
	text    jsonString
	content io.Reader // nil before the head is read
}

func (u *dataURL) Read(p []byte) (int, error) {
	if u.content == nil {
		if err := u.readHead(); err != nil {
			return 0, err
		}
		u.content = base64.NewDecoder(base64.StdEncoding, &u.text)
	}
	n, err := u.content.Read(p)
	var corrupt base64.CorruptInputError
	if errors.As(err, &corrupt) || errors.Is(err, io.ErrUnexpectedEOF) && u.text.done {
		err = &Error{Kind: KindNotADataURL, Message: "the data: URL is not valid base64", Err: err}
	}
	return n, err
}

// readHead reads "data:image/png;base64," with any media type and parameters.
func (u *dataURL) readHead() error {
	head := make([]byte, 0, 256)
	for c := [1]byte{}; c[0] != ','; head = append(head, c[0]) {
		if _, err := u.text.Read(c[:]); errors.Is(err, io.EOF) || len(head) == cap(head) {
			return errorf(KindNotADataURL, "the data: URL has no comma")
		} else if err != nil {
			return err
		}
	}
	if !strings.HasSuffix(strings.ToLower(string(head)), ";base64,") {
		return errorf(KindNotADataURL, "the data: URL must be base64: data:image/png;base64,…")
	}
	return nil
}

// jsonString reads the rest of a JSON string without its escapes. Only ASCII is
// expected in it.
type jsonString struct {
	r    *bufio.Reader
	done bool
}

func (s *jsonString) Read(p []byte) (int, error) {
	for n := 0; n < len(p); n++ {
		// One byte is sure to come or to fail; more only while buffered.
		if s.done || n > 0 && s.r.Buffered() < len(`\u0000"`) {
			return n, s.end(n)
		}
		c, err := s.r.ReadByte()
		if err != nil {
			return n, unexpected(err)
		}
		switch c {
		case '"':
			s.done = true
			return n, s.end(n)
		case '\\':
			if c, err = s.escape(); err != nil {
				return n, err
			}
		}
		p[n] = c
	}
	return len(p), nil
}

func (s *jsonString) end(n int) error {
	if s.done && n == 0 {
		return io.EOF
	}
	return nil
}

func (s *jsonString) escape() (byte, error) {
	c, err := s.r.ReadByte()
	if err != nil {
		return 0, unexpected(err)
	}
	switch c {
	case '/', '"', '\\':
		return c, nil
	case 'n', 'r', 't': // line breaks in base64
		return '\n', nil
	case 'u':
		var digits [4]byte
		if _, err := io.ReadFull(s.r, digits[:]); err != nil {
			return 0, unexpected(err)
		}
		if v, err := strconv.ParseUint(string(digits[:]), 16, 16); err == nil && v < utf8.RuneSelf {
			return byte(v), nil
		}
	}
	return 0, errorf(KindNotADataURL, "the data: URL holds an escape that does not belong there")
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
