package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/keys"
	"github.com/facediffuser/facediffuser/gateway/internal/localtriton"
	"github.com/facediffuser/facediffuser/gateway/internal/networks"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/telemetry"
	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
	"github.com/facediffuser/facediffuser/gateway/internal/upload"
	"github.com/facediffuser/facediffuser/tritonclient"
)

// gateway is everything that runs behind one listener. startGateway starts it, stop ends it.
type gateway struct {
	settings *config.Config
	log      *slog.Logger
	family   *family.Family
	models   []string            // that must be served
	triton   *localtriton.Server // nil when others run the servers
	pool     *tritonclient.Pool
	pipeline *pipeline.Pipeline
	runner   *job.Runner
	metrics  *telemetry.Metrics
	keys     *keys.Ring     // nil: none are needed
	public   *front         // the API
	admin    *front         // nil: there is none
	failed   chan error     // a server's end, if it ends by itself
	lacks    atomic.Value   // []lack, as ask found last
	watch    sync.WaitGroup // what follows the networks and the keys
	unwatch  context.CancelFunc
}

// front is one listener with its server.
type front struct {
	listener net.Listener
	server   *http.Server
}

// startGateway puts the parts together and listens. Requests are answered at once, with 503 until the networks are ready.
func startGateway(ctx context.Context, settings *config.Config, s streams) (g *gateway, err error) {
	g = &gateway{settings: settings, failed: make(chan error, 2), unwatch: func() {}}
	g.lacks.Store([]lack{{what: "the gateway is starting"}})
	defer func() {
		if err != nil {
			err = errors.Join(err, g.stop(ctx))
		}
	}()
	if g.log, err = telemetry.NewLogger(s.errOut, settings.LogFormat, settings.LogLevel); err != nil {
		return g, err
	}
	if g.family, err = family.Load(settings.Family); err != nil {
		return g, err
	}
	if err = checkSafety(settings, g.family); err != nil {
		return g, err
	}
	for _, alias := range settings.ModelAliases {
		if g.family.Answers(alias) {
			g.log.Warn("model-aliases: the family has this name already", "name", alias)
			continue
		}
		g.family.Aliases = append(g.family.Aliases, alias)
	}

	words, err := tokenizer.Load(g.family.TokenizerDir())
	if err != nil {
		return g, err
	}
	// Before Triton: a taken port is the most likely fault and should not cost a start.
	if g.public, err = listen(ctx, settings.Listen); err != nil {
		return g, fmt.Errorf("%w (--listen takes another address)", err)
	}
	if address := settings.AdminAddress(); address != "" {
		if g.admin, err = listen(ctx, address); err != nil {
			return g, fmt.Errorf("the admin listener: %w (is another gateway running? --admin-listen takes another address, or off)", err)
		}
	}
	safety, optional := safetyOf(settings, g.family), []string(nil)
	if safety != pipeline.SafetyOff {
		optional = []string{networks.SafetyChecker}
	}
	g.models = slices.Concat(networks.Models, optional)
	replicas := settings.Triton
	if len(replicas) == 0 {
		if err = g.family.CheckWeights(); err != nil {
			return g, err
		}
		if g.triton, err = startTriton(ctx, settings, g.family.ModelsDir(), g.models, g.log); err != nil {
			return g, err
		}
		replicas = []string{g.triton.Address()}
	}
	registry := prometheus.NewRegistry()
	g.metrics = telemetry.NewMetrics(registry, telemetry.Build{Version: version(), Family: g.family.Name, Weights: g.family.WeightsSHA256})
	g.pool, err = tritonclient.New(tritonclient.Options{
		Replicas: replicas, Observe: observer(g.metrics, g.models, replicas), OnReplica: g.noteReplica, OnModel: g.noteModel,
	})
	if err != nil {
		return g, err
	}
	g.metrics.WatchReplicas(g.replicas)
	served := networks.New(g.pool, g.family, settings.StepTimeout, optional...)
	g.pipeline, err = pipeline.New(pipeline.Options{
		Family: g.family, Tokenizer: words, MaxRunning: settings.MaxRunning, Servers: len(replicas), Version: version(),
		NearestSize: settings.SizeFallback == "nearest",
		Networks:    served, Safety: safety, SafetyChecker: served,
	})
	if err != nil {
		return g, err
	}
	if g.keys, err = openKeys(settings, g.log, g.metrics); err != nil {
		return g, err
	}
	g.runner = job.NewRunner(g.pipeline, job.Options{
		MaxQueue: settings.MaxQueue, Timeout: settings.RequestTimeout, Model: g.family.Name, Metrics: g.metrics, Log: g.log,
	})
	return g, g.serve(registry)
}

