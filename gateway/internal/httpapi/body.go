package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/upload"
)

// readInput reads a request's body: its fields, and its pictures decoded as
// they arrive.
func (s *server) readInput(c *gin.Context, on endpoint) (*input, []*picture.Reference, error) {
	counted := &countingBody{ReadCloser: c.Request.Body}
	c.Request.Body = counted
	defer func() { s.Metrics.UploadBytes.Observe(float64(counted.n)) }()

	ctx := c.Request.Context()
	body := upload.RequestBody(c.Writer, c.Request)
	most := maxImages
	in := newInput(s.fields)
	if dims, err := s.Pipeline.Dimensions(ctx); err == nil {
		most = dims.Subjects
		in.sizes = sizes(dims)
	}
	var subjects []*picture.Reference
	media, _, _ := mime.ParseMediaType(body.ContentType) // "" when unreadable
	switch {
	case media == "application/json":
		form, err := s.Intake.ReadJSON(ctx, body, most)
		if err != nil {
			return nil, nil, in.bodyFault(on, err)
		}
		defer form.Close()
		if subjects, err = in.setJSON(on, form); err != nil {
			return nil, nil, err
		}
	case media == "multipart/form-data" && on == edits:
		form, err := s.Intake.ReadForm(ctx, body, most)
		if err != nil {
			return nil, nil, in.bodyFault(on, err)
		}
		defer form.Close()
		if err := in.setForm(on, form); err != nil {
			return nil, nil, err
		}
		subjects = form.Images
	default:
		dropBody(c)
		takes := "application/json"
		if on == edits {
			takes = "multipart/form-data or application/json"
		}
		sent := fmt.Sprintf("content type %.100q", body.ContentType)
		if body.ContentType == "" {
			sent = "a body without a content type"
		}
		return nil, nil, &fault{kind: unsupportedMedia, message: fmt.Sprintf("%s takes %s, not %s", on.path(), takes, sent)}
	}
	if in.user = in.safetyID; in.user == "" {
		in.user = in.plainUser
	}
	return in, subjects, in.check()
}

// maxImages holds while the networks have not said how many subjects they take.
const maxImages = 4

// bodyFault words what package upload found under the names of this API.
func (in *input) bodyFault(on endpoint, err error) error {
	var e *upload.Error
	if !errors.As(err, &e) || e.Kind != upload.KindUnknownFile {
		return err
	}
	if p, ok := in.fields.Find(e.Param); ok && on.has(p) {
		return invalid(e.Param, "%s must be text, not a file", e.Param)
	}
	return in.unknownField(on, e.Param, inForm)
}

// dropBody reads what is left of a body that is refused unread. A client that
// asks first, by Expect: 100-continue, has not sent it.
func dropBody(c *gin.Context) {
	if c.GetHeader("Expect") == "" {
		upload.RequestBody(c.Writer, c.Request).Drop()
	}
}

// setForm takes a form's text fields. Empty means absent, as in
// SDKs, except for the prompt.
func (in *input) setForm(on endpoint, form *upload.Form) error {
	for _, f := range form.Fields {
		if (f.Name == "image" || f.Name == "image[]") && f.Value != "" {
			return invalid("image", "image must be a file, not text; a JSON body takes images as data: URLs")
		}
		if err := in.setOnce(on, f.Name, value{text: f.Value}, f.Value == "" && f.Name != "prompt", inForm); err != nil {
			return err
		}
	}
	return nil
}

// setJSON takes a JSON object's members; null means absent.
func (in *input) setJSON(on endpoint, form *upload.Form) ([]*picture.Reference, error) {
	decoder := json.NewDecoder(bytes.NewReader(form.JSON))
	decoder.UseNumber()
	malformed := func(err error) error {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends too early")
		}
		return &fault{kind: invalidValue, code: "invalid_body", message: "the body is not valid JSON: " + err.Error()}
	}
	if open, err := decoder.Token(); err != nil {
		return nil, malformed(err)
	} else if open != json.Delim('{') {
		return nil, &fault{kind: invalidValue, code: "invalid_body", message: "the body must be a JSON object"}
	}
	var subjects []*picture.Reference
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, malformed(err)
		}
		name, _ := token.(string) // the decoder accepts no other key
		var raw any
		if err := decoder.Decode(&raw); err != nil {
			return nil, malformed(err)
		}
		if name == "images" && on == edits && raw != nil {
			if subjects != nil {
				return nil, invalid(name, "images is given twice")
			}
			if subjects, err = jsonImages(raw, form); err != nil {
				return nil, err
			}
			continue
		}
		if err := in.setOnce(on, name, value{json: raw}, raw == nil, inJSON); err != nil {
			return nil, err
		}
	}
	if _, err := decoder.Token(); err != nil { // the closing brace
		return nil, malformed(err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, &fault{kind: invalidValue, code: "invalid_body", message: "the body goes on after its JSON object"}
	}
	if len(form.Images) != len(subjects) {
		return nil, invalid("images", "images must hold every image_url of the body, once")
	}
	return subjects, nil
}

// setOnce is set for a field that may be absent and must not be repeated.
func (in *input) setOnce(on endpoint, name string, v value, absent bool, where place) error {
	if _, ok := in.said[name]; ok {
		return invalid(name, "%s is given twice", name)
	}
	if absent && in.known(name) {
		return nil
	}
	return in.set(on, name, v, where)
}

// jsonImages takes [{"image_url": "data:…"}, …].
func jsonImages(raw any, form *upload.Form) ([]*picture.Reference, error) {
	const shape = `a list of {"image_url": "data:image/png;base64,…"}`
	list, ok := raw.([]any)
	if !ok {
		return nil, invalid("images", "images must be %s, not %s", shape, value{json: raw}.short())
	}
	subjects := make([]*picture.Reference, 0, len(list))
	for i, item := range list {
		param := fmt.Sprintf("images[%d]", i)
		members, ok := item.(map[string]any)
		if !ok {
			return nil, invalid(param, "images must be %s; %s is none of these", shape, param)
		}
		for name, member := range members {
			switch {
			case name == "image_url":
			case name == "file_id" && member == nil: // absent
			case name == "file_id":
				return nil, &fault{kind: invalidValue, code: "unsupported_parameter", param: param + ".file_id",
					message: param + ".file_id is not supported: this gateway keeps no files; use image_url with a data: URL"}
			default:
				return nil, &fault{kind: invalidValue, code: "unknown_parameter", param: param + "." + name,
					message: fmt.Sprintf("unknown field %q in %s", name, param)}
			}
		}
		param += ".image_url"
		url, ok := members["image_url"].(string)
		if !ok {
			return nil, invalid(param, "%s must be a data: URL", param)
		}
		subject, ok := form.Image(url)
		switch {
		case ok:
			subjects = append(subjects, subject)
		case strings.HasPrefix(url, "http:"), strings.HasPrefix(url, "https:"):
			return nil, &fault{kind: invalidValue, code: "unsupported_value", param: param,
				message: param + " is a web address, which is not supported: send the image itself, as a data: URL or in a form"}
		default:
			return nil, invalid(param, "%s must be a data: URL, not %s", param, value{text: url}.short())
		}
	}
	return subjects, nil
}

type countingBody struct {
	io.ReadCloser
	n int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}
