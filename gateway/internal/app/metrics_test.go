package app

import (
	"log/slog"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/facediffuser/facediffuser/gateway/internal/telemetry"
	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/tritontest"
)

// TestNetworkCallsAreCounted: the attempts that fail are counted where they failed, though another replica answers; their seconds are not
// among those of the answers. All series are there before.
func TestNetworkCallsAreCounted(t *testing.T) {
	models, err := tritontest.Models()
	if err != nil {
		t.Fatal(err)
	}
	a, b := tritontest.Start(t, models...), tritontest.Start(t, models...)
	replicas := []string{a.Address(), b.Address()}
	metrics := telemetry.NewMetrics(prometheus.NewRegistry(), telemetry.Build{})
	log := &lineWriter{want: regexp.MustCompile(`level=INFO msg="a Triton server changed" replica=` + a.Address() + " ready=true breaker=closed"), found: make(chan string, 1)}
	noted := log.found
	g := &gateway{log: slog.New(slog.NewTextHandler(log, nil))}
	pool, err := tritonclient.New(tritonclient.Options{Replicas: replicas, Observe: observer(metrics, []string{"add", "slow"}, replicas), OnReplica: g.noteReplica})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := testutil.CollectAndCount(metrics.NetworkFailures); n != 44 {
		t.Errorf("%d series of failures before any call, want 44: two models, two replicas, eleven kinds", n)
	}
	if n := testutil.CollectAndCount(metrics.NetworkSeconds); n != 2 {
		t.Errorf("%d series of seconds before any call, want one a model", n)
	}
	request := tritonclient.Request{Model: "add", Inputs: []tritonclient.Tensor{
		tritonclient.Float32("a", tritonclient.FP32, []int64{1, 2}, []float32{1, 2}), tritonclient.Float32("b", tritonclient.FP32, []int64{1, 2}, []float32{3, 4}),
	}}
	a.Fault("add", tritontest.Unavailable())
	b.Fault("add", tritontest.WrongShape())
	for range 3 { // each replica fails once; whichever is asked first, the other one answers or fails too
		_, _ = pool.Infer(t.Context(), request)
	}
	if _, err := pool.Infer(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		replica, kind string
		want          float64
	}{{a.Address(), "unavailable", 1}, {b.Address(), "bad_response", 1}, {a.Address(), "bad_response", 0}, {b.Address(), "unavailable", 0}} {
		if n := testutil.ToFloat64(metrics.NetworkFailures.WithLabelValues("add", c.replica, c.kind)); n != c.want {
			t.Errorf("%v failures %s on %s, want %v", n, c.kind, c.replica, c.want)
		}
	}
	if n := testutil.CollectAndCount(metrics.NetworkFailures); n != 44 {
		t.Errorf("%d series of failures after calls, want 44 as before", n)
	}
	<-noted // the log says that the server came
}
