package upload

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"mime/multipart"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
)

// sent is a body that a real client sent.
func sent(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFormsAsClientsSendThem: a browser's file field in which no file was
// chosen, and file names that a header must quote and some clients do not.
func TestFormsAsClientsSendThem(t *testing.T) {
	for name, fields := range map[string][]Field{
		"form_empty_slot.bin":     {{"prompt", "a woman <|image|>"}, {"image", ""}},
		"form_filename_at.bin":    {{"prompt", "a woman <|image|>"}},
		"form_filename_space.bin": {{"prompt", "a woman <|image|>"}},
	} {
		t.Run(name, func(t *testing.T) {
			body := sent(t, name)
			got, err := newIntake(Limits{}).ReadForm(t.Context(), Body{Reader: bytes.NewReader(body), ContentType: "multipart/form-data; boundary=X"}, 4)
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			// The picture is what stands between the signature and the end of a PNG.
			from, to := bytes.Index(body, []byte("\x89PNG")), bytes.Index(body, []byte("IEND"))+8
			want, err := picture.NewDecoder(picture.Limits{}, 32).Decode(t.Context(), bytes.NewReader(body[from:to]))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Fields, fields) || len(got.Images) != 1 || !slices.Equal(pixels(got.Images[0]), pixels(want)) {
				t.Errorf("fields %q and %d images", got.Fields, len(got.Images))
			}
		})
	}
}

