package httpapi_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// fuzzed sends a body straight to the handler. Whatever it is, the answer is
// pictures or one of the client's own errors, in the whole shape.
func fuzzed(t *testing.T, g *gateway, path, contentType string, body []byte) {
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(body))
	req.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	g.Config.Handler.ServeHTTP(w, req)
	for len(g.log) > 0 {
		<-g.log
	}
	answer := w.Result()
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode == http.StatusOK {
		return
	}
	var e struct{ Error map[string]any }
	if err := json.Unmarshal(data, &e); err != nil || len(e.Error) != 4 || answer.StatusCode < http.StatusBadRequest || answer.StatusCode >= http.StatusInternalServerError {
		t.Errorf("%d, %v: %s", answer.StatusCode, err, data)
	}
}

func FuzzForm(f *testing.F) {
	g := serve(f, newFake())
	const boundary = "xyz"
	add := func(s string) {
		f.Add([]byte(s))
	}
	picture := string(face(f))
	add("--xyz\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na <|image|>\r\n--xyz\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n" + picture + "\r\n--xyz--\r\n")
	add("--xyz\r\nContent-Disposition: form-data; name=\"image[]\"; filename=\"a.png\"\r\n\r\n" + picture[:80] + "\r\n--xyz--\r\n")
	add("--xyz\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n3\r\n--xyz\r\nContent-Disposition: form-data; name=\"face[alpha]\"\r\n\r\n1\r\n--xyz--")
	add("--xyz\r\nContent-Disposition: form-data\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=\r\n--xyz--")
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzed(t, g, "/v1/images/edits", "multipart/form-data; boundary="+boundary, body)
	})
}

func FuzzJSON(f *testing.F) {
	g := serve(f, newFake())
	url := "data:image/png;base64," + base64.StdEncoding.EncodeToString(face(f))
	for _, s := range []string{
		`{"prompt":"a <|image|>","images":[{"image_url":"` + url + `"}],"seed":42,"guidance_scale":3.5}`,
		`{"prompt":"a","images":[{"image_url":"data:,0"}]}`,
		`{"images":[{"image_url":{"image_url":"` + url + `"}}]}`,
		`{"prompt":null,"n":1e1,"size":"8x8","stream":true,"partial_images":3,"progress":true}`,
		`{"prompt":"\ud800","image_url":"x"}`,
		`[[[[`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzed(t, g, "/v1/images/edits", "application/json", body)
		fuzzed(t, g, "/v1/images/generations", "application/json", body)
	})
}
