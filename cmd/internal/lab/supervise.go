package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

const (
	restartFirst = 100 * time.Millisecond
	restartMost  = 5 * time.Second
	// restartCalm is how long a service has to run for its next restart to be
	// quick again.
	restartCalm  = 10 * time.Second
	stopGrace    = 5 * time.Second
	readyTimeout = 30 * time.Second
	// stoppedPoll bounds the wait where inotify does not tell.
	stoppedPoll = time.Second
)

// service is a daemon that pid 1 keeps running.
type service struct {
	name string
	// argv is its command line; it stays in the foreground.
	argv []string
	env  []string
	// needs are services that have to be ready before its first start.
	needs []string
	// prepare runs before every start, ready after it and returns once the
	// service can be used. Either may be nil.
	prepare, ready func(context.Context) error
	// notifies says that it tells when it is ready, by sd_notify(3).
	notifies bool
	// grace is how long it may take to end when asked to, patience how long
	// until it is ready; 0: stopGrace and readyTimeout.
	grace, patience time.Duration
}

// ServiceStatus is what became of a service.
type ServiceStatus struct {
	Name string `json:"name"`
	// State is "running", "ready", "stopped" (on request), "failed" or
	// "waiting" (for another service, or before a restart).
	State string `json:"state"`
	// PID is its number inside the host.
	PID int `json:"pid,omitempty"`
	// Starts counts how often it was started.
	Starts int `json:"starts"`
	// Last says how it ended last or why it could not start.
	Last  string    `json:"last,omitempty"`
	Since time.Time `json:"since"`
}

// States of a service.
const (
	StateWaiting = "waiting"
	StateRunning = "running"
	StateReady   = "ready"
	StateStopped = "stopped"
	StateFailed  = "failed"
)

const servicesFile = insideDir + "/services.json"

func stoppedFile(service string) string { return insideDir + "/stopped." + service }

// supervisor runs services. Its methods are for one goroutine per service.
type supervisor struct {
	cfg      initConfig
	log      *logrus.Logger
	children *children
	services []*service

	mu     sync.Mutex
	status map[string]*ServiceStatus
	change chan struct{} // closed and replaced at every change of anything
}

func newSupervisor(cfg initConfig, log *logrus.Logger, c *children) *supervisor {
	return &supervisor{cfg: cfg, log: log, children: c, status: map[string]*ServiceStatus{}, change: make(chan struct{})}
}

// changed is closed at the next change.
func (s *supervisor) changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.change
}

func (s *supervisor) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.change)
	s.change = make(chan struct{})
}

// set records a service's state, for us and in services.json.
func (s *supervisor) set(name string, f func(*ServiceStatus)) {
	s.mu.Lock()
	st := s.status[name]
	before := st.State
	f(st)
	if st.State != before {
		st.Since = time.Now()
	}
	var all []ServiceStatus
	for _, svc := range s.services {
		all = append(all, *s.status[svc.name])
	}
	if err := writeJSON(servicesFile, all); err != nil {
		s.log.Error(err)
	}
	s.mu.Unlock()
	s.wake()
}

func (s *supervisor) state(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status[name].State
}

// run keeps all services running until ctx ends and then stops them, the last
// one first.
func (s *supervisor) run(ctx context.Context) {
	for _, svc := range s.services {
		s.status[svc.name] = &ServiceStatus{Name: svc.name, State: StateWaiting, Since: time.Now()}
	}
	watching, endWatch := context.WithCancel(context.WithoutCancel(ctx))
	var watchers sync.WaitGroup
	watchers.Go(func() { s.watchMarkers(watching) })
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notifySocket, Net: "unixgram"})
	if err != nil {
		s.log.Errorf("notification socket: %v", err)
	} else {
		watchers.Go(func() { s.receiveReady(watching, conn) })
	}
	type running struct {
		cancel context.CancelFunc
		done   chan struct{}
	}
	var all []running
	for _, svc := range s.services {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := running{cancel, make(chan struct{})}
		all = append(all, r)
		go func() {
			defer close(r.done)
			s.keep(own, svc)
		}()
	}
	<-ctx.Done()
	for i := len(all) - 1; i >= 0; i-- {
		all[i].cancel()
		<-all[i].done
	}
	endWatch()
	watchers.Wait()
}

