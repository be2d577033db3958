package httpapi

import (
	"net/http"
	"net/http/pprof"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/facediffuser/facediffuser/gateway/internal/keys"
)

// AdminOptions are what the admin listener has beyond the API's own Options.
type AdminOptions struct {
	Gatherer prometheus.Gatherer
	Replicas func() []Replica
	// Missing says in full, with addresses, why requests are not served; nothing when they are.
	Missing func() []string
	Browser Browser
	// Keys, if set, must know a key with the scope admin; nil where the
	// listener is on loopback, or there are no keys.
	Keys *keys.Ring
}

// Replica is one Triton server as the gateway sees it.
type Replica struct {
	Address string `json:"address"`
	Ready   bool   `json:"ready"`
	Breaker string `json:"breaker"` // closed, half-open or open
	Calls   int    `json:"calls"`   // in flight
	Reason  string `json:"reason"`  // why it is not ready; "" when it is
}

// Replicas is the answer of GET /replicas.
type Replicas struct {
	Replicas []Replica `json:"replicas"`
	Missing  []string  `json:"missing"`
	Draining bool      `json:"draining"`
	Waiting  bool      `json:"waiting"` // requests are in progress
}

// admin is the handler of the admin listener.
type admin struct {
	*server
	AdminOptions
	profiling atomic.Bool // one profile at a time
}

// NewAdmin makes the handler of the admin listener. It is for operators, tells
// addresses and ends the service, so it has a listener of its own.
func NewAdmin(o Options, a AdminOptions) http.Handler {
	o.Limits, o.Keys = o.Limits.withDefaults(), a.Keys
	s := &admin{server: &server{Options: o}, AdminOptions: a}
	r := s.engine(a.Browser)
	r.Use(s.ownPagesOnly, s.allow(keys.Admin))
	s.routes(r)
	s.startSeries(r.Routes())
	return r
}

// routes is the whole admin surface.
func (s *admin) routes(r gin.IRoutes) {
	readable(r, "/metrics", gin.WrapH(promhttp.HandlerFor(s.Gatherer, promhttp.HandlerOpts{})))
	readable(r, "/replicas", s.replicas)
	r.POST("/drain", s.drain)
	readable(r, "/debug/pprof/*profile", s.profile)
}

func (s *admin) replicas(c *gin.Context) {
	s.answer(c, http.StatusOK, Replicas{
		Replicas: append([]Replica{}, s.Replicas()...), Missing: append([]string{}, s.Missing()...),
		Draining: s.Runner.Draining(), Waiting: !s.Runner.Idle(),
	})
}

// drain begins what SIGTERM begins, without its end: nothing more is admitted,
// and what is in progress is finished, however long it takes.
func (s *admin) drain(c *gin.Context) {
	s.Runner.StopAdmitting()
	s.Log.Info("draining: asked to by the admin listener", "request_id", notesOf(c).id)
	s.answer(c, http.StatusAccepted, gin.H{"draining": true, "waiting": !s.Runner.Idle()})
}

// ownPagesOnly refuses what web pages of another origin ask for, whatever the
// method: they could not read the answer, but a profile costs time.
func (s *admin) ownPagesOnly(c *gin.Context) {
	site, origin := c.GetHeader("Sec-Fetch-Site"), c.GetHeader("Origin")
	foreign := site == "cross-site" || site == "same-site"
	if site == "" && origin != "" { // a browser that sends no Sec-Fetch-Site
		from, err := url.Parse(origin)
		foreign = err != nil || from.Host != c.Request.Host
	}
	if foreign {
		s.refuse(c, &fault{kind: crossOrigin, message: "web pages of another origin may not use the admin listener"})
	}
}

// A profile takes as long as its reader says, within bounds.
const (
	profileSeconds = 60
	profileTime    = (profileSeconds + 30) * time.Second // with its writing
)

func (s *admin) profile(c *gin.Context) {
	if text := c.Query("seconds"); text != "" {
		if seconds, err := strconv.ParseFloat(text, 64); err != nil || !(seconds >= 0 && seconds <= profileSeconds) {
			s.fail(c, invalid("seconds", "seconds must be from 0 to %d, not %s", profileSeconds, value{text: text}.short()))
			return
		}
	}
	if !s.profiling.CompareAndSwap(false, true) {
		s.fail(c, &fault{kind: rateLimited, message: "another profile is being taken; try again when it is done", after: time.Second})
		return
	}
	defer s.profiling.Store(false)
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(profileTime))
	switch c.Param("profile") {
	case "/cmdline": // it could tell a secret that stands on the command line
		s.fail(c, &fault{kind: notFound, message: "the command line is not served"})
	case "/profile":
		pprof.Profile(c.Writer, c.Request)
	case "/symbol":
		pprof.Symbol(c.Writer, c.Request)
	case "/trace":
		pprof.Trace(c.Writer, c.Request)
	default:
		pprof.Index(c.Writer, c.Request)
	}
}
