package upload

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
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
	media, _, err := mediaType(body.ContentType)
	if err != nil {
		body.Drop()
		return nil, err
	}
	if media != "application/json" {
		body.Drop()
		return nil, errorf(KindContentType, "the content type must be application/json, not %.100q", body.ContentType)
	}
	return in.read(ctx, body, maxImages, (*reading).scanJSON)
}

func (r *reading) scanJSON() error {
	s := &jsonScanner{r: bufio.NewReader(r.body), ctx: r.ctx}
	s.out = text{share: r.share, limit: int(r.in.limits.MaxTextBytes), over: func() error {
		return errorf(KindFieldTooLarge, `the JSON without its pictures is over the limit of %s; pictures belong in images: [{"image_url": "data:image/png;base64,…"}]`,
			mebibytes(r.in.limits.MaxTextBytes))
	}}
	if err := s.skipMark(); err != nil {
		return err
	}
	for {
		ok, err := s.nextDataURL()
		if errors.Is(err, io.EOF) {
			r.form.JSON = s.out.buf
			return checkText(r.form.JSON)
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

// checkText refuses JSON that nobody could read: none at all, and text that is
// not UTF-8.
func checkText(text []byte) error {
	if len(bytes.TrimSpace(text)) == 0 {
		return errorf(KindBadBody, "the request body is empty; it must be a JSON object")
	}
	if before, wrong, ok := notUTF8(text); ok {
		return errorf(KindBadBody, "the request body is not UTF-8: byte 0x%02x after %q; JSON must be UTF-8", wrong, before)
	}
	return nil
}

// notUTF8 returns the first byte that is not UTF-8, and a little of the text
// before it.
func notUTF8(text []byte) (before []byte, wrong byte, found bool) {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			start := max(0, i-20)
			for start < i && !utf8.RuneStart(text[start]) {
				start++
			}
			return text[start:i], text[i], true
		}
		i += size
	}
	return nil, 0, false
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

// skipMark skips a byte order mark, as RFC 8259 allows (section 8.1).
func (s *jsonScanner) skipMark() error {
	const utf8Mark, littleEndian, bigEndian = "\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"
	head, err := s.r.Peek(len(utf8Mark))
	switch {
	case err != nil && !errors.Is(err, io.EOF): // a short body fails later
		return err
	case string(head) == utf8Mark:
		_, err := s.r.Discard(len(head))
		return err
	case bytes.HasPrefix(head, []byte(littleEndian)), bytes.HasPrefix(head, []byte(bigEndian)):
		return errorf(KindBadBody, "the request body is UTF-16; JSON must be UTF-8")
	}
	return nil
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
	digits  base64Text
	content io.Reader // nil before the head is read
}

func (u *dataURL) Read(p []byte) (int, error) {
	if u.content == nil {
		if err := u.readHead(); err != nil {
			return 0, err
		}
		u.digits.r = &u.text
		u.content = base64.NewDecoder(base64.RawStdEncoding, &u.digits)
	}
	n, err := u.content.Read(p)
	switch {
	case u.digits.failed != nil && err != nil:
		err = u.digits.failed // the decoder takes it for an end
	case errors.As(err, new(base64.CorruptInputError)):
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
