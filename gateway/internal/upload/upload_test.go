package upload

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// file is a picture of package picture's tests.
func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("../picture/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// pixels is a reference as it is compared.
func pixels(r *picture.Reference) []float32 {
	values := make([]float32, 3*r.Size()*r.Size())
	r.PixelValues(values, r.Size())
	return values
}

func decodeFile(t testing.TB, name string) []float32 {
	t.Helper()
	r, err := picture.NewDecoder(picture.Limits{}, 32).Decode(t.Context(), bytes.NewReader(readFile(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	return pixels(r)
}

// newIntake has a decoder for references of 32 pixels a side.
func newIntake(limits Limits) *Intake {
	return NewIntake(picture.NewDecoder(picture.Limits{}, 32), limits)
}

// part is a part of a form; a file if it has a file name.
type part struct{ name, file, value string }

func form(t testing.TB, parts ...part) (body []byte, contentType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range parts {
		var to io.Writer
		var err error
		if p.file != "" {
			to, err = w.CreateFormFile(p.name, p.file)
		} else {
			to, err = w.CreateFormField(p.name)
		}
		if err == nil {
			_, err = io.WriteString(to, p.value)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), w.FormDataContentType()
}

func readForm(t testing.TB, in *Intake, parts ...part) (*Form, error) {
	t.Helper()
	body, contentType := form(t, parts...)
	return in.ReadForm(t.Context(), Body{Reader: bytes.NewReader(body), ContentType: contentType}, 4)
}

func wantError(t *testing.T, err error, kind Kind, param, says string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Kind != kind || e.Param != param || !strings.Contains(e.Message, says) {
		t.Errorf("error %#v; want %s, param %q, …%s…", err, kind, param, says)
	}
}

func TestReadForm(t *testing.T) {
	in := newIntake(Limits{})
	odd, grey := string(readFile(t, "odd.png")), string(readFile(t, "grey.jpg"))
	got, err := readForm(t, in,
		part{name: "image", file: "a.png", value: odd}, // files before the prompt, both names
		part{name: "n", value: "2"},
		part{name: "image[]", file: "b.jpg", value: grey},
		part{name: "image[]", file: "c.png", value: odd},
		part{name: "prompt", value: "a woman ☃"},
		part{name: "prompt", value: "twice"},
	)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Field{{"n", "2"}, {"prompt", "a woman ☃"}, {"prompt", "twice"}}; !slices.Equal(got.Fields, want) {
		t.Errorf("fields %q, want %q", got.Fields, want)
	}
	want := [][]float32{decodeFile(t, "odd.png"), decodeFile(t, "grey.jpg"), decodeFile(t, "odd.png")}
	if !slices.EqualFunc(got.Images, want, func(r *picture.Reference, p []float32) bool { return slices.Equal(pixels(r), p) }) {
		t.Errorf("%d images, or others than were sent in this order", len(got.Images))
	}
}

func TestReadFormTakesAMediaTypeForAFile(t *testing.T) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	to, err := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="image"`}, "Content-Type": {"image/png"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.Write(readFile(t, "odd.png")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := newIntake(Limits{}).ReadForm(t.Context(), Body{Reader: &b, ContentType: w.FormDataContentType()}, 4)
	if err != nil || len(got.Images) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestReadFormErrors(t *testing.T) {
	odd := string(readFile(t, "odd.png"))
	image := part{name: "image", file: "a.png", value: odd}
	for _, c := range []struct {
		name        string
		limits      Limits
		parts       []part
		kind        Kind
		param, says string
	}{
		{"mask", Limits{}, []part{image, {"mask", "m.png", odd}}, KindUnknownFile, "mask", "no file is expected"},
		{"not an image", Limits{}, []part{image, {"image[]", "b.txt", "hello"}}, Kind(picture.KindNotAnImage), "image[1]", "not an image"},
		{"cut off image", Limits{}, []part{{"image", "a.png", odd[:500]}}, Kind(picture.KindCorrupt), "image[0]", ""},
		{"large image", Limits{MaxFileBytes: 1 << 20}, []part{{"image", "a.png", odd + strings.Repeat("x", 1<<20)}}, KindFileTooLarge, "image[0]", "1 MiB"},
		{"five images", Limits{}, []part{image, image, image, image, image}, KindTooManyImages, "image[4]", "at most 4"},
		{"many fields", Limits{MaxFields: 2}, []part{{name: "a"}, {name: "b"}, {name: "c"}}, KindTooManyFields, "", "more than 2"},
		{"long field", Limits{MaxTextBytes: 100}, []part{{name: "prompt", value: strings.Repeat("x", 100)}}, KindFieldTooLarge, "prompt", "limit"},
		{"long fields", Limits{MaxTextBytes: 100}, []part{{name: "a", value: strings.Repeat("x", 60)}, {name: "b", value: strings.Repeat("x", 60)}}, KindFieldTooLarge, "b", "limit"},
		{"large body", Limits{MaxFileBytes: 1 << 10, MaxTextBytes: 100}, []part{{"image", strings.Repeat("a", 6000), odd}}, KindBodyTooLarge, "", "limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := readForm(t, newIntake(c.limits), c.parts...)
			wantError(t, err, c.kind, c.param, c.says)
		})
	}
}

func TestReadFormMalformed(t *testing.T) {
	in := newIntake(Limits{})
	body, contentType := form(t, part{name: "prompt", value: "x"}, part{name: "image", file: "a.png", value: string(readFile(t, "odd.png"))})
	for _, wrong := range []string{"", "multipart/form-data", "application/json", "multipart/mixed; boundary=x", ";"} {
		_, err := in.ReadForm(t.Context(), Body{Reader: bytes.NewReader(body), ContentType: wrong}, 4)
		wantError(t, err, KindContentType, "", "multipart/form-data")
	}
	for n := 0; n < len(body)-4; n += 7 {
		_, err := in.ReadForm(t.Context(), Body{Reader: bytes.NewReader(body[:n]), ContentType: contentType}, 4)
		wantError(t, err, KindBadBody, "", "the request body is")
	}
	if _, err := in.ReadForm(t.Context(), Body{Reader: bytes.NewReader(body[:len(body)-2]), ContentType: contentType}, 4); err != nil {
		t.Errorf("without the last newline: %v", err)
	}
	_, err := in.ReadForm(t.Context(), Body{Reader: strings.NewReader("no form at all"), ContentType: contentType}, 4)
	wantError(t, err, KindBadBody, "", "does not begin with the boundary")
}

func TestReadJSON(t *testing.T) {
	in := newIntake(Limits{})
	url := func(file, media string) string {
		return "data:" + media + ";base64," + base64.StdEncoding.EncodeToString(readFile(t, file))
	}
	odd, grey := url("odd.png", "image/png"), strings.ReplaceAll(url("grey.jpg", "IMAGE/jpeg;name=x"), "/", `\/`)
	body := `{"prompt": "a \"data:\" image_url ☃ \\", "images": [{"image_url" : "` + odd + `"}, {"image_url": "https://example.org/a.png"},` +
		"\n" + `{"image_url":"` + strings.Replace(grey, "data:", "DATA:", 1) + `"}, {"file_id": "image_url"}], "n": 2}`
	for name, r := range map[string]io.Reader{
		"whole":        strings.NewReader(body),
		"byte by byte": iotest.OneByteReader(strings.NewReader(body)),
	} {
		form, err := in.ReadJSON(t.Context(), Body{Reader: r, ContentType: "application/json; charset=utf-8"}, 4)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got struct {
			Prompt string
			N      int
			Images []struct {
				ImageURL string `json:"image_url"`
				FileID   string `json:"file_id"`
			}
		}
		if err := json.Unmarshal(form.JSON, &got); err != nil {
			t.Fatalf("%s: %v in %s", name, err, form.JSON)
		}
		if got.Prompt != `a "data:" image_url ☃ \` || got.N != 2 || len(got.Images) != 4 || len(form.Images) != 2 {
			t.Fatalf("%s: %+v with %d images", name, got, len(form.Images))
		}
		for i, file := range map[int]string{0: "odd.png", 2: "grey.jpg"} {
			reference, ok := form.Image(got.Images[i].ImageURL)
			if !ok || !slices.Equal(pixels(reference), decodeFile(t, file)) {
				t.Errorf("%s: images[%d] is not %s", name, i, file)
			}
		}
		for _, other := range []string{got.Images[1].ImageURL, "", "data:,2", "data:,-1", "data:,x", odd} {
			if _, ok := form.Image(other); ok {
				t.Errorf("%s: %.20q is taken for a picture", name, other)
			}
		}
	}
}

func TestReadJSONErrors(t *testing.T) {
	in := newIntake(Limits{MaxFileBytes: 1 << 20})
	valid := base64.StdEncoding.EncodeToString(readFile(t, "odd.png"))
	image := func(url string) string { return `{"images":[{"image_url":"` + url + `"}]}` }
	for _, c := range []struct {
		name, body  string
		limits      Limits
		kind        Kind
		param, says string
	}{
		{"no comma", image("data:image/png;base64" + strings.Repeat("x", 300)), Limits{}, KindNotADataURL, "images[0].image_url", "comma"},
		{"ends early", image("data:image/png"), Limits{}, KindNotADataURL, "images[0].image_url", "comma"},
		{"not base64", image("data:image/png,abc"), Limits{}, KindNotADataURL, "images[0].image_url", "must be base64"},
		{"wrong base64", image("data:image/png;base64,a_b!"), Limits{}, KindNotADataURL, "images[0].image_url", "not valid base64"},
		{"a lone digit of base64", image("data:image/png;base64,iVBORw0KG"), Limits{}, KindNotADataURL, "images[0].image_url", "not valid base64"},
		{"base64 after its padding", image("data:image/png;base64,iVBORw0KGg==iVBO"), Limits{}, KindNotADataURL, "images[0].image_url", "not valid base64"},
		{"much padding", image("data:image/png;base64,iVBORw0KGg==="), Limits{}, KindNotADataURL, "images[0].image_url", "not valid base64"},
		{"half a percent code", image("data:image/png;base64,iVBORw0KGg%3"), Limits{}, KindNotADataURL, "images[0].image_url", "not valid base64"},
		{"wrong percent code", image("data:image/png;base64,iVBORw0KGg%zz"), Limits{}, KindNotADataURL, "images[0].image_url", "not valid base64"},
		{"escape", image(`data:image/png;base64,\ud83d`), Limits{}, KindNotADataURL, "images[0].image_url", "escape"},
		{"empty", image("data:image/png;base64,"), Limits{}, Kind(picture.KindNotAnImage), "images[0].image_url", "empty"},
		{"not an image", image("data:text/plain;base64,aGVsbG8="), Limits{}, Kind(picture.KindNotAnImage), "images[0].image_url", "not an image"},
		{"large image", image("data:image/png;base64," + strings.Repeat("A", 2<<20)), Limits{MaxFileBytes: 1 << 20}, KindFileTooLarge, "images[0].image_url", "1 MiB"},
		{"cut off in a picture", image("data:image/png;base64," + valid)[:200], Limits{}, KindBadBody, "", "cut off"},
		{"cut off in a string", `{"prompt": "a wom`, Limits{}, KindBadBody, "", "cut off"},
		{"long text", `{"prompt": "` + strings.Repeat("x", 200) + `"}`, Limits{MaxTextBytes: 100}, KindFieldTooLarge, "", "limit"},
		{"five images", `{"images": [` + strings.Repeat(`{"image_url": "data:image/png;base64,`+valid+`"},`, 5) + "null]}", Limits{}, KindTooManyImages, "images[4].image_url", "at most 4"},
		{"large body", image("data:image/png;base64," + strings.Repeat(`\n`, 5000)), Limits{MaxFileBytes: 1 << 10, MaxTextBytes: 100}, KindBodyTooLarge, "", "limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := newIntake(c.limits).ReadJSON(t.Context(), Body{Reader: strings.NewReader(c.body), ContentType: "application/json"}, 4)
			wantError(t, err, c.kind, c.param, c.says)
		})
	}
	_, err := in.ReadJSON(t.Context(), Body{Reader: strings.NewReader("{}"), ContentType: "text/plain"}, 4)
	wantError(t, err, KindContentType, "", "application/json")
}

// connection is a client that sends what is written to it, with the deadline of
// a real connection.
type connection struct{ client, server net.Conn }

func connect(t *testing.T) connection {
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close(); server.Close() })
	return connection{client, server}
}

func (c connection) body(contentType string) Body {
	return Body{Reader: c.server, ContentType: contentType, SetReadDeadline: c.server.SetReadDeadline}
}

func TestStalledClientIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, contentType := form(t, part{name: "image", file: "a.png", value: string(readFile(t, "odd.png"))})
		c := connect(t)
		go c.client.Write(body[:len(body)/2])
		start := time.Now()
		_, err := newIntake(Limits{}).ReadForm(t.Context(), c.body(contentType), 4)
		wantError(t, err, KindTooSlow, "", "stalled")
		if took := time.Since(start); took != idleTimeout {
			t.Errorf("cut off after %v, want %v", took, idleTimeout)
		}
	})
}

