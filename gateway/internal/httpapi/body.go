package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"slices"
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
		takes := "application/json"
		if on == edits {
			takes = "multipart/form-data or application/json"
		}
		return nil, nil, otherMedia(c, takes)
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

// otherMedia refuses a body by its type, unread.
func otherMedia(c *gin.Context, takes string) error {
	dropBody(c)
	sent := fmt.Sprintf("content type %.100q", c.GetHeader("Content-Type"))
	if c.GetHeader("Content-Type") == "" {
		sent = "a body without a content type"
	}
	return &fault{kind: unsupportedMedia, message: fmt.Sprintf("%s takes %s, not %s", c.FullPath(), takes, sent)}
}

// setForm takes a form's text fields. Empty means absent, as in SDKs, except for
// the prompt.
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
	var subjects []*picture.Reference
	err := members(form.JSON, func(name string, raw any) (err error) {
		absent := raw == nil || pictureField(name) && saysNothing(raw)
		if _, list := raw.([]any); name == "images" && on == edits && (list || !absent) {
			subjects, err = jsonImages(raw, form)
			return err
		}
		return in.setOnce(on, name, value{json: raw}, absent, inJSON)
	})
	if err != nil {
		return nil, err
	}
	if len(form.Images) != len(subjects) {
		return nil, invalid("images", "images must hold every image_url of the body, once")
	}
	return subjects, nil
}

// members hands the members of a JSON object to set, in their order.
func members(text []byte, set func(name string, raw any) error) error {
	malformed := func(format string, args ...any) error {
		return &fault{kind: invalidValue, code: "invalid_body", message: fmt.Sprintf(format, args...)}
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	said := map[string]bool{}
	open, err := decoder.Token()
	if err == nil && open != json.Delim('{') {
		return malformed("the body must be a JSON object")
	}
	for err == nil && decoder.More() {
		var token json.Token
		if token, err = decoder.Token(); err != nil {
			break
		}
		name, _ := token.(string) // the decoder accepts no other key
		var raw any
		if err = decoder.Decode(&raw); err != nil {
			break
		}
		if said[name] {
			return invalid(name, "%s is given twice; send it once", name)
		}
		said[name] = true
		if err := set(name, raw); err != nil {
			return err
		}
	}
	if err == nil {
		_, err = decoder.Token() // the closing brace
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed("the body is not valid JSON: it ends too early")
	}
	if err != nil {
		return malformed("the body is not valid JSON: %v (at offset %d)", err, decoder.InputOffset())
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return malformed("the body goes on after its JSON object")
	}
	return nil
}

// pictureField says whether a field holds pictures, here or at OpenAI.
func pictureField(name string) bool {
	return slices.Contains([]string{"image", "images", "mask", "markup"}, base(name))
}

// saysNothing says whether a value in place of pictures is none: null, and what is
// empty or holds nothing else.
func saysNothing(raw any) bool {
	switch v := raw.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return !slices.ContainsFunc(v, func(item any) bool { return !saysNothing(item) })
	case map[string]any:
		return !slices.ContainsFunc(slices.Collect(maps.Values(v)), func(member any) bool { return !saysNothing(member) })
	}
	return false
}

// setOnce is set for a field that may be absent and must not be repeated.
func (in *input) setOnce(on endpoint, name string, v value, absent bool, where place) error {
	if _, ok := in.said[name]; ok {
		return invalid(name, "%s is given twice; send it once", name)
	}
	if absent && in.known(name) {
		return nil
	}
	return in.set(on, name, v, where)
}

// jsonImages takes [{"image_url": "data:…"}, …]. A null in it is no image.
func jsonImages(raw any, form *upload.Form) ([]*picture.Reference, error) {
	const item = `{"image_url": "data:image/png;base64,…"}`
	list, ok := raw.([]any)
	if !ok {
		return nil, invalid("images", "images must be a list, as in images: [%s], not %s", item, value{json: raw}.short())
	}
	subjects := make([]*picture.Reference, 0, len(list))
	for i, image := range list {
		if image == nil {
			continue
		}
		param := fmt.Sprintf("images[%d]", i)
		members, ok := image.(map[string]any)
		if !ok {
			return nil, invalid(param, "%s must be an object, as in images: [%s], not %s", param, item, value{json: image}.short())
		}
		for _, name := range slices.Sorted(maps.Keys(members)) {
			member := members[name]
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
		switch inner := members["image_url"].(type) {
		case nil:
			return nil, invalid(param, "%s is missing; an image is %s", param, item)
		case map[string]any:
			return nil, invalid(param, "%s must be the data: URL itself, as in %s, not an object as in a chat", param, item)
		default:
			if !ok {
				return nil, invalid(param, "%s must be a data: URL, as in %s, not %s", param, item, value{json: inner}.short())
			}
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
