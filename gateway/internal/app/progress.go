package app

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// display shows on stderr how far the pictures are.
type display interface {
	say(format string, args ...any) // a line of its own
	step(image, step, steps int, stage string)
	done()
}

// newDisplay picks a bar for a terminal, plain lines for a file or a pipe, nothing when quiet.
func newDisplay(w io.Writer, quiet bool, pictures int) display {
	if quiet {
		return silence{}
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &bar{w: w, pictures: pictures, reached: make([]int, pictures)}
	}
	return &lines{w: w, pictures: pictures, tenth: make([]int, pictures)}
}

type silence struct{}

func (silence) say(string, ...any)         {}
func (silence) step(int, int, int, string) {}
func (silence) done()                      {}

// lines prints a line at every tenth of a picture.
type lines struct {
	w        io.Writer
	pictures int
	tenth    []int
}

func (l *lines) say(format string, args ...any) { fmt.Fprintf(l.w, format+"\n", args...) }

func (l *lines) step(image, step, steps int, stage string) {
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

func (l *lines) done() {}

// bar is one progress bar over the steps of all pictures.
type bar struct {
	w        io.Writer
	pictures int
	reached  []int
	bar      *progressbar.ProgressBar
}

func (b *bar) say(format string, args ...any) {
	if b.bar != nil {
		_ = b.bar.Clear() // the line below is worth more than a clean bar
	}
	fmt.Fprintf(b.w, format+"\n", args...)
}

func (b *bar) step(image, step, steps int, stage string) {
	if image >= len(b.reached) {
		return
	}
	if b.bar == nil {
		b.bar = progressbar.NewOptions(steps*b.pictures, progressbar.OptionSetWriter(b.w), progressbar.OptionSetWidth(30),
			progressbar.OptionShowCount(), progressbar.OptionThrottle(50*time.Millisecond), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetPredictTime(true))
	}
	b.reached[image] = step
	sum := 0
	for _, n := range b.reached {
		sum += n
	}
	b.bar.Describe(fmt.Sprintf("%-22s", words(stage)))
	_ = b.bar.Set(sum) // a terminal that cannot be written to is no reason to lose a picture
}

func (b *bar) done() {
	if b.bar != nil {
		_ = b.bar.Clear()
	}
}

// words writes a name of the API as a person would.
func words(name string) string { return strings.ReplaceAll(name, "_", " ") }
