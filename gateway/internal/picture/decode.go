package picture

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/facediffuser/facediffuser/gateway/internal/picture/internal/icc"
	"github.com/facediffuser/facediffuser/gateway/internal/picture/internal/jpegrows"
)

// Limits of what is accepted. Zero fields take the defaults.
type Limits struct {
	MaxPixels int64 // width·height of one picture; default 50 million
	// MaxWaiting pictures wait for others to be decoded; default 64. One more,
	// and the one that would have to wait longest gets [ErrBusy].
	MaxWaiting int
}

func (l Limits) withDefaults() Limits {
	if l.MaxPixels <= 0 {
		l.MaxPixels = defaultMaxPixels
	}
	if l.MaxWaiting <= 0 {
		l.MaxWaiting = defaultMaxWaiting
	}
	return l
}

const (
	// Phones make photographs of 12, 24 and 48 to 50 megapixels by default.
	defaultMaxPixels  = 50_400_000
	defaultMaxWaiting = 64

	// maxSide is what JPEG can say; a PNG could be one pixel high and millions
	// wide, and rows would no longer be small.
	maxSide = 65535
	// bytesPerPixel for each of MaxPixels may be held by one decoder, and always
	// maxDecodedBytes. A progressive JPEG without chroma subsampling takes 6 and a
	// little, an interlaced PNG 7. With the default MaxPixels only 16-bit PNGs and
	// progressive CMYK JPEGs of more than 44 megapixels come to that, interlaced
	// 16-bit PNGs of more than 25, and, by the size of the file, WebPs that are
	// lossless of more than 41 or have lossy pixels and transparency of more than 26.
	bytesPerPixel   = 7
	maxDecodedBytes = 128 << 20
	// releaseAbove is the size of a decoded picture above which its memory goes
	// back to the system at once. Waiting for the collector would let the next
	// picture come on top of this one.
	releaseAbove = 8 << 20
)

// Decoder turns untrusted bytes into references. It is safe for concurrent use.
type Decoder struct {
	limits Limits
	size   int // object resolution
	queue  *queue
}

// NewDecoder makes a decoder for references of objectResolution pixels a side.
func NewDecoder(limits Limits, objectResolution int) *Decoder {
	if objectResolution <= 0 {
		panic("picture: object resolution must be positive")
	}
	limits = limits.withDefaults()
	return &Decoder{limits: limits, size: objectResolution, queue: newQueue(limits.MaxWaiting)}
}

// Limits returns the limits in force.
func (d *Decoder) Limits() Limits { return d.limits }

// Decode makes a reference of an encoded picture, which it reads from its
// beginning, more than once. It waits while too many others are decoded, and
// ends early when ctx does. The error is an [*Error], [ErrBusy], the cause of
// ctx, or an error of r.
func (d *Decoder) Decode(ctx context.Context, r io.ReadSeeker) (*Reference, error) {
	file := &contextReader{ctx, r}
	format, header, err := d.inspect(file)
	if err != nil {
		return nil, err
	}
	leave, err := d.queue.enter(ctx, cost{memory: header.memory, pixels: int64(header.width) * int64(header.height) * header.passes})
	if err != nil {
		return nil, err
	}
	defer leave()
	if header.memory > releaseAbove {
		defer debug.FreeOSMemory()
	}
	square := newSquarer(header.width, header.height, format.metadata(file.rewound()).orientation(), d.size)
	colours, warning := toSRGB(format, header.space, file.rewound())
	rgb := make([]uint8, 3*header.width)
	err = format.rows(ctx, file.rewound(), func(m image.Image) error {
		return square.addImage(ctx, m, rgb, colours)
	})
	if err != nil {
		return nil, decodeError(ctx, format, err)
	}
	return &Reference{size: d.size, pix: square.finish(), warning: warning}, nil
}

// Check returns the error that a [Decoder] with these limits would return by the
// header of an encoded picture, whose rows it does not read.
func Check(r io.ReadSeeker, limits Limits) error {
	d := &Decoder{limits: limits.withDefaults()}
	_, _, err := d.inspect(&contextReader{context.Background(), r})
	return err
}

