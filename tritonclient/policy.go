package tritonclient

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
)

// This file is the whole of the failover policy: which failures count against a
// replica, which calls are tried on another one, and what brings a replica back.
//
//	Kind               counts against    tried on      why
//	                   the replica       another
//	Unavailable        yes               yes           down, shutting down, "not at ready state"
//	Internal           yes               yes           the model or its process failed; a call has no side effects
//	BadResponse        yes               yes           the replica serves something else under this name
//	NotFound           no                yes           "unknown model" while a replica scales down or loads
//	ResourceExhausted  no                yes           its queue is full: it works, others may have room
//	PermissionDenied   no                yes           misconfigured, and tripping would hide the message
//	InvalidArgument    no (a success)    no            the caller's fault, the same everywhere
//	Canceled           excluded          no            the caller gave up: says nothing about the replica
//	DeadlineExceeded   excluded          no            says how long the caller would wait. A server that hangs
//	                                                   is found by the readiness probe, which has its own deadline
//	BreakerOpen        –                 yes           the call was not made
//	NotFinite          see below         yes, or on    an input can make any replica overflow
//	                                     the same
//
// Values that are not finite count against a replica only when another one gives finite
// values for the same input, or the same one where no other can be asked; then as a
// BadResponse does. Calls of other models reset that count, so tripAfter such answers in a row
// also put the model out on that replica, but only where another replica gave the finite values: the
// only one is never put out. When the second answer is not finite either, the input is at fault: the
// call fails, and nothing trips, or one user's request would open every breaker.
//
// A breaker opens after tripAfter failures in a row. Nothing is sent to a replica
// whose breaker is open or whose last readiness probe failed.
//
// A readiness success closes the breaker, if that probe began after the breaker
// opened. gobreaker cannot be closed from outside (and must not be, with calls of
// its open time still running), so the replica gets a new breaker: results of calls
// that began under the old one are reported to the old one and forgotten, exactly
// as gobreaker forgets the results of an older generation. A replica that answers
// "ready" and fails every call costs tripAfter failed attempts each probe interval
// this way, and each of them is tried elsewhere, until the model is found out (below);
// in return, a server that is back is used after one probe interval. Should probes not come through although calls
// would, the breaker's own half-open state lets one call through every halfOpenAfter.
// A server says that it is ready, and so are its models, whatever a model does: one that
// hangs, or whose process is stopped, is found by calls alone. An Internal failure, or a call
// that used up its own timeout, is a suspicion. Canaries, calls of one row of zeros, decide it,
// so that an input which no replica can take puts nothing out of use: when a canary fails too,
// the model of that replica gets no calls (BreakerOpen) and is not ready; when one works, or any
// other call does, it is back. Should the model take calls but no zeros, one call is let through
// every halfOpenAfter. A canary may take canaryFactor times what calls of that model
// took lately.
const (
	canaryInterval   = 500 * time.Millisecond
	canaryFactor     = 8
	minCanaryTimeout = 2 * time.Second
	maxCanaryTimeout = 30 * time.Second // also of a model that has never answered, unless its calls have less

	// What Pool.Recovery expects of a replica of which no outage has been measured, and at most.
	usualOutage = 5 * time.Second
	maxRecovery = time.Minute

	tripAfter     = 3
	halfOpenAfter = 5 * time.Second

	// A returned server must be used within 2 s: reconnectDelay (plus gRPC's jitter
	// of 20 %) until the connection is tried, then at most probeInterval until the
	// probe, which takes a millisecond.
	probeInterval  = 300 * time.Millisecond
	reconnectDelay = 250 * time.Millisecond
	// A probe that gets no answer in time counts when it is the last of probeMisses in
	// a row: a machine under load answers late, and is not helped by being given up.
	probeTimeout = 1500 * time.Millisecond
	probeMisses  = 3
)

func (k Kind) trips() bool {
	return k == Unavailable || k == Internal || k == BadResponse
}

func (k Kind) retried() bool {
	switch k {
	case InvalidArgument, Canceled, DeadlineExceeded:
		return false
	}
	return true
}

func (k Kind) excluded() bool {
	return k == Canceled || k == DeadlineExceeded || k == NotFinite
}

// suspicious says whether a call failed as it does when the model hangs or is broken.
func (k Kind) suspicious() bool {
	return k == Internal || k == DeadlineExceeded
}

// breakerSettings applies the policy; opened is called when the breaker opens.
func breakerSettings(replica string, opened func()) gobreaker.Settings {
	return gobreaker.Settings{
		Name:        replica,
		Timeout:     halfOpenAfter,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
		IsSuccessful: func(err error) bool {
			return err == nil || !kindOf(err).trips()
		},
		IsExcluded: func(err error) bool { return err != nil && kindOf(err).excluded() },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				opened()
			}
		},
	}
}

// failure classifies what an attempt returned. When the caller's context has ended,
// that is the reason, whatever gRPC made of it (a broken stream, a lost connection).
func failure(ctx context.Context, err error) *Error {
	kind := kindOf(err)
	var own *Error
	if errors.As(err, &own) {
		err = own.Err
	}
	switch ctx.Err() {
	case context.Canceled:
		kind = Canceled
	case context.DeadlineExceeded:
		kind = DeadlineExceeded
	}
	return &Error{Kind: kind, Err: err}
}
