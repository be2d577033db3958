package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/tmaxmax/go-sse"

	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
)

// client asks a gateway for pictures over its HTTP API, as any other program would.
type client struct {
	base string // URL without a path
	http *http.Client
}

// newClient has a connection for every request: a command makes two, and leaves none open.
func newClient(base string) client {
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // documented to be one
	transport.DisableKeepAlives = true
	return client{base, &http.Client{Transport: transport}}
}

// order is one request for pictures.
type order struct {
	subjects []subject // in the order of the prompt's markers
	fields   map[string]string
}

// subject is one reference image as it was on disk.
type subject struct {
	name string
	data []byte
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
}

func (e *apiError) Error() string { return e.Message }

// maxEvent bounds one event of a stream: a picture in base64.
const maxEvent = 64 << 20

// identify asks what the gateway serves; it fails if something else answers there.
func (c client) identify(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/capabilities", nil)
	if err != nil {
		return usageError{err}
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var capabilities httpapi.Capabilities
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&capabilities); err != nil || response.StatusCode != http.StatusOK || len(capabilities.Families) == 0 {
		return fmt.Errorf("%s is not a Face-Diffuser gateway (%s)", c.base, response.Status)
	}
	return nil
}

// stream sends the order and hands every event of the answer to handle, until the last one or handle's first error.
func (c client) stream(ctx context.Context, o order, handle func(notice) error) error {
	request, err := c.request(ctx, o)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return refusal(response)
	}
	for event, err := range sse.Read(response.Body, &sse.ReadConfig{MaxEventSize: maxEvent}) {
		if err != nil {
			return fmt.Errorf("the gateway's answer broke off: %w", err)
		}
		var n notice
		if err := json.Unmarshal([]byte(event.Data), &n); err != nil {
			return fmt.Errorf("the gateway's answer cannot be read: %w", err)
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
	var body bytes.Buffer
	path, contentType := "/v1/images/generations", "application/json"
	if len(o.subjects) == 0 {
		values := map[string]any{}
		for name, text := range o.fields {
			values[name] = text
			if json.Valid([]byte(text)) && name != "prompt" && name != "negative_prompt" {
				values[name] = json.RawMessage(text) // numbers and booleans
			}
		}
		if err := json.NewEncoder(&body).Encode(values); err != nil {
			return nil, err
		}
	} else {
		form := multipart.NewWriter(&body)
		for _, s := range o.subjects {
			part, err := form.CreateFormFile("image[]", filepath.Base(s.name))
			if err != nil {
				return nil, err
			}
			if _, err := part.Write(s.data); err != nil {
				return nil, err
			}
		}
		for name, text := range o.fields {
			if err := form.WriteField(name, text); err != nil {
				return nil, err
			}
		}
		if err := form.Close(); err != nil {
			return nil, err
		}
		path, contentType = "/v1/images/edits", form.FormDataContentType()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, &body)
	if err != nil {
		return nil, usageError{err}
	}
	request.Header.Set("Content-Type", contentType)
	return request, nil
}

// refusal turns an error response into what the user should read. A request that can never work is a usage error.
func refusal(response *http.Response) error {
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
	switch again := response.Header.Get("Retry-After"); {
	case again != "":
		return fmt.Errorf("%w (try again in %s s)", body.Error, again)
	case response.StatusCode < http.StatusInternalServerError:
		return usageError{body.Error}
	}
	return body.Error
}

var errNoPicture = errors.New("the gateway ended its answer without a picture")