// keep runs one service again and again until ctx ends.
func (s *supervisor) keep(ctx context.Context, svc *service) {
	for _, need := range svc.needs {
		if s.await(ctx, func() bool { return s.state(need) == StateReady }) != nil {
			return
		}
	}
	backoff := restartFirst
	for ctx.Err() == nil {
		if err := s.awaitWanted(ctx, svc.name); err != nil {
			return
		}
		start := time.Now()
		err := s.once(ctx, svc)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue // stopped on request
		}
		if time.Since(start) > restartCalm {
			backoff = restartFirst
		}
		s.log.Warnf("%s: %v; next start in %v", svc.name, err, backoff)
		s.set(svc.name, func(st *ServiceStatus) { st.State, st.PID, st.Last = StateFailed, 0, err.Error() })
		if pause(ctx, backoff) != nil {
			return
		}
		backoff = min(2*backoff, restartMost)
	}
}

// awaitWanted waits while a service is not to run.
func (s *supervisor) awaitWanted(ctx context.Context, name string) error {
	if s.wanted(name) {
		return nil
	}
	s.set(name, func(st *ServiceStatus) { st.State, st.PID = StateStopped, 0 })
	return s.await(ctx, func() bool { return s.wanted(name) })
}

func (s *supervisor) wanted(name string) bool {
	_, err := os.Lstat(stoppedFile(name))
	return errors.Is(err, fs.ErrNotExist)
}

// await waits for a condition that changes with the supervisor's own state or
// with a marker file.
func (s *supervisor) await(ctx context.Context, cond func() bool) error {
	t := time.NewTicker(stoppedPoll)
	defer t.Stop()
	for {
		changed := s.changed()
		if cond() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-t.C:
		}
	}
}

// once runs a service from its start to its end. The error says how it ended;
// it is nil where it was stopped on request.
func (s *supervisor) once(ctx context.Context, svc *service) error {
	if svc.prepare != nil {
		limited, cancel := context.WithTimeout(ctx, readyTimeout)
		err := svc.prepare(limited)
		cancel()
		if err != nil {
			return fmt.Errorf("before its start: %w", err)
		}
	}
	out, err := os.OpenFile(s.cfg.log(svc.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	// Before the start: it may say that it is ready at once.
	s.set(svc.name, func(st *ServiceStatus) { st.State, st.Starts = StateRunning, st.Starts+1 })
	pid, done, err := s.children.start(svc.argv, svc.env, out)
	_ = out.Close()
	if err != nil {
		return err
	}
	s.log.Infof("%s: started, process %d", svc.name, pid)
	s.set(svc.name, func(st *ServiceStatus) { st.PID = pid })

	readying, cancel := context.WithTimeout(ctx, cmp.Or(svc.patience, readyTimeout))
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		s.becomeReady(readying, svc, pid)
	}()
	defer func() {
		cancel()
		<-settled
	}()
	var status unix.WaitStatus
	for {
		changed := s.changed()
		if ctx.Err() != nil || !s.wanted(svc.name) {
			status = stop(pid, done, cmp.Or(svc.grace, stopGrace))
			s.log.Infof("%s: stopped, %s", svc.name, describe(status))
			return nil
		}
		select {
		case status = <-done:
			if !s.wanted(svc.name) {
				return nil
			}
			return errors.New(describe(status))
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// becomeReady marks the service ready when it is.
func (s *supervisor) becomeReady(ctx context.Context, svc *service, pid int) {
	if svc.notifies {
		return // receiveReady does
	}
	if svc.ready != nil {
		if err := svc.ready(ctx); err != nil {
			if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
				s.log.Errorf("%s: not ready: %v", svc.name, err)
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			return
		}
	}
	if ctx.Err() == nil {
		s.markReady(svc.name)
	}
}

func (s *supervisor) markReady(name string) {
	s.log.Infof("%s: ready", name)
	s.set(name, func(st *ServiceStatus) {
		if st.State == StateRunning {
			st.State = StateReady
		}
	})
}

// watchMarkers wakes everybody when a file in insideDir comes or goes.
func (s *supervisor) watchMarkers(ctx context.Context) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		s.log.Warnf("inotify: %v", err)
		return
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.Close() })()
	if _, err := unix.InotifyAddWatch(fd, insideDir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM); err != nil {
		s.log.Warnf("inotify: %v", err)
		return
	}
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		// services.json is written at every change: those wake already.
		if strings.Contains(string(buf[:n]), filepath.Base(stoppedFile(""))) {
			s.wake()
		}
	}
}

const notifySocket = insideDir + "/notify.sock"

// receiveReady takes what services say by sd_notify(3).
func (s *supervisor) receiveReady(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) != "READY=1" {
				continue
			}
			// A member has one service that notifies.
			for _, svc := range s.services {
				if svc.notifies {
					s.markReady(svc.name)
				}
			}
		}
	}
}

// readServices reads what a supervisor wrote.
func readServices(file string) ([]ServiceStatus, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []ServiceStatus
	err = json.Unmarshal(b, &all)
	return all, err
}
