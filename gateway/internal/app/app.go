package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes. A shell user's script can tell a request that will never work from one to try again.
const (
	exitOK          = 0
	exitFailure     = 1   // the request may work later, or the machine lacks something
	exitUsage       = 2   // the command line or the request itself is wrong
	exitInterrupted = 130 // 128 + SIGINT, as shells have it; also for SIGTERM
)

// usageError marks what the user said wrongly.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// ExitCode is the process's exit code for what Run returned under ctx.
func ExitCode(ctx context.Context, err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	case ctx.Err() != nil:
		return exitInterrupted
	}
	return exitFailure
}

// streams is where a command reads its surroundings and writes.
type streams struct {
	getenv      func(string) string
	out, errOut io.Writer
}

// Run is the program. It ends when the command is done or, with what is in flight finished, after ctx ends. What went wrong has been
// written to stderr when it returns an error.
func Run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	s := streams{getenv, stdout, stderr}
	running := false
	root := &cobra.Command{
		Use:   "facediffuser",
		Short: "Pictures of the people on your images in the scene of a sentence",
		Long: `Face-Diffuser makes a picture of the people on reference images in the scene of
a sentence.

The networks run in NVIDIA Triton; this program is everything around them: the
HTTP API, which is compatible with the OpenAI Images API, and a command line.`,
		Example: `  # Serve on http://127.0.0.1:8080, with a Triton of its own
  facediffuser serve

  # One picture; <|image|> follows the noun of the person on the image
  facediffuser generate --subject alice.png -o out.png "a woman <|image|> reading in the snow at night"`,
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRun:  func(*cobra.Command, []string) { running = true },
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(serveCommand(s), generateCommand(s), doctorCommand(s), keysCommand(s), healthcheckCommand(s), versionCommand(s))
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages", fmt.Sprintf(".FlagUsagesWrapped %d", columns(stdout))))
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w\nTry '%s --help'.", err, c.CommandPath())
	})
	err := root.ExecuteContext(ctx)
	if err != nil && !running {
		// Nothing has started: cobra found the command line itself wrong.
		err = usageError{err}
	}
	if err != nil {
		fmt.Fprintf(stderr, "facediffuser: %s\n", strings.TrimRight(err.Error(), "\n"))
	}
	return err
}

// columns is how wide lines of help may be: as the terminal, where there is one, and readable.
func columns(w io.Writer) int {
	const least, usual, most = 40, 80, 120
	f, ok := w.(*os.File)
	if !ok {
		return usual
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return usual
	}
	return min(max(width, least), most)
}

func versionCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(s.out, "facediffuser %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// version is the module's version, or the revision that a checkout was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
