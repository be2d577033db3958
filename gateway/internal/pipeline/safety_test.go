package pipeline

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/facediffuser/facediffuser/gateway/internal/tokenizer"
)

// checked are scripted networks with a safety checker, which has a score for
// each picture and preview in the order in which it sees them.
type checked struct {
	*scripted
	scores []float32
	calls  int
	failed error
	seen   []float32 // the last pixels
}

func (c *checked) Dimensions(context.Context) (Dimensions, error) {
	d := miniDimensions
	d.SafetySize = 24
	return d, nil
}

func (c *checked) ScoreSafety(_ context.Context, pixelValues []float32) (float32, error) {
	c.seen = slices.Clone(pixelValues)
	c.calls++
	return c.scores[c.calls-1], c.failed
}

// withSafety runs one picture at a time, so that the order of scores is known.
func withSafety(t *testing.T, safety Safety, scores ...float32) (*Pipeline, *checked) {
	t.Helper()
	networks := &checked{scripted: newScripted(0), scores: scores}
	f := mini(t)
	tok, err := tokenizer.Load(f.TokenizerDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Family: f, Tokenizer: tok, Networks: networks, MaxRunning: 1, Safety: safety, SafetyChecker: networks})
	if err != nil {
		t.Fatal(err)
	}
	return p, networks
}

// story is what an observer sees of pictures and previews: P and F with the
// number of the preview or the picture, W for a preview that is kept back.
func story(events *[]string, pictures *int) func(Event) {
	return func(e Event) {
		word := map[EventKind]string{Preview: "P", Withheld: "W", Finished: "F"}[e.Kind]
		if word == "" {
			return
		}
		nsfw := e.NSFW
		if e.Result != nil {
			nsfw = e.Result.NSFW
		}
		if nsfw != nil && *nsfw {
			word += "!"
		}
		if e.Picture != nil || e.Result != nil && e.Result.Picture != nil {
			*pictures++
		}
		*events = append(*events, word+string(rune('0'+max(e.PreviewIndex, e.Image))))
	}
}

