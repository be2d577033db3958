package httpapi

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"
)

//go:embed openapi.json
var openAPIDocument []byte

// openAPI serves the document, with the address at which clients reach the
// gateway as its server.
func (s *server) openAPI(c *gin.Context) {
	document := openAPIDocument
	if base := s.baseURL(c); base != "" {
		var parts map[string]json.RawMessage
		if err := json.Unmarshal(document, &parts); err != nil {
			s.fail(c, err)
			return
		}
		parts["servers"] = marshal([]gin.H{{"url": base}})
		document = marshal(parts)
	}
	s.allowWrite(c)
	c.Data(http.StatusOK, "application/json", document)
}

// baseURL is the address at which the client reaches the gateway: the
// operator's, else what a trusted proxy says, else empty.
func (s *server) baseURL(c *gin.Context) string {
	if s.PublicURL != "" {
		return s.PublicURL
	}
	if peer, err := netip.ParseAddr(c.RemoteIP()); err != nil || !s.trusts(peer) {
		return ""
	}
	// Of several proxies the first is the one that the client has spoken to.
	said := func(name string) string {
		first, _, _ := strings.Cut(c.GetHeader(name), ",")
		return strings.TrimSpace(first)
	}
	base := url.URL{Scheme: "http", Host: cmp.Or(said("X-Forwarded-Host"), c.Request.Host), Path: strings.Trim(said("X-Forwarded-Prefix"), "/")}
	if said("X-Forwarded-Proto") == "https" {
		base.Scheme = "https"
	}
	return base.String()
}
