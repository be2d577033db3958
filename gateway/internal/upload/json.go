package upload

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
)

// ReadJSON reads a JSON body as it arrives and takes the pictures out of it:
// every data: URL with base64 that is the image_url of an item of the member
// images, as in {"images": [{"image_url": "data:image/png;base64,…"}]}. In
// Form.JSON such a value is replaced by a short one for [Form.Image]; a data: URL
// in another place where one could be meant by mistake is cut short; the rest
// stays as it was sent, for the caller to unmarshal. So a body of many
// megabytes needs little memory, where encoding/json would hold each string
// twice.
//
// With maxImages 0 the body is text alone, of at most Limits.MaxTextBytes.
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
		wanted, err := s.nextDataURL()
		if errors.Is(err, io.EOF) {
			r.form.JSON = s.out.buf
			return checkText(r.form.JSON)
		}
		if err != nil {
			return err
		}
		replacement := `"` + misplacedURL + `"`
		url := jsonString{r: s.r}
		if wanted {
			index := len(r.form.Images)
			if err := r.addImage(fmt.Sprintf("images[%d].%s", index, imageURL), &dataURL{text: url}); err != nil {
				return err
			}
			replacement = fmt.Sprintf(`"%s%d"`, placeholder, index)
		} else if err := url.skip(); err != nil {
			return err
		}
		for _, c := range []byte(replacement) {
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

// misplacedURL is what is left of a data: URL where no picture belongs.
const misplacedURL = "data:…"

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

// jsonScanner copies JSON to out and stops inside the strings that are pictures.
// It needs to know strings, how deep they are, and which members they belong to,
// no more.
type jsonScanner struct {
	r   *bufio.Reader
	ctx context.Context //nolint:containedctx // of the one call that this value lives in
	out text

	depth   int    // of objects and lists
	top     string // the member of the outermost object that is read
	last    []byte // the last string, as written, shortened
	isValue bool   // last was followed by a colon: what comes is the value of that member
}

const byteOrderMark = "\ufeff"

// skipMark skips a byte order mark, as RFC 8259 allows (section 8.1), and
// refuses other encodings of Unicode by the zeros between the first characters of
// a JSON text, which are ASCII (RFC 4627, section 3).
func (s *jsonScanner) skipMark() error {
	head, err := s.r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) { // a short body fails later
		return err
	}
	if bytes.HasPrefix(head, []byte(byteOrderMark)) {
		_, err := s.r.Discard(len(byteOrderMark))
		return err
	}
	for _, encoding := range []struct{ name, head string }{
		{"UTF-32", "\xff\xfe\x00\x00"}, {"UTF-32", "\x00\x00\xfe\xff"}, {"UTF-32", "x\x00\x00\x00"}, {"UTF-32", "\x00\x00\x00x"},
		{"UTF-16", "\xff\xfe"}, {"UTF-16", "\xfe\xff"}, {"UTF-16", "x\x00"}, {"UTF-16", "\x00x"},
	} {
		if matchesHead(head, encoding.head) {
			return errorf(KindBadBody, "the request body is %s; JSON must be UTF-8", encoding.name)
		}
	}
	return nil
}

// matchesHead compares the beginning of a text with a pattern, in which x is any
// byte but zero.
func matchesHead(head []byte, pattern string) bool {
	if len(head) < len(pattern) {
		return false
	}
	for i, p := range []byte(pattern) {
		if p == 'x' && head[i] == 0 || p != 'x' && head[i] != p {
			return false
		}
	}
	return true
}

const (
	imageURL   = "image_url"
	dataScheme = "data:"
	escape     = len(`\u0000`) // the longest spelling of a character
)

// nextDataURL copies up to the next data: URL where a picture belongs, or could
// be thought to belong, and drops its opening quote. It says whether it belongs.
func (s *jsonScanner) nextDataURL() (wanted bool, err error) {
	for {
		c, err := s.r.ReadByte()
		if err != nil {
			return false, err
		}
		switch c {
		case '"':
			member := ""
			if s.isValue {
				member = s.name()
			}
			s.isValue = false
			if s.pictures() && s.atDataURL() {
				return s.top == "images" && s.depth == len("{[{") && member == imageURL, nil
			}
			if err := s.copyString(); err != nil {
				return false, err
			}
			continue
		case ':':
			s.isValue = true
			if s.depth == 1 {
				s.top = s.name()
			}
		case '{', '[':
			s.depth++
			s.isValue = false
		case '}', ']':
			s.depth--
			s.isValue = false
		case ' ', '\t', '\r', '\n':
		default:
			s.isValue = false
		}
		if err := s.put(c); err != nil {
			return false, err
		}
	}
}

// pictures says whether the member that is read is one of those in which clients
// send pictures, rightly or not.
func (s *jsonScanner) pictures() bool {
	switch s.top {
	case "images", "image", imageURL, "mask", "markup":
		return true
	}
	return false
}

// name is the last string without its escapes; empty if it was long.
func (s *jsonScanner) name() (name string) {
	if json.Unmarshal(append(append([]byte{'"'}, s.last...), '"'), &name) != nil {
		return "" // shortened amid an escape
	}
	return name
}

// atDataURL says whether the string that begins is a data: URL, however its
// scheme is written.
func (s *jsonScanner) atDataURL() bool {
	head, _ := s.r.Peek(len(dataScheme))
	if bytes.IndexByte(head, '\\') >= 0 {
		head, _ = s.r.Peek(len(dataScheme) * escape)
	}
	text := jsonString{r: bufio.NewReader(bytes.NewReader(head))}
	scheme := make([]byte, len(dataScheme))
	_, err := io.ReadFull(&text, scheme)
	return err == nil && strings.EqualFold(string(scheme), dataScheme)
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
		if len(s.last) <= len(imageURL)*escape {
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
		what := cmp.Or(u.digits.wrong, "it ends amid a group of digits, so it is cut off")
		err = &Error{Kind: KindNotADataURL, Message: "the data: URL is not valid base64: " + what + "; encode the whole file, and send it unchanged", Err: err}
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

// skip drops the string, whatever is in it.
func (s *jsonString) skip() error {
	for escaped := false; ; {
		c, err := s.r.ReadByte()
		switch {
		case err != nil:
			return unexpected(err)
		case c == '"' && !escaped:
			return nil
		}
		escaped = c == '\\' && !escaped
	}
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
