package httpapi

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/gin-gonic/gin"

	"github.com/facediffuser/facediffuser/gateway/internal/picture"
	"github.com/facediffuser/facediffuser/gateway/internal/upload"
)

// finerCodes are the codes of error bodies that are no kind of their own.
var finerCodes = []string{
	"missing_required_parameter", "unknown_parameter", "unsupported_parameter", "unsupported_value",
	string(upload.KindBadBody), string(upload.KindContentType), string(upload.KindTooManyImages), string(upload.KindUnknownFile),
	string(upload.KindTooManyFields), string(upload.KindFieldTooLarge), string(upload.KindFileTooLarge), string(upload.KindBodyTooLarge),
	string(upload.KindTooSlow), string(upload.KindNotADataURL),
	string(picture.KindNotAnImage), string(picture.KindUnsupportedFormat), string(picture.KindCorrupt), string(picture.KindTooManyPixels),
}

// startSeries makes the series of what can be counted here before anything has
// been: a rate over a series that begins with its first failure does not see it.
func (s *server) startSeries(routes gin.RoutesInfo) {
	for k := range answers {
		s.Metrics.Errors.WithLabelValues(string(k))
	}
	for _, code := range finerCodes {
		s.Metrics.Errors.WithLabelValues(code)
	}
	for _, r := range routes {
		s.Metrics.HTTPSeconds.WithLabelValues(r.Path)
		for _, status := range statuses(r.Path) {
			s.Metrics.HTTPRequests.WithLabelValues(r.Path, r.Method, strconv.Itoa(status))
		}
	}
	s.Metrics.HTTPSeconds.WithLabelValues(otherRoute)
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed} {
		s.Metrics.HTTPRequests.WithLabelValues(otherRoute, otherRoute, strconv.Itoa(status))
	}
}

// statuses are what a route answers with; those that ask for pictures, with all
// of the table but what the router finds.
func statuses(route string) []int {
	all := []int{http.StatusOK}
	switch route {
	case edits.path(), generations.path():
		for k, a := range answers {
			if k != notFound && k != methodNotAllowed && !slices.Contains(all, a.status) {
				all = append(all, a.status)
			}
		}
	case "/v1/models/*id":
		all = append(all, answers[modelNotFound].status)
	case "/readyz":
		all = append(all, answers[notReady].status)
	}
	return all
}
