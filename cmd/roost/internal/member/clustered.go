package member

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"

	"github.com/roost-server/roost/cluster"
	"github.com/roost-server/roost/cluster/certs"
	"github.com/roost-server/roost/cluster/discovery"
	"github.com/roost-server/roost/cluster/remote"
	"github.com/roost-server/roost/transport/kafka"
)

// ClusterConfig says how a member finds the others and is found. The zero value is a member
// without others.
type ClusterConfig struct {
	Name      string // of the cluster; those of another are refused
	Listen    string // HOST:PORT for other members; empty: no cluster
	Advertise string // HOST:PORT that others dial; empty: what Listen became
	Seeds     []string
	DNS       string // HOST:PORT or _service._proto.name
	Board     bool   // members find each other through a topic of Kafka
	// CA, Cert and Key are PEM files; none: plaintext.
	CA, Cert, Key string
	Insecure      bool          // plaintext beyond loopback
	MaxSkew       time.Duration // between the clocks of members
	// NodesAdvertise and APIAdvertise are where nodes and other members' users reach this
	// one; empty: where it listens.
	NodesAdvertise, APIAdvertise string
	// DrainRate is how many nodes a second are sent away at most, unless a drain says otherwise.
	DrainRate int
	// DrainTimeout is how long SIGTERM waits for them.
	DrainTimeout time.Duration
	// RebalanceThreshold is by how many percent a member has to be above the average for it
	// to send nodes to others by itself; 0: never.
	RebalanceThreshold int
}

// validate refuses what cannot work.
func (c *ClusterConfig) validate() error {
	if c.Listen == "" {
		return nil
	}
	set := 0
	for _, f := range []string{c.CA, c.Cert, c.Key} {
		if f != "" {
			set++
		}
	}
	switch {
	case set != 0 && set != 3:
		return errors.New("cluster-tls-ca, cluster-tls-cert, cluster-tls-key: all three are expected, or none; \"roost certs\" makes them")
	case c.MaxSkew < 10*time.Millisecond || c.MaxSkew > time.Minute:
		return fmt.Errorf("cluster-clock-skew: %v; allowed are 10ms to 1m", c.MaxSkew)
	case c.DrainRate < 1 || c.DrainRate > 1_000_000:
		return fmt.Errorf("drain-rate: %d; allowed are 1 to 1000000 nodes a second", c.DrainRate)
	case c.RebalanceThreshold < 0 || c.RebalanceThreshold > 1000:
		return fmt.Errorf("rebalance-threshold: %d; allowed are 0 (off) to 1000 percent", c.RebalanceThreshold)
	case c.DrainTimeout < 0 || c.DrainTimeout > 24*time.Hour:
		return fmt.Errorf("drain-timeout: %v; allowed are 0s to 24h", c.DrainTimeout)
	}
	for key, address := range map[string]string{"cluster-listen": c.Listen, "cluster-advertise": c.Advertise,
		"nodes-advertise": c.NodesAdvertise, "api-advertise": c.APIAdvertise} {
		if address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("%s: %q; HOST:PORT is expected, such as 10.0.0.1:7946", key, address)
		}
	}
	return nil
}

// clustered is this member's part in the cluster, beside the routing.
type clustered struct {
	cluster *cluster.Cluster
	board   *kafka.Board
	certs   *certs.Store
}

// joinCluster starts talking to others. The nodes' port and the API are up; the shards come
// later.
func (m *Member) joinCluster(ctx context.Context) error {
	cfg := &m.cfg.Cluster
	if cfg.Listen == "" {
		return nil
	}
	m.cluster = &clustered{}
	log := m.log.Named("cluster")
	rc := remote.Config{Listen: cfg.Listen, Advertise: cfg.Advertise, Insecure: cfg.Insecure, Log: log}
	if cfg.CA != "" {
		store, err := certs.Load(cfg.CA, cfg.Cert, cfg.Key)
		if err != nil {
			return err
		}
		store.Watch(certs.DefaultReload, log)
		m.cluster.certs, rc.TLS = store, store
	}
	sources, board, err := m.sources(log)
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Config{
		Name: m.cfg.Name, Cluster: cfg.Name, Version: m.cfg.Version, Partitions: uint32(m.info.Partitions),
		NodesAddr: advertised(cfg.NodesAdvertise, m.server.Addr()), APIAddr: advertised(cfg.APIAdvertise, m.api.Addr()),
		Remote: rc, Sources: sources, MaxSkew: cfg.MaxSkew, Log: log,
		Handler: &handler{routing: m.routing, conflict: m.fail},
	})
	if err != nil {
		return err
	}
	m.cluster.cluster = c
	m.routing.join(c)
	if board != nil {
		board.Announce(m.cfg.Name, c.Advertised())
	}
	m.mover = &mover{m: m}
	c.SetState(cluster.Serving)
	return nil
}

// sources returns the ways to find other members.
func (m *Member) sources(log *zap.Logger) (all []discovery.Source, board discovery.Announcer, err error) {
	cfg, o := &m.cfg.Cluster, discovery.Options{Log: log}
	if len(cfg.Seeds) > 0 {
		s, err := discovery.Static(cfg.Seeds, o)
		if err != nil {
			return nil, nil, fmt.Errorf("cluster-seeds: %w", err)
		}
		all = append(all, s)
	}
	if cfg.DNS != "" {
		s, err := discovery.DNS(cfg.DNS, o)
		if err != nil {
			return nil, nil, fmt.Errorf("cluster-dns: %w", err)
		}
		all = append(all, s)
	}
	if cfg.Board {
		if m.cluster.board, err = kafka.NewBoard(m.cfg.Kafka, m.cfg.Topics.Members, log); err != nil {
			return nil, nil, err
		}
		if board, err = discovery.Kafka(m.cluster.board, o); err != nil {
			return nil, nil, err
		}
		all = append(all, board)
	}
	return all, board, nil
}

// advertised is the address that others are told.
func advertised(configured string, listens net.Addr) string {
	if configured != "" {
		return configured
	}
	return listens.String()
}

// leaveCluster says goodbye and frees what the cluster had.
func (m *Member) leaveCluster(ctx context.Context) error {
	m.routing.rpc.Close()
	if m.cluster == nil {
		return nil
	}
	var errs []error
	if m.cluster.cluster != nil {
		errs = append(errs, m.cluster.cluster.Close(ctx))
	}
	if m.cluster.board != nil {
		errs = append(errs, m.cluster.board.Close())
	}
	if m.cluster.certs != nil {
		m.cluster.certs.Close()
	}
	return errors.Join(errs...)
}
