package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/keys"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/upload"
	"github.com/facediffuser/facediffuser/tritonclient"
)

// kind is what went wrong. It is the code of the error body unless a fault
// carries a finer one, and the label of facediffuser_errors_total.
type kind string

const (
	invalidValue     kind = "invalid_value"
	modelNotFound    kind = "model_not_found"
	notFound         kind = "not_found"
	methodNotAllowed kind = "method_not_allowed"
	requestTimeout   kind = "request_timeout"
	bodyTooLarge     kind = "body_too_large"
	moderation       kind = "moderation_blocked"
	unsupportedMedia kind = "unsupported_media_type"
	keyReused        kind = "idempotency_key_reused"
	invalidKey       kind = "invalid_api_key"
	scopeMissing     kind = "insufficient_scope"
	rateLimited      kind = "rate_limit_exceeded"
	quotaSpent       kind = "insufficient_quota"
	queueFull        kind = "queue_full"
	clientGone       kind = "client_closed_request"
	internalError    kind = "internal_error"
	shuttingDown     kind = "shutting_down"
	notReady         kind = "networks_unavailable"
	jobExpired       kind = "job_expired"
	notFinite        kind = "not_finite"

	concurrencyLimited kind = "concurrency_limit_exceeded"
	foreignHost        kind = "host_not_allowed"
	crossOrigin        kind = "cross_origin_request"
)

// answers is the one table from what went wrong to what the client reads.
// text replaces the error's own message where that is not made for clients.
// The SDKs try 408, 409, 429 and 5xx again, so nothing that cannot succeed
// the second time has one of those.
var answers = map[kind]struct {
	status int
	typ    string
	text   string
	retry  bool // send retry-after
}{
	invalidValue:     {http.StatusBadRequest, "invalid_request_error", "", false},
	modelNotFound:    {http.StatusNotFound, "invalid_request_error", "", false},
	notFound:         {http.StatusNotFound, "invalid_request_error", "", false},
	methodNotAllowed: {http.StatusMethodNotAllowed, "invalid_request_error", "", false},
	moderation: {http.StatusBadRequest, "image_generation_user_error",
		"the safety checker found a picture of this request not safe for work, so the request has none; change the prompt or the seed", false},
	requestTimeout:   {http.StatusRequestTimeout, "invalid_request_error", "", false},
	bodyTooLarge:     {http.StatusRequestEntityTooLarge, "invalid_request_error", "", false},
	unsupportedMedia: {http.StatusUnsupportedMediaType, "invalid_request_error", "", false},
	keyReused:        {http.StatusUnprocessableEntity, "invalid_request_error", "", false},
	invalidKey:       {http.StatusUnauthorized, "invalid_request_error", "", false},
	scopeMissing:     {http.StatusForbidden, "invalid_request_error", "", false},
	rateLimited:      {http.StatusTooManyRequests, "rate_limit_error", "", true},
	quotaSpent:       {http.StatusTooManyRequests, "insufficient_quota", "", true},
	queueFull:        {http.StatusTooManyRequests, "rate_limit_error", "the queue is full; try again later", true},
	clientGone:       {499, "invalid_request_error", "the client closed the request", false}, // nginx's number; nobody is there to read it
	internalError:    {http.StatusInternalServerError, "server_error", "internal error; the gateway's log has more under this answer's x-request-id", false},
	shuttingDown:     {http.StatusServiceUnavailable, "server_error", "the gateway is shutting down", true},
	notReady:         {http.StatusServiceUnavailable, "server_error", "the networks cannot be used now; try again later", true},
	jobExpired:       {http.StatusGatewayTimeout, "server_error", "the pictures were not done within the time that the gateway allows", false},
	notFinite: {http.StatusInternalServerError, "server_error",
		"the networks computed values for this picture that are not numbers, twice; change the seed, the prompt or the guidance scale", false},

	foreignHost:        {http.StatusForbidden, "invalid_request_error", "", false},
	crossOrigin:        {http.StatusForbidden, "invalid_request_error", "", false},
	concurrencyLimited: {http.StatusTooManyRequests, "rate_limit_error", "", true},
}

// final says that the same request cannot succeed later. The SDKs try 408, 409, 429 and 5xx again unless they are
// told by a header that it is in vain.
func (k kind) final() bool {
	switch status := answers[k].status; {
	case k == notFinite, k == quotaSpent: // not before tomorrow, as Retry-After says, and the SDKs do not wait as long
		return true
	case k == clientGone, status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooManyRequests:
		return false
	default:
		return status < http.StatusInternalServerError
	}
}

// fault is an error made for a client.
type fault struct {
	kind    kind
	param   string
	code    string // finer than kind, may be empty
	message string // may be empty where answers has a text
	after   time.Duration
}

func (f *fault) Error() string { return f.message }

func invalid(param, format string, args ...any) *fault {
	return &fault{kind: invalidValue, param: param, message: fmt.Sprintf(format, args...)}
}

