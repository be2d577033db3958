package app

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
	"github.com/facediffuser/facediffuser/gateway/internal/keys"
)

// keysCommand changes a file of API keys. A gateway that runs takes up the change.
func keysCommand(s streams) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "keys",
		Short: "Create, list and revoke API keys",
		Long: `Create, list and revoke the API keys in a file. A gateway with the same
--keys-file wants one of them with every request, and takes up changes within
seconds. The file holds hashes: a key is shown once, when it is created.`,
		Example: `  facediffuser keys create --keys-file keys.json --name alice
  facediffuser keys create --keys-file keys.json --name dashboard --scopes read,admin
  facediffuser keys create --keys-file keys.json --name guest --requests-per-minute 6 --concurrency 1 --pictures-per-day 100
  facediffuser keys list --keys-file keys.json
  facediffuser keys revoke --keys-file keys.json guest`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return usagef("say what to do: create, list or revoke.\nTry '%s --help'.", c.CommandPath())
		},
	}
	c.PersistentFlags().StringVar(&file, "keys-file", "", "`file` of keys (or FACEDIFFUSER_KEYS_FILE)")
	where := func() (string, error) {
		if name := cmp.Or(file, s.getenv(config.Variable("keys-file"))); name != "" {
			return name, nil
		}
		return "", usagef("--keys-file (or FACEDIFFUSER_KEYS_FILE) must name the file of keys")
	}
	c.AddCommand(createKeyCommand(s, where), listKeysCommand(s, where), revokeKeyCommand(s, where))
	return c
}

func createKeyCommand(s streams, where func() (string, error)) *cobra.Command {
	var k keys.Key
	var scopes []string
	var first bool
	c := &cobra.Command{
		Use:   "create --name NAME",
		Short: "Create a key and print it, this once",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			file, err := where()
			if err != nil {
				return err
			}
			if k.Scopes, err = keys.ParseScopes(scopes); err != nil {
				return usageError{err}
			}
			made, secret, err := keys.Create(file, k, first)
			switch {
			case errors.Is(err, keys.ErrNotEmpty):
				fmt.Fprintf(s.errOut, "facediffuser: %s has a key already\n", file)
				return nil
			case err != nil:
				return usageError{err}
			}
			fmt.Fprintf(s.errOut, "%s (%s) may %s. Keep the key: it is not shown again.\n", made.Name, made.ID, joinScopes(made.Scopes))
			_, err = fmt.Fprintln(s.out, secret)
			return err
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&k.Name, "name", "", "whose key it is, for lists and logs (letters, digits and . _ @ -)")
	f.StringSliceVar(&scopes, "scopes", []string{string(keys.Generate)}, "what it may do: generate, read, admin")
	f.IntVar(&k.RequestsPerMinute, "requests-per-minute", 0, "requests for pictures a minute (0: any number)")
	f.IntVar(&k.Concurrency, "concurrency", 0, "requests for pictures at once (0: any number)")
	f.IntVar(&k.PicturesPerDay, "pictures-per-day", 0, "pictures a day of UTC (0: any number)")
	f.IntVar(&k.Weight, "weight", 1, "share of the key among keys that wait (kept for a scheduler to come; changes nothing yet)")
	f.IntVar(&k.Priority, "priority", 0, "keys with a higher one go first (kept for a scheduler to come; changes nothing yet)")
	f.BoolVar(&first, "first", false, "do nothing if the file has a key already")
	return c
}

func joinScopes(scopes []keys.Scope) string {
	names := make([]string, len(scopes))
	for i, s := range scopes {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

func listKeysCommand(s streams, where func() (string, error)) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the keys, without their secrets",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			file, err := where()
			if err != nil {
				return err
			}
			all, err := keys.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) {
				return usagef("%w; `facediffuser keys create` makes it", err)
			}
			if err != nil {
				return usageError{err}
			}
			if asJSON {
				return json.NewEncoder(s.out).Encode(map[string]any{"keys": append([]keys.Key{}, all...)})
			}
			table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "ID\tNAME\tSCOPES\tA MINUTE\tAT ONCE\tPICTURES A DAY\tWEIGHT\tPRIORITY\tCREATED")
			for _, k := range all {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", k.ID, k.Name, joinScopes(k.Scopes),
					limit(k.RequestsPerMinute), limit(k.Concurrency), limit(k.PicturesPerDay), max(1, k.Weight), k.Priority, k.Created.Format(time.DateOnly))
			}
			return table.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return c
}

func limit(n int) string {
	if n == 0 {
		return "any"
	}
	return fmt.Sprint(n)
}

func revokeKeyCommand(s streams, where func() (string, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID|NAME",
		Short: "Revoke a key; a gateway that runs refuses it within seconds",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			file, err := where()
			if err != nil {
				return err
			}
			gone, err := keys.Revoke(file, args[0])
			if err != nil {
				return usageError{err}
			}
			_, err = fmt.Fprintf(s.out, "revoked %s (%s)\n", gone.Name, gone.ID)
			return err
		},
	}
}
