package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/gateway/internal/httpapi"
	"github.com/facediffuser/facediffuser/gateway/internal/parameters"
	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
	"github.com/facediffuser/facediffuser/sampler"
)

// formats are the output formats by file extension.
var formats = map[string]string{".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

// generation is the command line of one `facediffuser generate`.
type generation struct {
	streams
	stdin    io.Reader
	settings config.Config
	known    *pflag.FlagSet // of settings
	flags    *pflag.FlagSet // of the command

	prompt     string
	subjects   []string
	output     string
	format     string
	force      bool
	count      int
	previewDir string
	previews   int
	from       string
	url        string
	json       bool
	quiet      bool

	weights string // of the networks that made the picture --from
}

// ownGatewayFlags are the settings that matter to a gateway that lives for one command. Naming one asks for such a gateway.
var ownGatewayFlags = []string{"config", "triton", "family", "python", "run-dir", "safety"}

func generateCommand(s streams) *cobra.Command {
	g := &generation{streams: s, settings: config.Default()}
	c := &cobra.Command{
		Use:   "generate [flags] PROMPT",
		Short: "Make pictures from the command line",
		Long: `Make pictures of the people on reference images in the scene of PROMPT, and
write them to files.

PROMPT is a sentence, or - for one on standard input. In it, <|image|> follows
the noun of each person on an image; the images are given in the same order.
Without an image, the picture shows the sentence alone.

A small family, such as mini, knows only what it was taught: "vocabulary" in
its pipeline.json and in GET /v1/models lists that. A warning names the words
of PROMPT that are not there.

The pictures come from the gateway at --url; without that flag from one on
http://127.0.0.1:8080 if it answers, and otherwise from a local Triton that is
started for this command and ended with it. A gateway with keys wants one in
FACEDIFFUSER_API_KEY.

Exit codes: 0 every picture is written; 1 something failed, and the same
command may work later; 2 the command line or the request is wrong, or a
picture was refused as not safe for work; 130 interrupted.`,
		Example: `  facediffuser generate --subject alice.png -o out.png "a woman <|image|> reading in the snow at night"

  # Two people, in the order of the prompt, four pictures: pair-0.webp to pair-3.webp
  facediffuser generate --subject alice.png --subject bob.png -n 4 -o pair.webp \
      "a woman <|image|> and a man <|image|> on the beach"

  # The same picture again, with another seed
  facediffuser generate --from out.png --subject alice.png --seed 7 -o again.png

  # Into a pipe
  facediffuser generate -o - "a man in the desert at sunset" | display`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usagef("%d prompts; quote the prompt: %q", len(args), strings.Join(args, " "))
			case len(args) == 0 && g.from == "":
				return usagef("a prompt is missing.\nTry 'facediffuser generate --help'.")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				g.prompt = args[0]
			}
			g.stdin = c.InOrStdin()
			g.flags = c.Flags()
			return g.run(c.Context())
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&g.subjects, "subject", "s", nil, "reference image of a person (PNG, JPEG, WebP or GIF `file`, - for standard input); repeat it in the order of the prompt")
	f.StringVarP(&g.output, "output", "o", "out.png", "write the picture to this `file`, - for standard output; .png, .jpg or .webp say the format; pipes and devices are written to, not replaced")
	f.StringVar(&g.format, "format", "", parameters.List(parameters.All().Get("output_format").Words)+" (default: as the output file's extension says)")
	f.BoolVarP(&g.force, "force", "f", false, "overwrite files that exist")
	all := parameters.All()
	n, previews := all.Get("n"), all.Get("partial_images")
	n.Help += "; more than one are written to out-0.png, out-1.png, …"
	f.VarP(&parameterValue{placeholder: n.Placeholder}, n.Flag, "n", flagHelp(n))
	f.StringVar(&g.previewDir, "preview-dir", "", "also write pictures of intermediate steps to this `directory`")
	f.Var(&parameterValue{strconv.Itoa(parameters.MaxPreviews), previews.Placeholder}, previews.Flag, fmt.Sprintf("with --preview-dir: how many of them, 1 to %d", parameters.MaxPreviews))
	addRequestFlags(f)
	f.StringVar(&g.from, "from", "", "repeat the picture in this `file` by the parameters that it carries; other flags win over them")
	f.StringVar(&g.url, "url", "", "ask the gateway at this `URL` or host:port (or at FACEDIFFUSER_URL)")
	f.BoolVar(&g.json, "json", false, "print what was made as JSON on standard output")
	f.BoolVarP(&g.quiet, "quiet", "q", false, "show warnings and errors only")
	g.known = g.settings.Flags()
	f.SortFlags = false
	for _, name := range ownGatewayFlags {
		f.AddFlag(g.known.Lookup(name))
	}
	return c
}

