package upload

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
)

type decoderFunc func(ctx context.Context, r io.ReadSeeker) (*picture.Reference, error)

func (f decoderFunc) Decode(ctx context.Context, r io.ReadSeeker) (*picture.Reference, error) {
	return f(ctx, r)
}

// A picture is decoded while the next one arrives.
func TestDecodingGoesOnWhileTheRestArrives(t *testing.T) {
	var in *Intake
	texts := make(chan struct{})
	in = NewIntake(decoderFunc(func(_ context.Context, r io.ReadSeeker) (*picture.Reference, error) {
		<-texts // comes after the picture
		data, err := io.ReadAll(r)
		if string(data) != "picture" {
			t.Errorf("the decoder got %q", data)
		}
		return &picture.Reference{}, err
	}), Limits{})
	body, contentType := form(t, part{name: "image", file: "a.png", value: "picture"}, part{name: "prompt", value: "x"})
	got, err := in.ReadForm(t.Context(), Body{Reader: io.MultiReader(bytes.NewReader(body), readerFunc(func([]byte) (int, error) {
		close(texts)
		return 0, io.EOF
	})), ContentType: contentType}, 4)
	if err != nil || len(got.Images) != 1 || got.Images[0] == nil {
		t.Fatalf("%+v, %v", got, err)
	}
	got.Close()
}

// The decoding of a client that leaves ends, wherever its body has come to.
func TestDecodingEndsWhenTheClientLeaves(t *testing.T) {
	whole, contentType := form(t, part{name: "image", file: "a.png", value: "picture"}, part{name: "image", file: "b.png", value: "another"})
	for name, sent := range map[string][]byte{
		"after the whole body":      whole,
		"within its second picture": whole[:bytes.Index(whole, []byte("another"))+3],
	} {
		t.Run(name, func(t *testing.T) {
			started, ended := make(chan struct{}, 2), make(chan error, 2)
			in := NewIntake(decoderFunc(func(ctx context.Context, _ io.ReadSeeker) (*picture.Reference, error) {
				started <- struct{}{}
				<-ctx.Done()
				ended <- ctx.Err()
				return nil, context.Cause(ctx)
			}), Limits{})
			answered := make(chan error, 1)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, err := in.ReadForm(r.Context(), RequestBody(w, r), 4)
				answered <- err
			}))
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", contentType, len(whole), sent)
			<-started
			conn.Close()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("decoding ended with %v", err)
			}
			if err := <-answered; err == nil {
				t.Error("the form was read although its client is gone")
			}
			if lost := in.limits.MemoryBytes - in.budget.free; lost != 0 {
				t.Errorf("%d bytes of memory were not returned", lost)
			}
		})
	}
}

// The error of a picture ends the reading of the body and names the picture.
func TestTheFirstErrorOfDecodingIsTheAnswer(t *testing.T) {
	in := newIntake(Limits{})
	odd := string(readFile(t, "odd.png"))
	_, err := readForm(t, in, part{name: "image", file: "a.png", value: odd}, part{name: "image", file: "b.png", value: odd[:500]})
	wantError(t, err, Kind(picture.KindCorrupt), "image[1]", "cut off")
}

// A real server ends a request's context when the deadline of its connection
// passes; the client must learn of the deadline all the same.
func TestSlowClientsLearnWhy(t *testing.T) {
	in := newIntake(Limits{Timeout: 200 * time.Millisecond})
	errs := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := in.ReadForm(r.Context(), RequestBody(w, r), 4)
		errs <- err
		http.Error(w, err.Error(), http.StatusRequestTimeout)
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b\r\n")
	wantError(t, <-errs, KindTooSlow, "", "took longer than 200ms")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusRequestTimeout {
		t.Errorf("%s, want 408", answer.Status)
	}
}

// However many bodies of text stall, they hold no more than the budget, and a
// body that comes at speed gets through.
func TestStalledTextStaysWithinTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients = 300
		in := newIntake(Limits{MemoryBytes: 4 << 20, MaxFileBytes: 1 << 20})
		long := strings.Repeat("x", 900<<10)
		formBody, contentType := form(t, part{name: "prompt", value: long})
		jsonBody := []byte(`{"prompt": "` + long + `"}`)
		slow := make(chan error, clients)
		for i := range clients {
			c := connect(t)
			body, read := formBody, func() (*Form, error) { return in.ReadForm(t.Context(), c.body(contentType), 4) }
			if i%2 == 1 {
				body, read = jsonBody, func() (*Form, error) { return in.ReadJSON(t.Context(), c.body("application/json"), 4) }
			}
			go c.client.Write(body[:len(body)-10])
			go func() {
				_, err := read()
				c.server.Close()
				slow <- err
			}()
		}
		synctest.Wait()
		in.budget.mu.Lock()
		held := in.budget.held()
		in.budget.mu.Unlock()
		if most := in.limits.MemoryBytes + in.limits.MaxTextBytes + 1; held > most || held < in.limits.MemoryBytes/2 {
			t.Errorf("%d bytes are held, want %d or a little less", held, in.limits.MemoryBytes)
		}
		// An ordinary edit is short, and does not wait at all.
		start := time.Now()
		edit, contentType := form(t, part{name: "image", file: "a.png", value: string(readFile(t, "odd.png"))}, part{name: "prompt", value: "x"})
		got, err := in.ReadForm(t.Context(), Body{Reader: bytes.NewReader(edit), ContentType: contentType, ContentLength: int64(len(edit))}, 4)
		if err != nil {
			t.Fatalf("the edit: %v", err)
		}
		if took := time.Since(start); took > 0 || len(got.Images) != 1 {
			t.Errorf("the edit waited %v", took)
		}
		got.Close()
		for range clients {
			wantError(t, <-slow, KindTooSlow, "", "")
		}
		if lost := in.limits.MemoryBytes - in.budget.free; lost != 0 {
			t.Errorf("%d bytes of memory were not returned", lost)
		}
	})
}

// The oldest request exceeds the budget by one picture, not by all of its own.
func TestTheOldestExceedsTheBudgetByOnePicture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var in *Intake
		most := int64(0)
		in = NewIntake(decoderFunc(func(context.Context, io.ReadSeeker) (*picture.Reference, error) {
			time.Sleep(time.Second)
			in.budget.mu.Lock()
			defer in.budget.mu.Unlock()
			most = max(most, in.budget.held())
			return &picture.Reference{}, nil
		}), Limits{MemoryBytes: 1 << 20, MaxFileBytes: 1 << 20})
		file := strings.Repeat("x", 1<<20)
		got, err := readForm(t, in, part{name: "image", file: "a", value: file}, part{name: "image", file: "b", value: file},
			part{name: "image", file: "c", value: file}, part{name: "image", file: "d", value: file})
		if err != nil || len(got.Images) != 4 {
			t.Fatalf("%+v, %v", got, err)
		}
		got.Close()
		if most > 2<<20+1 {
			t.Errorf("%d bytes were held, want at most the budget and one picture", most)
		}
	})
}

// held is what all requests hold; b.mu is held.
func (b *budget) held() (sum int64) {
	for _, s := range b.shares {
		sum += s.held
	}
	return sum
}
