package app

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// display shows on stderr how far the pictures are.
type display interface {
	say(format string, args ...any)  // a line of its own
	warn(format string, args ...any) // likewise, even to who wants quiet
	step(image, step, steps int, stage string)
	finished(image int, line string) // what takes the place of the picture's progress
	done()
}

// newDisplay picks bars for a terminal that can move its cursor, plain lines for anything else, and warnings alone when quiet.
func newDisplay(w io.Writer, getenv func(string) string, quiet bool, pictures int) display {
	plain := lines{w: w, pictures: pictures, tenth: make([]int, pictures)}
	if quiet {
		return silence{plain}
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && getenv("TERM") != "dumb" {
		return &bars{w: f, of: make([]*bar, pictures)}
	}
	return &plain
}

// silence shows warnings.
type silence struct{ lines }

func (silence) say(string, ...any)         {}
func (silence) step(int, int, int, string) {}
func (silence) finished(int, string)       {}

// lines prints a line at every tenth of a picture.
type lines struct {
	w        io.Writer
	pictures int
	tenth    []int
}

func (l lines) say(format string, args ...any)  { fmt.Fprintf(l.w, format+"\n", args...) }
func (l lines) warn(format string, args ...any) { l.say(warning+format, args...) }
func (l lines) finished(_ int, line string)     { l.say("%s", line) }
func (l lines) done()                           {}

const warning = "facediffuser: warning: "

func (l lines) step(image, step, steps int, stage string) {
	if image >= len(l.tenth) || steps == 0 || step*10/steps == l.tenth[image] {
		return
	}
	l.tenth[image] = step * 10 / steps
	which := ""
	if l.pictures > 1 {
		which = fmt.Sprintf("picture %d: ", image)
	}
	l.say("%sstep %d of %d (%s)", which, step, steps, words(stage))
}

// bars has a line for every picture that has begun: its progress, as wide as the terminal is now, and once it is finished, its file.
type bars struct {
	w        *os.File
	progress *mpb.Progress // nil before the first step
	of       []*bar        // nil before the picture's first step
}

type bar struct {
	*mpb.Bar
	stage atomic.Value // string
}

func (b *bars) step(image, step, steps int, stage string) {
	if image >= len(b.of) {
		return
	}
	if b.progress == nil {
		b.progress = mpb.New(mpb.WithOutput(b.w))
	}
	one := b.of[image]
	if one == nil {
		one = new(bar)
		which, total := "", strconv.Itoa(steps)
		if len(b.of) > 1 {
			which = fmt.Sprintf("%d ", image)
		}
		one.stage.Store(stage)
		one.Bar = b.progress.AddBar(int64(steps)+1, // it is complete when its file is written
			mpb.BarPriority(image),
			// What matters most comes first: a narrow terminal cuts off the rest.
			mpb.PrependDecorators(
				decor.Any(func(s decor.Statistics) string { return fmt.Sprintf("%s%*d/%d ", which, len(total), s.Current, steps) }),
				decor.Any(func(decor.Statistics) string {
					name, _ := one.stage.Load().(string)
					return words(name)
				}, decor.WC{W: len("subject scene fusion"), C: decor.DindentRight}),
			),
			mpb.AppendDecorators(decor.AverageETA(decor.ET_STYLE_GO, decor.WC{W: 4})),
		)
		b.of[image] = one
	}
	one.stage.Store(stage)
	one.SetCurrent(int64(step))
}

func (b *bars) finished(image int, line string) {
	if image < len(b.of) && b.of[image] != nil {
		b.of[image].Abort(true)
		b.of[image].Wait()
	}
	b.say("%s", line)
}

func (b *bars) say(format string, args ...any) {
	line := fmt.Sprintf(format+"\n", args...)
	if b.progress != nil {
		if _, err := b.progress.Write([]byte(line)); err == nil {
			return
		}
	}
	fmt.Fprint(b.w, line)
}

func (b *bars) warn(format string, args ...any) { b.say(warning+format, args...) }

// done takes away the bars of pictures that did not finish.
func (b *bars) done() {
	if b.progress == nil {
		return
	}
	for _, one := range b.of {
		if one != nil {
			one.Abort(true)
		}
	}
	b.progress.Wait()
}

// words writes a name of the API as a person would.
func words(name string) string { return strings.ReplaceAll(name, "_", " ") }
