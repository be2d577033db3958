package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/facediffuser/facediffuser/gateway/internal/telemetry"
)

// ConnectionLimits bound the connections of one listener.
type ConnectionLimits struct {
	Listener string // public or admin, the label of the metrics
	Max      int
	Metrics  *telemetry.Metrics
	Log      *slog.Logger
}

// LimitConnections makes a listener that holds at most Max connections for
// server, which it prepares for that. It never stops to accept: then whoever
// holds connections would keep everyone else out. When there is no room, it
// closes the connection that has been idle for longest; without an idle one,
// that which has waited for longest for the head or the body of its request;
// and only when all are being answered, the new one.
func LimitConnections(server *http.Server, l net.Listener, limits ConnectionLimits) net.Listener {
	all := &connections{ConnectionLimits: limits, open: map[*connection]struct{}{}, say: rate.Sometimes{First: 1, Interval: 10 * time.Second}}
	// Series begin at 0: a rate over one that begins with its first failure does not see it.
	limits.Metrics.Connections.WithLabelValues(limits.Listener)
	limits.Metrics.AcceptErrors.WithLabelValues(limits.Listener)
	for _, p := range []phase{idle, head, body, refused} {
		limits.Metrics.ConnectionsShed.WithLabelValues(limits.Listener, string(p))
	}
	server.ConnState = func(c net.Conn, state http.ConnState) {
		own, ok := c.(*connection)
		if !ok {
			return
		}
		switch state {
		case http.StateActive: // the head has come
			own.enter(answering)
		case http.StateIdle:
			own.enter(idle)
		}
	}
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connectionKey{}, c)
	}
	server.RegisterOnShutdown(all.closeWaiting)
	return &limitedListener{Listener: l, all: all}
}

type phase string

const (
	idle      phase = "idle"
	head      phase = "head"    // of the connection's first request is awaited; a later one's is idle
	body      phase = "body"    // of a request is awaited; its handler says so
	answering phase = "answer"  // a request is complete and being answered
	refused   phase = "refused" // only of a new connection
)

type connections struct {
	ConnectionLimits
	say rate.Sometimes

	mu   sync.Mutex
	open map[*connection]struct{}
}

type connection struct {
	net.Conn
	all   *connections
	phase phase     // all.mu
	since time.Time // all.mu
}

type connectionKey struct{}

// enterPhase notes what the connection of a request is doing now.
func enterPhase(ctx context.Context, p phase) {
	if c, ok := ctx.Value(connectionKey{}).(*connection); ok {
		c.enter(p)
	}
}

func (c *connection) enter(p phase) {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	c.phase, c.since = p, time.Now()
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.all.Metrics.Connections.WithLabelValues(c.all.Listener).Set(float64(len(c.all.open)))
	c.all.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite is what the HTTP server looks for to let a client read an answer
// to the end before the connection is closed.
func (c *connection) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// admit takes a new connection in, or returns false when there is no room for it.
func (a *connections) admit(c net.Conn) (*connection, bool) {
	own := &connection{Conn: c, all: a, phase: head, since: time.Now()}
	a.mu.Lock()
	var victim *connection
	full := len(a.open) >= a.Max
	if full {
		victim = a.longestWaiting()
	}
	what := refused
	if victim != nil {
		what = victim.phase
	}
	if !full || victim != nil {
		a.open[own] = struct{}{}
		a.Metrics.Connections.WithLabelValues(a.Listener).Set(float64(len(a.open)))
	}
	a.mu.Unlock()
	if !full {
		return own, true
	}
	a.Metrics.ConnectionsShed.WithLabelValues(a.Listener, string(what)).Inc()
	a.say.Do(func() {
		a.Log.Warn("too many connections: closing those that wait for longest (--max-connections)", "listener", a.Listener, "max", a.Max, "phase", what)
	})
	if victim == nil {
		_ = c.Close() // whatever it says, the connection is gone
		return nil, false
	}
	_ = victim.Close()
	return own, true
}

// longestWaiting is the connection that can best be spared; nil when all are
// being answered. mu is held.
func (a *connections) longestWaiting() (victim *connection) {
	for c := range a.open {
		switch {
		case c.phase == answering:
		case victim == nil, c.phase == idle && victim.phase != idle,
			(c.phase == idle) == (victim.phase == idle) && c.since.Before(victim.since):
			victim = c
		}
	}
	return victim
}

// closeWaiting closes the connections whose request has not come: a server
// that shuts down would refuse it, and waits for no one to send it.
func (a *connections) closeWaiting() {
	a.mu.Lock()
	var waiting []*connection
	for c := range a.open {
		if c.phase != answering {
			waiting = append(waiting, c)
		}
	}
	a.mu.Unlock()
	for _, c := range waiting {
		_ = c.Close()
	}
}

type limitedListener struct {
	net.Listener
	all *connections
}

// Accept implements net.Listener. The HTTP server tries again after an error
// that may pass; here it is counted and said.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				l.all.Metrics.AcceptErrors.WithLabelValues(l.all.Listener).Inc()
				l.all.say.Do(func() {
					l.all.Log.Error("a connection could not be accepted", "listener", l.all.Listener, "error", err)
				})
			}
			return nil, err
		}
		if own, ok := l.all.admit(c); ok {
			return own, nil
		}
	}
}
