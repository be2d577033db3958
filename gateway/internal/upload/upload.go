package upload

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
)

// Limits of request bodies. Zero fields take the defaults.
type Limits struct {
	MaxFileBytes int64         // one encoded picture; default 32 MiB
	MaxTextBytes int64         // a form's text fields together, or a JSON body without its pictures; default 1 MiB
	MaxFields    int           // text fields of a form; default 100
	MemoryBytes  int64         // what is held of all bodies together; default 32 MiB
	Timeout      time.Duration // one body, from its first byte to its last; default 5 min
}

func (l Limits) withDefaults() Limits {
	set(&l.MaxFileBytes, 32<<20)
	set(&l.MaxTextBytes, 1<<20)
	set(&l.MaxFields, 100)
	set(&l.MemoryBytes, 32<<20)
	set(&l.Timeout, 5*time.Minute)
	return l
}

func set[T int | int64 | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// maxBody is what images files of the largest size take on the wire: base64
// needs 4 bytes for 3. A body that long is still no memory problem.
// Without images it is text alone.
func (l Limits) maxBody(images int) int64 {
	if images == 0 {
		return l.MaxTextBytes
	}
	return int64(images)*l.MaxFileBytes/3*4 + 2*l.MaxTextBytes
}

// Decoder makes a reference of an encoded picture (see picture.Decoder). It
// reads r from its beginning, as often as it likes.
type Decoder interface {
	Decode(ctx context.Context, r io.ReadSeeker) (*picture.Reference, error)
}

// Intake reads request bodies. It is safe for concurrent use.
type Intake struct {
	decoder Decoder
	limits  Limits
	budget  *budget
}

// NewIntake makes an intake.
func NewIntake(decoder Decoder, limits Limits) *Intake {
	limits = limits.withDefaults()
	return &Intake{decoder: decoder, limits: limits, budget: newBudget(limits.MemoryBytes)}
}

// Within is the intake with other limits of one body; its memory stays the
// same, and is shared. Zero fields stay as they are.
func (in *Intake) Within(limits Limits) *Intake {
	own := in.limits
	set(&limits.MaxFileBytes, own.MaxFileBytes)
	set(&limits.MaxTextBytes, own.MaxTextBytes)
	set(&limits.MaxFields, own.MaxFields)
	set(&limits.Timeout, own.Timeout)
	limits.MemoryBytes = own.MemoryBytes
	return &Intake{decoder: in.decoder, limits: limits, budget: in.budget}
}

// Limits returns the limits in force.
func (in *Intake) Limits() Limits { return in.limits }

// Form is a request body whose pictures have been decoded. Its text counts
// against the intake's memory until it is closed.
type Form struct {
	Fields []Field              // text fields in their order; none for a JSON body
	JSON   []byte               // the JSON body with pictures replaced, see ReadJSON; nil for a form
	Images []*picture.Reference // in their order

	share *share
}

// Field is a text field of a form.
type Field struct{ Name, Value string }

// Close gives the memory of the text back. Nothing of the form may be used
// afterwards but copies of its text, and its images.
func (f *Form) Close() { f.share.close() }

// reading is one body on its way in.
type reading struct {
	in     *Intake
	ctx    context.Context //nolint:containedctx // of the one call that this value lives in
	body   io.Reader       // its content, decompressed
	share  *share
	form   *Form
	images []*picture.Reference // as many as the caller takes; each is set by its decoding
	group  *errgroup.Group      // the decodings
}

// read reads a body by scan, which adds to the form what it finds.
func (in *Intake) read(ctx context.Context, body Body, maxImages int, scan func(*reading) error) (*Form, error) {
	if err := body.checkEncoding(); err != nil {
		body.Drop()
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	group, ctx := errgroup.WithContext(ctx)
	limit := in.limits.maxBody(maxImages)
	b := body.open(limit, in.limits.Timeout)
	var content io.Reader = b
	if body.compressed() {
		content = &gunzip{r: bufio.NewReader(b), left: limit, limit: limit}
	}
	r := &reading{in: in, ctx: ctx, body: content, share: in.budget.open(body.length(), b.cutOff), images: make([]*picture.Reference, maxImages), group: group}
	r.form = &Form{share: r.share}
	err := scan(r)
	if err != nil {
		err = bodyError(ctx, err)
		cancel(err)
	}
	// The decodings are awaited last: the server notices a client that leaves
	// only behind the end of the body, and such a client's pictures are not decoded.
	b.finish(err)
	if failed := group.Wait(); err == nil {
		err = failed
	}
	if err != nil {
		r.share.close()
		return nil, err
	}
	r.form.Images = r.images[:len(r.form.Images):len(r.form.Images)]
	return r.form, nil
}

// addImage reads one more picture from src, which is a part of the body, and
// leaves it to be decoded.
func (r *reading) addImage(param string, src io.Reader) error {
	index := len(r.form.Images)
	if index == len(r.images) {
		return &Error{Kind: KindTooManyImages, Param: param, Message: fmt.Sprintf("at most %d images are accepted", len(r.images))}
	}
	f := &file{share: r.share}
	if err := f.fill(r.ctx, src, r.in.limits.MaxFileBytes); err != nil {
		f.close()
		return ofImage(param, err)
	}
	r.form.Images = append(r.form.Images, nil)
	r.share.decodes(1)
	r.group.Go(func() (err error) {
		defer r.share.decodes(-1)
		defer f.close()
		r.images[index], err = r.in.decoder.Decode(r.ctx, f.reader())
		return ofImage(param, err)
	})
	return nil
}
