package upload

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"slices"
	"strings"
)

// mediaType reads a content type. The text of a body is UTF-8, so that a
// charset may say that, or ASCII, and nothing else. A parameter without a value
// is none.
func mediaType(contentType string) (media string, params map[string]string, err error) {
	media, params, err = mime.ParseMediaType(contentType)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return "", nil, nil // of no type that is wanted
	}
	if charset, ok := params["charset"]; ok && !isUTF8(charset) {
		return "", nil, errorf(KindContentType, "the charset %.40q is not supported; send the text as UTF-8", charset)
	}
	return media, params, nil
}

func isUTF8(charset string) bool {
	return slices.ContainsFunc([]string{"utf-8", "utf8", "us-ascii", "ascii"}, func(name string) bool { return strings.EqualFold(name, charset) })
}

// compressed says whether the body is in gzip.
func (b Body) compressed() bool {
	encoding := strings.ToLower(strings.TrimSpace(b.ContentEncoding))
	return encoding == "gzip" || encoding == "x-gzip"
}

func (b Body) checkEncoding() error {
	if encoding := strings.TrimSpace(b.ContentEncoding); encoding != "" && !strings.EqualFold(encoding, "identity") && !b.compressed() {
		return errorf(KindContentType, "the content encoding %.40q is not supported; send the body as it is, or in gzip", encoding)
	}
	return nil
}

// gunzip decompresses r from the first Read on, and fails beyond a limit: a few
// kilobytes of gzip can hold gigabytes.
type gunzip struct {
	r      *bufio.Reader // the decompressor reads no byte beyond the end of a member
	zip    *gzip.Reader  // nil before the first Read
	left   int64
	limit  int64
	failed error
}

func (g *gunzip) Read(p []byte) (int, error) {
	if g.zip == nil && g.failed == nil {
		if g.zip, g.failed = gzip.NewReader(g.r); g.failed == nil {
			g.zip.Multistream(false)
		}
	}
	if g.failed != nil {
		return 0, g.failed
	}
	n, err := g.zip.Read(p)
	if g.left -= int64(n); g.left < 0 {
		return 0, errorf(KindBodyTooLarge, "the decompressed request body is over the limit of %s", mebibytes(g.limit))
	}
	if errors.Is(err, io.EOF) {
		err = g.nextMember()
		g.failed = err
	}
	return n, err
}

// nextMember goes on to the next member of a file of several (RFC 1952, section
// 2.2). What follows a member and is none, package gzip takes for one that is
// cut off if it is short.
func (g *gunzip) nextMember() error {
	head, err := g.r.Peek(2)
	switch {
	case len(head) == 0:
		return err
	case string(head) != "\x1f\x8b":
		return errorf(KindBadBody, "the content encoding is gzip, but the request body goes on after its end with byte 0x%02x", head[0])
	}
	if err = g.zip.Reset(g.r); err == nil {
		g.zip.Multistream(false)
	}
	return err
}
