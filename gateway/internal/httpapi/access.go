package httpapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/facediffuser/facediffuser/gateway/internal/keys"
)

const (
	principalKey = "principal"
	admissionKey = "admission"
)

// principalOf is who asks; a handler behind allow has one.
func principalOf(c *gin.Context) *keys.Principal {
	p, ok := c.MustGet(principalKey).(*keys.Principal)
	if !ok {
		panic("httpapi: a handler without allow before it")
	}
	return p
}

// admissionOf is what admit has let in.
func admissionOf(c *gin.Context) *keys.Admission {
	a, ok := c.MustGet(admissionKey).(*keys.Admission)
	if !ok {
		panic("httpapi: a handler without admit before it")
	}
	return a
}

// allow lets in whoever has a scope: everyone where there are no keys.
func (s *server) allow(scope keys.Scope) gin.HandlerFunc {
	return func(c *gin.Context) {
		p, err := s.identify(c.Request)
		if err != nil {
			c.Header("WWW-Authenticate", `Bearer realm="facediffuser"`)
			s.refuse(c, err)
			return
		}
		notesOf(c).key = p.ID()
		if !p.May(scope) {
			c.Header("WWW-Authenticate", fmt.Sprintf(`Bearer realm="facediffuser", error="insufficient_scope", scope=%q`, scope))
			s.refuse(c, &fault{kind: scopeMissing, message: fmt.Sprintf("this key lacks the scope %s; its owner can ask the operator for one that has it", scope)})
			return
		}
		c.Set(principalKey, p)
		c.Next()
	}
}

// identify finds the principal of a request.
func (s *server) identify(r *http.Request) (*keys.Principal, error) {
	if s.Keys == nil {
		return keys.Anonymous, nil
	}
	const how = "send it as Authorization: Bearer fd_…"
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return nil, &fault{kind: invalidKey, message: "this gateway wants an API key; " + how}
	}
	scheme, secret, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, &fault{kind: invalidKey, message: "the Authorization header holds no API key; " + how}
	}
	p, err := s.Keys.Find(strings.TrimSpace(secret))
	switch {
	case errors.Is(err, keys.ErrMalformed):
		return nil, &fault{kind: invalidKey, message: "this is no API key of this gateway: they begin with fd_, and a mistyped or cut one does not fit its checksum"}
	case err != nil:
		return nil, &fault{kind: invalidKey, message: "this API key does not exist, or it was revoked"}
	}
	return p, nil
}

// admit refuses what cannot be served now, or not for this key, before an
// upload is read. A request that may come again under its Idempotency-Key needs
// no place in the queue and no quota; if it is another one after all, submit
// asks for both.
func (s *server) admit(c *gin.Context) {
	p := principalOf(c)
	enter := p.Admit
	if s.repeats.knows(ownedKey{p.ID(), c.GetHeader(idempotencyKey)}) {
		enter = p.AdmitRepeat
	} else if err := s.Runner.Admissible(); err != nil {
		s.refuse(c, err)
		return
	}
	a, err := enter()
	tellAllowances(c, p)
	if err != nil {
		s.refuse(c, err)
		return
	}
	defer a.Done()
	c.Set(admissionKey, a)
	c.Next()
}

// tellAllowances says what is left of a key's limits, as OpenAI's API does.
func tellAllowances(c *gin.Context, p *keys.Principal) {
	tell := func(what string, a keys.Allowance) {
		c.Header("X-Ratelimit-Limit-"+what, strconv.Itoa(a.Limit))
		c.Header("X-Ratelimit-Remaining-"+what, strconv.Itoa(a.Remaining))
		c.Header("X-Ratelimit-Reset-"+what, a.Reset.String())
	}
	if a, ok := p.Requests(); ok {
		tell("Requests", a)
	}
	if a, ok := p.Pictures(); ok {
		tell("Images", a)
	}
}

// limitFault is the answer to what goes beyond a key's limits.
func limitFault(e *keys.LimitError) *fault {
	f := &fault{kind: rateLimited, message: e.Error(), after: e.After}
	switch e.Kind {
	case keys.Quota:
		f.kind = quotaSpent
	case keys.Concurrency:
		f.kind = concurrencyLimited
	}
	return f
}

// What is still read of an upload that was refused. A connection that is
// closed with bytes unread is reset, and then the client may lose the answer.
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 64 << 20
)

// refuse answers a request with an error without waiting for its body.
func (s *server) refuse(c *gin.Context, err error) {
	body := c.Request.Body
	if body == nil || body == http.NoBody {
		s.fail(c, err)
		return
	}
	control := http.NewResponseController(c.Writer)
	// Else the server would read the body before it sends the head.
	_ = control.EnableFullDuplex()
	_ = control.SetReadDeadline(time.Now().Add(lingerTime))
	c.Header("Connection", "close")
	s.fail(c, err)
	_ = control.Flush()
	if c.GetHeader("Expect") == "" { // else the client has not begun, and will not
		_, _ = io.CopyN(io.Discard, body, lingerBytes)
	}
}
