package httpapi

import (
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
)

// healthz says that the program is alive, whatever its networks do.
func (s *server) healthz(c *gin.Context) {
	s.answer(c, http.StatusOK, gin.H{"status": "ok"})
}

// readyz says whether requests are served, and what is missing if they are not.
func (s *server) readyz(c *gin.Context) {
	missing := s.Ready()
	if s.Runner.Draining() {
		missing = append([]string{"the gateway is shutting down"}, missing...)
	}
	if len(missing) == 0 {
		s.answer(c, http.StatusOK, gin.H{"status": "ready"})
		return
	}
	f := fault{kind: notReady, message: "not ready: " + strings.Join(missing, "; ")}
	c.Header("Retry-After", retryAfter(s.Recovery()))
	s.answer(c, http.StatusServiceUnavailable, gin.H{"status": "not ready", "missing": missing, "error": f.body()})
}
