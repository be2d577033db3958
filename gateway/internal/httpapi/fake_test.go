package httpapi_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/facediffuser/facediffuser/fusion"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/gateway/internal/telemetry"
	"github.com/facediffuser/facediffuser/gateway/internal/upload"
)

// fake stands for the pipeline: it checks what a handler test needs checked
// and makes pictures of one colour, 8×8 pixels.
type fake struct {
	family     family.Family
	dimensions func() (pipeline.Dimensions, error)
	// step runs at every step; an error fails the job.
	step func(ctx context.Context, image, step int) error
	// unsafe says whether a picture is; previews are as their picture.
	safety pipeline.Safety
	unsafe func(image int) bool
	// connections are at most that many.
	connections int
	// listener, if set, is where the API listens.
	listener net.Listener
}

func newFake() *fake {
	f := &fake{safety: pipeline.SafetyOff, connections: 1000, family: family.Family{
		Name: "mini", Aliases: []string{"face-diffuser"}, Created: 1700000000, WeightsSHA256: strings.Repeat("0", 64),
		Defaults: family.Defaults{Scheduler: "ddim", Steps: 6, GuidanceScale: 5, StageBounds: family.StageBounds{StartMerge: 0.3, Final: 0.6}},
		Limits:   family.Limits{MaxSteps: 100, MinGuidanceScale: 1, MaxGuidanceScale: 20},
		Quality: map[string]family.Preset{
			"low": {Scheduler: "dpmpp_2m", Steps: 4}, "medium": {Scheduler: "ddim", Steps: 6}, "high": {Scheduler: "ddim", Steps: 8},
		},
		InputFidelity: map[string]family.StageBounds{
			"low": {StartMerge: 0.4, Final: 0.7}, "high": {StartMerge: 0.2, Final: 0.5},
		},
	}}
	f.dimensions = func() (pipeline.Dimensions, error) {
		return pipeline.Dimensions{Tokens: 77, Subjects: 4, LatentHeight: 1, LatentWidth: 1, Height: 8, Width: 8}, nil
	}
	return f
}

func (f *fake) Family() *family.Family { return &f.family }
func (f *fake) Capacity() int          { return 2 }

func (f *fake) Safety() pipeline.Safety { return f.safety }

func (f *fake) Dimensions(context.Context) (pipeline.Dimensions, error) {
	return f.dimensions()
}

func (f *fake) KnownDimensions() (pipeline.Dimensions, bool) {
	d, err := f.dimensions()
	return d, err == nil
}

func (f *fake) Prepare(_ context.Context, p pipeline.Params, subjects []*picture.Reference) (*pipeline.Request, error) {
	d, err := f.dimensions()
	if err != nil {
		return nil, err
	}
	r := &pipeline.Request{
		N: max(p.N, 1), Scheduler: cmp.Or(p.Scheduler, f.family.Defaults.Scheduler), Steps: f.family.Defaults.Steps, Quality: "auto",
		Previews: p.Previews, FusionMap: p.FusionMap,
		Width: d.Width, Height: d.Height, Subjects: subjects, PromptUsed: p.Prompt, Seed: 3407, GuidanceScale: 5,
		Plan: fusion.Plan{Steps: 6, StartMergeStep: 1, FinalStep: 3},
	}
	if p.Prompt == "" {
		return nil, &pipeline.InputError{Param: "prompt", Code: "missing_required_parameter", Message: "prompt is empty"}
	}
	if n := strings.Count(p.Prompt, "<|image|>"); n != len(subjects) && n != 0 {
		return nil, &pipeline.InputError{Param: "prompt", Code: "invalid_value", Message: fmt.Sprintf("the prompt has %d markers for %d images", n, len(subjects))}
	}
	if p.Width != 0 && p.Width != d.Width {
		return nil, &pipeline.InputError{Param: "size", Code: "unsupported_value", Message: fmt.Sprintf("size %dx%d is not served", p.Width, p.Height)}
	}
	if p.Seed != nil {
		r.Seed = *p.Seed
	}
	if p.Steps != nil {
		r.Steps = *p.Steps
	}
	if strings.HasPrefix(p.Prompt, "long ") {
		r.Warnings = []pipeline.Warning{{Param: "prompt", Message: "the prompt was cut"}}
	}
	return r, nil
}

func (f *fake) ReadPrompt(prompt, _ string, _ int) (*pipeline.Reading, error) {
	return &pipeline.Reading{Prompt: pipeline.Text{Text: prompt, Cut: len(prompt)}}, nil
}

