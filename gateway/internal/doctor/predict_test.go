package doctor

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/family"
)

var tenSteps = &family.Family{
	Defaults: family.Defaults{Scheduler: "ddim", Steps: 10, StageBounds: family.StageBounds{StartMerge: 0.3, Final: 0.6}},
	Quality:  map[string]family.Preset{"low": {Scheduler: "dpmpp_2m", Steps: 5}, "medium": {Scheduler: "ddim", Steps: 10}, "high": {Scheduler: "pndm", Steps: 20}},
}

// measured has 0.1 s beside the UNets, and hides half of the shorter of two calls.
func measured() *Measured {
	return &Measured{
		TextEncoder: 0.01, ImageEncoder: 0.02, SubjectFuser: 0.005, VAEDecoder: 0.055, Both: 0.025, slots: 4,
		TDM: []Batch{{Rows: 1, AtOnce: 1, Seconds: 0.002}, {Rows: 2, AtOnce: 1, Seconds: 0.01}, {Rows: 4, AtOnce: 2, Seconds: 0.032}},
		SDM: []Batch{{Rows: 1, AtOnce: 1, Seconds: 0.015}, {Rows: 2, AtOnce: 1, Seconds: 0.02}, {Rows: 8, AtOnce: 1, Seconds: 0.09}},
	}
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-6*want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// TestPredict: by hand, 4 + 3 + 3 steps; 4 ms a row of the TDM in its full batch, 10 ms a
// row of the SDM in its pairs, which are faster a row than its full batch.
func TestPredict(t *testing.T) {
	all := predict(tenSteps, measured())
	auto := all[0]
	if auto.Quality != "auto" || auto.Steps != 10 || auto.Scene != 4 || auto.Fusion != 3 || auto.Enhancement != 3 {
		t.Errorf("default %+v", auto)
	}
	near(t, "a picture", auto.Seconds, 0.1+4*0.01+3*0.025+3*0.02)
	near(t, "an hour", auto.PerHour, 3600/(0.1+0.056+0.12-0.5*0.056))
	for i, want := range []struct {
		quality, scheduler string
		steps, iterations  int // PNDM has one iteration more
	}{{"auto", "ddim", 10, 10}, {"low", "dpmpp_2m", 5, 5}, {"medium", "ddim", 10, 10}, {"high", "pndm", 20, 21}} {
		if p := all[i]; p.Quality != want.quality || p.Scheduler != want.scheduler || p.Steps != want.steps || p.Scene+p.Fusion+p.Enhancement != want.iterations {
			t.Errorf("preset %d is %+v", i, p)
		}
	}
}

// TestOverlap: on one device two calls take as long as one after the other, or longer; on
// two, as long as the longer.
func TestOverlap(t *testing.T) {
	for both, shared := range map[float64]float64{0.03: 0, 0.05: 0, 0.02: 0.056, 0.015: 0.056} {
		m := measured()
		m.Both = both
		near(t, "an hour", predict(tenSteps, m)[0].PerHour, 3600/(0.1+0.056+0.12-shared))
	}
}

func TestFleet(t *testing.T) {
	slow := measured()
	slow.VAEDecoder, slow.slots = 1.055, 2
	replicas := []Replica{
		{Measured: nil},
		{Measured: measured(), Predicted: predict(tenSteps, measured())},
		{Measured: slow, Predicted: predict(tenSteps, slow)},
	}
	f := fleet(replicas)
	if f.MaxRunning != 6 || f.Predicted[0].Seconds != replicas[2].Predicted[0].Seconds {
		t.Errorf("fleet %+v", f)
	}
	near(t, "an hour", f.Predicted[0].PerHour, replicas[1].Predicted[0].PerHour+replicas[2].Predicted[0].PerHour)
	if f := fleet(replicas[:1]); f != nil {
		t.Errorf("fleet of nothing: %+v", f)
	}
}

// TestTimed: the first call only warms up; a slow one is enough.
func TestTimed(t *testing.T) {
	for _, c := range []struct {
		name    string
		took    func(call int) time.Duration
		seconds float64
		calls   int
	}{
		{"fast", func(call int) time.Duration { return time.Duration(call) * time.Millisecond }, 0.008, mostCalls}, // median of 2 … 15 ms
		{"a warm-up", func(call int) time.Duration {
			if call == 1 {
				return 2 * time.Second
			}
			return 400 * time.Millisecond
		}, 0.4, 3},
		{"slow", func(int) time.Duration { return time.Minute }, 60, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			seconds, err := timed(t.Context(), func(context.Context) error {
				calls++
				time.Sleep(c.took(calls))
				return nil
			})
			if err != nil || calls != c.calls || seconds < c.seconds || seconds > c.seconds+0.001 {
				t.Errorf("%s: %v s after %d calls, %v", c.name, seconds, calls, err)
			}
		})
	}
	if _, err := timed(t.Context(), func(context.Context) error { return context.Canceled }); !errors.Is(err, context.Canceled) {
		t.Errorf("a failing call: %v", err)
	}
}
