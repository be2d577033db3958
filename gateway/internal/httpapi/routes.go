package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/keys"
	"github.com/facediffuser/facediffuser/gateway/internal/parameters"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/telemetry"
	"github.com/facediffuser/facediffuser/gateway/internal/upload"
)

// Pipeline checks requests (see pipeline.Pipeline).
type Pipeline interface {
	Family() *family.Family
	Dimensions(ctx context.Context) (pipeline.Dimensions, error)
	KnownDimensions() (pipeline.Dimensions, bool)
	Capacity() int
	Safety() pipeline.Safety
	Prepare(ctx context.Context, params pipeline.Params, subjects []*picture.Reference) (*pipeline.Request, error)
	ReadPrompt(prompt, negative string, subjects int) (*pipeline.Reading, error)
}

// Options are what the API is made of. All are required but
// Keys and those of Limits with a default.
type Options struct {
	Pipeline Pipeline
	Runner   *job.Runner
	Intake   *upload.Intake
	Keys     *keys.Ring // nil: who asks needs no key
	// Ready names what is missing before requests can be served; nothing when
	// ready. It answers from what is known, and strangers see what it says.
	Ready   func() (missing []string)
	Browser Browser
	// Recovery is in how long networks that fail now can be expected to work again.
	Recovery func() time.Duration

	Metrics *telemetry.Metrics
	Log     *slog.Logger
	Version string
	// PublicURL is where clients reach the gateway, without a slash at its end;
	// empty where that is not known.
	PublicURL string
	// TrustedProxies are believed what their X-Forwarded headers say of a client.
	TrustedProxies []netip.Prefix

	EmbedParameters bool // write what reproduces a picture into it
	EmbedXMP        bool // write the XMP that marks a picture as synthetic
	Limits          Limits
}

// Limits bound what one client can take, beside those of the Intake.
type Limits struct {
	MaxQueue       int   // pictures; enforced by the Runner, shown by /v1/capabilities
	MaxImagePixels int64 // of a reference image; enforced by the Intake's decoder, shown likewise
	// RequestTimeout is the longest time from a request's first byte to the end
	// of its pictures; 0 means no limit.
	RequestTimeout time.Duration
	// WriteTimeout is the time in which a client must take an answer or an
	// event of a stream; default 1 min.
	WriteTimeout time.Duration
	// BodyTimeout is the time in which the body of a request must come that
	// needs none; uploads have a time of their own. Default 10 s.
	BodyTimeout time.Duration
	// KeepAlive is the longest silence of a stream; default 15 s.
	KeepAlive time.Duration
}

func (l Limits) withDefaults() Limits {
	fill := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	fill(&l.WriteTimeout, time.Minute)
	fill(&l.BodyTimeout, 10*time.Second)
	fill(&l.KeepAlive, 15*time.Second)
	return l
}

type server struct {
	Options
	router  *gin.Engine
	fields  parameters.Set // of requests for pictures
	repeats *repeats
}

// New makes the handler of the whole surface, but for the admin listener's.
func New(o Options) http.Handler {
	o.Limits = o.Limits.withDefaults()
	s := &server{Options: o, fields: parameters.Of(o.Pipeline.Family()), repeats: newRepeats(o.Metrics)}
	r := s.engine(o.Browser)
	s.routes(r)
	s.startSeries(r.Routes())
	return r
}

// engine is what both listeners have in common.
func (s *server) engine(browser Browser) *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.HandleMethodNotAllowed = true
	r.RedirectTrailingSlash = false
	_ = r.SetTrustedProxies(nil) // see server.clientAddress
	r.Use(s.observe, s.recover, browser.guard(s), s.checkQuery)
	s.router = r
	r.NoRoute(s.noRoute)
	r.NoMethod(func(c *gin.Context) {
		s.refuse(c, &fault{kind: methodNotAllowed, message: c.Request.URL.Path + " does not take " + c.Request.Method + ", but " + c.Writer.Header().Get("Allow")})
	})
	return r
}

// readable adds a route that answers GET and HEAD.
func readable(r gin.IRoutes, path string, handlers ...gin.HandlerFunc) {
	r.GET(path, handlers...)
	r.HEAD(path, handlers...) // net/http leaves the body out
}

// routes is the whole surface.
func (s *server) routes(r gin.IRoutes) {
	r.POST("/v1/images/edits", s.allow(keys.Generate), s.admit, s.images(edits))
	r.POST("/v1/images/generations", s.allow(keys.Generate), s.admit, s.images(generations))
	r.POST("/v1/prompts/check", s.allow(keys.Read), s.checkPrompt)
	readable(r, "/v1/models", s.allow(keys.Read), s.listModels)
	readable(r, "/v1/models/*id", s.allow(keys.Read), s.getModel) // a name may have slashes
	readable(r, "/v1/capabilities", s.allow(keys.Read), s.capabilities)

	// Open to all: what tells nothing but whether, and how, to ask.
	readable(r, "/healthz", s.healthz)
	readable(r, "/readyz", s.readyz)
	readable(r, "/openapi.json", s.openAPI)
}

// NewServer wraps a handler in a server whose timeouts fit requests that take
// minutes: the head must come quickly, the body has its own deadline, and each
// write has one.
func NewServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
