package httpapi

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/rs/cors"
)

// Browser says what web pages may do. A program that is no browser sends no
// Origin and the right Host, and notices nothing of it.
type Browser struct {
	// Loopback: the listener is on loopback. Then a request for another name is
	// that of a web page whose name was made to lead here (DNS rebinding).
	Loopback     bool
	AllowedHosts []string // names beside those of loopback; with any, names are checked on every listener
	CORSOrigins  []string // whose pages may use the gateway
}

// guard keeps foreign web pages out. It comes before every other decision.
func (b Browser) guard(s *server) gin.HandlerFunc {
	protection := http.NewCrossOriginProtection()
	for _, origin := range b.CORSOrigins {
		if err := protection.AddTrustedOrigin(origin); err != nil {
			panic(err) // package config has checked it
		}
	}
	var shared *cors.Cors
	if len(b.CORSOrigins) > 0 {
		shared = cors.New(cors.Options{
			AllowedOrigins: b.CORSOrigins,
			AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost},
			// The SDKs send a dozen x-stainless-* and more may come; what a header says is checked where it is read.
			AllowedHeaders: []string{"*"},
			ExposedHeaders: []string{
				RequestIDHeader, JobIDHeader, "Retry-After", "X-Should-Retry",
				"X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests",
				"X-Ratelimit-Limit-Images", "X-Ratelimit-Remaining-Images", "X-Ratelimit-Reset-Images",
			},
			MaxAge: 600,
		})
	}
	return func(c *gin.Context) {
		c.Header("X-Content-Type-Options", "nosniff")
		c.Header("Cross-Origin-Resource-Policy", "same-origin")
		if host := hostname(c.Request.Host); !b.answersFor(host) {
			s.refuse(c, &fault{kind: foreignHost, message: fmt.Sprintf("this gateway does not answer for the host %.200q; its operator can allow the name (--allowed-hosts)", host)})
			return
		}
		if shared != nil {
			shared.HandlerFunc(c.Writer, c.Request)
			if c.Request.Method == http.MethodOptions && c.GetHeader("Access-Control-Request-Method") != "" {
				c.Abort() // the preflight is answered
				return
			}
		}
		if protection.Check(c.Request) != nil {
			s.refuse(c, &fault{kind: crossOrigin, message: "web pages of another origin may not use this gateway; its operator can allow the origin (--cors-origins)"})
			return
		}
		c.Next()
	}
}

// answersFor says whether requests for a host are answered. A request without
// one is HTTP/1.0's, which no browser speaks.
func (b Browser) answersFor(host string) bool {
	if host == "" || !b.Loopback && len(b.AllowedHosts) == 0 {
		return true
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && (ip.IsLoopback() || !b.Loopback) {
		return true // an address cannot be rebound
	}
	return slices.ContainsFunc(b.AllowedHosts, func(name string) bool { return strings.EqualFold(name, host) })
}

// hostname is a Host header's name without port, brackets and a final dot, in lower case.
func hostname(header string) string {
	host, _, err := net.SplitHostPort(header)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(header, "["), "]")
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
