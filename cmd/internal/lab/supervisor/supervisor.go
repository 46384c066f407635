package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/cmd/internal/lab/wait"
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

// Supervisor runs services. Its methods are for one goroutine per service.
type Supervisor struct {
	logFile  func(service string) string
	log      *logrus.Logger
	children *Children
	services []*Service

	mu     sync.Mutex
	status map[string]*Status
	change chan struct{} // closed and replaced at every change of anything
}

// New returns one for services in the order of their start. What a service
// prints goes to logFile's file, what becomes of it to log.
func New(logFile func(service string) string, log *logrus.Logger, c *Children, services []*Service) *Supervisor {
	return &Supervisor{
		logFile: logFile, log: log, children: c, services: services, status: map[string]*Status{},
		change: make(chan struct{}),
	}
}

// changed is closed at the next change.
func (s *Supervisor) changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.change
}

func (s *Supervisor) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.change)
	s.change = make(chan struct{})
}

// set records a service's state, for us and in services.json.
func (s *Supervisor) set(name string, f func(*Status)) {
	s.mu.Lock()
	st := s.status[name]
	before := st.State
	f(st)
	if st.State != before {
		st.Since = time.Now()
	}
	var all []Status
	for _, svc := range s.services {
		all = append(all, *s.status[svc.Name])
	}
	if err := atomicfile.WriteJSON(StatusFile, all, 0o600); err != nil {
		s.log.Error(err)
	}
	s.mu.Unlock()
	s.wake()
}

func (s *Supervisor) state(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status[name].State
}

// Run keeps all services running until ctx ends and then stops them, the last
// one first.
func (s *Supervisor) Run(ctx context.Context) {
	for _, svc := range s.services {
		s.status[svc.Name] = &Status{Name: svc.Name, State: StateWaiting, Since: time.Now()}
	}
	watching, endWatch := context.WithCancel(context.WithoutCancel(ctx))
	var watchers sync.WaitGroup
	watchers.Go(func() { s.watchMarkers(watching) })
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: NotifySocket, Net: "unixgram"})
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
func (s *Supervisor) keep(ctx context.Context, svc *Service) {
	for _, need := range svc.Needs {
		if s.await(ctx, func() bool { return s.state(need) == StateReady }) != nil {
			return
		}
	}
	backoff := restartFirst
	for ctx.Err() == nil {
		if err := s.awaitWanted(ctx, svc.Name); err != nil {
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
		s.log.Warnf("%s: %v; next start in %v", svc.Name, err, backoff)
		s.set(svc.Name, func(st *Status) { st.State, st.PID, st.Last = StateFailed, 0, err.Error() })
		if wait.Pause(ctx, backoff) != nil {
			return
		}
		backoff = min(2*backoff, restartMost)
	}
}

// awaitWanted waits while a service is not to run.
func (s *Supervisor) awaitWanted(ctx context.Context, name string) error {
	if s.wanted(name) {
		return nil
	}
	s.set(name, func(st *Status) { st.State, st.PID = StateStopped, 0 })
	return s.await(ctx, func() bool { return s.wanted(name) })
}

func (s *Supervisor) wanted(name string) bool {
	_, err := os.Lstat(StoppedFile(name))
	return errors.Is(err, fs.ErrNotExist)
}

// await waits for a condition that changes with the supervisor's own state or
// with a marker file.
func (s *Supervisor) await(ctx context.Context, cond func() bool) error {
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
func (s *Supervisor) once(ctx context.Context, svc *Service) error {
	if svc.Prepare != nil {
		limited, cancel := context.WithTimeout(ctx, readyTimeout)
		err := svc.Prepare(limited)
		cancel()
		if err != nil {
			return fmt.Errorf("before its start: %w", err)
		}
	}
	out, err := os.OpenFile(s.logFile(svc.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	// Before the start: it may say that it is ready at once.
	s.set(svc.Name, func(st *Status) { st.State, st.Starts = StateRunning, st.Starts+1 })
	pid, done, err := s.children.start(svc.Argv, svc.Env, out)
	_ = out.Close()
	if err != nil {
		return err
	}
	s.log.Infof("%s: started, process %d", svc.Name, pid)
	s.set(svc.Name, func(st *Status) { st.PID = pid })

	readying, cancel := context.WithTimeout(ctx, cmp.Or(svc.Patience, readyTimeout))
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
		if ctx.Err() != nil || !s.wanted(svc.Name) {
			status = stop(pid, done, cmp.Or(svc.Grace, stopGrace))
			s.log.Infof("%s: stopped, %s", svc.Name, describe(status))
			return nil
		}
		select {
		case status = <-done:
			if !s.wanted(svc.Name) {
				return nil
			}
			return errors.New(describe(status))
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// becomeReady marks the service ready when it is.
func (s *Supervisor) becomeReady(ctx context.Context, svc *Service, pid int) {
	if svc.Notifies {
		return // receiveReady does
	}
	if svc.Ready != nil {
		if err := svc.Ready(ctx); err != nil {
			if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
				s.log.Errorf("%s: not ready: %v", svc.Name, err)
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			return
		}
	}
	if ctx.Err() == nil {
		s.markReady(svc.Name)
	}
}

func (s *Supervisor) markReady(name string) {
	s.log.Infof("%s: ready", name)
	s.set(name, func(st *Status) {
		if st.State == StateRunning {
			st.State = StateReady
		}
	})
}