// A client that sends a byte now and then does not hold a connection for ever;
// one that is slow but steady gets through when nobody waits.
func TestTricklingAndSteadyClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		padded := string(readFile(t, "odd.png")) + strings.Repeat("x", 200<<10)
		body, contentType := form(t, part{name: "image", file: "a.png", value: padded})
		send := func(c connection, bytes int, pause time.Duration) {
			for rest := body; len(rest) > 0; rest = rest[min(bytes, len(rest)):] {
				if _, err := c.client.Write(rest[:min(bytes, len(rest))]); err != nil {
					return
				}
				time.Sleep(pause)
			}
			c.client.Close()
		}
		in := newIntake(Limits{})
		trickle, steady := connect(t), connect(t)
		go send(trickle, 1, time.Second)
		_, err := in.ReadForm(t.Context(), trickle.body(contentType), 4)
		wantError(t, err, KindTooSlow, "", "stalled")
		trickle.server.Close()

		go send(steady, 2<<10, time.Second)
		start := time.Now()
		got, err := in.ReadForm(t.Context(), steady.body(contentType), 4)
		if err != nil || len(got.Images) != 1 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if took := time.Since(start); took < time.Minute {
			t.Errorf("took %v: the client was not slow", took)
		}
	})
}

// Slow clients hold the whole budget; a fast one has to get through within
// patience, and they learn why they were cut off.
func TestSlowClientsDoNotHoldUpFastOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		padded := string(readFile(t, "odd.png")) + strings.Repeat("x", 900<<10)
		body, contentType := form(t, part{name: "image", file: "a.png", value: padded})
		in := newIntake(Limits{MaxFileBytes: 1 << 20, MemoryBytes: 1 << 20})
		slow := make(chan error, 3)
		for range cap(slow) {
			c := connect(t)
			go func() {
				c.client.Write(body[:600<<10])
			}()
			go func() {
				_, err := in.ReadForm(t.Context(), c.body(contentType), 4)
				c.server.Close()
				slow <- err
			}()
		}
		synctest.Wait()
		start := time.Now()
		got, err := in.ReadForm(t.Context(), Body{Reader: bytes.NewReader(body), ContentType: contentType}, 4)
		if err != nil || len(got.Images) != 1 {
			t.Fatalf("the fast client: %v", err)
		}
		if took := time.Since(start); took > 3*patience {
			t.Errorf("the fast client waited %v", took)
		}
		cut := 0
		for range cap(slow) {
			err := <-slow
			if strings.Contains(err.Error(), "too slow while others wait") {
				cut++
			}
			wantError(t, err, KindTooSlow, "", "")
		}
		if cut == 0 {
			t.Error("no slow client was cut off for the fast one")
		}
	})
}

