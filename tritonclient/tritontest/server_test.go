package tritontest

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConformance shows the double; that Triton itself passes the same suite, on the
// same models, is shown where one can be started: in gateway/internal/localtriton.
func TestConformance(t *testing.T) {
	models, err := Models()
	if err != nil {
		t.Fatal(err)
	}
	Conformance(t, Target{Address: Start(t, models...).Address()})
}

func TestConformanceUnready(t *testing.T) {
	models, err := Models()
	if err != nil {
		t.Fatal(err)
	}
	var two []Model
	for _, m := range models {
		switch m.Config.Name {
		case "broken":
			m.Failed = "Internal: RuntimeError: weights are missing"
			two = append(two, m)
		case "slow":
			two = append(two, m)
		}
	}
	ConformanceUnready(t, Start(t, two...).Address())
}
