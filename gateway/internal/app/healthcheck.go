package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/facediffuser/facediffuser/gateway/internal/config"
)

// healthcheckCommand asks a gateway whether it is alive, for containers without a shell.
func healthcheckCommand(s streams) *cobra.Command {
	var url string
	var ready bool
	c := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a running gateway whether it is alive (or ready); exit 0 if so",
		Example: `  # In a container: asks the address that FACEDIFFUSER_LISTEN names
  facediffuser healthcheck

  facediffuser healthcheck --ready --url http://127.0.0.1:8080`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if url == "" {
				address := s.getenv(config.Variable("listen"))
				if address == "" {
					address = config.Default().Listen
				}
				url = localURL(address)
			}
			url, err := baseURL(url)
			if err != nil {
				return err
			}
			path := "/healthz"
			if ready {
				path = "/readyz"
			}
			ctx, cancel := context.WithTimeout(c.Context(), 3*time.Second)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
			if err != nil {
				return usageError{err}
			}
			response, err := newClient(url, "").http.Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
			if err != nil {
				return err
			}
			if response.StatusCode != http.StatusOK {
				return fmt.Errorf("%s%s: %s: %s", url, path, response.Status, body)
			}
			return nil
		},
	}
	c.Flags().StringVar(&url, "url", "", "base `URL` of the gateway")
	c.Flags().BoolVar(&ready, "ready", false, "ask /readyz, which wants every network ready, instead of /healthz")
	return c
}

// localURL is how a program of this machine reaches a server that listens on address.
func localURL(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "http://" + address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}
