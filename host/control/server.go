package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// A Server answers requests for one host.
type Server struct {
	Host    *host.Host
	Version string // of the program
	// Upgrade hands everything to another process and returns its id. The agent
	// ends once the answer is out. nil: it cannot.
	Upgrade func(ctx context.Context) (pid int, err error)

	snapshots sync.Map // token → *host.Snapshot, while somebody holds it
}

// storeTime bounds how long stores may take to answer.
const storeTime = 5 * time.Second

// Handler returns the server's answers.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/attach", s.attach)
	mux.HandleFunc("POST /v1/find", s.find)
	mux.HandleFunc("POST /v1/reach", s.reach)
	mux.HandleFunc("GET /v1/attachments", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, attachments{s.Host.List()})
	})
	mux.HandleFunc("DELETE /v1/attachments/{id}", s.detach)
	mux.HandleFunc("GET /v1/attachments/{id}/wait", s.wait)
	mux.HandleFunc("GET /v1/attachments/{id}/slow", s.slow)
	mux.HandleFunc("POST /v1/attachments/{id}/mark", s.mark)
	mux.HandleFunc("POST /v1/attachments/{id}/fill", s.fill)
	mux.HandleFunc("POST /v1/attachments/{id}/snapshot", s.snapshot)
	mux.HandleFunc("GET /v1/snapshots/{token}", s.readSnapshot)
	mux.HandleFunc("POST /v1/upgrade", s.upgrade)
	about := Agent{s.Version, os.Getpid(), time.Now().UTC()}
	mux.HandleFunc("GET /v1/agent", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, about) })
	mux.HandleFunc("GET /v1/stores", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), storeTime)
		defer cancel()
		answer(w, http.StatusOK, stores{s.Host.Stores(ctx)})
	})
	mux.HandleFunc("GET /healthz", s.health)
	return mux
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	var q attachRequest
	if err := decode(w, r, &q); err != nil {
		refuse(w, host.SpecErrorf("attach: %w", err))
		return
	}
	infos, err := s.Host.Attach(r.Context(), q.Attach...)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, http.StatusOK, attachments{infos})
}

// decode reads the body of a request.
func decode(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

func (s *Server) find(w http.ResponseWriter, r *http.Request) {
	var q findRequest
	if err := decode(w, r, &q); err != nil {
		refuse(w, host.SpecErrorf("find: %w", err))
		return
	}
	f, err := s.Host.Find(r.Context(), q.Find)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, http.StatusOK, f)
}

func (s *Server) reach(w http.ResponseWriter, r *http.Request) {
	var q reachRequest
	if err := decode(w, r, &q); err != nil {
		refuse(w, host.SpecErrorf("reach: %w", err))
		return
	}
	if err := s.Host.Reach(r.Context(), q.Reach...); err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// maxWait bounds how long a detach may wait for users to leave.
const maxWait = time.Minute

func (s *Server) detach(w http.ResponseWriter, r *http.Request) {
	wait := time.Duration(0)
	if text := r.FormValue("wait"); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || seconds < 0 || seconds > maxWait.Seconds() {
			refuse(w, host.SpecErrorf("detach: wait %q: want 0 to %v seconds", text, maxWait.Seconds()))
			return
		}
		wait = time.Duration(seconds * float64(time.Second))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), wait)
	defer cancel()
	if err := s.Host.Detach(ctx, r.PathValue("id"), r.FormValue("force") != ""); err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) wait(w http.ResponseWriter, r *http.Request) {
	err := s.Host.Wait(r.Context(), r.PathValue("id"))
	if r.Context().Err() != nil {
		err = host.ErrClosed
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) slow(w http.ResponseWriter, r *http.Request) {
	slow, err := s.Host.Slow(r.PathValue("id"))
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, http.StatusOK, slow)
}

func (s *Server) mark(w http.ResponseWriter, r *http.Request) {
	if err := s.Host.Mark(r.PathValue("id")); err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) fill(w http.ResponseWriter, r *http.Request) {
	var q fillRequest
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&q)
	if err != nil {
		err = host.SpecErrorf("fill: %w", err)
	} else {
		err = s.Host.PauseFill(r.PathValue("id"), q.Pause)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	if s.Upgrade == nil {
		refuse(w, errors.ErrUnsupported)
		return
	}
	pid, err := s.Upgrade(context.WithoutCancel(r.Context()))
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, http.StatusOK, Upgraded{pid})
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	unwell := s.Host.Unwell()
	if len(unwell) == 0 {
		unwell = []string{"ok"}
	} else {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	for _, line := range unwell {
		_, _ = fmt.Fprintln(w, line)
	}
}

// Serve answers on ln, whose clients must be of this process's user, or root,
// until ctx is done; then what is being answered is finished, within a few
// seconds.
func (s *Server) Serve(ctx context.Context, ln *net.UnixListener) error {
	srv := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(checked{ln}) }()
	select {
	case err := <-ended:
		return fmt.Errorf("control socket: %w", err)
	case <-ctx.Done():
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if srv.Shutdown(finish) != nil {
		_ = srv.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// checked is a listener that lets in whom it should.
type checked struct{ *net.UnixListener }

// Accept implements [net.Listener].
func (c checked) Accept() (net.Conn, error) {
	for {
		u, err := c.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if fdpass.CheckPeer(u) == nil {
			return u, nil
		}
		_ = u.Close()
	}
}
