package picture

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"
)

// ErrBusy is returned for a picture that would have to wait behind too many others.
var ErrBusy = errors.New("too many pictures wait to be decoded")

// cost is what decoding a picture takes, as its header tells.
type cost struct {
	memory int64 // bytes that the decoder holds
	pixels int64 // times the passes that a decoder makes over them
}

// queue decides which pictures are decoded at once, and which comes next.
//
//   - Light pictures are decoded row by row, in one pass and in little memory: what
//     phones and cameras make. They have places of their own, so that they never
//     wait behind heavy ones.
//   - Heavy pictures share a budget of memory and take at most a part of the
//     processors, so that the rest of the gateway, and a Triton beside it, go on.
//   - Among those that wait, the one that is due first comes next: its arrival
//     plus some times what decoding will take. A small picture overtakes large
//     ones, and none waits for ever.
//   - Beyond a number of waiting pictures the one that is due last is refused.
type queue struct {
	maxWaiting int

	mu      sync.Mutex
	light   lane
	heavy   lane
	waiting []*waiter // by due
}

// lane is a number of places and the memory of the pictures in them.
type lane struct {
	places int
	memory int64 // one picture alone may exceed it
	taken  int
	held   int64
}

type waiter struct {
	cost cost
	due  time.Time
	lane *lane
	turn chan error // receives nil, or ErrBusy; has room for one
}

const (
	lightMemory = 32 << 20         // of a picture
	lightPixels = defaultMaxPixels // of a picture; a photograph of 12 megapixels takes 0.1 to 0.3 s
	heavyMemory = 128 << 20        // of all together

	// overtaking is for how many times its own decoding a picture is overtaken by
	// smaller ones. A photograph of 24 megapixels comes before all of 50 that have
	// not waited for a minute yet.
	overtaking = 100
	// pixelsPerSecond is about what decoders here do. It only sets the order.
	pixelsPerSecond = 40e6
)

func newQueue(maxWaiting int) *queue {
	processors := runtime.GOMAXPROCS(0)
	return &queue{
		maxWaiting: maxWaiting,
		light:      lane{places: max(2, processors), memory: int64(max(2, processors)) * lightMemory},
		heavy:      lane{places: max(1, processors/4), memory: heavyMemory},
	}
}

// enter waits until a picture may be decoded; leave makes place for another.
// The error is ErrBusy or the cause of ctx.
func (q *queue) enter(ctx context.Context, c cost) (leave func(), err error) {
	w := &waiter{cost: c, lane: &q.light, turn: make(chan error, 1)}
	if c.memory > lightMemory || c.pixels > lightPixels {
		w.lane = &q.heavy
	}
	takes := time.Duration(float64(c.pixels) / pixelsPerSecond * float64(time.Second))
	w.due = time.Now().Add(overtaking * takes)

	q.mu.Lock()
	at, _ := slices.BinarySearchFunc(q.waiting, w, func(a, b *waiter) int { return cmp.Or(a.due.Compare(b.due), -1) })
	q.waiting = slices.Insert(q.waiting, at, w)
	q.admit()
	if last := len(q.waiting) - 1; last >= q.maxWaiting {
		q.waiting[last].turn <- ErrBusy
		q.waiting = q.waiting[:last]
	}
	q.mu.Unlock()

	select {
	case err := <-w.turn:
		if err != nil {
			return nil, err
		}
		return func() { q.leave(w) }, nil
	case <-ctx.Done():
		q.abandon(w)
		return nil, context.Cause(ctx)
	}
}

// admit gives places to those that wait; q.mu is held.
func (q *queue) admit() {
	full := map[*lane]bool{} // who comes later does not get what the first in its lane waits for
	q.waiting = slices.DeleteFunc(q.waiting, func(w *waiter) bool {
		l := w.lane
		if full[l] = full[l] || l.taken == l.places || l.taken > 0 && l.held+w.cost.memory > l.memory; full[l] {
			return false
		}
		l.taken++
		l.held += w.cost.memory
		w.turn <- nil
		return true
	})
}

func (q *queue) leave(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.lane.taken--
	w.lane.held -= w.cost.memory
	q.admit()
}

// abandon takes a waiter out, whose turn may have come just now.
func (q *queue) abandon(w *waiter) {
	q.mu.Lock()
	at := slices.Index(q.waiting, w)
	if at >= 0 {
		q.waiting = slices.Delete(q.waiting, at, at+1)
	}
	q.mu.Unlock()
	if at < 0 && <-w.turn == nil {
		q.leave(w)
	}
}