// adminConnections are enough for a scraper, a probe and a person.
const adminConnections = 32

// serve answers requests on the listeners, and begins to follow the networks and the keys.
func (g *gateway) serve(registry *prometheus.Registry) error {
	most, err := maxConnections(g.settings)
	if err != nil {
		return err
	}
	proxies, err := g.settings.Proxies()
	if err != nil {
		return err
	}
	api := httpapi.Options{
		Pipeline: g.pipeline, Runner: g.runner, Ready: g.missing, Recovery: g.recovery, Keys: g.keys, PublicURL: g.publicURL(), TrustedProxies: proxies,
		Intake: upload.NewIntake(picture.NewDecoder(picture.Limits{MaxPixels: g.settings.MaxImagePixels}, g.family.ObjectResolution), upload.Limits{
			MaxFileBytes: int64(g.settings.MaxImageBytes), MemoryBytes: int64(g.settings.UploadMemory), Timeout: g.settings.UploadTimeout,
		}),
		Browser: httpapi.Browser{Loopback: g.settings.Loopback(), AllowedHosts: g.allowedHosts(), CORSOrigins: g.settings.CORSOrigins},
		Metrics: g.metrics, Log: g.log, Version: version(),
		EmbedParameters: g.settings.EmbedParameters, EmbedXMP: g.settings.EmbedXMP,
		Limits: httpapi.Limits{MaxQueue: g.settings.MaxQueue, MaxImagePixels: g.settings.MaxImagePixels, RequestTimeout: g.settings.RequestTimeout},
	}
	g.open(g.public, httpapi.New(api), "public", most)
	if g.admin != nil {
		own := httpapi.AdminOptions{
			Gatherer: registry, Replicas: g.fleet, Missing: g.missingInFull,
			Browser: httpapi.Browser{Loopback: g.settings.AdminLoopback(), AllowedHosts: g.settings.AllowedHosts},
		}
		if !g.settings.AdminLoopback() {
			own.Keys = g.keys
		}
		g.open(g.admin, httpapi.NewAdmin(api, own), "admin", adminConnections)
	}
	// Not a request's context: both end with the gateway, when stop says so.
	ctx, cancel := context.WithCancel(context.Background())
	g.unwatch = cancel
	g.watch.Go(func() { g.follow(ctx) })
	if g.keys != nil {
		g.watch.Go(func() { g.keys.Watch(ctx) })
	}
	return nil
}

// allowedHosts are the names that the gateway answers for. On loopback the name of the public URL is one: the proxy in front passes it on.
// Beyond, naming it would close the gateway to every other name that leads to it.
func (g *gateway) allowedHosts() []string {
	public, err := url.Parse(g.settings.PublicURL)
	if err != nil || public.Hostname() == "" || !g.settings.Loopback() {
		return g.settings.AllowedHosts
	}
	return append(slices.Clone(g.settings.AllowedHosts), public.Hostname())
}

// open begins to answer on a listener.
func (g *gateway) open(f *front, handler http.Handler, name string, most int) {
	f.server = httpapi.NewServer(handler, g.log)
	l := httpapi.LimitConnections(f.server, f.listener, httpapi.ConnectionLimits{Listener: name, Max: most, Metrics: g.metrics, Log: g.log})
	go func() { g.failed <- f.server.Serve(l) }()
}

func listen(ctx context.Context, address string) (*front, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &front{listener: l}, nil
}

