package httpapi_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/job"
	"github.com/facediffuser/facediffuser/gateway/internal/telemetry"
)

// raw opens a connection and sends text.
func raw(t testing.TB, g *gateway, text string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

// alive asks for /healthz on a connection of its own.
func alive(t testing.TB, g *gateway) error {
	t.Helper()
	c := raw(t, g, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err == nil && !bytes.HasPrefix(answer, []byte("HTTP/1.1 200")) {
		err = fmt.Errorf("answered %q", answer)
	}
	return err
}

// TestHeldConnections: whoever holds connections, in whatever way, keeps nobody else out.
func TestHeldConnections(t *testing.T) {
	for name, c := range map[string]struct{ text, phase string }{
		"nothing sent":               {"", "head"},
		"half a head":                {"GET /healthz HTTP/1.1\r\nHost: loc", "head"},
		"an upload that never comes": {"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n", "body"},
		"a body that nobody wants":   {"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", "body"},
		"kept alive":                 {"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "idle"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.connections = 20
			g := serve(t, f)
			for i := range 60 {
				raw(t, g, c.text)
				if i%10 == 0 {
					if err := alive(t, g); err != nil {
						t.Fatalf("beside %d connections: %v", i+1, err)
					}
				}
			}
			metrics := g.metrics(t)
			const shed = `facediffuser_connections_shed_total{listener="public",phase=`
			if strings.Contains(metrics, shed+`"`+c.phase+`"} 0`) {
				t.Errorf("no connection was closed as one with %s", c.phase)
			}
			if !strings.Contains(metrics, shed+`"refused"} 0`) {
				t.Error("a new connection was refused")
			}
		})
	}
}

// TestIdleConnectionsGoFirst: an upload in progress is worth more than an idle connection.
func TestIdleConnectionsGoFirst(t *testing.T) {
	f := newFake()
	f.connections = 4
	g := serve(t, f)
	upload := promise(t, g, "/v1/images/generations", len(hill), "Connection: close\r\n")
	for range 20 {
		idle := raw(t, g, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := io.ReadFull(idle, make([]byte, 12)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(upload, hill); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(upload); err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200")) {
		t.Errorf("the upload: %v, %.100q", err, answer)
	}
}

// TestAnswersAreNotCutOff: when every connection is being answered, the new one has to go.
func TestAnswersAreNotCutOff(t *testing.T) {
	f := newFake()
	f.connections = 2
	gate := newGate(f)
	g := serve(t, f)
	answers := make(chan int, 2)
	for range 2 {
		go func() {
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			resp, err := c.Post(g.URL+"/v1/images/generations", "application/json", strings.NewReader(hill))
			if err != nil {
				t.Error(err)
				answers <- 0
				return
			}
			resp.Body.Close()
			answers <- resp.StatusCode
		}()
		<-gate.arrived
	}
	if err := alive(t, g); err == nil {
		t.Error("there was room for a third connection")
	}
	gate.pass <- struct{}{}
	gate.pass <- struct{}{}
	for range 2 {
		if status := <-answers; status != http.StatusOK {
			t.Errorf("a request in progress got %d", status)
		}
	}
	if want := `facediffuser_connections_shed_total{listener="public",phase="refused"} 1`; !strings.Contains(g.metrics(t), want) {
		t.Errorf("no %s", want)
	}
	if err := alive(t, g); err != nil {
		t.Error(err)
	}
}

// TestBodyThatNobodyWants is answered although it never comes, within a time.
func TestBodyThatNobodyWants(t *testing.T) {
	g := serve(t, newFake(), func(o *httpapi.Options, _ *job.Options) { o.Limits.BodyTimeout = 100 * time.Millisecond })
	c := raw(t, g, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(c); err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200")) {
		t.Errorf("%v: %q", err, answer)
	}
}

// TestShutdownWaitsForNobodyToSend: held connections do not hold up the end.
func TestShutdownWaitsForNobodyToSend(t *testing.T) {
	g := serve(t, newFake())
	promise(t, g, "/v1/images/edits", 1000, "")
	raw(t, g, "GET /healthz HT")
	if err := alive(t, g); err != nil { // so those before have been accepted
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := g.Config.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// failing is a listener on which accepting fails twice as it does without a file left, and then for good.
type failing struct {
	net.Listener
	left int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.left--; f.left < 0 {
		return nil, net.ErrClosed
	}
	return nil, &net.OpError{Op: "accept", Err: unix.EMFILE}
}

func TestAcceptErrorsAreVisible(t *testing.T) {
	metrics, log := telemetry.NewMetrics(prometheus.NewRegistry(), telemetry.Build{}), make(lines, 10)
	server := httpapi.NewServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	l := httpapi.LimitConnections(server, &failing{left: 2}, httpapi.ConnectionLimits{Listener: "public", Max: 1, Metrics: metrics, Log: slog.New(slog.NewJSONHandler(log, nil))})
	for range 2 {
		if _, err := l.Accept(); err == nil {
			t.Fatal("accepted")
		}
	}
	if _, err := l.Accept(); err == nil {
		t.Fatal("accepted")
	}
	if n := testutil.ToFloat64(metrics.AcceptErrors.WithLabelValues("public")); n != 2 {
		t.Errorf("%v errors are counted, want 2", n)
	}
	if line := <-log; !strings.Contains(line, "too many open files") || len(log) != 0 {
		t.Errorf("logged %s and %d more lines", line, len(log))
	}
}
