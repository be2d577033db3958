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
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/job"
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
	listener net.Listener
	server   *http.Server
	failed   chan error // the HTTP server's end, if it ends by itself
}

// startGateway puts the parts together and listens. Requests are answered at once, with 503 until the networks are ready.
func startGateway(ctx context.Context, settings *config.Config, s streams) (g *gateway, err error) {
	g = &gateway{settings: settings, failed: make(chan error, 1)}
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
		if !g.family.Answers(alias) {
			g.family.Aliases = append(g.family.Aliases, alias)
		}
	}
	proxies, err := settings.Proxies()
	if err != nil {
		return g, err
	}
	words, err := tokenizer.Load(g.family.TokenizerDir())
	if err != nil {
		return g, err
	}
	// Before Triton: a taken port is the most likely fault and should not cost a start.
	if g.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", settings.Listen); err != nil {
		return g, fmt.Errorf("%w (--listen takes another address)", err)
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
	metrics := telemetry.NewMetrics(registry, telemetry.Build{Version: version(), Family: g.family.Name, Weights: g.family.WeightsSHA256})
	g.pool, err = tritonclient.New(tritonclient.Options{
		Replicas: replicas, Observe: observer(metrics, g.models, replicas), OnReplica: g.noteReplica, OnModel: g.noteModel,
	})
	if err != nil {
		return g, err
	}
	metrics.WatchReplicas(g.replicas)
	served := networks.New(g.pool, g.family, settings.StepTimeout, optional...)
	g.pipeline, err = pipeline.New(pipeline.Options{
		Family: g.family, Tokenizer: words, MaxRunning: settings.MaxRunning, Servers: len(replicas), Version: version(),
		NearestSize: settings.SizeFallback == "nearest",
		Networks:    served, Safety: safety, SafetyChecker: served,
	})
	if err != nil {
		return g, err
	}
	g.runner = job.NewRunner(g.pipeline, job.Options{
		MaxQueue: settings.MaxQueue, Timeout: settings.RequestTimeout, Model: g.family.Name, Metrics: metrics, Log: g.log,
	})
	handler := httpapi.New(httpapi.Options{
		Pipeline: g.pipeline, Runner: g.runner, Ready: g.missing, Recovery: g.recovery, PublicURL: g.publicURL(), TrustedProxies: proxies,
		Intake: upload.NewIntake(picture.NewDecoder(picture.Limits{MaxPixels: settings.MaxImagePixels}, g.family.ObjectResolution), upload.Limits{
			MaxFileBytes: int64(settings.MaxImageBytes), MemoryBytes: int64(settings.UploadMemory), Timeout: settings.UploadTimeout,
		}),
		Metrics: metrics, Gatherer: registry, Log: g.log, Version: version(),
		EmbedParameters: settings.EmbedParameters, EmbedXMP: settings.EmbedXMP,
		Limits: httpapi.Limits{MaxQueue: settings.MaxQueue, MaxImagePixels: settings.MaxImagePixels, RequestTimeout: settings.RequestTimeout},
	})
	g.server = httpapi.NewServer(handler, g.log)
	go func() { g.failed <- g.server.Serve(g.listener) }()
	return g, nil
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
func (g *gateway) url() string { return localURL(g.listener.Addr().String()) }

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

// missing names what requests would have to wait for; nothing when every network can be called.
func (g *gateway) missing(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if g.triton != nil {
		if s := g.triton.Status(); s.State != localtriton.Ready {
			return []string{fmt.Sprintf("the local Triton is %s: %d of %d models are loaded", s.State, len(s.Loaded), s.Models)}
		}
	}
	if err := g.pool.Ready(ctx); err != nil {
		return []string{fmt.Sprintf("no Triton server is ready: %v", err)}
	}
	var missing []string
	for _, model := range g.models {
		if err := g.pool.ModelReady(ctx, model); err != nil {
			if model == networks.SafetyChecker {
				model += " (--safety off would leave pictures unchecked)"
			}
			missing = append(missing, fmt.Sprintf("the model %s: %v", model, err))
		}
	}
	if missing == nil {
		if _, err := g.pipeline.Dimensions(ctx); err != nil {
			missing = append(missing, err.Error())
		}
	}
	return missing
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
		missing := strings.Join(g.missing(ctx), ", ")
		if missing == "" {
			return nil
		}
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
	switch {
	case g.server != nil:
		// Answers that were just cut off still need a moment to reach their clients.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := g.server.Shutdown(last); err != nil {
			errs = append(errs, g.server.Close())
		}
	case g.listener != nil:
		errs = append(errs, g.listener.Close())
	}
	if g.pool != nil {
		errs = append(errs, g.pool.Close())
	}
	if g.triton != nil {
		// What is left of the grace, or a little more.
		if deadline, _ := ctx.Deadline(); time.Until(deadline) < 5*time.Second {
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
		}
		errs = append(errs, g.triton.Close(ctx))
	}
	return errors.Join(errs...)
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
	fmt.Fprintf(w, `
Face-Diffuser is ready on %[1]s (family %[2]s).

Make a picture, out.png:
  curl -s %[1]s/v1/images/%[3]s \
    | sed 's/.*"b64_json":"\([^"]*\)".*/\1/' | base64 -d > out.png

`, cmp.Or(g.publicURL(), g.url()), g.family.Name, request)
}
