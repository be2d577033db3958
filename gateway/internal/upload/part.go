package upload

import (
	"bufio"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
)

// formPart is one part of a form.
type formPart struct {
	name    string
	file    string // its file name
	slot    bool   // it has a file name, perhaps an empty one
	media   string // its content type, perhaps empty
	content *bufio.Reader
}

// partOf reads the head of a part.
func partOf(part *multipart.Part) (*formPart, error) {
	header := part.Header.Get("Content-Disposition")
	kind, params, err := mime.ParseMediaType(header)
	if err != nil {
		kind, params = looseParameters(header)
	}
	p := &formPart{name: params["name"], media: part.Header.Get("Content-Type"), content: bufio.NewReaderSize(part, sniffed)}
	p.file, p.slot = params["filename"]
	if header == "" {
		return nil, errorf(KindBadBody, `a part of the form has no Content-Disposition; it must be like form-data; name="image"; filename="a.png"`)
	}
	if kind != "form-data" || p.name == "" {
		return nil, errorf(KindBadBody, `a part of the form has the Content-Disposition %.100q; it must be like form-data; name="image"; filename="a.png"`, header)
	}
	refuse := func(format string, args ...any) error {
		e := errorf(KindBadBody, format, args...)
		e.Param = p.name
		return e
	}
	if encoding := part.Header.Get("Content-Transfer-Encoding"); !slices.Contains([]string{"", "7bit", "8bit", "binary"}, strings.ToLower(encoding)) {
		return nil, refuse("the Content-Transfer-Encoding %.40q is not supported; send the part as it is", encoding)
	}
	if _, params, err := mime.ParseMediaType(p.media); err == nil && params["charset"] != "" && !isUTF8(params["charset"]) {
		return nil, refuse("the charset %.40q is not supported; send the text as UTF-8", params["charset"])
	}
	return p, nil
}

// looseParameters reads a Content-Disposition that breaks the rules for what
// must be quoted, such as filename=my photo@2x.png.
func looseParameters(header string) (kind string, params map[string]string) {
	quoted := false
	items := strings.FieldsFunc(header, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ';' && !quoted
	})
	params = map[string]string{}
	for i, item := range items {
		key, value, ok := strings.Cut(item, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		switch {
		case i == 0:
			kind = key
		case ok:
			params[strings.TrimSuffix(key, "*")] = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return kind, params
}

// sniffed is how many bytes tell what a part is.
const sniffed = 512

// isFile tells files from text: by a file name; by a media type of its own,
// which some clients send instead; and, where only a picture can be meant, by
// the content. A file without a name and without content is none: browsers send
// that for a field in which no file was chosen.
func (p *formPart) isFile() (bool, error) {
	unnamed := p.slot || strings.HasPrefix(p.media, "image/") || strings.HasPrefix(p.media, "application/octet-stream")
	picture := p.name == "image" || p.name == "image[]"
	if p.file != "" || !unnamed && !picture {
		return p.file != "", nil
	}
	head, err := p.content.Peek(sniffed)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return len(head) > 0 && (unnamed || !strings.HasPrefix(http.DetectContentType(head), "text/")), nil
}