// run makes the pictures. Whatever can be known to be wrong is found before the first step is computed.
func (g *generation) run(ctx context.Context) error {
	if err := g.readPrompt(ctx); err != nil {
		return err
	}
	o, err := g.order(ctx)
	defer o.close()
	if err != nil {
		return err
	}
	files, err := g.pictureOutputs()
	if err != nil {
		return err
	}
	maps, err := g.mapOutputs(files)
	if err != nil {
		return err
	}
	previews, err := g.previewOutputs(files)
	if err != nil {
		return err
	}
	show := newDisplay(g.errOut, g.getenv, g.quiet, g.count)
	defer show.done()
	asked, closeGateway, err := g.gateway(ctx, show, o)
	if err != nil {
		return err
	}
	defer closeGateway()
	for _, file := range files {
		if file.waits() {
			show.say("%s is a named pipe; the picture is written once somebody reads it", file.name)
		}
	}

	made := make([]madePicture, 0, g.count)
	var told []string
	err = asked.stream(ctx, o, func(n notice) error {
		if n.Image < 0 || n.Image >= len(files) {
			return fmt.Errorf("the gateway sent picture %d of %d", n.Image+1, len(files))
		}
		switch {
		case n.is("progress"):
			show.step(n.Image, n.Step, n.Steps, n.Stage)
		case n.is("partial_image") && previews != nil:
			if n.Preview < 0 || n.Preview >= len(previews[n.Image]) {
				return fmt.Errorf("the gateway sent preview %d of %d", n.Preview+1, len(previews[n.Image]))
			}
			return previews[n.Image][n.Preview].write(ctx, n.Picture, g.out)
		case n.is("completed"):
			for _, w := range g.warnings(o, n.Details) {
				if !slices.Contains(told, w) {
					told = append(told, w)
					show.warn("%s", w)
				}
			}
			file := files[n.Image]
			if err := file.write(ctx, n.Picture, g.out); err != nil {
				return err
			}
			picture := madePicture{File: file.name, Seed: n.Seed, NSFW: n.NSFW, Details: n.Details}
			if maps != nil {
				picture.FusionMap = maps[n.Image].name
				if err := maps[n.Image].write(ctx, n.FusionMap, g.out); err != nil {
					return err
				}
			}
			made = append(made, picture)
			if file.name == "-" {
				file.name = "standard output"
			}
			show.finished(n.Image, fmt.Sprintf("%s (seed %d)", file.name, n.Seed))
			if n.NSFW != nil && *n.NSFW {
				show.warn("the safety checker finds %s not safe for work", file.name)
			}
		}
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return errInterrupted
	case err != nil:
		return err
	case len(made) < g.count:
		return errNoPicture
	case g.json:
		return json.NewEncoder(g.out).Encode(map[string]any{"pictures": made})
	}
	return nil
}

// maxPrompt bounds a prompt on standard input: far more than any text encoder reads.
const maxPrompt = 1 << 20

// readPrompt takes the prompt from standard input where the user says so.
func (g *generation) readPrompt(ctx context.Context) error {
	if g.prompt != "-" {
		return nil
	}
	if slices.Contains(g.subjects, "-") {
		return usagef("standard input holds the prompt or a reference image, not both")
	}
	text, err := readUpTo(ctx, g.stdin, maxPrompt)
	switch {
	case errors.Is(err, errInterrupted):
		return err
	case err != nil:
		return fmt.Errorf("standard input: %w", err)
	case len(text) > maxPrompt:
		return usagef("the prompt on standard input is longer than %s", humanize.IBytes(maxPrompt))
	}
	if g.prompt = strings.TrimRight(string(text), "\r\n"); strings.TrimSpace(g.prompt) == "" {
		return usagef("standard input holds no prompt")
	}
	return nil
}

// madePicture is one entry of --json.
type madePicture struct {
	File      string          `json:"file"`
	FusionMap string          `json:"fusion_map,omitempty"` // the map's file
	Seed      uint32          `json:"seed"`
	NSFW      *bool           `json:"nsfw,omitempty"`
	Details   json.RawMessage `json:"facediffuser,omitempty"`
}

// order turns the flags and the parameters of --from into a request.
func (g *generation) order(ctx context.Context) (order, error) {
	o := order{fields: map[string]string{"stream": "true", "progress": "true"}}
	if err := g.checkFlags(); err != nil {
		return o, err
	}
	var err error
	if g.count, err = g.whole("n", 1); err != nil {
		return o, err
	}
	if g.previews, err = g.whole("partial_images", 1); err != nil {
		return o, err
	}
	if g.from != "" {
		if err := g.repeat(o.fields); err != nil {
			return o, err
		}
	}
	for _, p := range parameters.All() {
		if f := g.flags.Lookup(p.Flag); f != nil && f.Changed {
			o.fields[p.Name] = f.Value.String()
		}
	}
	o.fields["n"] = strconv.Itoa(g.count)
	if g.previewDir != "" {
		o.fields["partial_images"] = strconv.Itoa(g.previews)
	}
	if g.prompt != "" {
		o.fields["prompt"] = g.prompt
	}
	if err := g.chooseFormat(); err != nil {
		return o, err
	}
	o.fields["output_format"] = g.format
	if i := slices.Index(g.subjects, "-"); i >= 0 && slices.Contains(g.subjects[i+1:], "-") {
		return o, usagef("standard input holds one reference image: --subject - can be given once")
	}
	for _, name := range g.subjects {
		s, err := openSubject(ctx, name, g.stdin)
		if err != nil {
			return o, err
		}
		o.subjects = append(o.subjects, s)
	}
	return o, nil
}

// chooseFormat takes the format from the output's extension where --format does not say it. A pipe needs none.
func (g *generation) chooseFormat() error {
	if g.format != "" {
		return nil
	}
	if g.format = formats[strings.ToLower(filepath.Ext(g.output))]; g.format != "" {
		return nil
	}
	file, err := findOutput(g.output, g.force)
	switch {
	case err != nil:
		return err
	case !file.through():
		return usagef("%s: the extension says no format; use .png, .jpg or .webp, or --format", g.output)
	}
	g.format = "png"
	return nil
}

// repeat sets the fields to what the picture --from was made with.
func (g *generation) repeat(fields map[string]string) error {
	file, err := os.Open(g.from)
	if err != nil {
		return usageError{err}
	}
	defer file.Close()
	raw, err := picture.ReadParameters(file)
	if err != nil {
		return usagef("%s: %w", g.from, err)
	}
	var p pipeline.Parameters
	var said map[string]any
	if err := errors.Join(json.Unmarshal(raw, &p), json.Unmarshal(raw, &said)); err != nil {
		return usagef("%s carries parameters that cannot be read: %w", g.from, err)
	}
	if len(g.subjects) != p.Subjects && g.prompt == "" {
		return usagef("%s was made with %s, which it does not carry; give as many --subject, in the same order (here: %d)", g.from,
			english.Plural(p.Subjects, "reference image", ""), len(g.subjects))
	}
	g.weights = p.Weights
	for _, parameter := range parameters.All() {
		switch v := said[parameter.Name].(type) {
		case string:
			fields[parameter.Name] = v
		case float64:
			fields[parameter.Name] = strconv.FormatFloat(v, 'f', -1, 64)
		}
	}
	fields["scheduler"] = cmp.Or(p.Scheduler, sampler.DDIM) // what made pictures that do not say, before there was a choice
	fields["size"] = fmt.Sprintf("%dx%d", p.Width, p.Height)
	// A quality is a scheduler and a number of steps, eta is one scheduler's, and the bounds count iterations: what the user changes
	// replaces what depends on it.
	if g.flags.Changed("quality") {
		delete(fields, "scheduler")
		delete(fields, "num_inference_steps")
	}
	if g.flags.Changed("quality") || g.flags.Changed("scheduler") {
		delete(fields, "eta")
	}
	if len(g.subjects) == 0 || p.Subjects == 0 || slices.ContainsFunc([]string{"scheduler", "steps", "quality", "input-fidelity"}, g.flags.Changed) {
		delete(fields, "start_merge_step")
		delete(fields, "final_step")
	}
	return nil
}

// warnings are what the user should know of a picture that was made.
func (g *generation) warnings(o order, details json.RawMessage) (warnings []string) {
	var d httpapi.Details
	if json.Unmarshal(details, &d) != nil {
		return nil // an older gateway's; the picture is what counts
	}
	for _, w := range d.Warnings {
		warnings = append(warnings, o.aboutFile(w.Param, w.Message))
	}
	if g.weights != "" && g.weights != d.Parameters.Weights {
		warnings = append(warnings, fmt.Sprintf("%s was made by other weights of %s, so this picture differs", g.from, d.Parameters.Model))
	}
	return warnings
}

func (g *generation) extension() string {
	if g.format == "jpeg" {
		return ".jpg"
	}
	return "." + g.format
}

// stem is a file's name without directory and extension.
func stem(file string) string {
	base := filepath.Base(file)
	if file == "-" {
		base = "out"
	}
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// gateway finds a gateway to ask, or starts one of its own on a free loopback port, once the subjects are within its limits. The function
// ends what was started.
func (g *generation) gateway(ctx context.Context, show display, o order) (client, func(), error) {
	leave := func() {}
	if g.url == "" {
		g.url = g.getenv(config.Variable("url"))
	}
	if g.url != "" {
		base, err := baseURL(g.url)
		if err != nil {
			return client{}, nil, err
		}
		c := newClient(base, g.getenv(apiKey))
		asking, cancel := context.WithTimeout(ctx, identifyTimeout)
		defer cancel()
		capabilities, err := c.identify(asking)
		if err == nil {
			err = o.check(ctx, capabilities.Limits)
		}
		return c, leave, err
	}
	if !slices.ContainsFunc(ownGatewayFlags, g.flags.Changed) {
		c := newClient(localURL(config.Default().Listen), g.getenv(apiKey))
		probe, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if capabilities, err := c.identify(probe); err == nil {
			return c, leave, o.check(ctx, capabilities.Limits)
		}
	}
	g.settings.LogLevel = "error" // progress is shown; what goes wrong comes back as an error
	if err := load(&g.settings, g.known, g.getenv); err != nil {
		return client{}, nil, usageError{err}
	}
	if err := o.check(ctx, httpapi.ServerLimits{MaxImageBytes: int64(g.settings.MaxImageBytes), MaxImagePixels: g.settings.MaxImagePixels}); err != nil {
		return client{}, nil, err
	}
	// For this command alone: no other program is to use it.
	g.settings.Listen, g.settings.AdminListen, g.settings.KeysFile, g.settings.Keys = "127.0.0.1:0", "off", "", ""
	own, err := startGateway(ctx, &g.settings, g.streams)
	if err != nil {
		return client{}, nil, err
	}
	show.say("starting a local Triton for this command; `facediffuser serve` keeps one running")
	if err := own.waitReady(ctx, func(string) {}); err != nil {
		return client{}, nil, errors.Join(err, own.stop(ctx))
	}
	return newClient(own.url(), ""), func() {
		if err := own.stop(ctx); err != nil {
			show.warn("%v", err)
		}
	}, nil
}
