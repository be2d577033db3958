package tritonclient

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Kind is what a failed call means to its caller. A Kind is an error, so that
// errors.Is(err, tritonclient.Unavailable) asks for it.
type Kind string

const (
	// Unavailable: no replica could be reached, or none is ready.
	Unavailable Kind = "unavailable"
	// BreakerOpen: replicas answer, but their breakers are open after failures.
	BreakerOpen Kind = "breaker_open"
	// DeadlineExceeded: the caller's time, or the request's time in a queue, ran out.
	DeadlineExceeded Kind = "deadline_exceeded"
	// Canceled: the caller gave up.
	Canceled Kind = "canceled"
	// InvalidArgument: the model does not take these tensors.
	InvalidArgument Kind = "invalid_argument"
	// NotFound: no such model, here and now.
	NotFound Kind = "not_found"
	// ResourceExhausted: a queue is full, or a message is too large.
	ResourceExhausted Kind = "resource_exhausted"
	// PermissionDenied: the server wants a secret that was not sent.
	PermissionDenied Kind = "permission_denied"
	// Internal: the model or the server failed.
	Internal Kind = "internal"
	// BadResponse: the answer does not hold what was asked for: a tensor is missing,
	// has another datatype or shape, or its bytes do not fit its shape.
	BadResponse Kind = "bad_response"
	// NotFinite: NaN or infinity among the values of an Output that must be finite,
	// from more than one replica, or twice from the only one.
	NotFinite Kind = "not_finite"
)

// Kinds are all of them, as labels of a metric.
func Kinds() []Kind {
	return []Kind{Unavailable, BreakerOpen, DeadlineExceeded, Canceled, InvalidArgument, NotFound, ResourceExhausted, PermissionDenied, Internal, BadResponse, NotFinite}
}

func (k Kind) Error() string { return strings.ReplaceAll(string(k), "_", " ") }

// Error is the error of every call. It matches its Kind, whatever Err matches, and
// context.Canceled or context.DeadlineExceeded when its Kind says so.
type Error struct {
	Op      string // the method: "ModelInfer", "ModelConfig", …
	Model   string // "" for a call about the server
	Replica string // host:port of the last replica tried; "" if there was none to try
	Kind    Kind
	Err     error // the gRPC status, or what is wrong
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("triton: " + e.Op)
	if e.Model != "" {
		b.WriteString(" " + e.Model)
	}
	if e.Replica != "" {
		b.WriteString(" on " + e.Replica)
	}
	return fmt.Sprintf("%s: %v: %v", b.String(), e.Kind, e.Message())
}

// Message is what the server said, or what is wrong with its answer.
func (e *Error) Message() string { return message(e.Err) }

// message leaves out gRPC's own decoration ("rpc error: code = … desc = ").
func message(err error) string {
	if s, ok := status.FromError(err); ok && err != nil {
		return s.Message()
	}
	return fmt.Sprint(err)
}

func (e *Error) Unwrap() error { return e.Err }

func (e *Error) Is(target error) bool {
	switch target {
	case context.Canceled:
		return e.Kind == Canceled
	case context.DeadlineExceeded:
		return e.Kind == DeadlineExceeded
	}
	return target == error(e.Kind)
}

// kindOf classifies the error of one gRPC call. Triton uses UNAVAILABLE for several
// things that mean different things to a caller; only the text tells them apart.
func kindOf(err error) Kind {
	var own *Error
	if errors.As(err, &own) {
		return own.Kind
	}
	text := message(err)
	switch status.Code(err) {
	case codes.Canceled:
		return Canceled
	case codes.DeadlineExceeded:
		return DeadlineExceeded
	case codes.InvalidArgument, codes.OutOfRange, codes.FailedPrecondition:
		return InvalidArgument
	case codes.NotFound:
		return NotFound
	case codes.ResourceExhausted:
		return ResourceExhausted
	case codes.PermissionDenied, codes.Unauthenticated:
		return PermissionDenied
	case codes.Unavailable:
		switch {
		case strings.Contains(text, "protocol is restricted"):
			return PermissionDenied // a wrong secret, not an outage
		case strings.Contains(text, "maximum queue size"):
			return ResourceExhausted
		case strings.Contains(text, "Request timeout expired"):
			return DeadlineExceeded
		}
		return Unavailable
	}
	return Internal
}
