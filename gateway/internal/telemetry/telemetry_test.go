package telemetry_test

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/facediffuser/facediffuser/gateway/internal/telemetry"
)

// TestDocumented compares docs/metrics.md with the registry: names, types and
// labels, in both directions.
func TestDocumented(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := telemetry.NewMetrics(registry, telemetry.Build{Version: "v", Family: "f", Weights: "w"})
	m.WatchReplicas(func() []telemetry.Replica {
		return []telemetry.Replica{{Address: "a:1", Ready: true, Breaker: "closed"}}
	})
	// A vector shows up only once it has a child.
	m.StepSeconds.WithLabelValues("f", "scene_construction")
	m.NetworkSeconds.WithLabelValues("unet_tdm")
	m.NetworkFailures.WithLabelValues("unet_tdm", "a:1", "unavailable")
	m.Pictures.WithLabelValues("succeeded")
	m.Errors.WithLabelValues("queue_full")
	m.HTTPRequests.WithLabelValues("/healthz", "GET", "200")
	m.HTTPSeconds.WithLabelValues("/healthz")
	m.KeyReloads.WithLabelValues("taken")
	m.Connections.WithLabelValues("public")
	m.ConnectionsShed.WithLabelValues("public", "idle")
	m.AcceptErrors.WithLabelValues("public")

	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var registered []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "facediffuser_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		registered = append(registered, strings.Join([]string{f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ",")}, " "))
	}

	doc, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	row := regexp.MustCompile("(?m)^\\| `(facediffuser_[a-z_]+)` \\| (\\w+) \\|([^|]*)\\|")
	for _, cells := range row.FindAllStringSubmatch(string(doc), -1) {
		labels := regexp.MustCompile(`[a-z_]+`).FindAllString(cells[3], -1)
		slices.Sort(labels)
		documented = append(documented, cells[1]+" "+cells[2]+" "+strings.Join(labels, ","))
	}
	slices.Sort(registered)
	slices.Sort(documented)
	if !slices.Equal(registered, documented) {
		t.Errorf("docs/metrics.md and the registry differ\nregistered:\n%s\ndocumented:\n%s", strings.Join(registered, "\n"), strings.Join(documented, "\n"))
	}
}

// TestBounds: an objective such as "95 % of pictures within 250 ms" needs a bucket that ends there.
func TestBounds(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := telemetry.NewMetrics(registry, telemetry.Build{})
	m.HTTPSeconds.WithLabelValues("/")
	m.NetworkSeconds.WithLabelValues("unet_tdm")
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	waits := []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}
	want := map[string][]float64{
		"facediffuser_http_request_seconds": waits, "facediffuser_queue_seconds": waits, "facediffuser_picture_seconds": waits,
		"facediffuser_network_seconds": {0.001, 0.0025, 0.005, 0.01, 0.1, 1},
	}
	for _, f := range families {
		if want[f.GetName()] == nil {
			continue
		}
		var bounds []float64
		for _, b := range f.GetMetric()[0].GetHistogram().GetBucket() {
			bounds = append(bounds, b.GetUpperBound())
		}
		for _, b := range want[f.GetName()] {
			if !slices.Contains(bounds, b) {
				t.Errorf("%s has no bound at %v s: %v", f.GetName(), b, bounds)
			}
		}
		delete(want, f.GetName())
	}
	if len(want) > 0 {
		t.Errorf("not registered: %v", want)
	}
}

func TestReplicas(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	telemetry.NewMetrics(registry, telemetry.Build{}).WatchReplicas(func() []telemetry.Replica {
		return []telemetry.Replica{{Address: "a:1", Ready: true, Breaker: "closed"}, {Address: "b:1", Breaker: "open"}}
	})
	want := `
# HELP facediffuser_breaker_state Circuit breaker of a Triton replica: 0 closed, 1 half-open, 2 open.
# TYPE facediffuser_breaker_state gauge
facediffuser_breaker_state{replica="a:1"} 0
facediffuser_breaker_state{replica="b:1"} 2
# HELP facediffuser_replica_ready 1 while a Triton replica is ready, else 0.
# TYPE facediffuser_replica_ready gauge
facediffuser_replica_ready{replica="a:1"} 1
facediffuser_replica_ready{replica="b:1"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "facediffuser_breaker_state", "facediffuser_replica_ready"); err != nil {
		t.Error(err)
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log, err := telemetry.NewLogger(&out, "json", "warn")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud", "request_id", "r1")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	if line["msg"] != "loud" || line["request_id"] != "r1" {
		t.Errorf("logged %v", line)
	}
	for _, bad := range [][2]string{{"xml", "info"}, {"text", "chatty"}} {
		if _, err := telemetry.NewLogger(&out, bad[0], bad[1]); err == nil {
			t.Errorf("NewLogger accepted format %q, level %q", bad[0], bad[1])
		}
	}
}