// openKeys reads the keys of the settings; nil where there are none.
func openKeys(settings *config.Config, log *slog.Logger, metrics *telemetry.Metrics) (*keys.Ring, error) {
	if settings.KeysFile == "" && settings.Keys == "" {
		return nil, nil //nolint:nilnil // no keys are a setting, not a fault
	}
	ring, err := keys.Open(keys.Options{File: settings.KeysFile, Text: settings.Keys, Log: log, Reloaded: func(n int, err error) {
		metrics.Keys.Set(float64(n))
		outcome := "taken"
		if err != nil {
			outcome = "refused"
		}
		metrics.KeyReloads.WithLabelValues(outcome).Inc()
	}})
	if err != nil {
		return nil, err
	}
	metrics.Keys.Set(float64(ring.Len()))
	if ring.Len() == 0 {
		log.Warn("there is no key, so no request is let in (`facediffuser keys create` makes one)")
	}
	return ring, nil
}

// maxConnections is what the HTTP server may hold. What the limit of open files leaves is for the networks' connections, files and the
// admin listener.
func maxConnections(settings *config.Config) (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("the limit of open files: %w", err)
	}
	own := 64 + adminConnections + 4*len(settings.Triton)
	left := max(8, int(min(limit.Cur, 1<<20))-own)
	if settings.MaxConnections > left {
		return 0, fmt.Errorf("max-connections is %d, but the limit of open files, %d, leaves %d beside the %d of the gateway's own (raise it: ulimit -n)",
			settings.MaxConnections, limit.Cur, left, own)
	}
	if settings.MaxConnections > 0 {
		return settings.MaxConnections, nil
	}
	return min(1024, left), nil
}

// observer counts what becomes of the calls to models, whose series are there before the first call.
func observer(metrics *telemetry.Metrics, models, replicas []string) func(tritonclient.Call) {
	for _, model := range models {
		metrics.NetworkSeconds.WithLabelValues(model)
		for _, replica := range replicas {
			for _, kind := range tritonclient.Kinds() {
				metrics.NetworkFailures.WithLabelValues(model, replica, string(kind))
			}
		}
	}
	return func(c tritonclient.Call) {
		if c.Op != "ModelInfer" {
			return
		}
		if e := (*tritonclient.Error)(nil); errors.As(c.Err, &e) {
			metrics.NetworkFailures.WithLabelValues(c.Model, c.Replica, string(e.Kind)).Inc()
			return
		}
		metrics.NetworkSeconds.WithLabelValues(c.Model).Observe(c.Duration.Seconds())
	}
}

// noteReplica logs that a Triton server came or went.
func (g *gateway) noteReplica(r tritonclient.ReplicaStatus) {
	level := slog.LevelWarn
	if r.Usable() {
		level = slog.LevelInfo
	}
	attrs := []any{"replica", r.Address, "ready", r.Ready, "breaker", r.Breaker}
	if r.Err != nil {
		attrs = append(attrs, "error", r.Err)
	}
	g.log.Log(context.Background(), level, "a Triton server changed", attrs...)
}

// startTriton starts a Triton of our own over a folder of models, which must have those that are needed.
func startTriton(ctx context.Context, settings *config.Config, models string, needed []string, log *slog.Logger) (*localtriton.Server, error) {
	server, err := localtriton.Start(ctx, localtriton.Config{
		Python: settings.Python, ModelsDir: models, Needed: needed, RunDir: settings.RunDir,
		LoadTimeout: settings.LoadTimeout, SilenceTimeout: settings.SilenceTimeout, Logger: log,
	})
	var unfit *localtriton.UnfitError
	if errors.As(err, &unfit) {
		return nil, err // it says what to do
	}
	if err != nil {
		return nil, fmt.Errorf("%w (`make venv` makes the environment; --triton names servers that run elsewhere)", err)
	}
	return server, nil
}

// url is how a program of this machine reaches the gateway.
func (g *gateway) url() string { return localURL(g.public.listener.Addr().String()) }

// publicURL is how clients reach the gateway, as far as the operator has said it.
func (g *gateway) publicURL() string { return strings.TrimRight(g.settings.PublicURL, "/") }