// inspect reads a picture's header and compares it with the limits.
func (d *Decoder) inspect(file *contextReader) (*format, header, error) {
	head, err := file.head()
	if err != nil {
		return nil, header{}, err
	}
	f, err := sniff(head)
	if err != nil {
		return nil, header{}, err
	}
	h, err := f.header(file.rewound())
	if errors.Is(err, png.UnsupportedError("dimension overflow")) {
		return nil, header{}, d.tooManyPixels("larger than any memory")
	}
	if err != nil {
		return nil, header{}, decodeError(file.ctx, f, err)
	}
	return f, h, d.check(f, h)
}

// contextReader ends with the cause of its context.
type contextReader struct {
	ctx context.Context //nolint:containedctx // a reader has no other way to be cancelled
	io.ReadSeeker
}

func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.ReadSeeker.Read(p)
}

// head returns the first bytes, enough to recognise any format and the first
// directory of a TIFF.
func (r *contextReader) head() ([]byte, error) {
	head := make([]byte, 4<<10)
	n, err := io.ReadFull(r.rewound(), head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return head[:n], nil
}

// rewound is the reader at its beginning. An error of seeking is found by the next Read.
func (r *contextReader) rewound() io.ReadSeeker {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return &contextReader{r.ctx, failed{err}}
	}
	return r
}

type failed struct{ err error }

func (f failed) Read([]byte) (int, error)       { return 0, f.err }
func (f failed) Seek(int64, int) (int64, error) { return 0, f.err }

// check compares a header with the limits.
func (d *Decoder) check(f *format, h header) error {
	if h.width <= 0 || h.height <= 0 {
		return errorf(KindCorrupt, "the %s says it is %d×%d pixels", f.name, h.width, h.height)
	}
	if int64(h.width)*int64(h.height) > d.limits.MaxPixels || h.width > maxSide || h.height > maxSide {
		return d.tooManyPixels(fmt.Sprintf("%d×%d pixels", h.width, h.height))
	}
	if h.memory > max(maxDecodedBytes, bytesPerPixel*d.limits.MaxPixels) {
		return errorf(KindTooManyPixels, "the image is %d×%d pixels of a kind that takes too much memory to decode; save it as a JPEG or a PNG of 8 bits a channel, or smaller", h.width, h.height)
	}
	return nil
}

func (d *Decoder) tooManyPixels(what string) error {
	used := ""
	if d.size > 0 {
		used = fmt.Sprintf(", %d pixels a side are used", d.size)
	}
	return errorf(KindTooManyPixels, "the image is %s; at most %.3g megapixels and %d pixels a side are accepted: send it smaller%s",
		what, float64(d.limits.MaxPixels)/1e6, maxSide, used)
}

// header is what the beginning of a file says.
type header struct {
	width, height int
	memory        int64     // about how many bytes the decoder will hold
	passes        int64     // about how often it will go over all pixels
	space         icc.Space // what the samples are
}

// format is a file format that is decoded here. Each function reads the file from
// its beginning.
type format struct {
	name     string
	header   func(io.ReadSeeker) (header, error)
	rows     func(ctx context.Context, r io.ReadSeeker, emit func(image.Image) error) error
	metadata func(io.ReadSeeker) metadata
}

var (
	formatPNG  = &format{"PNG", pngHeader, whole(decodePNG), pngMetadata}
	formatJPEG = &format{"JPEG", jpegHeader, jpegRows, jpegMetadata}
	formatWebP = &format{"WebP", webpHeader, whole(decodeWebP), webpMetadata}
	formatGIF  = &format{"GIF", gifHeader, gifRows, func(io.ReadSeeker) metadata { return metadata{} }}
)

