package tritontest

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/facediffuser/facediffuser/tritonclient/inference"
)

// Fault is what goes wrong in one inference. The zero Fault is a call that works.
type Fault struct {
	// Delay passes before anything else happens.
	Delay time.Duration
	// Hang holds the call until its caller gives up.
	Hang bool
	// Code, if not OK, is the answer, with Message.
	Code    codes.Code
	Message string
	// Alter changes a good answer before it is sent.
	Alter func(*inference.ModelInferResponse)
	// Cut closes the client's connection after that many bytes of the answer; 0 does not.
	Cut int
}

// Unavailable is what a server answers that shuts down.
func Unavailable() Fault {
	return Fault{Code: codes.Unavailable, Message: "Server is stopping, scheduler for model has stopped accepting new inference requests"}
}

// NotAtReadyState is what a server answers whose model is being unloaded.
func NotAtReadyState(model string) Fault {
	return Fault{Code: codes.Unavailable, Message: "Request for unknown model: '" + model + "' version 1 is not at ready state"}
}

// UnknownModel is what a server answers that does not have the model (any more).
func UnknownModel(model string) Fault {
	return Fault{Code: codes.NotFound, Message: "Request for unknown model: '" + model + "' is not found"}
}

// WrongShape adds one to the first output's last dimension; its bytes stay.
func WrongShape() Fault {
	return Fault{Alter: func(r *inference.ModelInferResponse) { r.Outputs[0].Shape[len(r.Outputs[0].Shape)-1]++ }}
}

// WrongDatatype calls the first output an INT64.
func WrongDatatype() Fault {
	return Fault{Alter: func(r *inference.ModelInferResponse) { r.Outputs[0].Datatype = "INT64" }}
}

// WrongLength drops the last byte of the first output.
func WrongLength() Fault {
	return Fault{Alter: func(r *inference.ModelInferResponse) {
		r.RawOutputContents[0] = r.RawOutputContents[0][:len(r.RawOutputContents[0])-1]
	}}
}

// NoOutputs leaves every tensor out.
func NoOutputs() Fault {
	return Fault{Alter: func(r *inference.ModelInferResponse) { r.Outputs, r.RawOutputContents = nil, nil }}
}

// cutListener gives connections that can be cut.
type cutListener struct {
	net.Listener
	mu    sync.Mutex
	conns map[string]*cutConn // by the client's address
}

func (l *cutListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &cutConn{Conn: conn}
	c.left.Store(-1)
	l.mu.Lock()
	l.conns[conn.RemoteAddr().String()] = c
	l.mu.Unlock()
	return c, nil
}

// cut lets the connection of the client at address write n bytes more.
func (l *cutListener) cut(address string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.conns[address]; c != nil {
		c.left.Store(int64(n))
	}
}

type cutConn struct {
	net.Conn
	left atomic.Int64 // bytes until the cut; negative is no cut
}

func (c *cutConn) Write(p []byte) (int, error) {
	left := c.left.Load()
	if left < 0 {
		return c.Conn.Write(p)
	}
	n, err := c.Conn.Write(p[:min(int64(len(p)), left)])
	if c.left.Add(-int64(n)) == 0 {
		c.Close()
		return n, net.ErrClosed
	}
	return n, err
}