// replicas is the state of the Triton servers for the metrics.
func (g *gateway) replicas() []telemetry.Replica {
	var all []telemetry.Replica
	for _, r := range g.pool.Replicas() {
		all = append(all, telemetry.Replica{Address: r.Address, Ready: r.Ready, Breaker: r.Breaker})
	}
	return all
}

// noteModel is told by the pool what became of a model that failed. Triton never starts a model that hangs again, so ours is started anew.
func (g *gateway) noteModel(s tritonclient.ModelStatus) {
	if s.Err == nil {
		g.log.Info("a model works again", "model", s.Model, "replica", s.Replica)
		return
	}
	g.log.Error("a model fails and gets no calls", "model", s.Model, "replica", s.Replica, "failures", s.Failures, "error", s.Err)
	if most := g.settings.ModelFailures; g.triton != nil && most > 0 && s.Failures >= most {
		g.triton.Restart(fmt.Sprintf("%d calls of its model %s failed in a row, the last one with: %v", s.Failures, s.Model, s.Err))
	}
}

// recovery is in how long the networks can be expected to be back, when they fail now.
func (g *gateway) recovery() time.Duration {
	expected := g.pool.Recovery()
	if g.triton != nil {
		expected = g.triton.Recovery()
	}
	return min(expected, time.Minute) // the SDKs take a longer one for none
}

// fleet is the same for the admin listener.
func (g *gateway) fleet() []httpapi.Replica {
	var all []httpapi.Replica
	for _, r := range g.pool.Replicas() {
		entry := httpapi.Replica{Address: r.Address, Ready: r.Ready, Breaker: r.Breaker, Calls: r.Outstanding}
		if r.Err != nil {
			entry.Reason = r.Err.Error()
		}
		all = append(all, entry)
	}
	return all
}

// lack is one thing that requests would have to wait for.
type lack struct {
	what  string // for everyone: no address, nothing of the machine
	cause error  // for the operator; may be nil
}

func (l lack) String() string {
	if l.cause == nil {
		return l.what
	}
	return fmt.Sprintf("%s: %v", l.what, l.cause)
}

// known is what ask found last.
func (g *gateway) known() []lack {
	lacks, _ := g.lacks.Load().([]lack) // nothing else is stored
	return lacks
}

// missing names what requests would have to wait for; nothing when every network can be called.
func (g *gateway) missing() (names []string) {
	for _, l := range g.known() {
		names = append(names, l.what)
	}
	return names
}

// missingInFull is the same with the causes, which name addresses.
func (g *gateway) missingInFull() (all []string) {
	for _, l := range g.known() {
		all = append(all, l.String())
	}
	return all
}

// askEvery is how old the answer of /readyz may be, beside the time that asking takes.
const askEvery = time.Second