// However many upload at once, all get through and the memory held stays within
// the budget and one file.
func TestIntakeStaysWithinItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget, size, chunk = 1 << 20, 1 << 20, 64 << 10
		b := newBudget(budget)
		most := int64(0)
		done := make(chan error)
		const clients = 20
		for i := range clients {
			go func() {
				s := b.open(1<<20, func(time.Time) { t.Error("a request was cut off") })
				f := &file{share: s}
				r := readerFunc(func(p []byte) (int, error) {
					time.Sleep(time.Duration(i+1) * time.Millisecond)
					b.mu.Lock()
					most = max(most, b.held())
					b.mu.Unlock()
					return len(p[:min(len(p), chunk)]), nil
				})
				err := f.fill(t.Context(), io.LimitReader(r, size), size)
				f.close()
				s.close()
				done <- err
			}()
		}
		for range clients {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if most > budget+size+1 || most <= budget/2 {
			t.Errorf("held up to %d bytes, budget %d and file %d", most, budget, size)
		}
		if b.free != budget || len(b.shares) != 0 || len(b.waiting) != 0 {
			t.Errorf("afterwards %+v", b)
		}
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestWaitingForMemoryEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(minChunk)
		oldest := b.open(1, func(time.Time) {})
		if err := oldest.grow(t.Context(), minChunk); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s := b.open(1, nil)
		if err := s.grow(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		s.close()
		oldest.close()
		if b.free != minChunk || len(b.shares) != 0 {
			t.Errorf("afterwards %+v", b)
		}
	})
}

