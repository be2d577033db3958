package pipeline

import (
	"context"
	"fmt"
	"math"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
)

// Safety says what becomes of a picture that the safety checker calls not safe
// for work. It never becomes another picture.
type Safety string

const (
	SafetyOff    Safety = "off"    // pictures are not checked
	SafetyFlag   Safety = "flag"   // it is delivered and says so
	SafetyRefuse Safety = "refuse" // its request fails with an *UnsafeError
)

// SafetyChecker scores pictures. It is safe for concurrent use and keeps no
// reference to its argument.
type SafetyChecker interface {
	// ScoreSafety maps CLIP-normalised pixels [3, F, F], F = Dimensions.SafetySize,
	// to nsfw_score: above 0 is not safe for work.
	ScoreSafety(ctx context.Context, pixelValues []float32) (float32, error)
}

// UnsafeError says that the safety checker refused a picture of a request.
type UnsafeError struct {
	Image int // 0 … N-1
}

func (e *UnsafeError) Error() string {
	return fmt.Sprintf("pipeline: the safety checker refused picture %d", e.Image)
}

// checkSafety says whether a picture is not safe for work; nil if pictures are not checked.
func (p *Pipeline) checkSafety(ctx context.Context, clock *networkClock, dims Dimensions, image *picture.Picture) (nsfw *bool, err error) {
	if p.safety == SafetyOff {
		return nil, nil
	}
	pixels := make([]float32, 3*dims.SafetySize*dims.SafetySize)
	image.PixelValues(pixels, dims.SafetySize)
	var score float32
	err = clock.run(func() (err error) {
		score, err = p.checker.ScoreSafety(ctx, pixels)
		return err
	})
	if err != nil {
		return nil, err
	}
	if s := float64(score); math.IsNaN(s) || math.IsInf(s, 0) { // a broken network's, which a comparison may let pass
		return nil, fmt.Errorf("pipeline: the safety checker's nsfw_score is %v, want a finite number", score)
	}
	unsafe := score > 0
	return &unsafe, nil
}

// heldPreviews are those of one picture on their way to the observer.
type heldPreviews struct {
	observer func(Event)
	hold     bool
	held     []Event
}

// holdPreviews keeps previews back, where pictures can be refused, until
// release: a preview shows what the picture will show, if less clearly, and so
// may pass the safety checker where the picture does not. One that does not
// pass by itself is dropped.
func (p *Pipeline) holdPreviews(observer func(Event)) *heldPreviews {
	return &heldPreviews{observer: observer, hold: p.safety == SafetyRefuse}
}

func (h *heldPreviews) emit(e Event) {
	if e.Kind == Preview && h.hold {
		if !*e.NSFW {
			h.held = append(h.held, e)
		}
		e.Kind, e.Picture, e.NSFW = Withheld, nil, nil
	}
	h.observer(e)
}

func (h *heldPreviews) release() {
	for _, e := range h.held {
		h.observer(e)
	}
}
