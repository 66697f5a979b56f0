package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"go.uber.org/zap"
)

// Server serves the API of one member. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	backend Backend
	log     *zap.Logger
	mux     *http.ServeMux
	huma    huma.API
	http    *http.Server
	streams chan struct{} // holds one element for each open stream
	failed  chan error

	// closing ends when the server closes; streams end with it.
	closing context.Context
	stop    context.CancelFunc

	mu       sync.Mutex
	listener net.Listener
	served   chan struct{} // closed when Serve has returned
}

// New makes a server that does not listen yet. The error names the key of cfg that is wrong.
func New(cfg Config, b Backend, log *zap.Logger) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if log == nil {
		log = zap.NewNop()
	}
	s := &Server{
		cfg: cfg, backend: b, log: log, mux: http.NewServeMux(),
		streams: make(chan struct{}, cfg.MaxStreams), failed: make(chan error, 1),
	}
	s.closing, s.stop = context.WithCancel(context.Background())
	s.huma = humago.New(s.mux, openAPIConfig(&cfg))
	s.registerJobs()
	s.registerEvents()
	s.registerNodes()
	s.registerStatus()
	s.registerMembers()
	s.registerTree()
	s.registerTrace()
	if err := s.serveDocument(); err != nil {
		return nil, err
	}
	errorLog, err := zap.NewStdLogAt(log, zap.WarnLevel)
	if err != nil {
		return nil, fmt.Errorf("api: log: %w", err)
	}
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: cfg.ReadTimeout,
		ReadTimeout:       cfg.ReadTimeout,
		WriteTimeout:      cfg.WriteTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		MaxHeaderBytes:    cfg.MaxHeaderBytes,
		ErrorLog:          errorLog,
	}
	return s, nil
}

// Start listens and serves in the background. ctx bounds the start only.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		return errors.New("api: started already")
	}
	if s.closing.Err() != nil {
		return errors.New("api: closed already")
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("api.listen: %w", err)
	}
	s.listener, s.served = l, make(chan struct{})
	go func() {
		defer close(s.served)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the API stopped serving", zap.Error(err))
			s.failed <- fmt.Errorf("api: %w", err)
		}
	}()
	s.log.Info("the API listens", zap.Stringer("address", l.Addr()), zap.Bool("token", s.cfg.Token != ""))
	return nil
}

// Addr returns where the server listens, or nil before Start.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Failed receives an error when serving ends without Close.
func (s *Server) Failed() <-chan error { return s.failed }

// Close stops listening, ends the streams of events, and waits for the other requests to end; when
// ctx ends first, it cuts them. It may be called more than once, and without Start.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	served := s.served
	s.stop()
	s.mu.Unlock()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("api: requests were cut: %w", err), s.http.Close())
	}
	if served != nil {
		<-served
	}
	return err
}

// Document returns the OpenAPI document as JSON.
func (s *Server) Document() ([]byte, error) {
	b, err := s.huma.OpenAPI().MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("api: OpenAPI document: %w", err)
	}
	return b, nil
}