// A client that is still sending gets the answer, not a broken connection; and
// after a whole body the server notices that it leaves.
func TestOverHTTP(t *testing.T) {
	in := newIntake(Limits{})
	left := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		form, err := in.ReadForm(r.Context(), RequestBody(w, r), 4)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusOK)
		fmt.Fprint(w, len(form.Images))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(left)
	}))
	defer server.Close()
	odd := string(readFile(t, "odd.png"))

	body, contentType := form(t, part{name: "mask", file: "m.png", value: odd}, part{name: "image", file: "a.png", value: odd + strings.Repeat("x", 10<<20)})
	resp, err := server.Client().Post(server.URL, contentType, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "mask: no file is expected") {
		t.Errorf("%s: %s, %v", resp.Status, text, err)
	}

	body, contentType = form(t, part{name: "image", file: "a.png", value: odd})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err = server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	<-left
	server.Client().CloseIdleConnections()
}

func FuzzReadForm(f *testing.F) {
	body, contentType := form(f, part{name: "prompt", value: "x"}, part{name: "image", file: "a.png", value: string(readFile(f, "small.png"))})
	_, boundary, _ := strings.Cut(contentType, "boundary=")
	f.Add(bytes.ReplaceAll(body, []byte(boundary), []byte("b")))
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"image[]\"; filename=x\r\n\r\nGIF89a\r\n--b--"))
	in := NewIntake(picture.NewDecoder(picture.Limits{MaxPixels: 1 << 16}, 16), Limits{MaxFileBytes: 1 << 16})
	f.Fuzz(func(t *testing.T, body []byte) {
		form, err := in.ReadForm(t.Context(), Body{Reader: bytes.NewReader(body), ContentType: "multipart/form-data; boundary=b"}, 4)
		if e := (*Error)(nil); err != nil && (!errors.As(err, &e) || e.Message == "") {
			t.Errorf("error %#v", err)
		}
		if err == nil {
			form.Close()
		}
		if lost := in.limits.MemoryBytes - in.budget.free; lost != 0 {
			t.Errorf("%d bytes of memory were not returned", lost)
		}
	})
}