// faultOf finds what a client may learn of err. An error that is not listed
// here is an internal error, whose text stays in the log.
func faultOf(err error) *fault {
	var own *fault
	var input *pipeline.InputError
	var body *upload.Error
	var unsafe *pipeline.UnsafeError
	var rejection *job.Rejection
	var network *tritonclient.Error
	var limit *keys.LimitError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &input):
		return &fault{kind: invalidValue, param: input.Param, code: input.Code, message: input.Message}
	case errors.As(err, &body):
		return &fault{kind: uploadKind(body.Kind), code: string(body.Kind), param: body.Param, message: body.Message}
	case errors.Is(err, picture.ErrBusy):
		return &fault{kind: queueFull, message: picture.ErrBusy.Error() + "; try again later", after: time.Second}
	case errors.As(err, &unsafe):
		return &fault{kind: moderation}
	case errors.As(err, &limit):
		return limitFault(limit)
	case errors.Is(err, job.ErrQueueFull) && errors.As(err, &rejection):
		return &fault{kind: queueFull, after: rejection.RetryAfter}
	case errors.Is(err, job.ErrDraining), errors.Is(err, job.ErrShutdown):
		return &fault{kind: shuttingDown}
	case errors.Is(err, job.ErrExpired):
		return &fault{kind: jobExpired}
	case errors.Is(err, job.ErrCanceled), errors.Is(err, context.Canceled):
		return &fault{kind: clientGone}
	case errors.Is(err, tritonclient.NotFinite):
		return &fault{kind: notFinite}
	case errors.As(err, &network) && transient(network):
		return &fault{kind: notReady}
	}
	return &fault{kind: internalError}
}

// uploadKind is the row of the table for what package upload found wrong,
// whose own kind is the code of the error body.
func uploadKind(k upload.Kind) kind {
	switch k {
	case upload.KindFileTooLarge, upload.KindBodyTooLarge:
		return bodyTooLarge
	case upload.KindTooSlow:
		return requestTimeout
	case upload.KindContentType:
		return unsupportedMedia
	}
	return invalidValue
}

// transient says whether a failed call to a network says something of the
// networks' state rather than of the call: the same request may work later, once
// a server is back or one whose model fails has been started again.
func transient(e *tritonclient.Error) bool {
	switch e.Kind {
	case tritonclient.Unavailable, tritonclient.DeadlineExceeded, tritonclient.BreakerOpen, tritonclient.Internal,
		tritonclient.BadResponse, tritonclient.ResourceExhausted, tritonclient.NotFound: // a model that is not loaded (yet)
		return true
	}
	return false
}

// ErrorBody is the answer to a request that failed, and the data of a
// stream's error event.
type ErrorBody struct {
	Type  string `json:"type,omitempty"` // "error" in a stream, else absent
	Error Error  `json:"error"`
}

// Error has all its keys, always; those that do not apply are null.
type Error struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

func (f *fault) body() Error {
	a := answers[f.kind]
	e := Error{Message: f.message, Type: a.typ}
	if e.Message == "" {
		e.Message = a.text
	}
	code := f.label()
	e.Code = &code
	if f.param != "" {
		e.Param = &f.param
	}
	return e
}

func (f *fault) label() string {
	if f.code != "" {
		return f.code
	}
	return string(f.kind)
}

// note counts an error and gives it to the log.
func (s *server) note(c *gin.Context, err error) *fault {
	f := faultOf(err)
	s.Metrics.Errors.WithLabelValues(f.label()).Inc()
	notes := notesOf(c)
	notes.code = f.label()
	if f.kind == internalError || f.kind == notReady || f.kind == notFinite {
		notes.err = err
	}
	return f
}

// fail answers a request with an error.
func (s *server) fail(c *gin.Context, err error) {
	f := s.note(c, err)
	if c.Writer.Written() {
		c.Abort()
		return
	}
	a := answers[f.kind]
	if a.retry {
		if f.after == 0 && f.kind == notReady {
			f.after = s.Recovery()
		}
		if f.after == 0 {
			f.after = s.Runner.RetryAfter()
		}
		c.Header("Retry-After", retryAfter(f.after))
	}
	if f.kind == unsupportedMedia {
		c.Header("Accept-Encoding", "gzip") // what a body may be compressed by (RFC 9110, section 15.5.16)
	}
	if f.kind.final() {
		c.Header("X-Should-Retry", "false")
	}
	s.answer(c, a.status, ErrorBody{Error: f.body()})
	c.Abort()
}

func retryAfter(d time.Duration) string {
	return strconv.Itoa(max(1, int((d+time.Second-1)/time.Second)))
}

// answer writes a JSON body, within the time that a client is given to take it.
func (s *server) answer(c *gin.Context, status int, body any) {
	s.allowWrite(c)
	c.Data(status, "application/json", marshal(body))
}

// marshal makes a line of JSON. Prompts keep their <|image|>, which
// json.Marshal would escape for the sake of HTML.
func marshal(v any) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err) // a type of this program that JSON cannot hold
	}
	return out.Bytes()
}

func (s *server) allowWrite(c *gin.Context) {
	// A writer without deadlines (in a test) needs none.
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(s.Limits.WriteTimeout))
}
