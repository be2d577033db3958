package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/gateway/internal/family"
	"github.com/facediffuser/facediffuser/gateway/internal/pipeline"
)

func serveCommand(s streams) *cobra.Command {
	settings := config.Default()
	flags := settings.Flags()
	var check bool
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the HTTP API",
		Long: `Serve the HTTP API, with a local Triton that is started, supervised and ended
with the gateway, or with the Triton servers that --triton names.

Every flag is also an environment variable (--max-queue is
FACEDIFFUSER_MAX_QUEUE) and a key of the file that --config names (max_queue).
Flags win over variables, variables over the file. SIGTERM or Ctrl-C: requests
in flight are finished, for at most --shutdown-grace.`,
		Example: `  facediffuser serve
  facediffuser serve --triton gpu-0:8001,gpu-1:8001 --family /srv/models/sd15 --listen 0.0.0.0:8080
  facediffuser serve --config gateway.yaml --check-config`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			err := load(&settings, flags, s.getenv)
			if check {
				served, familyErr := family.Load(settings.Family)
				if familyErr == nil {
					familyErr = checkSafety(&settings, served)
				}
				err = errors.Join(err, familyErr)
			}
			if err != nil {
				return usagef("the configuration is wrong:\n%w", err)
			}
			if check {
				_, err := fmt.Fprintln(s.out, "the configuration is valid")
				return err
			}
			return serve(c.Context(), &settings, s)
		},
	}
	c.Flags().SortFlags = false
	c.Flags().AddFlagSet(flags)
	c.Flags().BoolVar(&check, "check-config", false, "report every fault of the configuration and end")
	return c
}

// load completes the settings from all their sources. A program that was built in a checkout finds the checkout's files from anywhere.
func load(settings *config.Config, flags *pflag.FlagSet, getenv func(string) string) error {
	err := settings.Load(flags, getenv)
	_, missing := os.Stat(settings.Family)
	program, unknown := os.Executable()
	if missing == nil || unknown != nil || flags.Changed("family") {
		return err
	}
	root := filepath.Dir(filepath.Dir(program))
	if _, elsewhere := os.Stat(filepath.Join(root, settings.Family)); elsewhere != nil {
		return err
	}
	for name, path := range map[string]*string{"family": &settings.Family, "python": &settings.Python, "run-dir": &settings.RunDir} {
		if !flags.Changed(name) {
			*path = filepath.Join(root, *path)
		}
	}
	return err
}

// serve runs a gateway until ctx ends.
func serve(ctx context.Context, settings *config.Config, s streams) error {
	if settings.MemoryLimit > 0 && s.getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(settings.MemoryLimit))
	}
	g, err := startGateway(ctx, settings, s)
	if err != nil {
		return err
	}
	if !settings.Loopback() && g.keys == nil {
		g.log.Warn("listening beyond loopback without keys: whoever reaches this address can use it", "listen", settings.Listen)
	}
	if g.family.SafetyChecker && g.pipeline.Safety() == pipeline.SafetyOff {
		g.log.Warn("pictures are not checked, although the family has a safety checker (--safety)")
	}
	err = g.waitReady(ctx, func(missing string) { g.log.Info("not ready yet", "missing", missing) })
	if err == nil {
		g.greet(s.out)
		err = g.wait(ctx)
	}
	if ctx.Err() != nil {
		err = nil // asked to end
		g.log.Info("shutting down: finishing what is in flight", "grace", settings.ShutdownGrace)
	}
	return errors.Join(err, g.stop(ctx))
}
