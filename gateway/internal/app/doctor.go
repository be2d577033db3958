package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/gateway/internal/doctor"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/localtriton"
	"github.com/facediffuser/facediffuser/gateway/internal/networks"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

// diagnosis is the command line of one `facediffuser doctor`.
type diagnosis struct {
	streams
	settings config.Config
	known    *pflag.FlagSet // of settings

	noMeasure bool
	json      bool
	quiet     bool
}

func doctorCommand(s streams) *cobra.Command {
	d := &diagnosis{streams: s, settings: config.Default()}
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Examine Triton servers: do models fit, how fast are they",
		Long: `Examine the Triton servers that --triton names, as serve would use them, or a
local one that is started for this command.

It looks, on every server, at health, release and round-trip time; model by
model at names, datatypes, shapes, batch size, dynamic batching and versions,
against the contract (ARCHITECTURE.md) and the family's pipeline.json and
tokenizer; and at whether the servers are alike, since any step of a picture
may run on any of them. A fault is one line: where, what was found, what was
expected, what to do. Its name in brackets stands in docs/troubleshooting.md.

Then it runs the networks of every server that fits: it measures them one by
one and in batches, checks that answers are finite, that rows of a batch do not
depend on one another and that all servers answer alike, and predicts seconds a
picture and pictures an hour for each quality. That takes some hundred calls a
server, on a GPU a few seconds; a server that works for others meanwhile slows
them down and is measured too slow, with a warning. --no-measure leaves it out
and disturbs nobody.

It changes nothing on the servers. Every setting of serve (FACEDIFFUSER_TRITON
and so on) and its --config file are read here too.

Exit codes: 0 everything fits (there may be warnings); 1 something does not
fit, or cannot be reached; 2 the command line or a setting is wrong; 130
interrupted.`,
		Example: `  # The family that comes with the program, on a local Triton
  facediffuser doctor

  # A fleet, before the gateway is pointed to it
  facediffuser doctor --triton gpu-0:8001,gpu-1:8001 --family /srv/models/sd15

  # In a script: only what is wrong
  facediffuser doctor --no-measure --json -q | jq -r '.findings[] | [.code, .replica, .model, .found, .want] | @tsv'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return d.run(c.Context()) },
	}
	f := c.Flags()
	f.BoolVar(&d.noMeasure, "no-measure", false, "do not run the networks: no times, no predictions, no look at answers")
	f.BoolVar(&d.json, "json", false, "print the report as JSON on standard output")
	f.BoolVarP(&d.quiet, "quiet", "q", false, "show no progress")
	d.known = d.settings.Flags()
	f.SortFlags = false
	for _, name := range []string{"config", "triton", "family", "python", "run-dir", "step-timeout", "safety"} {
		f.AddFlag(d.known.Lookup(name))
	}
	return c
}

func (d *diagnosis) run(ctx context.Context) error {
	if err := load(&d.settings, d.known, d.getenv); err != nil {
		return usagef("the configuration is wrong:\n%w", err)
	}
	if _, err := os.Stat(d.settings.Family); err != nil {
		return usagef("--family: %w", err)
	}
	options := doctor.Options{
		Family: d.settings.Family, Replicas: d.settings.Triton, Measure: !d.noMeasure, Timeout: d.settings.StepTimeout, Progress: d.say,
		Checked: func(f *family.Family) bool { return safetyOf(&d.settings, f) != pipeline.SafetyOff },
	}
	var unfit *networks.Fault
	if len(options.Replicas) == 0 {
		options.Local = true
		server, err := d.startLocal(ctx)
		var exit *localtriton.ExitError
		switch {
		case errors.As(err, &exit): // a model keeps it from starting
			unfit = &networks.Fault{Code: doctor.LocalTriton, What: "the local Triton", Found: "it does not start: " + strings.ReplaceAll(exit.Reason, "\n", "; "), Want: "one that loads every model of " + d.settings.Family,
				Remedy: "mend that model; the whole log is " + exit.LogFile}
		case err != nil:
			return err
		default:
			defer func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
				defer cancel()
				if err := server.Close(ctx); err != nil {
					d.say(err.Error())
				}
			}()
			options.Replicas = []string{server.Address()}
		}
	}
	report, err := doctor.Examine(ctx, options)
	if err != nil {
		return err
	}
	if unfit != nil {
		report.Add("", *unfit)
	}
	if err := d.print(report); err != nil {
		return err
	}
	if !report.Fits {
		return errors.New("not everything fits")
	}
	return nil
}

// startLocal gives a Triton that has loaded every model of the family, or an *ExitError. It logs nothing: what goes wrong is in the
// report, and the server's own log in the run folder.
func (d *diagnosis) startLocal(ctx context.Context) (*localtriton.Server, error) {
	d.say("starting a local Triton for this command; --triton names servers that run elsewhere")
	server, err := startTriton(ctx, &d.settings, filepath.Join(d.settings.Family, "models"), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	loaded := 0
	err = server.WaitReady(ctx, func(s localtriton.Status) {
		if n := len(s.Loaded); n > loaded {
			loaded = n
			d.say(fmt.Sprintf("%d of %d models are loaded", n, s.Models))
		}
	})
	if err != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(err, server.Close(closing))
	}
	return server, nil
}

func (d *diagnosis) say(what string) {
	if !d.quiet {
		fmt.Fprintln(d.errOut, what)
	}
}

func (d *diagnosis) print(report *doctor.Report) error {
	if !d.json {
		return report.WriteText(d.out)
	}
	encoder := json.NewEncoder(d.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(report)
}
