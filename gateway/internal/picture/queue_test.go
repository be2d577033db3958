package picture

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// decoding is a picture on its way through a queue in the tests: it takes its
// time once its turn has come.
type decoding struct {
	name  string
	cost  cost
	takes time.Duration
}

// pause lies between the arrivals of two pictures.
const pause = 10 * time.Millisecond

// play sends pictures into a queue, one after another, and returns their names
// in the order in which they were done, each with the time since the first came.
func play(t *testing.T, q *queue, all ...decoding) (order []string, after map[string]time.Duration) {
	t.Helper()
	start := time.Now()
	after = map[string]time.Duration{}
	type end struct {
		name  string
		after time.Duration
	}
	done := make(chan end, len(all))
	for _, d := range all {
		go func() {
			leave, err := q.enter(t.Context(), d.cost)
			if err != nil {
				done <- end{d.name + ": " + err.Error(), time.Since(start)}
				return
			}
			time.Sleep(d.takes)
			leave()
			done <- end{d.name, time.Since(start)}
		}()
		time.Sleep(pause)
		synctest.Wait()
	}
	for range all {
		e := <-done
		order = append(order, e.name)
		after[e.name] = e.after
	}
	if q.light.taken != 0 || q.heavy.taken != 0 || q.light.held != 0 || q.heavy.held != 0 || len(q.waiting) != 0 {
		t.Errorf("the queue is not empty afterwards: %+v", q)
	}
	return order, after
}

var (
	face  = cost{memory: 1 << 20, pixels: 512 * 512}
	photo = cost{memory: 1 << 20, pixels: 12e6}
	large = cost{memory: 1 << 20, pixels: 50e6} // and in one pass
	bomb  = cost{memory: 150 << 20, pixels: 50e6}
)

// Fifteen bombs that take two seconds each do not hold up a face: it comes
// through at once, and so do photographs.
func TestHeavyPicturesDoNotHoldUpLightOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []decoding{}
		for i := range 15 {
			all = append(all, decoding{string(rune('a' + i)), bomb, 2 * time.Second})
		}
		all = append(all, decoding{"photo", photo, 200 * time.Millisecond}, decoding{"face", face, 10 * time.Millisecond})
		for i := range 15 {
			all = append(all, decoding{string(rune('A' + i)), large, time.Second})
		}
		all = append(all, decoding{"phone", cost{memory: 1 << 20, pixels: 24.5e6}, 500 * time.Millisecond})
		_, after := play(t, newQueue(64), all...)
		// All places are taken by pictures of 50 megapixels; those that wait are overtaken.
		if after["phone"] > 33*pause+1500*time.Millisecond {
			t.Errorf("the photograph of a phone came through after %v", after["phone"])
		}
		if after["face"] > 17*pause+10*time.Millisecond || after["photo"] > 16*pause+200*time.Millisecond {
			t.Errorf("the face came through after %v, the photograph after %v", after["face"], after["photo"])
		}
	})
}

// Among light pictures a small one overtakes large ones, and is not overtaken
// for ever itself.
func TestTheOneThatIsDueFirstComesNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1000)
		q.light.places = 1
		all := []decoding{{"first", photo, time.Second}, {"large", photo, time.Second}}
		// Faces keep coming, faster than they are decoded.
		for range 4000 {
			all = append(all, decoding{"face", face, pause * 11 / 10})
		}
		order, after := play(t, q, all...)
		if order[1] != "face" {
			t.Errorf("%s came second, want a face", order[1])
		}
		// Twelve megapixels are due a hundred times 0.3 s after they came.
		if late := after["large"]; late < 30*time.Second || late > 36*time.Second {
			t.Errorf("the large picture was done after %v, want about 34 s", late)
		}
	})
}

func TestHeavyPicturesShareTheirMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(64)
		q.heavy.places = 4
		third := cost{memory: heavyMemory / 3, pixels: 1e6}
		// Three fit together; the bomb waits until all have left, and is not
		// passed by a fourth that would fit beside two of them.
		order, after := play(t, q, decoding{"a", third, time.Second}, decoding{"b", third, time.Second}, decoding{"c", third, 2 * time.Second},
			decoding{"bomb", cost{memory: 2 * heavyMemory, pixels: 1e6}, time.Second}, decoding{"d", third, time.Second})
		if want := []string{"a", "b", "c", "bomb", "d"}; !slices.Equal(order, want) || after["d"] < 4*time.Second {
			t.Errorf("%v after %v, want %v", order, after, want)
		}
	})
}

// When too many wait, the one that would have to wait longest is refused, not
// the one that comes last.
func TestWhoWaitsLongestIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2)
		order, _ := play(t, q, decoding{"a", bomb, time.Second}, decoding{"b", bomb, time.Second}, decoding{"c", bomb, time.Second},
			decoding{"smaller", cost{memory: 64 << 20, pixels: 16e6}, time.Second})
		if want := []string{"c: " + ErrBusy.Error(), "a", "smaller", "b"}; !slices.Equal(order, want) {
			t.Errorf("%q, want %q", order, want)
		}
	})
}

func TestWaitingForTheTurnEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(64)
		leave, err := q.enter(t.Context(), bomb)
		if err != nil {
			t.Fatal(err)
		}
		gone := errors.New("the client is gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error)
		go func() {
			_, err := q.enter(ctx, bomb)
			ended <- err
		}()
		synctest.Wait()
		cancel(gone)
		if err := <-ended; !errors.Is(err, gone) {
			t.Errorf("%v, want the context's cause", err)
		}
		leave()
		// The place and the memory of the first are free again.
		leave, err = q.enter(t.Context(), bomb)
		if err != nil {
			t.Fatal(err)
		}
		leave()
	})
}
