package httpapi

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
)

// Names of headers that the gateway sets.
const (
	RequestIDHeader = "X-Request-Id"
	JobIDHeader     = "X-Facediffuser-Job-Id"
)

// notes are what handlers add to their request's log line.
type notes struct {
	id  string
	key string // of the principal, "" without
	// of a request for pictures
	model              string
	n, steps, subjects int
	stream             bool
	job                string
	// of a failure
	code string
	err  error
}

const notesKey = "notes"

func notesOf(c *gin.Context) *notes {
	n, ok := c.MustGet(notesKey).(*notes)
	if !ok {
		panic("httpapi: a handler without observe before it")
	}
	return n
}

// otherRoute labels requests that no route takes, in place of their path and
// their method.
const otherRoute = "other"

// saneID is what a client's own request id must look like to be taken over:
// it goes into the log and back into a header.
var saneID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// observe gives a request its id, and the log and the metrics one line each.
// It sees the answer of every handler, errors and panics included.
func (s *server) observe(c *gin.Context) {
	start := time.Now()
	n := &notes{id: c.GetHeader(RequestIDHeader)}
	if !saneID.MatchString(n.id) {
		n.id = "req_" + strings.ToLower(rand.Text())
	}
	c.Set(notesKey, n)
	c.Header(RequestIDHeader, n.id)
	// Deadlines of a request that needs no body and is answered at once. Those that take longer set their own.
	s.allowWrite(c)
	if c.Request.Body != nil && c.Request.Body != http.NoBody {
		enterPhase(c.Request.Context(), body)
		_ = http.NewResponseController(c.Writer).SetReadDeadline(start.Add(s.Limits.BodyTimeout))
	}

	s.Metrics.HTTPInFlight.Inc()
	defer func() {
		s.Metrics.HTTPInFlight.Dec()
		route := c.FullPath()
		if route == "" {
			route = otherRoute
		}
		method := c.Request.Method
		if route == otherRoute {
			method = otherRoute // a client can invent methods, and each would be a series
		}
		status, seconds := c.Writer.Status(), time.Since(start).Seconds()
		s.Metrics.HTTPRequests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
		s.Metrics.HTTPSeconds.WithLabelValues(route).Observe(seconds)
		s.log(c, n, route, status, seconds)
	}()
	c.Next()
}

// log writes a request's line: what was asked for in numbers, no prompt, no face.
func (s *server) log(c *gin.Context, n *notes, route string, status int, seconds float64) {
	level := slog.LevelInfo
	switch {
	case route == "/healthz" || route == "/readyz" || route == "/metrics" || route == "/replicas":
		level = slog.LevelDebug // asked for every few seconds, and "not ready" is an answer, not a fault
	case status >= 500:
		level = slog.LevelError
	}
	attrs := []slog.Attr{
		slog.String("request_id", n.id), slog.String("method", c.Request.Method), slog.String("route", route),
		slog.Int("status", status), slog.Float64("seconds", seconds), slog.Int("bytes", c.Writer.Size()),
		slog.String("client", s.clientAddress(c)),
	}
	if n.key != "" {
		attrs = append(attrs, slog.String("key", n.key))
	}
	if n.model != "" {
		attrs = append(attrs, slog.String("model", n.model), slog.Int("n", n.n), slog.Int("steps", n.steps),
			slog.Int("subjects", n.subjects), slog.Bool("stream", n.stream), slog.String("job", n.job))
	}
	if n.code != "" {
		attrs = append(attrs, slog.String("code", n.code))
	}
	if n.err != nil {
		attrs = append(attrs, slog.String("error", n.err.Error()))
	}
	s.Log.LogAttrs(c.Request.Context(), level, "request", attrs...)
}

// recover turns a handler's panic into an answer.
func (s *server) recover(c *gin.Context) {
	defer func() {
		value := recover()
		if value == nil {
			return
		}
		s.Log.Error("panic in a handler", "request_id", notesOf(c).id, "panic", value, "stack", string(debug.Stack()))
		s.fail(c, fmt.Errorf("panic: %v", value))
		if c.Writer.Written() && c.Writer.Status() == http.StatusOK {
			panic(http.ErrAbortHandler) // half an answer: the client must see that it broke off
		}
	}()
	c.Next()
}
