package httpapi

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
)

// trusts says whether an address is that of a trusted proxy.
func (s *server) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(s.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(a.Unmap().WithZone("")) })
}

// clientAddress is the address of a request's client, without a port. Every
// proxy adds the address that it saw at the end of X-Forwarded-For, so that the
// client's is the last one that is no trusted proxy's; what stands before it
// the client may have written itself. No other header is believed: a proxy
// that does not set it passes on what the client has sent.
func (s *server) clientAddress(c *gin.Context) string {
	client, err := netip.ParseAddr(c.RemoteIP())
	if err != nil {
		return c.RemoteIP()
	}
	hops := strings.Split(strings.Join(c.Request.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		before, ok := hopAddress(hop)
		if !ok || !s.trusts(client) {
			break
		}
		client = before
	}
	return client.String()
}

// hopAddress reads an entry of X-Forwarded-For: an address, perhaps with a
// port, as Azure's gateways write it, or in brackets.
func hopAddress(hop string) (netip.Addr, bool) {
	hop = strings.TrimSpace(hop)
	if both, err := netip.ParseAddrPort(hop); err == nil {
		return both.Addr().Unmap(), true
	}
	if inner, ok := strings.CutPrefix(hop, "["); ok {
		hop = strings.TrimSuffix(inner, "]")
	}
	a, err := netip.ParseAddr(hop)
	return a.Unmap(), err == nil
}