// follow asks after the networks until ctx ends.
func (g *gateway) follow(ctx context.Context) {
	again := time.NewTicker(askEvery)
	defer again.Stop()
	for {
		g.ask(ctx)
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// ask finds what requests would have to wait for now.
func (g *gateway) ask(ctx context.Context) []lack {
	lacks := g.lacking(ctx)
	if ctx.Err() == nil { // else the answer is that nobody waits for one
		g.lacks.Store(lacks)
	}
	return lacks
}

func (g *gateway) lacking(ctx context.Context) (lacks []lack) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if g.triton != nil {
		if s := g.triton.Status(); s.State != localtriton.Ready {
			return []lack{{what: fmt.Sprintf("the local Triton is %s: %d of %d models are loaded", s.State, len(s.Loaded), s.Models)}}
		}
	}
	if err := g.pool.Ready(ctx); err != nil {
		return []lack{{"no Triton server is ready", err}}
	}
	for _, model := range g.models {
		if err := g.pool.ModelReady(ctx, model); err != nil {
			what := "the model " + model
			if model == networks.SafetyChecker {
				what += " (--safety off would leave pictures unchecked)"
			}
			lacks = append(lacks, lack{what, err})
		}
	}
	if lacks != nil {
		return lacks
	}
	var misfit *networks.ContractError
	switch _, err := g.pipeline.Dimensions(ctx); {
	case errors.As(err, &misfit):
		lacks = []lack{{what: misfit.Error()}}
	case err != nil:
		lacks = []lack{{"the networks cannot be asked for their sizes", err}}
	}
	return lacks
}

// waitReady returns when every network can be called. It tells say what is missing, whenever that changes.
func (g *gateway) waitReady(ctx context.Context, say func(missing string)) error {
	var gaveUp <-chan struct{}
	if g.triton != nil {
		gaveUp = g.triton.Done()
	}
	ask := time.NewTicker(250 * time.Millisecond)
	defer ask.Stop()
	for told := ""; ; {
		lacks := g.ask(ctx)
		if len(lacks) == 0 {
			return nil
		}
		missing := join(lacks)
		if missing != told {
			say(missing)
			told = missing
		}
		select {
		case <-ask.C:
		case <-gaveUp:
			return fmt.Errorf("the local Triton does not start: %w (its log is %s)", g.triton.Err(), filepath.Join(g.settings.RunDir, "triton.log"))
		case err := <-g.failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func join(lacks []lack) string {
	said := make([]string, len(lacks))
	for i, l := range lacks {
		said[i] = l.String()
	}
	return strings.Join(said, ", ")
}

// wait returns when ctx ends or the gateway cannot go on.
func (g *gateway) wait(ctx context.Context) error {
	select {
	case err := <-g.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// stop ends the gateway, with the grace of the settings even though ctx may have ended: new requests are refused, those in flight are
// finished, then the connections and, last, the local Triton are closed.
func (g *gateway) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.settings.ShutdownGrace)
	defer cancel()
	var errs []error
	if g.runner != nil {
		if err := g.runner.Drain(ctx); err != nil {
			errs = append(errs, errors.New("requests were cut off: they outlasted the grace (--shutdown-grace)"))
		}
	}
	// Answers that are being written have the rest of the grace; those that were just cut off still need a moment to reach their clients.
	last, cancel := atLeast(ctx, 2*time.Second)
	defer cancel()
	errs = append(errs, g.public.stop(last), g.admin.stop(last))
	g.unwatch()
	g.watch.Wait()
	if g.pool != nil {
		errs = append(errs, g.pool.Close())
	}
	if g.triton != nil {
		last, cancel := atLeast(ctx, 5*time.Second)
		defer cancel()
		errs = append(errs, g.triton.Close(last))
	}
	return errors.Join(errs...)
}

// atLeast is ctx with what is left of its time, or d if that is more.
func atLeast(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if deadline, _ := ctx.Deadline(); time.Until(deadline) > d {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}

// stop accepts nothing more and waits until the answers that are being written are out, or ctx ends. A nil front has nothing to stop.
func (f *front) stop(ctx context.Context) error {
	switch {
	case f == nil:
		return nil
	case f.server == nil:
		return f.listener.Close()
	}
	if f.server.Shutdown(ctx) != nil {
		return f.server.Close()
	}
	return nil
}

// greet says where the gateway is and how to use it.
func (g *gateway) greet(w io.Writer) {
	request := `generations -H 'content-type: application/json' -d '{"prompt": "a man in the snow at night"}'`
	// In a checkout there are faces to try.
	for _, dir := range []string{"examples", filepath.Join(g.settings.Family, "../../examples")} {
		if faces, err := filepath.Glob(filepath.Join(dir, "*.png")); err == nil && len(faces) > 0 {
			request = fmt.Sprintf(`edits -F image=@%s -F 'prompt=a woman <|image|> reading in the snow at night'`, faces[0])
			break
		}
	}
	if g.keys != nil {
		request += ` -H "authorization: Bearer $FACEDIFFUSER_API_KEY"`
	}
	fmt.Fprintf(w, `
Face-Diffuser is ready on %[1]s (family %[2]s).

Make a picture, out.png:
  curl -s %[1]s/v1/images/%[3]s \
    | sed 's/.*"b64_json":"\([^"]*\)".*/\1/' | base64 -d > out.png

`, cmp.Or(g.publicURL(), g.url()), g.family.Name, request)
	if g.admin != nil {
		fmt.Fprintf(w, "For operators (metrics, replicas, drain, pprof): http://%s\n\n", g.admin.listener.Addr())
	}
}