func jpegHeader(r io.ReadSeeker) (header, error) {
	h, err := jpegrows.ReadHeader(r)
	space := map[int]icc.Space{1: icc.Gray, 3: icc.RGB, 4: icc.CMYK}[h.Components]
	passes := int64(1)
	if h.Stored {
		passes = 5 // libjpeg's scripts for progressive files make 4.7 to 6
	}
	return header{h.Width, h.Height, h.Memory, passes, space}, err
}

func jpegRows(ctx context.Context, r io.ReadSeeker, emit func(image.Image) error) error {
	return jpegrows.Decode(ctx, r, emit)
}

// headerOf is for decoders that return a whole picture, in a time that an
// ordinary one would take for so many passes.
func headerOf(c image.Config, passes int64) header {
	bytes := 4 * int64(c.Width) * int64(c.Height)
	switch c.ColorModel {
	case color.RGBA64Model, color.NRGBA64Model:
		bytes *= 2
	case color.NYCbCrAModel: // samples, and transparency decoded as a picture of its own
		bytes = bytes / 8 * 15
	}
	return header{c.Width, c.Height, bytes, passes, spaceOf(c.ColorModel)}
}

func whole(decode func(context.Context, io.ReadSeeker) (image.Image, error)) func(context.Context, io.ReadSeeker, func(image.Image) error) error {
	return func(ctx context.Context, r io.ReadSeeker, emit func(image.Image) error) error {
		m, err := decode(ctx, r)
		if err != nil {
			return err
		}
		return emit(m)
	}
}

// sniff recognises a format by its first bytes, also those that are not decoded
// here, so that the error can say what to do.
func sniff(head []byte) (*format, error) {
	has := func(prefix string) bool { return bytes.HasPrefix(head, []byte(prefix)) }
	switch {
	case len(head) == 0:
		return nil, errorf(KindNotAnImage, "the file is empty")
	case has("\x89PNG\r\n\x1a\n"):
		return formatPNG, nil
	case has("\xff\xd8\xff"):
		return formatJPEG, nil
	case has("RIFF") && len(head) >= 12 && string(head[8:12]) == "WEBP":
		return formatWebP, nil
	case has("GIF87a"), has("GIF89a"):
		return formatGIF, nil
	}
	if name := otherFormat(head); name != "" {
		return nil, errorf(KindUnsupportedFormat, "the file is %s, which is not supported; %s", name, cmp.Or(remedies[name], "convert it to JPEG, PNG or WebP"))
	}
	return nil, errorf(KindNotAnImage, "the file is not an image; send PNG, JPEG, WebP or GIF")
}

const (
	nameJPEG2000 = "JPEG 2000"
	nameJPEGXL   = "JPEG XL"

	// What phones and cameras store and is not decoded here (docs/adr/0019).
	nameHEIC  = "HEIC"
	nameHEIF  = "HEIF"
	nameAVIF  = "AVIF"
	nameTIFF  = "TIFF"
	nameDNG   = "a raw photo (DNG)"
	nameRaw   = "a raw photo"
	nameVideo = "a video"
)

// remedies say how to come by a format that is, where "convert it" is not enough.
var remedies = map[string]string{
	nameHEIC:  toJPEG,
	nameHEIF:  toJPEG,
	nameAVIF:  "open it in an image viewer or editor and export it as JPEG or PNG; on a phone, take a screenshot of it",
	nameTIFF:  "export it as JPEG or PNG",
	nameDNG:   "send the JPEG that the phone's photo app makes when it shares the photo, or export it as JPEG",
	nameRaw:   "export it as JPEG",
	nameVideo: "send a still picture: of a Live Photo or a motion photo, the photo without its video",
}

const toJPEG = "send a JPEG. On an iPhone, share the photo with Options > Most Compatible, " +
	"or set Settings > Camera > Formats to Most Compatible for the next one; on a Samsung or another Android phone, " +
	"switch off high efficiency pictures (HEIF) in the camera's settings, or edit the photo and save a copy as JPEG"

