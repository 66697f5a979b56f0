package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"
)

// handler is everything that comes before the endpoints.
func (s *Server) handler() http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, http.StatusForbidden, "the request comes from a web page of another origin")
	}))
	return s.recoverPanics(s.guard(crossOrigin.Handler(http.HandlerFunc(s.route))))
}

// recoverPanics keeps a panic to its request, as net/http does, but logged as everything else is and
// with an answer.
func (s *Server) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler || //nolint:errorlint // what was panicked with, never wrapped
				r.Context().Err() != nil {
				panic(http.ErrAbortHandler) // the client is gone
			}
			s.log.Error("panic in a request", zap.String("method", r.Method), zap.String("path", r.URL.Path),
				zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
			writeProblem(w, http.StatusInternalServerError, "internal error; the member's log has more")
		}()
		next.ServeHTTP(w, r)
	})
}

// open are the paths for probes, which bear no token.
func open(path string) bool { return path == "/healthz" || path == "/readyz" }

// guard asks for the token. Without one the API trusts whoever is on this machine, so that it has to
// refuse web pages that reach it by a name of their own (DNS rebinding).
func (s *Server) guard(next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(s.cfg.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		switch {
		case open(r.URL.Path):
		case s.cfg.Token != "":
			// Hashes have equal lengths, so that the comparison tells nothing about the token's.
			got := sha256.Sum256([]byte(bearer(r)))
			if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
				h.Set("WWW-Authenticate", `Bearer realm="roost"`)
				writeProblem(w, http.StatusUnauthorized, "the request has to bear the API's token: Authorization: Bearer TOKEN")
				return
			}
		case !s.cfg.AllowOpen && !isLoopback(hostOf(r.Host)):
			writeProblem(w, http.StatusMisdirectedRequest, "the API has no token, so that it answers to localhost and loopback addresses only, not to "+r.Host)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

func hostOf(hostPort string) string {
	if host, _, err := net.SplitHostPort(hostPort); err == nil {
		return host
	}
	return hostPort
}

// route turns the mux's own errors (404 and 405) into problem details.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	h, pattern := s.mux.Handler(r)
	if pattern != "" {
		s.mux.ServeHTTP(w, r)
		return
	}
	rec := discarder{header: http.Header{}, status: http.StatusOK}
	h.ServeHTTP(&rec, r)
	detail := "there is nothing at " + r.URL.Path + "; /docs lists what there is"
	if allow := rec.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
		detail = r.URL.Path + " allows " + allow
	}
	writeProblem(w, rec.status, detail)
}

// discarder keeps the status and the headers of a response.
type discarder struct {
	header http.Header
	status int
}

func (d *discarder) Header() http.Header         { return d.header }
func (d *discarder) Write(p []byte) (int, error) { return len(p), nil }
func (d *discarder) WriteHeader(status int)      { d.status = status }

// writeProblem answers with problem details; when the response has begun it does nothing useful.
func writeProblem(w http.ResponseWriter, status int, detail string) {
	writeProblemOf(w, newProblem(status, detail))
}

func writeProblemOf(w http.ResponseWriter, p huma.StatusError) {
	status := p.GetStatus()
	b, err := json.Marshal(p)
	if err != nil {
		b = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}