// FuzzReadJSON: without pictures in it a body comes through unchanged, and what
// comes through with pictures is JSON if what was sent is.
func FuzzReadJSON(f *testing.F) {
	f.Add([]byte(`{"prompt":"a \"b\" \\","images":[{"image_url":"data:image/png;base64,` + base64.StdEncoding.EncodeToString(readFile(f, "small.png")) + `"}]}`))
	f.Add([]byte(`{"image_url":"data:;base64,\/\u0041=="}`))
	f.Add([]byte(`[{"image_url" : "http://x"}, 1e3, null, "data:,0"]`))
	in := NewIntake(picture.NewDecoder(picture.Limits{MaxPixels: 1 << 16}, 16), Limits{MaxFileBytes: 1 << 16})
	f.Fuzz(func(t *testing.T, body []byte) {
		form, err := in.ReadJSON(t.Context(), Body{Reader: bytes.NewReader(body), ContentType: "application/json"}, 4)
		if e := (*Error)(nil); err != nil {
			if !errors.As(err, &e) || e.Message == "" {
				t.Errorf("error %#v", err)
			}
			return
		}
		if len(form.Images) == 0 && !bytes.Contains(form.JSON, []byte(misplacedURL)) && !bytes.Equal(form.JSON, body) {
			t.Errorf("%q became %q", body, form.JSON)
		}
		if json.Valid(body) && !json.Valid(form.JSON) {
			t.Errorf("%q became %q", body, form.JSON)
		}
	})
}
