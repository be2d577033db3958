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
