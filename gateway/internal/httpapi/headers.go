package httpapi

import (
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/dunglas/httpsfv"

	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

// Headers of an answer with pictures, for clients that know only OpenAI's keys.
// They are structured fields (RFC 9651).
const (
	SeedsHeader    = "X-Facediffuser-Seeds"    // list of integers
	WarningsHeader = "X-Facediffuser-Warnings" // list of display strings with the parameter param
)

// maxWarnings bounds the header: proxies refuse an answer whose head is larger
// than their buffer, often 4 KiB.
const maxWarnings = 2 << 10

// describe puts the seeds and the warnings of a request into its answer's head.
func (r *session) describe(header http.Header) error {
	var seeds httpsfv.List
	for k := range r.request.N {
		seeds = append(seeds, httpsfv.NewItem(int64(r.request.Seed+uint32(k))))
	}
	text, err := httpsfv.Marshal(seeds)
	if err != nil {
		return err
	}
	header.Set(SeedsHeader, text)
	if text, err = warningsHeader(r.request.Warnings); err == nil && text != "" {
		header.Set(WarningsHeader, text)
	}
	return err
}

// warningsHeader has as many warnings as fit, the last one shortened.
func warningsHeader(warnings []pipeline.Warning) (string, error) {
	var all httpsfv.List
	left := maxWarnings
	for _, w := range warnings {
		left -= len(`%"";param="", `) + len(w.Param)
		if left < len("…")*3 {
			break
		}
		item := httpsfv.NewItem(httpsfv.DisplayString(shorten(w.Message, &left)))
		item.Params.Add("param", w.Param)
		all = append(all, item)
	}
	if all == nil {
		return "", nil
	}
	return httpsfv.Marshal(all)
}

// shorten cuts a text to what leaves no more than *left bytes in a display
// string, where a byte beyond ASCII's printable ones takes three, and counts them.
func shorten(text string, left *int) string {
	const dots = "…"
	for i, r := range text {
		size := 1
		if r < ' ' || r > '~' || strings.ContainsRune(`%"`, r) {
			size = 3 * utf8.RuneLen(r)
		}
		if *left < size+3*len(dots) {
			*left = 0
			return text[:i] + dots
		}
		*left -= size
	}
	return text
}