func otherFormat(head []byte) string {
	has := func(prefix string) bool { return bytes.HasPrefix(head, []byte(prefix)) }
	// ISO base media files name their brand, and those they are compatible with,
	// in the first box: its size, "ftyp", major brand, version, brands.
	if len(head) >= 12 && string(head[4:8]) == "ftyp" {
		size := min(max(12, uint64(binary.BigEndian.Uint32(head))), uint64(len(head)))
		brands := slices.Collect(slices.Chunk(head[8:size], 4))
		for _, brand := range brands {
			switch string(brand) {
			case "avif", "avis":
				return nameAVIF
			case "heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs":
				return nameHEIC
			case "crx ":
				return nameRaw
			case "jp2 ", "jpx ", "jpm ":
				return nameJPEG2000
			case "jxl ":
				return nameJPEGXL
			}
		}
		if slices.ContainsFunc(brands, func(b []byte) bool { return string(b) == "mif1" || string(b) == "msf1" }) {
			return nameHEIF
		}
		return nameVideo
	}
	text := strings.ToLower(string(bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")))
	switch {
	case isDNG(head):
		return nameDNG
	case has("II*\x00\x10\x00\x00\x00CR"), has("IIU\x00"), has("IIRO"), has("IIRS"), has("MMOR"), has("FUJIFILMCCD-RAW"): // Canon's, Panasonic's, Olympus's, Fujifilm's
		return nameRaw
	case has("II*\x00"), has("MM\x00*"), has("II+\x00"), has("MM\x00+"):
		return nameTIFF
	case isVideo(head):
		return nameVideo
	case has("%PDF-"):
		return "PDF"
	case has("BM"):
		return "BMP"
	case has("\x00\x00\x01\x00"):
		return "ICO"
	case has("8BPS"):
		return "PSD"
	case has("\x00\x00\x00\x0cJXL "), has("\xff\x0a"):
		return nameJPEGXL
	case has("\x00\x00\x00\x0cjP  "), has("\xff\x4f\xff\x51"):
		return nameJPEG2000
	case strings.HasPrefix(text, "<svg"),
		(strings.HasPrefix(text, "<?xml") || strings.HasPrefix(text, "<!--") || strings.HasPrefix(text, "<!doctype svg")) && strings.Contains(text, "svg"):
		return "SVG"
	}
	return ""
}

// isDNG says whether a TIFF's first directory has the version of DNG.
func isDNG(head []byte) bool {
	order, entries := firstDirectory(head)
	for entry := range slices.Chunk(entries, tiffEntry) {
		if order.Uint16(entry) == tagDNGVersion {
			return true
		}
	}
	return false
}

// isVideo recognises the containers that are not ISO base media files, or are but
// do not say so (QuickTime's).
func isVideo(head []byte) bool {
	has := func(prefix string) bool { return bytes.HasPrefix(head, []byte(prefix)) }
	switch {
	case has("RIFF") && len(head) >= 12 && string(head[8:12]) == "AVI ",
		has("\x1a\x45\xdf\xa3"),                          // Matroska, WebM
		has("\x30\x26\xb2\x75\x8e\x66\xcf\x11"),          // ASF, WMV
		has("\x00\x00\x01\xba"), has("\x00\x00\x01\xb3"), // MPEG
		has("FLV\x01"):
		return true
	}
	if len(head) < 8 {
		return false
	}
	switch string(head[4:8]) {
	case "moov", "mdat", "wide":
		return true
	}
	return false
}

// decodeError words an error of a decoder.
func decodeError(ctx context.Context, f *format, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var unsupported bool
	switch err.(type) { //nolint:errorlint // the decoders return these bare
	case jpeg.UnsupportedError, png.UnsupportedError:
		unsupported = true
	}
	e := &Error{Kind: KindCorrupt, Err: err}
	switch {
	case unsupported:
		e.Kind = KindUnsupportedFormat
		e.Message = fmt.Sprintf("this variant of %s is not supported (%v); save it again as an ordinary PNG or JPEG", f.name, err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		e.Message = fmt.Sprintf("the %s is cut off before its end", f.name)
	default:
		e.Message = fmt.Sprintf("the %s is damaged (%v)", f.name, err)
	}
	return e
}
