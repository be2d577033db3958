package upload

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// base64Text makes plain base64 (RFC 4648, section 4) without padding of what
// data: URLs hold: the padding may be there or not, the alphabet may be the
// one that is safe in URLs (section 5), and any character may be percent-encoded,
// as in any URL.
type base64Text struct {
	r       io.Reader
	percent []byte // of a percent-encoded character, what has come: %, %2
	padding int    // how many = have come
	read    int    // characters that have come
	wrong   string // what is wrong with them
	failed  error  // of r, other than its end
}

func (t *base64Text) Read(p []byte) (n int, err error) {
	for n == 0 && err == nil && len(p) > 0 {
		var m int
		m, err = t.r.Read(p)
		for i, c := range p[:m] {
			if !digit[c] || t.padding > 0 || len(t.percent) > 0 { // rare
				var ok bool
				sent := rune(c)
				if c, ok = t.translate(c); !ok {
					t.wrong = fmt.Sprintf("character %d of it, %q, does not belong there", t.read+i+1, sent)
					return n, base64.CorruptInputError(t.read + i)
				}
				if c == 0 {
					continue
				}
			}
			p[n] = c
			n++
		}
		t.read += m
	}
	switch {
	case errors.Is(err, io.EOF) && len(t.percent) > 0:
		t.wrong = "it ends amid a percent-encoded character"
		err = base64.CorruptInputError(t.read)
	case !errors.Is(err, io.EOF):
		t.failed = err
	}
	return n, err
}

// digit are the characters of plain base64.
var digit = func() (is [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		is[c] = true
	}
	return is
}()

// translate returns the plain character, 0 for none yet, and false for what
// cannot appear here.
func (t *base64Text) translate(c byte) (byte, bool) {
	if len(t.percent) > 0 || c == '%' {
		if t.percent = append(t.percent, c); len(t.percent) < len("%2B") {
			return 0, true
		}
		decoded, err := strconv.ParseUint(string(t.percent[1:]), 16, 8)
		if err != nil {
			return 0, false
		}
		c, t.percent = byte(decoded), t.percent[:0]
	}
	switch c {
	case '\r', '\n':
		return 0, true
	case '=':
		t.padding++
		return 0, t.padding <= 2
	case '-':
		c = '+'
	case '_':
		c = '/'
	}
	return c, digit[c] && t.padding == 0 // nothing follows the padding
}
