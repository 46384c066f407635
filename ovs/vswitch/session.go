package vswitch

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/ovn-org/libovsdb/cache"
	"github.com/ovn-org/libovsdb/client"
	"github.com/ovn-org/libovsdb/model"
	"github.com/ovn-org/libovsdb/ovsdb"

	"github.com/baize-net/baize/ovs/vswitch/internal/vswitchd"
)

// session is one connection to the server.
type session struct {
	cl      client.Client
	timeout time.Duration
	// alive ends when close is called: it frees the calls in flight, whose
	// read locks libovsdb's Close would wait for.
	alive   context.Context
	endLife context.CancelFunc
	gone    chan struct{} // closed when the connection is lost
	changed chan struct{} // one element: something changed
	once    sync.Once

	monitorLock sync.Mutex
	monitored   bool
}

func dial(ctx context.Context, cfg Config) (*session, error) {
	m, err := vswitchd.FullDatabaseModel()
	if err != nil {
		return nil, err
	}
	quiet := logr.Discard()
	cl, err := client.NewOVSDBClient(m, client.WithEndpoint(cfg.Endpoint), client.WithLogger(&quiet))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	if err := cl.Connect(ctx); err != nil {
		// libovsdb does not wrap the end of its context.
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	s := &session{cl: cl, timeout: cfg.Timeout, gone: make(chan struct{}), changed: make(chan struct{}, 1)}
	s.alive, s.endLife = context.WithCancel(context.Background())
	go s.awaitDisconnect()
	return s, nil
}

// awaitDisconnect closes gone. libovsdb does not wait for a listener when it
// announces the end of a connection, so its state is asked for as well.
func (s *session) awaitDisconnect() {
	defer close(s.gone)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-s.cl.DisconnectNotify():
			return
		case <-tick.C:
			if s.cl.CurrentEndpoint() == "" {
				return
			}
		}
	}
}

// close ends the connection and waits for its goroutines.
func (s *session) close() {
	s.once.Do(func() {
		s.endLife()
		s.cl.Close()
	})
	<-s.gone
}

// call gives an exchange its deadline and ends it with the session.
func (s *session) call(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	stop := context.AfterFunc(s.alive, cancel)
	return ctx, func() { stop(); cancel() }
}

var errLost = errors.New("connection to the Open vSwitch database lost")

// transact runs one transaction. An error in any of its operations is an error.
func (s *session) transact(ctx context.Context, ops ...ovsdb.Operation) ([]ovsdb.OperationResult, error) {
	ctx, cancel := s.call(ctx)
	defer cancel()
	res, err := s.cl.Transact(ctx, ops...)
	if err != nil {
		if s.alive.Err() != nil || errors.Is(err, client.ErrNotConnected) {
			return nil, errLost
		}
		return nil, err
	}
	if opErrs, err := ovsdb.CheckOperationResults(res, ops); err != nil {
		if len(opErrs) > 0 {
			return nil, opErrs[0]
		}
		return nil, err
	}
	return res, nil
}

// monitorPatience is how many times as long as for another exchange is waited for
// the first answer of a monitor.
const monitorPatience = 12

// monitor makes libovsdb keep a copy of the columns that matter, and report
// changes. It does so once per connection. The columns are named one by one:
// with all of them, statistics would wake us every five seconds for ever, and a
// column unknown to the model would swallow the rest of its update.
func (s *session) monitor(ctx context.Context) error {
	s.monitorLock.Lock()
	defer s.monitorLock.Unlock()
	if s.monitored {
		return nil
	}
	rows := s.cl.Cache()
	if rows == nil {
		return errLost
	}
	rows.AddEventHandler(&cache.EventHandlerFuncs{
		AddFunc:    func(string, model.Model) { s.signal() },
		UpdateFunc: func(string, model.Model, model.Model) { s.signal() },
		DeleteFunc: func(string, model.Model) { s.signal() },
	})
	var (
		root vswitchd.OpenvSwitch
		br   vswitchd.Bridge
		port vswitchd.Port
		ifc  vswitchd.Interface
		set  vswitchd.FlowSampleCollectorSet
		ipf  vswitchd.IPFIX
		sf   vswitchd.SFlow
	)
	m := s.cl.NewMonitor(
		client.WithTable(&root, &root.Bridges, &root.OVSVersion, &root.DatapathTypes, &root.IfaceTypes,
			&root.OtherConfig, &root.ExternalIDs),
		client.WithTable(&br, &br.Name, &br.DatapathType, &br.DatapathID, &br.FailMode, &br.Protocols,
			&br.OtherConfig, &br.ExternalIDs, &br.Ports, &br.Sflow),
		client.WithTable(&port, &port.Name, &port.Interfaces, &port.ExternalIDs),
		client.WithTable(&ifc, &ifc.Name, &ifc.Type, &ifc.Options, &ifc.Ofport, &ifc.Error, &ifc.LinkState, &ifc.Status),
		client.WithTable(&set, &set.ID, &set.Bridge, &set.IPFIX, &set.ExternalIDs),
		client.WithTable(&ipf, &ipf.Targets, &ipf.CacheActiveTimeout, &ipf.CacheMaxFlows, &ipf.OtherConfig),
		client.WithTable(&sf, &sf.Targets, &sf.Sampling, &sf.Header, &sf.Polling, &sf.ExternalIDs),
	)
	// With monitor_cond_since, libovsdb forgets an update it cannot apply; with
	// monitor_cond it drops the connection, and we start anew.
	m.Method = ovsdb.ConditionalMonitorRPC
	// The answer is the whole database. Where the library stops waiting for it, it
	// reads what its receiver may still be writing: it is given the time, whatever
	// time the caller has.
	patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), monitorPatience*s.timeout)
	defer cancel()
	defer context.AfterFunc(s.alive, cancel)()
	defer context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			cancel()
		}
	})()
	_, err := s.cl.Monitor(patient, m)
	s.monitored = err == nil
	return err
}

// signal never blocks: it is called from libovsdb's event loop.
func (s *session) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// watch passes changes on until the connection is lost or ctx ends.
func (s *session) watch(ctx context.Context, changed func()) {
	probe := time.NewTicker(probeInterval)
	defer probe.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.gone:
			return
		case <-s.changed:
			changed()
		case <-probe.C:
			if _, err := s.transact(ctx, selectOp(vswitchd.OpenvSwitchTable, "cur_cfg")); err != nil {
				return
			}
		}
	}
}

func selectOp(table string, columns ...string) ovsdb.Operation {
	return ovsdb.Operation{Op: ovsdb.OperationSelect, Table: table, Columns: columns}
}
