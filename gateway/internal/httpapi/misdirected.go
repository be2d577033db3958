package httpapi

import (
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

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

// meant names the path that was probably meant by one that does not exist, and
// why it was missed; empty if there is none.
func meant(routes gin.RoutesInfo, missed string) string {
	const version = "/v1"
	clean := path.Clean(missed)
	twice := version + version + "/"
	for _, guess := range []struct {
		when      bool
		path, why string
	}{
		{true, clean, "without a slash at its end, or two together"},
		{true, version + clean, "the base URL must end in " + version},
		{strings.HasPrefix(clean, twice), strings.TrimPrefix(clean, version), version + " is there twice: leave it out of the base URL or of the path"},
	} {
		serves := func(r gin.RouteInfo) bool {
			ok, err := path.Match(anySegment(r.Path), guess.path)
			return ok && err == nil
		}
		if guess.when && guess.path != missed && slices.ContainsFunc(routes, serves) {
			return "; use " + guess.path + " (" + guess.why + ")"
		}
	}
	return ""
}

// anySegment makes a pattern of path.Match of a route's path.
func anySegment(route string) string {
	segments := strings.Split(route, "/")
	for i, s := range segments {
		if strings.HasPrefix(s, ":") {
			segments[i] = "?*"
		}
	}
	return strings.Join(segments, "/")
}