func (f *fake) Generate(ctx context.Context, r *pipeline.Request, observe func(pipeline.Event)) ([]pipeline.Result, error) {
	results := make([]pipeline.Result, r.N)
	for k := range results {
		seed := r.Seed + uint32(k)
		flat := &picture.Picture{Width: 8, Height: 8, Pix: bytes.Repeat([]byte{byte(seed), byte(seed >> 8), 0}, 64)}
		var nsfw *bool
		if f.safety != pipeline.SafetyOff {
			unsafe := f.unsafe(k)
			nsfw = &unsafe
		}
		observe(pipeline.Event{Kind: pipeline.Started, Image: k, Steps: r.Steps})
		for i := range r.Steps {
			if f.step != nil {
				if err := f.step(ctx, k, i); err != nil {
					return nil, err
				}
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			e := pipeline.Event{Kind: pipeline.Step, Image: k, Step: i + 1, Steps: r.Steps, Stage: r.Plan.Stage(i)}
			observe(e)
			if p := i; p < r.Previews {
				e.Kind, e.PreviewIndex, e.Picture, e.NSFW = pipeline.Preview, p, flat, nsfw
				if f.safety == pipeline.SafetyRefuse {
					e.Kind, e.Picture, e.NSFW = pipeline.Withheld, nil, nil
				}
				observe(e)
			}
		}
		if f.safety == pipeline.SafetyRefuse && *nsfw {
			return nil, &pipeline.UnsafeError{Image: k}
		}
		results[k] = pipeline.Result{
			Picture: flat, NSFW: nsfw, Seed: seed, Fusion: []pipeline.FusionStep{{Step: 2, SDMShare: 0.5}, {Step: 3, SDMShare: 0.25}},
			Parameters: pipeline.Parameters{Model: "mini", Prompt: r.PromptUsed, Seed: seed, Scheduler: r.Scheduler, Steps: r.Steps, Subjects: len(r.Subjects), Width: 8, Height: 8, NSFW: nsfw != nil && *nsfw},
			Timings:    pipeline.Timings{Total: 3 * time.Second, Queued: time.Second, Networks: 2 * time.Second},
		}
		if r.FusionMap {
			results[k].FusionMap = flat
		}
		observe(pipeline.Event{Kind: pipeline.Finished, Image: k, Step: r.Steps, Steps: r.Steps, Result: &results[k]})
	}
	return results, nil
}

// gateway is the API on a fake pipeline, behind a real server.
type gateway struct {
	*httptest.Server
	*fake
	runner *job.Runner
	admin  http.Handler
	log    lines // of this many, none is lost
}

func serve(t testing.TB, f *fake, change ...func(*httpapi.Options, *job.Options)) *gateway {
	t.Helper()
	registry := prometheus.NewRegistry()
	metrics := telemetry.NewMetrics(registry, telemetry.Build{})
	g := &gateway{fake: f, log: make(lines, 10_000)}
	log := slog.New(slog.NewJSONHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	jobs := job.Options{MaxQueue: 8, Model: "mini", Metrics: metrics, Log: log}
	o := httpapi.Options{
		Pipeline: f, Intake: upload.NewIntake(picture.NewDecoder(picture.Limits{MaxPixels: 1 << 20}, 32), upload.Limits{MaxFileBytes: 1 << 20}),
		Ready: func() []string { return nil }, Recovery: func() time.Duration { return 7200 * time.Millisecond }, Metrics: metrics, Log: log, Version: "test", Browser: httpapi.Browser{Loopback: true},
		EmbedParameters: true, EmbedXMP: true, Limits: httpapi.Limits{MaxQueue: 8},
	}
	for _, c := range change {
		c(&o, &jobs)
	}
	g.runner = job.NewRunner(f, jobs)
	o.Runner = g.runner
	g.Server = httptest.NewUnstartedServer(nil)
	g.Config = httpapi.NewServer(httpapi.New(o), log)
	g.admin = httpapi.NewAdmin(o, httpapi.AdminOptions{
		Gatherer: registry, Browser: httpapi.Browser{Loopback: true},
		Replicas: func() []httpapi.Replica {
			return []httpapi.Replica{{Address: "10.0.0.7:8001", Breaker: "half-open", Calls: 3, Reason: "connection refused"}}
		},
		Missing: func() []string { return []string{"the model unet_sdm: 10.0.0.7:8001 is away"} },
	})
	if f.listener != nil {
		g.Listener.Close()
		g.Listener = f.listener
	}
	g.Listener = httpapi.LimitConnections(g.Config, g.Listener, httpapi.ConnectionLimits{Listener: "public", Max: f.connections, Metrics: metrics, Log: log})
	g.Start()
	t.Cleanup(func() {
		g.Close()
		if err := g.runner.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return g
}

// metrics are what the admin listener says.
func (g *gateway) metrics(t testing.TB) string {
	t.Helper()
	answer := httptest.NewRecorder()
	g.admin.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "http://localhost/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("/metrics: %d %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

// lines hands over what is logged, a line at a time.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// face is a reference image, otherFace another.
func face(t testing.TB) []byte      { return portrait(t, 120) }
func otherFace(t testing.TB) []byte { return portrait(t, 121) }

func portrait(t testing.TB, green uint8) []byte {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, 20, 30))
	for i := range 600 {
		m.Set(i%20, i/20, color.RGBA{uint8(i), green, 90, 255})
	}
	var out bytes.Buffer
	if err := png.Encode(&out, m); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
