package httpapi

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/agnivade/levenshtein"
	"github.com/gin-gonic/gin"
)

// checkQuery refuses query parameters, as unknown fields are refused: what is
// said there by mistake would be ignored. api-version comes from clients that
// are made for Azure's form of OpenAI's API.
func (s *server) checkQuery(c *gin.Context) {
	if !strings.HasPrefix(c.FullPath(), "/v1/") {
		return
	}
	query, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		s.refuse(c, invalid("", "the query cannot be read: %v", err))
		return
	}
	delete(query, "api-version")
	if len(query) == 0 {
		return
	}
	name := slices.Min(slices.Collect(maps.Keys(query)))
	f := &fault{kind: invalidValue, code: "unknown_parameter", param: name, message: "unknown query parameter " + value{text: name}.short()}
	if _, ok := s.fields.Find(name); ok && c.Request.Method == "POST" {
		f.message += "; it is a field of the body"
	}
	s.refuse(c, f)
}

// noRoute answers requests for a path that does not exist.
func (s *server) noRoute(c *gin.Context) {
	missed := c.Request.URL.Path
	s.refuse(c, &fault{kind: notFound, message: "no such path: " + missed + meant(s.router.Routes(), missed)})
}

const version = "/v1"

// deployment is the beginning of the paths of Azure's form of OpenAI's API.
var deployment = regexp.MustCompile(`^/openai/deployments/[^/]+/`)

// meant names the path that was probably meant by one that does not exist, and
// why it was missed; empty if there is none.
func meant(routes gin.RoutesInfo, missed string) string {
	clean := path.Clean(missed)
	at := strings.LastIndex(clean, version+"/")
	type guess struct{ path, why string }
	guesses := []guess{
		{clean, "without a slash at its end, or two together"},
		{version + clean, "the base URL must end in " + version},
	}
	switch {
	case strings.HasPrefix(clean, version+version+"/"):
		guesses = append(guesses, guess{clean[at:], version + " is there twice: leave it out of the base URL or of the path"})
	case at > 0:
		guesses = append(guesses, guess{clean[at:], fmt.Sprintf("without %s before %s, unless a proxy takes it off", clean[:at], version)})
	}
	if azure := deployment.FindString(clean); azure != "" {
		guesses = append(guesses, guess{version + "/" + clean[len(azure):], "this gateway has no deployments: use OpenAI's client rather than Azure's, with a base URL that ends in " + version})
	}
	for _, g := range guesses {
		serves := func(r gin.RouteInfo) bool {
			ok, err := path.Match(anySegment(r.Path), g.path)
			return ok && err == nil
		}
		if g.path != missed && slices.ContainsFunc(routes, serves) {
			return "; use " + g.path + " (" + g.why + ")"
		}
	}
	var paths []string
	for _, r := range routes {
		if !strings.ContainsAny(r.Path, ":*") {
			paths = append(paths, r.Path)
		}
	}
	if near := nearest(clean, path.Base(clean), paths); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// nearest is the name that is closest to what was written, and no more letters
// away than a third of those of the word in it that may be a typo.
func nearest(written, word string, names []string) string {
	const longest = 64 // what is longer is no typo
	if len(written) > longest {
		return ""
	}
	best, least := "", utf8.RuneCountInString(word)/3+1
	for _, name := range names {
		if d := levenshtein.ComputeDistance(name, written); d < least {
			best, least = name, d
		}
	}
	return best
}

// anySegment makes a pattern of path.Match of a route's path.
func anySegment(route string) string {
	segments := strings.Split(route, "/")
	for i, s := range segments {
		if strings.HasPrefix(s, ":") || strings.HasPrefix(s, "*") {
			segments[i] = "?*"
		}
	}
	return strings.Join(segments, "/")
}