// rawForm is a form of parts with the headers that are given.
func rawForm(t *testing.T, parts ...[3]string) Body { // Content-Disposition, Content-Type, content
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range parts {
		head := textproto.MIMEHeader{}
		if p[0] != "" {
			head.Set("Content-Disposition", p[0])
		}
		if p[1] != "" {
			head.Set("Content-Type", p[1])
		}
		to, err := w.CreatePart(head)
		if err == nil {
			_, err = io.WriteString(to, p[2])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return Body{Reader: &b, ContentType: w.FormDataContentType()}
}

func TestPartsOfForms(t *testing.T) {
	odd := string(readFile(t, "odd.png"))
	for name, c := range map[string]struct {
		disposition, media, content string
		images                      int
		field                       Field
	}{
		"picture without a file name":   {`form-data; name="image"`, "", odd, 1, Field{}},
		"picture in an unnamed file":    {`form-data; name="image"; filename=""`, "application/octet-stream", odd, 1, Field{}},
		"RFC 5987":                      {`form-data; name="image[]"; filename*=UTF-8''%e2%98%83.png`, "", odd, 1, Field{}},
		"leading space":                 {`form-data; name="image"; filename=" a.png"`, "", odd, 1, Field{}},
		"semicolon":                     {`form-data; name="image"; filename="a;b.png"`, "", odd, 1, Field{}},
		"unquoted, semicolon in quotes": {`form-data; filename=a@b.png; name="image"`, "", odd, 1, Field{}},
		"quoted percent, as browsers":   {`form-data; name="image"; filename="a%22b.png"`, "", odd, 1, Field{}},
		"no file chosen":                {`form-data; name="mask"; filename=""`, "application/octet-stream", "", 0, Field{"mask", ""}},
		"empty image":                   {`form-data; name="image"`, "", "", 0, Field{"image", ""}},
		"empty, with a type":            {`form-data; name="image"`, "image/png", "", 0, Field{"image", ""}},
		"text for a picture":            {`form-data; name="image"`, "", "https://example.org/a.png", 0, Field{"image", "https://example.org/a.png"}},
		"byte order mark":               {`form-data; name="prompt"`, "", "\ufeffa man", 0, Field{"prompt", "a man"}},
		"text with a charset":           {`form-data; name=prompt`, "text/plain; charset=UTF-8", "café", 0, Field{"prompt", "café"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := newIntake(Limits{}).ReadForm(t.Context(), rawForm(t, [3]string{c.disposition, c.media, c.content}), 4)
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			var fields []Field
			if c.images == 0 {
				fields = []Field{c.field}
			}
			if len(got.Images) != c.images || !slices.Equal(got.Fields, fields) {
				t.Errorf("%d images, fields %q", len(got.Images), got.Fields)
			}
		})
	}
	for name, c := range map[string]struct {
		disposition, media, content string
		kind                        Kind
		param, says                 string
	}{
		"no disposition":      {"", "", "x", KindBadBody, "", `must be like form-data; name="image"`},
		"no name":             {"form-data; filename=a@b.png", "", odd, KindBadBody, "", "filename=a@b.png"},
		"not a form's":        {`attachment; name="image"`, "", odd, KindBadBody, "", "attachment"},
		"latin-1":             {`form-data; name="prompt"`, "", "a caf\xe9", KindNotUTF8, "prompt", `byte 0xe9 after "a caf"`},
		"said to be latin-1":  {`form-data; name="prompt"`, "text/plain; charset=ISO-8859-1", "a", KindBadBody, "prompt", "send the text as UTF-8"},
		"an unnamed mask":     {`form-data; name="mask"; filename=""`, "image/png", odd, KindUnknownFile, "mask", "no file is expected"},
		"an empty named file": {`form-data; name="image"; filename="a.png"`, "", "", Kind(picture.KindNotAnImage), "image[0]", "empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newIntake(Limits{}).ReadForm(t.Context(), rawForm(t, [3]string{c.disposition, c.media, c.content}), 4)
			wantError(t, err, c.kind, c.param, c.says)
		})
	}
	encoded := "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0K\r\n--b--\r\n"
	_, err := newIntake(Limits{}).ReadForm(t.Context(), Body{Reader: strings.NewReader(encoded), ContentType: "multipart/form-data; boundary=b"}, 4)
	wantError(t, err, KindBadBody, "image", "send the part as it is")
}

// TestBase64AsClientsWriteIt: what a data: URL may hold, in the spellings of
// encoding/base64 and net/url.
func TestBase64AsClientsWriteIt(t *testing.T) {
	// A byte more or less changes the padding; pictures may end in anything.
	for _, tail := range []string{"", "\xff", "\xff\xfe"} {
		file := append(readFile(t, "odd.png"), tail...)
		plain := base64.StdEncoding.EncodeToString(file)
		for name, text := range map[string]string{
			"padded": plain, "unpadded": base64.RawStdEncoding.EncodeToString(file),
			"URL-safe": base64.URLEncoding.EncodeToString(file), "URL-safe, unpadded": base64.RawURLEncoding.EncodeToString(file),
			"percent-encoded": url.QueryEscape(plain), "small percent codes": strings.NewReplacer("+", "%2b", "/", "%2f", "=", "%3d").Replace(plain),
			"in lines": strings.Join(split(plain, 76), `\r\n`),
		} {
			body := `{"images": [{"image_url": "data:image/png;base64,` + text + `"}]}`
			for _, r := range []io.Reader{strings.NewReader(body), iotest.HalfReader(strings.NewReader(body))} {
				form, err := newIntake(Limits{}).ReadJSON(t.Context(), Body{Reader: r, ContentType: "application/json"}, 4)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if !slices.Equal(pixels(form.Images[0]), decodeFile(t, "odd.png")) {
					t.Errorf("%s: another picture", name)
				}
				form.Close()
			}
		}
	}
	for _, name := range []string{"json_unpadded.json", "json_urlsafe.json", "json_percent.json", "ok_json.json"} {
		form, err := newIntake(Limits{}).ReadJSON(t.Context(), Body{Reader: bytes.NewReader(sent(t, name)), ContentType: "application/json"}, 4)
		if err != nil || len(form.Images) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func split(s string, n int) (lines []string) {
	for ; len(s) > n; s = s[n:] {
		lines = append(lines, s[:n])
	}
	return append(lines, s)
}

func TestJSONAsClientsSendIt(t *testing.T) {
	const plain = `{"prompt":"a man","num_inference_steps":1}`
	zipped := func(text string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for name, c := range map[string]struct{ body, media, encoding string }{
		"plain":              {plain, "application/json", ""},
		"byte order mark":    {string(sent(t, "json_bom.json")), "application/json", ""},
		"charset":            {plain, `application/json; charset="UTF-8"`, ""},
		"empty parameter":    {plain, "application/json; charset", ""},
		"identity":           {plain, "application/json", "identity"},
		"gzip":               {string(sent(t, "json.gz")), "application/json", "gzip"},
		"old gzip":           {zipped(plain), "application/json", "X-Gzip"},
		"gzip of two pieces": {zipped(plain[:10]) + zipped(plain[10:]), "application/json", "gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			form, err := newIntake(Limits{}).ReadJSON(t.Context(), Body{Reader: strings.NewReader(c.body), ContentType: c.media, ContentEncoding: c.encoding}, 4)
			if err != nil {
				t.Fatal(err)
			}
			defer form.Close()
			if string(form.JSON) != plain {
				t.Errorf("read %q", form.JSON)
			}
		})
	}
	damaged := zipped(plain)
	damaged = damaged[:len(damaged)-8] + "crc!" + damaged[len(damaged)-4:]
	for name, c := range map[string]struct {
		body, media, encoding string
		kind                  Kind
		says                  string
	}{
		"empty":              {"", "application/json", "", KindBadBody, "is empty"},
		"blank":              {" \n", "application/json", "", KindBadBody, "is empty"},
		"mark alone":         {"\ufeff", "application/json", "", KindBadBody, "is empty"},
		"latin-1":            {string(sent(t, "json_latin1.json")), "application/json", "", KindBadBody, `byte 0xe9 after`},
		"said to be latin-1": {plain, "application/json; charset=iso-8859-1", "", KindContentType, `charset "iso-8859-1"`},
		// As Python's codecs of these names write a JSON text, and as its utf-16 and utf-32 begin one.
		"UTF-16":              {"\xff\xfe{\x00}\x00", "application/json", "", KindBadBody, "is UTF-16"},
		"UTF-16LE":            {"{\x00}\x00", "application/json", "", KindBadBody, "is UTF-16"},
		"UTF-16BE":            {"\x00{\x00}", "application/json", "", KindBadBody, "is UTF-16"},
		"UTF-32":              {"\xff\xfe\x00\x00{\x00\x00\x00}\x00\x00\x00", "application/json", "", KindBadBody, "is UTF-32"},
		"UTF-32LE":            {"{\x00\x00\x00}\x00\x00\x00", "application/json", "", KindBadBody, "is UTF-32"},
		"UTF-32BE":            {"\x00\x00\x00{\x00\x00\x00}", "application/json", "", KindBadBody, "is UTF-32"},
		"gzip and a newline":  {zipped(plain) + "\n", "application/json", "gzip", KindBadBody, "goes on after its end with byte 0x0a"},
		"gzip and more":       {zipped(plain) + strings.Repeat("x", 100), "application/json", "gzip", KindBadBody, "goes on after its end"},
		"gzip, half a second": {zipped(plain) + zipped(plain)[:9], "application/json", "gzip", KindBadBody, "cut off"},
		"deflate":             {plain, "application/json", "deflate", KindContentType, "in gzip"},
		"brotli":              {plain, "application/json", "br", KindContentType, "in gzip"},
		"two encodings":       {plain, "application/json", "gzip, gzip", KindContentType, "in gzip"},
		"not gzip":            {plain, "application/json", "gzip", KindBadBody, "no valid gzip"},
		"gzip, cut off":       {zipped(plain)[:20], "application/json", "gzip", KindBadBody, "cut off"},
		"gzip, damaged":       {damaged, "application/json", "gzip", KindBadBody, "no valid gzip"},
		"gzip of nothing":     {zipped(""), "application/json", "gzip", KindBadBody, "is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newIntake(Limits{}).ReadJSON(t.Context(), Body{Reader: strings.NewReader(c.body), ContentType: c.media, ContentEncoding: c.encoding}, 4)
			wantError(t, err, c.kind, "", c.says)
		})
	}
	t.Run("bomb", func(t *testing.T) {
		// A thousandth of what it becomes; in front of a form anything may stand.
		bomb := zipped(strings.Repeat("nothing\r\n", 1<<20))
		in := newIntake(Limits{MaxFileBytes: 1 << 20, MaxTextBytes: 1 << 10})
		body := Body{Reader: strings.NewReader(bomb), ContentType: "multipart/form-data; boundary=b", ContentEncoding: "gzip"}
		_, err := in.ReadForm(t.Context(), body, 4)
		wantError(t, err, KindBodyTooLarge, "", "decompressed")
	})
	t.Run("form in gzip", func(t *testing.T) {
		body, contentType := form(t, part{name: "prompt", value: "a"}, part{name: "image", file: "a.png", value: string(readFile(t, "odd.png"))})
		got, err := newIntake(Limits{}).ReadForm(t.Context(), Body{Reader: strings.NewReader(zipped(string(body))), ContentType: contentType, ContentEncoding: "gzip"}, 4)
		if err != nil || len(got.Images) != 1 || len(got.Fields) != 1 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("another boundary", func(t *testing.T) {
		body, _ := form(t, part{name: "prompt", value: strings.Repeat("a", 10000)})
		_, err := newIntake(Limits{}).ReadForm(t.Context(), Body{Reader: bytes.NewReader(body), ContentType: `multipart/form-data; boundary='other'`}, 4)
		wantError(t, err, KindBadBody, "", `does not begin with the boundary "'other'"`)
	})
	t.Run("empty form", func(t *testing.T) {
		_, err := newIntake(Limits{}).ReadForm(t.Context(), Body{Reader: strings.NewReader(""), ContentType: "multipart/form-data; boundary=b"}, 4)
		wantError(t, err, KindBadBody, "", "is empty")
	})
}

// TestPicturesInJSON: which strings of a body are pictures, however JSON spells them, and that others are not blamed on images[k].
func TestPicturesInJSON(t *testing.T) {
	url := "data:image/png;base64," + base64.StdEncoding.EncodeToString(readFile(t, "odd.png"))
	broken := "data:image/png;base64,!!!"
	for name, c := range map[string]struct {
		body   string
		images int
		rest   string // the body without them
	}{
		"escaped scheme":  {`{"images": [{"image_url": "\u0064ata:` + url[5:] + `"}]}`, 1, `{"images": [{"image_url": "data:,0"}]}`},
		"escaped colon":   {`{"images": [{"image_url": "data\u003a` + url[5:] + `"}]}`, 1, `{"images": [{"image_url": "data:,0"}]}`},
		"escaped member":  {`{"images": [{"image\u005furl": "` + url + `"}]}`, 1, `{"images": [{"image\u005furl": "data:,0"}]}`},
		"escaped images":  {`{"image\u0073": [{"image_url": "` + url + `"}]}`, 1, `{"image\u0073": [{"image_url": "data:,0"}]}`},
		"mask as well":    {`{"mask": {"image_url": "` + broken + `"}, "images": [{"image_url": "` + url + `"}]}`, 1, `{"mask": {"image_url": "data:…"}, "images": [{"image_url": "data:,0"}]}`},
		"four and a mask": {`{"images": [` + strings.Repeat(`{"image_url": "`+url+`"},`, 4) + `null], "mask": {"image_url": "` + url + `"}}`, 4, `{"images": [{"image_url": "data:,0"},{"image_url": "data:,1"},{"image_url": "data:,2"},{"image_url": "data:,3"},null], "mask": {"image_url": "data:…"}}`},
		"list of strings": {`{"images": ["` + broken + `", "a\"b"]}`, 0, `{"images": ["data:…", "a\"b"]}`},
		"as in a chat":    {`{"images": [{"image_url": {"url": "` + broken + `"}}]}`, 0, `{"images": [{"image_url": {"url": "data:…"}}]}`},
		"image":           {`{"image": "` + broken + `\\\"", "n": 1}`, 0, `{"image": "data:…", "n": 1}`},
		"a prompt":        {`{"prompt": "data:image/png;base64,!!!"}`, 0, `{"prompt": "data:image/png;base64,!!!"}`},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(c.body), iotest.OneByteReader(strings.NewReader(c.body))} {
				form, err := newIntake(Limits{}).ReadJSON(t.Context(), Body{Reader: r, ContentType: "application/json"}, 4)
				if err != nil {
					t.Fatal(err)
				}
				defer form.Close()
				if len(form.Images) != c.images || string(form.JSON) != c.rest {
					t.Errorf("%d images and %s", len(form.Images), form.JSON)
				}
			}
		})
	}
}

// TestPlaceOfWrongBase64: a message says which character is wrong.
func TestPlaceOfWrongBase64(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("face"), 3000)) // more than a buffer
	for text, says := range map[string]string{
		good[:9000] + " " + good[9000:]: `character 9001 of it, ' ', does not belong there`,
		"iVBO*":                         `character 5 of it, '*', does not belong there`,
		"iVBOR":                         "it ends amid a group of digits",
	} {
		body := `{"images": [{"image_url": "data:image/png;base64,` + text + `"}]}`
		_, err := newIntake(Limits{}).ReadJSON(t.Context(), Body{Reader: strings.NewReader(body), ContentType: "application/json"}, 4)
		wantError(t, err, KindNotADataURL, "images[0].image_url", says)
	}
}