func TestSafety(t *testing.T) {
	for name, c := range map[string]struct {
		safety   Safety
		n        int
		previews int
		scores   []float32 // previews of a picture, then the picture
		want     []string
		pictures int // that an observer gets hold of
		refused  int // picture of the UnsafeError; -1 for none
	}{
		"off":                           {SafetyOff, 1, 3, nil, []string{"P0", "P1", "P2", "F0"}, 4, -1},
		"flag, safe":                    {SafetyFlag, 2, 0, []float32{-0.5, 0}, []string{"F0", "F1"}, 2, -1},
		"flag, unsafe":                  {SafetyFlag, 2, 0, []float32{-0.5, 0.001}, []string{"F0", "F!1"}, 2, -1},
		"flag, previews for themselves": {SafetyFlag, 1, 3, []float32{1, -1, 1, -1}, []string{"P!0", "P1", "P!2", "F0"}, 4, -1},
		"refuse, safe":                  {SafetyRefuse, 1, 2, []float32{-1, -1, 0}, []string{"W0", "W1", "P0", "P1", "F0"}, 3, -1},
		"refuse, unsafe":                {SafetyRefuse, 1, 3, []float32{-1, -1, 1, 1}, []string{"W0", "W1", "W2"}, 0, 0},
		"refuse, unsafe in the end":     {SafetyRefuse, 1, 3, []float32{-1, -1, -1, 0.001}, []string{"W0", "W1", "W2"}, 0, 0},
		"refuse, an unsafe preview":     {SafetyRefuse, 1, 3, []float32{-1, 1, -1, -1}, []string{"W0", "W1", "W2", "P0", "P2", "F0"}, 3, -1},
		"refuse, the second of two":     {SafetyRefuse, 2, 0, []float32{-1, 1}, []string{"F0"}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p, networks := withSafety(t, c.safety, c.scores...)
			var events []string
			pictures := 0
			r := prepare(t, p, Params{Prompt: "a beach", N: c.n, Steps: ptr(4), Previews: c.previews})
			results, err := p.Generate(t.Context(), r, story(&events, &pictures))
			if !slices.Equal(events, c.want) || pictures != c.pictures {
				t.Errorf("events %v with %d pictures, want %v with %d", events, pictures, c.want, c.pictures)
			}
			var unsafe *UnsafeError
			if c.refused >= 0 {
				if !errors.As(err, &unsafe) || unsafe.Image != c.refused || results != nil {
					t.Errorf("results %v, error %v, want an UnsafeError of picture %d", results, err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for k, result := range results {
				if (result.NSFW == nil) != (c.safety == SafetyOff) {
					t.Errorf("picture %d: NSFW %v", k, result.NSFW)
				}
				flagged := result.NSFW != nil && *result.NSFW
				if want := slices.Contains(c.want, "F!"+string(rune('0'+k))); flagged != want || result.Parameters.NSFW != want {
					t.Errorf("picture %d: flagged %v, in its parameters %v, want %v", k, flagged, result.Parameters.NSFW, want)
				}
			}
			if networks.calls != len(c.scores) {
				t.Errorf("%d calls of the safety checker, want %d", networks.calls, len(c.scores))
			}
		})
	}
}

// TestTheSafetyCheckerSeesThePicture: scripted latents decode to grey, 128 of 255.
func TestTheSafetyCheckerSeesThePicture(t *testing.T) {
	p, networks := withSafety(t, SafetyFlag, -1)
	if _, err := p.Generate(t.Context(), prepare(t, p, Params{Prompt: "a beach", Steps: ptr(1)}), nil); err != nil {
		t.Fatal(err)
	}
	want := []float64{(128/255. - 0.48145466) / 0.26862954, (128/255. - 0.4578275) / 0.26130258, (128/255. - 0.40821073) / 0.27577711}
	if len(networks.seen) != 3*24*24 {
		t.Fatalf("%d values, want 3·24·24", len(networks.seen))
	}
	for i, got := range networks.seen {
		if math.Abs(float64(got)-want[i/(24*24)]) > 1e-6 {
			t.Fatalf("value %d is %v, want %v", i, got, want[i/(24*24)])
		}
	}
}

// TestWithoutAVerdictNoPicture: neither a failing checker nor a score that is no finite number lets a picture pass.
func TestWithoutAVerdictNoPicture(t *testing.T) {
	down := errors.New("down")
	for _, safety := range []Safety{SafetyFlag, SafetyRefuse} {
		for previews := range 2 {
			for name, c := range map[string]struct {
				score  float32
				failed error
			}{"failure": {-1, down}, "not a number": {float32(math.NaN()), nil}, "without end": {float32(math.Inf(-1)), nil}} {
				p, networks := withSafety(t, safety, c.score)
				networks.failed = c.failed
				var events []string
				pictures := 0
				r := prepare(t, p, Params{Prompt: "a beach", Steps: ptr(2), Previews: previews})
				_, err := p.Generate(t.Context(), r, story(&events, &pictures))
				var unsafe *UnsafeError
				if err == nil || errors.As(err, &unsafe) || c.failed != nil && !errors.Is(err, c.failed) || pictures > 0 {
					t.Errorf("%s, %s, %d previews: error %v, %d pictures", safety, name, previews, err, pictures)
				}
			}
		}
	}
}

func TestSafetyNeedsAChecker(t *testing.T) {
	for _, safety := range []Safety{SafetyFlag, SafetyRefuse} {
		if _, err := New(Options{Family: mini(t), Safety: safety}); err == nil {
			t.Errorf("%s: no error", safety)
		}
	}
	if p := newPipeline(t, newScripted(0), 0); p.Safety() != SafetyOff {
		t.Errorf("safety is %q unless asked for", p.Safety())
	}
}
