package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tmaxmax/go-sse"

	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
)

// client asks a gateway for pictures over its HTTP API, as any other program would.
type client struct {
	base string // URL without a path
	key  string // API key; "" for none
	http *http.Client
}

// apiKey is the variable that holds the API key of a client. It is no setting: on a command line or in a file others could read it.
const apiKey = "FACEDIFFUSER_API_KEY"

// newClient has a connection for every request: a command makes two, and leaves none open.
func newClient(base, key string) client {
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // documented to be one
	transport.DisableKeepAlives = true
	return client{base, key, &http.Client{
		Transport: transport,
		// A redirected POST would arrive as a GET, or with a body that is sent twice.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// baseURL is what a user writes for a gateway as a URL without the path of the API: host:port, a trailing slash and a trailing /v1, as
// OpenAI's SDKs want it, are fine.
func baseURL(text string) (string, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "", usagef("--url: %w", err)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", u.RawQuery != "", u.Fragment != "":
		return "", usagef("--url must be as http://host:port, not %q", text)
	}
	u.Path = strings.TrimRight(strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/v1"), "/")
	return u.String(), nil
}

// order is one request for pictures.
type order struct {
	subjects []*subject // in the order of the prompt's markers
	fields   map[string]string
}

// notice is one event of an answer's stream; which fields are set depends on its type.
type notice struct {
	Type    string `json:"type"`
	Picture []byte `json:"b64_json"`
	Image   int    `json:"image_index"`
	Preview int    `json:"partial_image_index"`

	FusionMap []byte `json:"fusion_map"`

	Step  int    `json:"step"`
	Steps int    `json:"steps"`
	Stage string `json:"stage"`

	Seed    uint32          `json:"seed"`
	NSFW    *bool           `json:"nsfw"`
	Details json.RawMessage `json:"facediffuser"`
	Error   *apiError       `json:"error"`
}

// is says whether the event is of a kind, for edits and generations alike.
func (n notice) is(kind string) bool { return strings.HasSuffix(n.Type, "."+kind) }

// apiError is what the HTTP API says about a failure.
type apiError struct {
	Message string `json:"message"`
	Type    string `json:"type"`
	Param   string `json:"param"`
	Code    string `json:"code"`
}

func (e *apiError) Error() string { return e.Message }

// identifyTimeout is for an answer that takes no work.
const identifyTimeout = 10 * time.Second

// maxEvent bounds one event of a stream: a picture in base64.
const maxEvent = 64 << 20

// identify asks what the gateway can do; it fails, and says what it met, if something else answers there.
func (c client) identify(ctx context.Context) (httpapi.Capabilities, error) {
	var capabilities httpapi.Capabilities
	a, err := c.get(ctx, "/v1/capabilities")
	if err != nil {
		return capabilities, c.unreachable(err)
	}
	if a.StatusCode == http.StatusOK && json.Unmarshal(a.text, &capabilities) == nil && len(capabilities.Families) > 0 {
		return capabilities, nil
	}
	var body struct {
		Error *apiError `json:"error"`
	}
	if a.StatusCode == http.StatusUnauthorized && json.Unmarshal(a.text, &body) == nil && body.Error != nil && body.Error.Code == "invalid_api_key" {
		return capabilities, usagef("%s: %w (%s holds the key)", c.shown(), body.Error, apiKey)
	}
	return capabilities, fmt.Errorf("%s is not a Face-Diffuser gateway (%s)%s", c.shown(), a.Status, c.met(ctx, a))
}

// answer is a response that was read and closed.
type answer struct {
	*http.Response
	text []byte
}

func (c client) get(ctx context.Context, path string) (answer, error) {
	request, err := c.newRequest(ctx, http.MethodGet, path, nil)
	if err != nil {
		return answer{}, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return answer{response, text}, err
}

// shown is the gateway's URL without a password.
func (c client) shown() string {
	u, err := url.Parse(c.base)
	if err != nil {
		return c.base
	}
	return u.Redacted()
}

// unreachable says why there was no answer.
func (c client) unreachable(err error) error {
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var bad *url.Error
	if errors.As(err, &bad) {
		err = bad.Err // without the method and the path
	}
	hint := ""
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		hint = "; nothing listens there: is the gateway running (facediffuser serve)?"
	case errors.As(err, &dns):
		hint = "; is the host's name right?"
	case errors.As(err, &certificate):
		hint = "; SSL_CERT_FILE names a file of certificates to trust"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		hint = "; the server there does not speak TLS: use http://"
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("no answer within %v", identifyTimeout)
	}
	return fmt.Errorf("cannot ask the gateway at %s: %w%s", c.shown(), err, hint)
}

// met says what answered instead of a gateway.
func (c client) met(ctx context.Context, a answer) string {
	var list struct {
		Object string `json:"object"`
	}
	media, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type")) // "" when unreadable
	location, redirected := a.Location()
	switch {
	case redirected == nil:
		location.Path = strings.TrimSuffix(location.Path, "/v1/capabilities")
		return "; it redirects to " + location.Redacted() + ": use that as --url, if it is one"
	case a.StatusCode == http.StatusUnauthorized, a.StatusCode == http.StatusForbidden, a.StatusCode == http.StatusProxyAuthRequired:
		return ", or one behind a proxy that wants credentials; a URL can hold them: http://user:password@host:port"
	case bytes.Contains(a.text, []byte("HTTP request to an HTTPS server")), bytes.Contains(a.text, []byte("HTTP request was sent to HTTPS port")): // Go's servers and nginx
		return "; the server there speaks TLS: use https://"
	}
	if models, err := c.get(ctx, "/v1/models"); err == nil && models.StatusCode == http.StatusOK && json.Unmarshal(models.text, &list) == nil && list.Object == "list" {
		return ", but another server with an OpenAI-compatible API"
	}
	if replicas, err := c.get(ctx, "/replicas"); err == nil && replicas.StatusCode == http.StatusOK && bytes.Contains(replicas.text, []byte(`"replicas"`)) {
		return ", but the admin listener of one: give --url the address of its API (--listen), by default port 8080"
	}
	switch {
	case media == "text/html":
		return ": it answers with a web page"
	case a.StatusCode >= http.StatusInternalServerError:
		return fmt.Sprintf(", or one that cannot be reached through what answers: %.200s", a.text)
	}
	return ""
}

func (c client) newRequest(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, usageError{err}
	}
	if c.key != "" {
		request.Header.Set("Authorization", "Bearer "+c.key)
	}
	return request, nil
}

// stream sends the order and hands every event of the answer to handle, until the last one or handle's first error.
func (c client) stream(ctx context.Context, o order, handle func(notice) error) error {
	request, err := c.request(ctx, o)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.unreachable(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return o.refusal(response)
	}
	for event, err := range sse.Read(response.Body, &sse.ReadConfig{MaxEventSize: maxEvent}) {
		if err != nil {
			return fmt.Errorf("the gateway's answer broke off: %w", err)
		}
		var n notice
		if err := json.Unmarshal([]byte(event.Data), &n); err != nil {
			return fmt.Errorf("the gateway's answer cannot be read: %w", err)
		}
		if n.Error != nil {
			n.Error.Message = o.aboutFile(n.Error.Param, n.Error.Message)
		}
		if n.Error != nil && n.Error.Type == "image_generation_user_error" {
			return usageError{n.Error} // as it is before the first event
		}
		if n.Error != nil {
			return n.Error
		}
		if err := handle(n); err != nil {
			return err
		}
	}
	return nil
}

// request encodes an order: a form with its subjects, or JSON without any.
func (c client) request(ctx context.Context, o order) (*http.Request, error) {
	path, parts := "/v1/images/generations", o.json
	if len(o.subjects) > 0 {
		path, parts = "/v1/images/edits", o.form
	}
	body, contentType, err := parts()
	if err != nil {
		return nil, err
	}
	request, err := c.newRequest(ctx, http.MethodPost, path, nil)
	if err != nil {
		return nil, err
	}
	for _, part := range body {
		request.ContentLength += part.Size()
	}
	request.GetBody = func() (io.ReadCloser, error) {
		readers := make([]io.Reader, len(body))
		for i, part := range body {
			readers[i] = io.NewSectionReader(part, 0, part.Size())
		}
		return io.NopCloser(io.MultiReader(readers...)), nil
	}
	request.Body, err = request.GetBody()
	request.Header.Set("Content-Type", contentType)
	return request, err
}

// piece is a part of a body, which can be read again.
type piece interface {
	io.ReaderAt
	Size() int64
}

func (o order) json() (body []piece, contentType string, err error) {
	values := map[string]any{}
	for name, text := range o.fields {
		values[name] = text
		if json.Valid([]byte(text)) && name != "prompt" && name != "negative_prompt" {
			values[name] = json.RawMessage(text) // numbers and booleans
		}
	}
	text, err := json.Marshal(values)
	return []piece{bytes.NewReader(text)}, "application/json", err
}

// form has the subjects' files between the pieces that a form puts around them, so that their bytes are read as they are sent.
func (o order) form() (body []piece, contentType string, err error) {
	var around bytes.Buffer
	flush := func() {
		body = append(body, bytes.NewReader(bytes.Clone(around.Bytes())))
		around.Reset()
	}
	form := multipart.NewWriter(&around)
	for name, text := range o.fields {
		if err := form.WriteField(name, text); err != nil {
			return nil, "", err
		}
	}
	for _, s := range o.subjects {
		if _, err := form.CreateFormFile("image[]", filepath.Base(s.name)); err != nil {
			return nil, "", err
		}
		flush()
		body = append(body, io.NewSectionReader(s.content, 0, s.size))
	}
	if err := form.Close(); err != nil {
		return nil, "", err
	}
	flush()
	return body, form.FormDataContentType(), nil
}

// refusal turns an error response into what the user should read. A request that can never work is a usage error.
func (o order) refusal(response *http.Response) error {
	var body struct {
		Error *apiError `json:"error"`
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return err
	}
	if json.Unmarshal(text, &body) != nil || body.Error == nil || body.Error.Message == "" {
		return fmt.Errorf("the gateway answered %s: %.200s", response.Status, text)
	}
	body.Error.Message = o.aboutFile(body.Error.Param, body.Error.Message)
	switch again := response.Header.Get("Retry-After"); {
	case again != "":
		return fmt.Errorf("%w (try again in %s s)", body.Error, again)
	case response.StatusCode < http.StatusInternalServerError:
		return usageError{body.Error}
	}
	return body.Error
}

var errNoPicture = errors.New("the gateway ended its answer without a picture")
